//! The power goes at every single request of a change: a transaction is there whole or not at all, size
//! included; an append that did not end leaves nothing behind the end and no space lost; growth shows
//! zeroes; and bytes that look like the journal are bytes.

#![allow(clippy::unwrap_used)] // In helpers of tests as in tests: a failed unwrap is the failed test.

mod support;

use std::collections::BTreeMap;

use foliant::Engine;
use foliant::Object;
use foliant::testing::Canary;
use foliant::testing::break_on_purpose;
use foliant::testing::superblocks;
use foliant_device::sim::SimDisk;
use support::BLOCK;
use support::JOURNAL_BYTES;
use support::fresh;

async fn content(object: &Object) -> Vec<u8> {
    let mut bytes = vec![0; object.size() as usize];
    let read = object.read_at(0, &mut bytes).await.unwrap();
    assert_eq!(read, bytes.len());
    bytes
}

async fn read(engine: &Engine, name: &str) -> Vec<u8> {
    content(&engine.object(name).await.unwrap()).await
}

/// What a cut left of a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Left {
    Old,
    New,
    Mixed,
}

/// A transaction over two objects that grows both, with the power cut at the `requests`-th request of it
/// and of the close behind it; `None` when the cut came too late.
async fn cut_a_transaction(requests: u64) -> Option<Left> {
    let (disk, engine) = fresh(requests).await;
    for name in ["a", "b"] {
        let object = engine.create(name).await.unwrap();
        object.write_at(0, &[1; 6_000]).await.unwrap();
        object.sync().await.unwrap();
    }
    engine.close().await.unwrap();
    let engine = support::open(&disk).await.unwrap();
    disk.crash_after_requests(requests);
    let mut durable = false;
    if let (Ok(a), Ok(b)) = (engine.object("a").await, engine.object("b").await) {
        let mut transaction = engine.transaction();
        transaction.write_at(&a, 5_000, &[2; 9_000]).unwrap();
        transaction.write_at(&b, 20_000, &[2; 100]).unwrap();
        if let Ok(commit) = transaction.commit().await {
            durable = commit.durable().await.is_ok();
        }
    }
    let _ = engine.close().await;
    let over = disk.is_powered();
    disk.power_cut();
    support::is_sound(&disk, true).await;
    let engine = support::open(&disk).await.unwrap();
    let (a, b) = (read(&engine, "a").await, read(&engine, "b").await);
    engine.close().await.unwrap();
    let mut new_a = vec![1; 5_000];
    new_a.resize(14_000, 2);
    let mut new_b = vec![1; 6_000];
    new_b.resize(20_000, 0);
    new_b.resize(20_100, 2);
    let old = vec![1; 6_000];
    let left = match (a == old && b == old, a == new_a && b == new_b) {
        (true, _) if !durable => Left::Old,
        (_, true) => Left::New,
        _ => Left::Mixed,
    };
    (!over).then_some(left)
}

fn cut_everywhere() -> BTreeMap<Left, u64> {
    let mut left = BTreeMap::new();
    for requests in 1.. {
        let Some(found) = support::simulate(cut_a_transaction(requests)) else { break };
        *left.entry(found).or_insert(0) += 1;
    }
    left
}

#[test]
fn a_transaction_with_its_size() {
    let left = cut_everywhere();
    println!("race: what the cuts left: {left:?}");
    assert_eq!(left.get(&Left::Mixed), None);
    assert!(left.contains_key(&Left::Old) && left.contains_key(&Left::New), "{left:?}");
    break_on_purpose(Some(Canary::LeaveSizeOut));
    let broken = cut_everywhere();
    break_on_purpose(None);
    assert!(broken.contains_key(&Left::Mixed), "the canary survived");
}

const OLD: usize = 5_000;
const ADDED: usize = 90_000;

/// Free bytes of a volume with one object, once everything is at rest.
async fn free_at_rest(disk: &SimDisk) -> (u64, usize) {
    let engine = support::open(disk).await.unwrap();
    let size = read(&engine, "a").await.len();
    engine.close().await.unwrap();
    let engine = support::open(disk).await.unwrap();
    let free = engine.stats().free_bytes;
    engine.close().await.unwrap();
    (free, size)
}

/// A volume with an object of this size that met no accident.
async fn reference(size: usize) -> u64 {
    let (disk, engine) = fresh(0).await;
    let object = engine.create("a").await.unwrap();
    object.write_at(0, &[1; OLD]).await.unwrap();
    object.sync().await.unwrap();
    if size > OLD {
        object.write_at(OLD as u64, &vec![2; size - OLD]).await.unwrap();
        object.sync().await.unwrap();
    }
    drop(object);
    engine.close().await.unwrap();
    free_at_rest(&disk).await.0
}

/// An append whose sync is cut at the `requests`-th request; the size found, `None` when it was too late.
async fn cut_an_append(requests: u64) -> Option<usize> {
    let (disk, engine) = fresh(requests).await;
    let object = engine.create("a").await.unwrap();
    object.write_at(0, &[1; OLD]).await.unwrap();
    object.sync().await.unwrap();
    disk.crash_after_requests(requests);
    let wrote = object.write_at(OLD as u64, &vec![2; ADDED]).await;
    let synced = object.sync().await;
    let over = disk.is_powered();
    drop((object, engine));
    disk.power_cut();
    support::is_sound(&disk, true).await;
    let engine = support::open(&disk).await.unwrap();
    let object = engine.object("a").await.unwrap();
    let found = content(&object).await;
    assert!((wrote.is_err() || synced.is_err()) || found.len() == OLD + ADDED);
    assert!(found[..OLD].iter().all(|&b| b == 1) && found[OLD..].iter().all(|&b| b == 2));
    let end = (found.len().div_ceil(BLOCK) * BLOCK) as u64;
    let behind = object.extents(end..u64::MAX / 2, 10).await.unwrap();
    assert!(behind.is_empty(), "cut at {requests}: {behind:?} behind the end {end}");
    drop(object);
    engine.close().await.unwrap();
    let (free, size) = free_at_rest(&disk).await;
    assert_eq!(size, found.len());
    assert_eq!(free, reference(size).await, "cut at {requests}: space lost or won, size {size}");
    (!over).then_some(size)
}

#[test]
fn an_append_leaves_nothing_behind_the_end_and_the_free_space_is_exact() {
    let mut sizes = BTreeMap::new();
    for requests in 1.. {
        let Some(size) = support::simulate(cut_an_append(requests)) else { break };
        *sizes.entry(size).or_insert(0) += 1;
    }
    println!("race: sizes after the cuts: {sizes:?}");
    assert!(sizes.contains_key(&OLD), "{sizes:?}");
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Growth {
    Write,
    Truncate,
    Transaction,
}

fn points() -> Vec<usize> {
    let edges = [512, 1024, BLOCK, 2 * BLOCK, 16 * BLOCK];
    edges.iter().flat_map(|&edge| [edge - 1, edge, edge + 1]).collect()
}

/// An object of `old` bytes of 1 with bytes of 0xDD behind them on the device.
async fn polluted(engine: &Engine, name: &str, old: usize) -> Object {
    let object = engine.create(name).await.unwrap();
    object.write_at(0, &vec![0xDD; 17 * BLOCK]).await.unwrap();
    object.write_at(0, &vec![1; old]).await.unwrap();
    object.sync().await.unwrap();
    object.truncate(old as u64).await.unwrap();
    object
}

fn grown(old: usize, start: usize, growth: Growth) -> Vec<u8> {
    let mut bytes = vec![1; old];
    bytes.resize(start, 0);
    bytes.push(if growth == Growth::Truncate { 0 } else { 5 });
    bytes
}

/// Grows objects by one kind from and to every edge; the wrong ones: at once, after reopening, after a cut.
async fn grow_everywhere(growth: Growth) -> (u64, u64) {
    let (disk, engine) = fresh(9).await;
    let mut known = BTreeMap::new();
    for old in points() {
        for start in points().into_iter().filter(|&start| start >= old) {
            let name = format!("{old}-{start}");
            polluted(&engine, &name, old).await;
            known.insert(name, (old, start));
        }
    }
    engine.close().await.unwrap();
    let engine = support::open(&disk).await.unwrap();
    let mut wrong = 0;
    for (name, &(old, start)) in &known {
        let object = engine.object(name).await.unwrap();
        match growth {
            Growth::Write => object.write_at(start as u64, &[5]).await.unwrap(),
            Growth::Truncate => object.truncate(start as u64 + 1).await.unwrap(),
            Growth::Transaction => {
                let mut transaction = engine.transaction();
                transaction.write_at(&object, start as u64, &[5]).unwrap();
                transaction.commit().await.unwrap().durable().await.unwrap();
            }
        }
        wrong += u64::from(content(&object).await != grown(old, start, growth));
    }
    engine.sync().await.unwrap();
    drop(engine);
    disk.power_cut();
    support::is_sound(&disk, true).await;
    for _ in 0..2 {
        let engine = support::open(&disk).await.unwrap();
        for (name, &(old, start)) in &known {
            wrong += u64::from(read(&engine, name).await != grown(old, start, growth));
        }
        engine.close().await.unwrap();
    }
    (known.len() as u64, wrong)
}

#[test]
fn growth_from_every_edge_to_every_edge_shows_zeroes_at_once_and_after_a_crash() {
    for growth in [Growth::Write, Growth::Truncate, Growth::Transaction] {
        let (objects, wrong) = support::simulate(grow_everywhere(growth));
        assert_eq!(wrong, 0, "{growth:?}");
        println!("race: {objects} objects grew by {growth:?} over bytes that were cut off");
        assert!(objects > 100);
    }
    break_on_purpose(Some(Canary::LeaveOldEnd));
    let (_, wrong) = support::simulate(grow_everywhere(Growth::Transaction));
    break_on_purpose(None);
    assert!(wrong > 0, "the canary survived");
}

/// Blocks of the disk that mean something: superblocks, journal headers and groups, metadata.
fn suspicious(disk: &SimDisk) -> Vec<Vec<u8>> {
    let log = 32..32 + JOURNAL_BYTES / BLOCK as u64 + 40;
    let places = superblocks().into_iter().chain(0..32).chain(log);
    let found = places.map(|at| disk.peek(at)).filter(|block| block.iter().any(|&b| b != 0));
    found.take(120).collect()
}

/// Rounds of writing what the disk looks like into objects, with a cut in each; how many blocks of it.
async fn write_what_looks_like_the_journal(seed: u64) -> u64 {
    let (disk, mut engine) = fresh(seed).await;
    for name in ["logged", "plain"] {
        engine.create(name).await.unwrap();
    }
    let mut written = 0;
    let mut logged: Vec<u8> = Vec::new();
    for round in 0..10 {
        let blocks = suspicious(&disk);
        let (a, b) =
            (engine.object("logged").await.unwrap(), engine.object("plain").await.unwrap());
        let plain: Vec<u8> = blocks.concat();
        b.write_at(0, &plain).await.unwrap();
        b.sync().await.unwrap();
        let mut next = logged.clone();
        for (n, block) in blocks.iter().enumerate() {
            // Whole, then cut off in front, so that it stands in the log at other places.
            let at = n * BLOCK + (round * 8 + n) % 60;
            next.resize(next.len().max(at + BLOCK), 0);
            next[at..at + BLOCK].copy_from_slice(block);
            let mut transaction = engine.transaction();
            transaction.write_at(&a, at as u64, block).unwrap();
            transaction.commit().await.unwrap().durable().await.unwrap();
            written += 1;
        }
        logged = next;
        drop((a, b, engine));
        disk.power_cut();
        support::is_sound(&disk, true).await;
        engine = support::open(&disk).await.unwrap();
        assert!(read(&engine, "logged").await == logged, "seed {seed}, round {round}: logged");
        assert!(read(&engine, "plain").await[..plain.len()] == plain, "round {round}: plain");
    }
    engine.close().await.unwrap();
    written
}

#[test]
fn any_payload_survives_a_replay() {
    let mut written = 0;
    for seed in 0..3 {
        written += support::simulate(write_what_looks_like_the_journal(seed));
    }
    println!("race: {written} blocks of journal, superblock and metadata were written as data");
    assert!(written > 500);
    break_on_purpose(Some(Canary::ScanOn));
    let run = || support::simulate(write_what_looks_like_the_journal(0));
    let outcome = std::panic::catch_unwind(run);
    break_on_purpose(None);
    assert!(outcome.is_err(), "the canary survived");
}
