//! A device made slower: every request takes at least a latency, and bytes pass at a bounded rate.
//!
//! Guarantees that the inner request starts when the method is called, and that its completion is
//! told no sooner than a device with that latency and rate could. Uses the runtime's clock, which
//! counts in milliseconds (and may be virtual). Called by tests and benchmarks.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;
use tokio::time::sleep_until;

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

/// How slow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    /// On top of what the inner device takes, for every request.
    pub latency: Duration,
    /// Read and written bytes together; `None` sets no bound.
    pub bytes_per_second: Option<u64>,
}

/// A slower device.
#[derive(Debug)]
pub struct DelayDevice {
    inner: Arc<dyn BlockDevice>,
    pace: Pace,
    /// When the bytes accepted so far have passed; locked for an addition.
    passed_at: Mutex<Option<Instant>>,
}

impl DelayDevice {
    /// Slows `device` down.
    pub fn new(device: Device, pace: Pace) -> Self {
        Self { inner: device.into_inner(), pace, passed_at: Mutex::new(None) }
    }

    /// When a request of `bytes` bytes that starts now may end.
    fn end_of(&self, bytes: u64) -> Instant {
        let now = Instant::now();
        let Some(rate) = self.pace.bytes_per_second else { return now + self.pace.latency };
        let takes = Duration::from_secs_f64(bytes as f64 / rate.max(1) as f64);
        let mut passed_at = self.passed_at.lock();
        let passed = passed_at.unwrap_or(now).max(now) + takes;
        *passed_at = Some(passed);
        passed + self.pace.latency
    }

    fn slow<T: Send + 'static>(&self, bytes: u64, request: IoFuture<T>) -> IoFuture<T> {
        let end = self.end_of(bytes);
        Box::pin(async move {
            let outcome = request.await;
            sleep_until(end).await;
            outcome
        })
    }
}

impl BlockDevice for DelayDevice {
    fn geometry(&self) -> &Geometry {
        self.inner.geometry()
    }

    fn backend(&self) -> BackendInfo {
        self.inner.backend()
    }

    fn read(&self, block: u64, into: Vec<Buffer>) -> IoFuture<ReadOutcome> {
        let bytes = into.iter().map(|b| (b.blocks() * BLOCK_SIZE) as u64).sum();
        self.slow(bytes, self.inner.read(block, into))
    }

    fn write(&self, block: u64, from: Vec<Segment>, persist: Persist) -> IoFuture<Result<()>> {
        let bytes = from.iter().map(|s| s.len() as u64).sum();
        self.slow(bytes, self.inner.write(block, from, persist))
    }

    fn flush(&self) -> IoFuture<Result<()>> {
        self.slow(0, self.inner.flush())
    }

    fn discard(&self, block: u64, count: u64) -> IoFuture<Result<()>> {
        self.slow(0, self.inner.discard(block, count))
    }

    fn write_zeroes(&self, block: u64, count: u64) -> IoFuture<Result<()>> {
        self.slow(0, self.inner.write_zeroes(block, count))
    }

    fn register(&self, arena: &Arena) {
        self.inner.register(arena);
    }

    fn close(&self) -> IoFuture<Result<()>> {
        self.slow(0, self.inner.close())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::mem::MemDevice;

    #[tokio::test(start_paused = true)]
    async fn bytes_pass_one_after_the_other_and_latencies_overlap() {
        let pace =
            Pace { latency: Duration::from_millis(100), bytes_per_second: Some(BLOCK_SIZE as u64) };
        let device = Device::new(DelayDevice::new(Device::new(MemDevice::new(4)), pace));
        let arena = Arena::new(4 * BLOCK_SIZE).unwrap();
        let buffer = || vec![arena.allocate(0).unwrap().into()];
        let since = Instant::now();
        let one = device.write(0, buffer(), Persist::Cached);
        let two = device.write(1, buffer(), Persist::Cached);
        one.await.unwrap();
        assert_eq!(since.elapsed().as_millis(), 1100);
        two.await.unwrap();
        assert_eq!(since.elapsed().as_millis(), 2100);
        device.flush().await.unwrap();
        assert_eq!(since.elapsed().as_millis(), 2200);
    }
}
