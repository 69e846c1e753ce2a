//! Zeroing through the cache, and taking blocks out of it.
//!
//! Guarantees: bytes that are stored or dirty become zero and dirty; blocks that read as zero
//! anyway (a hole or unwritten, and neither dirty nor under writeback) are neither made nor
//! dirtied nor allocated. Whether a block is dirty or under writeback is looked up *between* the
//! mapping and the check that the mapping is current, so a writeback that completes meanwhile is
//! never missed.
//!
//! Does not change mappings: punching holes and giving space back is the provider's. Called by
//! `object` and by `eof`.

use std::ops::Range;

use foliant_device::Buffer;

use crate::error::Result;
use crate::iomap::bundle::Mapped;
use crate::iomap::contract::MapIntent;
use crate::iomap::contract::MapKind;
use crate::iomap::contract::MappingProvider;
use crate::iomap::contract::Transport;
use crate::iomap::contract::checked_range;
use crate::iomap::grip::Grip;
use crate::iomap::iter::Cursor;
use crate::iomap::iter::Lease;
use crate::iomap::pause::Canary;
use crate::iomap::pause::Point;
use crate::iomap::retry::Attempts;
use crate::iomap::write::Piece;
use crate::iomap::write::Source;
use crate::kit::canary;
use crate::kit::canary::is_broken;
use crate::kit::lock_order::watched;
use crate::kit::memory::Purpose;
use crate::kit::range_lock::RangeGuard;
use crate::limits::WRITE_PIECE_BLOCKS;
use crate::units::BLOCK;
use crate::units::FileBlocks;

impl<P: MappingProvider, T: Transport> Mapped<P, T> {
    /// Zeroes the bytes `offset..offset + len` as far as they lie below the size.
    ///
    /// Errors: those of a write. Dropping the future leaves a prefix zeroed.
    pub async fn zero_range(&self, offset: u64, len: u64) -> Result<()> {
        let len = usize::try_from(len).unwrap_or(usize::MAX);
        let range = checked_range(offset, len)?;
        let blocks = FileBlocks::covering(&range);
        watched(self.zero_throttled(range, blocks)).await
    }

    /// Waits for room with nothing locked, and lets the range go when there is no more.
    async fn zero_throttled(&self, range: Range<u64>, blocks: FileBlocks) -> Result<()> {
        let mut at = range.start;
        loop {
            drop(self.dirty.admit(1).await?);
            let _held = self.ranges.exclusive(blocks.start..blocks.end).await;
            let Some(rest) = self.below_size(at..range.end) else { return Ok(()) };
            match self.zero_some(rest, true).await? {
                Some(next) => at = next,
                None => return Ok(()),
            }
        }
    }

    /// The part of a range that zeroing changes.
    fn below_size(&self, range: Range<u64>) -> Option<Range<u64>> {
        let size = self.provider.size();
        if range.start >= size.min(range.end) {
            return None;
        }
        // Behind the size there is nothing to keep, so the last block is replaced whole.
        let end = if range.end >= size { size.div_ceil(BLOCK) * BLOCK } else { range.end };
        Some(range.start..end)
    }

    /// As [`Mapped::zero_range`] for a caller who holds the range lock over the blocks.
    pub async fn zero_held(&self, held: &RangeGuard, range: Range<u64>) -> Result<()> {
        self.expect_held(held, FileBlocks::covering(&range));
        match self.below_size(range) {
            Some(rest) => self.zero_stored(rest).await,
            None => Ok(()),
        }
    }

    /// Zeroes the parts of a range that do not cover a whole block; the rest is the provider's to
    /// unmap, after [`Mapped::drop_cached`]. The caller holds the range lock over all blocks.
    pub async fn zero_edges(&self, held: &RangeGuard, range: Range<u64>) -> Result<()> {
        let inner = whole_blocks(&range).bytes();
        if inner.is_empty() {
            return self.zero_held(held, range).await;
        }
        self.zero_held(held, range.start..inner.start).await?;
        self.zero_held(held, inner.end..range.end).await
    }

    /// Drops the cached blocks with what is dirty in them, after their writeback ended; their
    /// promises go back. The caller holds the range lock over them.
    ///
    /// Dropping the future leaves some of the blocks in the cache.
    pub async fn drop_cached(&self, held: &RangeGuard, blocks: FileBlocks) -> Result<()> {
        self.expect_held(held, blocks);
        if !blocks.is_empty() {
            let spare = |dirty| self.provider.forget_dirty(dirty);
            self.cache.drop_range_into(blocks, spare).await?;
        }
        Ok(())
    }

    /// Locks the folio that holds the end `size`, ready to be cut there; the first half of a
    /// truncate, and the half that can fail.
    ///
    /// `held` is the exclusive range lock from the block of the new end to `u64::MAX`. Errors:
    /// `OutOfMemory`. Dropping the future, or the answer, has no effect.
    pub async fn hold_end(&self, held: &RangeGuard, size: u64) -> Result<HeldEnd> {
        self.expect_held(held, FileBlocks::new(size / BLOCK, u64::MAX));
        let last = size / BLOCK;
        let inside = !size.is_multiple_of(BLOCK);
        let folio = if inside { self.cache.find_locked(last).await } else { None };
        let mut folio = folio.map(Grip::from).filter(|folio| folio.is_uptodate(last));
        let mut spare = None;
        if let Some(folio) = &mut folio {
            spare = folio.spare(&self.memory, Purpose::Reserved).await?;
        }
        Ok(HeldEnd { folio, spare, size })
    }

    /// Cuts the cache at the end that is held, whose size the provider has set by now: zeroes the
    /// rest of its block in memory and drops all blocks behind. Needs no room on the device: the
    /// rest of the block that is stored there is hidden by the size, and zeroed when the object
    /// grows (`eof`).
    ///
    /// Errors: `TimedOut` (writeback that does not end). To be driven to its end by a task of the
    /// engine: dropped half way, it leaves blocks behind the end, which the size hides and which are
    /// zeroed when it grows over them.
    pub async fn cut(&self, held: &RangeGuard, end: HeldEnd) -> Result<()> {
        let HeldEnd { mut folio, mut spare, size } = end;
        if let Some(folio) = &mut folio {
            let start = folio.span().bytes().start;
            let rest = (size - start) as usize..((size / BLOCK + 1) * BLOCK - start) as usize;
            if !is_broken(canary::Canary::LeaveCutEnd) {
                folio.zero(rest, &mut spare);
            }
        }
        drop(folio);
        let behind = FileBlocks::new(size.div_ceil(BLOCK), u64::MAX);
        self.drop_cached(held, behind).await
    }

    /// Zeroes what is stored or dirty in `range`, in pieces. The caller holds the range lock.
    pub(super) async fn zero_stored(&self, range: Range<u64>) -> Result<()> {
        let end = self.zero_some(range, false).await?;
        assert_eq!(end, None, "nobody asked for a part");
        Ok(())
    }

    /// The same; with `pause` it ends early when too much is dirty, and says where.
    ///
    /// Shares of the dirty room are taken without waiting, because the range is locked: who has a share
    /// may be waiting for the range, and so may a reader whose pinned memory somebody needs who
    /// stands in writeback's way.
    async fn zero_some(&self, range: Range<u64>, pause: bool) -> Result<Option<u64>> {
        let mut rest = FileBlocks::covering(&range);
        while let Some(found) = self.first_stored(rest).await? {
            let end = found.end.min(found.start + WRITE_PIECE_BLOCKS);
            let bytes = FileBlocks::new(found.start, end).bytes();
            let bytes = bytes.start.max(range.start)..bytes.end.min(range.end);
            let _share = match self.pauses.is_broken(Canary::WaitForZeroes) {
                true => self.dirty.admit(end - found.start).await?,
                false => self.dirty.admit_over(end - found.start),
            };
            let start = bytes.start;
            let piece = Piece { bytes, source: Source::Zeroes, grows: false };
            let done = start + self.apply(piece, &(), || {}).await?;
            rest.start = done.div_ceil(BLOCK).min(rest.end);
            if pause && done < range.end && !self.dirty.has_room() {
                return Ok(Some(done));
            }
        }
        Ok(None)
    }

    /// The first run of `blocks` that is stored, dirty or under writeback.
    async fn first_stored(&self, blocks: FileBlocks) -> Result<Option<FileBlocks>> {
        let mut rest = blocks;
        let mut attempts = Attempts::default();
        while !rest.is_empty() {
            let attempt = self.attempt(&mut attempts).await;
            let mut cursor = Cursor::new(&self.provider, rest, MapIntent::Report);
            let lease = cursor.next().await?.expect("the range is not empty");
            self.pauses.at(Point::AfterMap).await;
            let found = self.stored_in(&lease);
            if !self.all_current(&attempt, std::slice::from_ref(&lease)) {
                continue;
            }
            if found.is_some() {
                return Ok(found);
            }
            rest.start = lease.blocks().end;
            attempts = Attempts::default();
        }
        Ok(None)
    }

    fn stored_in(&self, lease: &Lease<P>) -> Option<FileBlocks> {
        match lease.mapping().kind {
            MapKind::Mapped { .. } | MapKind::Inline { .. } => Some(lease.blocks()),
            MapKind::Hole | MapKind::Unwritten { .. } => {
                if self.pauses.is_broken(Canary::ZeroMappedOnly) {
                    return None;
                }
                let block = self.cache.first_unsettled(lease.blocks())?;
                Some(FileBlocks::new(block, block + 1))
            }
        }
    }

    /// Catches callers that forgot the range lock, as far as a guard can tell.
    pub(super) fn expect_held(&self, held: &RangeGuard, blocks: FileBlocks) {
        let inside = held.covers(blocks.start..blocks.end);
        assert!(blocks.is_empty() || inside, "{blocks:?} used with only {held:?} locked");
    }
}

/// The locked folio of an end to come, with the memory that replaces its own if that is shared.
pub struct HeldEnd {
    folio: Option<Grip>,
    spare: Option<Buffer>,
    size: u64,
}

/// The blocks that lie wholly inside of the bytes `range`.
pub fn whole_blocks(range: &Range<u64>) -> FileBlocks {
    let start = range.start.div_ceil(BLOCK);
    FileBlocks::new(start, (range.end / BLOCK).max(start))
}
