//! Waiting for steps that end as long as the device does something.
//!
//! Guarantees that a wait ends: with the step, or with an error that names it once the device was asked
//! for nothing new during [`CLOSE_STALL_WAIT`]. A step that was given up is left as it is: what it lent to
//! the device stays lent. Does not know what the steps do. Called by `mount`, for closing.

use std::sync::Arc;

use foliant_device::wrap::count::Counters;
use foliant_device::wrap::count::Snapshot;

use crate::error::Error;
use crate::error::ErrorKind;
use crate::error::Result;
use crate::limits::CLOSE_STALL_WAIT;

/// How long to wait, by what the device is asked for.
#[derive(Debug, Clone)]
pub struct Patience {
    counters: Arc<Counters>,
}

impl Patience {
    /// Patience with the device whose requests `counters` counts.
    pub fn new(counters: Arc<Counters>) -> Self {
        Self { counters }
    }

    /// Waits for `step` while the device is busy.
    ///
    /// Errors: `TimedOut`. The step is dropped then.
    pub async fn wait<T>(&self, what: &str, step: impl Future<Output = T>) -> Result<T> {
        let mut step = std::pin::pin!(step);
        let mut seen: Option<Snapshot> = None;
        loop {
            match tokio::time::timeout(CLOSE_STALL_WAIT, step.as_mut()).await {
                Ok(done) => return Ok(done),
                Err(_) => {
                    let now = self.counters.snapshot();
                    if seen == Some(now) {
                        let stalled = CLOSE_STALL_WAIT.as_secs();
                        let why = format!("gave up {what}: the device did nothing for {stalled} s");
                        return Err(Error::new(ErrorKind::TimedOut, why));
                    }
                    seen = Some(now);
                }
            }
        }
    }
}
