//! How much of the engine's memory replies may keep while they are on their way to clients.
//!
//! Guarantees a bound over all clients of a server: what does not fit is for the caller to copy. Does not
//! wait, because whoever waited would hold up a client for the slowness of another. Called by `catalog`,
//! `export` and `reply`.

use std::sync::Arc;

use tokio::sync::OwnedSemaphorePermit;
use tokio::sync::Semaphore;

/// The unit of the count: a block of the engine.
const UNIT_BYTES: usize = 4096;

/// The right to keep some of the engine's memory; given back when dropped.
#[derive(Debug)]
#[allow(dead_code)] // Held, not read.
pub struct Pin(OwnedSemaphorePermit);

/// What may be kept together; clones are the same.
#[derive(Debug, Clone)]
pub struct Pins(Arc<Semaphore>);

impl Pins {
    /// Allows `bytes` at once.
    pub fn new(bytes: u64) -> Self {
        let units = usize::try_from(bytes / UNIT_BYTES as u64).unwrap_or(usize::MAX);
        Self(Arc::new(Semaphore::new(units.min(Semaphore::MAX_PERMITS))))
    }

    /// The right to keep `bytes` more, if they fit.
    pub fn hold(&self, bytes: usize) -> Option<Pin> {
        let units = u32::try_from(bytes.div_ceil(UNIT_BYTES)).ok()?;
        self.0.clone().try_acquire_many_owned(units).ok().map(Pin)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_is_refused_until_something_goes() {
        let pins = Pins::new(3 * 4096);
        let first = pins.hold(4097).unwrap();
        assert!(pins.clone().hold(4097).is_none());
        let second = pins.hold(4096).unwrap();
        assert!(pins.hold(1).is_none());
        drop(first);
        assert!(pins.hold(8192).is_some());
        drop(second);
    }
}
