//! A locked folio in the coordinates of its object.
//!
//! The folio room counts blocks and bytes from the folio's start; the mapping core thinks in blocks of
//! the object. Guarantees nothing of its own: each call is one call of `folio::lock`, translated.
//! Called by the other files of this room, and by hooks that look at a locked folio.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use foliant_device::Buffer;
use foliant_device::Segment;

use crate::error::Result;
use crate::folio::cache::MappingCache;
use crate::folio::folio::Folio;
use crate::folio::lock::FolioLock;
use crate::folio::state::BlockSet;
use crate::kit::memory::Memory;
use crate::kit::memory::Purpose;
use crate::kit::sync::sleep;
use crate::units::BLOCK_BYTES;
use crate::units::FileBlocks;
use crate::units::Lsn;

/// Who shares a folio's memory rings nobody when he lets go, so who waits for that looks this often. Only a
/// change that found no memory at once pays for it.
const SHARERS_LOOK: Duration = Duration::from_millis(10);

/// A folio lock whose methods take blocks of the object.
pub struct Grip {
    lock: FolioLock,
}

impl From<FolioLock> for Grip {
    fn from(lock: FolioLock) -> Self {
        Self { lock }
    }
}

/// Blocks of the object as blocks of the folio that starts at `index`.
pub(super) fn within(index: u64, blocks: FileBlocks) -> Range<usize> {
    (blocks.start - index) as usize..(blocks.end - index) as usize
}

impl Grip {
    /// The folio of `block`, locked, made if there is none; see `MappingCache::find_or_create`.
    pub async fn find_or_create(
        cache: &MappingCache,
        block: u64,
        order: u8,
        memory: &Memory,
    ) -> Result<Self> {
        let (lock, _) = cache.find_or_create(block, order, memory).await?;
        Ok(lock.into())
    }

    /// The locked folio.
    pub fn folio(&self) -> &Arc<Folio> {
        self.lock.folio()
    }

    /// The blocks it covers.
    pub fn span(&self) -> FileBlocks {
        self.lock.folio().span()
    }

    /// log2 of its number of blocks.
    pub fn order(&self) -> u8 {
        self.lock.folio().order()
    }

    fn local(&self, blocks: FileBlocks) -> Range<usize> {
        within(self.lock.folio().index(), blocks)
    }

    /// Whether `block` is up to date.
    pub fn is_uptodate(&self, block: u64) -> bool {
        let blocks = self.local(FileBlocks::new(block, block + 1));
        self.lock.folio().is_uptodate(blocks)
    }

    /// Copies up-to-date bytes from `offset` in the folio; `false` if some are not.
    pub fn read_at(&self, offset: usize, dst: &mut [u8]) -> bool {
        self.lock.folio().read_at(offset, dst)
    }

    /// Whether the next change of bytes needs a spare buffer; a `false` stays true.
    pub fn needs_spare(&mut self) -> bool {
        self.lock.needs_spare()
    }

    /// Memory for the next change if the folio's own is shared, and from now on nobody can begin to share it.
    /// `None` if the change needs none: also when those who shared it let go before memory came. A large piece
    /// may not come for long, because what lies between the free blocks is in use.
    ///
    /// Errors: `OutOfMemory` after the wait of [`Memory::allocate`]. Dropping the future keeps nothing.
    pub async fn spare(&mut self, memory: &Memory, purpose: Purpose) -> Result<Option<Buffer>> {
        if !self.needs_spare() {
            return Ok(None);
        }
        let order = self.order();
        if let Some(spare) = memory.try_at_once(order, purpose) {
            return Ok(Some(spare));
        }
        let let_go = async {
            while self.needs_spare() {
                sleep(SHARERS_LOOK).await;
            }
        };
        tokio::select! {
            biased;
            () = let_go => Ok(None),
            spare = memory.allocate(order, purpose) => spare.map(Some),
        }
    }

    /// Copies `src` to byte `offset` of the folio; `spare` replaces shared memory and is used up then.
    pub fn write(&mut self, offset: usize, src: &[u8], spare: &mut Option<Buffer>) {
        let spare = self.take_if_needed(spare);
        self.lock.write(offset, src, spare);
    }

    /// Zeroes bytes of the folio; otherwise like [`Grip::write`].
    pub fn zero(&mut self, range: Range<usize>, spare: &mut Option<Buffer>) {
        let spare = self.take_if_needed(spare);
        self.lock.zero(range, spare);
    }

    fn take_if_needed(&mut self, spare: &mut Option<Buffer>) -> Option<Buffer> {
        match self.lock.needs_spare() {
            true => spare.take(),
            false => None,
        }
    }

    /// `blocks` hold what the object holds.
    pub fn set_uptodate(&mut self, blocks: FileBlocks) {
        if !blocks.is_empty() {
            self.lock.set_uptodate(self.local(blocks));
        }
    }

    /// The folio's memory for a device read; see `FolioLock::lend`.
    pub fn lend(&self) -> Option<Buffer> {
        self.lock.lend()
    }

    /// Whether the memory is lent.
    pub fn is_lent(&self) -> bool {
        self.lock.needs_memory()
    }

    /// Gives lent memory back; nothing of it is up to date yet.
    pub fn give_back(&mut self, memory: Buffer) {
        self.lock.give_back(memory);
    }

    /// Replaces the whole memory; all blocks are up to date then.
    pub fn install(&mut self, memory: Buffer) {
        self.lock.install(memory);
    }

    /// A shared handle to the whole memory.
    pub fn memory(&self) -> Option<Buffer> {
        self.lock.memory()
    }

    /// Makes `blocks` dirty; how many were not.
    #[must_use = "newly dirty blocks use promises of room"]
    pub fn mark_dirty(&mut self, blocks: FileBlocks) -> u64 {
        self.lock.mark_dirty(self.local(blocks))
    }

    /// Whether `block` is dirty. With the lock held a `false` stays true.
    pub fn is_dirty(&self, block: u64) -> bool {
        let within = self.local(FileBlocks::new(block, block + 1)).start;
        self.lock.folio().has(BlockSet::Dirty, within)
    }

    /// Whether all of `blocks`, which lie in this folio, are dirty. With the lock held a `true` stays
    /// true until its holder changes it.
    pub fn are_dirty(&self, blocks: FileBlocks) -> bool {
        self.lock.folio().all_in(BlockSet::Dirty, self.local(blocks))
    }

    /// Makes `blocks` clean without writing; how many were dirty: their promises are spare.
    #[must_use = "spare promises must be given back to the provider"]
    pub fn clear_dirty(&mut self, blocks: FileBlocks) -> u64 {
        self.lock.clear_dirty(self.local(blocks))
    }

    /// Forgets what is cached of `blocks`, as far as they lie here; how many were dirty. A folio that lies
    /// inside of them leaves the cache. The caller holds the range lock over them.
    ///
    /// # Panics
    /// If one of the blocks is under writeback.
    #[must_use = "spare promises must be given back to the provider"]
    pub fn forget(&mut self, blocks: FileBlocks) -> u64 {
        let inside = self.span().intersect(blocks);
        if inside == self.span() {
            self.lock.detach()
        } else {
            self.lock.forget(self.local(inside))
        }
    }

    /// The newest bytes of `block` are in the journal up to `lsn`; see `FolioLock::mark_journal`.
    pub fn mark_journal(&self, block: u64, lsn: Lsn) {
        let within = self.local(FileBlocks::new(block, block + 1)).start;
        self.lock.mark_journal(within, lsn);
    }

    /// Moves all dirty blocks to writeback, but those whose older bytes are on their way: runs with
    /// their bytes, ascending.
    pub fn begin_writeback(&mut self) -> Vec<(FileBlocks, Segment)> {
        let mut runs = Vec::new();
        let all = 0..self.lock.folio().blocks();
        self.lock.begin_writeback(all, &mut runs);
        let blocks = |first, segment: &Segment| {
            FileBlocks::new(first, first + (segment.len() / BLOCK_BYTES) as u64)
        };
        runs.into_iter().map(|(first, segment)| (blocks(first, &segment), segment)).collect()
    }

    /// Waits until no block is under writeback. Errors: `TimedOut`.
    pub async fn wait_writeback(&self) -> Result<()> {
        self.lock.wait_writeback().await
    }
}
