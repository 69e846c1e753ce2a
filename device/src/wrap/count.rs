//! Counts what is asked of a device.
//!
//! Guarantees that a request costs a few relaxed additions more and no second future: it is counted
//! when it is made, whatever becomes of it. So does not count errors or time (a wrapper around
//! each future would be needed for that; the real backends count errors in their metrics). Called by the
//! engine, for its statistics, and by benchmarks.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;

use crate::buffer::Arena;
use crate::buffer::Buffer;
use crate::buffer::Segment;
use crate::contract::BackendInfo;
use crate::contract::BlockDevice;
use crate::contract::Device;
use crate::contract::IoFuture;
use crate::contract::Persist;
use crate::contract::ReadOutcome;
use crate::error::Result;
use crate::geometry::BLOCK_SIZE;
use crate::geometry::Geometry;

/// What was counted up to a moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Snapshot {
    /// Read requests.
    pub reads: u64,
    /// Bytes that they asked for.
    pub bytes_read: u64,
    /// Write requests, durable ones among them.
    pub writes: u64,
    /// Bytes that they brought.
    pub bytes_written: u64,
    /// Write requests with [`Persist::Durable`].
    pub durable_writes: u64,
    /// Flushes.
    pub flushes: u64,
    /// Discards.
    pub discards: u64,
    /// Requests to write zeroes.
    pub zeroings: u64,
}

/// Counters that go up only; shared with the device that counts.
#[derive(Debug, Default)]
pub struct Counters {
    reads: AtomicU64,
    bytes_read: AtomicU64,
    writes: AtomicU64,
    bytes_written: AtomicU64,
    durable_writes: AtomicU64,
    flushes: AtomicU64,
    discards: AtomicU64,
    zeroings: AtomicU64,
}

impl Counters {
    /// The numbers of now. Not one moment for all of them while requests are made.
    pub fn snapshot(&self) -> Snapshot {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Snapshot {
            reads: load(&self.reads),
            bytes_read: load(&self.bytes_read),
            writes: load(&self.writes),
            bytes_written: load(&self.bytes_written),
            durable_writes: load(&self.durable_writes),
            flushes: load(&self.flushes),
            discards: load(&self.discards),
            zeroings: load(&self.zeroings),
        }
    }
}

fn add(counter: &AtomicU64, n: u64) {
    counter.fetch_add(n, Ordering::Relaxed);
}

/// A device that counts what is asked of it.
#[derive(Debug)]
pub struct CountDevice {
    inner: Arc<dyn BlockDevice>,
    counters: Arc<Counters>,
}

impl CountDevice {
    /// Counts from zero. `device` may be used directly as well; that is not counted.
    pub fn new(device: Device) -> Self {
        Self { inner: device.into_inner(), counters: Arc::default() }
    }

    /// The counters, which outlive the device.
    pub fn counters(&self) -> Arc<Counters> {
        self.counters.clone()
    }
}

impl BlockDevice for CountDevice {
    fn geometry(&self) -> &Geometry {
        self.inner.geometry()
    }

    fn backend(&self) -> BackendInfo {
        self.inner.backend()
    }

    fn read(&self, block: u64, into: Vec<Buffer>) -> IoFuture<ReadOutcome> {
        add(&self.counters.reads, 1);
        let blocks: usize = into.iter().map(Buffer::blocks).sum();
        add(&self.counters.bytes_read, (blocks * BLOCK_SIZE) as u64);
        self.inner.read(block, into)
    }

    fn write(&self, block: u64, from: Vec<Segment>, persist: Persist) -> IoFuture<Result<()>> {
        add(&self.counters.writes, 1);
        add(&self.counters.bytes_written, from.iter().map(|s| s.len() as u64).sum());
        if persist == Persist::Durable {
            add(&self.counters.durable_writes, 1);
        }
        self.inner.write(block, from, persist)
    }

    fn flush(&self) -> IoFuture<Result<()>> {
        add(&self.counters.flushes, 1);
        self.inner.flush()
    }

    fn discard(&self, block: u64, count: u64) -> IoFuture<Result<()>> {
        add(&self.counters.discards, 1);
        self.inner.discard(block, count)
    }

    fn write_zeroes(&self, block: u64, count: u64) -> IoFuture<Result<()>> {
        add(&self.counters.zeroings, 1);
        self.inner.write_zeroes(block, count)
    }

    fn register(&self, arena: &Arena) {
        self.inner.register(arena);
    }

    fn close(&self) -> IoFuture<Result<()>> {
        self.inner.close()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::mem::MemDevice;

    #[tokio::test]
    async fn every_request_is_counted_once_and_refused_ones_are_not() {
        let counted = CountDevice::new(Device::new(MemDevice::new(16)));
        let counters = counted.counters();
        let device = Device::new(counted);
        let arena = Arena::new(8 * BLOCK_SIZE).unwrap();
        let buffer = || arena.allocate(1).unwrap();
        device.write(0, vec![buffer().into()], Persist::Cached).await.unwrap();
        device.write(2, vec![buffer().into()], Persist::Durable).await.unwrap();
        device.read(1, vec![buffer()]).await.1.unwrap();
        device.flush().await.unwrap();
        device.discard(0, 1).await.unwrap();
        device.write_zeroes(0, 1).await.unwrap();
        drop(device.read(0, vec![buffer()]));
        assert!(device.read(15, vec![buffer()]).await.1.is_err(), "it ends behind the device");
        let two = 2 * BLOCK_SIZE as u64;
        let expected = Snapshot {
            reads: 2,
            bytes_read: 2 * two,
            writes: 2,
            bytes_written: 2 * two,
            durable_writes: 1,
            flushes: 1,
            discards: 1,
            zeroings: 1,
        };
        assert_eq!(counters.snapshot(), expected);
    }
}
