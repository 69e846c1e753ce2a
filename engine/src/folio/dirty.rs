//! How much is dirty, over all objects, and who must wait because of it.
//!
//! Guarantees: counts are exact; the sum of dirty, under writeback and admitted never exceeds the
//! hard limit by more than one request; who waits is served in order, waits at most [`DIRTY_WAIT`]
//! and then hears why. Waiting happens in [`DirtyLimits::admit`], before anything is locked; zeroes that
//! the core adds under a range lock go over the limit instead ([`DirtyLimits::admit_over`]).
//!
//! Does not write anything: it wakes the flusher. Called by `lock` and `folio` (counting), iomap
//! (admit), `object` (room that writeback gives back) and the flusher.

use std::sync::Arc;

use crate::error::Error;
use crate::error::ErrorKind;
use crate::error::Result;
use crate::kit::fault::Fault;
use crate::kit::fault::has_fault;
use crate::kit::lock_order;
use crate::kit::lock_order::Held;
use crate::kit::lock_order::Rank;
use crate::kit::sync::AsyncMutex;
use crate::kit::sync::Notify;
use crate::kit::sync::atomic::AtomicU64;
use crate::kit::sync::atomic::Ordering;
use crate::kit::sync::timeout;
use crate::limits::DIRTY_WAIT;

/// The global counts; clones are the same counts.
#[derive(Clone)]
pub struct DirtyLimits {
    inner: Arc<Inner>,
}

impl std::fmt::Debug for DirtyLimits {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (dirty, writeback) = (self.dirty(), self.writeback());
        write!(f, "DirtyLimits({dirty} dirty, {writeback} under writeback)")
    }
}

struct Inner {
    background: u64,
    hard: u64,
    dirty: AtomicU64,
    writeback: AtomicU64,
    /// Blocks whose writeback has ended since the start, well or not.
    ended: AtomicU64,
    admitted: AtomicU64,
    waiting: AtomicU64,
    /// Fair turn among those who wait; held across the wait, so tokio's.
    turn: AsyncMutex<()>,
    relaxed: Notify,
    flusher: Notify,
    /// Told when dirty blocks or blocks under writeback become fewer.
    settled: Notify,
}

/// The right to dirty some blocks; keep it until they are marked.
#[must_use = "dropping it gives the room back"]
pub struct Admission {
    limits: DirtyLimits,
    blocks: u64,
    _order: Held,
}

impl Drop for Admission {
    fn drop(&mut self) {
        let inner = &self.limits.inner;
        sub(&inner.admitted, self.blocks);
        self.limits.relax();
    }
}

fn sub(counter: &AtomicU64, blocks: u64) {
    let before = counter.fetch_sub(blocks, Ordering::SeqCst);
    assert!(before >= blocks, "a dirty count went below zero");
}

struct Waiting<'a>(&'a AtomicU64);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl DirtyLimits {
    /// Limits for `memory_blocks` of memory: writeback starts at 1/8, writers wait at 3/8.
    pub fn new(memory_blocks: usize) -> Self {
        let blocks = memory_blocks as u64;
        Self {
            inner: Arc::new(Inner {
                background: blocks / 8,
                hard: (blocks * 3 / 8).max(1),
                dirty: AtomicU64::new(0),
                writeback: AtomicU64::new(0),
                ended: AtomicU64::new(0),
                admitted: AtomicU64::new(0),
                waiting: AtomicU64::new(0),
                turn: AsyncMutex::new(()),
                relaxed: Notify::new(),
                flusher: Notify::new(),
                settled: Notify::new(),
            }),
        }
    }

    /// Dirty blocks.
    pub fn dirty(&self) -> u64 {
        self.inner.dirty.load(Ordering::SeqCst)
    }

    /// Blocks under writeback.
    pub fn writeback(&self) -> u64 {
        self.inner.writeback.load(Ordering::SeqCst)
    }

    /// Blocks that are dirty or under writeback.
    pub fn unsettled(&self) -> u64 {
        self.dirty() + self.writeback()
    }

    /// Blocks whose writeback has ended since the start, well or not.
    pub fn ended(&self) -> u64 {
        self.inner.ended.load(Ordering::SeqCst)
    }

    /// Asks for writeback and waits until the writeback of more than `seen` blocks has ended, or
    /// nothing is left to be written; gives back how many have. Not bounded: the caller's wait is.
    ///
    /// Dropping the future has no effect.
    pub async fn ended_after(&self, seen: u64) -> u64 {
        loop {
            let mut settled = std::pin::pin!(self.inner.settled.notified());
            settled.as_mut().enable();
            let ended = self.ended();
            if ended > seen || self.unsettled() == 0 {
                return ended;
            }
            self.wake_flusher();
            settled.await;
        }
    }

    #[cfg(feature = "testing")]
    /// Blocks that somebody may dirty and has not, and who waits for such a share.
    pub fn shares(&self) -> (u64, u64) {
        (self.inner.admitted.load(Ordering::SeqCst), self.inner.waiting.load(Ordering::SeqCst))
    }

    #[cfg(test)]
    /// Whether so much is dirty that the flusher should work.
    pub fn over_background(&self) -> bool {
        self.dirty() > self.inner.background
    }

    #[cfg(test)]
    /// Blocks dirty, under writeback or admitted at which writers wait.
    pub fn hard_limit(&self) -> u64 {
        self.inner.hard
    }

    /// Where the flusher waits: notified when dirty blocks exceed the background threshold, when a
    /// writer waits, and by [`DirtyLimits::wake_flusher`]. For one listener; a wake while nobody
    /// listens is kept.
    pub fn flusher(&self) -> &Notify {
        &self.inner.flusher
    }

    /// Asks for writeback, for example because memory is short.
    pub fn wake_flusher(&self) {
        self.inner.flusher.notify_one();
    }

    /// Waits until `blocks` more may become dirty. Call it with nothing locked; keep the result
    /// until the blocks are marked dirty.
    ///
    /// Errors: `TimedOut`, naming the wait. Dropping the future gives up the place in line.
    pub async fn admit(&self, blocks: u64) -> Result<Admission> {
        lock_order::wait(Rank::DirtyRoom);
        let inner = &*self.inner;
        if inner.waiting.load(Ordering::SeqCst) == 0
            && let Some(admission) = self.try_admit(blocks)
        {
            return Ok(admission);
        }
        inner.waiting.fetch_add(1, Ordering::SeqCst);
        let _waiting = Waiting(&inner.waiting);
        match timeout(DIRTY_WAIT, self.wait_in_line(blocks)).await {
            Ok(admission) => Ok(admission),
            Err(_) => Err(self.timed_out(blocks)),
        }
    }

    /// A share without waiting, over the limit if need be: for the few zeroes that the core adds while
    /// it holds a range, where nobody may wait for room.
    pub fn admit_over(&self, blocks: u64) -> Admission {
        self.inner.admitted.fetch_add(blocks, Ordering::SeqCst);
        self.admission(blocks)
    }

    /// Whether a block more may become dirty now.
    pub fn has_room(&self) -> bool {
        let used = self.inner.admitted.load(Ordering::SeqCst) + self.dirty() + self.writeback();
        used < self.inner.hard
    }

    fn admission(&self, blocks: u64) -> Admission {
        let order = lock_order::hold(Rank::DirtyRoom);
        Admission { limits: self.clone(), blocks, _order: order }
    }

    fn try_admit(&self, blocks: u64) -> Option<Admission> {
        let inner = &*self.inner;
        let admit = |admitted: u64| {
            let used = admitted + self.dirty() + self.writeback();
            // A request larger than the limit goes alone.
            (used + blocks <= inner.hard || used == 0).then_some(admitted + blocks)
        };
        inner.admitted.fetch_update(Ordering::SeqCst, Ordering::SeqCst, admit).ok()?;
        Some(self.admission(blocks))
    }

    async fn wait_in_line(&self, blocks: u64) -> Admission {
        let _turn = self.inner.turn.lock().await;
        let mut looked = has_fault(Fault::CountLate);
        loop {
            let mut relaxed = std::pin::pin!(self.inner.relaxed.notified());
            relaxed.as_mut().enable();
            if !std::mem::take(&mut looked)
                && let Some(admission) = self.try_admit(blocks)
            {
                return admission;
            }
            self.wake_flusher();
            relaxed.await;
        }
    }

    fn timed_out(&self, blocks: u64) -> Error {
        let message = format!(
            "waiting {} s to dirty {blocks} blocks: {} dirty, {} under writeback, limit {}",
            DIRTY_WAIT.as_secs(),
            self.dirty(),
            self.writeback(),
            self.inner.hard
        );
        Error::new(ErrorKind::TimedOut, message)
    }

    fn relax(&self) {
        if self.inner.waiting.load(Ordering::SeqCst) > 0 {
            self.inner.relaxed.notify_one();
        }
    }

    pub(super) fn add_dirty(&self, blocks: u64) {
        if blocks == 0 {
            return;
        }
        let dirty = self.inner.dirty.fetch_add(blocks, Ordering::SeqCst) + blocks;
        if dirty > self.inner.background {
            self.wake_flusher();
        }
    }

    pub(super) fn sub_dirty(&self, blocks: u64) {
        if blocks > 0 {
            sub(&self.inner.dirty, blocks);
            self.relax();
            self.inner.settled.notify_waiters();
        }
    }

    pub(super) fn add_writeback(&self, blocks: u64) {
        self.inner.writeback.fetch_add(blocks, Ordering::SeqCst);
    }

    pub(super) fn sub_writeback(&self, blocks: u64) {
        if blocks > 0 {
            sub(&self.inner.writeback, blocks);
            self.inner.ended.fetch_add(blocks, Ordering::SeqCst);
            self.relax();
            self.inner.settled.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn writers_wait_at_the_hard_limit_in_order_and_go_on_when_it_relaxes() {
        let limits = DirtyLimits::new(80);
        assert_eq!(limits.hard_limit(), 30);
        limits.add_dirty(25);
        let first = limits.admit(5).await.unwrap();
        let waits: Vec<_> = [20, 1]
            .map(|blocks| {
                let limits = limits.clone();
                tokio::spawn(async move { limits.admit(blocks).await.unwrap().blocks })
            })
            .into_iter()
            .collect();
        tokio::task::yield_now().await;
        drop(first);
        tokio::task::yield_now().await;
        tokio::task::yield_now().await;
        assert!(waits.iter().all(|wait| !wait.is_finished()), "one overtook");
        limits.flusher().notified().await;
        limits.add_writeback(25);
        limits.sub_dirty(25);
        limits.sub_writeback(15);
        for wait in waits {
            assert!(wait.await.unwrap() > 0);
        }
        limits.sub_writeback(10);
        assert_eq!(limits.inner.admitted.load(Ordering::SeqCst), 0);
        assert_eq!((limits.dirty(), limits.writeback()), (0, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn a_wait_for_writeback_ends_with_a_named_error() {
        let limits = DirtyLimits::new(80);
        limits.add_dirty(30);
        let error = limits.admit(1).await.err().unwrap();
        assert_eq!(error.kind(), ErrorKind::TimedOut);
        assert!(error.to_string().contains("to dirty 1 blocks"), "{error}");
        limits.sub_dirty(30);
        assert_eq!(limits.inner.waiting.load(Ordering::SeqCst), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_over_the_limit_goes_alone() {
        let limits = DirtyLimits::new(80);
        let large = limits.admit(1000).await.unwrap();
        let wait = timeout(DIRTY_WAIT / 2, limits.admit(1));
        assert!(wait.await.is_err());
        drop(large);
        assert!(limits.admit(1).await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_for_writeback_hears_of_each_batch_and_of_the_end() {
        let limits = DirtyLimits::new(80);
        assert_eq!(limits.ended_after(0).await, 0, "nothing is dirty");
        limits.add_dirty(7);
        let waits = limits.clone();
        let wait = tokio::spawn(async move {
            let first = waits.ended_after(0).await;
            (first, waits.ended_after(first).await)
        });
        limits.flusher().notified().await;
        limits.add_writeback(5);
        limits.sub_dirty(5);
        tokio::task::yield_now().await;
        limits.sub_writeback(5);
        limits.flusher().notified().await;
        // Forgotten, as by a truncate.
        limits.sub_dirty(2);
        assert_eq!(wait.await.unwrap(), (5, 5));
    }

    #[test]
    fn the_flusher_is_woken_over_the_background_threshold_only() {
        let limits = DirtyLimits::new(80);
        limits.add_dirty(10);
        assert!(!limits.over_background());
        limits.add_dirty(1);
        assert!(limits.over_background());
    }
}
