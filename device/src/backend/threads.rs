//! The fallback where no ring can be had: blocking calls on the runtime's blocking threads.
//!
//! Guarantees what the contract says: a request is handed to a thread when the method is called, and
//! runs to its end whatever becomes of its future; short transfers are finished here. At most `depth`
//! requests run at once; more wait in line. When the runtime is shut down, requests that no thread
//! has begun fail with `Gone`.
//!
//! Does not gather requests, so each costs a thread switch. Called by `open`.

use std::fs::File;
use std::io::IoSlice;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;

use rustix::fs::FallocateFlags;
use rustix::io::Errno;
use rustix::io::ReadWriteFlags;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio_util::task::TaskTracker;

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
use crate::meters::Meters;

/// Segments of one system call; the kernel takes 1024.
const VECTORS_MAX: usize = 1024;

/// A file or block device served by blocking calls.
#[derive(Debug)]
pub(super) struct ThreadsDevice {
    shared: Arc<Shared>,
    runtime: Handle,
    geometry: Geometry,
    reason: String,
}

#[derive(Debug)]
struct Shared {
    /// Closing the last handle gives up the lock.
    file: File,
    closed: AtomicBool,
    /// Requests that may run at once; fair, so that none starves.
    turns: Semaphore,
    tracker: TaskTracker,
    meters: Meters,
}

/// Where a request lies, for its error.
#[derive(Clone, Copy)]
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
        let shared = Shared {
            file,
            closed: AtomicBool::new(false),
            turns: Semaphore::new(depth as usize),
            tracker: TaskTracker::new(),
            meters: Meters::new("threads"),
        };
        Ok(Self { shared: Arc::new(shared), runtime, geometry, reason })
    }

    /// Runs `work` on a blocking thread, from now on; `T` is what comes back without one.
    fn start_request<T: Send + 'static>(
        &self,
        place: Place,
        work: impl FnOnce(&File) -> (T, Result<()>) + Send + 'static,
    ) -> IoFuture<Result<(T, Result<()>)>> {
        let shared = self.shared.clone();
        shared.meters.accepted(place.op, place.len);
        let closed = shared.closed.load(Ordering::Acquire);
        let runtime = self.runtime.clone();
        let task = (!closed).then(|| {
            let task = async move {
                let _turn = shared.turns.acquire().await.expect("never closed");
                let inner = shared.clone();
                let done = runtime.spawn_blocking(move || work(&inner.file)).await;
                done.map_err(|_| place.gone())
            };
            self.shared.tracker.spawn_on(task, &self.runtime)
        });
        Box::pin(async move {
            match task {
                Some(task) => task.await.map_err(|_| place.gone())?,
                None => Err(place.gone()),
            }
        })
    }

    fn simple(
        &self,
        place: Place,
        work: impl FnOnce(&File) -> std::result::Result<(), Errno> + Send + 'static,
    ) -> IoFuture<Result<()>> {
        let request =
            self.start_request(place, move |file| ((), work(file).map_err(|e| place.failed(e))));
        Box::pin(async move { request.await?.1 })
    }
}

/// Fills one buffer from `offset` on.
fn read_whole(file: &File, mut offset: u64, mut into: &mut [u8]) -> std::result::Result<(), Errno> {
    while !into.is_empty() {
        match rustix::io::pread(file, &mut *into, offset) {
            // The capacity was checked: an end inside means that the file was cut off.
            Ok(0) => return Err(Errno::IO),
            Ok(count) => {
                offset += count as u64;
                into = &mut into[count..];
            }
            Err(Errno::INTR) => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

/// Writes all segments from `offset` on.
fn write_whole(
    file: &File,
    mut offset: u64,
    from: &[Segment],
    flags: ReadWriteFlags,
) -> std::result::Result<(), Errno> {
    for chunk in from.chunks(VECTORS_MAX) {
        let mut slices: Vec<IoSlice<'_>> = chunk.iter().map(|s| IoSlice::new(s)).collect();
        let mut rest = &mut slices[..];
        while !rest.is_empty() {
            match rustix::io::pwritev2(file, rest, offset, flags) {
                Ok(0) => return Err(Errno::IO),
                Ok(count) => {
                    offset += count as u64;
                    IoSlice::advance_slices(&mut rest, count);
                }
                Err(Errno::INTR) => {}
                Err(e) => return Err(e),
            }
        }
    }
    Ok(())
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
        let request = self.start_request(place, move |file| {
            let mut into = into;
            let mut offset = place.offset;
            let mut outcome = Ok(());
            for buffer in &mut into {
                let len = buffer.len() as u64;
                let bytes = buffer.get_mut().expect("the handle checked that it is unique");
                outcome = read_whole(file, offset, bytes).map_err(|e| place.failed(e));
                if outcome.is_err() {
                    break;
                }
                offset += len;
            }
            (into, outcome)
        });
        Box::pin(async move {
            match request.await {
                Ok(done) => done,
                Err(gone) => (Vec::new(), Err(gone)),
            }
        })
    }

    fn write(&self, block: u64, from: Vec<Segment>, persist: Persist) -> IoFuture<Result<()>> {
        let count = from.iter().map(|s| s.len() / BLOCK_SIZE).sum::<usize>() as u64;
        let place = Place::new(Operation::Write, block, count);
        let flags = match persist {
            Persist::Cached => ReadWriteFlags::empty(),
            Persist::Durable => ReadWriteFlags::DSYNC,
        };
        self.simple(place, move |file| write_whole(file, place.offset, &from, flags))
    }

    fn flush(&self) -> IoFuture<Result<()>> {
        let place = Place::new(Operation::Flush, 0, 0);
        self.simple(place, |file| rustix::fs::fdatasync(file))
    }

    fn discard(&self, block: u64, count: u64) -> IoFuture<Result<()>> {
        let place = Place::new(Operation::Discard, block, count);
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        self.simple(place, move |file| match place.len {
            0 => Ok(()),
            len => rustix::fs::fallocate(file, flags, place.offset, len),
        })
    }

    fn write_zeroes(&self, block: u64, count: u64) -> IoFuture<Result<()>> {
        let place = Place::new(Operation::WriteZeroes, block, count);
        let flags = FallocateFlags::ZERO_RANGE | FallocateFlags::KEEP_SIZE;
        self.simple(place, move |file| match place.len {
            0 => Ok(()),
            len => rustix::fs::fallocate(file, flags, place.offset, len),
        })
    }

    fn close(&self) -> IoFuture<Result<()>> {
        self.shared.closed.store(true, Ordering::Release);
        let shared = self.shared.clone();
        Box::pin(async move {
            shared.tracker.close();
            shared.tracker.wait().await;
            let unlocked =
                rustix::fs::flock(&shared.file, rustix::fs::FlockOperation::NonBlockingUnlock);
            unlocked.map_err(|e| Place::new(Operation::Close, 0, 0).failed(e))
        })
    }
}
