//! Writeback moves blocks while somebody waits with an old mapping in hand. Each test asserts that
//! the stale path was taken.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;

use crate::iomap::mock::MockProvider;
use crate::iomap::pause::Canary;
use crate::iomap::pause::Point;
use crate::iomap::testkit::Room;
use crate::iomap::testkit::block_on;
use crate::iomap::testkit::mock_room;
use crate::limits::STALE_RETRIES_MAX;
use crate::limits::WRITEBACK_BATCHES;
use crate::units::BLOCK;

const BLOCKS: u64 = 10;

/// Ten preallocated blocks, the last byte dirty; a long write stops with its mappings in hand;
/// the last block is written back and evicted; the write goes on.
async fn long_write_against_writeback(
    at: Point,
    canary: Option<Canary>,
) -> (Room<MockProvider>, Vec<u8>) {
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
    let hold = room.mapped.pauses().hold(at);
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

/// Stopped with its mappings in hand, and before the lock of each folio.
const STOPS: [Point; 2] = [Point::AfterMap, Point::BeforeFolioLock];

#[test]
fn a_write_does_not_bring_back_zeroes_over_a_block_that_was_written_back() {
    for at in STOPS {
        block_on(async {
            let (room, expected) = long_write_against_writeback(at, None).await;
            let stale = room.mapped.counts().totals().stale_retries;
            assert!(stale > 0, "the stale path was not taken");
            println!("race: stopped at {at:?}, {stale} mappings were stale");
            assert!(room.content().await == expected);
            room.settle().await;
            room.evict();
            assert!(room.content().await == expected);
            room.expect_balance();
        });
    }
}

#[test]
fn the_same_with_staleness_ignored_loses_the_byte() {
    for at in STOPS {
        block_on(async {
            let canary = Some(Canary::IgnoreStaleness);
            let (room, expected) = long_write_against_writeback(at, canary).await;
            assert!(room.content().await != expected, "the canary survived");
        });
    }
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

/// Everything that maps, over an object of ones; each answer is called stale for ever.
async fn with_answers_that_are_always_stale(room: &Room<MockProvider>, turn: usize) {
    match turn {
        0 => room.mapped.write_at(10, &[2; 5000]).await.unwrap(),
        1 => assert_eq!(room.mapped.read_at(10, &mut [0; 5000]).await.unwrap(), 5000),
        2 => room.mapped.zero_range(10, 50).await.unwrap(),
        _ => {
            let held = room.mapped.ranges().exclusive(0..2).await;
            drop((room.mapped.lock_uptodate(&[0, 1]).await.unwrap(), held));
        }
    }
}

/// The story: behind sixteen stale answers an operation failed with `TimedOut`, however healthy
/// everything was.
#[test]
fn a_mapping_that_never_settles_is_made_with_writeback_held_still() {
    for turn in 0..4 {
        for broken in [false, true] {
            block_on(async {
                let room = mock_room();
                room.mapped.write_at(0, &[1; 6000]).await.unwrap();
                room.settle().await;
                room.evict();
                if broken {
                    room.mapped.pauses().break_on_purpose(Canary::RetryForEver);
                }
                let answers = 500;
                room.provider.script(|s| s.stale_answers = answers);
                with_answers_that_are_always_stale(&room, turn).await;
                let (stale, held) = (room.provider.counts().stale, room.mapped.counts().totals());
                if broken {
                    assert_eq!((stale, held.held_still), (answers, 0), "the canary survived");
                    return;
                }
                // Zeroing looks first and then writes: two operations that map.
                let held = held.held_still;
                assert_eq!(held, if turn == 2 { 2 } else { 1 }, "turn {turn}");
                assert_eq!(stale, held * u64::from(STALE_RETRIES_MAX));
                println!(
                    "race: turn {turn} held writeback still {held} times after {stale} stale answers"
                );
                room.provider.script(|s| s.stale_answers = 0);
                room.expect_balance();
                let content = room.content().await;
                let changed = match turn {
                    0 => (10..5010, 2),
                    2 => (10..60, 0),
                    _ => (0..0, 1),
                };
                let expected = |at: usize| if changed.0.contains(&at) { changed.1 } else { 1 };
                assert!((0..6000).all(|at| content[at] == expected(at)), "turn {turn}");
                drop(room.mapped.hold_writeback().await);
            });
        }
    }
}

/// Somebody moves the block at every mapping as long as writeback is not held: a write gets in, once,
/// and over the bytes of the place where the block really is.
#[test]
fn a_writer_gets_in_between_remaps_that_never_end() {
    block_on(async {
        let room = Arc::new(mock_room());
        room.mapped.write_at(0, &[1; BLOCK as usize]).await.unwrap();
        room.settle().await;
        room.evict();
        let moves = Arc::new(AtomicU64::new(0));
        let kept_out = Arc::new(AtomicU64::new(0));
        let mover = (Arc::downgrade(&room), Arc::clone(&moves), Arc::clone(&kept_out));
        room.mapped.pauses().on(Point::AfterMap, move || {
            let (room, moves, kept_out) = (mover.0.upgrade().unwrap(), &mover.1, &mover.2);
            let Ok(_still) = room.mapped.writeback.try_acquire_many(WRITEBACK_BATCHES as u32)
            else {
                kept_out.fetch_add(1, Ordering::Relaxed);
                return;
            };
            let old = room.provider.stored(0).unwrap();
            room.provider.relocate(0, &room.transport);
            room.transport.scribble(old.at, 0xbb);
            moves.fetch_add(1, Ordering::Relaxed);
        });
        room.mapped.write_at(100, &[2; 10]).await.unwrap();
        let (moves, kept_out) = (moves.load(Ordering::Relaxed), kept_out.load(Ordering::Relaxed));
        assert_eq!((moves, kept_out), (u64::from(STALE_RETRIES_MAX), 1));
        println!("race: the block moved {moves} times before it was held still");
        let content = room.content().await;
        let expected = |at: usize| if (100..110).contains(&at) { 2 } else { 1 };
        assert!((0..BLOCK as usize).all(|at| content[at] == expected(at)));
        room.expect_balance();
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
