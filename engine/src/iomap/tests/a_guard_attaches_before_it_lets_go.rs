//! The folio guard: one put per get on every path, all of it with the folio locked; short copies.

use std::sync::Arc;

use foliant_device::Buffer;
use parking_lot::Mutex;

use crate::iomap::contract::MapIntent;
use crate::iomap::contract::MappingProvider;
use crate::iomap::grip::Grip;
use crate::iomap::guard::FolioGuard;
use crate::iomap::guard::FolioHook;
use crate::iomap::iter::Cursor;
use crate::iomap::mock::MockProvider;
use crate::iomap::pause::Point;
use crate::iomap::testkit::Room;
use crate::iomap::testkit::block_on;
use crate::iomap::testkit::mock_room;
use crate::units::BLOCK;
use crate::units::FileBlocks;

/// Writes down what it sees and asserts that the folio is locked each time.
struct Witness {
    room: Arc<Room<MockProvider>>,
    seen: Mutex<Vec<String>>,
}

impl Witness {
    fn note(&self, folio: &Grip, what: String) {
        let found = self.room.mapped.cache().find(folio.span().start).unwrap();
        assert!(found.try_lock().is_none(), "{what} without the lock");
        self.seen.lock().push(what);
    }
}

impl FolioHook for Witness {
    fn attach(&self, folio: &Grip, blocks: FileBlocks) {
        let size = self.room.provider.size();
        assert!(size <= blocks.start * BLOCK, "the size comes after the attach");
        self.note(folio, format!("attach {}..{}", blocks.start, blocks.end));
    }

    fn put(&self, folio: &Grip, accepted: usize) {
        self.note(folio, format!("put {accepted}"));
    }
}

/// A guard over `range` of an empty object, given `copied` bytes of 5; what the hook saw, how many
/// bytes were accepted and promised.
fn short_copy(start: u64, len: usize, copied: Option<usize>) -> (Vec<String>, usize, u64) {
    block_on(async {
        let room = Arc::new(mock_room());
        let witness = Witness { room: Arc::clone(&room), seen: Mutex::default() };
        let range = start..start + len as u64;
        let blocks = FileBlocks::covering(&range);
        let cursor = Cursor::new(&room.provider, blocks, MapIntent::Write);
        let mut leases = cursor.collect().await.unwrap();
        let (cache, memory) = (room.mapped.cache(), &room.mapped.memory);
        let (folio, _) = cache.find_or_create(0, 2, memory).await.unwrap();
        let spare: Option<Buffer> = None;
        let mut guard = FolioGuard::new(folio.into(), range, spare, &witness, room.mapped.pauses());
        let mut accepted = 0;
        if let Some(copied) = copied {
            guard.copy(&vec![5; copied]);
            let provider = Arc::clone(&room.provider);
            let publish = move || provider.publish_size(start + len as u64);
            accepted = guard.commit(copied, &mut leases, publish);
            let whole = accepted == len;
            assert_eq!(room.provider.size(), if whole { start + len as u64 } else { 0 });
        } else {
            drop(guard);
        }
        drop(leases);
        room.expect_balance();
        let seen = witness.seen.lock().clone();
        (seen, accepted, room.provider.counts().promised)
    })
}

#[test]
fn a_full_copy_attaches_its_blocks_and_is_put_once() {
    let (seen, accepted, promised) = short_copy(0, 8192, Some(8192));
    assert_eq!(seen, ["attach 0..2", "put 8192"]);
    assert_eq!((accepted, promised), (8192, 2));
}

#[test]
fn a_dropped_guard_is_a_copy_of_nothing() {
    let (seen, _, promised) = short_copy(0, 8192, None);
    assert_eq!(seen, ["put 0"]);
    assert_eq!(promised, 0);
}

#[test]
fn a_short_copy_into_a_block_that_is_not_up_to_date_ends_before_it() {
    let (seen, accepted, promised) = short_copy(0, 8192, Some(5000));
    assert_eq!(seen, ["attach 0..1", "put 4096"]);
    assert_eq!((accepted, promised), (4096, 1));
    let (seen, accepted, promised) = short_copy(0, 8192, Some(4000));
    assert_eq!(seen, ["put 0"]);
    assert_eq!((accepted, promised), (0, 0));
    let (seen, accepted, _) = short_copy(0, 8192, Some(0));
    assert_eq!((seen, accepted), (vec!["put 0".to_string()], 0));
}

#[test]
fn between_copy_and_attach_nobody_can_take_the_folio() {
    block_on(async {
        let room = Arc::new(mock_room());
        room.mapped.write_at(0, &[1; 100]).await.unwrap();
        room.settle().await;
        let inside = Arc::downgrade(&room);
        room.mapped.pauses().on(Point::BetweenCopyAndAttach, move || {
            let room = inside.upgrade().unwrap();
            assert_eq!(room.evict(), 0, "a locked folio was evicted");
            assert!(room.mapped.cache().find(0).unwrap().try_lock().is_none());
        });
        room.mapped.write_at(50, &[2; 100]).await.unwrap();
        assert!(room.mapped.pauses().hits(Point::BetweenCopyAndAttach) > 0);
        room.expect_balance();
    });
}

#[test]
fn the_hook_sees_each_folio_of_a_write_once() {
    block_on(async {
        let room = Arc::new(mock_room());
        let witness = Witness { room: Arc::clone(&room), seen: Mutex::default() };
        // 20 blocks: a folio of 16 and one of 4.
        let bytes = vec![1; 20 * BLOCK as usize];
        room.mapped.write_with(0, &bytes, &witness).await.unwrap();
        let expected = ["attach 0..16", "put 65536", "attach 16..20", "put 16384"];
        assert_eq!(*witness.seen.lock(), expected);
    });
}
