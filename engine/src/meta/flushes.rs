//! One device flush for everybody who waits for one.
//!
//! Guarantees: who is served had all of its writes complete before the flush that served it began.
//! Callers that come while a flush is on its way share the next one, so that the number of flushes
//! follows the device and not the number of callers.
//!
//! Does not flush by itself: the caller says how. Called by `checkpoint`.

use std::future::Future;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;

use crate::error::Result;

/// The queue for flushes.
#[derive(Debug, Default)]
pub struct Flushes {
    /// Callers so far.
    asked: AtomicU64,
    /// How many of them are served. Held across a flush, so tokio's; fair.
    served: tokio::sync::Mutex<u64>,
}

impl Flushes {
    /// Returns when a flush that began after this call has ended well; runs `flush` if that falls to
    /// this caller.
    ///
    /// Errors: those of `flush`, to the caller that ran it; the next one runs its own, which must know that this
    /// one failed. Dropping the
    /// future gives up the place in line.
    pub async fn flush<F: Future<Output = Result<()>>>(
        &self,
        flush: impl FnOnce() -> F,
    ) -> Result<()> {
        let own = self.asked.fetch_add(1, Ordering::AcqRel) + 1;
        let mut served = self.served.lock().await;
        if *served >= own {
            return Ok(());
        }
        // Whoever asked before this moment has nothing in flight any more.
        let all = self.asked.load(Ordering::Acquire);
        flush().await?;
        *served = all;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use futures_util::future::join_all;

    use super::*;
    use crate::error::Error;
    use crate::error::ErrorKind;

    #[tokio::test]
    async fn ten_callers_beside_one_flush_share_the_next() {
        let flushes = Flushes::default();
        let count = Cell::new(0);
        let one = || {
            flushes.flush(|| async {
                count.set(count.get() + 1);
                tokio::task::yield_now().await;
                Ok(())
            })
        };
        let first = async {
            one().await.unwrap();
        };
        let others = async {
            tokio::task::yield_now().await;
            for outcome in join_all((0..10).map(|_| one())).await {
                outcome.unwrap();
            }
        };
        tokio::join!(first, others);
        assert!(count.get() <= 3, "{} flushes for 11 callers", count.get());
        one().await.unwrap();
        assert!(count.get() >= 2, "a later caller is not served by an earlier flush");
    }

    #[tokio::test]
    async fn a_failed_flush_serves_nobody() {
        let flushes = Flushes::default();
        let failed = flushes.flush(|| async { Err(Error::new(ErrorKind::Device, "no")) }).await;
        assert!(failed.is_err());
        let ran = Cell::new(false);
        let again = flushes.flush(|| async {
            ran.set(true);
            Ok(())
        });
        again.await.unwrap();
        assert!(ran.get());
    }
}
