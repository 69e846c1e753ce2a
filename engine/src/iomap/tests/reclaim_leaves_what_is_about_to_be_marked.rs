//! The shrinker against a journaled write: reclaim and writeback run between the copy and the attach of
//! each folio, of whole, short and empty copies. What was marked stays until it is home.

use std::sync::Arc;

use crate::iomap::contract::MapIntent;
use crate::iomap::grip::Grip;
use crate::iomap::guard::FolioGuard;
use crate::iomap::guard::FolioHook;
use crate::iomap::iter::Cursor;
use crate::iomap::mock::MockProvider;
use crate::iomap::pause::Canary;
use crate::iomap::pause::Point;
use crate::iomap::testkit::Room;
use crate::iomap::testkit::block_on;
use crate::iomap::testkit::poll_times;
use crate::iomap::testkit::small_room;
use crate::units::BLOCK;
use crate::units::FileBlocks;
use crate::units::Lsn;

const ALL: FileBlocks = FileBlocks { start: 0, end: u64::MAX };
/// Where the record of the write stands in the log.
const RECORD: Lsn = Lsn(5);
/// Blocks of the folio.
const FOLIO: u64 = 4;

/// Joins blocks to a transaction, as a mark in the folio's private state.
struct Transaction;

impl FolioHook for Transaction {
    fn attach(&self, folio: &Grip, blocks: FileBlocks) {
        for block in blocks.start..blocks.end {
            folio.mark_journal(block, RECORD);
        }
    }

    fn put(&self, _: &Grip, _: usize) {}
}

/// A folio of four stored, clean blocks of 1, and a shrinker that comes in every copy.
async fn prepared(canary: Option<Canary>) -> Arc<Room<MockProvider>> {
    let room = Arc::new(small_room());
    room.mapped.write_at(0, &[1; (FOLIO * BLOCK) as usize]).await.unwrap();
    room.settle().await;
    if let Some(canary) = canary {
        room.mapped.pauses().break_on_purpose(canary);
    }
    let inside = Arc::downgrade(&room);
    room.mapped.pauses().on(Point::BetweenCopyAndAttach, move || {
        let room = inside.upgrade().unwrap();
        assert_eq!(room.evict(), 0, "reclaim took a locked folio");
        let mut writeback = Box::pin(room.mapped.write_back_batch(ALL));
        poll_times(&mut writeback, 3);
        drop(writeback);
        assert_eq!(room.evict(), 0, "reclaim took a locked folio");
    });
    room
}

/// A write of two blocks of 2 at block 1, of which `copied` bytes arrive; how many were accepted.
async fn journaled(room: &Room<MockProvider>, copied: usize) -> usize {
    let range = BLOCK..3 * BLOCK;
    let held = room.mapped.ranges().exclusive(1..3).await;
    let cursor = Cursor::new(&room.provider, FileBlocks::new(1, 3), MapIntent::Write);
    let mut leases = cursor.collect().await.unwrap();
    let folio = room.mapped.cache().find_locked(1).await.unwrap();
    let mut folio = Grip::from(folio);
    let pauses = room.mapped.pauses();
    assert!(!folio.needs_spare());
    let mut guard = FolioGuard::new(folio, range, None, &Transaction, pauses);
    guard.copy(&vec![2; copied]);
    let accepted = guard.commit(copied, &mut leases, || {});
    drop((leases, held));
    accepted
}

#[test]
fn whole_short_and_empty_copies() {
    for copied in [2 * BLOCK as usize, BLOCK as usize + 70, BLOCK as usize, 9, 0] {
        block_on(async {
            let room = prepared(None).await;
            assert_eq!(journaled(&room, copied).await, copied);
            let hits = room.mapped.pauses().hits(Point::BetweenCopyAndAttach);
            assert!(hits > 0, "reclaim never came");
            println!("race: {copied} bytes copied, reclaim came {hits} times in between");
            room.settle().await;
            assert_eq!(room.evict() == 0, copied > 0, "marked folios stay, others go");
            let mut bytes = vec![0; (FOLIO * BLOCK) as usize];
            room.mapped.read_at(0, &mut bytes).await.unwrap();
            let new = BLOCK as usize..BLOCK as usize + copied;
            let expected = |at: usize| if new.contains(&at) { 2 } else { 1 };
            assert!((0..bytes.len()).all(|at| bytes[at] == expected(at)));
            let folio = room.mapped.cache().find(1).unwrap();
            (0..FOLIO as usize).for_each(|block| folio.clear_journal(block, RECORD));
            drop(folio);
            assert_eq!(room.evict(), 1, "what is home may go");
            room.expect_balance();
        });
    }
}

#[test]
fn a_folio_that_left_without_its_mark_is_lost_to_reclaim() {
    block_on(async {
        let room = prepared(Some(Canary::SkipAttach)).await;
        journaled(&room, BLOCK as usize).await;
        room.settle().await;
        assert_eq!(room.evict(), 1, "the canary survived");
    });
}
