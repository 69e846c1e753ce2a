//! One ring for all tasks: submits in batches, reaps for all, wakes.
//!
//! A request is queued when it is made. One task, the driver, runs behind the runnable tasks, so
//! that their requests gather; then it enters the kernel once for all of them, and reaps once for
//! all. Whoever polls an unfinished future reaps for all as well, if nobody else does just then.
//! Only the driver spins: briefly, and only while completions have been coming that fast, since a
//! wake across idle processors costs more than a read. Otherwise it sleeps on an eventfd in the
//! runtime's reactor.
//!
//! Guarantees: a request that was accepted ends, whether its future lives or not; memory in flight
//! is never freed; when the driver has ended (close, drop, its runtime shut down) nothing is in
//! flight, and lock and file are given up, or both are leaked because the kernel holds on to a
//! request. Does not order requests, check ranges, or retry errors of the medium. The runtime that
//! started the driver must have its I/O and time drivers on, and must keep running; futures may be
//! polled anywhere. Called by `backend::ring`.
//!
//! Lock order: `ring`, then `slots`. Neither is held across an await, nor while wakers run.

use std::fs::File;
use std::future::Future;
use std::io;
use std::os::fd::AsFd;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::task::Context;
use std::task::Poll;
use std::time::Duration;
use std::time::Instant;

use parking_lot::Mutex;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::Notify;
use tokio_util::task::TaskTracker;

use crate::buffer::Arena;
use crate::error::DeviceError;
use crate::error::DeviceErrorKind;
use crate::error::Operation;
use crate::error::Result;
use crate::meters::Meters;
use crate::uring::op::Request;
use crate::uring::ring::Ring;
use crate::uring::slot::Harvest;
use crate::uring::slot::Key;
use crate::uring::slot::Slots;

/// The longest spin. About the time of a fast read; sleeping and waking costs as much again.
const SPIN_MAX: Duration = Duration::from_micros(60);

/// A spin is cut into pieces, between which other tasks of the thread run.
const SPIN_PIECE: Duration = Duration::from_micros(20);

/// Spins that may fail in a row before spinning pauses.
const SPIN_CREDIT_MAX: u32 = 8;

/// While spinning pauses, every so many waits one spin is tried.
const SPIN_PROBE_EVERY: u32 = 32;

/// How long [`Driver::close`] and a runtime that shuts down wait for the kernel.
const CLOSE_PATIENCE: Duration = Duration::from_secs(20);

/// How often a wait for the kernel looks at the time.
const TICK: Duration = Duration::from_secs(1);

/// Turns in which the kernel took none of the staged entries before the ring counts as broken.
const STARVED_TURNS_MAX: u32 = 100_000;

const RING_BROKEN: &str = "the kernel refuses to take requests";

/// The handle of the device; dropping it lets the driver finish what it has and stop.
#[derive(Debug)]
pub(crate) struct Driver {
    shared: Arc<Shared>,
    tasks: TaskTracker,
}

struct Shared {
    /// Held across one entry into the kernel, so pollers only ever try it. `None` once retired.
    ring: Mutex<Option<Ring>>,
    /// Short critical sections without system calls, so a plain mutex.
    slots: Mutex<Slots>,
    /// Rung when the driver sleeps and there is work, or when the table closes.
    bell: Notify,
    /// A hint for a spinning driver: something was queued. Set under `slots`.
    queued: AtomicBool,
    /// What offsets must be multiples of.
    granule: u64,
    meters: Meters,
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
    ) -> std::result::Result<Self, (File, io::Error)> {
        let signal = match signal_of(&ring) {
            Ok(signal) => signal,
            Err(error) => return Err((ring.into_file(), error)),
        };
        let shared = Arc::new(Shared {
            ring: Mutex::new(Some(ring)),
            slots: Mutex::new(Slots::new(depth)),
            bell: Notify::new(),
            queued: AtomicBool::new(false),
            granule,
            meters: Meters::new("io_uring"),
        });
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
        let mut slots = self.shared.slots.lock();
        let state = match slots.insert(request) {
            Ok(key) => TicketState::Waiting(key),
            Err(refused) => TicketState::Refused(refused),
        };
        self.shared.queued.store(true, Ordering::Relaxed);
        let wake = std::mem::take(&mut slots.driver_sleeps);
        drop(slots);
        if wake {
            self.shared.bell.notify_one();
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

/// An eventfd in the reactor that the kernel signals for the ring.
// The constructor is deprecated because a type may lie about its descriptor. An `OwnedFd` owns what it
// says, and the replacement is `unsafe`, which this room must not be.
#[expect(deprecated)]
fn signal_of(ring: &Ring) -> io::Result<AsyncFd<OwnedFd>> {
    let flags = rustix::event::EventfdFlags::CLOEXEC | rustix::event::EventfdFlags::NONBLOCK;
    let signal = rustix::event::eventfd(0, flags)?;
    ring.register_eventfd(signal.as_fd())?;
    AsyncFd::with_interest(signal, Interest::READABLE)
}

/// What one turn of the driver did.
struct Turn {
    moved: bool,
    /// Something is staged that the kernel did not take.
    starved: bool,
}

impl Shared {
    fn shut(&self, reason: &'static str) {
        self.slots.lock().close(reason);
        self.queued.store(true, Ordering::Relaxed);
        self.bell.notify_one();
    }

    /// Hands everything that may go to the kernel, and takes in what came back.
    fn turn(&self, starved_turns: u32, harvest: &mut Harvest) -> Turn {
        let mut guard = self.ring.lock();
        let Some(ring) = guard.as_mut() else { return Turn { moved: false, starved: false } };
        self.queued.store(false, Ordering::Relaxed);
        let mut slots = self.slots.lock();
        if ring.is_broken() {
            slots.refuse_queued(RING_BROKEN, harvest);
        }
        while let Some((key, request)) = slots.next() {
            let prepared = request.prepare(ring);
            ring.push(prepared, key.to_number());
        }
        self.meters.in_flight(slots.in_flight());
        drop(slots);
        let staged = ring.staged();
        if staged > 0 {
            self.meters.entered(staged);
            match ring.enter() {
                Ok(0) if starved_turns >= STARVED_TURNS_MAX => {
                    let error = io::Error::from_raw_os_error(libc::EAGAIN);
                    self.break_down(ring, &error, harvest);
                }
                Ok(_) => {}
                Err(error) => self.break_down(ring, &error, harvest),
            }
        }
        let starved = ring.staged() > 0;
        self.reap(ring, harvest);
        drop(guard);
        let reaped = harvest.bring_in();
        Turn { moved: reaped > 0 || staged > 0, starved }
    }

    /// The kernel refuses to be entered for good: nothing more can be done, what is in flight ends.
    fn break_down(&self, ring: &mut Ring, error: &io::Error, harvest: &mut Harvest) {
        tracing::error!(%error, "the ring is broken");
        let mut slots = self.slots.lock();
        slots.close(RING_BROKEN);
        for number in ring.break_down() {
            slots.refuse(Key::from_number(number), RING_BROKEN, harvest);
        }
        slots.refuse_queued(RING_BROKEN, harvest);
    }

    /// Takes in completions. Harvest is brought in by the caller, without locks.
    fn reap(&self, ring: &mut Ring, harvest: &mut Harvest) {
        if !ring.has_completions() {
            return;
        }
        let mut slots = self.slots.lock();
        ring.reap(|number, result| {
            slots.complete(Key::from_number(number), result, self.granule, harvest);
        });
        if slots.has_work() || slots.is_closed() && slots.is_idle() {
            self.queued.store(true, Ordering::Relaxed);
            if std::mem::take(&mut slots.driver_sleeps) {
                self.bell.notify_one();
            }
        }
        (0..std::mem::take(&mut harvest.errors)).for_each(|_| self.meters.failed());
    }

    /// Reaps for all unless somebody else is at it.
    fn reap_if_free(&self) {
        let Some(mut guard) = self.ring.try_lock() else { return };
        let Some(ring) = guard.as_mut() else { return };
        if !ring.has_completions() {
            return;
        }
        let mut harvest = Harvest::default();
        self.reap(ring, &mut harvest);
        drop(guard);
        harvest.bring_in();
    }

    /// Looks for completions or new requests for a while. Whether any came.
    fn spin(&self, limit: Duration) -> bool {
        let since = Instant::now();
        let mut guard = self.ring.lock();
        let Some(ring) = guard.as_mut() else { return true };
        loop {
            if ring.has_completions() || self.queued.load(Ordering::Relaxed) {
                return true;
            }
            if since.elapsed() >= limit {
                return false;
            }
            std::hint::spin_loop();
        }
    }

    /// Prepares to sleep; `false` when there is something to do after all.
    fn fall_asleep(&self) -> bool {
        let mut guard = self.ring.lock();
        let Some(ring) = guard.as_mut() else { return false };
        ring.listen(true);
        let mut slots = self.slots.lock();
        let awake =
            ring.has_completions() || slots.has_work() || slots.is_closed() && slots.is_idle();
        slots.driver_sleeps = !awake;
        if awake {
            ring.listen(false);
        }
        !awake
    }

    fn wake_up(&self) {
        if let Some(ring) = self.ring.lock().as_mut() {
            ring.listen(false);
        }
        self.slots.lock().driver_sleeps = false;
    }

    /// Whether nothing is left to do, ever.
    fn is_over(&self) -> bool {
        let slots = self.slots.lock();
        slots.is_closed() && slots.is_idle()
    }

    /// Gives up ring, lock and file. Nothing may be in flight.
    fn retire(&self) {
        let ring = self.ring.lock().take();
        if let Some(ring) = ring {
            assert_eq!(self.slots.lock().in_flight(), 0, "retired with requests in flight");
            ring.retire();
        }
    }
}

/// The driver task's hold on the ring. Dropped with the task, be it at its end, by a panic, or by
/// a runtime that shuts down: then it blocks until the kernel has given everything back.
struct LastRites(Arc<Shared>);

impl Drop for LastRites {
    fn drop(&mut self) {
        let shared = &self.0;
        let reason = "the runtime that served the device is gone";
        let mut harvest = Harvest::default();
        shared.slots.lock().close(reason);
        let mut guard = shared.ring.lock();
        let Some(ring) = guard.as_mut() else { return };
        {
            let mut slots = shared.slots.lock();
            for number in ring.break_down() {
                slots.refuse(Key::from_number(number), reason, &mut harvest);
            }
            slots.refuse_queued(reason, &mut harvest);
        }
        let since = Instant::now();
        while shared.slots.lock().in_flight() > 0 && since.elapsed() < CLOSE_PATIENCE {
            if !ring.has_completions() {
                ring.wait_blocking(Duration::from_millis(100));
            }
            shared.reap(ring, &mut harvest);
            // A short transfer asks to go on; there is nobody to take it on.
            shared.slots.lock().refuse_queued(reason, &mut harvest);
        }
        let stuck = shared.slots.lock().in_flight();
        if stuck > 0 {
            tracing::error!(stuck, "the kernel holds requests; ring, lock and memory are leaked");
            std::mem::forget(guard.take());
            shared.slots.lock().forget("stuck in the kernel", &mut harvest);
        }
        drop(guard);
        harvest.bring_in();
        shared.retire();
    }
}

/// When to spin: as long as spins find something.
struct Pace {
    credit: u32,
    waits: u32,
}

impl Pace {
    fn new() -> Self {
        Self { credit: SPIN_CREDIT_MAX, waits: 0 }
    }

    /// Whether the next wait starts with a spin.
    fn may_spin(&mut self) -> bool {
        self.waits = self.waits.wrapping_add(1);
        self.credit > 0 || self.waits.is_multiple_of(SPIN_PROBE_EVERY)
    }

    fn learn(&mut self, found: bool) {
        self.credit = if found {
            (self.credit + 1).min(SPIN_CREDIT_MAX)
        } else {
            self.credit.saturating_sub(1)
        };
    }
}

async fn run(rites: LastRites, signal: AsyncFd<OwnedFd>) {
    let shared = &rites.0;
    let mut harvest = Harvest::default();
    let mut pace = Pace::new();
    let mut starved = 0;
    if let Some(ring) = shared.ring.lock().as_mut() {
        ring.listen(false);
    }
    while !shared.is_over() {
        tokio::task::yield_now().await;
        let turn = shared.turn(starved, &mut harvest);
        starved = if turn.starved { starved + 1 } else { 0 };
        if !turn.moved && !turn.starved {
            wait(shared, &signal, &mut pace).await;
        }
    }
    shared.retire();
}

/// Waits for a completion or a request.
async fn wait(shared: &Shared, signal: &AsyncFd<OwnedFd>, pace: &mut Pace) {
    if shared.slots.lock().in_flight() > 0 && pace.may_spin() {
        let since = Instant::now();
        let mut found = shared.spin(SPIN_PIECE);
        while !found && since.elapsed() < SPIN_MAX {
            tokio::task::yield_now().await;
            found = shared.spin(SPIN_PIECE);
        }
        pace.learn(found);
        if found {
            return;
        }
    }
    if shared.fall_asleep() {
        sleep(shared, signal).await;
        shared.wake_up();
    }
}

/// Sleeps until signalled, rung, or (with something in flight) a tick has passed.
async fn sleep(shared: &Shared, signal: &AsyncFd<OwnedFd>) {
    let waits_for_kernel = shared.slots.lock().in_flight() > 0;
    tokio::select! {
        biased;
        () = shared.bell.notified() => {}
        ready = signal.readable() => match ready {
            // Every signal is an edge for the reactor; the count itself need not be read.
            Ok(mut ready) => ready.clear_ready(),
            Err(error) => tracing::error!(%error, "the reactor lost the ring's signal"),
        },
        () = tokio::time::sleep(TICK), if waits_for_kernel => {
            shared.meters.stalled();
            let stuck = shared.slots.lock().in_flight();
            tracing::warn!(stuck, "no completion for a second");
        }
    }
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let slots = self.slots.lock();
        write!(f, "Shared({} in flight, {} queued)", slots.in_flight(), slots.queued())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spinning_stops_when_it_finds_nothing_and_comes_back_when_it_does() {
        let mut pace = Pace::new();
        for _ in 0..SPIN_CREDIT_MAX {
            assert!(pace.may_spin());
            pace.learn(false);
        }
        let tried = (0..SPIN_PROBE_EVERY).filter(|_| pace.may_spin()).count();
        assert_eq!(tried, 1);
        pace.learn(true);
        assert!(pace.may_spin());
    }
}
