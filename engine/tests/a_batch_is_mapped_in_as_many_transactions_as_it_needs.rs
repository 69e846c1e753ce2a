//! Scattered writes that tear many full leaves of the extent map apart need more log than one
//! transaction may take: they are mapped in several, and a sync does not fail for it.

#![allow(clippy::unwrap_used)] // In helpers of tests as in tests: a failed unwrap is the failed test.

mod support;

use foliant_device::sim::SimDisk;
use foliant_device::sim::SimOptions;
use support::BLOCK;

/// Extents that fill about 70 leaves, because they come in ascending order.
const EXTENTS: u64 = 7_500;
/// Between two of them, so that each goes into a leaf of its own and splits it: some 4 KiB of log each, where
/// this journal and this budget take 124 KiB at once.
const STEP: u64 = 107;

fn block(at: u64, round: u8) -> [u8; BLOCK] {
    std::array::from_fn(|i| (at as u8).wrapping_mul(31) ^ (at >> 8) as u8 ^ i as u8 ^ round)
}

/// The story: a batch was mapped in one transaction, however much it changed. One that was too large for
/// the log failed with `TooLarge`, for good: the object was marked as failed, and its data stayed in memory.
#[test]
fn regression_a_batch_that_splits_every_leaf_is_synced() {
    support::simulate(async {
        let disk = SimDisk::new(support::DEVICE_BLOCKS, SimOptions::default());
        support::format(&disk).await;
        let engine = support::open(&disk).await.unwrap();
        let object = engine.create("object").await.unwrap();
        let write = async |at: u64, round: u8| {
            object.write_at(at * BLOCK as u64, &block(at, round)).await.unwrap();
        };
        for extent in 0..EXTENTS {
            write(extent * 2, 0).await;
        }
        object.sync().await.unwrap();
        let before = engine.stats().commits;
        let torn: Vec<u64> = (1..EXTENTS / STEP).map(|leaf| leaf * STEP * 2 + 1).collect();
        for &at in &torn {
            write(at, 1).await;
        }
        object.sync().await.unwrap();
        let transactions = engine.stats().commits - before;
        assert!(transactions >= 3, "it was to be too much for one, and took {transactions}");
        drop(object);
        engine.close().await.unwrap();
        support::is_sound(&disk, true).await;
        let engine = support::open(&disk).await.unwrap();
        let object = engine.object("object").await.unwrap();
        let mut found = [0; BLOCK];
        for extent in 0..EXTENTS {
            object.read_at(extent * 2 * BLOCK as u64, &mut found).await.unwrap();
            assert!(found == block(extent * 2, 0), "block {}", extent * 2);
        }
        for at in torn {
            object.read_at(at * BLOCK as u64, &mut found).await.unwrap();
            assert!(found == block(at, 1), "block {at}");
        }
        drop(object);
        engine.close().await.unwrap();
    });
}
