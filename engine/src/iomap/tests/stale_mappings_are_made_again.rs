//! Writeback moves blocks while somebody waits with an old mapping in hand. Each test asserts that
//! the stale path was taken.

use std::sync::Arc;

use crate::error::ErrorKind;
use crate::iomap::contract::MappingProvider;
use crate::iomap::mock::MockProvider;
use crate::iomap::pause::Canary;
use crate::iomap::pause::Point;
use crate::iomap::testkit::Room;
use crate::iomap::testkit::block_on;
use crate::iomap::testkit::mock_room;
use crate::limits::STALE_RETRIES_MAX;
use crate::units::BLOCK;

const BLOCKS: u64 = 10;

/// Ten preallocated blocks, the last byte dirty; a long write stops with its mappings in hand;
/// the last block is written back and evicted; the write goes on.
async fn long_write_against_writeback(canary: Option<Canary>) -> (Room<MockProvider>, Vec<u8>) {
    let room = mock_room();
    for block in 0..BLOCKS {
        room.provider.place(block, true);
    }
    room.provider.set_size(BLOCKS * BLOCK);
    let end = BLOCKS * BLOCK;
    room.mapped.write_at(end - 1, &[0x77]).await.unwrap();
    if let Some(canary) = canary {
        room.mapped.pauses().break_on_purpose(canary);
    }
    let hold = room.mapped.pauses().hold(Point::AfterMap);
    let mapped = Arc::clone(&room.mapped);
    let len = (end - 100) as usize;
    let writer = tokio::spawn(async move { mapped.write_at(0, &vec![0x11; len]).await });
    hold.reached().await;
    room.settle().await;
    assert!(room.evict() > 0);
    drop(hold);
    writer.await.unwrap().unwrap();
    let mut expected = vec![0x11; len];
    expected.resize(end as usize, 0);
    expected[end as usize - 1] = 0x77;
    (room, expected)
}

#[test]
fn a_write_does_not_bring_back_zeroes_over_a_block_that_was_written_back() {
    block_on(async {
        let (room, expected) = long_write_against_writeback(None).await;
        assert!(room.mapped.counts().totals().stale_retries > 0);
        assert!(room.content().await == expected);
        room.settle().await;
        room.evict();
        assert!(room.content().await == expected);
        room.expect_balance();
    });
}

#[test]
fn the_same_with_staleness_ignored_loses_the_byte() {
    block_on(async {
        let canary = Some(Canary::IgnoreStaleness);
        let (room, expected) = long_write_against_writeback(canary).await;
        assert!(room.content().await != expected, "the canary survived");
    });
}

#[test]
fn a_read_does_not_cache_zeroes_of_a_hole_that_was_filled() {
    for broken in [false, true] {
        block_on(async {
            let room = mock_room();
            room.mapped.write_at(0, &[9; 3 * BLOCK as usize]).await.unwrap();
            // The reader misses block 1 while it is dirty: only possible behind the cache's back,
            // so the folio is made to look absent by reading a block that is not cached.
            room.settle().await;
            room.evict();
            if broken {
                room.mapped.pauses().break_on_purpose(Canary::IgnoreStaleness);
            }
            let hold = room.mapped.pauses().hold(Point::AfterMap);
            let mapped = Arc::clone(&room.mapped);
            let reader = tokio::spawn(async move {
                let mut bytes = vec![0; BLOCK as usize];
                mapped.read_at(BLOCK, &mut bytes).await.map(|_| bytes)
            });
            hold.reached().await;
            // The block moves and its old place is given to others.
            let old = room.provider.stored(1).unwrap();
            room.provider.relocate(1, &room.transport);
            room.transport.scribble(old.at, 0xbb);
            drop(hold);
            let read = reader.await.unwrap();
            if broken {
                assert!(read.is_err(), "the canary survived");
            } else {
                assert!(read.unwrap().iter().all(|&b| b == 9));
                assert!(room.mapped.counts().totals().stale_retries > 0);
            }
            room.expect_balance();
        });
    }
}

#[test]
fn a_mapping_that_never_settles_is_an_error_and_leaves_nothing() {
    block_on(async {
        let room = mock_room();
        room.mapped.write_at(0, &[1; 5000]).await.unwrap();
        room.settle().await;
        room.evict();
        let always = u64::from(STALE_RETRIES_MAX) * 10;
        for turn in 0..4 {
            room.provider.script(|s| s.stale_answers = always);
            let error = match turn {
                0 => room.mapped.write_at(10, &[2; 5000]).await.err(),
                1 => room.mapped.read_at(10, &mut [0; 5000]).await.err(),
                2 => room.mapped.zero_range(10, 50).await.err(),
                _ => room.mapped.lock_uptodate(&[0, 1]).await.err(),
            };
            assert_eq!(error.unwrap().kind(), ErrorKind::TimedOut, "turn {turn}");
            room.provider.script(|s| s.stale_answers = 0);
            room.expect_balance();
        }
        assert_eq!(room.provider.size(), 5000);
        assert!(room.content().await.iter().all(|&b| b == 1));
    });
}

#[test]
fn a_few_stale_answers_are_survived_at_every_check() {
    for stale in 1..=u64::from(STALE_RETRIES_MAX) {
        block_on(async {
            let room = mock_room();
            room.mapped.write_at(0, &[1; 9000]).await.unwrap();
            room.settle().await;
            room.evict();
            room.provider.script(|s| s.stale_answers = stale);
            room.mapped.write_at(100, &[2; 8000]).await.unwrap();
            assert_eq!(room.provider.counts().stale, stale);
            let content = room.content().await;
            let expected = |at: usize| if (100..8100).contains(&at) { 2 } else { 1 };
            assert!((0..9000).all(|at| content[at] == expected(at)));
            room.expect_balance();
        });
    }
}
