//! An object: a sparse byte array with a size.
//!
//! Guarantees and drop behaviour stand at each verb. Checks arguments; everything else happens below.
//! Called by users.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

use crate::api::handle::Inner;
use crate::error::Error;
use crate::error::Result;
use crate::extent;
use crate::kit::lock_order::watched;
use crate::object::open::OpenObject;
use crate::object::resize;
use crate::units::BLOCK;
use crate::units::FileBlocks;

/// A sparse byte array of up to 2^63 - 1 bytes. Cheap to clone; all clones are the same object.
#[derive(Clone, Debug)]
pub struct Object {
    engine: Arc<Inner>,
    open: Arc<OpenObject>,
}

/// How an extent is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExtentState {
    /// Allocated, never written: reads as zero.
    Unwritten,
    /// Stored on the device.
    Mapped,
}

/// One stored extent of an object; ranges between extents are holes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExtentInfo {
    /// Bytes of the object.
    pub range: Range<u64>,
    /// First byte on the device.
    pub device_offset: u64,
    /// How it is stored.
    pub state: ExtentState,
}

impl Object {
    pub(super) fn new(engine: Arc<Inner>, open: Arc<OpenObject>) -> Self {
        Self { engine, open }
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
        self.open.core().read_at(offset, dst).await
    }

    /// The bytes of `range`, as far as they lie below the size, without a copy where one folio holds
    /// them. They never change: a writer replaces the memory instead.
    ///
    /// What is handed out stays in the memory budget until the last handle of it is dropped: who
    /// keeps much of it makes everybody wait. `range` has at most 2 MiB. Errors: as
    /// [`Object::read_at`].
    pub async fn read(&self, range: Range<u64>) -> Result<Bytes> {
        self.check()?;
        let found = self.open.core().read_shared(range).await?;
        Ok(found.map_or_else(Bytes::new, Bytes::from_owner))
    }

    /// Writes `src` at `offset` into the cache, growing the object if need be; not durable before
    /// [`Object::sync`].
    ///
    /// Errors: `NoSpace`, `InvalidInput`, `Closed`, `WritesStopped`, `Device` (reading the rest of
    /// a partly written block, or an earlier failure of writeback), `OutOfMemory`, `TimedOut` (too much is dirty for too long). Dropping the future:
    /// each piece of 1 MiB is written whole or not at all, in order.
    pub async fn write_at(&self, offset: u64, src: &[u8]) -> Result<()> {
        let _entered = self.volume().enter()?;
        self.check()?;
        self.open.core().write_at(offset, src).await
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
    /// Errors: `InvalidInput`, `NoSpace`, `Closed`, `WritesStopped`, `Device`. Dropping the future does
    /// not stop it.
    pub async fn truncate(&self, size: u64) -> Result<()> {
        let entered = self.volume().enter()?;
        let open = self.open.clone();
        let work = async move {
            let _entered = entered;
            watched(resize::truncate(&open, size)).await
        };
        self.volume().flusher.run_to_end(work).await
    }

    /// Makes the bytes of `range` zero and gives whole blocks back to the volume. The size stays.
    ///
    /// Errors: `InvalidInput`, `NoSpace`, `Closed`, `WritesStopped`, `Device`. Dropping the future does
    /// not stop it.
    pub async fn punch(&self, range: Range<u64>) -> Result<()> {
        let entered = self.volume().enter()?;
        let open = self.open.clone();
        let work = async move {
            let _entered = entered;
            watched(resize::punch(&open, range)).await
        };
        self.volume().flusher.run_to_end(work).await
    }

    /// Allocates the holes of `range`, so that writing there does not run out of space. The size stays.
    ///
    /// Errors: `InvalidInput`, `NoSpace`, `Closed`, `WritesStopped`, `Device`. Dropping the future does
    /// not stop it.
    pub async fn preallocate(&self, range: Range<u64>) -> Result<()> {
        let entered = self.volume().enter()?;
        let open = self.open.clone();
        let work = async move {
            let _entered = entered;
            watched(resize::preallocate(&open, range)).await
        };
        self.volume().flusher.run_to_end(work).await
    }

    /// Everything accepted on this object before the call is durable on return.
    ///
    /// Errors: a kept failure of writeback (it stays an error: the data is in memory, not on the
    /// device), `Closed`, `WritesStopped`, `Device`. Dropping the future does not stop it.
    pub async fn sync(&self) -> Result<()> {
        let _entered = self.volume().enter()?;
        self.volume().flusher.sync(self.open.clone()).await
    }

    /// Up to `limit` stored extents that touch `range`, ascending. Data that was never written back
    /// has no extent yet.
    ///
    /// Errors: `Closed`, `Corrupt`, `Device`.
    pub async fn extents(&self, range: Range<u64>, limit: usize) -> Result<Vec<ExtentInfo>> {
        self.check()?;
        let view = self.volume().table.ground().meta.read().await;
        let blocks = FileBlocks::covering(&range);
        let found = extent::list(&view, self.open.state().id(), blocks, limit).await?;
        let info = |e: &extent::Extent| ExtentInfo {
            range: e.at * BLOCK..(e.at + e.blocks) * BLOCK,
            device_offset: e.start.0 * BLOCK,
            state: if e.unwritten { ExtentState::Unwritten } else { ExtentState::Mapped },
        };
        Ok(found.iter().map(info).collect())
    }

    fn check(&self) -> Result<()> {
        self.volume().check_open()?;
        self.open.state().check_present()
    }

    fn volume(&self) -> &crate::volume::mount::Volume {
        &self.engine.volume
    }
}
