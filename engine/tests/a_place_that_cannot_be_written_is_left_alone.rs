//! The medium refuses some blocks for good: what was meant for them goes elsewhere when writes are brought back, nobody
//! is given them again while the store is open, health says how many they are, and promises are kept all
//! the same when the volume is full.

#![allow(clippy::unwrap_used)] // In helpers of tests as in tests: a failed unwrap is the failed test.

mod support;

use std::ops::Range;

use foliant::Engine;
use foliant::ErrorKind;
use foliant::Object;
use foliant_device::DeviceErrorKind;
use foliant_device::error::Operation;
use foliant_device::sim::FaultRule;
use foliant_device::sim::SimDisk;
use foliant_device::sim::SimOptions;
use support::BLOCK;
use support::DEVICE_BLOCKS_TIGHT;
use support::format;
use support::is_sound;
use support::open;
use support::read_all;
use support::simulate;

/// Where data lies: behind the journal and the head of the one group.
const HOME: Range<u64> = 32 + 1024 + 33..DEVICE_BLOCKS_TIGHT;
const BYTES: usize = 6 * BLOCK;

async fn fresh() -> (SimDisk, Engine) {
    let disk = SimDisk::new(DEVICE_BLOCKS_TIGHT, SimOptions::default());
    format(&disk).await;
    let engine = open(&disk).await.unwrap();
    (disk, engine)
}

/// Writes until there is no room; how many blocks.
async fn fill(object: &Object) -> u64 {
    for at in 0.. {
        if let Err(cause) = object.write_at(at * BLOCK as u64, &[5; BLOCK]).await {
            assert!(cause.is_no_space(), "{cause}");
            object.sync().await.unwrap();
            return at;
        }
    }
    unreachable!("a volume without an end")
}

/// Writes an object where the medium refuses all of it, and goes on; the places.
async fn refused(disk: &SimDisk, engine: &Engine) -> Range<u64> {
    let object = engine.create("object").await.unwrap();
    object.write_at(0, &[1; BYTES]).await.unwrap();
    let rule = FaultRule::fail(DeviceErrorKind::Io).on(Operation::Write).blocks(HOME).always();
    let rule = disk.inject(rule);
    disk.clear_trace();
    let told = object.sync().await.unwrap_err();
    assert_eq!(told.kind(), ErrorKind::Device, "{told}");
    let trace = disk.trace();
    let write = trace.iter().find(|record| HOME.contains(&record.block)).unwrap();
    let places = write.block..write.block + write.count;
    disk.withdraw(rule);
    disk.inject(
        FaultRule::fail(DeviceErrorKind::Io).on(Operation::Write).blocks(places.clone()).always(),
    );
    engine.recover().await.unwrap();
    object.sync().await.unwrap();
    places
}

#[test]
fn what_was_meant_for_it_goes_elsewhere_and_so_does_everything_else() {
    simulate(async {
        let (disk, engine) = fresh().await;
        let free = engine.stats().free_bytes;
        let places = refused(&disk, &engine).await;
        let health = engine.health();
        assert_eq!(health.quarantined_bytes, BYTES as u64, "{health}");
        assert!(health.is_well() && health.to_string().contains("cannot write"), "{health}");
        // To the last block, and over all of it again: nothing meets the bad places.
        let filler = engine.create("filler").await.unwrap();
        let blocks = fill(&filler).await;
        filler.truncate((blocks - 40) * BLOCK as u64).await.unwrap();
        for at in 0..blocks - 40 {
            filler.write_at(at * BLOCK as u64, &[3; BLOCK]).await.unwrap();
            if at % 10 == 9 {
                filler.sync().await.unwrap();
                // What was freed can be had again when the log has let go of it.
                engine.sync().await.unwrap();
            }
        }
        filler.sync().await.unwrap();
        assert!(blocks > 100, "{blocks}");
        assert!(places.clone().all(|at| disk.peek_cached(at).iter().all(|&byte| byte == 0)));
        engine.remove("filler").await.unwrap();
        engine.remove("object").await.unwrap();
        engine.close().await.unwrap();
        disk.withdraw_all();
        is_sound(&disk, true).await;
        let engine = open(&disk).await.unwrap();
        assert_eq!(engine.health().quarantined_bytes, 0);
        assert!(engine.stats().free_bytes + 2 * BLOCK as u64 >= free);
    });
}

#[test]
fn a_full_volume_keeps_its_promises_before_it_spares_bad_places() {
    simulate(async {
        let (disk, engine) = fresh().await;
        let object = engine.create("object").await.unwrap();
        let mut blocks = fill(&object).await - 20;
        object.truncate(blocks * BLOCK as u64).await.unwrap();
        engine.close().await.unwrap();
        // Opened anew, the count of what is free is exact: a write that is refused would write back the others.
        let engine = open(&disk).await.unwrap();
        let object = engine.object("object").await.unwrap();
        let room = engine.stats().free_bytes / BLOCK as u64;
        assert!((5..30).contains(&room), "{room}");
        for _ in 0..room {
            object.write_at(blocks * BLOCK as u64, &[5; BLOCK]).await.unwrap();
            blocks += 1;
        }
        // What is dirty now has no room to spare: its places fail, and must be given back.
        let rule = FaultRule::fail(DeviceErrorKind::Io).on(Operation::Write).blocks(HOME).times(1);
        disk.inject(rule);
        object.sync().await.unwrap_err();
        let spared = engine.health().quarantined_bytes / BLOCK as u64;
        assert!(spared < room, "{spared} of {room} blocks are spared, and {room} were promised");
        disk.withdraw_all();
        engine.recover().await.unwrap();
        object.sync().await.unwrap();
        let bytes = read_all(&object).await;
        assert!(bytes.len() as u64 == blocks * BLOCK as u64 && bytes.iter().all(|&b| b == 5));
        engine.close().await.unwrap();
        is_sound(&disk, true).await;
    });
}
