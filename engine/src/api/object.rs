//! An object: a sparse byte array with a size.
//!
//! Guarantees and drop behaviour stand at each verb. Checks arguments; everything else happens below.
//! Called by users.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use foliant_device::Segment;

use crate::api::handle::Inner;
use crate::error::Error;
use crate::error::ErrorKind;
use crate::error::Result;
use crate::iomap::ahead::Reader;
use crate::iomap::seek::Stored;
use crate::iomap::seek::StoredRun;
use crate::kit::lock_order::watched;
use crate::object::open::OpenObject;
use crate::object::resize;
use crate::units::BLOCK;

/// Longer reads are not tried as one hit: what was copied would be copied again.
const HIT_BYTES_MAX: usize = 64 << 10;

/// A sparse byte array of up to 2^63 - 1 bytes. Cheap to clone; all clones are the same object.
///
/// Read-ahead belongs to the handle: who reads one object in several places at once does so through
/// clones, and each clone's stream is recognised.
#[derive(Debug)]
pub struct Object {
    engine: Arc<Inner>,
    open: Arc<OpenObject>,
    reader: Reader,
}

impl Clone for Object {
    fn clone(&self) -> Self {
        Self::new(self.engine.clone(), self.open.clone())
    }
}

/// How an extent is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExtentState {
    /// Written into the cache, where nothing was stored; gets its place at writeback.
    Delalloc,
    /// Allocated, and never written on the device. Reads as zero, unless the cache holds what was
    /// written since: that goes to this place.
    Unwritten,
    /// Stored on the device. Newer bytes in the cache go to another place.
    Mapped,
    /// Stored in the record of the object, which is small.
    Inline,
}

/// Bytes of an object that lie together in the engine's memory.
#[derive(Debug, Clone)]
pub struct Piece {
    /// The bytes. They never change: a writer replaces the memory instead.
    pub bytes: Bytes,
    /// Bytes of the memory budget that cannot be used anew while the piece or a clone of its bytes lives: all of
    /// the memory that it is a part of, 2 MiB at most. Pieces of one memory count all of it each.
    pub held_bytes: usize,
}

/// One extent of an object; ranges between extents are holes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExtentInfo {
    /// Bytes of the object.
    pub range: Range<u64>,
    /// First byte on the device, if it has a place there.
    pub device_offset: Option<u64>,
    /// How it is stored.
    pub state: ExtentState,
}

impl Object {
    pub(super) fn new(engine: Arc<Inner>, open: Arc<OpenObject>) -> Self {
        Self { engine, open, reader: Reader::default() }
    }

    pub(super) fn opened(&self) -> &Arc<OpenObject> {
        &self.open
    }

    pub(super) fn engine(&self) -> &Arc<Inner> {
        &self.engine
    }

    /// The size in bytes that readers see.
    pub fn size(&self) -> u64 {
        self.open.state().size()
    }

    /// Reads into `dst` from `offset`; short only at the end of the object.
    ///
    /// A hit in the cache completes on the first poll. Errors: `InvalidInput`, `Closed`, `Corrupt`
    /// (a checksum does not match; other ranges can still be read), `Device`, `OutOfMemory`.
    pub async fn read_at(&self, offset: u64, dst: &mut [u8]) -> Result<usize> {
        self.check()?;
        let core = self.open.core();
        if dst.len() <= HIT_BYTES_MAX
            && let Some(read) = core.try_read_at(offset, dst)?
        {
            return Ok(read);
        }
        // Boxed: the way to the device is long, and the future of every hit would carry room for it.
        Box::pin(core.read_by(&self.reader, offset, dst)).await
    }

    /// As [`Object::read_at`], but only from the cache and without a future: `None` as soon as
    /// something is missing, so that the caller decides whether to wait for the device.
    ///
    /// Never waits and allocates nothing; the content of `dst` is unspecified after `None`. Errors:
    /// `InvalidInput`, `Closed`.
    pub fn try_read_at(&self, offset: u64, dst: &mut [u8]) -> Result<Option<usize>> {
        self.check()?;
        self.open.core().try_read_at(offset, dst)
    }

    /// Lets `look` see the bytes of `range` where they lie in the cache, without a copy and without a future:
    /// for who wants few of them, and knows which when he sees others. `None` when the cache does not hold
    /// them all in one block by itself (what was written or read ahead in larger pieces lies in larger ones),
    /// when the range goes behind the end, or when a change is just being made there; then
    /// [`Object::read_at`] is the way.
    ///
    /// Never waits, and holds no lock while `look` runs, which may be for nothing. `range` has at most 2 MiB.
    /// Errors: `InvalidInput`, `Closed`.
    pub fn peek<R>(&self, range: Range<u64>, look: impl FnOnce(&[u8]) -> R) -> Result<Option<R>> {
        self.check()?;
        self.open.core().peek(range, look)
    }

    /// The bytes of `range`, as far as they lie below the size, without a copy where one folio holds
    /// them. They never change: a writer replaces the memory instead.
    ///
    /// What is handed out stays in the memory budget until the last handle of it is dropped: who
    /// keeps much of it makes everybody wait. `range` has at most 2 MiB. Errors: as
    /// [`Object::read_at`].
    pub async fn read(&self, range: Range<u64>) -> Result<Bytes> {
        self.check()?;
        let found = self.open.core().read_shared(&self.reader, range).await?;
        Ok(found.map_or_else(Bytes::new, Bytes::from_owner))
    }

    /// The bytes of `range`, as far as they lie below the size, in pieces that lie together in memory, in
    /// order and without a copy; `None` when that cannot be had just now, and then [`Object::read_at`] is the
    /// way. Commits are seen entirely or not at all.
    ///
    /// Each piece keeps [`Piece::held_bytes`] of the memory budget. `range` has at most 2 MiB. Errors: as
    /// [`Object::read_at`]. Dropping the future has no effect.
    pub async fn read_pieces(&self, range: Range<u64>) -> Result<Option<Vec<Piece>>> {
        self.check()?;
        let pieces = Box::pin(self.open.core().read_pieces(&self.reader, range)).await?;
        let piece = |segment: Segment| {
            let held_bytes = segment.held_bytes();
            Piece { bytes: Bytes::from_owner(segment), held_bytes }
        };
        Ok(pieces.map(|pieces| pieces.into_iter().map(piece).collect()))
    }

    /// Writes `src` at `offset` into the cache, growing the object if need be; not durable before
    /// [`Object::sync`].
    ///
    /// Errors: `NoSpace`, `InvalidInput`, `Closed`, `WritesStopped`, `Device` (reading the rest of
    /// a partly written block, or an earlier failure of writeback), `OutOfMemory`, `TimedOut` (too much is dirty for too long). Dropping the future:
    /// each piece of 1 MiB is written whole or not at all, in order; when memory is scarce, a piece is fewer
    /// blocks.
    pub async fn write_at(&self, offset: u64, src: &[u8]) -> Result<()> {
        self.check()?;
        // Open behind it as well: so closing, which writes back after it has begun, finds the bytes.
        if self.open.core().write_dirty(offset, src) && self.check().is_ok() {
            return Ok(());
        }
        Box::pin(self.write_slowly(offset, src)).await
    }

    async fn write_slowly(&self, offset: u64, src: &[u8]) -> Result<()> {
        let _entered = self.volume().enter()?;
        self.check()?;
        self.open.core().write_with(offset, src, &()).await
    }

    /// Makes the bytes of `range` zero, as far as they lie below the size; what reads as zero anyway
    /// is neither written nor allocated. Not durable before [`Object::sync`].
    ///
    /// Errors: as [`Object::write_at`]. Dropping the future leaves a prefix zeroed.
    pub async fn zero(&self, range: Range<u64>) -> Result<()> {
        let _entered = self.volume().enter()?;
        self.check()?;
        let Some(len) = range.end.checked_sub(range.start) else {
            return Err(Error::invalid(format!("range {range:?} runs backwards")));
        };
        self.open.core().zero_range(range.start, len).await
    }

    /// Sets the size; new bytes read as zero. A shrink is durable with the next sync of the object.
    ///
    /// Errors: `InvalidInput`, `NoSpace`, `Closed`, `WritesStopped`, `Device`, `OutOfMemory`, `TimedOut`
    /// (writeback that does not end). Dropping the future does
    /// not stop it.
    pub async fn truncate(&self, size: u64) -> Result<()> {
        let entered = self.volume().enter()?;
        self.check()?;
        let open = self.open.clone();
        let work = async move {
            let _entered = entered;
            watched(resize::truncate(&open, size)).await
        };
        self.volume().flusher.run_to_end(work).await
    }

    /// Makes the bytes of `range` zero and gives whole blocks back to the volume. The size stays.
    ///
    /// Errors: `InvalidInput`, `NoSpace`, `Closed`, `WritesStopped`, `Device`, `OutOfMemory`, `TimedOut`
    /// (writeback that does not end). Dropping the future does
    /// not stop it.
    pub async fn punch(&self, range: Range<u64>) -> Result<()> {
        let entered = self.volume().enter()?;
        self.check()?;
        let open = self.open.clone();
        let work = async move {
            let _entered = entered;
            watched(resize::punch(&open, range)).await
        };
        self.volume().flusher.run_to_end(work).await
    }

    /// Allocates the holes of `range`, so that what is written there takes no further room. The size stays.
    ///
    /// While it is in memory alone, what is written there is promised room like everything else: on a volume
    /// that has none at all writes are refused there, too.
    ///
    /// Errors: `InvalidInput`, `NoSpace`, `Closed`, `WritesStopped`, `Device`, `OutOfMemory`, `TimedOut`
    /// (writeback that does not end). Dropping the future does
    /// not stop it.
    pub async fn preallocate(&self, range: Range<u64>) -> Result<()> {
        let entered = self.volume().enter()?;
        self.check()?;
        let open = self.open.clone();
        let work = async move {
            let _entered = entered;
            watched(resize::preallocate(&open, range)).await
        };
        self.volume().flusher.run_to_end(work).await
    }

    /// Everything accepted on this object before the call is durable on return.
    ///
    /// Errors: a kept failure of writeback (it stays an error until `recover`: the data is in memory, not on the
    /// device), `Closed`, `WritesStopped`, `Device`; `OutOfMemory`, `NoSpace` and `TimedOut` when writing
    /// back could not go on for now. Dropping the future does not stop it.
    pub async fn sync(&self) -> Result<()> {
        let _entered = self.volume().enter()?;
        self.check()?;
        self.volume().flusher.sync(self.open.clone()).await
    }

    /// The first byte at or behind `offset` that lies in a block with data, as `lseek(2)` with
    /// `SEEK_DATA`; `None` when there is none below the size.
    ///
    /// Data are blocks that are stored, and blocks that were written and are not stored yet. What was
    /// only preallocated is a hole. The unit is the block of 4096 bytes: zeroes beside data in one
    /// block are data. Errors: `Closed`, `Corrupt`, `Device`, `TimedOut`. Dropping the future has no
    /// effect.
    pub async fn seek_data(&self, offset: u64) -> Result<Option<u64>> {
        self.check()?;
        self.open.core().seek_data(offset).await
    }

    /// The first byte at or behind `offset` that lies in a hole, as `lseek(2)` with `SEEK_HOLE`; the
    /// end of the object is one. `None` when `offset` lies at or behind the end.
    ///
    /// Errors and drop as for [`Object::seek_data`].
    pub async fn seek_hole(&self, offset: u64) -> Result<Option<u64>> {
        self.check()?;
        self.open.core().seek_hole(offset).await
    }

    /// Up to `limit` extents that touch `range` (bytes, rounded outwards to blocks), ascending and
    /// joined where they continue each other; what lies between them is a hole. At most 4096 at
    /// once: go on from the end of the last one. Beside writers, each extent is true at a moment of
    /// its own.
    ///
    /// Errors: `InvalidInput` for a range that runs backwards or ends beyond the largest object,
    /// `Closed`, `Corrupt`, `Device`, `TimedOut`. Dropping the future has no effect.
    pub async fn extents(&self, range: Range<u64>, limit: usize) -> Result<Vec<ExtentInfo>> {
        self.check()?;
        let found = self.open.core().stored_runs(range, limit).await?;
        let info = |run: &StoredRun| {
            let (state, at) = match run.stored {
                Stored::Delalloc => (ExtentState::Delalloc, None),
                Stored::Unwritten(at) => (ExtentState::Unwritten, Some(at)),
                Stored::Mapped(at) => (ExtentState::Mapped, Some(at)),
                Stored::Inline => (ExtentState::Inline, None),
            };
            let device_offset = at.map(|at| at.0 * BLOCK);
            ExtentInfo { range: run.blocks.bytes(), device_offset, state }
        };
        Ok(found.iter().map(info).collect())
    }

    pub(super) fn check(&self) -> Result<()> {
        self.volume().check_open()?;
        let state = self.open.state();
        if state.is_pending() {
            let why = "the transaction that makes the object is not committed";
            return Err(Error::new(ErrorKind::NotFound, why));
        }
        state.check_present()
    }

    pub(super) fn volume(&self) -> &crate::volume::mount::Volume {
        &self.engine.volume
    }
}
