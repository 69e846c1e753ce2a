//! A change that fails halfway, and a journal header that cannot be read: neither may take away what
//! was accepted or acknowledged before.
//!
//! The object has more extents than one metadata block describes, and the volume is opened freshly, so
//! that changing its mapping must read from the device, and that read fails once.

#![allow(clippy::unwrap_used)] // In helpers of tests as in tests: a failed unwrap is the failed test.

mod support;

use foliant::Engine;
use foliant::ErrorKind;
use foliant::Object;
use foliant_device::error::DeviceErrorKind;
use foliant_device::error::Operation;
use foliant_device::sim::FaultRule;
use foliant_device::sim::SimDisk;
use foliant_device::sim::SimOptions;
use support::BLOCK;
use support::DEVICE_BLOCKS;

const EXTENTS: usize = 600;
const HEADERS: [u64; 2] = [8, 9];

async fn read_all(object: &Object) -> Vec<u8> {
    let mut bytes = vec![0; object.size() as usize];
    let read = object.read_at(0, &mut bytes).await.unwrap();
    assert_eq!(read, bytes.len());
    bytes
}

fn disk(seed: u64) -> SimDisk {
    SimDisk::new(DEVICE_BLOCKS, SimOptions { seed, ..SimOptions::default() })
}

/// Every second block stored, and the volume opened freshly.
async fn scattered(disk: &SimDisk) -> (Engine, Object) {
    support::format(disk).await;
    let engine = support::open(disk).await.unwrap();
    let object = engine.create("object").await.unwrap();
    for n in 0..EXTENTS {
        object.write_at((n * 2 * BLOCK) as u64, &[1; BLOCK]).await.unwrap();
        if n % 100 == 99 {
            object.sync().await.unwrap();
        }
    }
    drop(object);
    engine.close().await.unwrap();
    let engine = support::open(disk).await.unwrap();
    let object = engine.object("object").await.unwrap();
    (engine, object)
}

fn fail_one_read(disk: &SimDisk) {
    disk.inject(FaultRule::fail(DeviceErrorKind::Io).on(Operation::Read));
}

/// A sync that succeeds covers what readers saw.
async fn sync_covers_what_is_seen(disk: SimDisk, engine: Engine, object: Object) {
    disk.withdraw_all();
    let seen = read_all(&object).await;
    let synced = object.sync().await;
    drop(object);
    let closed = engine.close().await;
    let engine = support::open(&disk).await.unwrap();
    let found = read_all(&engine.object("object").await.unwrap()).await;
    if synced.is_ok() && closed.is_ok() {
        assert_eq!(found.len(), seen.len(), "the size after a sync that succeeded");
        assert!(found == seen, "content after a sync that succeeded");
    }
}

#[test]
fn a_punch_that_fails_leaves_each_block_old_or_zero() {
    support::simulate(async {
        let disk = disk(1);
        let (engine, object) = scattered(&disk).await;
        object.write_at(0, &[2; BLOCK]).await.unwrap();
        fail_one_read(&disk);
        let outcome = object.punch(0..(2 * EXTENTS * BLOCK) as u64).await;
        assert_eq!(outcome.unwrap_err().kind(), ErrorKind::Device);
        let mut first = [9; BLOCK];
        object.read_at(0, &mut first).await.unwrap();
        let newest = first == [2; BLOCK] || first == [0; BLOCK];
        assert!(newest, "an accepted write is gone: the block holds {} again", first[0]);
        sync_covers_what_is_seen(disk, engine, object).await;
    });
}

#[test]
fn a_truncate_that_fails_is_not_half_done_after_the_next_sync() {
    support::simulate(async {
        let disk = disk(2);
        let (engine, object) = scattered(&disk).await;
        fail_one_read(&disk);
        let outcome = object.truncate(5 * BLOCK as u64).await;
        assert_eq!(outcome.unwrap_err().kind(), ErrorKind::Device);
        sync_covers_what_is_seen(disk, engine, object).await;
    });
}

/// Acknowledged commits, a power cut, and then `break_header` before the volume is opened: it is
/// refused, or everything is there; and everything is there once the fault is gone.
async fn broken_header(seed: u64, lives: u64, break_header: impl Fn(&SimDisk)) {
    let disk = disk(seed);
    support::format(&disk).await;
    for life in 0..lives {
        let engine = support::open(&disk).await.unwrap();
        for n in 0..3 {
            engine.create(format!("{life}-{n}")).await.unwrap();
        }
        drop(engine);
        disk.power_cut();
    }
    break_header(&disk);
    if let Ok(engine) = support::open(&disk).await {
        let names = engine.list("", 1_000).await.unwrap().len() as u64;
        assert_eq!(names, lives * 3, "acknowledged names after an opening that succeeded");
        engine.close().await.unwrap();
    }
    disk.withdraw_all();
    let engine = support::open(&disk).await.unwrap();
    let names = engine.list("", 1_000).await.unwrap().len() as u64;
    assert_eq!(names, lives * 3, "acknowledged names after the fault");
    engine.close().await.unwrap();
}

#[test]
fn a_journal_header_that_cannot_be_read_once_loses_no_commit() {
    let mut failed = Vec::new();
    for header in HEADERS {
        for lives in 1..5 {
            let run = || {
                support::simulate(broken_header(lives, lives, |disk| {
                    let rule = FaultRule::fail(DeviceErrorKind::Io).on(Operation::Read);
                    disk.inject(rule.blocks(header..header + 1));
                }));
            };
            if std::panic::catch_unwind(run).is_err() {
                failed.push((header, lives));
            }
        }
    }
    assert!(failed.is_empty(), "(header, lives): {failed:?}");
}

/// A damaged header at rest: whatever the opening says, it must not say that nothing was ever stored.
#[test]
fn a_journal_header_that_rots_loses_no_commit_silently() {
    for header in HEADERS {
        for lives in 1..5 {
            support::simulate(async {
                let disk = disk(lives);
                support::format(&disk).await;
                for life in 0..lives {
                    let engine = support::open(&disk).await.unwrap();
                    engine.create(format!("{life}")).await.unwrap();
                    drop(engine);
                    disk.power_cut();
                }
                disk.flip(header, 100, 3);
                disk.flip(header, 20, 3);
                let Ok(engine) = support::open(&disk).await else { return };
                let names = engine.list("", 1_000).await.unwrap().len() as u64;
                assert_eq!(names, lives, "header {header} after {lives} lives");
            });
        }
    }
}

#[test]
fn a_device_that_cannot_be_read_is_not_called_damaged() {
    for blocks in [[0, 16], HEADERS] {
        support::simulate(async {
            let disk = disk(1);
            support::format(&disk).await;
            for block in blocks {
                let rule = FaultRule::fail(DeviceErrorKind::Io).on(Operation::Read);
                disk.inject(rule.blocks(block..block + 1).always());
            }
            let cause = support::open(&disk).await.unwrap_err();
            assert_eq!(cause.kind(), ErrorKind::Device, "{cause}");
        });
    }
}
