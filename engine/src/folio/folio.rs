//! The folio: memory of 2^order contiguous blocks of one object, and what is known about them.
//!
//! Guarantees: a read sees only blocks that are up to date; bytes never change under somebody who
//! shares the memory; dirty and writeback blocks are counted exactly, also when a folio dies.
//! Locks are taken in the order: folio lock, index, content. The content lock is a leaf.
//!
//! Does not change bytes (`lock` does, under the folio lock), does no I/O, chooses nothing.
//! Called by `lock`, `evict`, `cache` and, for reads and completions, by iomap.

use std::ops::Range;
use std::sync::Arc;

use foliant_device::Buffer;
use foliant_device::Segment;

use super::dirty::DirtyLimits;
use super::index::Index;
use super::index::Tag;
use super::state::BlockSet;
use super::state::FolioState;
use crate::error::Error;
use crate::error::ErrorKind;
use crate::error::Result;
use crate::kit::fault::Fault;
use crate::kit::fault::has_fault;
use crate::kit::sync::Notify;
use crate::kit::sync::RwLock;
use crate::kit::sync::Semaphore;
use crate::kit::sync::atomic::AtomicBool;
use crate::kit::sync::atomic::AtomicU8;
use crate::kit::sync::atomic::AtomicU32;
use crate::kit::sync::atomic::AtomicU64;
use crate::kit::sync::atomic::Ordering;
use crate::kit::sync::timeout;
use crate::limits::WRITEBACK_WAIT;
use crate::units::BLOCK_BYTES;
use crate::units::FileBlocks;
use crate::units::Lsn;
use crate::units::ObjectId;

/// The access counter saturates here: two bits are enough to tell hot from touched once.
const ACCESS_MAX: u8 = 3;

/// Who keeps the list of all folios (reclaim); injected, because it stands above this room.
pub trait Residents: Send + Sync {
    /// A folio was put into a cache.
    fn added(&self, folio: &Arc<Folio>);
    /// A folio of `blocks` blocks died; its memory is free unless somebody shares it.
    fn died(&self, blocks: usize);
}

/// Nobody keeps a list: for caches that are never reclaimed from.
impl Residents for () {
    fn added(&self, _folio: &Arc<Folio>) {}
    fn died(&self, _blocks: usize) {}
}

/// What all folios of an object share. Folios keep it alive (for the counts); the cache empties the
/// index when its last handle goes, so the circle index -> folio -> owner ends there.
pub(super) struct Owner {
    pub(super) object: ObjectId,
    /// Lookups hold it shared for some ten nanoseconds, inserts and removals alone; never across
    /// a wait.
    pub(super) index: RwLock<FolioIndex>,
    pub(super) limits: DirtyLimits,
    pub(super) residents: Arc<dyn Residents>,
    pub(super) dirty: AtomicU64,
    pub(super) writeback: AtomicU64,
    /// Some folio's writeback ended. One for all of them, because few wait and folios are many.
    pub(super) writeback_ended: Notify,
}

/// Folios by their first block.
#[derive(Default)]
pub(super) struct FolioIndex {
    pub(super) map: Index<Arc<Folio>>,
}

/// Memory of 2^order contiguous, aligned blocks of one object.
pub struct Folio {
    pub(super) owner: Arc<Owner>,
    index: u64,
    order: u8,
    access: AtomicU8,
    /// Where the last read of a large folio ended: one that goes on there is the same use.
    read_to: AtomicU32,
    /// Out of the index for good. Set under the folio lock and the index lock.
    pub(super) detached: AtomicBool,
    /// Held for a copy at the longest; readers share it. Plain, because nobody waits inside.
    pub(super) content: RwLock<Content>,
    /// The folio lock: one permit, fair. Born without it, because the maker holds the lock.
    pub(super) lock: Semaphore,
}

/// What the content lock guards.
pub(super) struct Content {
    /// `None` while it is lent to a device read, or was lost with one.
    pub(super) memory: Option<Buffer>,
    /// Somebody is about to change bytes: no new sharer, so that "is it shared" stays answered.
    pub(super) frozen: bool,
    pub(super) state: FolioState,
}

impl Folio {
    /// A folio whose lock is held by the maker.
    pub(super) fn new_locked(owner: Arc<Owner>, index: u64, memory: Buffer) -> Self {
        let order = memory.order();
        assert!(
            index.is_multiple_of(1 << order),
            "folio at block {index} is not aligned to order {order}"
        );
        Self {
            owner,
            index,
            order,
            access: AtomicU8::new(0),
            read_to: AtomicU32::new(u32::MAX),
            detached: AtomicBool::new(false),
            content: RwLock::new(Content {
                memory: Some(memory),
                frozen: false,
                state: FolioState::new(order),
            }),
            lock: Semaphore::new(0),
        }
    }

    /// Whose bytes these are.
    pub fn object(&self) -> ObjectId {
        self.owner.object
    }

    /// The first block within the object.
    pub fn index(&self) -> u64 {
        self.index
    }

    /// log2 of the number of blocks.
    pub fn order(&self) -> u8 {
        self.order
    }

    /// Number of blocks.
    pub fn blocks(&self) -> usize {
        1 << self.order
    }

    /// The blocks of the object that lie here.
    pub fn span(&self) -> FileBlocks {
        FileBlocks::new(self.index, self.index + self.blocks() as u64)
    }

    /// Copies bytes from `offset` (in the folio) on. `false`, with `dst` untouched, when a block of
    /// the range is not up to date. Never waits; needs no folio lock.
    ///
    /// # Panics
    /// If the range ends outside the folio.
    pub fn read_at(&self, offset: usize, dst: &mut [u8]) -> bool {
        let range = offset..offset + dst.len();
        let content = self.content.read();
        if !content.is_readable(&range) {
            return false;
        }
        let Some(memory) = &content.memory else {
            return false;
        };
        dst.copy_from_slice(&memory[range.clone()]);
        drop(content);
        self.touch_at(&range);
        true
    }

    /// The bytes `range` (in the folio) without a copy, if they are up to date and nobody is about
    /// to change them. The bytes never change; a writer replaces the folio's memory instead.
    pub fn share(&self, range: Range<usize>) -> Option<Segment> {
        let content = self.content.read();
        let frozen = content.frozen && !has_fault(Fault::ShareFrozen);
        if frozen || !content.is_readable(&range) {
            return None;
        }
        let segment = content.memory.as_ref()?.segment(range.clone());
        drop(content);
        self.touch_at(&range);
        Some(segment)
    }

    /// Notes the use of the bytes `range`. A stream that reads a large folio piece by piece uses it
    /// once, or every scan would pass for a hot set.
    fn touch_at(&self, range: &Range<usize>) {
        if self.order > 0 {
            let goes_on = self.read_to.load(Ordering::Relaxed) as usize == range.start;
            self.read_to.store(range.end as u32, Ordering::Relaxed);
            if goes_on {
                return;
            }
        }
        self.touch();
    }

    /// Notes a use, for reclaim. Writes shared memory only while the counter is not saturated.
    pub fn touch(&self) {
        let seen = self.access.load(Ordering::Relaxed);
        if seen < ACCESS_MAX {
            // Two concurrent touches may count as one; that is fine for a hint.
            self.access.store(seen + 1, Ordering::Relaxed);
        }
    }

    /// Uses noted since the last decay, 0 to 3.
    pub fn access(&self) -> u8 {
        self.access.load(Ordering::Relaxed)
    }

    /// Sets the use counter, for reclaim.
    pub fn set_access(&self, uses: u8) {
        self.access.store(uses.min(ACCESS_MAX), Ordering::Relaxed);
    }

    /// Whether the folio left its object for good (reclaimed, truncated, object closed). Who waited
    /// for its lock must look up again.
    pub fn is_detached(&self) -> bool {
        self.detached.load(Ordering::Acquire)
    }

    /// Whether all blocks of `range` (in the folio) are up to date.
    pub fn is_uptodate(&self, range: Range<usize>) -> bool {
        self.content.read().state.all(BlockSet::Uptodate, range)
    }

    /// Whether all blocks of `range` (in the folio) are in `set`.
    pub fn all_in(&self, set: BlockSet, range: Range<usize>) -> bool {
        self.content.read().state.all(set, range)
    }

    /// Whether `block` (in the folio) is in `set`.
    pub fn has(&self, set: BlockSet, block: usize) -> bool {
        self.content.read().state.has(set, block)
    }

    /// Whether some block is dirty while its older bytes are under writeback. With the folio locked a
    /// `false` stays true.
    pub fn is_waiting_for_writeback(&self) -> bool {
        self.content.read().state.any_in_both(BlockSet::Dirty, BlockSet::Writeback)
    }

    /// The first block (of the object) at or after `from` that is dirty or under writeback.
    pub fn first_unsettled(&self, from: u64) -> Option<u64> {
        let first = from.saturating_sub(self.index) as usize;
        let content = self.content.read();
        let state = &content.state;
        (first..self.blocks())
            .find(|&b| state.has(BlockSet::Dirty, b) || state.has(BlockSet::Writeback, b))
            .map(|b| self.index + b as u64)
    }

    /// The first block of the object at or behind `from` that is in this folio and neither dirty
    /// nor under writeback; the end of the folio when there is none.
    pub fn first_settled(&self, from: u64) -> u64 {
        let first = from.saturating_sub(self.index) as usize;
        let content = self.content.read();
        let state = &content.state;
        let open = |b: usize| state.has(BlockSet::Dirty, b) || state.has(BlockSet::Writeback, b);
        let settled = (first..self.blocks()).find(|&b| !open(b));
        self.index + settled.unwrap_or(self.blocks()) as u64
    }

    /// The writeback of `range` (in the folio) is over; `ok == false` makes the blocks dirty again.
    /// Needs no folio lock, so a completion never waits for a writer.
    ///
    /// Returns how many promises of room became spare: failed blocks that had been dirtied anew
    /// meanwhile held two, one for the bytes in flight and one for the newer ones.
    ///
    /// # Panics
    /// If one of the blocks is not under writeback.
    #[must_use = "spare promises must be given back to the provider"]
    pub fn end_writeback(&self, range: Range<usize>, ok: bool) -> u64 {
        let (ended, quiet) = {
            let mut content = self.content.write();
            let ended = content.state.end_writeback(range, ok);
            // Counted under the content lock, so that the counts follow the bits in order.
            self.count_dirty(ended.dirtied);
            self.uncount_writeback(ended.ended);
            (ended, !content.state.any(BlockSet::Writeback))
        };
        if ended.dirtied > 0 {
            self.set_tag(Tag::Dirty);
        }
        if quiet {
            self.clear_tag(Tag::Writeback, BlockSet::Writeback);
        }
        self.owner.writeback_ended.notify_waiters();
        ended.doubled
    }

    /// Whether the newest bytes of a block are in the journal and not home.
    pub fn is_journaled(&self, block: usize) -> bool {
        self.content.read().state.journal_mark(block).is_some()
    }

    /// The record up to `lsn` of `block` (in the folio) is home. A newer mark stays.
    pub fn clear_journal(&self, block: usize, lsn: Lsn) {
        self.content.write().state.clear_journal(block, lsn);
    }

    /// Waits until no block of `range` (in the folio) is under writeback. With the folio lock held
    /// none can begin in between; completions need no folio lock.
    ///
    /// Errors: `TimedOut` after [`WRITEBACK_WAIT`]. Dropping the future has no effect.
    pub async fn wait_writeback(&self, range: Range<usize>) -> Result<()> {
        let wait = async {
            loop {
                let mut ended = std::pin::pin!(self.owner.writeback_ended.notified());
                ended.as_mut().enable();
                let busy = self.content.read().state.count(BlockSet::Writeback, range.clone());
                if busy == 0 {
                    return;
                }
                ended.await;
            }
        };
        timeout(WRITEBACK_WAIT, wait).await.map_err(|_| {
            let message = format!(
                "waiting {} s for the writeback of {} block {}",
                WRITEBACK_WAIT.as_secs(),
                self.owner.object,
                self.index
            );
            Error::new(ErrorKind::TimedOut, message)
        })
    }

    /// Makes the folio findable by `tag`. Always after its bits were set: a tag may be stale for a
    /// moment, a set bit is never without its tag for longer than that.
    pub(super) fn set_tag(&self, tag: Tag) {
        let mut index = self.owner.index.write();
        if self.is_indexed(&index) {
            index.map.set_tag(self.index, tag, true);
        }
    }

    /// Clears `tag` unless bits of `set` were set meanwhile. Looking at the bits under the index
    /// lock is what makes it impossible to lose the tag of a bit that is being set.
    pub(super) fn clear_tag(&self, tag: Tag, set: BlockSet) {
        let mut index = self.owner.index.write();
        if self.is_indexed(&index) && !self.content.read().state.any(set) {
            index.map.set_tag(self.index, tag, false);
        }
    }

    pub(super) fn is_indexed(&self, index: &FolioIndex) -> bool {
        index.map.get(self.index).is_some_and(|there| std::ptr::eq(Arc::as_ptr(there), self))
    }

    pub(super) fn count_dirty(&self, blocks: u64) {
        self.owner.dirty.fetch_add(blocks, Ordering::SeqCst);
        self.owner.limits.add_dirty(blocks);
    }

    pub(super) fn uncount_dirty(&self, blocks: u64) {
        let before = self.owner.dirty.fetch_sub(blocks, Ordering::SeqCst);
        assert!(before >= blocks, "an object's dirty count went below zero");
        self.owner.limits.sub_dirty(blocks);
    }

    pub(super) fn count_writeback(&self, blocks: u64) {
        self.owner.writeback.fetch_add(blocks, Ordering::SeqCst);
        self.owner.limits.add_writeback(blocks);
    }

    fn uncount_writeback(&self, blocks: u64) {
        let before = self.owner.writeback.fetch_sub(blocks, Ordering::SeqCst);
        assert!(before >= blocks, "an object's writeback count went below 0");
        self.owner.limits.sub_writeback(blocks);
    }
}

impl Content {
    fn is_readable(&self, bytes: &Range<usize>) -> bool {
        let blocks = bytes.start / BLOCK_BYTES..bytes.end.div_ceil(BLOCK_BYTES);
        self.memory.is_some() && self.state.all(BlockSet::Uptodate, blocks)
    }
}

impl Drop for Folio {
    fn drop(&mut self) {
        // An object that is dropped without a sync, or a writeback that was abandoned, takes its
        // counts along.
        let blocks = self.blocks();
        let state = &self.content.get_mut().state;
        let (dirty, writeback) =
            (state.total(BlockSet::Dirty) as u64, state.total(BlockSet::Writeback) as u64);
        self.uncount_dirty(dirty);
        self.uncount_writeback(writeback);
        self.owner.residents.died(blocks);
    }
}
