//! The treaty between a block device and its caller.
//!
//! # What every [`BlockDevice`] guarantees
//!
//! * **A request starts when the method is called**, not when its future is first polled. A
//!   dropped future does not cancel the request: it completes in the background, and the device
//!   keeps the buffers alive until the medium (or the kernel) is done with them.
//! * **Whole or error.** A request that completes with `Ok` moved every byte. Short transfers are
//!   finished inside the device and are never seen outside.
//! * **A write is visible to reads that start after it completed.** Requests in flight at the same
//!   time on overlapping blocks have no order; the caller must not issue them.
//! * **Durability.** A write with [`Persist::Durable`] is stable when it completes, and says nothing
//!   about other writes. [`BlockDevice::flush`] makes every write stable that completed before the
//!   flush was *called*. Nothing else makes anything stable. A write that was not made stable may,
//!   after a power cut, be there, not be there, or be there in part at a granularity of 512 bytes.
//! * **A failed flush is final for its epoch**: writes since the last good flush must be treated as
//!   not stable, even when a later flush succeeds.
//! * **Completion order is arbitrary.** Order comes only from waiting, from `flush`, and from
//!   `Persist::Durable`.
//! * Bytes outside of a write do not change.
//!
//! # What the caller guarantees
//!
//! * Requests go through [`Device`], which checks ranges once; an implementation may assert them.
//! * Read buffers are unique ([`Buffer::is_unique`]); write segments are whole blocks.
//! * The caller bounds how many requests it has in flight; a device may also make a request wait
//!   for a free slot.
//!
//! Implementations: `backend::{ring, threads, mem}`, `sim::device`, and the decorators
//! `wrap::{count, delay, overlay, watch}`. `conformance` (feature `testing`) checks every clause above that can be checked from
//! outside.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use crate::buffer::Buffer;
use crate::buffer::Segment;
use crate::error::Operation;
use crate::error::Result;
use crate::geometry::BLOCK_SIZE;
use crate::geometry::Geometry;

/// A request in flight. Dropping it does not cancel the request.
pub type IoFuture<T> = Pin<Box<dyn Future<Output = T> + Send + 'static>>;

/// What a read gives back: the buffers, filled if the result is `Ok`, and the result.
///
/// After an error the buffers hold unspecified engine bytes and may be used again. They are missing (an
/// empty vector) only when the runtime that served the device has ended, or the kernel never gave them
/// back.
pub type ReadOutcome = (Vec<Buffer>, Result<()>);

/// How far a write must have gone when it completes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Persist {
    /// It may sit in a volatile cache; a later flush makes it stable.
    Cached,
    /// It is stable on completion (`RWF_DSYNC`).
    Durable,
}

/// Which machinery serves a device, and why that one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackendInfo {
    /// Short name: `io_uring`, `threads`, `memory`, `sim`.
    pub name: &'static str,
    /// Why this one was chosen, and what it could not have (for people).
    pub reason: String,
}

/// An array of blocks. See the module page for the treaty.
pub trait BlockDevice: Send + Sync + fmt::Debug + 'static {
    /// Size and abilities; constant while open.
    fn geometry(&self) -> &Geometry;

    /// Which machinery this is.
    fn backend(&self) -> BackendInfo;

    /// Fills `into`, one buffer after the other, from `block` on.
    fn read(&self, block: u64, into: Vec<Buffer>) -> IoFuture<ReadOutcome>;

    /// Writes `from`, one segment after the other, from `block` on.
    fn write(&self, block: u64, from: Vec<Segment>, persist: Persist) -> IoFuture<Result<()>>;

    /// Makes every write stable that completed before this call.
    fn flush(&self) -> IoFuture<Result<()>>;

    /// Says that the blocks hold nothing of value. Their content is unspecified afterwards.
    fn discard(&self, block: u64, count: u64) -> IoFuture<Result<()>>;

    /// Makes the blocks read as zero. Not stable before a flush.
    fn write_zeroes(&self, block: u64, count: u64) -> IoFuture<Result<()>>;

    /// Registers the arena whose buffers will be used, so that requests can be cheaper.
    ///
    /// Called at most once, before the first request. A device that cannot register ignores it
    /// and says so in [`BlockDevice::backend`].
    fn register(&self, _arena: &crate::buffer::Arena) {}

    /// Waits for all requests in flight, stops the device's tasks and gives up its lock.
    ///
    /// Requests after this fail with `Gone`. Does not flush.
    fn close(&self) -> IoFuture<Result<()>>;
}

/// A cheap handle to a device; every range check happens here, once.
#[derive(Debug, Clone)]
pub struct Device {
    inner: Arc<dyn BlockDevice>,
}

impl Device {
    /// Wraps an implementation.
    pub fn new(device: impl BlockDevice) -> Self {
        Self { inner: Arc::new(device) }
    }

    /// Wraps a shared implementation, for callers that keep a typed handle as well.
    pub fn from_arc(inner: Arc<dyn BlockDevice>) -> Self {
        Self { inner }
    }

    /// The implementation, for decorators: what goes through them was checked once already.
    pub(crate) fn into_inner(self) -> Arc<dyn BlockDevice> {
        self.inner
    }

    /// Size and abilities.
    pub fn geometry(&self) -> &Geometry {
        self.inner.geometry()
    }

    /// Which machinery serves the device, and why.
    pub fn backend(&self) -> BackendInfo {
        self.inner.backend()
    }

    /// See [`BlockDevice::register`].
    pub fn register(&self, arena: &crate::buffer::Arena) {
        self.inner.register(arena);
    }

    /// See [`BlockDevice::read`].
    ///
    /// # Panics
    /// If a buffer is shared: the kernel must never write into memory that somebody reads.
    pub fn read(&self, block: u64, into: Vec<Buffer>) -> IoFuture<ReadOutcome> {
        assert!(into.iter().all(Buffer::is_unique), "read into a shared buffer");
        let count = into.iter().map(|b| b.len() / BLOCK_SIZE).sum::<usize>() as u64;
        if let Err(e) = self.geometry().check(Operation::Read, block, count) {
            return Box::pin(async move { (into, Err(e)) });
        }
        self.inner.read(block, into)
    }

    /// See [`BlockDevice::write`].
    ///
    /// # Panics
    /// If a segment is not whole blocks.
    pub fn write(&self, block: u64, from: Vec<Segment>, persist: Persist) -> IoFuture<Result<()>> {
        assert!(from.iter().all(|s| s.len() % BLOCK_SIZE == 0), "write of a partial block");
        let count = from.iter().map(|s| s.len() / BLOCK_SIZE).sum::<usize>() as u64;
        match self.geometry().check(Operation::Write, block, count) {
            Ok(()) => self.inner.write(block, from, persist),
            Err(e) => Box::pin(async move { Err(e) }),
        }
    }

    /// See [`BlockDevice::flush`].
    pub fn flush(&self) -> IoFuture<Result<()>> {
        self.inner.flush()
    }

    /// See [`BlockDevice::discard`].
    pub fn discard(&self, block: u64, count: u64) -> IoFuture<Result<()>> {
        match self.geometry().check(Operation::Discard, block, count) {
            Ok(()) => self.inner.discard(block, count),
            Err(e) => Box::pin(async move { Err(e) }),
        }
    }

    /// See [`BlockDevice::write_zeroes`].
    pub fn write_zeroes(&self, block: u64, count: u64) -> IoFuture<Result<()>> {
        match self.geometry().check(Operation::WriteZeroes, block, count) {
            Ok(()) => self.inner.write_zeroes(block, count),
            Err(e) => Box::pin(async move { Err(e) }),
        }
    }

    /// See [`BlockDevice::close`].
    pub fn close(&self) -> IoFuture<Result<()>> {
        self.inner.close()
    }
}
