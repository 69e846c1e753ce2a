//! A device in memory, for examples and unit tests.
//!
//! Guarantees what the contract says, trivially: a completed write is visible; nothing survives
//! the value. Does not simulate faults (`sim` does). Called by tests and examples.

use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;

use parking_lot::RwLock;

use crate::buffer::Buffer;
use crate::buffer::Segment;
use crate::contract::BackendInfo;
use crate::contract::BlockDevice;
use crate::contract::IoFuture;
use crate::contract::Persist;
use crate::contract::ReadOutcome;
use crate::error::DeviceError;
use crate::error::DeviceErrorKind;
use crate::error::Operation;
use crate::error::Result;
use crate::geometry::BLOCK_SIZE;
use crate::geometry::Geometry;

/// A device whose blocks live in memory.
#[derive(Debug)]
pub struct MemDevice {
    geometry: Geometry,
    /// Held only while bytes are copied, never across an await.
    bytes: RwLock<Vec<u8>>,
    closed: AtomicBool,
}

impl MemDevice {
    /// A zeroed device of `blocks` blocks.
    pub fn new(blocks: u64) -> Self {
        let geometry = Geometry { volatile_cache: false, ..Geometry::plain(blocks) };
        let bytes = RwLock::new(vec![0; blocks as usize * BLOCK_SIZE]);
        Self { geometry, bytes, closed: AtomicBool::new(false) }
    }

    fn check_open(&self, op: Operation, block: u64, count: u64) -> Result<()> {
        if !self.closed.load(Ordering::Relaxed) {
            return Ok(());
        }
        let (offset, len) = (block * BLOCK_SIZE as u64, count * BLOCK_SIZE as u64);
        let kind = DeviceErrorKind::Gone;
        Err(DeviceError::new(op, offset, len, kind, "the device is closed"))
    }
}

fn done<T: Send + 'static>(value: T) -> IoFuture<T> {
    Box::pin(std::future::ready(value))
}

impl BlockDevice for MemDevice {
    fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    fn backend(&self) -> BackendInfo {
        BackendInfo { name: "memory", reason: "asked for".into() }
    }

    fn read(&self, block: u64, mut into: Vec<Buffer>) -> IoFuture<ReadOutcome> {
        let count = into.iter().map(Buffer::blocks).sum::<usize>() as u64;
        if let Err(gone) = self.check_open(Operation::Read, block, count) {
            return done((into, Err(gone)));
        }
        let bytes = self.bytes.read();
        let mut at = block as usize * BLOCK_SIZE;
        for buffer in &mut into {
            let len = buffer.len();
            let target = buffer.get_mut().expect("the handle checked that read buffers are unique");
            target.copy_from_slice(&bytes[at..at + len]);
            at += len;
        }
        done((into, Ok(())))
    }

    fn write(&self, block: u64, from: Vec<Segment>, _: Persist) -> IoFuture<Result<()>> {
        let count = from.iter().map(|s| s.len() / BLOCK_SIZE).sum::<usize>() as u64;
        if let Err(gone) = self.check_open(Operation::Write, block, count) {
            return done(Err(gone));
        }
        let mut bytes = self.bytes.write();
        let mut at = block as usize * BLOCK_SIZE;
        for segment in from {
            bytes[at..at + segment.len()].copy_from_slice(&segment);
            at += segment.len();
        }
        done(Ok(()))
    }

    fn flush(&self) -> IoFuture<Result<()>> {
        done(self.check_open(Operation::Flush, 0, 0))
    }

    fn discard(&self, block: u64, count: u64) -> IoFuture<Result<()>> {
        done(self.check_open(Operation::Discard, block, count))
    }

    fn write_zeroes(&self, block: u64, count: u64) -> IoFuture<Result<()>> {
        if let Err(gone) = self.check_open(Operation::WriteZeroes, block, count) {
            return done(Err(gone));
        }
        let range = block as usize * BLOCK_SIZE..(block + count) as usize * BLOCK_SIZE;
        self.bytes.write()[range].fill(0);
        done(Ok(()))
    }

    fn close(&self) -> IoFuture<Result<()>> {
        self.closed.store(true, Ordering::Relaxed);
        done(Ok(()))
    }
}
