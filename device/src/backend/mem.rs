//! A device in memory, for examples and unit tests.
//!
//! Guarantees what the contract says, trivially: a completed write is visible; nothing survives
//! the value. Does not simulate faults (`sim` does). Called by tests and examples.

use std::sync::Arc;

use parking_lot::RwLock;

use crate::buffer::Buffer;
use crate::buffer::Segment;
use crate::contract::BackendInfo;
use crate::contract::BlockDevice;
use crate::contract::IoFuture;
use crate::contract::Persist;
use crate::contract::ReadOutcome;
use crate::error::Result;
use crate::geometry::BLOCK_SIZE;
use crate::geometry::Geometry;

/// A device whose blocks live in memory.
#[derive(Debug)]
pub struct MemDevice {
    geometry: Geometry,
    /// Held only while bytes are copied, never across an await.
    bytes: Arc<RwLock<Vec<u8>>>,
}

impl MemDevice {
    /// A zeroed device of `blocks` blocks.
    pub fn new(blocks: u64) -> Self {
        let geometry = Geometry { volatile_cache: false, ..Geometry::plain(blocks) };
        let bytes = Arc::new(RwLock::new(vec![0; blocks as usize * BLOCK_SIZE]));
        Self { geometry, bytes }
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
        let mut bytes = self.bytes.write();
        let mut at = block as usize * BLOCK_SIZE;
        for segment in from {
            bytes[at..at + segment.len()].copy_from_slice(&segment);
            at += segment.len();
        }
        done(Ok(()))
    }

    fn flush(&self) -> IoFuture<Result<()>> {
        done(Ok(()))
    }

    fn discard(&self, _: u64, _: u64) -> IoFuture<Result<()>> {
        done(Ok(()))
    }

    fn write_zeroes(&self, block: u64, count: u64) -> IoFuture<Result<()>> {
        let range = block as usize * BLOCK_SIZE..(block + count) as usize * BLOCK_SIZE;
        self.bytes.write()[range].fill(0);
        done(Ok(()))
    }

    fn close(&self) -> IoFuture<Result<()>> {
        done(Ok(()))
    }
}
