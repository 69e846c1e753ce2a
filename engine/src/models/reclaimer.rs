//! A writer against reclaim: what is attached under the folio lock is not lost.
//!
//! The canaries do it in the order "unlock, then mark": the folio is clean and unreferenced for a
//! moment, and goes with what was written. The engine's own guard cannot be written in that order,
//! so the canaries are built from the folio's primitives; their healthy twins are, too.

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;

use shuttle::future::block_on;

use super::explorer::CANARY;
use super::explorer::Model;
use super::explorer::expect_caught;
use super::explorer::explore;
use super::explorer::join;
use super::explorer::start;
use super::stage::Stage;
use crate::iomap::contract::MapIntent;
use crate::iomap::grip::Grip;
use crate::iomap::guard::FolioHook;
use crate::iomap::iter::Cursor;
use crate::iomap::testkit::give_way;
use crate::kit::memory::Purpose;
use crate::units::BLOCK_BYTES;
use crate::units::FileBlocks;
use crate::units::Lsn;

const ONE: FileBlocks = FileBlocks { start: 0, end: 1 };

#[derive(Clone, Copy, PartialEq, Eq)]
enum Order {
    MarkThenUnlock,
    UnlockThenMark,
}

/// Looks at each folio while it is held for the write.
#[derive(Default)]
struct Attach(AtomicUsize);

impl FolioHook for Attach {
    fn attach(&self, folio: &Grip, _: FileBlocks) {
        assert!(!folio.folio().is_detached(), "attached to a folio that is gone");
        assert!(folio.folio().try_lock().is_none(), "attached without the lock");
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    fn put(&self, folio: &Grip, _: usize) {
        assert!(folio.folio().try_lock().is_none(), "put without the lock");
    }
}

/// The engine's own write path.
fn write_beside_reclaim() {
    block_on(async {
        let stage = Stage::new();
        stage.fill(2, 0x11).await;
        let writer = Arc::clone(&stage);
        let reader = Arc::clone(&stage);
        let reclaimer = Arc::clone(&stage);
        let tasks = [
            start(async move {
                let hook = Attach::default();
                let mapped = &writer.room.mapped;
                mapped.write_with(100, &[0x22; 50], &hook).await.unwrap();
                mapped.write_with(BLOCK_BYTES as u64 - 9, &[0x33; 20], &hook).await.unwrap();
                assert!(hook.0.load(Ordering::Relaxed) >= 2);
            }),
            start(async move {
                let mut bytes = [0; 20];
                reader.room.mapped.read_at(0, &mut bytes).await.unwrap();
                assert_eq!(bytes, [0x11; 20]);
            }),
            start(async move { reclaimer.reclaim(3).await }),
        ];
        join(tasks).await;
        let mut expected = vec![0x11; 2 * BLOCK_BYTES];
        expected[100..150].fill(0x22);
        expected[BLOCK_BYTES - 9..BLOCK_BYTES + 11].fill(0x33);
        stage.expect(&expected).await;
    });
}

/// A write of one block, from primitives.
async fn write_block(stage: &Stage, order: Order) {
    let room = &stage.room;
    let _held = room.mapped.ranges().exclusive(0..1).await;
    let mut leases = Cursor::new(&room.provider, ONE, MapIntent::Write).collect().await.unwrap();
    let cache = room.mapped.cache();
    let mut grip = Grip::find_or_create(cache, 0, 0, &stage.memory).await.unwrap();
    grip.write(0, &[0x22; BLOCK_BYTES], &mut None);
    if order == Order::MarkThenUnlock {
        leases[0].keep_promises(grip.mark_dirty(ONE));
        return;
    }
    let folio = Arc::downgrade(grip.folio());
    drop(grip);
    give_way().await;
    let Some(folio) = folio.upgrade() else { return };
    let lock = folio.lock().await;
    if !lock.is_detached() {
        leases[0].keep_promises(lock.mark_dirty(0..1));
    }
}

fn bare_write_beside_reclaim(order: Order) -> impl Model {
    move || {
        block_on(async {
            let stage = Stage::new();
            stage.fill(1, 0x11).await;
            let (writer, reclaimer) = (Arc::clone(&stage), Arc::clone(&stage));
            let tasks = [
                start(async move { write_block(&writer, order).await }),
                start(async move { reclaimer.reclaim(2).await }),
            ];
            join(tasks).await;
            stage.expect(&[0x22; BLOCK_BYTES]).await;
        });
    }
}

/// What a commit does to a folio once its record is in the log.
async fn write_logged(stage: &Stage, order: Order) {
    let _held = stage.room.mapped.ranges().exclusive(0..1).await;
    let mut image = stage.memory.try_allocate(0, Purpose::Reserved).unwrap();
    image.get_mut().unwrap().fill(0x22);
    let mut grip = stage.room.mapped.lock_uptodate(&[0]).await.unwrap().pop().unwrap();
    grip.install(image);
    if order == Order::MarkThenUnlock {
        grip.mark_journal(0, Lsn(7));
        return;
    }
    let folio = Arc::downgrade(grip.folio());
    drop(grip);
    give_way().await;
    if let Some(folio) = folio.upgrade() {
        folio.lock().await.mark_journal(0, Lsn(7));
    }
}

fn logged_write_beside_reclaim(order: Order) -> impl Model {
    move || {
        block_on(async {
            let stage = Stage::new();
            // What goes home of a record carries no checksum in this model.
            stage.room.provider.script(|s| s.checksums = false);
            stage.fill(1, 0x11).await;
            let (writer, reader) = (Arc::clone(&stage), Arc::clone(&stage));
            let reclaimer = Arc::clone(&stage);
            let tasks = [
                start(async move { write_logged(&writer, order).await }),
                start(async move {
                    let mut bytes = [0; BLOCK_BYTES];
                    reader.room.mapped.read_at(0, &mut bytes).await.unwrap();
                    assert!(bytes == [0x11; BLOCK_BYTES] || bytes == [0x22; BLOCK_BYTES]);
                }),
                start(async move { reclaimer.reclaim(3).await }),
            ];
            join(tasks).await;
            stage.reclaim(2).await;
            assert!(stage.room.content().await == [0x22; BLOCK_BYTES], "the logged image is lost");
            // The record goes home; only now may the folio go.
            let home = stage.room.provider.stored(0).unwrap().at;
            stage.room.transport.scribble(home, 0x22);
            let folio = stage.room.mapped.cache().find(0).unwrap();
            folio.clear_journal(0, Lsn(7));
            drop(folio);
            assert!(stage.room.evict() > 0, "the mark stays");
            stage.expect(&[0x22; BLOCK_BYTES]).await;
        });
    }
}

#[test]
fn what_is_written_survives_reclaim() {
    explore("reclaim/write", 10_000, write_beside_reclaim);
    explore("reclaim/bare", 8_000, bare_write_beside_reclaim(Order::MarkThenUnlock));
}

#[test]
fn what_is_logged_survives_reclaim() {
    explore("reclaim/logged", 10_000, logged_write_beside_reclaim(Order::MarkThenUnlock));
}

#[test]
fn canary_unlock_then_mark_dirty() {
    let model = bare_write_beside_reclaim(Order::UnlockThenMark);
    expect_caught("unlock, then mark dirty", CANARY, None, model);
}

#[test]
fn canary_unlock_then_mark_journaled() {
    let model = logged_write_beside_reclaim(Order::UnlockThenMark);
    expect_caught("unlock, then mark journaled", CANARY, None, model);
}
