//! A failure flag that carries the first cause.
//!
//! Guarantees: once set it stays set until [`Poison::clear`], the first cause wins, and everybody who asks
//! hears it; one that was set for good is never cleared. `times` tells a later time of health from an
//! earlier one: what was written before a failure must not count as stable after it. Does not undo anything.
//! Called by whoever must not go on after a failed flush or journal write; cleared by `meta` alone.

use std::sync::Arc;

use crate::error::Error;
use crate::error::ErrorKind;
use crate::error::Result;
use crate::kit::sync::Mutex;
use crate::kit::sync::Notify;
use crate::kit::sync::atomic::AtomicBool;
use crate::kit::sync::atomic::AtomicU64;
use crate::kit::sync::atomic::Ordering;

/// A failure flag; clones share it.
#[derive(Debug, Clone, Default)]
pub struct Poison {
    inner: Arc<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    /// The same as `state.cause.is_some()`, for those who ask at every write.
    is_set: AtomicBool,
    /// How often it was set.
    times: AtomicU64,
    state: Mutex<State>,
    set: Notify,
    cleared: Notify,
}

#[derive(Debug, Default)]
struct State {
    cause: Option<Error>,
    for_good: bool,
}

impl Poison {
    /// A flag that is not set.
    pub fn new() -> Self {
        Self::default()
    }

    fn put(&self, cause: Error, for_good: bool) -> bool {
        let mut state = self.inner.state.lock();
        state.for_good |= for_good;
        let first = state.cause.is_none();
        if first {
            state.cause = Some(cause);
            self.inner.times.fetch_add(1, Ordering::AcqRel);
            self.inner.is_set.store(true, Ordering::Release);
        }
        first
    }

    /// Sets the flag; a later cause is dropped.
    pub fn set(&self, cause: Error) {
        if self.put(cause.clone(), false) {
            tracing::error!(%cause, "writes are stopped");
            metrics::counter!("foliant_writes_stopped_total").increment(1);
        }
        self.inner.set.notify_waiters();
    }

    /// The same for a cause after which what is in memory cannot be trusted: it is never cleared.
    pub fn set_for_good(&self, cause: Error) {
        tracing::error!(%cause, "writes are stopped for good");
        self.put(cause, true);
        self.inner.set.notify_waiters();
    }

    /// Sets the flag because everything was done: who still waits hears it, and nobody is alarmed.
    pub fn retire(&self, cause: Error) {
        self.put(cause, true);
        self.inner.set.notify_waiters();
    }

    /// Writes go on, unless it was set for good; whether they do.
    pub fn clear(&self) -> bool {
        let mut state = self.inner.state.lock();
        if state.for_good {
            return false;
        }
        state.cause = None;
        self.inner.is_set.store(false, Ordering::Release);
        drop(state);
        self.inner.cleared.notify_waiters();
        true
    }

    /// How often it was set. To be asked before [`Poison::check`].
    pub fn times(&self) -> u64 {
        self.inner.times.load(Ordering::Acquire)
    }

    /// Whether it can never be cleared.
    pub fn is_for_good(&self) -> bool {
        self.inner.state.lock().for_good
    }

    /// The first cause, if set.
    pub fn get(&self) -> Option<Error> {
        if !self.inner.is_set.load(Ordering::Acquire) {
            return None;
        }
        self.inner.state.lock().cause.clone()
    }

    /// Errors: `WritesStopped` with the first cause, if set; `Closed` when it was retired.
    pub fn check(&self) -> Result<()> {
        match self.get() {
            Some(cause) if cause.kind() == ErrorKind::Closed => Err(cause),
            Some(cause) => Err(Error::writes_stopped(&cause)),
            None => Ok(()),
        }
    }

    /// Errors: `WritesStopped` when it was set since `times` was [`Poison::times`]: what was written since
    /// then may be lost, also if writes go on meanwhile.
    pub fn check_since(&self, times: u64) -> Result<()> {
        self.check()?;
        if self.times() != times {
            let why = "writes were stopped meanwhile, and what was sent before must be sent again";
            return Err(Error::new(ErrorKind::WritesStopped, why));
        }
        Ok(())
    }

    /// Waits until the flag is set; the answer is what `check` says. Dropping has no effect.
    pub async fn tripped(&self) -> Error {
        loop {
            let set = self.inner.set.notified();
            tokio::pin!(set);
            set.as_mut().enable();
            if let Err(cause) = self.check() {
                return cause;
            }
            set.await;
        }
    }

    /// Waits until the flag is not set. Dropping has no effect.
    pub async fn cleared(&self) {
        loop {
            let cleared = self.inner.cleared.notified();
            tokio::pin!(cleared);
            cleared.as_mut().enable();
            if self.get().is_none() {
                return;
            }
            cleared.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_first_cause_stays_and_wakes_those_who_wait() {
        let poison = Poison::new();
        poison.check().expect("not set");
        let waiting = tokio::spawn({
            let poison = poison.clone();
            async move { poison.tripped().await }
        });
        tokio::task::yield_now().await;
        poison.set(Error::new(ErrorKind::Device, "first"));
        poison.set(Error::new(ErrorKind::Device, "second"));
        let heard = waiting.await.expect("it ends");
        assert_eq!(heard.kind(), ErrorKind::WritesStopped);
        assert!(heard.to_string().contains("first"), "{heard}");
    }
}
