//! A log position that only grows, with waiters.
//!
//! Guarantees: a wait for a position ends when the position is reached or the volume is poisoned,
//! never before. Does not say what the position means. Called by `journal`.

use tokio::sync::watch;

use crate::error::Result;
use crate::kit::poison::Poison;
use crate::units::Lsn;

/// A growing position.
#[derive(Debug)]
pub struct Watermark {
    /// A watch channel: waiters are woken by each step, and find the newest value.
    position: watch::Sender<Lsn>,
    poison: Poison,
}

impl Watermark {
    /// A mark at `start`, whose waiters fail when `poison` is set.
    pub fn new(start: Lsn, poison: Poison) -> Self {
        Self { position: watch::Sender::new(start), poison }
    }

    /// Where it is.
    pub fn get(&self) -> Lsn {
        *self.position.borrow()
    }

    /// Moves it forward.
    ///
    /// # Panics
    /// If `to` lies before the position.
    pub fn advance(&self, to: Lsn) {
        self.position.send_modify(|at| {
            assert!(*at <= to, "a watermark moved back from {at} to {to}");
            *at = to;
        });
    }

    /// Waits until the position is at least `lsn`. Errors: `WritesStopped`. Dropping has no effect.
    pub async fn reached(&self, lsn: Lsn) -> Result<()> {
        if self.get() >= lsn {
            return Ok(());
        }
        let mut watched = self.position.subscribe();
        tokio::select! {
            biased;
            found = watched.wait_for(|at| *at >= lsn) => {
                found.expect("the sender lives in this value");
                Ok(())
            }
            cause = self.poison.tripped() => Err(cause),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Error;
    use crate::error::ErrorKind;

    #[tokio::test]
    async fn waiters_hear_of_progress_and_of_failure() {
        let poison = Poison::new();
        let mark = Watermark::new(Lsn(5), poison.clone());
        mark.reached(Lsn(5)).await.expect("it is there");
        let (reached, ()) = tokio::join!(mark.reached(Lsn(9)), async { mark.advance(Lsn(10)) });
        reached.expect("it came");
        poison.set(Error::new(ErrorKind::Device, "gone"));
        assert!(mark.reached(Lsn(11)).await.is_err());
        mark.reached(Lsn(10)).await.expect("what is reached stays reached");
    }
}
