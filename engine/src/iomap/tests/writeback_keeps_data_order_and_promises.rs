//! Batches: what is on the device when, what a failure leaves, which size may be durable.

use std::sync::Arc;

use crate::error::ErrorKind;
use crate::iomap::contract::MappingProvider;
use crate::iomap::pause::Canary;
use crate::iomap::pause::Point;
use crate::iomap::testkit::Random;
use crate::iomap::testkit::block_on;
use crate::iomap::testkit::mock_room;
use crate::limits::WRITEBACK_BATCH_BLOCKS;
use crate::limits::WRITEBACK_RUN_BLOCKS;
use crate::units::BLOCK;
use crate::units::FileBlocks;

const ALL: FileBlocks = FileBlocks { start: 0, end: u64::MAX };

#[test]
fn scattered_blocks_leave_in_few_large_writes() {
    block_on(async {
        let room = mock_room();
        for block in 0..200 {
            room.mapped.write_at(3 * block * BLOCK, &[1]).await.unwrap();
        }
        assert_eq!(room.mapped.write_back(ALL).await.unwrap(), 200);
        let writes = room.transport.with(|t| t.writes.clone());
        assert_eq!(writes.len() as u64, 200_u64.div_ceil(WRITEBACK_RUN_BLOCKS));
        assert_eq!(room.provider.counts().done, 1, "one transaction for all");
        room.expect_balance();
    });
}

#[test]
fn batches_are_bounded() {
    block_on(async {
        let room = mock_room();
        let blocks = WRITEBACK_BATCH_BLOCKS + 100;
        room.mapped.write_at(0, &vec![1; (blocks * BLOCK) as usize]).await.unwrap();
        let first = room.mapped.write_back_batch(ALL).await.unwrap().unwrap();
        assert!((WRITEBACK_BATCH_BLOCKS..WRITEBACK_BATCH_BLOCKS + 16).contains(&first.blocks));
        assert_eq!(room.provider.durable_size(), first.end * BLOCK);
        assert_eq!(room.mapped.write_back(ALL).await.unwrap(), blocks - first.blocks);
        assert_eq!(room.provider.durable_size(), blocks * BLOCK);
        assert_eq!(room.mapped.write_back_batch(ALL).await.unwrap(), None);
    });
}

#[test]
fn a_failure_at_any_step_keeps_the_data_dirty_and_is_told() {
    for step in 0..4 {
        block_on(async {
            let room = mock_room();
            room.mapped.write_at(10, &[1; 300_000]).await.unwrap();
            let dirty = room.unsettled();
            let free = room.provider.free_blocks();
            match step {
                0 => room.provider.script(|s| s.fail_map_writeback = true),
                1 => room.provider.script(|s| s.fail_done = true),
                2 => room.transport.with(|t| t.fail_writes = true),
                _ => {
                    // One write of several.
                    let next = DEVICE_FIRST + WRITEBACK_RUN_BLOCKS + 1;
                    room.transport.with(|t| t.bad_writes.insert(next));
                }
            }
            let error = room.mapped.write_back(ALL).await.unwrap_err();
            assert!(matches!(error.kind(), ErrorKind::Device | ErrorKind::WritesStopped));
            assert_eq!(room.unsettled(), dirty, "step {step}");
            assert_eq!(room.provider.free_blocks(), free, "claims are undone");
            assert_eq!(room.provider.durable_size(), 0);
            room.expect_balance();
            assert_eq!(room.evict(), 0, "what is dirty stays");
            room.transport.with(|t| {
                t.fail_writes = false;
                t.bad_writes.clear();
            });
            room.settle().await;
            room.evict();
            let content = room.content().await;
            assert!(content.len() == 300_010 && content[10..].iter().all(|&b| b == 1));
            room.expect_balance();
        });
    }
}

/// The mock hands out its device from block 0 on.
const DEVICE_FIRST: u64 = 0;

#[test]
fn a_write_error_that_is_forgotten_loses_data() {
    block_on(async {
        let room = mock_room();
        room.mapped.write_at(0, &[1; 5000]).await.unwrap();
        room.mapped.pauses().break_on_purpose(Canary::ForgetWriteErrors);
        room.transport.with(|t| t.fail_writes = true);
        assert!(room.mapped.write_back(ALL).await.is_err());
        room.evict();
        let content = room.content().await;
        let balanced = room.provider.counts().promised == room.unsettled();
        assert!(content.iter().all(|&b| b == 0) && !balanced, "the canary survived");
    });
}

#[test]
fn a_block_written_again_under_way_keeps_both_images_and_promises() {
    for fails in [false, true] {
        block_on(async {
            let room = mock_room();
            room.mapped.write_at(0, &[1; 3 * BLOCK as usize]).await.unwrap();
            room.provider.script(|s| s.fail_done = fails);
            let hold = room.mapped.pauses().hold(Point::BeforeWritebackMapping);
            let mapped = Arc::clone(&room.mapped);
            let writeback = tokio::spawn(async move { mapped.write_back_batch(ALL).await });
            hold.reached().await;
            room.mapped.write_at(100, &[2; 5000]).await.unwrap();
            assert_eq!(room.unsettled(), 5, "three under way, two dirty again");
            assert_eq!(room.provider.counts().promised, 5);
            drop(hold);
            assert_eq!(writeback.await.unwrap().is_err(), fails);
            assert_eq!(room.unsettled(), if fails { 3 } else { 2 });
            room.expect_balance();
            if !fails {
                let old = room.provider.stored(0).unwrap().at;
                assert!(room.transport.peek(old).iter().all(|&b| b == 1), "the image is torn");
            }
            room.settle().await;
            room.evict();
            let content = room.content().await;
            let expected = |at: usize| if (100..5100).contains(&at) { 2 } else { 1 };
            assert!((0..content.len()).all(|at| content[at] == expected(at)));
            room.expect_balance();
        });
    }
}

#[test]
fn the_durable_size_waits_for_blocks_below_it() {
    block_on(async {
        let room = mock_room();
        room.mapped.write_at(0, &[1; 10 * BLOCK as usize]).await.unwrap();
        // The second folio of the two that the write made; a folio leaves whole.
        room.mapped.write_back(FileBlocks::new(8, 10)).await.unwrap();
        assert_eq!(room.provider.durable_size(), 0, "block 0 is not on the device");
        room.settle().await;
        assert_eq!(room.provider.durable_size(), 10 * BLOCK);
        room.mapped.write_at(10 * BLOCK, &[2; 100]).await.unwrap();
        room.mapped.write_at(0, &[2; 100]).await.unwrap();
        room.mapped.write_back(FileBlocks::new(10, 11)).await.unwrap();
        let size = room.provider.durable_size();
        assert_eq!(size, 10 * BLOCK + 100, "dirt below the durable end does not matter");
    });
}

#[test]
fn an_append_under_way_does_not_make_a_later_one_durable() {
    for broken in [false, true] {
        block_on(async {
            let room = mock_room();
            if broken {
                room.mapped.pauses().break_on_purpose(Canary::SettleEverything);
            }
            // Block 3 stays dirty while the batch carries block 20.
            room.mapped.write_at(3 * BLOCK, &[1; BLOCK as usize]).await.unwrap();
            room.mapped.write_at(20 * BLOCK, &[1; 50]).await.unwrap();
            room.mapped.write_back(FileBlocks::new(20, 21)).await.unwrap();
            let durable = room.provider.durable_size();
            if broken {
                assert!(durable > 3 * BLOCK, "the canary survived");
            } else {
                assert!(durable <= 3 * BLOCK);
            }
            let hold = room.mapped.pauses().hold(Point::BeforeCompletion);
            let mapped = Arc::clone(&room.mapped);
            let writeback = tokio::spawn(async move { mapped.write_back_batch(ALL).await });
            hold.reached().await;
            room.mapped.write_at(20 * BLOCK + 50, &[2; 9000]).await.unwrap();
            drop(hold);
            writeback.await.unwrap().unwrap();
            let durable = room.provider.durable_size();
            assert_eq!(durable, 20 * BLOCK + 50, "exact, and not ahead");
            room.settle().await;
            assert_eq!(room.provider.durable_size(), 20 * BLOCK + 9050);
        });
    }
}

/// A reader of the device at any moment finds no byte below the durable size that was never
/// written: appends in random order of writeback.
#[test]
fn below_the_durable_size_everything_is_on_the_device() {
    for seed in 0..20 {
        block_on(async {
            let room = mock_room();
            let mut random = Random::new(seed);
            let mut end = 0;
            for _ in 0..100 {
                let len = 1 + random.below(9000);
                room.mapped.write_at(end, &vec![1; len as usize]).await.unwrap();
                end += len;
                let from = random.below(end / BLOCK + 1);
                let range = FileBlocks::new(from, from + 1 + random.below(6));
                room.mapped.write_back(range).await.unwrap();
                let durable = room.provider.durable_size();
                assert!(durable <= end);
                for block in 0..durable.div_ceil(BLOCK) {
                    let keep = (durable - block * BLOCK).min(BLOCK) as usize;
                    let stored = room.provider.stored(block).expect("durable but nowhere");
                    let image = room.transport.peek(stored.at);
                    assert!(image[..keep].iter().all(|&b| b == 1), "seed {seed}");
                }
            }
            room.settle().await;
            assert_eq!(room.provider.durable_size(), end);
        });
    }
}
