//! {hole, unwritten, mapped, moved by an overwrite} x {absent, clean, dirty, under writeback}: zeroes from the
//! cache, after eviction; and what reads as zero anyway costs nothing. (A block that waits for its
//! allocation is a hole below a dirty one.)

use std::sync::Arc;

use crate::iomap::contract::MappingProvider;
use crate::iomap::mock::MockProvider;
use crate::iomap::pause::Canary;
use crate::iomap::pause::Point;
use crate::iomap::testkit::Room;
use crate::iomap::testkit::block_on;
use crate::iomap::testkit::mock_room;
use crate::units::BLOCK;
use crate::units::FileBlocks;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Below {
    Hole,
    Unwritten,
    Mapped,
    /// Written a second time, so that the blocks lie elsewhere than they did.
    Moved,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Above {
    Absent,
    Clean,
    Dirty,
    Writeback,
}

const BLOCKS: u64 = 8;
const ALL: FileBlocks = FileBlocks { start: 0, end: u64::MAX };

async fn prepared(below: Below, above: Above) -> Room<MockProvider> {
    let room = mock_room();
    let bytes = vec![1; (BLOCKS * BLOCK) as usize];
    match below {
        Below::Hole => room.provider.set_size(BLOCKS * BLOCK),
        Below::Unwritten => {
            room.provider.set_size(BLOCKS * BLOCK);
            for block in 0..BLOCKS {
                room.provider.place(block, true);
            }
        }
        Below::Mapped | Below::Moved => {
            let turns = if below == Below::Moved { 2 } else { 1 };
            for turn in 0..turns {
                let bytes = vec![turns - turn; bytes.len()];
                room.mapped.write_at(0, &bytes).await.unwrap();
                room.settle().await;
            }
            room.evict();
        }
    }
    match above {
        Above::Absent => {}
        Above::Clean => drop(room.content().await),
        Above::Dirty | Above::Writeback => room.mapped.write_at(0, &bytes).await.unwrap(),
    }
    room
}

async fn check(below: Below, above: Above, from: u64, to: u64) {
    let room = prepared(below, above).await;
    let hold = room.mapped.pauses().hold(Point::BeforeCompletion);
    let mut writeback = None;
    if above == Above::Writeback {
        let mapped = Arc::clone(&room.mapped);
        let task = tokio::spawn(async move { mapped.write_back_batch(ALL).await });
        hold.reached().await;
        writeback = Some(task);
    }
    let was = room.unsettled();
    room.mapped.zero_range(from, to - from).await.unwrap();
    let ones = matches!(below, Below::Mapped | Below::Moved)
        || matches!(above, Above::Dirty | Above::Writeback);
    if !ones {
        assert_eq!(room.unsettled(), was, "zeroing zeroes dirtied something");
        let begun = room.mapped.cache().folios(ALL, usize::MAX).len();
        assert!(begun == 0 || above == Above::Clean, "folios were made");
    }
    drop(hold);
    if let Some(task) = writeback {
        task.await.unwrap().unwrap();
    }
    for _ in 0..2 {
        let content = room.content().await;
        for (at, &byte) in content.iter().enumerate() {
            let zeroed = (from..to).contains(&(at as u64));
            let expected = u8::from(ones && !zeroed);
            assert_eq!(byte, expected, "{below:?} {above:?} {from}..{to} at {at}");
        }
        room.settle().await;
        room.evict();
    }
    room.expect_balance();
}

#[test]
fn in_every_state() {
    block_on(async {
        for below in [Below::Hole, Below::Unwritten, Below::Mapped, Below::Moved] {
            for above in [Above::Absent, Above::Clean, Above::Dirty, Above::Writeback] {
                for (from, to) in [(0, 8), (1, 3), (0, 1)] {
                    let (from, to) = (from * BLOCK, to * BLOCK);
                    check(below, above, from, to).await;
                    check(below, above, from + 5, to - 5).await;
                    check(below, above, from + 4095, to).await;
                }
            }
        }
    });
}

/// Dirty, then under writeback, then written and evicted, all between the look at the mapping and
/// the end of zeroing.
async fn writeback_completes_in_between(canary: Option<Canary>) -> (Room<MockProvider>, bool) {
    let room = prepared(Below::Hole, Above::Dirty).await;
    if let Some(canary) = canary {
        room.mapped.pauses().break_on_purpose(canary);
    }
    let before = room.mapped.pauses().hold(Point::BeforeCompletion);
    let mapped = Arc::clone(&room.mapped);
    let writeback = tokio::spawn(async move { mapped.write_back_batch(ALL).await });
    before.reached().await;
    let hold = room.mapped.pauses().hold(Point::AfterMap);
    let mapped = Arc::clone(&room.mapped);
    let zeroing = tokio::spawn(async move { mapped.zero_range(5, 9000).await });
    hold.reached().await;
    drop(before);
    writeback.await.unwrap().unwrap();
    room.evict();
    drop(hold);
    zeroing.await.unwrap().unwrap();
    let content = room.content().await;
    let expected = |at: usize| u8::from(!(5..9005).contains(&at));
    let right = (0..content.len()).all(|at| content[at] == expected(at));
    (room, right)
}

#[test]
fn a_writeback_that_completes_in_between_is_not_missed() {
    block_on(async {
        let (room, right) = writeback_completes_in_between(None).await;
        let stale = room.mapped.counts().totals().stale_retries;
        assert!(stale > 0);
        println!("race: {stale} looks at a hole that was filled meanwhile");
        assert!(right);
        room.expect_balance();
        let broken = Some(Canary::IgnoreStaleness);
        let (_, right) = writeback_completes_in_between(broken).await;
        assert!(!right, "the canary survived");
    });
}

#[test]
fn without_a_look_at_the_cache_dirty_bytes_over_a_hole_stay() {
    for above in [Above::Dirty, Above::Writeback] {
        block_on(async {
            let room = prepared(Below::Unwritten, Above::Dirty).await;
            room.mapped.pauses().break_on_purpose(Canary::ZeroMappedOnly);
            let hold = room.mapped.pauses().hold(Point::BeforeCompletion);
            let mapped = Arc::clone(&room.mapped);
            if above == Above::Writeback {
                tokio::spawn(async move { mapped.write_back_batch(ALL).await });
                hold.reached().await;
            }
            room.mapped.zero_range(5, 100).await.unwrap();
            assert_eq!(room.content().await[5], 1, "the canary survived");
        });
    }
}

#[test]
fn punching_zeroes_the_edges_and_drops_the_rest_with_its_promises() {
    block_on(async {
        for dirty in [false, true] {
            let room =
                prepared(Below::Mapped, if dirty { Above::Dirty } else { Above::Absent }).await;
            let range = BLOCK + 10..5 * BLOCK + 20;
            let held = room.mapped.ranges().exclusive(1..6).await;
            room.mapped.zero_edges(&held, range.clone()).await.unwrap();
            let inner = FileBlocks::new(2, 5);
            room.mapped.drop_cached(&held, inner).await.unwrap();
            room.provider.unmap(inner);
            drop(held);
            room.expect_balance();
            let expected = if dirty { BLOCKS - 3 } else { 2 };
            assert_eq!(room.unsettled(), expected);
            for _ in 0..2 {
                let content = room.content().await;
                for (at, &byte) in content.iter().enumerate() {
                    assert_eq!(byte, u8::from(!range.contains(&(at as u64))), "at {at}");
                }
                room.settle().await;
                room.evict();
            }
        }
    });
}

#[test]
fn zeroing_ends_at_the_size() {
    block_on(async {
        let room = mock_room();
        room.mapped.write_at(0, &[1; 5000]).await.unwrap();
        room.mapped.zero_range(4500, 1 << 40).await.unwrap();
        room.mapped.zero_range(9000, 50).await.unwrap();
        assert_eq!(room.provider.size(), 5000);
        let content = room.content().await;
        assert!(content[..4500].iter().all(|&b| b == 1));
        assert!(content[4500..].iter().all(|&b| b == 0));
        room.expect_balance();
    });
}
