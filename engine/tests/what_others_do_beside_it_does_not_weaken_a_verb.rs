//! Named regressions: a verb is right although somebody else writes, drops, or closes beside it.

#![allow(clippy::unwrap_used)] // In helpers of tests as in tests: a failed unwrap is the failed test.

mod support;

use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use foliant::Engine;
use foliant::Object;
use foliant_device::sim::SimDisk;
use foliant_device::sim::SimOptions;
use support::BLOCK;
use support::DEVICE_BLOCKS;
use support::DEVICE_BLOCKS_TIGHT;

/// A block whose writing makes the object this large.
const FAR: u64 = 100;

/// Polls `future` up to `polls` times, letting everybody else run in between; whether it ended.
async fn poll_some<F: Future>(mut future: Pin<&mut F>, polls: usize) -> bool {
    for _ in 0..polls {
        let step = std::future::poll_fn(|context| Poll::Ready(future.as_mut().poll(context)));
        if step.await.is_ready() {
            return true;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    false
}

fn at(block: u64) -> u64 {
    block * BLOCK as u64
}

/// Two objects, the second one with a stored block, opened freshly.
async fn volume(disk: &SimDisk) -> (Engine, Object, Object) {
    support::format(disk).await;
    let engine = support::open(disk).await.unwrap();
    engine.create("a").await.unwrap();
    let other = engine.create("b").await.unwrap();
    other.write_at(0, &[1; BLOCK]).await.unwrap();
    other.sync().await.unwrap();
    drop(other);
    engine.close().await.unwrap();
    let engine = support::open(disk).await.unwrap();
    let (a, b) = (engine.object("a").await.unwrap(), engine.object("b").await.unwrap());
    (engine, a, b)
}

/// Syncs an object of which one block is far from the start, while a commit holds the folio that the
/// sync wants first, and somebody writes a block that it has passed. The answer is the sync's.
async fn sync_beside_a_writer(engine: &Engine, a: &Object, b: &Object) -> foliant::Result<()> {
    a.write_at(at(FAR), &[7; BLOCK]).await.unwrap();
    let mut transaction = engine.transaction();
    transaction.write_at(a, at(FAR), b"x").unwrap();
    // Not cached, so that the commit waits for it with the folio of the far block locked.
    transaction.write_at(b, 0, b"x").unwrap();
    let mut commit = Box::pin(transaction.commit());
    let step = std::future::poll_fn(|context| Poll::Ready(commit.as_mut().poll(context)));
    if let Poll::Ready(outcome) = step.await {
        // Only a disk that is gone ends it here; else it would hold no folio.
        return Err(outcome.expect_err("the commit waits for the other block"));
    }
    let syncing = tokio::spawn({
        let a = a.clone();
        async move { a.sync().await }
    });
    for _ in 0..5 {
        tokio::task::yield_now().await;
    }
    let _ = a.write_at(at(FAR / 2), &[8; BLOCK]).await;
    drop(commit);
    syncing.await.unwrap()
}

/// The story: the block that was dirtied meanwhile kept the size from being recorded, and the sync
/// said that all was well.
#[test]
fn a_sync_records_the_size_that_it_found() {
    support::simulate(async {
        let disk = SimDisk::new(DEVICE_BLOCKS, SimOptions::default());
        let (engine, a, b) = volume(&disk).await;
        sync_beside_a_writer(&engine, &a, &b).await.expect("a sound disk");
        disk.power_cut();
        support::is_sound(&disk, true).await;
        drop((a, b, engine));
        let engine = support::open(&disk).await.unwrap();
        let a = engine.object("a").await.unwrap();
        assert_eq!(a.size(), at(FAR + 1), "the sync had acknowledged these blocks");
        let mut bytes = vec![0; BLOCK];
        a.read_at(at(FAR), &mut bytes).await.unwrap();
        assert!(bytes.iter().all(|&byte| byte == 7));
        engine.close().await.unwrap();
    });
}

/// The story: a batch had mapped blocks that it could not settle, the power went, and a transaction
/// that grew the object later brought them to light.
#[test]
fn what_a_cut_left_behind_the_end_does_not_come_to_light() {
    let mut left_behind = 0;
    for requests in 1..60 {
        support::simulate(async {
            let disk = SimDisk::new(DEVICE_BLOCKS, SimOptions::default());
            let (engine, a, b) = volume(&disk).await;
            disk.crash_after_requests(requests);
            let _ = sync_beside_a_writer(&engine, &a, &b).await;
            disk.power_cut();
            support::is_sound(&disk, true).await;
            drop((a, b, engine));
            let engine = support::open(&disk).await.unwrap();
            let a = engine.object("a").await.unwrap();
            if a.size() <= at(FAR) {
                left_behind += 1;
                let mut transaction = engine.transaction();
                transaction.write_at(&a, at(2 * FAR), b"x").unwrap();
                transaction.commit().await.unwrap().durable().await.unwrap();
                let mut bytes = vec![0; BLOCK];
                a.read_at(at(FAR), &mut bytes).await.unwrap();
                assert!(bytes.iter().all(|&byte| byte == 0), "cut at request {requests}");
            }
            engine.close().await.unwrap();
        });
    }
    assert!(left_behind > 0, "no cut came before the size was recorded");
}

/// The story: a writer on a full volume ran a checkpoint in its own task. Dropped, it left the writes
/// of that round in flight, and the next round wrote the same blocks again.
#[test]
fn a_dropped_writer_leaves_no_round_of_a_checkpoint_behind() {
    for polls in 1..40 {
        support::simulate(async {
            let disk = SimDisk::new(DEVICE_BLOCKS_TIGHT, SimOptions::default());
            support::format(&disk).await;
            let engine = support::open(&disk).await.unwrap();
            let (a, b) = (engine.create("a").await.unwrap(), engine.create("b").await.unwrap());
            for block in 0..80 {
                let mut transaction = engine.transaction();
                transaction.write_at(&a, at(block), &[3; BLOCK]).unwrap();
                transaction.commit().await.unwrap();
            }
            a.write_at(0, &[4; 80 * BLOCK]).await.unwrap();
            a.sync().await.unwrap();
            let large = vec![5; 90 * BLOCK];
            poll_some(std::pin::pin!(b.write_at(0, &large)), polls).await;
            let mut transaction = engine.transaction();
            transaction.write_at(&a, 0, &[9; 100]).unwrap();
            let _ = transaction.commit().await;
            let again = tokio::time::timeout(Duration::from_secs(300), b.write_at(0, &large));
            let _ = again.await.expect("nobody waits for ever");
            assert_eq!(disk.overlaps(), 0, "dropped after {polls} polls");
            engine.close().await.unwrap();
        });
    }
}

/// The story: a write that had been let in returned Ok behind the closing's last look at its object.
#[test]
fn a_write_that_returns_ok_beside_a_close_is_there_afterwards() {
    for wait_ms in 0..24 {
        support::simulate(async {
            let options = SimOptions { seed: wait_ms, latency_ms_max: 10, ..SimOptions::default() };
            let disk = SimDisk::new(DEVICE_BLOCKS, options);
            let (engine, a, b) = volume(&disk).await;
            a.write_at(0, &[1; BLOCK]).await.unwrap();
            drop((a, b));
            engine.close().await.unwrap();
            let engine = support::open(&disk).await.unwrap();
            let (a, b) = (engine.object("a").await.unwrap(), engine.object("b").await.unwrap());
            // Closing looks at `a` first, and is busy with `b` for a while then.
            b.write_at(0, &[2; 300 * BLOCK]).await.unwrap();
            // Not cached: the write must read the rest of the block first.
            let writing = tokio::spawn(async move { a.write_at(10, b"late").await });
            tokio::time::sleep(Duration::from_millis(wait_ms % 8)).await;
            engine.close().await.expect("a sound disk");
            let accepted = writing.await.unwrap().is_ok();
            let engine = support::open(&disk).await.unwrap();
            let a = engine.object("a").await.unwrap();
            let mut bytes = [0; 4];
            a.read_at(10, &mut bytes).await.unwrap();
            assert!(!accepted || &bytes == b"late", "seed {wait_ms}");
            engine.close().await.unwrap();
        });
    }
}
