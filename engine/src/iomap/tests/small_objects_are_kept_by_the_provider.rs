//! A provider that keeps block 0 itself: the device hears nothing, the bytes come back, and promises
//! stay exact while the object grows and shrinks across the limit.

use std::sync::Arc;

use crate::iomap::contract::MappingProvider;
use crate::iomap::mock::MockProvider;
use crate::iomap::pause::Canary;
use crate::iomap::pause::Point;
use crate::iomap::testkit::Random;
use crate::iomap::testkit::Room;
use crate::iomap::testkit::block_on;
use crate::iomap::testkit::mock_room;
use crate::units::BLOCK;
use crate::units::FileBlocks;

const ALL: FileBlocks = FileBlocks { start: 0, end: u64::MAX };
const LIMIT: u64 = 448;

fn keeping_room() -> Room<MockProvider> {
    let room = mock_room();
    room.provider.script(|s| s.inline_bytes = LIMIT);
    room
}

#[test]
fn the_device_hears_nothing_of_them() {
    block_on(async {
        let room = keeping_room();
        room.mapped.write_at(0, &[7; 100]).await.unwrap();
        room.settle().await;
        assert_eq!(room.provider.inline(), Some(vec![7; 100]));
        assert_eq!(room.provider.durable_size(), 100);
        assert_eq!(room.provider.counts().promised, 0, "the promise of block 0 went back");
        assert!(room.evict() > 0);
        assert_eq!(room.content().await, vec![7; 100]);
        // A part is changed over what the provider keeps; zeroes are bytes like others.
        room.evict();
        room.mapped.write_at(50, &[8; 100]).await.unwrap();
        room.mapped.zero_range(0, 10).await.unwrap();
        room.settle().await;
        room.evict();
        let expected = [vec![0; 10], vec![7; 40], vec![8; 100]].concat();
        assert_eq!(room.content().await, expected);
        room.transport.with(|t| assert!(t.writes.is_empty() && t.reads.is_empty()));
        room.expect_balance();
    });
}

#[test]
fn they_move_out_when_they_grow_and_in_when_they_are_small_again() {
    block_on(async {
        let room = keeping_room();
        let free = room.provider.free_blocks();
        room.mapped.write_at(0, &[7; 100]).await.unwrap();
        room.settle().await;
        room.evict();
        room.mapped.write_at(3 * BLOCK, &[9]).await.unwrap();
        room.settle().await;
        room.evict();
        assert_eq!(room.provider.inline(), None);
        assert_eq!(room.provider.free_blocks(), free - 2);
        let mut expected = vec![0; 3 * BLOCK as usize + 1];
        expected[..100].fill(7);
        expected[3 * BLOCK as usize] = 9;
        assert_eq!(room.content().await, expected);
        room.truncate(60).await;
        room.mapped.write_at(59, &[5]).await.unwrap();
        room.settle().await;
        room.evict();
        assert_eq!(room.provider.free_blocks(), free, "its blocks came back");
        expected.truncate(60);
        expected[59] = 5;
        assert_eq!(room.provider.inline(), Some(expected.clone()));
        assert_eq!(room.content().await, expected);
        room.expect_balance();
    });
}

/// A write that is in line for the folio before a batch that sampled the size before it.
async fn growth_in_front_of_a_batch(canary: Option<Canary>) -> Option<Room<MockProvider>> {
    let room = keeping_room();
    room.mapped.write_at(0, &[1; 100]).await.unwrap();
    if let Some(canary) = canary {
        room.mapped.pauses().break_on_purpose(canary);
    }
    let lock = room.mapped.cache().find_locked(0).await.unwrap();
    let mapped = Arc::clone(&room.mapped);
    let writer = tokio::spawn(async move { mapped.write_at(100, &[2; 100]).await });
    tokio::task::yield_now().await;
    let mapped = Arc::clone(&room.mapped);
    let batch = tokio::spawn(async move { mapped.write_back_batch(ALL).await });
    tokio::task::yield_now().await;
    drop(lock);
    writer.await.unwrap().unwrap();
    batch.await.ok()?.unwrap();
    Some(room)
}

#[test]
fn what_comes_while_the_batch_waits_for_the_folio_is_not_cut_off() {
    block_on(async {
        let room = growth_in_front_of_a_batch(None).await.unwrap();
        assert_eq!(room.provider.inline(), Some([[1; 100], [2; 100]].concat()));
        assert_eq!(room.provider.durable_size(), 200);
        room.evict();
        assert_eq!(room.content().await, [[1; 100], [2; 100]].concat());
        room.expect_balance();
        let lost = growth_in_front_of_a_batch(Some(Canary::SettleOldSize)).await;
        assert!(lost.is_none(), "the canary survived");
    });
}

#[test]
fn what_comes_while_the_batch_is_on_its_way_is_dirty_afterwards() {
    for grown in [200, LIMIT, LIMIT + 1, 5 * BLOCK] {
        block_on(async {
            let room = keeping_room();
            room.mapped.write_at(0, &[1; 100]).await.unwrap();
            let hold = room.mapped.pauses().hold(Point::BeforeCompletion);
            let mapped = Arc::clone(&room.mapped);
            let batch = tokio::spawn(async move { mapped.write_back_batch(ALL).await });
            hold.reached().await;
            room.mapped.write_at(grown - 1, &[2]).await.unwrap();
            drop(hold);
            batch.await.unwrap().unwrap();
            for _ in 0..2 {
                let content = room.content().await;
                assert_eq!(content.len() as u64, grown);
                assert!(content[..100].iter().all(|&b| b == 1));
                assert!(content[100..grown as usize - 1].iter().all(|&b| b == 0));
                assert_eq!(content[grown as usize - 1], 2);
                room.settle().await;
                room.evict();
            }
            assert_eq!(room.provider.inline().is_some(), grown <= LIMIT);
            room.expect_balance();
        });
    }
}

#[test]
fn a_failed_batch_leaves_them_dirty() {
    block_on(async {
        let room = keeping_room();
        room.mapped.write_at(0, &[1; 100]).await.unwrap();
        room.provider.script(|s| s.fail_done = true);
        room.mapped.write_back(ALL).await.unwrap_err();
        assert_eq!(room.unsettled(), 1);
        assert_eq!(room.provider.inline(), None);
        room.expect_balance();
        room.settle().await;
        room.evict();
        assert_eq!(room.content().await, vec![1; 100]);
    });
}

#[test]
fn random_changes_around_the_limit() {
    for seed in 0..60 {
        block_on(async {
            let mut random = Random::new(seed);
            let room = keeping_room();
            let mut model: Vec<u8> = Vec::new();
            for _ in 0..80 {
                let far = [300, 500, 9000][random.below(3) as usize];
                match random.below(8) {
                    0..=2 => {
                        let at = random.below(far);
                        let len = 1 + random.below(far) as usize;
                        let bytes = random.bytes(len);
                        let end = at as usize + bytes.len();
                        model.resize(model.len().max(end), 0);
                        model[at as usize..end].copy_from_slice(&bytes);
                        room.mapped.write_at(at, &bytes).await.unwrap();
                    }
                    3 => {
                        let size = random.below(far);
                        model.resize(size as usize, 0);
                        room.truncate(size).await;
                    }
                    4 => {
                        let at = random.below(far);
                        room.mapped.zero_range(at, 100).await.unwrap();
                        let end = model.len();
                        model[end.min(at as usize)..end.min(at as usize + 100)].fill(0);
                    }
                    5 => room.settle().await,
                    6 => drop(room.evict()),
                    _ => assert!(room.content().await == model, "seed {seed}"),
                }
            }
            room.settle().await;
            room.evict();
            assert!(room.content().await == model, "seed {seed}");
            room.expect_balance();
        });
    }
}
