//! Writeback, commits, punches, reclaim and the checkpoint, each stopped at its weakest place while
//! another one runs. Each test asserts that the place was reached, and fails when the mechanism is
//! broken on purpose.

#![allow(clippy::unwrap_used)] // In helpers of tests as in tests: a failed unwrap is the failed test.

mod support;

use std::task::Poll;
use std::time::Duration;

use foliant::Engine;
use foliant::Object;
use foliant::Result;
use foliant::testing::Canary;
use foliant::testing::break_on_purpose;
use foliant::testing::stop;
use foliant::testing::stop::Stop;
use foliant_device::sim::Rng;
use foliant_device::sim::SimDisk;
use foliant_device::sim::SimOptions;
use support::BLOCK;
use support::DEVICE_BLOCKS;
use support::DEVICE_BLOCKS_TIGHT;

/// More than the budget, to push everything else out.
const BALLAST: usize = 10 << 20;

fn at(block: usize) -> u64 {
    (block * BLOCK) as u64
}

fn ms(count: u64) -> tokio::time::Sleep {
    tokio::time::sleep(Duration::from_millis(count))
}

async fn fresh(blocks: u64, seed: u64) -> (SimDisk, Engine) {
    let disk = SimDisk::new(blocks, SimOptions { seed, ..SimOptions::default() });
    support::format(&disk).await;
    let engine = support::open(&disk).await.unwrap();
    (disk, engine)
}

async fn content(object: &Object) -> Result<Vec<u8>> {
    let mut bytes = vec![0; object.size() as usize];
    let read = object.read_at(0, &mut bytes).await?;
    assert_eq!(read, bytes.len());
    Ok(bytes)
}

async fn commit(engine: &Engine, object: &Object, at: u64, bytes: &[u8]) -> Result<()> {
    let mut transaction = engine.transaction();
    transaction.write_at(object, at, bytes)?;
    transaction.commit().await?.durable().await
}

/// Waits until somebody came by.
async fn reached(place: Stop, before: u64) -> u64 {
    for _ in 0..10_000 {
        if stop::hits(place) > before {
            return stop::hits(place) - before;
        }
        ms(1).await;
    }
    panic!("{place:?} was not reached");
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Remap {
    Punch,
    Commit,
    Truncate,
}

/// Eight blocks of 2 over eight of 1 are on their way and stopped at `place`; blocks 1 and 2 are remapped
/// meanwhile. Whether the remap had to wait, and the content then and after a power cut.
async fn remap_beside_a_batch(place: Stop, how: Remap) -> (bool, [Vec<u8>; 2]) {
    let (disk, engine) = fresh(DEVICE_BLOCKS, 0).await;
    let object = engine.create("object").await.unwrap();
    for byte in [1, 2] {
        object.write_at(0, &vec![byte; 8 * BLOCK]).await.unwrap();
        if byte == 1 {
            object.sync().await.unwrap();
        }
    }
    let before = stop::hits(place);
    stop::close(place, true);
    let synced = object.clone();
    let syncing = tokio::spawn(async move { synced.sync().await });
    reached(place, before).await;
    let (remapped, with) = (object.clone(), engine.clone());
    let remap = tokio::spawn(async move {
        match how {
            Remap::Punch => remapped.punch(at(1)..at(3)).await,
            Remap::Truncate => remapped.truncate(at(1)).await,
            Remap::Commit => commit(&with, &remapped, at(1), &[3; 2 * BLOCK]).await,
        }
    });
    ms(100).await;
    let waited = !remap.is_finished();
    stop::close(place, false);
    remap.await.unwrap().unwrap();
    let _ = syncing.await.unwrap();
    if how == Remap::Truncate {
        object.truncate(at(8)).await.unwrap();
    }
    let now = content(&object).await.unwrap();
    object.sync().await.unwrap();
    drop((object, engine));
    disk.power_cut();
    let engine = support::open(&disk).await.unwrap();
    let later = content(&engine.object("object").await.unwrap()).await.unwrap();
    engine.close().await.unwrap();
    (waited, [now, later])
}

fn is_right(how: Remap, bytes: &[u8]) -> bool {
    let expected = |block: usize| match how {
        Remap::Punch if (1..3).contains(&block) => 0,
        Remap::Commit if (1..3).contains(&block) => 3,
        Remap::Truncate if block >= 1 => 0,
        _ => 2,
    };
    bytes.len() == 8 * BLOCK && (0..bytes.len()).all(|at| bytes[at] == expected(at / BLOCK))
}

#[test]
fn a_remap_does_not_meet_the_batch_that_maps_the_same_blocks() {
    let mut waits = 0;
    for place in [Stop::BeforeWritebackMapping, Stop::BeforeCompletion] {
        for how in [Remap::Punch, Remap::Commit, Remap::Truncate] {
            let (waited, found) = support::simulate(remap_beside_a_batch(place, how));
            assert!(found.iter().all(|bytes| is_right(how, bytes)), "{place:?} {how:?}");
            assert!(waited, "{place:?} {how:?}: the batch was not under way");
            waits += 1;
        }
    }
    println!(
        "race: {waits} remaps came while a batch was stopped before its mapping or completion"
    );
    break_on_purpose(Some(Canary::PunchBesideWriteback));
    let broken = remap_beside_a_batch(Stop::BeforeWritebackMapping, Remap::Punch);
    let (_, found) = support::simulate(broken);
    break_on_purpose(None);
    assert!(!found.iter().all(|bytes| is_right(Remap::Punch, bytes)), "the canary survived");
}

/// An append is stopped on the device; a second one goes into the same last block and beyond; the first
/// one completes, the second one is sent, and the power goes at each request. The size found.
async fn two_appends(requests: u64) -> Option<u64> {
    const FIRST: usize = 5_000;
    const BOTH: usize = 20_000;
    let (disk, engine) = fresh(DEVICE_BLOCKS, requests).await;
    let object = engine.create("object").await.unwrap();
    object.write_at(0, &[1; FIRST]).await.unwrap();
    let before = stop::hits(Stop::BeforeCompletion);
    stop::close(Stop::BeforeCompletion, true);
    let synced = object.clone();
    let first = tokio::spawn(async move { synced.sync().await });
    reached(Stop::BeforeCompletion, before).await;
    object.write_at(FIRST as u64, &[2; BOTH - FIRST]).await.unwrap();
    let synced = object.clone();
    let second = tokio::spawn(async move { synced.sync().await });
    disk.crash_after_requests(requests);
    stop::close(Stop::BeforeCompletion, false);
    let (first, second) = (first.await.unwrap(), second.await.unwrap());
    let over = disk.is_powered();
    drop((object, engine));
    disk.power_cut();
    let engine = support::open(&disk).await.unwrap();
    let found = content(&engine.object("object").await.unwrap()).await.unwrap();
    engine.close().await.unwrap();
    let size = found.len();
    assert!(first.is_err() || size >= FIRST, "an acknowledged append is gone");
    assert!(second.is_err() || size == BOTH, "an acknowledged append is gone");
    let expected = |at: usize| if at < FIRST { 1 } else { 2 };
    let wrong = (0..size).find(|&at| found[at] != expected(at));
    assert_eq!(wrong, None, "cut at request {requests}: the size {size} is ahead of the bytes");
    (!over).then_some(size as u64)
}

#[test]
fn the_size_of_an_append_is_not_recorded_with_another_ones_batch() {
    let mut sizes = std::collections::BTreeMap::new();
    for requests in 1.. {
        let Some(size) = support::simulate(two_appends(requests)) else { break };
        *sizes.entry(size).or_insert(0) += 1;
    }
    println!("race: sizes after the cuts: {sizes:?}");
    assert!(sizes.len() >= 2, "all cuts gave one size: {sizes:?}");
}

/// Block by block and backwards, so that each folio of the ballast is used often (a piece that goes on where
/// the last one ended is the same use), and reclaim takes it for as hot as the rest.
async fn evict(ballast: &Object) {
    let mut bytes = vec![0; BLOCK];
    for offset in (0..BALLAST).step_by(bytes.len()).rev() {
        ballast.read_at(offset as u64, &mut bytes).await.unwrap();
    }
}

/// Logged bytes live in folios alone until the checkpoint, which is held up, has sent them home; reclaim
/// comes meanwhile. Whether every byte survived.
async fn reclaim_beside_logged_bytes(size: usize) -> bool {
    let (disk, engine) = fresh(DEVICE_BLOCKS, 0).await;
    let ballast = engine.create("ballast").await.unwrap();
    ballast.write_at(0, &vec![0xBA; BALLAST]).await.unwrap();
    let object = engine.create("object").await.unwrap();
    object.write_at(0, &vec![1; 64 * BLOCK]).await.unwrap();
    engine.sync().await.unwrap();
    drop((object, ballast));
    engine.close().await.unwrap();
    let engine = support::open(&disk).await.unwrap();
    let (object, ballast) =
        (engine.object("object").await.unwrap(), engine.object("ballast").await.unwrap());
    // Large folios: one of a single block shares its memory with the image that waits to go home, which
    // keeps it as well as its mark does.
    content(&object).await.unwrap();
    stop::close(Stop::BeforeCheckpointWrite, true);
    let before = stop::hits(Stop::BeforeAttach);
    for block in 0..64 {
        commit(&engine, &object, at(block) + 7, &vec![2; size]).await.unwrap();
    }
    let attached = stop::hits(Stop::BeforeAttach) - before;
    assert!(attached >= 64, "{attached} blocks attached");
    println!("race: {attached} logged blocks were in the cache alone when reclaim came");
    for _ in 0..3 {
        evict(&ballast).await;
    }
    let expected = |at: usize| if (7..7 + size).contains(&(at % BLOCK)) { 2 } else { 1 };
    let right = |found: Result<Vec<u8>>| {
        found.is_ok_and(|bytes| (0..bytes.len()).all(|at| bytes[at] == expected(at)))
    };
    let now = right(content(&object).await);
    drop((object, ballast, engine));
    disk.power_cut();
    stop::close(Stop::BeforeCheckpointWrite, false);
    let engine = support::open(&disk).await.unwrap();
    let later = right(content(&engine.object("object").await.unwrap()).await);
    engine.close().await.unwrap();
    now && later
}

#[test]
fn reclaim_does_not_drop_logged_bytes_before_they_are_home() {
    for size in [1, 900, BLOCK - 7] {
        assert!(support::simulate(reclaim_beside_logged_bytes(size)), "{size} bytes per block");
    }
    break_on_purpose(Some(Canary::ForgetMark));
    let survived = support::simulate(reclaim_beside_logged_bytes(900));
    break_on_purpose(None);
    assert!(!survived, "the canary survived");
}

/// The checkpoint is stopped with its images chosen; the same blocks are logged again, and the power goes.
#[test]
fn blocks_that_are_logged_again_while_the_checkpoint_is_about_to_write_are_newest_after_a_crash() {
    support::simulate(async {
        let (disk, engine) = fresh(DEVICE_BLOCKS, 3).await;
        let object = engine.create("object").await.unwrap();
        object.write_at(0, &vec![1; 40 * BLOCK]).await.unwrap();
        object.sync().await.unwrap();
        let before = stop::hits(Stop::BeforeCheckpointWrite);
        stop::close(Stop::BeforeCheckpointWrite, true);
        let mut commits = 0;
        while stop::hits(Stop::BeforeCheckpointWrite) == before {
            let block = commits % 40;
            commit(&engine, &object, at(block) + 9, &[commits as u8; 3_000]).await.unwrap();
            commits += 1;
            assert!(commits < 5_000, "no checkpoint came");
        }
        let mut expected = content(&object).await.unwrap();
        for block in 0..5 {
            commit(&engine, &object, at(block) + 100, &[0xEE; 50]).await.unwrap();
            expected[block * BLOCK + 100..block * BLOCK + 150].fill(0xEE);
        }
        let hits = stop::hits(Stop::BeforeCheckpointWrite) - before;
        println!("race: {hits} checkpoints stopped before their writes, after {commits} commits");
        assert!(hits > 0);
        drop((object, engine));
        disk.power_cut();
        stop::close(Stop::BeforeCheckpointWrite, false);
        let engine = support::open(&disk).await.unwrap();
        let found = content(&engine.object("object").await.unwrap()).await.unwrap();
        assert!(found == expected);
        engine.close().await.unwrap();
    });
}

/// Polls `future` up to `polls` times, letting everybody else run in between, and drops it; what it gave.
async fn poll_some<F: Future>(future: F, polls: u64) -> Option<F::Output> {
    let mut future = Box::pin(future);
    for _ in 0..polls {
        let step = std::future::poll_fn(|context| Poll::Ready(future.as_mut().poll(context)));
        if let Poll::Ready(output) = step.await {
            return Some(output);
        }
        ms(1).await;
    }
    None
}

const FOLIO: usize = 16 * BLOCK;
/// Bytes of one writer, next to bytes of the other one.
const SLOT: usize = 700;

/// The four initial layouts of the object.
async fn laid_out(engine: &Engine, layout: usize) -> (Object, Vec<u8>) {
    let object = engine.create(format!("object-{layout}")).await.unwrap();
    let mut model = vec![0; FOLIO];
    match layout {
        0 => object.truncate(FOLIO as u64).await.unwrap(),
        1 => {
            object.preallocate(0..FOLIO as u64).await.unwrap();
            object.truncate(FOLIO as u64).await.unwrap();
        }
        _ => {
            object.write_at(0, &vec![1; FOLIO]).await.unwrap();
            model.fill(1);
            if layout == 2 {
                object.sync().await.unwrap();
            }
        }
    }
    (object, model)
}

/// Rounds of one plain write and one transaction over interleaved bytes of one folio, one of them cut
/// short; how many were.
async fn two_writers(disk: &SimDisk, layout: usize, rng: &mut Rng) -> u64 {
    let mut engine = support::open(disk).await.unwrap();
    let (mut object, mut model) = laid_out(&engine, layout).await;
    let mut cut_short = 0;
    for _ in 0..25 {
        if layout < 3 || rng.chance(700) {
            // Nothing is cached: both wait for the device on their way.
            drop(object);
            engine.close().await.unwrap();
            engine = support::open(disk).await.unwrap();
            object = engine.object(format!("object-{layout}")).await.unwrap();
        }
        let first = rng.below(8) as usize * 2 * SLOT;
        let slots: Vec<usize> = (0..6).map(|n| first + n * 2 * SLOT).collect();
        let (plain, logged) = (rng.below(200) as u8 + 20, rng.below(200) as u8 + 20);
        // The plain writer's slots are the even ones: one write each, the last of which may be cut.
        let writing = async {
            for &slot in &slots {
                object.write_at(slot as u64, &[plain; SLOT]).await.unwrap();
            }
        };
        let mut transaction = engine.transaction();
        for &slot in &slots {
            transaction.write_at(&object, (slot + SLOT) as u64, &[logged; SLOT]).unwrap();
        }
        let committing = async { transaction.commit().await.unwrap() };
        let polls = [1 + rng.below(8), u64::MAX];
        let polls = if rng.chance(500) { polls } else { [polls[1], polls[0]] };
        let outcome = tokio::join!(poll_some(writing, polls[0]), poll_some(committing, polls[1]));
        cut_short += u64::from(outcome.0.is_none()) + u64::from(outcome.1.is_none());
        let found = content(&object).await.unwrap();
        let mut whole = true;
        for &slot in &slots {
            let (mine, other) = (slot..slot + SLOT, slot + SLOT..slot + 2 * SLOT);
            whole &= found[mine.clone()].iter().all(|&b| b == plain);
            assert!(whole || outcome.0.is_none(), "the plain write is gone at {slot}");
            let all_new = found[other.clone()].iter().all(|&b| b == logged);
            let all_old = found[other.clone()] == model[other.clone()];
            assert!(all_new || (all_old && outcome.1.is_none()), "the commit is gone at {slot}");
            let is_old = found[mine.clone()] == model[mine.clone()];
            assert!(whole || is_old, "a plain write is torn at {slot}");
            model[mine.clone()].copy_from_slice(&found[mine]);
            model[other.clone()].copy_from_slice(&found[other]);
        }
        assert!(found == model, "bytes of nobody changed");
        if rng.chance(300) {
            object.sync().await.unwrap();
        }
    }
    engine.sync().await.unwrap();
    assert!(content(&object).await.unwrap() == model);
    drop(object);
    engine.close().await.unwrap();
    cut_short
}

#[test]
fn two_writers_of_one_folio_through_two_interfaces_both_survive() {
    let mut cut = 0;
    for seed in 0..3 {
        support::simulate(async {
            let (disk, engine) = fresh(DEVICE_BLOCKS, seed).await;
            let mut rng = Rng::new(seed);
            let mut models = Vec::new();
            engine.close().await.unwrap();
            for layout in 0..4 {
                cut += two_writers(&disk, layout, &mut rng).await;
                let engine = support::open(&disk).await.unwrap();
                let object = engine.object(format!("object-{layout}")).await.unwrap();
                models.push(content(&object).await.unwrap());
                drop(object);
                engine.close().await.unwrap();
            }
            disk.power_cut();
            let engine = support::open(&disk).await.unwrap();
            for (layout, model) in models.iter().enumerate() {
                let object = engine.object(format!("object-{layout}")).await.unwrap();
                assert!(content(&object).await.unwrap() == *model, "layout {layout}");
            }
            engine.close().await.unwrap();
        });
    }
    println!("race: {cut} of 600 writers were cut short");
    assert!(cut > 50);
}

/// A folio of sixteen blocks on a volume with room for few: the write of several of its blocks is refused
/// as a whole, beside a sync and readers.
#[test]
fn a_write_whose_second_block_finds_no_room_changes_nothing_and_hangs_nobody() {
    let mut refused = 0;
    for free in 0..6 {
        support::simulate(async {
            let (_disk, engine) = fresh(DEVICE_BLOCKS_TIGHT, free).await;
            let object = engine.create("object").await.unwrap();
            let filler = engine.create("filler").await.unwrap();
            object.write_at(0, &vec![1; FOLIO]).await.unwrap();
            engine.sync().await.unwrap();
            let mut block = 0;
            // A sync gives back what was promised for metadata and not used.
            for _ in 0..8 {
                while filler.write_at(at(block), &[3; BLOCK]).await.is_ok() {
                    block += 1;
                }
                engine.sync().await.unwrap();
            }
            filler.punch(0..at(free as usize)).await.unwrap();
            let before = tokio::time::Instant::now();
            let len = 5 * BLOCK;
            let bytes = vec![2; len];
            let write = object.write_at(at(3) + 100, &bytes);
            let (wrote, synced, read) = tokio::join!(write, engine.sync(), content(&object));
            synced.unwrap();
            assert!(before.elapsed() < Duration::from_secs(20), "somebody waited");
            assert!(read.is_ok());
            let found = content(&object).await.unwrap();
            let new = 3 * BLOCK + 100..3 * BLOCK + 100 + len;
            let accepted = wrote.is_ok();
            let expected = |at: usize| if accepted && new.contains(&at) { 2 } else { 1 };
            assert!((0..FOLIO).all(|at| found[at] == expected(at)), "{free} blocks free");
            assert!(accepted || wrote.unwrap_err().is_no_space());
            refused += u64::from(!accepted);
            engine.remove("filler").await.unwrap();
            object.write_at(at(3) + 100, &bytes).await.unwrap();
            object.sync().await.unwrap();
            drop((object, filler));
            engine.close().await.unwrap();
        });
    }
    println!("race: {refused} of 6 writes were refused in the middle");
    assert!(refused > 0);
}
