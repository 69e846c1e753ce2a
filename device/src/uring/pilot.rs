//! The task that drives a ring: gathers, enters, reaps, spins, sleeps, and ends well.
//!
//! It runs behind the runnable tasks, so that their requests gather. It is the only one that spins:
//! briefly, and only while completions have been coming that fast, since a wake across idle processors
//! costs more than a read. Otherwise it sleeps on an eventfd in the runtime's reactor.
//!
//! Guarantees that when the task has ended (device closed or dropped, runtime shut down, panic)
//! nothing is in flight, and lock and file are given up, or all are leaked because the kernel holds
//! on to a request. Started by `driver`.

use std::io;
use std::os::fd::AsFd;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::uring::ring::Ring;
use crate::uring::shared::Shared;
use crate::uring::slot::Harvest;
use crate::uring::slot::Key;

/// The longest spin. About the time of a fast read; sleeping and waking costs as much again.
const SPIN_MAX: Duration = Duration::from_micros(60);

/// A spin is cut into pieces, between which other tasks of the thread run.
const SPIN_PIECE: Duration = Duration::from_micros(20);

/// Spins that may fail in a row before spinning pauses.
const SPIN_CREDIT_MAX: u32 = 8;

/// While spinning pauses, every so many waits one spin is tried.
const SPIN_PROBE_EVERY: u32 = 32;

/// How long the kernel is left alone when it is short of memory for requests.
const STARVED_PAUSE: Duration = Duration::from_millis(1);

/// How long closing and a runtime that shuts down wait for the kernel.
pub(super) const CLOSE_PATIENCE: Duration = Duration::from_secs(20);

/// How often a wait for the kernel looks at the time.
pub(super) const TICK: Duration = Duration::from_secs(1);

/// An eventfd in the reactor that the kernel signals for the ring.
// The constructor is deprecated because a type may lie about its descriptor. An `OwnedFd` owns what it
// says, and the replacement is `unsafe`, which this room must not be.
#[expect(deprecated)]
pub(super) fn signal_of(ring: &Ring) -> io::Result<AsyncFd<OwnedFd>> {
    let flags = rustix::event::EventfdFlags::CLOEXEC | rustix::event::EventfdFlags::NONBLOCK;
    let signal = rustix::event::eventfd(0, flags)?;
    ring.register_eventfd(signal.as_fd())?;
    AsyncFd::with_interest(signal, Interest::READABLE)
}

/// The driver task's hold on the ring. Dropped with the task, be it at its end, by a panic, or by
/// a runtime that shuts down: then it blocks until the kernel has given everything back.
pub(super) struct LastRites(pub(super) Arc<Shared>);

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

/// The task's life.
pub(super) async fn run(rites: LastRites, signal: AsyncFd<OwnedFd>) {
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
        if turn.starved {
            tokio::time::sleep(STARVED_PAUSE).await;
        } else if !turn.moved {
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
        // At once, and not behind the tasks that can run: who waits for these completions is not one of them.
        shared.reap_if_free();
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
