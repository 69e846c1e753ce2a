//! The folio lock, and all changes that need it.
//!
//! Guarantees: one holder at a time, in the order of asking; the guard keeps the folio alive and
//! unlocks when dropped; a partly overwritten block is up to date before; shared memory is never
//! changed but replaced. Every change is synchronous, so a dropped future never leaves half of one.
//!
//! Does no I/O and does not wait except for the lock and for writeback. Called by iomap, object
//! (commit) and `evict`.

use std::ops::Range;
use std::sync::Arc;

use foliant_device::Buffer;
use foliant_device::Segment;

use super::folio::Content;
use super::folio::Folio;
use super::index::Tag;
use super::state::BlockSet;
use crate::error::Result;
use crate::kit::fault::Fault;
use crate::kit::fault::has_fault;
use crate::kit::lock_order;
use crate::kit::lock_order::Held;
use crate::kit::lock_order::InCache;
use crate::kit::lock_order::Rank;
use crate::kit::sync::atomic::Ordering;
use crate::units::BLOCK_BYTES;
use crate::units::Lsn;

/// The held lock of a folio. `'static` and `Send`, so it can move into tasks. All block numbers and
/// offsets count from the folio's first byte.
#[must_use = "the folio is unlocked when the guard is dropped"]
pub struct FolioLock {
    folio: Arc<Folio>,
    /// This guard forbade new sharers and must allow them again.
    froze: bool,
    _order: Held,
}

impl Folio {
    /// Waits for the folio lock. Look at [`FolioLock::is_detached`] afterwards.
    ///
    /// The wait has no deadline of its own: holders wait only for bounded things. Dropping the
    /// future gives up the place in line.
    pub async fn lock(self: &Arc<Self>) -> FolioLock {
        lock_order::wait(self.rank());
        let permit = self.lock.acquire().await;
        permit.expect("the semaphore is never closed").forget();
        FolioLock::held(self.clone())
    }

    fn rank(&self) -> Rank {
        Rank::Cache(self.object().0, InCache::Folio(self.index()))
    }

    /// The folio lock if nobody holds it or waits for it.
    pub fn try_lock(self: &Arc<Self>) -> Option<FolioLock> {
        self.lock.try_acquire().ok()?.forget();
        Some(FolioLock::held(self.clone()))
    }
}

impl Drop for FolioLock {
    fn drop(&mut self) {
        if self.froze {
            self.folio.content.write().frozen = false;
        }
        self.folio.lock.add_permits(1);
    }
}

/// Whole blocks inside a byte range.
fn whole_blocks(bytes: &Range<usize>) -> Range<usize> {
    let first = bytes.start.div_ceil(BLOCK_BYTES);
    first..(bytes.end / BLOCK_BYTES).max(first)
}

impl Content {
    /// Makes the memory ours alone. `keep`: its old bytes matter.
    fn make_private(&mut self, order: u8, spare: Option<Buffer>, keep: bool) {
        if self.memory.as_ref().is_some_and(Buffer::is_unique) {
            return;
        }
        let mut fresh = spare.expect("shared memory is changed only with a spare buffer");
        assert_eq!(fresh.order(), order, "a spare of another order");
        let bytes = fresh.get_mut().expect("a spare buffer is not shared");
        match &self.memory {
            Some(old) if keep && !has_fault(Fault::ReplaceWithoutBytes) => {
                bytes.copy_from_slice(old)
            }
            _ => {}
        }
        self.memory = Some(fresh);
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        let memory = self.memory.as_mut().expect("made private just before");
        memory.get_mut().expect("made private just before")
    }
}

impl FolioLock {
    /// Takes over a lock whose permit is accounted for.
    pub(super) fn held(folio: Arc<Folio>) -> Self {
        let order = lock_order::hold(folio.rank());
        Self { folio, froze: false, _order: order }
    }

    /// The locked folio.
    pub fn folio(&self) -> &Arc<Folio> {
        &self.folio
    }

    /// Whether the folio left its object while this lock was waited for: look up again.
    pub fn is_detached(&self) -> bool {
        self.folio.is_detached()
    }

    /// Whether the folio has no memory (lent, or lost with a dropped read): give it some with
    /// [`FolioLock::give_back`] or a spare.
    pub fn needs_memory(&self) -> bool {
        self.folio.content.read().memory.is_none()
    }

    /// Whether the next change of bytes needs a spare buffer, because the memory is shared or
    /// absent. From this call until the lock is dropped nobody can begin to share it, so a `false`
    /// stays true; only [`FolioLock::begin_writeback`] and [`FolioLock::memory`] of this very
    /// guard make it true again.
    pub fn needs_spare(&mut self) -> bool {
        self.froze = true;
        let mut content = self.folio.content.write();
        content.frozen = true;
        !content.memory.as_ref().is_some_and(Buffer::is_unique)
    }

    /// Copies `src` to byte `offset`; whole blocks become up to date. Does not mark dirty. `spare`
    /// replaces the memory if that is shared or absent; otherwise it goes back to the arena.
    ///
    /// # Panics
    /// If a partly covered block is not up to date, the range ends outside, or a spare is needed
    /// and missing (ask [`FolioLock::needs_spare`] first).
    pub fn write(&self, offset: usize, src: &[u8], spare: Option<Buffer>) {
        self.change(offset..offset + src.len(), spare, |bytes| bytes.copy_from_slice(src));
    }

    /// Zeroes the bytes `range`; otherwise like [`FolioLock::write`].
    pub fn zero(&self, range: Range<usize>, spare: Option<Buffer>) {
        self.change(range, spare, |bytes| bytes.fill(0));
    }

    fn change(&self, range: Range<usize>, spare: Option<Buffer>, apply: impl FnOnce(&mut [u8])) {
        if range.is_empty() {
            return;
        }
        let mut content = self.folio.content.write();
        let whole = whole_blocks(&range);
        for block in [range.start / BLOCK_BYTES, (range.end - 1) / BLOCK_BYTES] {
            assert!(
                whole.contains(&block) || content.state.has(BlockSet::Uptodate, block),
                "block {block} is changed in part and is not up to date"
            );
        }
        let everything = whole.len() == self.folio.blocks();
        content.make_private(self.folio.order(), spare, !everything);
        apply(&mut content.bytes_mut()[range]);
        content.state.set_uptodate(whole);
    }

    /// Lends the whole memory to a device read, if no block of it is up to date and nobody shares it.
    /// It comes back with [`FolioLock::give_back`] or [`FolioLock::install`]; if it is lost with a dropped
    /// read, the next one who wants the folio gives it new memory.
    pub fn lend(&self) -> Option<Buffer> {
        let mut content = self.folio.content.write();
        let unique = content.memory.as_ref().is_some_and(Buffer::is_unique);
        if !unique || content.state.any(BlockSet::Uptodate) {
            return None;
        }
        content.memory.take()
    }

    /// Gives the folio memory; follow with [`FolioLock::set_uptodate`] for what the bytes of it
    /// are worth.
    ///
    /// # Panics
    /// If the folio has memory, or the order is another.
    pub fn give_back(&self, memory: Buffer) {
        assert_eq!(memory.order(), self.folio.order(), "memory of another order");
        let mut content = self.folio.content.write();
        assert!(content.memory.is_none(), "the folio has memory already");
        content.memory = Some(memory);
    }

    /// The blocks `range` hold what the object holds.
    ///
    /// # Panics
    /// If the folio has no memory.
    pub fn set_uptodate(&self, range: Range<usize>) {
        let mut content = self.folio.content.write();
        assert!(content.memory.is_some(), "no memory to be up to date");
        content.state.set_uptodate(range);
    }

    /// Replaces the whole memory; all blocks are up to date then.
    ///
    /// # Panics
    /// If the order is another.
    pub fn install(&self, memory: Buffer) {
        assert_eq!(memory.order(), self.folio.order(), "memory of another order");
        let old = {
            let mut content = self.folio.content.write();
            let blocks = self.folio.blocks();
            content.state.set_uptodate(0..blocks);
            content.memory.replace(memory)
        };
        drop(old);
    }

    /// A shared handle to the whole memory (a before-image); the next change needs a spare.
    pub fn memory(&self) -> Option<Buffer> {
        self.folio.content.read().memory.clone()
    }

    /// Makes `range` dirty; returns how many blocks were not: each holds one promise of room from
    /// here on. A block under writeback counts anew, because its bytes in flight hold their own.
    ///
    /// # Panics
    /// If a block is not up to date, or the folio is detached (its bytes would be lost).
    #[must_use = "newly dirty blocks use promises of room"]
    pub fn mark_dirty(&self, range: Range<usize>) -> u64 {
        assert!(!self.is_detached(), "dirtying a detached folio");
        let fresh = {
            let mut content = self.folio.content.write();
            let fresh = content.state.mark_dirty(range);
            self.folio.count_dirty(fresh);
            fresh
        };
        if fresh > 0 {
            self.folio.set_tag(Tag::Dirty);
        }
        self.folio.touch();
        fresh
    }

    /// Makes `range` clean without writing; returns how many blocks were dirty: their promises are
    /// spare.
    #[must_use = "spare promises must be given back to the provider"]
    pub fn clear_dirty(&self, range: Range<usize>) -> u64 {
        let cleared = {
            let mut content = self.folio.content.write();
            let cleared = content.state.clear_dirty(range);
            self.folio.uncount_dirty(cleared);
            cleared
        };
        if cleared > 0 {
            self.folio.clear_tag(Tag::Dirty, BlockSet::Dirty);
        }
        cleared
    }

    /// Moves the dirty blocks of `range` to writeback and appends their bytes to `out`: per run of
    /// blocks the first block *of the object* and a segment of whole blocks. Blocks whose older
    /// bytes are in flight stay dirty. Returns how many blocks began.
    ///
    /// Each must be ended with [`Folio::end_writeback`]. The bytes in the segments never change:
    /// writers replace the memory meanwhile.
    pub fn begin_writeback(&self, range: Range<usize>, out: &mut Vec<(u64, Segment)>) -> u64 {
        let mut begun = 0;
        let clean = {
            let mut content = self.folio.content.write();
            let mut from = range.start;
            while let Some(run) = content.state.next_writable(from, range.end) {
                content.state.begin_writeback(run.clone());
                let bytes = run.start * BLOCK_BYTES..run.end * BLOCK_BYTES;
                let memory = content.memory.as_ref().expect("dirty blocks have memory");
                out.push((self.folio.index() + run.start as u64, memory.segment(bytes)));
                begun += run.len() as u64;
                from = run.end;
            }
            // First up, then down: the sum never looks smaller than it is.
            self.folio.count_writeback(begun);
            self.folio.uncount_dirty(begun);
            !content.state.any(BlockSet::Dirty)
        };
        if begun > 0 {
            self.folio.set_tag(Tag::Writeback);
            if clean {
                self.folio.clear_tag(Tag::Dirty, BlockSet::Dirty);
            }
        }
        begun
    }

    /// Waits until no block is under writeback. Errors: `TimedOut`.
    pub async fn wait_writeback(&self) -> Result<()> {
        self.folio.wait_writeback(0..self.folio.blocks()).await
    }

    /// The newest bytes of `block` are in the journal up to `lsn` and not home: the folio cannot be
    /// evicted until [`Folio::clear_journal`] with this or a later position.
    pub fn mark_journal(&self, block: usize, lsn: Lsn) {
        self.folio.content.write().state.mark_journal(block, lsn);
    }

    /// Forgets the bytes of `range`: clean, not up to date, unmarked. Returns how many blocks were
    /// dirty: their promises are spare. For truncate and punch of a part of a folio; the caller
    /// keeps the range locked until the mapping is gone, too, so that no read brings old bytes back.
    ///
    /// # Panics
    /// If a block is under writeback.
    #[must_use = "spare promises must be given back to the provider"]
    pub fn forget(&self, range: Range<usize>) -> u64 {
        let dropped = self.clear_dirty(range.clone());
        let mut content = self.folio.content.write();
        assert_eq!(
            content.state.count(BlockSet::Writeback, range.clone()),
            0,
            "forgetting blocks in flight"
        );
        content.state.clear_uptodate(range.clone());
        content.state.forget_marks(range);
        dropped
    }

    /// Takes the folio out of its object for good and forgets its bytes; who waits for the lock
    /// will see [`FolioLock::is_detached`]. Returns how many blocks were dirty: their promises are
    /// spare. Otherwise like [`FolioLock::forget`].
    #[must_use = "spare promises must be given back to the provider"]
    pub fn detach(&self) -> u64 {
        let dropped = self.forget(0..self.folio.blocks());
        let mut index = self.folio.owner.index.write();
        if self.folio.is_indexed(&index) {
            index.map.remove(self.folio.index());
        }
        self.folio.detached.store(true, Ordering::Release);
        dropped
    }
}
