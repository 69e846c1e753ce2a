//! {hole, unwritten, mapped} x {absent, dirty, under writeback}: what seeks and extents say; and a
//! writeback that ends between the mapping and the look at the cache.

use std::sync::Arc;

use crate::iomap::mock::MockProvider;
use crate::iomap::pause::Canary;
use crate::iomap::pause::Point;
use crate::iomap::seek::Stored;
use crate::iomap::testkit::Room;
use crate::iomap::testkit::block_on;
use crate::iomap::testkit::mock_room;
use crate::limits::OBJECT_BYTES_MAX;
use crate::units::BLOCK;
use crate::units::BlockNo;
use crate::units::FileBlocks;

/// Far behind every object here; the mock walks a hole in steps of bounded length.
const END: u64 = 1 << 30;
const ALL: FileBlocks = FileBlocks { start: 0, end: u64::MAX };

/// Block 0 a hole, 1 dirty, 2 under writeback, 3 and 4 unwritten, 5 unwritten and dirty, 6 mapped,
/// 7 mapped and dirty, 8 a hole up to the middle.
async fn prepared() -> Room<MockProvider> {
    let room = mock_room();
    for block in [6, 7] {
        room.mapped.write_at(block * BLOCK, &[1; 4096]).await.unwrap();
    }
    room.settle().await;
    room.evict();
    for block in [3, 4, 5] {
        room.provider.place(block, true);
    }
    room.provider.set_size(8 * BLOCK + 2048);
    room
}

fn kinds(runs: &[crate::iomap::seek::StoredRun]) -> Vec<(u64, u64, char)> {
    let letter = |stored| match stored {
        Stored::Delalloc => 'd',
        Stored::Unwritten(_) => 'u',
        Stored::Mapped(_) => 'm',
        Stored::Inline => 'i',
    };
    runs.iter().map(|r| (r.blocks.start, r.blocks.end, letter(r.stored))).collect()
}

#[test]
fn in_every_state() {
    block_on(async {
        let room = prepared().await;
        room.mapped.write_at(2 * BLOCK, &[2]).await.unwrap();
        let hold = room.mapped.pauses().hold(Point::BeforeCompletion);
        let mapped = Arc::clone(&room.mapped);
        let task = tokio::spawn(async move { mapped.write_back_batch(ALL).await });
        hold.reached().await;
        for block in [1, 5, 7] {
            room.mapped.write_at(block * BLOCK + 9, &[3]).await.unwrap();
        }
        let data = [false, true, true, false, false, true, true, true, false];
        let size = 8 * BLOCK + 2048;
        for at in (0..9).flat_map(|b| [b * BLOCK, b * BLOCK + 1, b * BLOCK + 2000]) {
            let block = (at / BLOCK) as usize;
            let next = |wanted| (block..9).find(|&b| data[b] == wanted);
            let clip = |b: usize| at.max(b as u64 * BLOCK);
            assert_eq!(room.mapped.seek_data(at).await.unwrap(), next(true).map(clip), "{at}");
            let hole = Some(next(false).map_or(size, clip));
            assert_eq!(room.mapped.seek_hole(at).await.unwrap(), hole, "{at}");
        }
        for past in [size, size + 1, u64::MAX] {
            assert_eq!(room.mapped.seek_data(past).await.unwrap(), None);
            assert_eq!(room.mapped.seek_hole(past).await.unwrap(), None);
        }
        let all = room.mapped.stored_runs(0..END, 99).await.unwrap();
        let expected = [(1, 3, 'd'), (3, 6, 'u'), (6, 8, 'm')];
        // Places of the mock run down for each single block, so that nothing continues another.
        let split = kinds(&all);
        let joined = |(start, end, kind): &(u64, u64, char)| {
            let parts: Vec<_> =
                split.iter().filter(|p| p.2 == *kind && *start <= p.0 && p.1 <= *end).collect();
            parts.iter().map(|p| p.1 - p.0).sum::<u64>() == end - start
        };
        assert!(expected.iter().all(joined), "{split:?}");
        assert_eq!(split[0], (1, 3, 'd'), "dirty and under writeback are one run");
        let some = room.mapped.stored_runs(BLOCK + 5..END, 1).await.unwrap();
        assert_eq!(kinds(&some), [(1, 3, 'd')]);
        assert!(room.mapped.stored_runs(5 * BLOCK..5 * BLOCK, 9).await.unwrap().is_empty());
        drop(hold);
        task.await.unwrap().unwrap();
        room.settle().await;
        room.expect_balance();
    });
}

#[test]
fn impossible_ranges_are_refused() {
    block_on(async {
        let room = prepared().await;
        #[allow(clippy::reversed_empty_ranges)]
        for range in [9..8, 0..OBJECT_BYTES_MAX + 1, 0..u64::MAX] {
            assert!(room.mapped.stored_runs(range, 9).await.is_err());
        }
    });
}

/// A seek that stands between mapping and look while the only block's writeback ends.
async fn seek_against_writeback(canary: Option<Canary>) -> (Room<MockProvider>, Option<u64>) {
    let room = mock_room();
    room.mapped.write_at(3 * BLOCK, &[1; 4096]).await.unwrap();
    if let Some(canary) = canary {
        room.mapped.pauses().break_on_purpose(canary);
    }
    let hold = room.mapped.pauses().hold(Point::AfterMap);
    let mapped = Arc::clone(&room.mapped);
    let seek = tokio::spawn(async move { mapped.seek_data(0).await });
    hold.reached().await;
    room.settle().await;
    room.evict();
    drop(hold);
    let found = seek.await.unwrap().unwrap();
    (room, found)
}

#[test]
fn a_writeback_that_ends_in_between_does_not_make_a_hole() {
    block_on(async {
        let (room, found) = seek_against_writeback(None).await;
        assert_eq!(found, Some(3 * BLOCK));
        assert!(room.mapped.counts().totals().stale_retries > 0);
        room.expect_balance();
        let (_, found) = seek_against_writeback(Some(Canary::IgnoreStaleness)).await;
        assert_eq!(found, None, "the canary survived");
    });
}

#[test]
fn a_mapping_that_never_holds_still_is_looked_at_with_writeback_held_still() {
    block_on(async {
        let room = prepared().await;
        room.provider.script(|s| s.stale_answers = u64::MAX);
        let sound = prepared().await;
        let (hole, expected) = (room.mapped.seek_hole(0).await, sound.mapped.seek_hole(0).await);
        assert_eq!(hole.unwrap(), expected.unwrap());
        assert!(room.mapped.counts().totals().held_still > 0);
        room.expect_balance();
    });
}

#[test]
fn runs_that_continue_each_other_are_one_extent_also_over_long_dirty_runs() {
    block_on(async {
        let room = mock_room();
        room.mapped.write_at(0, &vec![1; 3000 * 4096]).await.unwrap();
        let runs = room.mapped.stored_runs(0..END, 9).await.unwrap();
        assert_eq!(kinds(&runs), [(0, 3000, 'd')]);
        assert_eq!(room.mapped.seek_hole(0).await.unwrap(), Some(3000 * BLOCK));
        let mock = mock_room();
        mock.provider.script(|s| s.longest_answer = 2);
        mock.mapped.write_at(0, &[1; 10 * 4096]).await.unwrap();
        mock.settle().await;
        let first = BlockNo(mock.provider.stored(0).unwrap().at);
        let runs = mock.mapped.stored_runs(0..END, 9).await.unwrap();
        let whole = mock.provider.stored(9).unwrap().at == first.0 + 9;
        assert!(whole && runs.len() == 1 && runs[0].stored == Stored::Mapped(first), "{runs:?}");
    });
}
