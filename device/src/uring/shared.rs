//! What handle, tickets and task of a driver share: the ring, the table, and the steps on both.
//!
//! Guarantees: one turn hands everything that may go to the kernel and enters it once; whoever comes
//! reaps for all; wakers run and memory is freed outside of the locks. Does not wait. Called by `driver`
//! and `pilot`.
//!
//! Lock order: `ring`, then `slots`. Neither is held across an await, nor while wakers run.

use std::io;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;

use parking_lot::Mutex;
use parking_lot::MutexGuard;
use tokio::sync::Notify;

use crate::uring::meters::Meters;
use crate::uring::ring::Ring;
use crate::uring::slot::Harvest;
use crate::uring::slot::Key;
use crate::uring::slot::Slots;

/// Turns in a row in which the kernel took not all of the staged entries before the ring counts as
/// broken: about ten seconds, see `pilot::STARVED_PAUSE`.
const STARVED_TURNS_MAX: u32 = 10_000;

const RING_BROKEN: &str = "the kernel refuses to take requests";

/// See the module page.
pub(super) struct Shared {
    /// Held across one entry into the kernel, so pollers only ever try it. `None` once retired.
    pub(super) ring: Mutex<Option<Ring>>,
    /// Short critical sections without system calls, so a plain mutex.
    pub(super) slots: Mutex<Slots>,
    /// Rung when the driver sleeps and there is work, or when the table closes.
    pub(super) bell: Notify,
    /// A hint for a spinning driver: something was queued. Set under `slots`.
    pub(super) queued: AtomicBool,
    /// What offsets must be multiples of.
    pub(super) granule: u64,
    pub(super) meters: Meters,
}

/// What one turn of the driver did.
pub(super) struct Turn {
    pub(super) moved: bool,
    /// Something is staged that the kernel did not take.
    pub(super) starved: bool,
}

impl Shared {
    pub(super) fn new(ring: Ring, depth: u32, granule: u64) -> Self {
        Self {
            ring: Mutex::new(Some(ring)),
            slots: Mutex::new(Slots::new(depth)),
            bell: Notify::new(),
            queued: AtomicBool::new(false),
            granule,
            meters: Meters::new("io_uring"),
        }
    }

    pub(super) fn shut(&self, reason: &'static str) {
        self.slots.lock().close(reason);
        self.queued.store(true, Ordering::Relaxed);
        self.bell.notify_one();
    }

    /// Hands everything that may go to the kernel, and takes in what came back.
    pub(super) fn turn(&self, starved_turns: u32, harvest: &mut Harvest) -> Turn {
        self.turn_with(self.ring.lock(), starved_turns, harvest)
    }

    /// A turn for all, unless somebody else is at the ring; whether all that may go is with the kernel.
    pub(super) fn enter_if_free(&self) -> bool {
        let Some(guard) = self.ring.try_lock() else { return false };
        !self.turn_with(guard, 0, &mut Harvest::default()).starved
    }

    /// Wakes the pilot if it sleeps.
    pub(super) fn wake_pilot(&self) {
        if std::mem::take(&mut self.slots.lock().driver_sleeps) {
            self.bell.notify_one();
        }
    }

    fn turn_with(
        &self,
        mut guard: MutexGuard<'_, Option<Ring>>,
        starved_turns: u32,
        harvest: &mut Harvest,
    ) -> Turn {
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
    pub(super) fn break_down(&self, ring: &mut Ring, error: &io::Error, harvest: &mut Harvest) {
        tracing::error!(%error, "the ring is broken");
        let mut slots = self.slots.lock();
        slots.close(RING_BROKEN);
        for number in ring.break_down() {
            slots.refuse(Key::from_number(number), RING_BROKEN, harvest);
        }
        slots.refuse_queued(RING_BROKEN, harvest);
    }

    /// Takes in completions. Harvest is brought in by the caller, without locks.
    pub(super) fn reap(&self, ring: &mut Ring, harvest: &mut Harvest) {
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
    pub(super) fn reap_if_free(&self) {
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
    pub(super) fn spin(&self, limit: Duration) -> bool {
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
    pub(super) fn fall_asleep(&self) -> bool {
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

    pub(super) fn wake_up(&self) {
        if let Some(ring) = self.ring.lock().as_mut() {
            ring.listen(false);
        }
        self.slots.lock().driver_sleeps = false;
    }

    /// Whether nothing is left to do, ever.
    pub(super) fn is_over(&self) -> bool {
        let slots = self.slots.lock();
        slots.is_closed() && slots.is_idle()
    }

    /// Gives up ring, lock and file. Nothing may be in flight.
    pub(super) fn retire(&self) {
        let ring = self.ring.lock().take();
        if let Some(ring) = ring {
            assert_eq!(self.slots.lock().in_flight(), 0, "retired with requests in flight");
            ring.retire();
        }
    }
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let slots = self.slots.lock();
        write!(f, "Shared({} in flight, {} queued)", slots.in_flight(), slots.queued())
    }
}
