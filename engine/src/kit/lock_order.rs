//! Watches, in debug builds, that every operation takes its waiting locks in one order.
//!
//! Guarantees, where debug assertions are on: a lock that is waited for inside of [`watched`] ranks
//! above everything that the same operation holds, or the program stops and names both. Also a wait
//! that happens to be short is caught, so a cycle need not close to be seen. In other builds all of
//! this is empty and costs nothing.
//!
//! An operation is one call of [`watched`], not a task: two operations that are joined in one task have
//! their own lists. A call inside of another one belongs to it. What is taken outside of any operation,
//! or by a trial that cannot wait, is not checked; by a trial inside of one it is held like the rest.
//!
//! Is off under the feature `model`, where tasks change places inside of a poll: the explorer sees a cycle
//! as a deadlock. Does not see plain mutexes (they are leaves, and `clippy::await_holding_lock` keeps them from
//! waits), does not order memory. Called by the rooms that have a lock with a name here.

/// A lock's place in the order: a higher one may be waited for while a lower one is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rank {
    /// The right of a commit to hold images.
    Images,
    /// A share of what may be dirty.
    DirtyRoom,
    /// The turn of a commit to show what it changes in an object.
    Gate(u64),
    /// The range lock of an object.
    Range(u64),
    /// Something of an object's cache. Objects in their order, so that a commit over several does not
    /// meet another one.
    Cache(u64, InCache),
    /// The metadata lock of the volume.
    Metadata,
    /// Room in the log.
    LogRoom,
}

/// What of an object's cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum InCache {
    /// Its writeback, held still or on its way.
    Writeback,
    /// The folio that starts at this block.
    Folio(u64),
}

#[cfg(all(debug_assertions, not(feature = "model")))]
pub use armed::Held;
#[cfg(all(debug_assertions, not(feature = "model"), any(test, feature = "testing")))]
pub use armed::apart;
#[cfg(all(debug_assertions, not(feature = "model")))]
pub use armed::hold;
#[cfg(all(debug_assertions, not(feature = "model")))]
pub use armed::wait;
#[cfg(all(debug_assertions, not(feature = "model")))]
pub use armed::watched;

#[cfg(any(not(debug_assertions), feature = "model"))]
pub use disarmed::Held;
#[cfg(all(any(not(debug_assertions), feature = "model"), any(test, feature = "testing")))]
pub use disarmed::apart;
#[cfg(any(not(debug_assertions), feature = "model"))]
pub use disarmed::hold;
#[cfg(any(not(debug_assertions), feature = "model"))]
pub use disarmed::wait;
#[cfg(any(not(debug_assertions), feature = "model"))]
pub use disarmed::watched;

#[cfg(any(not(debug_assertions), feature = "model"))]
mod disarmed {
    use std::future::Future;

    use super::Rank;

    /// Nothing.
    #[derive(Debug)]
    pub struct Held(());

    /// Looks at nothing.
    #[inline(always)]
    pub fn wait(_: Rank) {}

    /// Notes nothing.
    #[inline(always)]
    pub fn hold(_: Rank) -> Held {
        Held(())
    }

    /// Runs it.
    #[cfg(any(test, feature = "testing"))]
    pub fn apart<T>(run: impl FnOnce() -> T) -> T {
        run()
    }

    /// The future itself.
    #[inline(always)]
    pub fn watched<F: Future>(operation: F) -> F {
        operation
    }
}

#[cfg(all(debug_assertions, not(feature = "model")))]
mod armed {
    use std::cell::RefCell;
    use std::future::Future;
    use std::pin::Pin;
    use std::sync::Arc;
    use std::sync::atomic::AtomicU64;
    use std::sync::atomic::Ordering;
    use std::task::Context;
    use std::task::Poll;

    use parking_lot::Mutex;

    use super::Rank;

    /// What one operation holds, by ticket.
    #[derive(Default)]
    struct Operation {
        /// Short list operations; never held across anything else.
        held: Mutex<Vec<(u64, Rank)>>,
    }

    thread_local! {
        /// The operation that is being polled on this thread.
        static POLLED: RefCell<Option<Arc<Operation>>> = const { RefCell::new(None) };
    }

    /// The next ticket, of all threads: a guard may be dropped on another one.
    static TICKETS: AtomicU64 = AtomicU64::new(0);

    /// A held lock; it is given back when this is dropped, wherever that is.
    #[must_use = "the lock counts as given back when this is dropped"]
    pub struct Held(Option<(Arc<Operation>, u64)>);

    impl std::fmt::Debug for Held {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("Held")
        }
    }

    impl Drop for Held {
        fn drop(&mut self) {
            if let Some((operation, ticket)) = self.0.take() {
                operation.held.lock().retain(|(held, _)| *held != ticket);
            }
        }
    }

    fn polled() -> Option<Arc<Operation>> {
        POLLED.with_borrow(Clone::clone)
    }

    /// The operation is about to wait for a lock of this rank.
    ///
    /// # Panics
    /// If it holds one that does not rank below it.
    pub fn wait(wanted: Rank) {
        let Some(operation) = polled() else { return };
        let above = {
            let held = operation.held.lock();
            held.iter().map(|&(_, rank)| rank).find(|&rank| rank >= wanted)
        };
        if let Some(held) = above {
            panic!("lock order: {wanted:?} is asked for while {held:?} is held");
        }
    }

    /// The operation holds a lock of this rank from now on.
    pub fn hold(rank: Rank) -> Held {
        Held(polled().map(|operation| {
            let ticket = TICKETS.fetch_add(1, Ordering::Relaxed);
            operation.held.lock().push((ticket, rank));
            (operation, ticket)
        }))
    }

    /// A future whose locks are watched as those of one operation.
    struct Watched<F> {
        future: Pin<Box<F>>,
        operation: Option<Arc<Operation>>,
    }

    /// Puts back who was polled before, also when a poll panics.
    struct Restore(Option<Arc<Operation>>);

    impl Drop for Restore {
        fn drop(&mut self) {
            let before = self.0.take();
            POLLED.set(before);
        }
    }

    impl<F: Future> Future for Watched<F> {
        type Output = F::Output;

        fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
            let outer = polled();
            let inherit = || outer.clone().unwrap_or_default();
            let own = Arc::clone(self.operation.get_or_insert_with(inherit));
            POLLED.set(Some(own));
            let _restore = Restore(outer);
            self.future.as_mut().poll(context)
        }
    }

    /// Runs a test's hook as nobody's operation: what it polls is not part of the one that it stopped.
    #[cfg(any(test, feature = "testing"))]
    pub fn apart<T>(run: impl FnOnce() -> T) -> T {
        let _restore = Restore(POLLED.take());
        run()
    }

    /// Watches the locks that `operation` takes.
    pub fn watched<F: Future>(operation: F) -> impl Future<Output = F::Output> {
        Watched { future: Box::pin(operation), operation: None }
    }
}

#[cfg(all(test, debug_assertions, not(feature = "model")))]
mod tests {
    use std::panic::AssertUnwindSafe;
    use std::panic::catch_unwind;

    use futures_util::FutureExt;

    use super::*;

    fn outcome(operation: impl Future<Output = ()>) -> Result<(), String> {
        let run = || watched(operation).now_or_never().expect("nothing waits");
        catch_unwind(AssertUnwindSafe(run))
            .map_err(|cause| cause.downcast_ref::<String>().cloned().unwrap_or_default())
    }

    async fn take(rank: Rank) -> Held {
        wait(rank);
        hold(rank)
    }

    #[test]
    fn two_locks_in_the_wrong_order_stop_the_program_with_both_names() {
        let folio = |at| Rank::Cache(7, InCache::Folio(at));
        let why = outcome(async move {
            let _folio = take(folio(3)).await;
            let _range = take(Rank::Range(7)).await;
        });
        let why = why.unwrap_err();
        assert!(why.contains("Range(7)") && why.contains("Cache(7, Folio(3))"), "{why}");
        let twice = outcome(async move {
            let _one = take(folio(3)).await;
            let _same = take(folio(3)).await;
        });
        assert!(twice.is_err(), "the same lock twice waits for itself");
    }

    #[test]
    fn the_right_order_is_silent_and_what_was_given_back_does_not_count() {
        let right = outcome(async {
            let range = take(Rank::Range(2)).await;
            let _writeback = take(Rank::Cache(2, InCache::Writeback)).await;
            let _first = take(Rank::Cache(2, InCache::Folio(0))).await;
            let _second = take(Rank::Cache(2, InCache::Folio(16))).await;
            let _other = take(Rank::Cache(3, InCache::Writeback)).await;
            drop(take(Rank::Metadata).await);
            drop(range);
            let _folio = take(Rank::Cache(3, InCache::Folio(4))).await;
        });
        assert_eq!(right, Ok(()));
    }

    #[test]
    fn joined_operations_do_not_share_what_they_hold_and_nested_ones_do() {
        let other = async {
            let _folio = take(Rank::Cache(1, InCache::Folio(1))).await;
            tokio::task::yield_now().await;
        };
        let mine = async {
            tokio::task::yield_now().await;
            drop(take(Rank::Range(1)).await);
        };
        let both = async { tokio::join!(watched(other), watched(mine)) };
        both.now_or_never();
        let nested = outcome(async {
            let _folio = take(Rank::Cache(1, InCache::Folio(1))).await;
            watched(async { drop(take(Rank::Range(1)).await) }).await;
        });
        assert!(nested.is_err());
    }
}
