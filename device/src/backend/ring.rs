//! A store served by the ring: the contract's verbs as requests to the driver.
//!
//! Guarantees what the contract says; how, is `uring::driver`'s. Dropping the device lets what was
//! accepted finish in the background, then gives up the lock. Called by `open`.

use std::future::Future;
use std::pin::Pin;
use std::task::Context;
use std::task::Poll;
use std::task::ready;

use parking_lot::Mutex;

use crate::backend::store::Store;
use crate::buffer::Arena;
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
use crate::uring::driver::Driver;
use crate::uring::driver::Ticket;
use crate::uring::op::Request;
use crate::uring::op::Work;
use crate::uring::op::ZeroWay;
use crate::uring::ring::Ring;

/// A file or block device on a ring.
#[derive(Debug)]
pub(super) struct RingDevice {
    driver: Driver,
    geometry: Geometry,
    /// Written when an arena is registered, read when people ask; never across an await.
    notes: Mutex<Vec<String>>,
}

impl RingDevice {
    /// Puts a ring with `depth` slots on the store, or gives the store back with the reason.
    pub(super) fn start(store: Store, depth: u32) -> std::result::Result<Self, (Store, String)> {
        let Store { file, path, geometry, mut notes } = store;
        let ring = match Ring::new(file, depth) {
            Ok(ring) => ring,
            Err((missing, file)) => {
                return Err((Store { file, path, geometry, notes }, missing.to_string()));
            }
        };
        if ring.registered_file().is_none() {
            notes.push("the file could not be registered".into());
        }
        let granule = u64::from(geometry.logical_block_bytes);
        match Driver::start(ring, depth, granule) {
            Ok(driver) => Ok(Self { driver, geometry, notes: Mutex::new(notes) }),
            Err((file, e)) => {
                let reason = format!("no eventfd for the ring: {e}");
                Err((Store { file, path, geometry, notes }, reason))
            }
        }
    }

    fn submit(&self, work: Work, block: u64, count: u64) -> Ticket {
        let size = BLOCK_SIZE as u64;
        self.driver.submit(Request::new(work, block * size, count * size))
    }
}

fn ready_now<T: Send + 'static>(value: T) -> IoFuture<T> {
    Box::pin(std::future::ready(value))
}

impl BlockDevice for RingDevice {
    fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    fn backend(&self) -> BackendInfo {
        let mut reason = String::from("the kernel has all that is needed");
        for note in &*self.notes.lock() {
            reason.push_str("; ");
            reason.push_str(note);
        }
        BackendInfo { name: "io_uring", reason }
    }

    fn read(&self, block: u64, into: Vec<Buffer>) -> IoFuture<ReadOutcome> {
        let count = into.iter().map(Buffer::blocks).sum::<usize>() as u64;
        if count == 0 {
            return ready_now((into, Ok(())));
        }
        Box::pin(Reading(self.submit(Work::Read(into), block, count)))
    }

    fn write(&self, block: u64, from: Vec<Segment>, persist: Persist) -> IoFuture<Result<()>> {
        let count = from.iter().map(|s| s.len() / BLOCK_SIZE).sum::<usize>() as u64;
        if count == 0 {
            return ready_now(Ok(()));
        }
        let durable = persist == Persist::Durable;
        Box::pin(Doing(self.submit(Work::Write { from, durable }, block, count)))
    }

    fn flush(&self) -> IoFuture<Result<()>> {
        Box::pin(Doing(self.submit(Work::Flush, 0, 0)))
    }

    fn discard(&self, block: u64, count: u64) -> IoFuture<Result<()>> {
        if count == 0 {
            return ready_now(Ok(()));
        }
        Box::pin(Doing(self.submit(Work::Discard, block, count)))
    }

    fn write_zeroes(&self, block: u64, count: u64) -> IoFuture<Result<()>> {
        if count == 0 {
            return ready_now(Ok(()));
        }
        Box::pin(Doing(self.submit(Work::Zero(ZeroWay::Range), block, count)))
    }

    fn register(&self, arena: &Arena) {
        let note = match self.driver.register(arena) {
            Ok(()) => "memory is registered".into(),
            Err(e) => {
                tracing::warn!(error = %e, "memory is not registered with the ring");
                format!("memory is not registered ({e}; see RLIMIT_MEMLOCK)")
            }
        };
        self.notes.lock().push(note);
    }

    fn close(&self) -> IoFuture<Result<()>> {
        Box::pin(self.driver.close())
    }
}

/// A read on its way.
struct Reading(Ticket);

impl Future for Reading {
    type Output = ReadOutcome;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let (request, result) = ready!(Pin::new(&mut self.0).poll(context));
        let Work::Read(buffers) = request.work else { unreachable!("a read stays a read") };
        Poll::Ready((buffers, result))
    }
}

/// Anything else on its way.
struct Doing(Ticket);

impl Future for Doing {
    type Output = Result<()>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let (_, result) = ready!(Pin::new(&mut self.0).poll(context));
        Poll::Ready(result)
    }
}
