//! Cleaning and defragmenting move stored blocks beside everything else: nobody reads anything else for it, no
//! later write is lost, a cut leaves old or new, the free space is exact, and it lies in long runs afterwards.

#![allow(clippy::unwrap_used)] // In helpers of tests as in tests: a failed unwrap is the failed test.

mod support;

use std::time::Duration;

use foliant::Engine;
use foliant::ExtentState;
use foliant::Object;
use foliant::testing::Canary;
use foliant::testing::break_on_purpose;
use foliant::testing::stop;
use foliant::testing::stop::Stop;
use foliant_device::Device;
use foliant_device::DeviceErrorKind;
use foliant_device::error::Operation;
use foliant_device::sim::Fault;
use foliant_device::sim::FaultRule;
use foliant_device::sim::Rng;
use foliant_device::sim::SimDisk;
use foliant_device::sim::SimOptions;
use support::BLOCK;
use support::DEVICE_BLOCKS;
use support::MEMORY_BYTES;

/// Blocks of the object that fills the volume to about 80 %.
const FILL: u64 = 7_300;

fn at(block: u64) -> u64 {
    block * BLOCK as u64
}

fn ms(count: u64) -> tokio::time::Sleep {
    tokio::time::sleep(Duration::from_millis(count))
}

async fn open(disk: &SimDisk, background: bool, discard: bool) -> Engine {
    let options = Engine::open_device(Device::new(disk.attach())).memory_bytes(MEMORY_BYTES);
    options.background_cleaning(background).discard(discard).run().await.unwrap()
}

async fn fresh(seed: u64) -> (SimDisk, Engine) {
    let disk = SimDisk::new(DEVICE_BLOCKS, SimOptions { seed, ..SimOptions::default() });
    support::format(&disk).await;
    let engine = open(&disk, false, false).await;
    (disk, engine)
}

fn block(block: u64, version: u64) -> Vec<u8> {
    let mut bytes = vec![version as u8 ^ 0x5A; BLOCK];
    bytes[..8].copy_from_slice(&(block + 1).to_le_bytes());
    bytes[8..16].copy_from_slice(&version.to_le_bytes());
    bytes
}

/// An object written in order and overwritten at random, and the version of each block.
async fn scattered(engine: &Engine, name: &str, blocks: u64, rng: &mut Rng) -> (Object, Vec<u64>) {
    let object = engine.create(name).await.unwrap();
    let mut versions = vec![0; blocks as usize];
    for n in 0..blocks {
        object.write_at(at(n), &block(n, 0)).await.unwrap();
    }
    object.sync().await.unwrap();
    for version in 1..=4 {
        for _ in 0..blocks / 4 {
            let n = rng.below(blocks);
            versions[n as usize] = version;
            object.write_at(at(n), &block(n, version)).await.unwrap();
        }
        object.sync().await.unwrap();
    }
    (object, versions)
}

async fn compare(object: &Object, versions: &[u64]) {
    let mut bytes = vec![0; BLOCK];
    for (n, &version) in versions.iter().enumerate() {
        object.read_at(at(n as u64), &mut bytes).await.unwrap();
        assert!(bytes == block(n as u64, version), "block {n} is not version {version}");
    }
}

/// Free bytes once everything is at rest.
async fn free_at_rest(disk: &SimDisk) -> u64 {
    open(disk, false, false).await.close().await.unwrap();
    let engine = open(disk, false, false).await;
    let free = engine.stats().free_bytes;
    engine.close().await.unwrap();
    free
}

#[test]
fn after_a_cleaning_at_four_fifths_free_space_lies_in_long_runs_and_nothing_else_changed() {
    support::simulate(async {
        let (disk, engine) = fresh(1).await;
        let (object, versions) = scattered(&engine, "a", FILL, &mut Rng::new(1)).await;
        drop(object);
        engine.close().await.unwrap();
        let free = free_at_rest(&disk).await;
        let engine = open(&disk, false, false).await;
        let report = engine.clean().await.unwrap();
        println!("race: cleaned at 80 %: {report:?}");
        let mean = |space: foliant::FreeSpace| space.bytes / space.runs / BLOCK as u64;
        assert!(mean(report.before) < 3, "the volume was not scattered: {report:?}");
        assert!(report.after.long_bytes * 10 >= report.after.bytes * 6, "{report:?}");
        assert!(mean(report.after) > 4 * mean(report.before) && report.passes > 0, "{report:?}");
        compare(&engine.object("a").await.unwrap(), &versions).await;
        let stats = engine.stats();
        assert_eq!(stats.moved_bytes, report.moved_bytes);
        assert!(stats.move_writes * 12 * BLOCK as u64 <= stats.moved_bytes, "{stats:?}");
        engine.close().await.unwrap();
        support::is_sound(&disk, true).await;
        let after = free_at_rest(&disk).await;
        // The extent tree may have a few nodes more or less.
        assert!(free.abs_diff(after) <= 64 * BLOCK as u64, "{free} and {after} bytes are free");
    });
}

#[test]
fn in_the_background_it_cleans_what_is_full_and_only_while_others_are_quiet() {
    support::simulate(async {
        let (disk, engine) = fresh(2).await;
        let (object, mut versions) = scattered(&engine, "a", FILL, &mut Rng::new(2)).await;
        drop(object);
        engine.close().await.unwrap();
        let engine = open(&disk, true, false).await;
        let object = engine.object("a").await.unwrap();
        let mut rng = Rng::new(3);
        for round in 0..12 {
            for _ in 0..400 {
                let n = rng.below(FILL);
                versions[n as usize] = 100 + round;
                object.write_at(at(n), &block(n, 100 + round)).await.unwrap();
            }
            object.sync().await.unwrap();
            ms(300).await;
        }
        let busy = engine.stats().moved_bytes;
        ms(120_000).await;
        let (idle, space) = (engine.stats(), engine.free_space().await.unwrap());
        println!("race: {busy} bytes moved beside writers, {} later: {space:?}", idle.moved_bytes);
        assert_eq!(busy, 0, "it does not stand in the way of writers");
        assert!(idle.moved_bytes > 0 && idle.cleaning_passes > 0);
        assert!(space.long_bytes * 2 >= space.bytes, "{space:?}");
        compare(&object, &versions).await;
        engine.close().await.unwrap();
        support::is_sound(&disk, true).await;
    });
}

#[test]
fn an_object_that_was_overwritten_at_random_becomes_one_extent() {
    support::simulate(async {
        let (disk, engine) = fresh(4).await;
        let (object, versions) = scattered(&engine, "a", 1_000, &mut Rng::new(4)).await;
        object.preallocate(at(1_010)..at(1_020)).await.unwrap();
        let mut transaction = engine.transaction();
        transaction.write_at(&object, at(7) + 100, b"logged").unwrap();
        transaction.commit().await.unwrap().durable().await.unwrap();
        let report = object.defragment().await.unwrap();
        println!("race: {report:?}");
        assert!(report.extents_before > 100, "{report:?}");
        let extents = object.extents(0..at(2_000), 100).await.unwrap();
        let mapped = extents.iter().filter(|e| e.state == ExtentState::Mapped).count();
        assert_eq!((mapped, extents.len()), (1, 2), "{extents:?}");
        let again = object.defragment().await.unwrap();
        assert_eq!((again.moved_bytes, again.extents_after), (0, 2));
        let mut bytes = vec![0; 6];
        object.read_at(at(7) + 100, &mut bytes).await.unwrap();
        assert_eq!(&bytes, b"logged");
        object.write_at(at(7), &block(7, versions[7])).await.unwrap();
        compare(&object, &versions).await;
        engine.close().await.unwrap();
        support::is_sound(&disk, true).await;
    });
}

#[test]
fn what_was_overwritten_at_random_lies_in_order_again_after_a_quiet_while() {
    support::simulate(async {
        let (disk, engine) = fresh(5).await;
        let (object, versions) = scattered(&engine, "a", 1_000, &mut Rng::new(5)).await;
        let before = object.extents(0..at(2_000), 4_000).await.unwrap().len();
        drop(object);
        engine.close().await.unwrap();
        let engine = open(&disk, true, false).await;
        ms(120_000).await;
        let object = engine.object("a").await.unwrap();
        let after = object.extents(0..at(2_000), 4_000).await.unwrap().len();
        println!("race: {before} extents, {after} after two quiet minutes");
        assert!(before > 100 && after * 20 < before);
        assert!(engine.stats().restored_ranges > 0);
        compare(&object, &versions).await;
        engine.close().await.unwrap();
        support::is_sound(&disk, true).await;
    });
}

/// Cleaning gave a block another place while a reader, who had looked up the old one, read it there; the old place
/// was written by its next owner beside the read (crash seed 5871).
#[test]
fn regression_a_place_that_is_being_read_is_not_given_to_others() {
    support::simulate(async {
        let (disk, engine) = fresh(9).await;
        let (object, versions) = scattered(&engine, "a", FILL, &mut Rng::new(9)).await;
        drop(object);
        engine.close().await.unwrap();
        let engine = open(&disk, false, false).await;
        let object = engine.object("a").await.unwrap();
        // All metadata is in memory then, so that the slow reads are those of the blocks.
        engine.scrub().bytes_per_second(1 << 30).run().await.unwrap();
        let slow = FaultRule::new(Fault::Delay { ms: 20_000 }).on(Operation::Read);
        let slow = disk.inject(slow.times(60));
        let reads = (0..60).map(|n| {
            let (object, n) = (object.clone(), n * 101);
            async move {
                let mut bytes = vec![0; BLOCK];
                object.read_at(at(n), &mut bytes).await.unwrap();
                (n, bytes)
            }
        });
        let cleaned = async {
            ms(1).await;
            assert!(disk.struck(slow) > 0, "the readers were first");
            engine.clean().await.unwrap()
        };
        let (reads, cleaned) = tokio::join!(futures_util::future::join_all(reads), cleaned);
        println!("race: {cleaned:?} beside {} slow reads", disk.struck(slow));
        assert!(cleaned.moved_bytes > 0);
        for (n, bytes) in reads {
            assert!(bytes == block(n, versions[n as usize]), "block {n}");
        }
        assert_eq!(disk.overlaps(), 0, "a write met a read in the device");
        compare(&object, &versions).await;
        engine.close().await.unwrap();
        support::is_sound(&disk, true).await;
    });
}

/// What happens to blocks between their copy and its mapping.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Beside {
    Write,
    Direct,
    Commit,
    CommitHome,
    Punch,
    Truncate,
    Remove,
    /// Overwritten so often that the old place is handed out again.
    Reuse,
}

const BESIDE: [Beside; 8] = [
    Beside::Write,
    Beside::Direct,
    Beside::Commit,
    Beside::CommitHome,
    Beside::Punch,
    Beside::Truncate,
    Beside::Remove,
    Beside::Reuse,
];

/// The object of the races: 32 blocks, scattered.
const RACED: u64 = 32;

async fn do_beside(engine: &Engine, object: &Object, how: Beside) {
    let new = vec![9; 4 * BLOCK];
    match how {
        Beside::Write => {
            object.write_at(at(4), &new).await.unwrap();
            object.sync().await.unwrap();
        }
        Beside::Direct => {
            let mut buffer = engine.direct_buffer(4 * BLOCK).await.unwrap();
            buffer.copy_from_slice(&new);
            let (_, written) = object.write_direct(at(4), buffer, 0..4 * BLOCK).await;
            written.unwrap();
        }
        Beside::Commit | Beside::CommitHome => {
            let mut transaction = engine.transaction();
            transaction.write_at(object, at(4), &new).unwrap();
            transaction.commit().await.unwrap().durable().await.unwrap();
            if how == Beside::CommitHome {
                // A checkpoint goes with it: the blocks are home and no record names them.
                let other = engine.object("other").await.unwrap();
                other.defragment().await.unwrap_err();
            }
        }
        Beside::Punch => object.punch(at(4)..at(8)).await.unwrap(),
        Beside::Truncate => object.truncate(at(4)).await.unwrap(),
        Beside::Remove => engine.remove("raced").await.unwrap(),
        Beside::Reuse => {
            for _ in 0..40 {
                object.write_at(at(4), &new).await.unwrap();
                object.sync().await.unwrap();
            }
        }
    }
}

fn expected(how: Beside) -> Vec<u8> {
    let mut bytes = vec![5; RACED as usize * BLOCK];
    let four = 4 * BLOCK..8 * BLOCK;
    match how {
        Beside::Punch => bytes[four].fill(0),
        Beside::Truncate => bytes.truncate(4 * BLOCK),
        Beside::Remove => bytes.clear(),
        _ => bytes[four].fill(9),
    }
    bytes
}

/// Defragments while `how` comes between the copy and its mapping; whether everything is as it should be.
async fn race(how: Beside, seed: u64) -> bool {
    let (disk, engine) = fresh(seed).await;
    engine.create("other").await.unwrap();
    let object = engine.create("raced").await.unwrap();
    for n in (0..RACED).rev() {
        object.write_at(at(n), &vec![5; BLOCK]).await.unwrap();
        object.sync().await.unwrap();
    }
    let before = stop::hits(Stop::BlocksCopied);
    stop::close(Stop::BlocksCopied, true);
    let moved = object.clone();
    let moving = tokio::spawn(async move { moved.defragment().await });
    while stop::hits(Stop::BlocksCopied) == before {
        ms(1).await;
    }
    if how == Beside::CommitHome {
        // The other mover has its turn after a minute, without it; the checkpoint comes first.
        let work = do_beside(&engine, &object, how);
        let opened = async {
            ms(70_000).await;
            stop::close(Stop::BlocksCopied, false);
        };
        tokio::join!(work, opened);
    } else {
        do_beside(&engine, &object, how).await;
        stop::close(Stop::BlocksCopied, false);
    }
    let _ = moving.await.unwrap();
    let mut right = true;
    let is = |bytes: Vec<u8>| bytes == expected(how);
    if how != Beside::Remove {
        object.sync().await.unwrap();
    }
    drop(object);
    engine.close().await.unwrap();
    let look = async |engine: &Engine| match how {
        Beside::Remove => engine.object("raced").await.is_err(),
        _ => {
            let object = engine.object("raced").await.unwrap();
            let mut bytes = vec![0; object.size() as usize];
            object.read_at(0, &mut bytes).await.is_ok() && is(bytes)
        }
    };
    let engine = open(&disk, false, false).await;
    right &= look(&engine).await;
    engine.close().await.unwrap();
    let device = Device::new(disk.attach());
    let options = foliant::check::Options { data: true, ..foliant::check::Options::default() };
    right && foliant::check::check(&device, &options).await.unwrap().is_sound()
}

#[test]
fn what_changed_since_it_was_copied_is_left_alone() {
    for how in BESIDE {
        assert!(support::simulate(race(how, how as u64)), "{how:?}");
    }
    println!("race: {} changes came between a copy and its mapping", BESIDE.len());
    break_on_purpose(Some(Canary::MapMovedUnseen));
    let noticed = BESIDE.iter().filter(|&&how| {
        let run = std::panic::AssertUnwindSafe(|| support::simulate(race(how, how as u64)));
        !std::panic::catch_unwind(run).unwrap_or(false)
    });
    let noticed: Vec<&Beside> = noticed.collect();
    break_on_purpose(None);
    stop::close(Stop::BlocksCopied, false);
    println!("race: without the look, wrong in {noticed:?}");
    assert!(noticed.len() >= 5, "the canary survived: {noticed:?}");
}

/// A small scattered volume, defragmented and cleaned with the power cut at the `requests`-th request; whether
/// the cut came in time.
async fn cut_a_move(requests: u64) -> bool {
    let (disk, engine) = fresh(requests).await;
    let (object, versions) = scattered(&engine, "a", 300, &mut Rng::new(7)).await;
    let (other, others) = scattered(&engine, "b", 100, &mut Rng::new(8)).await;
    drop((object, other));
    engine.close().await.unwrap();
    let free = free_at_rest(&disk).await;
    let engine = open(&disk, false, false).await;
    disk.crash_after_requests(requests);
    let work = async {
        engine.clean().await?;
        engine.object("a").await?.defragment().await
    };
    let outcome = work.await;
    let over = disk.is_powered();
    assert!(outcome.is_ok() || !over, "{outcome:?}");
    drop(engine);
    disk.power_cut();
    support::is_sound(&disk, true).await;
    let engine = support::open(&disk).await.unwrap();
    compare(&engine.object("a").await.unwrap(), &versions).await;
    compare(&engine.object("b").await.unwrap(), &others).await;
    engine.close().await.unwrap();
    let after = free_at_rest(&disk).await;
    assert!(free.abs_diff(after) <= 16 * BLOCK as u64, "cut at {requests}: {free}, {after}");
    !over
}

#[test]
fn a_cut_at_every_request_of_a_move_leaves_old_or_new() {
    let mut cuts = 0;
    while support::simulate(cut_a_move(cuts + 1)) {
        cuts += 1;
    }
    println!("race: {cuts} cuts in a cleaning and a defragmentation");
    assert!(cuts > 20);
}

#[test]
fn writers_beside_cleaning_lose_nothing() {
    for seed in 0..3 {
        support::simulate(async {
            let (disk, engine) = fresh(seed).await;
            let mut rng = Rng::new(seed);
            let (object, mut versions) = scattered(&engine, "a", FILL, &mut rng).await;
            let cleaned = engine.clone();
            let cleaning = tokio::spawn(async move {
                let mut moved = 0;
                for _ in 0..3 {
                    moved += cleaned.clean().await.unwrap().moved_bytes;
                    moved += cleaned.object("a").await?.defragment().await?.moved_bytes;
                }
                foliant::Result::Ok(moved)
            });
            let mut version = 10;
            while !cleaning.is_finished() {
                version += 1;
                for _ in 0..50 {
                    let n = rng.below(FILL);
                    versions[n as usize] = version;
                    if version % 3 == 0 {
                        let mut transaction = engine.transaction();
                        transaction.write_at(&object, at(n), &block(n, version)).unwrap();
                        let _unawaited = transaction.commit().await.unwrap();
                    } else {
                        object.write_at(at(n), &block(n, version)).await.unwrap();
                    }
                }
                object.sync().await.unwrap();
            }
            let moved = cleaning.await.unwrap().unwrap();
            let overtaken = engine.stats().moves_overtaken_bytes;
            println!("race: {moved} bytes moved beside a writer, {overtaken} overtaken");
            assert!(moved > 0);
            compare(&object, &versions).await;
            drop((object, engine));
            disk.power_cut();
            support::is_sound(&disk, true).await;
            let engine = open(&disk, false, false).await;
            compare(&engine.object("a").await.unwrap(), &versions).await;
            engine.close().await.unwrap();
        });
    }
}

#[test]
fn a_device_that_fails_in_a_move_leaves_everything_where_it_was() {
    for operation in [Operation::Read, Operation::Write] {
        support::simulate(async {
            let (disk, engine) = fresh(6).await;
            let (object, versions) = scattered(&engine, "a", 200, &mut Rng::new(6)).await;
            object.sync().await.unwrap();
            let log_end = 32 + support::JOURNAL_BYTES / BLOCK as u64;
            let rule = FaultRule::new(Fault::Fail(DeviceErrorKind::Io));
            let data = log_end + 33..DEVICE_BLOCKS;
            let rule = disk.inject(rule.on(operation).blocks(data).always());
            let outcome = engine.clean().await;
            assert!(disk.struck(rule) > 0);
            assert_eq!(outcome.is_err(), operation == Operation::Write, "{outcome:?}");
            disk.withdraw_all();
            compare(&object, &versions).await;
            object.write_at(0, &block(0, versions[0])).await.unwrap();
            object.sync().await.unwrap();
            drop(object);
            engine.close().await.unwrap();
            support::is_sound(&disk, true).await;
        });
    }
}

#[test]
fn discards_come_in_batches_and_never_hit_what_is_stored() {
    let batch = 256 * BLOCK as u64;
    for seed in 0..4 {
        support::simulate(async {
            let (disk, engine) = fresh(seed).await;
            let mut rng = Rng::new(seed);
            let (object, mut versions) = scattered(&engine, "a", 2_000, &mut rng).await;
            drop(object);
            engine.close().await.unwrap();
            let engine = open(&disk, true, true).await;
            let object = engine.object("a").await.unwrap();
            for round in 20..40 {
                let large = engine.create(format!("large-{round}")).await.unwrap();
                large.write_at(0, &vec![round as u8; 400 * BLOCK]).await.unwrap();
                large.sync().await.unwrap();
                for _ in 0..100 {
                    let n = rng.below(2_000);
                    versions[n as usize] = round;
                    object.write_at(at(n), &block(n, round)).await.unwrap();
                }
                object.sync().await.unwrap();
                if round % 2 == 1 {
                    engine.remove(format!("large-{round}")).await.unwrap();
                    engine.remove(format!("large-{}", round - 1)).await.unwrap();
                }
                ms(rng.below(1_500)).await;
            }
            let trace = disk.trace();
            let told = trace.iter().filter(|r| r.operation == Operation::Discard).count();
            let discarded = engine.stats().discarded_bytes;
            println!("race: {discarded} bytes discarded in {told} requests");
            assert!(discarded >= batch && told > 0);
            compare(&object, &versions).await;
            drop((object, engine));
            disk.power_cut();
            support::is_sound(&disk, true).await;
            let engine = open(&disk, true, true).await;
            compare(&engine.object("a").await.unwrap(), &versions).await;
            let rule = FaultRule::new(Fault::Fail(DeviceErrorKind::Io));
            disk.inject(rule.on(Operation::Discard).always());
            engine.create("gone").await.unwrap().write_at(0, &vec![1; 1 << 21]).await.unwrap();
            engine.sync().await.unwrap();
            engine.remove("gone").await.unwrap();
            ms(5_000).await;
            engine.close().await.unwrap();
        });
    }
}
