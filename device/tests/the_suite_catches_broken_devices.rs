//! Canaries for the conformance suite: devices that break one clause each must not pass.

mod support;

use std::panic::AssertUnwindSafe;
use std::panic::catch_unwind;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::time::Duration;

use foliant_device::BackendInfo;
use foliant_device::BlockDevice;
use foliant_device::Buffer;
use foliant_device::Device;
use foliant_device::Geometry;
use foliant_device::IoFuture;
use foliant_device::Persist;
use foliant_device::ReadOutcome;
use foliant_device::Segment;
use foliant_device::conformance;
use foliant_device::conformance::BLOCKS_MIN;
use foliant_device::error::Result;
use foliant_device::sim::SimDisk;
use foliant_device::sim::SimOptions;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Flaw {
    None,
    /// Requests start when they are polled.
    Lazy,
    /// A write of many blocks loses its last one.
    Short,
    /// A write changes the block behind it as well.
    Spill,
    /// A write completes before it is visible.
    Early,
    /// The second segment is written first.
    Swapped,
    /// A read that fails keeps the buffers.
    Greedy,
    /// Zeroing does nothing.
    NoZero,
    /// One request never completes.
    Stuck,
    /// Closing waits for nothing.
    Hasty,
    /// Requests after closing succeed.
    Undead,
}

#[derive(Debug)]
struct Broken {
    inner: Arc<dyn BlockDevice>,
    flaw: Flaw,
    closed: AtomicBool,
}

impl Broken {
    fn new(disk: &SimDisk, flaw: Flaw) -> Self {
        Self { inner: Arc::new(disk.attach()), flaw, closed: AtomicBool::new(false) }
    }
}

impl BlockDevice for Broken {
    fn geometry(&self) -> &Geometry {
        self.inner.geometry()
    }

    fn backend(&self) -> BackendInfo {
        self.inner.backend()
    }

    fn read(&self, block: u64, into: Vec<Buffer>) -> IoFuture<ReadOutcome> {
        let request = self.inner.read(block, into);
        if self.flaw != Flaw::Greedy {
            return request;
        }
        Box::pin(async move {
            match request.await {
                (_, Err(e)) => (Vec::new(), Err(e)),
                whole => whole,
            }
        })
    }

    fn write(&self, block: u64, mut from: Vec<Segment>, persist: Persist) -> IoFuture<Result<()>> {
        match self.flaw {
            Flaw::Lazy => {
                let inner = self.inner.clone();
                return Box::pin(async move { inner.write(block, from, persist).await });
            }
            Flaw::Short if from.len() > 1 => drop(from.pop()),
            Flaw::Spill if block + 1 < BLOCKS_MIN => from.push(from[0].slice(0..4096)),
            Flaw::Swapped if from.len() > 1 && from[0].len() == from[1].len() => from.swap(0, 1),
            Flaw::Early => {
                drop(self.inner.write(block, from, persist));
                return Box::pin(async { Ok(()) });
            }
            Flaw::Stuck if block == 317 => {
                drop(self.inner.write(block, from, persist));
                return Box::pin(std::future::pending());
            }
            _ => {}
        }
        if self.flaw == Flaw::Undead && self.closed.load(Ordering::Relaxed) {
            return Box::pin(async { Ok(()) });
        }
        self.inner.write(block, from, persist)
    }

    fn flush(&self) -> IoFuture<Result<()>> {
        self.inner.flush()
    }

    fn discard(&self, block: u64, count: u64) -> IoFuture<Result<()>> {
        self.inner.discard(block, count)
    }

    fn write_zeroes(&self, block: u64, count: u64) -> IoFuture<Result<()>> {
        match self.flaw {
            Flaw::NoZero => self.inner.discard(block, 0),
            _ => self.inner.write_zeroes(block, count),
        }
    }

    fn close(&self) -> IoFuture<Result<()>> {
        self.closed.store(true, Ordering::Relaxed);
        let closing = self.inner.close();
        match self.flaw {
            Flaw::Hasty => Box::pin(async { Ok(()) }),
            _ => closing,
        }
    }
}

/// A disk whose every request takes seconds, so that whoever does not wait is seen not to.
fn passes(flaw: Flaw) -> bool {
    let run = || {
        support::simulate(async {
            let latency_ms_max = if flaw == Flaw::Hasty { 9000 } else { 4 };
            let options = SimOptions { latency_ms_max, ..SimOptions::default() };
            let disk = SimDisk::new(BLOCKS_MIN, options);
            conformance::check(async || Device::new(Broken::new(&disk, flaw))).await;
            tokio::time::sleep(Duration::from_secs(60)).await;
        });
    };
    catch_unwind(AssertUnwindSafe(run)).is_ok()
}

#[test]
fn every_flaw_is_caught_and_no_flaw_is_not() {
    assert!(passes(Flaw::None));
    for flaw in [
        Flaw::Lazy,
        Flaw::Short,
        Flaw::Spill,
        Flaw::Early,
        Flaw::Swapped,
        Flaw::Greedy,
        Flaw::NoZero,
        Flaw::Stuck,
        Flaw::Hasty,
        Flaw::Undead,
    ] {
        assert!(!passes(flaw), "a device with the flaw {flaw:?} passes");
    }
}
