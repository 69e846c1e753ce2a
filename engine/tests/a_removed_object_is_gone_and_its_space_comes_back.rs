//! Removal of an object: its handles are closed for every verb, nobody sees half of it, and the space of
//! a large, fragmented one comes back even when the removal is interrupted, any number of times.

#![allow(clippy::unwrap_used)] // In helpers of tests as in tests: a failed unwrap is the failed test.

mod support;

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::time::Duration;

use foliant::Engine;
use foliant::ErrorKind;
use foliant::Object;
use foliant_device::DeviceErrorKind;
use foliant_device::sim::FaultRule;
use foliant_device::sim::Rng;
use foliant_device::sim::SimDisk;
use foliant_device::sim::SimOptions;
use futures_util::future::join_all;
use support::BLOCK;

/// More than three of the steps in which extents are removed.
const FRAGMENTS: u64 = 1_700;
/// Metadata that an empty volume may keep.
const SLACK: u64 = 2 * BLOCK as u64;

async fn new_disk(seed: u64) -> (SimDisk, Engine) {
    let options = SimOptions { seed, ..SimOptions::default() };
    let disk = SimDisk::new(support::DEVICE_BLOCKS, options);
    support::format(&disk).await;
    let engine = support::open(&disk).await.unwrap();
    (disk, engine)
}

fn content(block: u64) -> [u8; BLOCK] {
    let mut bytes = [block as u8 | 1; BLOCK];
    bytes[..8].copy_from_slice(&(block + 1).to_le_bytes());
    bytes
}

/// Every second block is stored, so that no two extents can be joined.
async fn fragmented(engine: &Engine, name: &str) -> Object {
    let object = engine.create(name).await.unwrap();
    for block in 0..FRAGMENTS {
        object.write_at(2 * block * BLOCK as u64, &content(block)).await.unwrap();
    }
    object.sync().await.unwrap();
    let found = object.extents(0..i64::MAX as u64, usize::MAX).await.unwrap();
    assert_eq!(found.len() as u64, FRAGMENTS);
    object
}

async fn check_fragmented(object: &Object) {
    let mut bytes = vec![0; 2 * FRAGMENTS as usize * BLOCK];
    let read = object.read_at(0, &mut bytes).await.unwrap();
    assert_eq!(read, bytes.len() - BLOCK);
    for (at, pair) in bytes.chunks(2 * BLOCK).enumerate() {
        assert!(pair[..BLOCK] == content(at as u64), "fragment {at}");
        assert!(pair[BLOCK..].iter().all(|&byte| byte == 0), "the hole behind {at}");
    }
}

async fn closed<T>(verb: &str, work: impl Future<Output = foliant::Result<T>>) {
    match work.await {
        Ok(_) => panic!("{verb} of a removed object succeeds"),
        Err(cause) => assert_eq!(cause.kind(), ErrorKind::Closed, "{verb}: {cause}"),
    }
}

async fn every_verb_is_closed(engine: &Engine, object: &Object) {
    let mut bytes = [0; 10];
    closed("read_at", object.read_at(0, &mut bytes)).await;
    closed("read", object.read(0..10)).await;
    closed("an empty read", object.read(0..0)).await;
    closed("write_at", object.write_at(0, b"late")).await;
    closed("write_at behind the end", object.write_at(1 << 30, b"late")).await;
    closed("zero", object.zero(0..100)).await;
    closed("truncate to less", object.truncate(1)).await;
    closed("truncate to more", object.truncate(1 << 30)).await;
    closed("punch", object.punch(0..100)).await;
    closed("punch of blocks", object.punch(0..10 * BLOCK as u64)).await;
    closed("preallocate", object.preallocate(0..100)).await;
    closed("sync", object.sync()).await;
    closed("extents", object.extents(0..100, 1)).await;
    let mut transaction = engine.transaction();
    let read = transaction.read_at(object, 0, &mut bytes).await;
    assert_eq!(read.unwrap_err().kind(), ErrorKind::Closed);
    if transaction.write_at(object, 0, b"late").is_ok() {
        closed("commit", transaction.commit()).await;
    }
}

#[test]
fn a_handle_of_a_removed_object_is_closed_for_every_verb() {
    for seed in 0..4 {
        support::simulate(async {
            let (disk, engine) = new_disk(seed).await;
            let free = engine.stats().free_bytes;
            let object = engine.create("object").await.unwrap();
            object.write_at(0, &vec![1; 50 * BLOCK]).await.unwrap();
            if seed % 2 == 0 {
                object.sync().await.unwrap();
                object.write_at(9_000, b"dirty when it goes").await.unwrap();
            }
            let mut before = engine.transaction();
            before.write_at(&object, 0, b"gathered before").unwrap();
            let held = object.read(0..10).await.unwrap();
            let clone = object.clone();
            engine.remove("object").await.unwrap();
            every_verb_is_closed(&engine, &object).await;
            every_verb_is_closed(&engine, &clone).await;
            closed("a commit gathered before", before.commit()).await;
            assert_eq!(&held[..], &[1; 10], "bytes handed out are the reader's");
            // The name is free, and whoever takes it has nothing to do with the old handle.
            let next = engine.create("object").await.unwrap();
            assert_eq!(next.size(), 0);
            next.write_at(0, b"next").await.unwrap();
            every_verb_is_closed(&engine, &object).await;
            assert_eq!(&next.read(0..9).await.unwrap()[..], b"next");
            assert_eq!(engine.sync().await.map_err(|cause| cause.kind()), Ok(()));
            engine.remove("object").await.unwrap();
            drop((object, clone, next, held));
            engine.close().await.unwrap();
            let engine = support::open(&disk).await.unwrap();
            assert!(engine.stats().free_bytes + SLACK >= free);
            every_name_is_gone(&engine).await;
        });
    }
}

async fn every_name_is_gone(engine: &Engine) {
    assert!(engine.list("", 10).await.unwrap().is_empty());
    assert_eq!(engine.object("object").await.unwrap_err().kind(), ErrorKind::NotFound);
}

/// A verb beside the removal comes before it, whole, or hears that the object is closed.
async fn beside_a_removal(seed: u64) {
    let (disk, engine) = new_disk(seed).await;
    let free = engine.stats().free_bytes;
    let stored = engine.create("object").await.unwrap();
    stored.write_at(0, &vec![7; 200 * BLOCK]).await.unwrap();
    drop(stored);
    engine.close().await.unwrap();
    let engine = support::open(&disk).await.unwrap();
    let object = engine.object("object").await.unwrap();
    let verbs = (0..24_u64).map(|n| {
        let (object, engine) = (object.clone(), engine.clone());
        async move {
            let mut rng = Rng::new(seed << 8 | n);
            tokio::time::sleep(Duration::from_millis(rng.below(12))).await;
            let at = rng.below(190) * BLOCK as u64;
            let mut bytes = vec![0; 3 * BLOCK];
            let outcome = match n % 8 {
                0..=2 => object.read_at(at, &mut bytes).await.map(|read| {
                    assert_eq!(read, bytes.len());
                    assert!(bytes.iter().all(|&byte| byte == 7), "read beside a removal");
                }),
                3 => object.read(at..at + 5_000).await.map(|bytes| {
                    assert_eq!(bytes.len(), 5_000);
                    assert!(bytes.iter().all(|&byte| byte == 7), "read beside a removal");
                }),
                4 => object.write_at(at + 10, &[7; 9_000]).await,
                5 => object.sync().await,
                6 => object.preallocate(300 * BLOCK as u64..310 * BLOCK as u64).await,
                _ => {
                    let mut transaction = engine.transaction();
                    transaction.write_at(&object, at + 10, &[7; 5_000]).unwrap();
                    transaction.commit().await.map(|_| ())
                }
            };
            if let Err(cause) = outcome {
                assert_eq!(cause.kind(), ErrorKind::Closed, "verb {n}: {cause}");
            }
        }
    });
    let removal = async {
        tokio::time::sleep(Duration::from_millis(seed % 12)).await;
        engine.remove("object").await.unwrap();
    };
    tokio::join!(join_all(verbs), removal);
    every_name_is_gone(&engine).await;
    drop(object);
    engine.sync().await.unwrap();
    assert_eq!(engine.stats().dirty_bytes, 0, "dirty data of nobody");
    engine.close().await.unwrap();
    let engine = support::open(&disk).await.unwrap();
    let now = engine.stats().free_bytes;
    assert!(now + SLACK >= free, "{now} of {free} bytes are free");
}

#[test]
fn verbs_beside_a_removal_come_before_it_or_are_closed() {
    support::for_seeds(0..60, |seed| support::simulate(beside_a_removal(seed)));
}

/// How a removal is interrupted.
#[derive(Clone, Copy, Debug)]
enum Interruption {
    /// The power goes at this request; and again at this request of the next opening.
    Cut(u64, u64),
    /// The future is dropped, and the power goes a while later.
    Dropped(u64),
}

async fn interrupt(disk: &SimDisk, engine: &Engine, how: Interruption) -> bool {
    match how {
        Interruption::Cut(requests, _) => {
            disk.crash_after_requests(requests);
            engine.remove("object").await.is_ok()
        }
        Interruption::Dropped(ms) => {
            let wait = Duration::from_millis(ms);
            let removed = tokio::time::timeout(wait, engine.remove("object")).await;
            tokio::time::sleep(wait).await;
            removed.is_ok_and(|removed| removed.is_ok())
        }
    }
}

/// Opens the cut volume, which may have to finish a removal; perhaps that is cut as well.
async fn open_again(disk: &SimDisk, how: Interruption) -> Engine {
    disk.power_cut();
    support::is_sound(disk, true).await;
    if let Interruption::Cut(_, requests) = how {
        disk.crash_after_requests(requests);
        let opened = support::open(disk).await;
        disk.power_cut();
        support::is_sound(disk, true).await;
        drop(opened);
    }
    support::open(disk).await.expect("a cut volume opens")
}

/// Whether the last opening had a removal to finish.
async fn interrupted(seed: u64, how: Interruption) -> bool {
    let (disk, engine) = new_disk(seed).await;
    let free = engine.stats().free_bytes;
    drop(fragmented(&engine, "object").await);
    engine.close().await.unwrap();
    // Nothing is cached, so that each step of the removal has to read and the next one is apart.
    let engine = support::open(&disk).await.unwrap();
    assert_eq!(engine.stats().commits, 0, "an opening without work changes nothing");
    let object = engine.object("object").await.unwrap();
    object.write_at(BLOCK as u64 / 2, &content(0)[BLOCK / 2..]).await.unwrap();
    let answered = interrupt(&disk, &engine, how).await;
    drop((object, engine));
    let engine = open_again(&disk, how).await;
    let finished = engine.stats().commits > 0;
    let there = engine.object("object").await;
    let gone = there.is_err();
    assert!(gone || !answered, "an answered removal did not happen");
    assert!(gone || !finished, "an opening changes something, and it is no removal");
    if let Ok(object) = there {
        check_fragmented(&object).await;
        engine.remove("object").await.unwrap();
    }
    every_name_is_gone(&engine).await;
    // What the removal freed can be had before the volume is closed: all of it is written again.
    let again = fragmented(&engine, "again").await;
    check_fragmented(&again).await;
    engine.remove("again").await.unwrap();
    drop(again);
    engine.close().await.unwrap();
    let engine = support::open(&disk).await.unwrap();
    let now = engine.stats().free_bytes;
    assert!(now + SLACK >= free, "{now} of {free} bytes are free");
    finished
}

#[test]
fn an_interrupted_removal_is_finished_at_open_and_its_space_comes_back() {
    let finished = AtomicU64::new(0);
    support::for_seeds(0..60, |seed| {
        let how = match seed % 4 {
            0 => Interruption::Dropped(seed / 4 % 16),
            _ => Interruption::Cut(seed / 4 % 24 + 1, seed % 17 + 1),
        };
        let late = support::simulate(interrupted(seed, how));
        finished.fetch_add(u64::from(late), Ordering::Relaxed);
    });
    let finished = finished.into_inner();
    println!("{finished} removals were finished at open");
    assert!(finished > 3, "only {finished} removals were left to the opening");
}

/// Writes stop at the `nth` request while a removal is on its way; the process recovers, and the space is there without
/// an opening. Whether there was such a request.
async fn recovered(nth: u64) -> Option<u64> {
    let (disk, engine) = new_disk(nth).await;
    let before = engine.stats().free_bytes;
    drop(fragmented(&engine, "object").await);
    engine.close().await.unwrap();
    // Nothing is cached, so that each step of the removal has to read, and the log is written between them.
    let engine = support::open(&disk).await.unwrap();
    let fault = FaultRule::fail(DeviceErrorKind::Io).blocks(0..32 + 1024);
    let rule = disk.inject(fault.after(nth).times(1));
    let removed = engine.remove("object").await;
    if disk.struck(rule) == 0 {
        return None;
    }
    // The answer may come before the failure is heard.
    tokio::time::sleep(Duration::from_secs(1)).await;
    disk.withdraw_all();
    let resumed = engine.recover().await.unwrap();
    if let Err(cause) = removed {
        assert_eq!(cause.kind(), ErrorKind::WritesStopped, "{cause}");
        if engine.object("object").await.is_ok() {
            engine.remove("object").await.unwrap();
        }
    }
    every_name_is_gone(&engine).await;
    engine.close().await.unwrap();
    support::is_sound(&disk, true).await;
    let engine = support::open(&disk).await.unwrap();
    assert_eq!(engine.stats().commits, 0, "request {nth}: something was left to the opening");
    let now = engine.stats().free_bytes;
    assert!(now + SLACK >= before, "request {nth}: {now} of {before} bytes are free");
    Some(resumed.removals_finished)
}

#[test]
fn a_removal_that_a_failing_log_cut_off_is_finished_by_recover() {
    let runs = (0..).map_while(|nth| support::simulate(recovered(nth)));
    let (mut cut, mut finished) = (0, 0);
    runs.for_each(|n| (cut, finished) = (cut + 1, finished + n));
    println!("{cut} removals met a failure, {finished} were finished by recover");
    assert!(cut > 3 && finished > 1, "{cut} removals met a failure, {finished} were finished");
}
