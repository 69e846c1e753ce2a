//! A log position that only grows, with waiters.
//!
//! Guarantees: a wait for a position ends when the position is reached or the volume is poisoned,
//! never before; a step wakes those whose position it reaches, in the order of their positions, and nobody
//! else. With 64 waiters over four groups on their way, a step that woke all of them made each look three
//! times in vain. Does not say what the position means. Called by `journal`.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::task::Context;
use std::task::Poll;
use std::task::Waker;

use parking_lot::Mutex;

use crate::error::Result;
use crate::kit::poison::Poison;
use crate::units::Lsn;

/// A growing position.
#[derive(Debug)]
pub struct Watermark {
    /// Written with `waiters` locked, so that nobody lies down behind the step that was to wake him.
    position: AtomicU64,
    /// Short sections: one look, one insertion. Wakers run outside of it.
    waiters: Mutex<Waiters>,
    poison: Poison,
}

#[derive(Debug, Default)]
struct Waiters {
    /// By position, then by the order of coming.
    list: BTreeMap<(Lsn, u64), Waker>,
    came: u64,
}

impl Watermark {
    /// A mark at `start`, whose waiters fail when `poison` is set.
    pub fn new(start: Lsn, poison: Poison) -> Self {
        Self { position: AtomicU64::new(start.0), waiters: Mutex::default(), poison }
    }

    /// Where it is.
    pub fn get(&self) -> Lsn {
        Lsn(self.position.load(Ordering::Acquire))
    }

    /// Moves it forward.
    ///
    /// # Panics
    /// If `to` lies before the position.
    pub fn advance(&self, to: Lsn) {
        let due = {
            let mut waiters = self.waiters.lock();
            let at = self.get();
            assert!(at <= to, "a watermark moved back from {at} to {to}");
            self.position.store(to.0, Ordering::Release);
            let later = waiters.list.split_off(&(Lsn(to.0 + 1), 0));
            std::mem::replace(&mut waiters.list, later)
        };
        due.into_values().for_each(Waker::wake);
    }

    /// Waits until the position is at least `lsn`. Errors: `WritesStopped`. Dropping has no effect.
    pub async fn reached(&self, lsn: Lsn) -> Result<()> {
        if self.get() >= lsn {
            return Ok(());
        }
        tokio::select! {
            biased;
            () = (Reached { mark: self, lsn, place: None }) => Ok(()),
            cause = self.poison.tripped() => Err(cause),
        }
    }

    /// Waiters on the list.
    #[cfg(test)]
    fn waiting(&self) -> usize {
        self.waiters.lock().list.len()
    }
}

/// One wait; leaves the list when it is dropped.
struct Reached<'a> {
    mark: &'a Watermark,
    lsn: Lsn,
    /// Its key, once it is on the list.
    place: Option<(Lsn, u64)>,
}

impl Future for Reached<'_> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let mut waiters = self.mark.waiters.lock();
        if self.mark.get() >= self.lsn {
            // The step took it off the list.
            self.place = None;
            return Poll::Ready(());
        }
        let place = self.place.unwrap_or_else(|| {
            waiters.came += 1;
            (self.lsn, waiters.came)
        });
        match waiters.list.get_mut(&place) {
            Some(known) => known.clone_from(context.waker()),
            None => _ = waiters.list.insert(place, context.waker().clone()),
        }
        self.place = Some(place);
        Poll::Pending
    }
}

impl Drop for Reached<'_> {
    fn drop(&mut self) {
        if let Some(place) = self.place {
            let waker = self.mark.waiters.lock().list.remove(&place);
            drop(waker);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::AtomicUsize;
    use std::task::Wake;

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
        let (heard, ()) = tokio::join!(mark.reached(Lsn(11)), async {
            poison.set(Error::new(ErrorKind::Device, "gone"));
        });
        assert_eq!(heard.unwrap_err().kind(), ErrorKind::WritesStopped);
        assert!(mark.reached(Lsn(11)).await.is_err());
        mark.reached(Lsn(10)).await.expect("what is reached stays reached");
        assert_eq!(mark.waiting(), 0, "nobody is left on the list");
    }

    #[derive(Default)]
    struct Counted(AtomicUsize);

    impl Wake for Counted {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    #[test]
    fn a_step_wakes_those_that_it_reaches_and_nobody_else() {
        let mark = Watermark::new(Lsn(0), Poison::new());
        let woken: Vec<Arc<Counted>> = (0..6).map(|_| Arc::default()).collect();
        let mut waits: Vec<_> = (0..6).map(|at| Box::pin(mark.reached(Lsn(at / 2 + 1)))).collect();
        for (wait, counted) in waits.iter_mut().zip(&woken) {
            let waker = Waker::from(counted.clone());
            assert!(wait.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
        }
        drop(waits.remove(5));
        assert_eq!(mark.waiting(), 5, "who is dropped leaves the list");
        mark.advance(Lsn(2));
        let times: Vec<usize> = woken.iter().map(|w| w.0.load(Ordering::SeqCst)).collect();
        assert_eq!(times, [1, 1, 1, 1, 0, 0]);
        drop(waits);
        assert_eq!(mark.waiting(), 0);
    }
}
