//! Who asks for a large region of memory gets it, although no such region is free and nothing is low:
//! what lies between the free blocks is written and brought home because somebody waits.

#![allow(clippy::unwrap_used)] // In helpers of tests as in tests: a failed unwrap is the failed test.

mod support;

use std::time::Duration;

use foliant_device::sim::Rng;
use foliant_device::sim::SimDisk;
use foliant_device::sim::SimOptions;
use support::BLOCK;

const BLOCKS: u64 = 2_400;
/// Far under the low watermark's share of the memory.
const COMMITS: u64 = 300;
/// The largest that one shared read may ask for is twice as much.
const REGION_BYTES: u64 = 1 << 20;

/// The story: a read without a copy asked for one region of 256 blocks in the smallest budget. Two
/// thirds of the memory were free, and in every region of that size lay a block with a journal
/// mark, because commits and reads had taken turns. Memory counted blocks, so it was not low, nobody
/// checkpointed, and after 30 s the read failed with `OutOfMemory`.
#[test]
fn regression_a_large_region_is_found_between_journaled_blocks() {
    for seed in 0..4 {
        support::simulate(async {
            let options = SimOptions { seed, ..SimOptions::default() };
            let disk = SimDisk::new(support::DEVICE_BLOCKS, options);
            support::format(&disk).await;
            let engine = support::open(&disk).await.unwrap();
            let object = engine.create("object").await.unwrap();
            let mut rng = Rng::new(seed);
            let mut expected = support::bytes(&mut rng, BLOCKS as usize * BLOCK);
            for (piece, bytes) in expected.chunks(100 * BLOCK).enumerate() {
                object.write_at((piece * 100 * BLOCK) as u64, bytes).await.unwrap();
            }
            object.sync().await.unwrap();
            for round in 0..COMMITS {
                for _ in 0..5 {
                    let at = rng.below(BLOCKS) * BLOCK as u64;
                    object.read_at(at, &mut [0; BLOCK]).await.unwrap();
                }
                let at = (rng.below(BLOCKS) * BLOCK as u64 + round % 4_000) as usize;
                let mut transaction = engine.transaction();
                transaction.write_at(&object, at as u64, &[round as u8; 8]).unwrap();
                transaction.commit().await.unwrap().durable().await.unwrap();
                expected[at..at + 8].fill(round as u8);
            }
            let used = engine.stats().memory_used_bytes;
            let started = tokio::time::Instant::now();
            let at = 1_000 * BLOCK as u64 + 100;
            let found = object.read(at..at + REGION_BYTES).await;
            let found = found.unwrap_or_else(|cause| panic!("{used} bytes used before, {cause}"));
            assert!(found[..] == expected[at as usize..][..REGION_BYTES as usize]);
            let waited = started.elapsed();
            assert!(waited < Duration::from_secs(2), "the region was found after {waited:?}");
            drop((found, object));
            engine.close().await.unwrap();
        });
    }
}
