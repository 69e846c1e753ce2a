//! Knows how long the device has not answered, so that a wait has a name and an end.
//!
//! Guarantees: a request that takes longer than [`STALL_TOLD`] is in [`Health`](crate::Health), in the metric
//! `foliant_device_stalled_seconds` and once in the log; a change that takes longer than [`DEVICE_STALL_MAX`] stops
//! writes, so that whoever waits for a commit, a sync or room in the log hears it. What is on its way stays on
//! its way; when it ends, `recover` brings writes back. Exact to two ticks. Does not cancel anything. Spawned
//! by `mount`.

use std::sync::Arc;
use std::time::Duration;

use foliant_device::wrap::watch::Watch;
use parking_lot::Mutex;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::error::Error;
use crate::error::ErrorKind;
use crate::kit::poison::Poison;
use crate::limits::DEVICE_STALL_MAX;
use crate::limits::STALL_TOLD;

/// How often it looks.
const TICK: Duration = Duration::from_secs(2);

/// A device that does not answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stalled {
    /// How long the oldest request has been on its way.
    pub longest: Duration,
    /// Reads that have been on their way for [`STALL_TOLD`] or longer.
    pub reads: u64,
    /// The same for writes, flushes and discards.
    pub changes: u64,
}

/// What is known of it.
#[derive(Debug)]
pub struct Stall {
    watch: Arc<Watch>,
    now: Mutex<Option<Stalled>>,
}

impl Stall {
    /// Nothing is known yet.
    pub fn new(watch: Arc<Watch>) -> Self {
        Self { watch, now: Mutex::default() }
    }

    /// What the last look found.
    pub fn now(&self) -> Option<Stalled> {
        *self.now.lock()
    }

    /// Looks until `stop` is cancelled.
    pub async fn run(self: Arc<Self>, poison: Poison, stop: CancellationToken) {
        let mut born = self.watch.places().map(|_| Instant::now());
        let ticking = async {
            loop {
                tokio::time::sleep(TICK).await;
                self.look(&born, &poison);
                if let Some(at) = self.watch.turn() {
                    born[at] = Instant::now();
                }
            }
        };
        stop.run_until_cancelled(ticking).await;
    }

    fn look(&self, born: &[Instant], poison: &Poison) {
        let mut found = Stalled { longest: Duration::ZERO, reads: 0, changes: 0 };
        let mut oldest_change = Duration::ZERO;
        for (on_the_way, born) in self.watch.places().into_iter().zip(born) {
            let age = born.elapsed();
            if age < STALL_TOLD {
                continue;
            }
            found.reads += on_the_way.reads;
            found.changes += on_the_way.changes;
            if on_the_way.changes > 0 {
                oldest_change = oldest_change.max(age);
            }
            if on_the_way.reads + on_the_way.changes > 0 {
                found.longest = found.longest.max(age);
            }
        }
        let stalled = (found.longest > Duration::ZERO).then_some(found);
        let before = std::mem::replace(&mut *self.now.lock(), stalled);
        metrics::gauge!("foliant_device_stalled_seconds").set(found.longest.as_secs_f64());
        if stalled.is_some() && before.is_none() {
            let seconds = found.longest.as_secs();
            tracing::warn!(seconds, found.reads, found.changes, "the device does not answer");
        }
        if oldest_change >= DEVICE_STALL_MAX && poison.get().is_none() {
            let seconds = oldest_change.as_secs();
            let why = format!("the device has not ended a write or a flush for {seconds} s");
            poison.set(Error::new(ErrorKind::TimedOut, why));
        }
    }
}
