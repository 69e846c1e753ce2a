//! Objects of at most 448 bytes need no block: what that saves, and that they stay whole while they
//! grow and shrink across the limit, over power cuts, on a full volume, and where the format has none.

#![allow(clippy::unwrap_used)] // In helpers of tests as in tests: a failed unwrap is the failed test.

mod support;

use foliant::Engine;
use foliant::ExtentState;
use foliant::Object;
use foliant::testing;
use foliant_device::Device;
use foliant_device::sim::Rng;
use foliant_device::sim::SimDisk;
use foliant_device::sim::SimOptions;
use foliant_device::wrap::count::CountDevice;
use support::BLOCK;

const LIMIT: usize = 448;

async fn new_disk(blocks: u64, seed: u64, inline: bool) -> SimDisk {
    let disk = SimDisk::new(blocks, SimOptions { seed, ..SimOptions::default() });
    support::format(&disk).await;
    if !inline {
        for at in testing::superblocks() {
            let mut image = disk.peek(at);
            testing::make_superblock_older(&mut image);
            disk.poke(at, &image);
        }
    }
    disk
}

async fn volume(seed: u64) -> (SimDisk, Engine) {
    let disk = new_disk(support::DEVICE_BLOCKS, seed, true).await;
    let engine = support::open(&disk).await.unwrap();
    (disk, engine)
}

async fn reopen(disk: &SimDisk, engine: Engine) -> Engine {
    engine.close().await.unwrap();
    support::open(disk).await.unwrap()
}

async fn read_all(object: &Object) -> Vec<u8> {
    let mut bytes = vec![0; object.size() as usize];
    let read = object.read_at(0, &mut bytes).await.unwrap();
    assert_eq!(read, bytes.len());
    bytes
}

async fn states(object: &Object) -> Vec<ExtentState> {
    object.extents(0..1 << 40, 99).await.unwrap().iter().map(|e| e.state).collect()
}

/// Blocks by which the room for data shrank, device writes, bytes and flushes of making and syncing objects of 100 bytes.
async fn cost_of_a_thousand(inline: bool) -> (u64, u64, u64, u64) {
    let disk = new_disk(support::DEVICE_BLOCKS, 1, inline).await;
    let device = CountDevice::new(Device::new(disk.attach()));
    let counters = device.counters();
    let opening = Engine::open_device(Device::new(device)).memory_bytes(64 << 20);
    let engine = opening.run().await.unwrap();
    let (free, before) = (engine.stats().free_bytes, counters.snapshot());
    for n in 0..1000_u64 {
        let object = engine.create(format!("object-{n}")).await.unwrap();
        object.write_at(0, &[n as u8 | 1; 100]).await.unwrap();
        object.sync().await.unwrap();
    }
    let after = counters.snapshot();
    let used = (free - engine.stats().free_bytes) / BLOCK as u64;
    let state = if inline { ExtentState::Inline } else { ExtentState::Mapped };
    let object = engine.object("object-77").await.unwrap();
    assert_eq!(states(&object).await, [state]);
    assert_eq!(read_all(&object).await, [77; 100]);
    engine.close().await.unwrap();
    let writes = after.writes - before.writes;
    (used, writes, after.bytes_written - before.bytes_written, after.flushes - before.flushes)
}

#[test]
fn a_thousand_of_them_take_few_blocks_and_few_writes() {
    support::simulate(async {
        let blocks = cost_of_a_thousand(false).await;
        let inline = cost_of_a_thousand(true).await;
        println!("in blocks: (used, writes, bytes, flushes) {blocks:?}, inline: {inline:?}");
        assert!(inline.0 * 10 < blocks.0, "{} and {} blocks", blocks.0, inline.0);
        assert!(inline.1 + 950 <= blocks.1, "{} and {} writes", blocks.1, inline.1);
        assert!(inline.3 + 950 <= blocks.3, "{} and {} flushes", blocks.3, inline.3);
    });
}

#[test]
fn exactly_up_to_the_limit() {
    support::simulate(async {
        let (disk, mut engine) = volume(2).await;
        for (size, state) in [(1, true), (LIMIT - 1, true), (LIMIT, true), (LIMIT + 1, false)] {
            let expected = if state { ExtentState::Inline } else { ExtentState::Mapped };
            let name = format!("{size}");
            let object = engine.create(&name).await.unwrap();
            object.write_at(0, &vec![3; size]).await.unwrap();
            assert_eq!(states(&object).await, [ExtentState::Delalloc]);
            object.sync().await.unwrap();
            assert_eq!(states(&object).await, [expected]);
            let logged = engine.create(format!("logged {size}")).await.unwrap();
            let mut transaction = engine.transaction();
            transaction.write_at(&logged, 0, &vec![4; size]).unwrap();
            transaction.commit().await.unwrap().durable().await.unwrap();
            assert_eq!(states(&logged).await, [expected]);
            drop((object, logged));
            engine = reopen(&disk, engine).await;
            let object = engine.object(&name).await.unwrap();
            assert_eq!(
                (states(&object).await, read_all(&object).await),
                (vec![expected], vec![3; size])
            );
            let logged = engine.object(format!("logged {size}")).await.unwrap();
            assert_eq!(
                (states(&logged).await, read_all(&logged).await),
                (vec![expected], vec![4; size])
            );
        }
        engine.close().await.unwrap();
    });
}

fn put(bytes: &mut Vec<u8>, at: usize, data: &[u8]) {
    bytes.resize(bytes.len().max(at + data.len()), 0);
    bytes[at..at + data.len()].copy_from_slice(data);
}

async fn step(rng: &mut Rng, engine: &Engine, object: &Object, model: &mut Vec<u8>) {
    let far = [200, 448, 520, 9000][rng.below(4) as usize];
    let at = rng.below(far);
    let len = 1 + rng.below(far) as usize;
    let data = support::bytes(rng, len);
    match rng.below(12) {
        0..=2 => {
            object.write_at(at, &data).await.unwrap();
            put(model, at as usize, &data);
        }
        3..=5 => {
            let mut transaction = engine.transaction();
            transaction.write_at(object, at, &data).unwrap();
            transaction.commit().await.unwrap();
            put(model, at as usize, &data);
        }
        6 | 7 => {
            object.truncate(at).await.unwrap();
            model.resize(at as usize, 0);
        }
        8 => {
            object.punch(at..at + len as u64).await.unwrap();
            let end = model.len();
            model[end.min(at as usize)..end.min(at as usize + len)].fill(0);
        }
        9 if rng.below(3) == 0 => object.preallocate(at..at + len as u64).await.unwrap(),
        _ => object.sync().await.unwrap(),
    }
}

#[test]
fn they_hold_what_a_plain_vector_holds() {
    support::for_seeds(0..80, |seed| {
        support::simulate(async {
            let (disk, mut engine) = volume(seed).await;
            let mut rng = Rng::new(seed);
            engine.create("ballast").await.unwrap();
            let free = engine.stats().free_bytes;
            let mut model = Vec::new();
            let mut object = engine.create("it").await.unwrap();
            for _ in 0..100 {
                step(&mut rng, &engine, &object, &mut model).await;
                if rng.below(8) == 0 {
                    drop(object);
                    engine = reopen(&disk, engine).await;
                    object = engine.object("it").await.unwrap();
                }
                assert!(read_all(&object).await == model, "content");
                let mapped = states(&object).await.contains(&ExtentState::Mapped);
                assert!(!mapped || object.size() > 0);
            }
            drop(object);
            engine.remove("it").await.unwrap();
            engine = reopen(&disk, engine).await;
            engine = reopen(&disk, engine).await;
            assert_eq!(engine.stats().free_bytes, free, "every block came back");
            engine.close().await.unwrap();
        });
    });
}

/// Cuts the power after `requests` of moving out or in; what is found is old or new. The answer is
/// whether the move was acknowledged.
async fn cut_while_moving(seed: u64, requests: u64, logged: bool, out: bool) -> bool {
    let (disk, engine) = volume(seed).await;
    let mut rng = Rng::new(seed);
    let before = support::bytes(&mut rng, if out { 300 } else { 5000 });
    let object = engine.create("it").await.unwrap();
    object.write_at(0, &before).await.unwrap();
    object.sync().await.unwrap();
    if !out {
        object.truncate(100).await.unwrap();
        object.sync().await.unwrap();
    }
    let before = read_all(&object).await;
    let data = support::bytes(&mut rng, if out { 600 } else { 250 });
    let mut after = before.clone();
    put(&mut after, 50, &data);
    disk.crash_after_requests(requests);
    let done = async {
        if logged {
            let mut transaction = engine.transaction();
            transaction.write_at(&object, 50, &data)?;
            transaction.commit().await?.durable().await?;
        } else {
            object.write_at(50, &data).await?;
            object.sync().await?;
        }
        foliant::Result::Ok(())
    };
    let acknowledged = done.await.is_ok();
    disk.power_cut();
    support::is_sound(&disk, true).await;
    drop((object, engine));
    let engine = support::open(&disk).await.unwrap();
    let object = engine.object("it").await.unwrap();
    let found = read_all(&object).await;
    assert!(found == after || (found == before && !acknowledged), "mixed, or lost");
    engine.close().await.unwrap();
    acknowledged
}

#[test]
fn a_power_cut_in_the_middle_of_a_move_finds_old_or_new() {
    for (logged, out) in [(false, true), (false, false), (true, true), (true, false)] {
        for seed in 0..12 {
            let done = |requests| support::simulate(cut_while_moving(seed, requests, logged, out));
            let whole = (1..40).find(|&requests| done(requests));
            assert!(whole.is_some_and(|n| n > 1), "no move was cut, or none came to its end");
        }
    }
}

#[test]
fn on_a_full_volume_they_shrink_and_go_and_what_was_accepted_is_kept() {
    support::for_seeds(0..12, |seed| {
        support::simulate(async {
            let disk = new_disk(support::DEVICE_BLOCKS_TIGHT, seed, true).await;
            let mut engine = support::open(&disk).await.unwrap();
            let free = engine.stats().free_bytes;
            let mut made = 0;
            let mut rng = Rng::new(seed);
            // Dirty all at once, so that the promises of all of them are out before any goes inline.
            while let Ok(object) = engine.create(format!("{made}")).await {
                let len = 1 + rng.below(LIMIT as u64) as usize;
                let refused = object.write_at(0, &vec![made as u8 | 1; len]).await.is_err();
                made += 1;
                if refused {
                    break;
                }
                if rng.below(40) == 0 {
                    object.sync().await.expect("what was accepted is written");
                }
            }
            assert!(made > 100, "only {made} objects");
            engine = reopen(&disk, engine).await;
            let ballast = engine.object("0").await.unwrap();
            let mut at = 1 << 20;
            while ballast.write_at(at, &[9; BLOCK]).await.is_ok() {
                at += BLOCK as u64;
            }
            for n in 1..made {
                let object = engine.object(format!("{n}")).await.unwrap();
                let content = read_all(&object).await;
                assert!(content.iter().all(|&byte| byte == n as u8 | 1), "object {n}");
                match n % 3 {
                    0 => object.truncate(object.size() / 2).await.unwrap(),
                    1 => object.punch(0..object.size()).await.unwrap(),
                    _ => engine.remove(format!("{n}")).await.unwrap(),
                }
            }
            engine = reopen(&disk, engine).await;
            for n in (0..made).filter(|n| n % 3 != 2) {
                engine.remove(format!("{n}")).await.unwrap();
            }
            engine = reopen(&disk, engine).await;
            engine = reopen(&disk, engine).await;
            assert!(engine.stats().free_bytes >= free, "space is lost");
            engine.close().await.unwrap();
        });
    });
}

#[test]
fn room_that_is_preallocated_for_one_is_used_when_it_is_written_again() {
    support::simulate(async {
        let (disk, mut engine) = volume(3).await;
        let object = engine.create("it").await.unwrap();
        object.write_at(0, &[1; 100]).await.unwrap();
        object.sync().await.unwrap();
        object.preallocate(0..2 * BLOCK as u64).await.unwrap();
        let beside = [ExtentState::Inline, ExtentState::Unwritten];
        assert_eq!(states(&object).await, beside, "its bytes stay where they are");
        drop(object);
        engine = reopen(&disk, engine).await;
        let object = engine.object("it").await.unwrap();
        assert_eq!(read_all(&object).await, [1; 100]);
        object.write_at(0, &[2; 10]).await.unwrap();
        object.sync().await.unwrap();
        let moved = [ExtentState::Mapped, ExtentState::Unwritten];
        assert_eq!(states(&object).await, moved);
        assert_eq!(read_all(&object).await, [[2; 10].as_slice(), &[1; 90]].concat());
        engine.close().await.unwrap();
    });
}

#[test]
fn zeroes_behind_a_shorter_end_stay_zero_when_it_grows_again() {
    support::simulate(async {
        let (disk, mut engine) = volume(4).await;
        let object = engine.create("it").await.unwrap();
        object.write_at(0, &[5; 400]).await.unwrap();
        object.sync().await.unwrap();
        object.truncate(100).await.unwrap();
        object.sync().await.unwrap();
        drop(object);
        engine = reopen(&disk, engine).await;
        let object = engine.object("it").await.unwrap();
        object.truncate(1 << 40).await.unwrap();
        object.sync().await.unwrap();
        drop(object);
        engine = reopen(&disk, engine).await;
        let object = engine.object("it").await.unwrap();
        let mut bytes = [9; 500];
        object.read_at(0, &mut bytes).await.unwrap();
        assert_eq!(bytes[..], [[5; 100].as_slice(), &[0; 400]].concat());
        engine.close().await.unwrap();
    });
}

/// A direct write shows its size to nobody before it has landed. Block 0 was placed by the size that readers
/// saw, into the record, where 4,096 bytes have no room: an assertion stopped the task in its transaction.
#[test]
fn a_direct_write_takes_a_small_object_out_of_its_record() {
    for synced in [false, true] {
        support::simulate(async move {
            let (disk, engine) = volume(7).await;
            let object = engine.create("object").await.unwrap();
            object.write_at(0, &[1; 100]).await.unwrap();
            if synced {
                object.sync().await.unwrap();
                assert_eq!(states(&object).await, [ExtentState::Inline]);
            }
            let mut buffer = engine.direct_buffer(BLOCK).await.unwrap();
            buffer.fill(0xAA);
            let (_, written) = object.write_direct(0, buffer, 0..BLOCK).await;
            written.unwrap();
            assert_eq!(states(&object).await, [ExtentState::Mapped]);
            object.sync().await.unwrap();
            drop(object);
            let engine = reopen(&disk, engine).await;
            let object = engine.object("object").await.unwrap();
            assert_eq!(read_all(&object).await, [0xAA; BLOCK]);
            drop(object);
            engine.close().await.unwrap();
        });
    }
}

/// A direct read looked for block 0 on the device, found that it is stored nowhere there, and gave zeroes.
/// The exerciser met it (seed 600071), behind an eviction.
#[test]
fn a_direct_read_finds_what_lives_in_the_record() {
    support::simulate(async {
        let (disk, engine) = volume(8).await;
        let object = engine.create("object").await.unwrap();
        object.write_at(0, &[7; 100]).await.unwrap();
        object.sync().await.unwrap();
        assert_eq!(states(&object).await, [ExtentState::Inline]);
        drop(object);
        let engine = reopen(&disk, engine).await;
        let object = engine.object("object").await.unwrap();
        let buffer = engine.direct_buffer(2 * BLOCK).await.unwrap();
        let (buffer, read) = object.read_direct(0, buffer, 0..2 * BLOCK).await;
        assert_eq!(read.unwrap(), 100);
        assert_eq!(buffer[..100], [7; 100]);
        drop((object, buffer));
        engine.close().await.unwrap();
    });
}
