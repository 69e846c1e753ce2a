//! Watches what becomes of requests: how old those are that are on their way, and whether the device was ever gone.
//!
//! Guarantees that a device that was gone does not pass for one that kept what it was given: when a request
//! has ended with `Gone`, the flushes that were on their way and the next one fail, because what was
//! written before may have been in a cache that went with the power. Costs each request a second boxed
//! future (some 50 ns). A request whose future was dropped counts as ended. Does not retry or time out.
//! Called by the engine when it opens a device.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::AtomicUsize;
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
use crate::error::DeviceError;
use crate::error::DeviceErrorKind;
use crate::error::Operation;
use crate::error::Result;
use crate::geometry::Geometry;

/// Ages that are told apart: so many turns of whoever looks.
const AGES: usize = 16;

/// What is known of the requests of a device.
#[derive(Debug, Default)]
pub struct Watch {
    /// Where requests are counted now.
    now: AtomicUsize,
    reads: [AtomicU64; AGES],
    changes: [AtomicU64; AGES],
    /// Requests that ended with `Gone`, and how many of them a failed flush has told.
    gone: AtomicU64,
    told: AtomicU64,
}

/// Requests that are on their way, among those of one age.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct OnTheWay {
    /// Reads.
    pub reads: u64,
    /// Writes, flushes, discards and zeroings.
    pub changes: u64,
}

impl Watch {
    /// Requests are counted in a new place from now on, if one is empty: its number.
    pub fn turn(&self) -> Option<usize> {
        let now = self.now.load(Ordering::Acquire);
        let places = (1..AGES).map(|step| (now + step) % AGES);
        let empty = |&at: &usize| self.at(at) == OnTheWay::default();
        let next = { places }.find(empty)?;
        self.now.store(next, Ordering::Release);
        Some(next)
    }

    /// What is on its way of the requests that were counted in each place.
    pub fn places(&self) -> [OnTheWay; AGES] {
        std::array::from_fn(|at| self.at(at))
    }

    fn at(&self, at: usize) -> OnTheWay {
        let load = |counter: &AtomicU64| counter.load(Ordering::Acquire);
        OnTheWay { reads: load(&self.reads[at]), changes: load(&self.changes[at]) }
    }

    fn begin(self: &Arc<Self>, reads: bool) -> Flight {
        let at = self.now.load(Ordering::Acquire);
        let flight = Flight { watch: self.clone(), at, reads };
        flight.counter().fetch_add(1, Ordering::AcqRel);
        flight
    }
}

/// A request on its way; ends when it is dropped.
struct Flight {
    watch: Arc<Watch>,
    at: usize,
    reads: bool,
}

impl Flight {
    fn counter(&self) -> &AtomicU64 {
        let counters = if self.reads { &self.watch.reads } else { &self.watch.changes };
        &counters[self.at]
    }

    fn saw<T>(&self, outcome: &Result<T>) {
        if outcome.as_ref().is_err_and(|cause| cause.kind == DeviceErrorKind::Gone) {
            self.watch.gone.fetch_add(1, Ordering::AcqRel);
        }
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        self.counter().fetch_sub(1, Ordering::AcqRel);
    }
}

/// A device whose requests are watched.
#[derive(Debug)]
pub struct WatchDevice {
    inner: Arc<dyn BlockDevice>,
    watch: Arc<Watch>,
}

impl WatchDevice {
    /// Watches from now on.
    pub fn new(device: Device) -> Self {
        Self { inner: device.into_inner(), watch: Arc::default() }
    }

    /// What is known, which outlives the device.
    pub fn watch(&self) -> Arc<Watch> {
        self.watch.clone()
    }

    fn watched(&self, request: IoFuture<Result<()>>) -> IoFuture<Result<()>> {
        let flight = self.watch.begin(false);
        Box::pin(async move {
            let outcome = request.await;
            flight.saw(&outcome);
            outcome
        })
    }
}

impl BlockDevice for WatchDevice {
    fn geometry(&self) -> &Geometry {
        self.inner.geometry()
    }

    fn backend(&self) -> BackendInfo {
        self.inner.backend()
    }

    fn read(&self, block: u64, into: Vec<Buffer>) -> IoFuture<ReadOutcome> {
        let flight = self.watch.begin(true);
        let request = self.inner.read(block, into);
        Box::pin(async move {
            let (buffers, outcome) = request.await;
            flight.saw(&outcome);
            (buffers, outcome)
        })
    }

    fn write(&self, block: u64, from: Vec<Segment>, persist: Persist) -> IoFuture<Result<()>> {
        self.watched(self.inner.write(block, from, persist))
    }

    fn flush(&self) -> IoFuture<Result<()>> {
        let told = self.watch.told.load(Ordering::Acquire);
        let flight = self.watch.begin(false);
        let request = self.inner.flush();
        Box::pin(async move {
            let outcome = request.await;
            flight.saw(&outcome);
            let gone = flight.watch.gone.load(Ordering::Acquire);
            if gone == told {
                return outcome;
            }
            flight.watch.told.fetch_max(gone, Ordering::AcqRel);
            outcome.and_then(|()| {
                let why =
                    "the device was gone meanwhile, and may have lost what was written before";
                Err(DeviceError::new(Operation::Flush, 0, 0, DeviceErrorKind::Gone, why))
            })
        })
    }

    fn discard(&self, block: u64, count: u64) -> IoFuture<Result<()>> {
        self.watched(self.inner.discard(block, count))
    }

    fn write_zeroes(&self, block: u64, count: u64) -> IoFuture<Result<()>> {
        self.watched(self.inner.write_zeroes(block, count))
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
    use crate::geometry::BLOCK_SIZE;
    use crate::sim::Fault;
    use crate::sim::FaultRule;
    use crate::sim::SimDisk;
    use crate::sim::SimOptions;

    #[tokio::test(start_paused = true)]
    async fn a_device_that_was_gone_fails_the_flushes_around_it_once() {
        let disk = SimDisk::new(64, SimOptions::default());
        let device = Device::new(WatchDevice::new(Device::new(disk.attach())));
        let arena = Arena::new(4 * BLOCK_SIZE).unwrap();
        let write = |at| device.write(at, vec![arena.allocate(0).unwrap().into()], Persist::Cached);
        write(3).await.unwrap();
        device.flush().await.unwrap();
        write(4).await.unwrap();
        let rule = FaultRule::fail(DeviceErrorKind::Gone).on(Operation::Write).times(1);
        disk.inject(rule);
        // On its way while the other one ends: it may or may not cover what was written before.
        let beside = device.flush();
        assert_eq!(write(5).await.unwrap_err().kind, DeviceErrorKind::Gone);
        assert_eq!(beside.await.unwrap_err().kind, DeviceErrorKind::Gone);
        device.flush().await.unwrap();
        disk.inject(FaultRule::fail(DeviceErrorKind::Gone).on(Operation::Write).times(1));
        assert_eq!(write(5).await.unwrap_err().kind, DeviceErrorKind::Gone);
        let (one, two) = (device.flush(), device.flush());
        assert!(one.await.is_err() && two.await.is_err(), "both were called before it was told");
        device.flush().await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_on_its_way_is_counted_by_its_age() {
        let disk = SimDisk::new(64, SimOptions::default());
        let watched = WatchDevice::new(Device::new(disk.attach()));
        let watch = watched.watch();
        let device = Device::new(watched);
        let arena = Arena::new(4 * BLOCK_SIZE).unwrap();
        disk.inject(FaultRule::new(Fault::Hang).on(Operation::Flush).times(1));
        let mut stuck = tokio::spawn(device.flush());
        let first = watch.turn().unwrap();
        let read = device.read(0, vec![arena.allocate(0).unwrap()]);
        // However often it is looked at, what is older keeps its place.
        for _ in 0..50 {
            assert_ne!(watch.turn().unwrap(), 0);
        }
        device.flush().await.unwrap();
        assert_eq!(watch.places()[0], OnTheWay { reads: 0, changes: 1 });
        assert_eq!(watch.places()[first], OnTheWay { reads: 1, changes: 0 });
        read.await.1.unwrap();
        let waited = tokio::time::timeout(std::time::Duration::from_secs(9), &mut stuck).await;
        assert!(waited.is_err());
        disk.release();
        stuck.await.unwrap().unwrap();
        assert_eq!(watch.places(), [OnTheWay::default(); AGES]);
    }
}
