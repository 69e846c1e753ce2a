//! The fallback where no ring can be had: blocking calls on the runtime's blocking threads.
//!
//! Guarantees what the contract says: a request is handed to a thread when the method is called (or
//! stands in line for one), and runs to its end whatever becomes of its future. At most `depth`
//! requests run at once; more wait in order. When the runtime is shut down, requests that no thread
//! has begun fail with `Gone`; a read's buffers are freed then instead of coming back.
//!
//! Does not gather requests, so each costs a thread switch. Called by `open`; the calls themselves
//! are in `calls`.

use std::fs::File;
use std::sync::Arc;

use parking_lot::Mutex;
use rustix::io::Errno;
use rustix::io::ReadWriteFlags;
use tokio::runtime::Handle;
use tokio::sync::OwnedSemaphorePermit;
use tokio::sync::Semaphore;
use tokio::sync::oneshot;
use tokio_util::task::TaskTracker;

use crate::backend::calls;
use crate::backend::store::Store;
use crate::backend::store::open_error;
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
use crate::locked::LockedFile;
use crate::uring::meters::Meters;

/// A file or block device served by blocking calls.
#[derive(Debug)]
pub(super) struct ThreadsDevice {
    /// `None` once closed. Locked while a request is handed over, so that closing, which takes the
    /// file out, waits for every request that found it.
    file: Mutex<Option<Arc<LockedFile>>>,
    /// Requests that may run at once; fair, so that none starves.
    turns: Arc<Semaphore>,
    tracker: TaskTracker,
    runtime: Handle,
    geometry: Geometry,
    reason: String,
    meters: Arc<Meters>,
}

/// Where a request lies, for its error.
#[derive(Debug, Clone, Copy)]
struct Place {
    op: Operation,
    offset: u64,
    len: u64,
}

impl Place {
    fn new(op: Operation, block: u64, count: u64) -> Self {
        let size = BLOCK_SIZE as u64;
        Self { op, offset: block * size, len: count * size }
    }

    fn failed(self, errno: Errno) -> DeviceError {
        DeviceError::from_io(self.op, self.offset, self.len, &errno.into())
    }

    fn gone(self) -> DeviceError {
        let detail = "the device is closed or its runtime has ended";
        DeviceError::new(self.op, self.offset, self.len, DeviceErrorKind::Gone, detail)
    }
}

impl ThreadsDevice {
    /// Serves `store` with at most `depth` calls at once; `why` says why not with a ring.
    pub(super) fn start(store: Store, depth: u32, why: &str) -> Result<Self> {
        let Store { file, path, geometry, notes } = store;
        let runtime = Handle::try_current().map_err(|_| {
            let detail = "a device needs a tokio runtime";
            open_error(&path, DeviceErrorKind::Unsupported, detail)
        })?;
        let mut reason = why.to_owned();
        for note in &notes {
            reason.push_str("; ");
            reason.push_str(note);
        }
        let tracker = TaskTracker::new();
        tracker.close();
        Ok(Self {
            file: Mutex::new(Some(Arc::new(file))),
            turns: Arc::new(Semaphore::new(depth as usize)),
            tracker,
            runtime,
            geometry,
            reason,
            meters: Arc::new(Meters::new("threads")),
        })
    }

    fn granule(&self) -> usize {
        self.geometry.logical_block_bytes as usize
    }

    /// Runs `work` with its memory on a blocking thread, from now on. The memory comes back with
    /// the result, except from a runtime that has ended.
    fn start_request<M: Send + 'static>(
        &self,
        place: Place,
        mut memory: M,
        work: impl FnOnce(&File, &mut M) -> std::result::Result<(), Errno> + Send + 'static,
    ) -> IoFuture<(Option<M>, Result<()>)> {
        self.meters.accepted(place.op, place.len);
        let guard = self.file.lock();
        let Some(file) = guard.clone() else {
            return Box::pin(async move { (Some(memory), Err(place.gone())) });
        };
        let token = self.tracker.token();
        let meters = self.meters.clone();
        let (sender, receiver) = oneshot::channel();
        self.run(move |turn| {
            let result = work(&file, &mut memory).map_err(|e| place.failed(e));
            if result.is_err() {
                meters.failed();
            }
            // Given up before the result is told: who sees it may open the store at once.
            drop(file);
            drop(turn);
            // A future that was dropped does not want it.
            let _ = sender.send((memory, result));
            drop(token);
        });
        drop(guard);
        Box::pin(async move {
            match receiver.await {
                Ok((memory, result)) => (Some(memory), result),
                Err(_) => (None, Err(place.gone())),
            }
        })
    }

    fn run(&self, job: impl FnOnce(OwnedSemaphorePermit) + Send + 'static) {
        match self.turns.clone().try_acquire_owned() {
            Ok(turn) => drop(self.runtime.spawn_blocking(move || job(turn))),
            Err(_) => {
                let (turns, runtime) = (self.turns.clone(), self.runtime.clone());
                self.runtime.spawn(async move {
                    let turn = turns.acquire_owned().await.expect("never closed");
                    runtime.spawn_blocking(move || job(turn));
                });
            }
        }
    }

    fn simple(
        &self,
        place: Place,
        work: impl FnOnce(&File) -> std::result::Result<(), Errno> + Send + 'static,
    ) -> IoFuture<Result<()>> {
        let request = self.start_request(place, (), move |file, ()| work(file));
        Box::pin(async move { request.await.1 })
    }
}

impl BlockDevice for ThreadsDevice {
    fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    fn backend(&self) -> BackendInfo {
        BackendInfo { name: "threads", reason: self.reason.clone() }
    }

    fn read(&self, block: u64, into: Vec<Buffer>) -> IoFuture<ReadOutcome> {
        let count = into.iter().map(Buffer::blocks).sum::<usize>() as u64;
        let place = Place::new(Operation::Read, block, count);
        let granule = self.granule();
        let request = self.start_request(place, into, move |file, into| {
            calls::read(file, place.offset, into, granule)
        });
        Box::pin(async move {
            let (into, result) = request.await;
            (into.unwrap_or_default(), result)
        })
    }

    fn write(&self, block: u64, from: Vec<Segment>, persist: Persist) -> IoFuture<Result<()>> {
        let count = from.iter().map(|s| s.len() / BLOCK_SIZE).sum::<usize>() as u64;
        let place = Place::new(Operation::Write, block, count);
        let flags = match persist {
            Persist::Cached => ReadWriteFlags::empty(),
            Persist::Durable => ReadWriteFlags::DSYNC,
        };
        let granule = self.granule();
        self.simple(place, move |file| calls::write(file, place.offset, &from, flags, granule))
    }

    fn flush(&self) -> IoFuture<Result<()>> {
        self.simple(Place::new(Operation::Flush, 0, 0), calls::flush)
    }

    fn discard(&self, block: u64, count: u64) -> IoFuture<Result<()>> {
        let place = Place::new(Operation::Discard, block, count);
        self.simple(place, move |file| match place.len {
            0 => Ok(()),
            len => calls::discard(file, place.offset, len),
        })
    }

    fn write_zeroes(&self, block: u64, count: u64) -> IoFuture<Result<()>> {
        let place = Place::new(Operation::WriteZeroes, block, count);
        let granule = self.granule();
        self.simple(place, move |file| match place.len {
            0 => Ok(()),
            len => calls::zero(file, place.offset, len, granule),
        })
    }

    fn close(&self) -> IoFuture<Result<()>> {
        // The last request that still has the file closes it, and with it gives up the lock.
        drop(self.file.lock().take());
        let tracker = self.tracker.clone();
        Box::pin(async move {
            tracker.wait().await;
            Ok(())
        })
    }
}
