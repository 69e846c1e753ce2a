//! The treaty between the core that moves bytes and the provider that knows where they lie.
//!
//! # Who answers what
//!
//! | question | answered by |
//! |---|---|
//! | what lies at this range, for this intent | provider: [`MappingProvider::map_begin`] |
//! | how much was used; the rest goes back | provider: [`MappingProvider::map_end`], exactly once per begin, also when the future that began is dropped |
//! | is the mapping still true (asked with the folio locked) | provider: [`MappingProvider::mapping_is_current`] |
//! | where dirty blocks shall go | provider: [`MappingProvider::map_writeback`] |
//! | the batch is on the device, or failed: flush, remap, publish the size | provider: [`MappingProvider::writeback_done`] |
//! | folios, per-block bits, edge reads, zeroing, copying, read-ahead, ioends, dirty limits | core only, never a provider |
//!
//! # What the core guarantees
//!
//! * It asks with block-aligned ranges, holds no folio lock across `map_begin`, and checks
//!   `mapping_is_current` after the folio is locked and before any byte or bit changes. Stale
//!   means remap, a bounded number of times, and then once with writeback held still (`retry`).
//! * For a write it holds the object's range lock over the blocks; for a read miss it holds it
//!   shared. A hit asks nobody.
//! * A block is dirty or under writeback exactly while one promised block is held for it: the core
//!   reports in `map_end` how many blocks it newly dirtied; it returns blocks dropped while dirty
//!   through [`MappingProvider::forget_dirty`]. A direct write reports its blocks as dirtied without dirtying
//!   them, and returns their promises the same way when it fails.
//! * `publish_size` is called with the folio locked that holds the new last byte; if there is none, with the
//!   range held, so that none can be made.
//! * The image of block 0 of a batch holds every byte below `settled_size`, if that lies in block 0.
//! * Data of a batch has completed on the device before `writeback_done` is called; writeback of
//!   the folios ends after it returned.
//!
//! # What the provider guarantees
//!
//! * It holds none of its locks between `map_begin` and `map_end`.
//! * `map_begin` to write ([`MapIntent::promises`]) promises room for every block of the mapping, or fails
//!   with `NoSpace`: after that, writing back these blocks cannot fail for lack of space.
//! * `writeback_done` makes the data stable *before* the mapping that points at it: in one transaction, or
//!   in several of which the last one publishes the size. A batch of a single run that a direct write can
//!   have (`DIRECT_BUFFER_BYTES_MAX`) gets one.
//! * A block that it stored itself ([`Target::Inline`]) is answered as [`MapKind::Inline`] until the
//!   block is placed on the device or unmapped.
//! * It never touches a folio.
//! * The mapping of a range changes only in `writeback_done` and by somebody who holds that range
//!   exclusively: a mapping made with the range locked and writeback held still stays true.
//!
//! Implementations: `iomap::identity` (offset = address: the proof of the seam) and
//! `object::provider`.

use std::future::Future;
use std::ops::Range;

use foliant_device::Buffer;
use foliant_device::Segment;

use crate::error::Result;
use crate::units::BlockNo;
use crate::units::DeviceSpan;
use crate::units::FileBlocks;

/// What the caller of a mapping is going to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MapIntent {
    /// Read the bytes.
    Read,
    /// Dirty the blocks in the cache; promise room for them.
    Write,
    /// The same for blocks of which nothing will be read: they are replaced whole or up to date in
    /// the cache. The kind of the answer means nothing.
    Overwrite,
    /// Only look (for `extents`, zeroing decisions).
    Report,
}

impl MapIntent {
    /// Whether the answer carries a promise of room for each of its blocks.
    pub fn promises(self) -> bool {
        matches!(self, Self::Write | Self::Overwrite)
    }
}

/// What lies at a range.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MapKind {
    /// Nothing: reads as zero.
    Hole,
    /// Allocated from `at` on, never written: reads as zero.
    Unwritten {
        /// First device block.
        at: BlockNo,
    },
    /// Stored from `at` on.
    Mapped {
        /// First device block.
        at: BlockNo,
        /// CRC32C of each block, when the provider keeps them and the intent needs them
        /// ([`MapIntent::Read`] and [`MapIntent::Write`]); the core verifies reads against them.
        checksums: Option<Vec<u32>>,
    },
    /// Stored by the provider itself, without a place on the device. Only block 0, alone.
    Inline {
        /// The first bytes of the block; the rest of it is zero.
        bytes: Vec<u8>,
    },
}

/// A sampled validity: equal cookies mean that nothing changed in between.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Cookie(pub u64);

/// One answer of a provider. A plain value; it is given back through `map_end`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mapping {
    /// The blocks this answer is about: starts where it was asked, at least one block, maybe
    /// shorter than asked.
    pub blocks: FileBlocks,
    /// What lies there.
    pub kind: MapKind,
    /// Sampled while the answer was formed.
    pub cookie: Cookie,
    /// Blocks promised for dirtying (intents `Write` and `Overwrite`), else 0.
    pub promised: u64,
}

/// A dirty run on its way out: contiguous blocks of one object with their bytes.
#[derive(Debug, Clone)]
pub struct DirtyRun {
    /// Which blocks of the object.
    pub blocks: FileBlocks,
    /// Their bytes, in order; each segment is whole blocks.
    pub data: Vec<Segment>,
}

/// The side on which dirty blocks become stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// The core writes them to the device, from this block on.
    Device(BlockNo),
    /// The provider keeps the bytes itself: the core writes nothing and hands the image over. Only
    /// block 0, alone, of an object that ends in it.
    Inline,
}

/// Where a contiguous part of a batch goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Placement {
    /// Which blocks of the object.
    pub blocks: FileBlocks,
    /// Where to.
    pub target: Target,
}

/// What a batch's completion knows about one placed run.
#[derive(Debug, Clone)]
pub struct PlacedRun {
    /// Where it went.
    pub placement: Placement,
    /// CRC32C (seed 0) of each block that was written; empty for [`Target::Inline`].
    pub checksums: Vec<u32>,
    /// The block's bytes for [`Target::Inline`]; zero behind `settled_size`.
    pub image: Option<Segment>,
}

/// What a provider claims for a batch. Dropping it undoes the claims, which is right while no write to the claimed
/// places is in flight.
pub trait Claim: Send + 'static {
    /// Lets go of the claims while a forgotten write can still hit their places: nobody may be given them before
    /// the store is opened again. Must hold on to nothing else, memory least of all.
    fn abandon(self);
}

/// Places that are never given to anybody else.
impl Claim for () {
    fn abandon(self) {}
}

/// The side that knows where bytes lie. One value per open object; cheap to share.
pub trait MappingProvider: Send + Sync + 'static {
    /// What a provider remembers between `map_writeback` and `writeback_done`.
    type Batch: Claim;

    /// The size in bytes that readers see.
    fn size(&self) -> u64;

    /// The size in bytes of the newest committed mapping: what a crash would leave, or will once
    /// the commit is durable. Never above [`MappingProvider::size`] while writeback is at rest.
    fn durable_size(&self) -> u64;

    /// Grows the size that readers see to at least `end`; called with the folio of the new last
    /// byte locked.
    fn publish_size(&self, end: u64);

    /// What lies at `blocks`, for `intent`.
    ///
    /// Errors: `NoSpace` (intents that promise), `Corrupt`, `Device`, `Closed`. Dropping the future leaves
    /// no promise behind.
    fn map_begin(
        &self,
        blocks: FileBlocks,
        intent: MapIntent,
    ) -> impl Future<Output = Result<Mapping>> + Send;

    /// Ends a mapping; `dirtied` blocks keep their promise, the rest goes back.
    ///
    /// Called exactly once per successful `map_begin`; must not fail or wait.
    fn map_end(&self, mapping: &Mapping, dirtied: u64);

    /// Whether nothing changed for the mapping's blocks since it was made.
    fn mapping_is_current(&self, mapping: &Mapping) -> bool;

    /// Whether bytes may be changed that are dirty already, so that nothing is asked or promised.
    ///
    /// Errors: the reason why nothing may be written any more.
    fn may_write(&self) -> Result<()>;

    /// A cookie that differs once the bytes stored for `blocks` may have changed, by a new mapping or
    /// in place. For who reads without the range lock and checks before the bytes are used.
    fn contents_cookie(&self, blocks: FileBlocks) -> Cookie;

    /// Gives back the promises of dirty blocks that were dropped (truncate, punch).
    fn forget_dirty(&self, blocks: u64);

    /// Places for these dirty runs (ascending, disjoint), contiguous where possible: the answers
    /// cover the runs exactly, in order, maybe in more pieces.
    ///
    /// `size` is the size that readers see, or that they will see when the batch has landed if that is
    /// larger; it decides what fits into a record.
    fn map_writeback(
        &self,
        runs: &[FileBlocks],
        size: u64,
    ) -> impl Future<Output = Result<(Self::Batch, Vec<Placement>)>> + Send;

    /// The medium could not write these places of the batch, and nothing of it is in flight any more: nobody shall be
    /// given them while the volume is open. The batch is dropped behind this. By default a provider whose
    /// places are fixed does nothing.
    fn leave_alone(&self, _batch: &mut Self::Batch, _places: &[DeviceSpan]) {}

    /// The batch's data has completed on the device: make it stable, then map it, then publish the
    /// durable size, in this order. Returns when the mapping is *visible* (committed), not durable.
    ///
    /// `settled_size` is the largest size that may become durable with it: below it, and from the
    /// block that holds the durable end on, no dirty block lies outside this batch. It may be below
    /// the durable size; then the durable size stays.
    fn writeback_done(
        &self,
        batch: Self::Batch,
        runs: Vec<PlacedRun>,
        settled_size: u64,
    ) -> impl Future<Output = Result<()>> + Send;
}

/// Moves whole blocks between memory and the device; the injected lower side of the core.
pub trait Transport: Send + Sync + 'static {
    /// Fills `into`, one buffer after the other, from device block `at`.
    fn read(
        &self,
        at: BlockNo,
        into: Vec<Buffer>,
    ) -> impl Future<Output = (Vec<Buffer>, Result<()>)> + Send + 'static;

    /// Writes the segments from device block `at`; starts when called. Not durable when it completes.
    fn write(
        &self,
        at: BlockNo,
        from: Vec<Segment>,
    ) -> impl Future<Output = Result<()>> + Send + 'static;
}

/// The byte range of a write or read, checked for overflow.
///
/// Errors: `InvalidInput` when the end lies beyond the largest object.
pub fn checked_range(offset: u64, len: usize) -> Result<Range<u64>> {
    let end = offset.checked_add(len as u64).filter(|&end| end <= crate::limits::OBJECT_BYTES_MAX);
    match end {
        Some(end) => Ok(offset..end),
        None => Err(crate::error::Error::invalid(format!(
            "{len} bytes at offset {offset} end beyond the largest object"
        ))),
    }
}
