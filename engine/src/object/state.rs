//! What is known of one open object apart from its bytes: sizes, validity, health.
//!
//! Guarantees: the durable size follows the log (it changes only inside the transaction that
//! records it); a failure once noted stays until it is forgiven. Does not hold folios or extents. Called by the
//! provider, by `object::resize` and by `object::journaled`.

use std::sync::Arc;

use crate::error::Error;
use crate::error::ErrorKind;
use crate::error::Result;
use crate::kit::sync::Mutex;
use crate::kit::sync::atomic::AtomicBool;
use crate::kit::sync::atomic::AtomicU64;
use crate::kit::sync::atomic::Ordering;
use crate::object::cookies::Cookies;
use crate::units::FileBlocks;
use crate::units::Lsn;
use crate::units::ObjectId;

/// The state of one open object.
#[derive(Debug)]
pub struct ObjectState {
    id: ObjectId,
    /// The size that readers see; grows under the folio lock of the new last byte, shrinks under the
    /// range lock of everything behind it.
    size: AtomicU64,
    /// The size in the committed object record; written only with the metadata lock held.
    recorded_size: AtomicU64,
    /// The newest transaction that touched this object; a sync waits for it.
    last_lsn: AtomicU64,
    /// Whether the committed record holds inline bytes; written only with the metadata lock held.
    inline: AtomicBool,
    /// A commit is about to log block 0 as a difference to what is stored on the device.
    out_of_record: AtomicBool,
    /// A transaction makes the object and is not committed.
    pending: AtomicBool,
    removed: AtomicBool,
    /// The first failed writeback. It stays until `recover` sends the data again: a later sync must not turn
    /// a lost write into success.
    failed: Mutex<Option<Error>>,
    has_failed: AtomicBool,
    /// Changes of mappings.
    pub(crate) cookies: Cookies,
    /// Changes of stored bytes: those of mappings, and logged blocks that go home in place.
    pub(crate) contents: Cookies,
    /// Changes of stored bytes that left the mapping as it was: logged blocks that go home in place.
    pub(crate) in_place: Cookies,
}

impl ObjectState {
    /// The state of an object whose record says `size`.
    pub fn new(id: ObjectId, size: u64) -> Self {
        Self {
            id,
            size: AtomicU64::new(size),
            recorded_size: AtomicU64::new(size),
            last_lsn: AtomicU64::new(0),
            inline: AtomicBool::new(false),
            out_of_record: AtomicBool::new(false),
            pending: AtomicBool::new(false),
            removed: AtomicBool::new(false),
            failed: Mutex::new(None),
            has_failed: AtomicBool::new(false),
            cookies: Cookies::new(),
            contents: Cookies::new(),
            in_place: Cookies::new(),
        }
    }

    /// Which object.
    pub fn id(&self) -> ObjectId {
        self.id
    }

    /// The size that readers see, in bytes.
    pub fn size(&self) -> u64 {
        self.size.load(Ordering::Acquire)
    }

    /// Grows the visible size to at least `end`.
    pub fn grow_size(&self, end: u64) {
        self.size.fetch_max(end, Ordering::AcqRel);
    }

    /// Sets the visible size; the caller holds the range lock from the smaller size on.
    pub fn set_size(&self, size: u64) {
        self.size.store(size, Ordering::Release);
    }

    /// The size in the committed record.
    pub fn recorded_size(&self) -> u64 {
        self.recorded_size.load(Ordering::Acquire)
    }

    /// Notes a commit that touched the object: the recorded size after it, the blocks whose
    /// mapping it changed. Called between `Prepared::commit` and the release of any lock.
    pub fn committed(&self, lsn: Lsn, recorded_size: Option<u64>, remapped: &[FileBlocks]) {
        for &blocks in remapped {
            self.cookies.note(blocks);
            self.contents.note(blocks);
        }
        if let Some(size) = recorded_size {
            self.recorded_size.store(size, Ordering::Release);
        }
        self.last_lsn.fetch_max(lsn.0, Ordering::AcqRel);
    }

    /// Notes that a commit changes the bytes of `block` where they are stored. Called as
    /// [`ObjectState::committed`], which notes the blocks that move.
    pub fn changed_in_place(&self, block: u64) {
        let blocks = FileBlocks::new(block, block + 1);
        self.contents.note(blocks);
        self.in_place.note(blocks);
    }

    /// Whether block 0 is stored in the committed record.
    pub fn is_inline(&self) -> bool {
        self.inline.load(Ordering::Acquire)
    }

    /// Notes whether block 0 is stored in the record. Called where [`ObjectState::committed`] is, or
    /// before anybody knows the object.
    pub fn set_inline(&self, inline: bool) {
        self.inline.store(inline, Ordering::Release);
    }

    /// Keeps writeback from storing block 0 in the record while the answer lives. For who has the range of
    /// block 0 alone: two holders would end each other's.
    pub fn keep_out_of_record(self: &Arc<Self>) -> OutOfRecord {
        let before = self.out_of_record.swap(true, Ordering::AcqRel);
        assert!(!before, "block 0 is kept out of its record twice");
        OutOfRecord(self.clone())
    }

    /// Whether block 0 must not go into the record now.
    pub fn is_kept_out_of_record(&self) -> bool {
        self.out_of_record.load(Ordering::Acquire)
    }

    /// The newest transaction that touched the object.
    pub fn last_lsn(&self) -> Lsn {
        Lsn(self.last_lsn.load(Ordering::Acquire))
    }

    /// Notes whether the object is still to be made by a transaction.
    pub fn set_pending(&self, pending: bool) {
        self.pending.store(pending, Ordering::Release);
    }

    /// Whether the object is still to be made by a transaction.
    pub fn is_pending(&self) -> bool {
        self.pending.load(Ordering::Acquire)
    }

    /// Marks the object removed: later operations fail.
    pub fn mark_removed(&self) {
        self.removed.store(true, Ordering::Release);
    }

    /// Whether the object was removed.
    pub fn is_removed(&self) -> bool {
        self.removed.load(Ordering::Acquire)
    }

    /// Keeps the first failure of writeback.
    pub fn mark_failed(&self, cause: &Error) {
        let mut failed = self.failed.lock();
        if failed.is_none() {
            *failed = Some(cause.clone());
            self.has_failed.store(true, Ordering::Release);
            tracing::error!(object = self.id.0, %cause, "writeback failed; the data stays in memory");
        }
    }

    /// Errors: `Closed` when removed, the kept failure when writeback failed.
    pub fn check(&self) -> Result<()> {
        self.check_present()?;
        match self.failure() {
            Some(cause) => Err(cause),
            None => Ok(()),
        }
    }

    /// The kept failure of writeback.
    pub fn failure(&self) -> Option<Error> {
        if !self.has_failed.load(Ordering::Acquire) {
            return None;
        }
        self.failed.lock().clone()
    }

    /// Forgets the kept failure, so that the dirty data is written back again; whether there was one.
    pub fn forgive(&self) -> bool {
        let mut failed = self.failed.lock();
        self.has_failed.store(false, Ordering::Release);
        failed.take().is_some()
    }

    /// Errors: `Closed` when removed.
    pub fn check_present(&self) -> Result<()> {
        if self.is_removed() {
            return Err(Error::new(ErrorKind::Closed, format!("{} was removed", self.id)));
        }
        Ok(())
    }
}

/// Block 0 stays out of the record until this is dropped.
#[derive(Debug)]
pub struct OutOfRecord(Arc<ObjectState>);

impl Drop for OutOfRecord {
    fn drop(&mut self) {
        self.0.out_of_record.store(false, Ordering::Release);
    }
}
