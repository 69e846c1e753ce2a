//! The counters by which a read learns that a commit showed its blocks beside it, and the gate that keeps
//! commits out.
//!
//! Guarantees: who finds after a read as many publications begun as had ended before it has met none. Does
//! not read, and does not publish. Called by `whole`.

use crate::kit::canary::Canary;
use crate::kit::canary::is_broken;
use crate::kit::lock_order;
use crate::kit::lock_order::Held;
use crate::kit::lock_order::Rank;
use crate::kit::sync::Semaphore;
use crate::kit::sync::SemaphorePermit;
use crate::kit::sync::atomic::AtomicU64;
use crate::kit::sync::atomic::Ordering;

/// Commits of one object that are under way at once, at most; a reader that keeps them out takes all.
const COMMITS_MAX: u32 = 1 << 16;

/// How many commits of one object began to show their blocks, and how many are done with it.
///
/// Both only grow, and a commit counts in `begun` before it does in `ended`.
#[derive(Debug)]
pub struct Publications {
    object: u64,
    begun: AtomicU64,
    ended: AtomicU64,
    /// Commits share it; a reader that was disturbed often enough takes it alone. Fair.
    gate: Semaphore,
}

/// How many commits had shown all of their blocks.
#[derive(Debug, Clone, Copy)]
pub struct Seen(u64);

/// The right of a commit to show what it changed in one object.
#[allow(dead_code)] // Held, not read.
pub struct MayPublish<'a>(&'a Publications, Passed<'a>);

/// While it lives, the blocks of a commit become visible.
pub struct Publishing<'a>(&'a Publications);

/// A gate that was passed.
#[allow(dead_code)] // Held, not read.
pub struct Passed<'a>(SemaphorePermit<'a>, Held);

impl Publications {
    /// Of the object with this id, which ranks its gate among the locks.
    pub fn of(object: u64) -> Self {
        let gate = Semaphore::new(COMMITS_MAX as usize);
        Self { object, begun: AtomicU64::new(0), ended: AtomicU64::new(0), gate }
    }

    /// To be asked before a read.
    pub fn seen(&self) -> Seen {
        Seen(self.ended.load(Ordering::SeqCst))
    }

    /// Whether no commit has shown anything since `seen` was taken, and none was about to.
    pub fn is_whole(&self, seen: Seen) -> bool {
        self.begun.load(Ordering::SeqCst) == seen.0 || is_broken(Canary::ShowHalfCommits)
    }

    /// The right to publish. Waits while a reader keeps commits out: for one read. Dropping the future has
    /// no effect.
    pub async fn may_publish(&self) -> MayPublish<'_> {
        MayPublish(self, self.pass(1).await)
    }

    /// Keeps commits out while the answer lives. Waits for those that are under way. Dropping the future
    /// has no effect.
    pub async fn keep_out(&self) -> Passed<'_> {
        self.pass(COMMITS_MAX).await
    }

    /// Whether nobody has passed the gate.
    #[cfg(feature = "testing")]
    pub fn is_free(&self) -> bool {
        self.gate.try_acquire_many(COMMITS_MAX).is_ok()
    }

    async fn pass(&self, permits: u32) -> Passed<'_> {
        let rank = Rank::Gate(self.object);
        lock_order::wait(rank);
        let permit = self.gate.acquire_many(permits).await;
        Passed(permit.expect("the semaphore is never closed"), lock_order::hold(rank))
    }
}

impl<'a> MayPublish<'a> {
    /// From here on, until what this gives is dropped, no read of the object counts. Nothing may be
    /// waited for in between: readers try again at once.
    pub fn publish(&self) -> Publishing<'a> {
        self.0.begun.fetch_add(1, Ordering::SeqCst);
        Publishing(self.0)
    }
}

impl Drop for Publishing<'_> {
    fn drop(&mut self) {
        self.0.ended.fetch_add(1, Ordering::SeqCst);
    }
}
