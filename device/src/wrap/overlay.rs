//! A device that is read and never written: what is written to it stays in memory, on top.
//!
//! Guarantees that the inner device is asked for nothing but reads, and that a read finds what was
//! written here before, else what the inner device holds. What is kept is bounded: a write beyond the
//! bound fails with `NoSpace` and changes nothing. Does not make anything durable, although a flush
//! succeeds: nobody who needs durability may use it. Closing leaves the inner device open. Called by
//! tools that look at a store as it would be after recovery.

use std::collections::BTreeMap;
use std::future::ready;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::buffer::Arena;
use crate::buffer::Buffer;
use crate::buffer::Segment;
use crate::contract::BackendInfo;
use crate::contract::BlockDevice;
use crate::contract::Device;
use crate::contract::IoFuture;
use crate::contract::Persist;
use crate::contract::ReadOutcome;
use crate::error::DeviceError;
use crate::error::DeviceErrorKind;
use crate::error::Operation;
use crate::error::Result;
use crate::geometry::BLOCK_SIZE;
use crate::geometry::Geometry;

/// Blocks by address; locked for look-ups and copies, never across a wait.
type Blocks = Arc<Mutex<BTreeMap<u64, Box<[u8]>>>>;

/// A device over another one, which it does not change.
#[derive(Debug)]
pub struct OverlayDevice {
    inner: Arc<dyn BlockDevice>,
    written: Blocks,
    blocks_max: usize,
}

impl OverlayDevice {
    /// Keeps up to `blocks_max` written blocks over `device`.
    pub fn new(device: Device, blocks_max: usize) -> Self {
        Self { inner: device.into_inner(), written: Blocks::default(), blocks_max }
    }

    /// Runs `change` if it adds at most `count` blocks and there is room for them.
    fn store(
        &self,
        op: Operation,
        block: u64,
        count: u64,
        change: impl FnOnce(&mut BTreeMap<u64, Box<[u8]>>),
    ) -> IoFuture<Result<()>> {
        let mut written = self.written.lock();
        let known = written.range(block..block + count).count() as u64;
        let outcome = if written.len() as u64 + count - known > self.blocks_max as u64 {
            let size = BLOCK_SIZE as u64;
            let detail = format!("more than {} blocks would be kept in memory", self.blocks_max);
            let kind = DeviceErrorKind::NoSpace;
            Err(DeviceError::new(op, block * size, count * size, kind, detail))
        } else {
            change(&mut written);
            Ok(())
        };
        Box::pin(ready(outcome))
    }
}

/// Puts what was written over what was read from `block` on.
fn lay_over(written: &BTreeMap<u64, Box<[u8]>>, block: u64, buffers: &mut [Buffer]) {
    let mut at = block;
    for buffer in buffers {
        let end = at + buffer.blocks() as u64;
        let bytes = buffer.get_mut().expect("a read buffer has one owner");
        for (&place, page) in written.range(at..end) {
            let start = (place - at) as usize * BLOCK_SIZE;
            bytes[start..start + BLOCK_SIZE].copy_from_slice(page);
        }
        at = end;
    }
}

impl BlockDevice for OverlayDevice {
    fn geometry(&self) -> &Geometry {
        self.inner.geometry()
    }

    fn backend(&self) -> BackendInfo {
        self.inner.backend()
    }

    fn read(&self, block: u64, into: Vec<Buffer>) -> IoFuture<ReadOutcome> {
        let written = self.written.clone();
        let request = self.inner.read(block, into);
        Box::pin(async move {
            let (mut buffers, outcome) = request.await;
            if outcome.is_ok() {
                lay_over(&written.lock(), block, &mut buffers);
            }
            (buffers, outcome)
        })
    }

    fn write(&self, block: u64, from: Vec<Segment>, _persist: Persist) -> IoFuture<Result<()>> {
        let count = from.iter().map(|s| s.len() / BLOCK_SIZE).sum::<usize>() as u64;
        self.store(Operation::Write, block, count, |written| {
            let pages = from.iter().flat_map(|segment| segment.chunks_exact(BLOCK_SIZE));
            for (at, page) in (block..).zip(pages) {
                written.insert(at, page.into());
            }
        })
    }

    fn flush(&self) -> IoFuture<Result<()>> {
        Box::pin(ready(Ok(())))
    }

    fn discard(&self, _block: u64, _count: u64) -> IoFuture<Result<()>> {
        Box::pin(ready(Ok(())))
    }

    fn write_zeroes(&self, block: u64, count: u64) -> IoFuture<Result<()>> {
        self.store(Operation::WriteZeroes, block, count, |written| {
            for at in block..block + count {
                written.insert(at, vec![0; BLOCK_SIZE].into());
            }
        })
    }

    fn register(&self, arena: &Arena) {
        self.inner.register(arena);
    }

    fn close(&self) -> IoFuture<Result<()>> {
        Box::pin(ready(Ok(())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::SimDisk;
    use crate::sim::SimOptions;

    fn page(byte: u8) -> Vec<u8> {
        vec![byte; BLOCK_SIZE]
    }

    #[tokio::test]
    async fn writes_are_read_again_and_the_inner_device_stays_as_it_was() {
        let disk = SimDisk::new(16, SimOptions::default());
        (0..16).for_each(|at| disk.poke(at, &page(1)));
        let over = Device::new(OverlayDevice::new(Device::new(disk.attach()), 3));
        let arena = Arena::new(16 * BLOCK_SIZE).unwrap();
        let fill = |byte: u8| {
            let mut buffer = arena.allocate(1).unwrap();
            buffer.get_mut().unwrap().fill(byte);
            buffer
        };
        over.write(4, vec![fill(2).into()], Persist::Durable).await.unwrap();
        over.write(5, vec![fill(3).into()], Persist::Cached).await.unwrap();
        over.flush().await.unwrap();
        let (read, outcome) = over.read(3, vec![fill(0), fill(0)]).await;
        outcome.unwrap();
        let firsts: Vec<u8> = read.iter().flat_map(|b| [b[0], b[BLOCK_SIZE]]).collect();
        assert_eq!(firsts, [1, 2, 3, 3]);
        let full = over.write(9, vec![fill(4).into()], Persist::Cached).await.unwrap_err();
        assert_eq!(full.kind, DeviceErrorKind::NoSpace);
        // Blocks that are kept already take no more room.
        over.write_zeroes(4, 2).await.unwrap();
        assert!((0..16).all(|at| disk.peek_cached(at) == page(1)), "the inner device changed");
    }
}
