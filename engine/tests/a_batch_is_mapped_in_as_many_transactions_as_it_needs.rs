//! Scattered writes that tear many full leaves of the extent map apart need more log than one
//! transaction may take: they are mapped in several, a sync does not fail for it, and a cut between
//! them leaves each block old or new.

#![allow(clippy::unwrap_used)] // In helpers of tests as in tests: a failed unwrap is the failed test.

mod support;

use foliant::Engine;
use foliant::Object;
use foliant_device::sim::SimDisk;
use foliant_device::sim::SimOptions;
use support::BLOCK;

/// Extents that fill about 70 leaves, because they come in ascending order.
const EXTENTS: u64 = 7_500;
/// Between two of them, so that each goes into a leaf of its own and splits it: some 2 KiB of log each, where
/// this journal and this budget take 124 KiB at once.
const STEP: u64 = 107;

fn block(at: u64) -> [u8; BLOCK] {
    std::array::from_fn(|i| (at as u8).wrapping_mul(31) ^ (at >> 8) as u8 ^ i as u8 | 1)
}

/// The blocks between the extents that are written last.
fn torn() -> impl Iterator<Item = u64> {
    (1..EXTENTS / STEP).map(|leaf| leaf * STEP * 2 + 1)
}

async fn write(object: &Object, at: u64) {
    object.write_at(at * BLOCK as u64, &block(at)).await.unwrap();
}

async fn holds(object: &Object, at: u64, bytes: &[u8; BLOCK]) -> bool {
    let mut found = [0; BLOCK];
    object.read_at(at * BLOCK as u64, &mut found).await.unwrap();
    found == *bytes
}

/// An object whose leaves are full.
async fn with_full_leaves(seed: u64) -> (SimDisk, Engine, Object) {
    let disk = SimDisk::new(support::DEVICE_BLOCKS, SimOptions { seed, ..SimOptions::default() });
    support::format(&disk).await;
    let engine = support::open(&disk).await.unwrap();
    let object = engine.create("object").await.unwrap();
    for extent in 0..EXTENTS {
        write(&object, extent * 2).await;
    }
    object.sync().await.unwrap();
    (disk, engine, object)
}

/// How many of the blocks between the extents are there; the extents are, whatever happened.
async fn found(disk: &SimDisk) -> usize {
    support::is_sound(disk, true).await;
    let engine = support::open(disk).await.unwrap();
    let object = engine.object("object").await.unwrap();
    for extent in (0..EXTENTS).step_by(7) {
        assert!(holds(&object, extent * 2, &block(extent * 2)).await, "block {}", extent * 2);
    }
    let mut new = 0;
    for at in torn() {
        let is_new = holds(&object, at, &block(at)).await;
        assert!(is_new || holds(&object, at, &[0; BLOCK]).await, "block {at} is torn");
        new += usize::from(is_new);
    }
    drop(object);
    engine.close().await.unwrap();
    new
}

/// The story: a batch was mapped in one transaction, however much it changed. One that was too large for
/// the log failed with `TooLarge`, for good: the object was marked as failed, and its data stayed in memory.
#[test]
fn regression_a_batch_that_splits_every_leaf_is_synced() {
    support::simulate(async {
        let (disk, engine, object) = with_full_leaves(1).await;
        let before = engine.stats().commits;
        for at in torn() {
            write(&object, at).await;
        }
        object.sync().await.unwrap();
        let transactions = engine.stats().commits - before;
        assert!(transactions >= 2, "it was to be too much for one, and took {transactions}");
        drop(object);
        engine.close().await.unwrap();
        assert_eq!(found(&disk).await, torn().count());
    });
}

#[test]
fn a_cut_at_each_request_leaves_each_block_old_or_new() {
    let (mut parts, mut all) = (0, 0);
    for requests in 1.. {
        let over = support::simulate(async {
            let (disk, engine, object) = with_full_leaves(requests).await;
            for at in torn() {
                write(&object, at).await;
            }
            disk.crash_after_requests(requests);
            let synced = object.sync().await.is_ok();
            drop(object);
            let _ = engine.close().await;
            let over = disk.is_powered();
            disk.power_cut();
            let (new, most) = (found(&disk).await, torn().count());
            assert!(!synced || new == most, "{new} of {most} synced blocks are there");
            parts += usize::from(0 < new && new < most);
            all += usize::from(new == most);
            over
        });
        if over {
            break;
        }
    }
    println!("race: {parts} cuts left a part of the batch, {all} left all of it");
    assert!(parts > 0 && all > 0, "{parts} cuts left a part of the batch, {all} left all of it");
}
