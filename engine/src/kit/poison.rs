//! A one-way failure flag that carries the first cause.
//!
//! Guarantees: once set it stays set, the first cause wins, and everybody who asks hears it. Does not
//! undo anything. Called by whoever must not go on after a failed flush or journal write.

use std::sync::Arc;
use std::sync::OnceLock;

use crate::error::Error;
use crate::error::ErrorKind;
use crate::error::Result;
use crate::kit::sync::Notify;

/// A failure flag; clones share it.
#[derive(Debug, Clone, Default)]
pub struct Poison {
    inner: Arc<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    cause: OnceLock<Error>,
    set: Notify,
}

impl Poison {
    /// A flag that is not set.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the flag; a later cause is dropped.
    pub fn set(&self, cause: Error) {
        if self.inner.cause.set(cause.clone()).is_ok() {
            tracing::error!(%cause, "writes are stopped");
            metrics::counter!("foliant_writes_stopped_total").increment(1);
        }
        self.inner.set.notify_waiters();
    }

    /// Sets the flag because everything was done: who still waits hears it, and nobody is alarmed.
    pub fn retire(&self, cause: Error) {
        let _ = self.inner.cause.set(cause);
        self.inner.set.notify_waiters();
    }

    /// The first cause, if set.
    pub fn get(&self) -> Option<Error> {
        self.inner.cause.get().cloned()
    }

    /// Errors: `WritesStopped` with the first cause, if set; `Closed` when it was retired.
    pub fn check(&self) -> Result<()> {
        match self.inner.cause.get() {
            Some(cause) if cause.kind() == ErrorKind::Closed => Err(cause.clone()),
            Some(cause) => Err(Error::writes_stopped(cause)),
            None => Ok(()),
        }
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
