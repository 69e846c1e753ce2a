//! The bare device: io_uring and `O_DIRECT` on the same kind of file or device, no engine.
//!
//! It is the line that an engine is measured against: no cache, no checksum, no journal, in place.
//! A commit is one write with `RWF_DSYNC`, which a crash may tear. Its memory is one small arena;
//! content is made and seen in the buffers that the kernel fills, without a copy.

use std::sync::Arc;

use anyhow::Context;
use anyhow::Result;
use anyhow::ensure;
use foliant_device::Arena;
use foliant_device::BLOCK_SIZE;
use foliant_device::Buffer;
use foliant_device::Device;
use foliant_device::Persist;
use foliant_device::wrap::count::Counters as Counted;

use crate::target::Counters;
use crate::target::Place;
use crate::target::Recovery;
use crate::target::Target;
use crate::targets::open_counted;
use crate::workload::PIECE_MAX;

/// Enough for the deepest sequential queue of the largest pieces.
const ARENA_PIECES: usize = 32;

/// An open device and the buffers for it.
#[derive(Clone)]
pub struct Raw {
    device: Device,
    arena: Arena,
    size: u64,
    counted: Arc<Counted>,
}

impl Raw {
    /// A buffer of `len` bytes; waits until one is free.
    async fn buffer(&self, len: usize) -> Buffer {
        let order = (len / BLOCK_SIZE).ilog2() as u8;
        loop {
            // Listen before looking, so that a buffer freed in between is not missed.
            let freed = self.arena.freed().notified();
            if let Some(buffer) = self.arena.allocate(order) {
                return buffer;
            }
            freed.await;
        }
    }

    async fn put<F>(&self, offset: u64, len: usize, fill: F, persist: Persist) -> Result<()>
    where
        F: FnOnce(&mut [u8]) + Send,
    {
        let mut buffer = self.buffer(len).await;
        fill(buffer.get_mut().context("a fresh buffer is unique")?);
        let block = offset / BLOCK_SIZE as u64;
        Ok(self.device.write(block, vec![buffer.into()], persist).await?)
    }
}

impl Target for Raw {
    const NAME: &'static str = "raw";
    const CACHES: bool = false;

    async fn make(place: &Place) -> Result<()> {
        let (device, _) = open_counted(place, Some(place.size)).await?;
        Ok(device.close().await?)
    }

    async fn open(place: &Place) -> Result<Self> {
        let (device, counted) = open_counted(place, None).await?;
        let capacity = device.geometry().blocks * BLOCK_SIZE as u64;
        let size = place.size;
        ensure!(capacity >= size, "the device has {capacity} bytes, {size} were asked for");
        let arena = Arena::new(ARENA_PIECES * PIECE_MAX)?;
        device.register(&arena);
        Ok(Self { device, arena, size, counted })
    }

    fn size(&self) -> u64 {
        self.size
    }

    async fn read<F>(&self, offset: u64, scratch: &mut [u8], see: F) -> Result<()>
    where
        F: FnOnce(&[u8]) + Send,
    {
        let buffer = self.buffer(scratch.len()).await;
        let block = offset / BLOCK_SIZE as u64;
        let (buffers, outcome) = self.device.read(block, vec![buffer]).await;
        outcome?;
        see(&buffers[0]);
        Ok(())
    }

    async fn write<F>(&self, offset: u64, scratch: &mut [u8], fill: F) -> Result<()>
    where
        F: FnOnce(&mut [u8]) + Send,
    {
        self.put(offset, scratch.len(), fill, Persist::Cached).await
    }

    async fn commit<F>(&self, offset: u64, scratch: &mut [u8], fill: F) -> Result<()>
    where
        F: FnOnce(&mut [u8]) + Send,
    {
        self.put(offset, scratch.len(), fill, Persist::Durable).await
    }

    async fn sync(&self) -> Result<()> {
        Ok(self.device.flush().await?)
    }

    fn counters(&self) -> Counters {
        Counters { device: Some(self.counted.snapshot()), ..Counters::default() }
    }

    fn backend(&self) -> String {
        let info = self.device.backend();
        format!("{} ({})", info.name, info.reason)
    }

    fn recovery(&self) -> Option<Recovery> {
        None
    }

    async fn close(self) -> Result<()> {
        Ok(self.device.close().await?)
    }
}
