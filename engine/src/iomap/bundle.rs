//! What belongs to one open object on the data side, held together.
//!
//! Guarantees nothing alone: the verbs in `read`, `write`, `zero`, `eof`, `hold` and `writeback`
//! are methods of [`Mapped`]. Built by `object`, one per open object; all of its methods take
//! `&self` and may run at the same time.

use std::sync::Arc;

use crate::folio::cache::MappingCache;
use crate::folio::dirty::DirtyLimits;
#[cfg(test)]
use crate::iomap::ahead::Reader;
use crate::iomap::contract::MappingProvider;
use crate::iomap::contract::Transport;
use crate::iomap::flight::Flights;
use crate::iomap::pause::Pauses;
use crate::iomap::publish::Publications;
use crate::kit::memory::Memory;
use crate::kit::range_lock::RangeLock;
use crate::kit::sync::Semaphore;
use crate::kit::sync::atomic::AtomicU64;
use crate::kit::sync::atomic::Ordering;
use crate::limits::WRITEBACK_BATCH_BLOCKS;
use crate::limits::WRITEBACK_BATCH_BLOCKS_MAX;
use crate::limits::WRITEBACK_BATCH_SHARE;
use crate::limits::WRITEBACK_BATCHES;

/// The largest folio that reads and writes make, as a power of two of blocks: 2 MiB, one huge page.
pub const FOLIO_ORDER_MAX: u8 = 9;

/// The parts of a [`Mapped`].
pub struct Parts<P, T> {
    /// Who knows where bytes lie.
    pub provider: Arc<P>,
    /// The object's folios.
    pub cache: MappingCache,
    /// The object's range lock, in blocks.
    pub ranges: RangeLock,
    /// Who moves blocks.
    pub transport: T,
    /// Where folios come from.
    pub memory: Memory,
    /// The global bound on dirty blocks.
    pub dirty: DirtyLimits,
}

/// One object's mapping, cache and device, with the verbs that move bytes between them.
pub struct Mapped<P, T> {
    pub(super) provider: Arc<P>,
    pub(super) cache: MappingCache,
    pub(super) ranges: RangeLock,
    pub(super) transport: T,
    pub(super) memory: Memory,
    pub(super) dirty: DirtyLimits,
    #[cfg(test)]
    /// The guesses for tests, which read without a handle.
    pub(super) ahead: Reader,
    pub(super) flights: Flights,
    pub(super) publications: Publications,
    /// One permit per batch that may be on its way; who must have none on its way takes all.
    pub(super) writeback: Semaphore,
    /// Blocks in one batch.
    pub(super) batch_blocks: u64,
    /// Batches that failed so far.
    pub(super) failed_batches: AtomicU64,
    pub(super) counts: Counts,
    pub(super) pauses: Pauses,
}

/// What happened to one object so far; monotonic.
#[derive(Debug, Default)]
pub struct Counts {
    pub(super) stale_retries: AtomicU64,
    pub(super) held_still: AtomicU64,
    pub(super) hits: AtomicU64,
    pub(super) misses: AtomicU64,
    pub(super) blocks_read: AtomicU64,
    pub(super) blocks_read_ahead: AtomicU64,
    pub(super) blocks_written: AtomicU64,
}

/// The numbers of [`Counts`] at one moment, of one object or summed over several.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Totals {
    /// Mappings that went stale and were made again.
    pub stale_retries: u64,
    /// Operations whose mapping went stale so often that they held writeback still in the end.
    pub held_still: u64,
    /// Pieces of reads that one folio held.
    pub hits: u64,
    /// Reads that did not find all of their bytes in the cache.
    pub misses: u64,
    /// Blocks read from the device.
    pub blocks_read: u64,
    /// Those of them that nobody had asked for yet.
    pub blocks_read_ahead: u64,
    /// Blocks written back.
    pub blocks_written: u64,
}

impl std::ops::AddAssign for Totals {
    fn add_assign(&mut self, other: Self) {
        self.stale_retries += other.stale_retries;
        self.held_still += other.held_still;
        self.hits += other.hits;
        self.misses += other.misses;
        self.blocks_read += other.blocks_read;
        self.blocks_read_ahead += other.blocks_read_ahead;
        self.blocks_written += other.blocks_written;
    }
}

impl Counts {
    pub(super) fn add(counter: &AtomicU64, count: u64) {
        counter.fetch_add(count, Ordering::Relaxed);
    }

    /// The numbers now.
    pub fn totals(&self) -> Totals {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Totals {
            stale_retries: read(&self.stale_retries),
            held_still: read(&self.held_still),
            hits: read(&self.hits),
            misses: read(&self.misses),
            blocks_read: read(&self.blocks_read),
            blocks_read_ahead: read(&self.blocks_read_ahead),
            blocks_written: read(&self.blocks_written),
        }
    }
}

impl<P: MappingProvider, T: Transport> Mapped<P, T> {
    /// Puts the parts together.
    pub fn new(parts: Parts<P, T>) -> Self {
        let publications = Publications::of(parts.cache.object().0);
        let share = parts.memory.capacity_blocks() as u64 / WRITEBACK_BATCH_SHARE;
        Self {
            provider: parts.provider,
            cache: parts.cache,
            ranges: parts.ranges,
            transport: parts.transport,
            memory: parts.memory,
            dirty: parts.dirty,
            #[cfg(test)]
            ahead: Reader::default(),
            flights: Flights::default(),
            publications,
            writeback: Semaphore::new(WRITEBACK_BATCHES),
            batch_blocks: share.clamp(WRITEBACK_BATCH_BLOCKS, WRITEBACK_BATCH_BLOCKS_MAX),
            failed_batches: AtomicU64::new(0),
            counts: Counts::default(),
            pauses: Pauses::default(),
        }
    }

    /// Who knows where the object's bytes lie.
    pub fn provider(&self) -> &Arc<P> {
        &self.provider
    }

    #[cfg(test)]
    /// The object's folios.
    pub fn cache(&self) -> &MappingCache {
        &self.cache
    }

    /// The object's range lock; ranges are in blocks. Who changes the size locks up to `u64::MAX`.
    pub fn ranges(&self) -> &RangeLock {
        &self.ranges
    }

    /// Whether no block is dirty or under writeback.
    pub fn is_clean(&self) -> bool {
        self.cache.dirty_blocks() + self.cache.writeback_blocks() == 0
    }

    /// What happened so far.
    pub fn counts(&self) -> &Counts {
        &self.counts
    }

    #[cfg(test)]
    /// The test points of this bundle.
    pub fn pauses(&self) -> &Pauses {
        &self.pauses
    }
}

/// The order of a folio that starts at `block` and has at most `room` blocks.
pub(super) fn order_for(block: u64, room: u64) -> u8 {
    let aligned = block.trailing_zeros();
    let fits = room.max(1).ilog2();
    aligned.min(fits).min(u32::from(FOLIO_ORDER_MAX)) as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folios_are_aligned_and_fit() {
        assert_eq!(order_for(0, 1), 0);
        assert_eq!(order_for(0, 1000), FOLIO_ORDER_MAX);
        assert_eq!(order_for(16, 1000), 4);
        assert_eq!(order_for(4, 1000), 2);
        assert_eq!(order_for(4, 3), 1);
        assert_eq!(order_for(7, 8), 0);
    }
}
