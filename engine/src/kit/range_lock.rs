//! A fair reader-writer lock over ranges of `u64`.
//!
//! Guarantees: overlapping holders are all shared or one exclusive; a request waits only for
//! holders and *earlier* requests that conflict with it, so nobody starves; a dropped request or
//! guard leaves nothing behind. Empty ranges conflict with nothing.
//!
//! Who needs several ranges of one lock asks for all of them at once ([`RangeLock::exclusive_all`]).
//! One after the other deadlocks, in whatever order: a reader of a wide range waits for the first
//! one, and the request for the second one waits its turn behind that reader.
//!
//! Does not know what the numbers mean (the data wing uses blocks of an object), does not detect
//! deadlocks, and has no deadline of its own: a wait is bounded by the bounded waits of the
//! holders in front. Called by iomap and object.

use std::collections::BTreeMap;
use std::collections::VecDeque;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use crate::kit::fault::Fault;
use crate::kit::fault::has_fault;
use crate::kit::lock_order;
use crate::kit::lock_order::Held;
use crate::kit::lock_order::Rank;
use crate::kit::sync::Mutex;
use crate::kit::sync::Notify;
use crate::kit::sync::atomic::AtomicBool;
use crate::kit::sync::atomic::Ordering;

/// What one request covers: ascending, disjoint ranges.
#[derive(Clone)]
enum Span {
    One(Range<u64>),
    Many(Arc<[Range<u64>]>),
}

impl Span {
    fn ranges(&self) -> &[Range<u64>] {
        match self {
            Self::One(range) => std::slice::from_ref(range),
            Self::Many(ranges) => ranges,
        }
    }
}

/// A lock over ranges; clones are the same lock.
#[derive(Clone, Default)]
pub struct RangeLock {
    inner: Arc<Inner>,
}

#[derive(Default)]
struct Inner {
    /// Whose ranges these are, for the watch over the order of locks.
    owner: u64,
    /// Short scans and list operations, never held across a wait: a plain mutex.
    state: Mutex<State>,
    /// Whether somebody holds or wants a range alone; follows `state`, whose lock it is changed under.
    wanted_alone: AtomicBool,
}

impl Inner {
    fn tell(&self, state: &State) {
        let wanted = !state.exclusive.is_empty() || state.waiting_alone > 0;
        // Looked at by every writer of dirty blocks: a store that changes nothing would cost them.
        if self.wanted_alone.load(Ordering::SeqCst) != wanted {
            self.wanted_alone.store(wanted, Ordering::SeqCst);
        }
    }
}

#[derive(Default)]
struct State {
    next: u64,
    /// Holders by ticket. Shared and exclusive apart, so that a shared request need not look at
    /// the (maybe many) shared holders.
    shared: BTreeMap<u64, Span>,
    exclusive: BTreeMap<u64, Span>,
    queue: VecDeque<Waiter>,
    /// Waiters of `queue` that want their range alone.
    waiting_alone: usize,
}

struct Waiter {
    ticket: u64,
    span: Span,
    exclusive: bool,
    granted: Arc<Notify>,
}

/// Whether any two ranges overlap; both are ascending, so one walk through them tells.
fn overlap(a: &Span, b: &Span) -> bool {
    let (mut a, mut b) = (a.ranges(), b.ranges());
    while let ([first, rest @ ..], [other, others @ ..]) = (a, b) {
        if first.start.max(other.start) < first.end.min(other.end) {
            return true;
        }
        if first.end <= other.end { a = rest } else { b = others }
    }
    false
}

impl State {
    fn held_conflict(&self, span: &Span, exclusive: bool) -> bool {
        self.exclusive.values().any(|held| overlap(held, span))
            || (exclusive && self.shared.values().any(|held| overlap(held, span)))
    }

    /// Whether one of the first `before` waiters must go first.
    fn queue_conflict(&self, span: &Span, exclusive: bool, before: usize) -> bool {
        self.queue.iter().take(before).any(|w| (exclusive || w.exclusive) && overlap(&w.span, span))
    }

    fn hold(&mut self, ticket: u64, span: Span, exclusive: bool) {
        assert!(!self.held_conflict(&span, exclusive), "range lock granted twice");
        let side = if exclusive { &mut self.exclusive } else { &mut self.shared };
        let before = side.insert(ticket, span);
        assert!(before.is_none(), "range lock ticket used twice");
    }

    fn try_hold(&mut self, span: &Span, exclusive: bool) -> Option<u64> {
        let blocked = self.held_conflict(span, exclusive)
            || self.queue_conflict(span, exclusive, self.queue.len());
        if blocked {
            return None;
        }
        let ticket = self.ticket();
        self.hold(ticket, span.clone(), exclusive);
        Some(ticket)
    }

    fn ticket(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    fn is_held(&self, ticket: u64) -> bool {
        self.shared.contains_key(&ticket) || self.exclusive.contains_key(&ticket)
    }

    /// Takes `ticket` out, wherever it is, and grants what became possible.
    fn leave(&mut self, ticket: u64) {
        let held =
            self.shared.remove(&ticket).is_some() || self.exclusive.remove(&ticket).is_some();
        let at = self.queue.iter().position(|w| !held && w.ticket == ticket);
        if let Some(waiter) = at.and_then(|at| self.queue.remove(at)) {
            self.waiting_alone -= usize::from(waiter.exclusive);
        }
        let mut at = 0;
        while let Some(waiter) = self.queue.get(at) {
            let blocked = self.held_conflict(&waiter.span, waiter.exclusive)
                || self.queue_conflict(&waiter.span, waiter.exclusive, at);
            if blocked {
                at += 1;
                continue;
            }
            let waiter = self.queue.remove(at).expect("just looked at");
            self.waiting_alone -= usize::from(waiter.exclusive);
            self.hold(waiter.ticket, waiter.span, waiter.exclusive);
            waiter.granted.notify_one();
        }
    }
}

/// A held range; dropping it lets the next ones in. `'static`, so it can move into tasks.
#[must_use = "the range is unlocked when the guard is dropped"]
pub struct RangeGuard {
    inner: Arc<Inner>,
    ticket: u64,
    span: Span,
    _order: Held,
}

impl fmt::Debug for RangeGuard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RangeGuard({:?})", self.span.ranges())
    }
}

impl RangeGuard {
    /// Whether all of `range` lies in one of the locked ranges.
    pub fn covers(&self, range: Range<u64>) -> bool {
        let inside = |own: &Range<u64>| own.start <= range.start && range.end <= own.end;
        self.span.ranges().iter().any(inside)
    }
}

impl Drop for RangeGuard {
    fn drop(&mut self) {
        let mut state = self.inner.state.lock();
        state.leave(self.ticket);
        self.inner.tell(&state);
    }
}

impl RangeLock {
    /// A lock that nobody holds.
    #[cfg(test)]
    pub fn new() -> Self {
        Self::default()
    }

    /// The same for the object `owner`, which names it in the order of locks.
    pub fn of(owner: u64) -> Self {
        Self { inner: Arc::new(Inner { owner, ..Inner::default() }) }
    }

    /// Locks `range` together with other shared holders.
    ///
    /// Dropping the future gives up the place in line.
    ///
    /// # Panics
    /// If the range runs backwards.
    pub async fn shared(&self, range: Range<u64>) -> RangeGuard {
        self.acquire(Span::One(range), false).await
    }

    /// Locks `range` alone. Otherwise like [`RangeLock::shared`].
    pub async fn exclusive(&self, range: Range<u64>) -> RangeGuard {
        self.acquire(Span::One(range), true).await
    }

    /// Locks all of `ranges` alone, at once: it holds none of them while it waits for another.
    /// Otherwise like [`RangeLock::shared`].
    ///
    /// # Panics
    /// If the ranges are not ascending and disjoint.
    pub async fn exclusive_all(&self, ranges: Vec<Range<u64>>) -> RangeGuard {
        let ascending = ranges.windows(2).all(|pair| pair[0].end <= pair[1].start);
        assert!(ascending, "ranges to lock are not ascending: {ranges:?}");
        self.acquire(Span::Many(ranges.into()), true).await
    }

    /// Locks `range` together with other shared holders if that needs no wait.
    #[cfg(test)]
    pub fn try_shared(&self, range: Range<u64>) -> Option<RangeGuard> {
        self.try_acquire(Span::One(range), false)
    }

    /// Locks `range` alone if that needs no wait.
    pub fn try_exclusive(&self, range: Range<u64>) -> Option<RangeGuard> {
        self.try_acquire(Span::One(range), true)
    }

    /// Whether anybody holds a range alone or waits for one. A request that was made before, by the same
    /// task or by one that this one has heard of, is always seen.
    pub fn is_wanted_alone(&self) -> bool {
        self.inner.wanted_alone.load(Ordering::SeqCst)
    }

    /// Holders and waiters.
    #[cfg(any(test, feature = "testing"))]
    pub fn counts(&self) -> (usize, usize) {
        let state = self.inner.state.lock();
        (state.shared.len() + state.exclusive.len(), state.queue.len())
    }

    fn try_acquire(&self, span: Span, exclusive: bool) -> Option<RangeGuard> {
        let mut state = self.inner.state.lock();
        let ticket = state.try_hold(&span, exclusive)?;
        self.inner.tell(&state);
        drop(state);
        Some(self.guard(ticket, span))
    }

    fn guard(&self, ticket: u64, span: Span) -> RangeGuard {
        let order = lock_order::hold(Rank::Range(self.inner.owner));
        RangeGuard { inner: self.inner.clone(), ticket, span, _order: order }
    }

    async fn acquire(&self, span: Span, exclusive: bool) -> RangeGuard {
        let forward = span.ranges().iter().all(|range| range.start <= range.end);
        assert!(forward, "a range runs backwards");
        lock_order::wait(Rank::Range(self.inner.owner));
        let (guard, granted) = {
            let mut state = self.inner.state.lock();
            if let Some(ticket) = state.try_hold(&span, exclusive) {
                self.inner.tell(&state);
                return self.guard(ticket, span);
            }
            let ticket = state.ticket();
            let granted = Arc::new(Notify::new());
            let waiter = Waiter { ticket, span: span.clone(), exclusive, granted: granted.clone() };
            state.queue.push_back(waiter);
            state.waiting_alone += usize::from(exclusive);
            self.inner.tell(&state);
            // From here on the guard's drop takes the ticket out, queued or held: a dropped future
            // leaves nothing behind.
            (self.guard(ticket, span), granted)
        };
        if has_fault(Fault::StayInLine) {
            let guard = std::mem::ManuallyDrop::new(guard);
            granted.notified().await;
            return std::mem::ManuallyDrop::into_inner(guard);
        }
        granted.notified().await;
        assert!(self.inner.state.lock().is_held(guard.ticket), "woken without the range");
        guard
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::pin::Pin;
    use std::task::Context;
    use std::task::Poll;

    use futures_util::task::noop_waker;

    use super::*;
    use crate::kit::dice::Dice;

    fn meet(a: &Range<u64>, b: &Range<u64>) -> bool {
        a.start.max(b.start) < a.end.min(b.end)
    }

    type Pending = Pin<Box<dyn Future<Output = RangeGuard> + Send>>;

    fn poll(wait: &mut Pending) -> Option<RangeGuard> {
        match wait.as_mut().poll(&mut Context::from_waker(&noop_waker())) {
            Poll::Ready(guard) => Some(guard),
            Poll::Pending => None,
        }
    }

    /// Requests in the order of asking; the model grants one if nothing in front of it conflicts.
    struct Asked {
        range: Range<u64>,
        exclusive: bool,
        wait: Option<Pending>,
        guard: Option<RangeGuard>,
    }

    fn settle(all: &mut [Asked]) {
        for at in 0..all.len() {
            let (front, rest) = all.split_at_mut(at);
            let me = &mut rest[0];
            let Some(wait) = &mut me.wait else { continue };
            let conflict =
                |other: &&Asked| (other.exclusive || me.exclusive) && meet(&other.range, &me.range);
            let blocked = front.iter().any(|other| conflict(&other));
            let got = poll(wait);
            assert_eq!(got.is_some(), !blocked, "request {at} of {:?}", me.range);
            if got.is_some() {
                me.guard = got;
                me.wait = None;
            }
        }
    }

    #[test]
    fn ranges_are_granted_in_order_and_never_to_two_in_conflict() {
        let lock = RangeLock::new();
        let mut dice = Dice::new(1);
        let mut all: Vec<Asked> = Vec::new();
        for _ in 0..4000 {
            if dice.roll(2) == 0 && all.len() < 24 {
                let range = if dice.roll(20) == 0 { 5..5 } else { dice.range(40) };
                let exclusive = dice.roll(3) == 0;
                let (lock, wanted) = (lock.clone(), range.clone());
                let wait: Pending = match exclusive {
                    true => Box::pin(async move { lock.exclusive(wanted).await }),
                    false => Box::pin(async move { lock.shared(wanted).await }),
                };
                all.push(Asked { range, exclusive, wait: Some(wait), guard: None });
            } else if !all.is_empty() {
                // Releases a holder or cancels a waiter, whichever it is.
                all.remove(dice.roll(all.len() as u64) as usize);
            }
            settle(&mut all);
            let held = all.iter().filter(|one| one.guard.is_some()).count();
            assert_eq!(lock.counts(), (held, all.len() - held));
        }
        all.clear();
        assert_eq!(lock.counts(), (0, 0));
    }

    #[test]
    fn a_granted_request_that_is_dropped_before_it_is_polled_lets_the_next_in() {
        let lock = RangeLock::new();
        let first = lock.try_exclusive(0..10).unwrap();
        let ask = |range| -> Pending {
            let lock = lock.clone();
            Box::pin(async move { lock.exclusive(range).await })
        };
        let (mut second, mut third) = (ask(0..5), ask(3..8));
        assert!(poll(&mut second).is_none() && poll(&mut third).is_none());
        drop(first);
        drop(second);
        assert!(poll(&mut third).is_some());
    }

    #[test]
    fn a_trial_does_not_overtake_a_waiter() {
        let lock = RangeLock::new();
        let reader = lock.try_shared(0..10).unwrap();
        let asked = lock.clone();
        let mut writer: Pending = Box::pin(async move { asked.exclusive(2..3).await });
        assert!(poll(&mut writer).is_none());
        assert!(lock.try_shared(0..10).is_none(), "would starve the writer");
        assert!(lock.try_shared(3..10).is_some(), "not in its way");
        drop(reader);
        let held = poll(&mut writer).unwrap();
        assert!(held.covers(2..3) && !held.covers(2..4));
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn exclusive_holders_are_alone_on_many_threads() {
        let lock = RangeLock::new();
        let cells: Arc<Vec<Mutex<i64>>> = Arc::new((0..16).map(|_| Mutex::new(0)).collect());
        let tasks: Vec<_> = (0..16)
            .map(|seed| {
                let (lock, cells) = (lock.clone(), cells.clone());
                tokio::spawn(async move {
                    let mut dice = Dice::new(seed);
                    for _ in 0..200 {
                        let range = dice.range(16);
                        let exclusive = dice.roll(2) == 0;
                        let (weight, guard) = match exclusive {
                            true => (-1000, lock.exclusive(range.clone()).await),
                            false => (1, lock.shared(range.clone()).await),
                        };
                        for cell in range.clone() {
                            let mut users = cells[cell as usize].lock();
                            assert!(if exclusive { *users == 0 } else { *users >= 0 });
                            *users += weight;
                        }
                        tokio::task::yield_now().await;
                        for cell in range {
                            *cells[cell as usize].lock() -= weight;
                        }
                        drop(guard);
                    }
                })
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
        assert_eq!(lock.counts(), (0, 0));
    }

    /// The story: a commit locked its blocks one by one, in ascending order. A reader that looked
    /// ahead asked for a range around two of them, waited for the first, and the commit's next
    /// request waited its turn behind the reader.
    #[tokio::test]
    async fn several_ranges_at_once_do_not_deadlock_with_a_reader_of_a_wide_range() {
        let lock = RangeLock::new();
        let held = lock.exclusive_all(vec![0..1, 80..81]).await;
        assert!(lock.try_shared(2..80).is_some(), "between the ranges nothing is locked");
        let mut reader: Pending = {
            let lock = lock.clone();
            Box::pin(async move { lock.shared(60..320).await })
        };
        assert!(poll(&mut reader).is_none());
        let mut commit: Pending = {
            let lock = lock.clone();
            Box::pin(async move { lock.exclusive_all(vec![0..1, 80..81, 160..161]).await })
        };
        assert!(poll(&mut commit).is_none());
        drop(held);
        let reading = poll(&mut reader).expect("its turn");
        assert!(poll(&mut commit).is_none());
        assert!(lock.try_exclusive(0..1).is_none(), "who waits in front goes first");
        drop(reading);
        assert!(poll(&mut commit).is_some());
        assert_eq!(lock.counts(), (0, 0));
    }

    #[tokio::test]
    async fn who_wants_a_range_alone_is_seen_from_asking_to_leaving() {
        let lock = RangeLock::new();
        assert!(!lock.is_wanted_alone());
        let shared = lock.shared(0..10).await;
        assert!(!lock.is_wanted_alone());
        let mut waiting = Box::pin(lock.exclusive(5..6));
        assert!(futures_util::poll!(waiting.as_mut()).is_pending());
        assert!(lock.is_wanted_alone(), "it waits");
        drop(shared);
        let held = waiting.await;
        assert!(lock.is_wanted_alone(), "it holds");
        let mut dropped = Box::pin(lock.exclusive(5..6));
        assert!(futures_util::poll!(dropped.as_mut()).is_pending());
        drop(held);
        assert!(lock.is_wanted_alone(), "the next one was given it");
        drop(dropped);
        assert!(!lock.is_wanted_alone());
    }
}
