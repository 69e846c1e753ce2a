//! The handle of a ring's driver: accepts requests, hands out tickets, closes.
//!
//! A request is queued when it is made. One task (`pilot`) enters the kernel once for all that have
//! gathered, and reaps once for all; once a few have gathered, whoever queues the last of them does, and
//! whoever queues a durable write: many wait for it, and it brings their bytes in one request already.
//! Whoever polls an unfinished ticket reaps for all as well, if nobody else does just then, so that no
//! sleeping task stands between a waiter and its completion.
//!
//! Guarantees: a request that was accepted ends, whether its future lives or not; memory in flight
//! is never freed. Does not order requests, check ranges, or retry errors of the medium. The runtime
//! that started the driver must have its I/O and time drivers on, and must keep running; futures may
//! be polled anywhere. Called by `backend::ring`.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Context;
use std::task::Poll;
use std::time::Instant;

use tokio_util::task::TaskTracker;

use crate::buffer::Arena;
use crate::error::DeviceError;
use crate::error::DeviceErrorKind;
use crate::error::Operation;
use crate::error::Result;
use crate::locked::LockedFile;
use crate::uring::op::Request;
use crate::uring::pilot::CLOSE_PATIENCE;
use crate::uring::pilot::LastRites;
use crate::uring::pilot::TICK;
use crate::uring::pilot::run;
use crate::uring::pilot::signal_of;
use crate::uring::ring::Ring;
use crate::uring::shared::Shared;
use crate::uring::slot::Key;

/// So many queued requests are handed over by whoever queues the last of them. If all gathered until
/// the pilot runs, 32 readers on one thread and their device took turns: half of both was idle.
/// One by one costs an entry, and often a doorbell, each; 4 to 16 differ by less than the noise.
const GATHERED_MAX: usize = 8;

/// The handle of the device; dropping it lets the driver finish what it has and stop.
#[derive(Debug)]
pub(crate) struct Driver {
    shared: Arc<Shared>,
    tasks: TaskTracker,
}

impl Driver {
    /// Starts the driver task on the current runtime.
    ///
    /// Errors: no eventfd to be had. Panics outside of a runtime with I/O and time enabled.
    /// The file comes back with an error.
    pub(crate) fn start(
        ring: Ring,
        depth: u32,
        granule: u64,
    ) -> std::result::Result<Self, (LockedFile, io::Error)> {
        let signal = match signal_of(&ring) {
            Ok(signal) => signal,
            Err(error) => return Err((ring.into_file(), error)),
        };
        let shared = Arc::new(Shared::new(ring, depth, granule));
        let tasks = TaskTracker::new();
        tasks.spawn(run(LastRites(shared.clone()), signal));
        tasks.close();
        Ok(Self { shared, tasks })
    }

    /// Registers the arena with the ring.
    pub(crate) fn register(&self, arena: &Arena) -> io::Result<()> {
        match &mut *self.shared.ring.lock() {
            Some(ring) => ring.register_arena(arena),
            None => Err(io::Error::from(io::ErrorKind::NotConnected)),
        }
    }

    /// Accepts a request; it is done whatever becomes of the ticket.
    pub(crate) fn submit(&self, request: Request) -> Ticket {
        self.shared.meters.accepted(request.operation(), request.len());
        let urgent = request.is_durable_write();
        let mut slots = self.shared.slots.lock();
        let state = match slots.insert(request) {
            Ok(key) => TicketState::Waiting(key),
            Err(refused) => TicketState::Refused(refused),
        };
        self.shared.queued.store(true, Ordering::Relaxed);
        let enough = slots.has_work() && (urgent || slots.queued() >= GATHERED_MAX);
        let wake = !enough && std::mem::take(&mut slots.driver_sleeps);
        drop(slots);
        if wake {
            self.shared.bell.notify_one();
        }
        // A pilot that sleeps goes on sleeping: the kernel signals it when there is something to reap.
        if enough && !self.shared.enter_if_free() {
            self.shared.wake_pilot();
        }
        Ticket { shared: self.shared.clone(), state }
    }

    /// Refuses new requests and, as a future, waits until the driver has ended.
    ///
    /// Errors with `Io` when the kernel does not give requests back within [`CLOSE_PATIENCE`]; the
    /// driver then goes on waiting, and holds lock and memory. Dropping the future changes nothing.
    pub(crate) fn close(&self) -> impl Future<Output = Result<()>> + Send + 'static {
        self.shared.shut("the device is closed");
        let (shared, tasks) = (self.shared.clone(), self.tasks.clone());
        async move {
            // Measured with the real clock: a runtime with a paused one would give up at once.
            let since = Instant::now();
            loop {
                tokio::select! {
                    biased;
                    () = tasks.wait() => return Ok(()),
                    () = tokio::time::sleep(TICK) => {}
                }
                if since.elapsed() > CLOSE_PATIENCE {
                    let stuck = shared.slots.lock().in_flight();
                    let detail = format!("{stuck} requests are stuck in the kernel");
                    return Err(DeviceError::new(
                        Operation::Close,
                        0,
                        0,
                        DeviceErrorKind::Io,
                        detail,
                    ));
                }
            }
        }
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        self.shared.shut("the device is closed");
    }
}

/// A request on its way. Dropping it does not stop the request.
pub(crate) struct Ticket {
    shared: Arc<Shared>,
    state: TicketState,
}

enum TicketState {
    Waiting(Key),
    /// Boxed, because it is rare and every future has room for the largest state.
    Refused(Box<(Request, DeviceError)>),
    Taken,
}

impl Future for Ticket {
    type Output = (Request, Result<()>);

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let key = match std::mem::replace(&mut self.state, TicketState::Taken) {
            TicketState::Waiting(key) => key,
            TicketState::Refused(refused) => {
                let (request, error) = *refused;
                return Poll::Ready((request, Err(error)));
            }
            TicketState::Taken => unreachable!("polled after it was ready"),
        };
        self.shared.reap_if_free();
        let polled = self.shared.slots.lock().poll(key, context);
        if polled.is_pending() {
            self.state = TicketState::Waiting(key);
        }
        polled
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if let TicketState::Waiting(key) = self.state {
            let orphan = self.shared.slots.lock().orphan(key);
            drop(orphan);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::buffer::Arena;
    use crate::geometry::BLOCK_SIZE;
    use crate::uring::op::Work;

    /// 32 readers on one thread made their requests one after the other, and all of these waited for the
    /// last: device and processor took turns, at half the rate of either.
    #[tokio::test(flavor = "current_thread")]
    async fn a_few_requests_are_handed_over_before_the_thread_is_free() {
        let path = std::env::temp_dir().join(format!("foliant-gathered-{}", std::process::id()));
        let options = std::fs::File::options().read(true).write(true).create_new(true).clone();
        let file = options.open(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        file.set_len((2 * GATHERED_MAX * BLOCK_SIZE) as u64).unwrap();
        let Ok(ring) = Ring::new(LockedFile::new(file).unwrap(), 64) else {
            eprintln!("SKIPPED: no ring to be had here");
            return;
        };
        let driver = Driver::start(ring, 64, 512).unwrap();
        let arena = Arena::new(2 * GATHERED_MAX * BLOCK_SIZE).unwrap();
        let submit = |n: usize| {
            let into = vec![arena.allocate(0).unwrap()];
            let offset = (n * BLOCK_SIZE) as u64;
            driver.submit(Request::new(Work::Read(into), offset, BLOCK_SIZE as u64))
        };
        let mut tickets: Vec<Ticket> = (1..GATHERED_MAX).map(submit).collect();
        assert_eq!(driver.shared.slots.lock().queued(), GATHERED_MAX - 1, "they gather");
        tickets.push(submit(0));
        assert_eq!(driver.shared.slots.lock().queued(), 0, "with these they are enough");
        for ticket in tickets {
            ticket.await.1.unwrap();
        }
        // Nobody is woken to hand over a write that many wait for.
        tokio::time::sleep(Duration::from_millis(5)).await;
        let from = vec![arena.allocate(0).unwrap().into()];
        let write = Request::new(Work::Write { from, durable: true }, 0, BLOCK_SIZE as u64);
        let ticket = driver.submit(write);
        assert_eq!(driver.shared.slots.lock().queued(), 0, "it went at once");
        let done = tokio::time::timeout(Duration::from_secs(5), ticket).await;
        done.expect("the pilot that slept hears of it").1.unwrap();
        driver.close().await.unwrap();
    }
}
