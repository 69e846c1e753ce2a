//! The simulated disk as an engine sees it.
//!
//! Guarantees the contract, until the power goes: then every request in flight, and every later
//! one, ends with `Gone`. A request whose future was dropped goes on, but gives its memory back at once
//! (unless it hangs), which a real device could not. Made by `SimDisk::attach`.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;

use tokio::time::Instant;
use tokio::time::sleep_until;

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
use crate::sim::image;
use crate::sim::image::Change;
use crate::sim::platter::Platter;
use crate::sim::request::Asked;
use crate::sim::request::Handle;
use crate::sim::request::Standing;
use crate::sim::request::Work;

/// One plugging-in of a [`super::SimDisk`].
#[derive(Debug)]
pub struct SimDevice {
    platter: Arc<Platter>,
    handle: Handle,
    geometry: Geometry,
    closed: AtomicBool,
}

impl SimDevice {
    pub(super) fn new(platter: Arc<Platter>) -> Self {
        let (handle, geometry) = platter.with(|state| {
            let options = &state.options;
            let geometry = Geometry {
                volatile_cache: options.volatile_cache,
                discard: options.discard,
                write_zeroes: options.write_zeroes,
                ..Geometry::plain(state.blocks)
            };
            (state.plug(), geometry)
        });
        Self { platter, handle, geometry, closed: AtomicBool::new(false) }
    }

    fn start(
        &self,
        operation: Operation,
        block: u64,
        count: u64,
        work: Work,
    ) -> IoFuture<(Work, Result<()>)> {
        if self.closed.load(Ordering::Relaxed) {
            let (offset, len) = (block * BLOCK_SIZE as u64, count * BLOCK_SIZE as u64);
            let kind = DeviceErrorKind::Gone;
            let error = DeviceError::new(operation, offset, len, kind, "the device is closed");
            return Box::pin(std::future::ready((work, Err(error))));
        }
        let asked = Asked { handle: self.handle, operation, block, count, work };
        match self.platter.with(|state| state.start(asked)) {
            Ok(id) => {
                let ticket = Ticket { platter: self.platter.clone(), id, taken: false };
                Box::pin(ticket.finish())
            }
            Err((work, error)) => Box::pin(std::future::ready((work, Err(error)))),
        }
    }

    fn simple(
        &self,
        operation: Operation,
        block: u64,
        count: u64,
        work: Work,
    ) -> IoFuture<Result<()>> {
        let request = self.start(operation, block, count, work);
        Box::pin(async move { request.await.1 })
    }
}

/// A request on its way. Dropping it does not stop the request.
struct Ticket {
    platter: Arc<Platter>,
    id: u64,
    taken: bool,
}

impl Ticket {
    async fn finish(mut self) -> (Work, Result<()>) {
        loop {
            // Made before looking: a release in between must not be missed.
            let changed = self.platter.changed.notified();
            match self.platter.with(|state| state.take(self.id)) {
                Standing::Over(work, result) => {
                    self.taken = true;
                    return (work, result);
                }
                Standing::Until(at) => sleep_until(at).await,
                Standing::Hangs => changed.await,
            }
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if self.taken {
            return;
        }
        self.platter.with(|state| state.orphan(self.id));
    }
}

impl BlockDevice for SimDevice {
    fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    fn backend(&self) -> BackendInfo {
        BackendInfo { name: "sim", reason: "asked for".into() }
    }

    fn read(&self, block: u64, into: Vec<Buffer>) -> IoFuture<ReadOutcome> {
        let count = into.iter().map(Buffer::blocks).sum::<usize>() as u64;
        let request = self.start(Operation::Read, block, count, Work::Read(into));
        Box::pin(async move {
            let (work, result) = request.await;
            let Work::Read(into) = work else { unreachable!("a read stays a read") };
            (into, result)
        })
    }

    fn write(&self, block: u64, from: Vec<Segment>, persist: Persist) -> IoFuture<Result<()>> {
        let pages: Vec<_> =
            from.iter().flat_map(|s| s.chunks_exact(BLOCK_SIZE)).map(image::page).collect();
        let count = pages.len() as u64;
        let work = Work::Change { change: Change::Pages(pages), persist, held: from };
        self.simple(Operation::Write, block, count, work)
    }

    fn flush(&self) -> IoFuture<Result<()>> {
        self.simple(Operation::Flush, 0, 0, Work::Flush)
    }

    fn discard(&self, block: u64, count: u64) -> IoFuture<Result<()>> {
        let change = self.platter.with(|state| state.discarded(count));
        let work = Work::Change { change, persist: Persist::Cached, held: Vec::new() };
        self.simple(Operation::Discard, block, count, work)
    }

    fn write_zeroes(&self, block: u64, count: u64) -> IoFuture<Result<()>> {
        let change = Change::Zero(count);
        let work = Work::Change { change, persist: Persist::Cached, held: Vec::new() };
        self.simple(Operation::WriteZeroes, block, count, work)
    }

    fn close(&self) -> IoFuture<Result<()>> {
        self.closed.store(true, Ordering::Relaxed);
        let (platter, handle) = (self.platter.clone(), self.handle);
        Box::pin(async move {
            loop {
                let changed = platter.changed.notified();
                match platter.with(|state| state.busy(handle)) {
                    None => return Ok(()),
                    Some(Standing::Hangs) => changed.await,
                    Some(Standing::Until(at)) => sleep_until(at.max(Instant::now())).await,
                    Some(Standing::Over(..)) => unreachable!("what is over keeps nobody busy"),
                }
            }
        })
    }
}
