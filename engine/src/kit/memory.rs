//! The memory budget: one arena, a reserve for those who free memory, and a bounded wait.
//!
//! Guarantees: the budget is never exceeded (the arena does not grow); [`Purpose::Data`] never
//! takes the last reserve blocks, so that writeback, commit and metadata can always go on; who
//! waits is served in order within its class, waits at most [`MEMORY_WAIT`], and then hears why.
//!
//! Does not choose what is dropped: a [`Reclaimer`] is injected and called without waiting. Called
//! by everything that needs bytes.

use std::sync::Arc;
use std::sync::Weak;
use std::time::Duration;

use foliant_device::Arena;
use foliant_device::Buffer;

use crate::error::Error;
use crate::error::ErrorKind;
use crate::error::Result;
use crate::kit::fault::Fault;
use crate::kit::fault::has_fault;
use crate::kit::sync::AsyncMutex;
use crate::kit::sync::Mutex;
use crate::kit::sync::Notify;
use crate::kit::sync::atomic::AtomicUsize;
use crate::kit::sync::atomic::Ordering;
use crate::kit::sync::sleep;
use crate::kit::sync::timeout;
use crate::limits::MEMORY_BYTES_MIN;
use crate::limits::MEMORY_WAIT;

/// Direct reclaim frees a few blocks more than asked, so that the neighbours need not scan too.
const RECLAIM_BATCH_BLOCKS: usize = 32;
/// One reclaim scan is bounded and goes on where the last one stopped, so a waiter tries a few
/// before it sleeps.
const RECLAIM_ROUNDS: usize = 4;
/// A folio that became clean wakes nobody here; a waiter looks again this often. Only somebody who
/// found no memory at all pays for it.
const RETRY: Duration = Duration::from_millis(10);

/// Drops what can be dropped at once. Must not wait and must not do I/O: it runs inside allocation,
/// under whatever async locks the caller holds.
pub trait Reclaimer: Send + Sync {
    /// Tries to free `blocks` blocks; returns how many it freed (maybe more, maybe 0).
    fn reclaim(&self, blocks: usize) -> usize;

    /// The same with memory that was taken on speculation, and only for somebody who waits. What is
    /// given up may come back a little later: a device can still be writing into it.
    fn give_up_speculation(&self, blocks: usize) -> usize;
}

/// What memory is for, which decides how deep an allocation may dig.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Folios and copies for callers: leaves the reserve alone.
    Data,
    /// Metadata, journal, writeback, commit: may use the reserve, because it ends in freeing.
    Reserved,
}

/// A handle to the engine's memory; clones are the same budget.
#[derive(Clone)]
pub struct Memory {
    inner: Arc<Inner>,
}

impl std::fmt::Debug for Memory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (free, all) = (self.free_blocks(), self.capacity_blocks());
        write!(f, "Memory({free} of {all} blocks free)")
    }
}

struct Inner {
    arena: Arena,
    reserve_blocks: usize,
    low_blocks: usize,
    high_blocks: usize,
    /// Makes "look at the free count, then take" one step among the takers that must respect the
    /// reserve. Plain mutex: two list operations, never held across a wait.
    data_gate: Mutex<()>,
    /// Set once at assembly, read only when memory is short; a plain mutex is enough.
    reclaimer: Mutex<Option<Weak<dyn Reclaimer>>>,
    /// One queue per class, so that a reserved request never stands behind a data request, nor a
    /// single block behind a large region. Tokio's mutex is held across the wait and is fair.
    queues: [Queue; 4],
    /// The arena wakes one waiter per region; the woken one tells the heads of the other queues.
    passed_on: Notify,
    bell: Notify,
}

#[derive(Default)]
struct Queue {
    turn: AsyncMutex<()>,
    waiting: AtomicUsize,
}

/// Counts a waiter for as long as it waits, also when its future is dropped.
struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    fn new(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Memory {
    /// Sets up a budget of `budget_bytes`: 15/16 of it become the arena, the rest is for indexes
    /// and folio heads.
    ///
    /// Errors: `InvalidInput` under [`MEMORY_BYTES_MIN`], and when the arena cannot be mapped.
    pub fn new(budget_bytes: u64) -> Result<Self> {
        if budget_bytes < MEMORY_BYTES_MIN {
            return Err(Error::invalid(format!(
                "a memory budget of {budget_bytes} bytes is under the smallest, {MEMORY_BYTES_MIN}"
            )));
        }
        let bytes = usize::try_from(budget_bytes / 16 * 15)
            .map_err(|_| Error::invalid("the memory budget exceeds the address space"))?;
        Ok(Self::over(Arena::new(bytes)?))
    }

    /// A budget over an arena of any size; [`Memory::new`] is the way to one that an engine can use.
    pub fn over(arena: Arena) -> Self {
        let capacity = arena.capacity_blocks();
        let reserve_blocks = (capacity / 16).min(4096);
        Self {
            inner: Arc::new(Inner {
                arena,
                reserve_blocks,
                low_blocks: reserve_blocks + (capacity / 64).min(4096),
                high_blocks: reserve_blocks + (capacity / 32).min(8192),
                data_gate: Mutex::new(()),
                reclaimer: Mutex::new(None),
                queues: Default::default(),
                passed_on: Notify::new(),
                bell: Notify::new(),
            }),
        }
    }

    /// The arena, for registration with a device.
    pub fn arena(&self) -> &Arena {
        &self.inner.arena
    }

    /// Whom to ask to drop something; held weakly, because the reclaimer holds this memory.
    pub fn set_reclaimer(&self, reclaimer: Weak<dyn Reclaimer>) {
        *self.inner.reclaimer.lock() = Some(reclaimer);
    }

    /// A buffer of 2^order blocks; its bytes are arbitrary. Waits in line, at most [`MEMORY_WAIT`].
    ///
    /// Call it before anything is accepted. Errors: `OutOfMemory`, naming what was asked and how
    /// full the budget is. Dropping the future gives up the place in line and leaks nothing.
    pub async fn allocate(&self, order: u8, purpose: Purpose) -> Result<Buffer> {
        let queue = self.queue(order, purpose);
        if queue.waiting.load(Ordering::Relaxed) == 0
            && let Some(buffer) = self.try_allocate(order, purpose)
        {
            return Ok(buffer);
        }
        let _waiting = Waiting::new(&queue.waiting);
        match timeout(MEMORY_WAIT, self.wait_in_line(queue, order, purpose)).await {
            Ok(buffer) => Ok(buffer),
            Err(_) => Err(self.exhausted(order, purpose)),
        }
    }

    /// The same without waiting, with one attempt at direct reclaim.
    pub fn try_allocate(&self, order: u8, purpose: Purpose) -> Option<Buffer> {
        self.take(order, purpose).or_else(|| self.reclaim_and_take(order, purpose, 1))
    }

    /// A buffer of up to 2^order blocks, without waiting: of the largest order that is free at
    /// once; for a single block nothing is free, one attempt at direct reclaim. Large pieces are
    /// never reclaimed for: what is dropped for them would rarely lie side by side.
    pub fn try_largest(&self, order: u8, purpose: Purpose) -> Option<Buffer> {
        let free = (1..=order).rev().find_map(|order| self.take(order, purpose));
        free.or_else(|| self.try_allocate(0, purpose))
    }

    /// Whether `blocks` can be taken without coming under the low watermark and without anybody waiting;
    /// reclaims what is missing, once and without waiting. For who takes memory on speculation.
    pub fn make_room(&self, blocks: usize) -> bool {
        if self.is_waited_for() {
            return false;
        }
        let missing = || (self.inner.low_blocks + blocks).saturating_sub(self.free_blocks());
        let reclaimer = self.inner.reclaimer.lock().clone();
        if missing() > 0
            && let Some(reclaimer) = reclaimer.and_then(|weak| weak.upgrade())
        {
            reclaimer.reclaim(missing().max(RECLAIM_BATCH_BLOCKS));
        }
        missing() == 0
    }

    /// A buffer of exactly 2^order blocks if one is free at once; a single block is reclaimed for.
    pub fn try_at_once(&self, order: u8, purpose: Purpose) -> Option<Buffer> {
        if order == 0 { self.try_allocate(0, purpose) } else { self.take(order, purpose) }
    }

    /// All blocks of the arena.
    pub fn capacity_blocks(&self) -> usize {
        self.inner.arena.capacity_blocks()
    }

    /// Blocks that nobody holds.
    pub fn free_blocks(&self) -> usize {
        self.inner.arena.free_blocks()
    }

    #[cfg(test)]
    /// Blocks that [`Purpose::Data`] leaves alone.
    pub fn reserve_blocks(&self) -> usize {
        self.inner.reserve_blocks
    }

    /// Rung when memory is low. For one listener, the background reclaimer; a ring while nobody
    /// listens is kept.
    pub fn bell(&self) -> &Notify {
        &self.inner.bell
    }

    /// Whether free memory is under the low watermark.
    pub fn low(&self) -> bool {
        self.free_blocks() < self.inner.low_blocks
    }

    /// Blocks missing to the high watermark, where background reclaim stops.
    pub fn shortfall(&self) -> usize {
        self.inner.high_blocks.saturating_sub(self.free_blocks())
    }

    /// Whether somebody waits in line. Much may be free meanwhile: what lies between the free blocks
    /// can be dirty or journaled, so that no large region comes about before it is written.
    pub fn is_waited_for(&self) -> bool {
        self.inner.queues.iter().any(|queue| queue.waiting.load(Ordering::Relaxed) > 0)
    }

    fn queue(&self, order: u8, purpose: Purpose) -> &Queue {
        let class = usize::from(purpose == Purpose::Reserved) * 2 + usize::from(order > 0);
        &self.inner.queues[class]
    }

    fn take(&self, order: u8, purpose: Purpose) -> Option<Buffer> {
        let inner = &*self.inner;
        match purpose {
            Purpose::Reserved => inner.arena.allocate(order),
            Purpose::Data => {
                let _one_at_a_time = inner.data_gate.lock();
                let left = inner.arena.free_blocks().checked_sub(1 << order);
                if left.is_some_and(|left| left < inner.low_blocks) {
                    inner.bell.notify_one();
                }
                left.filter(|&left| left >= inner.reserve_blocks)
                    .and_then(|_| inner.arena.allocate(order))
            }
        }
    }

    fn reclaim_and_take(&self, order: u8, purpose: Purpose, rounds: usize) -> Option<Buffer> {
        self.inner.bell.notify_one();
        let reclaimer = self.inner.reclaimer.lock().clone()?.upgrade()?;
        for _ in 0..rounds {
            reclaimer.reclaim(RECLAIM_BATCH_BLOCKS.max(1 << order));
            if let Some(buffer) = self.take(order, purpose) {
                return Some(buffer);
            }
        }
        None
    }

    /// Nothing else is left: whoever bets on the future waits less than this.
    fn end_speculation_and_take(&self, order: u8, purpose: Purpose) -> Option<Buffer> {
        let reclaimer = self.inner.reclaimer.lock().clone()?.upgrade()?;
        match reclaimer.give_up_speculation(RECLAIM_BATCH_BLOCKS.max(1 << order)) {
            0 => None,
            _ => self.take(order, purpose),
        }
    }

    /// Waits for its turn, then for memory. Only the head of a queue listens for freed memory.
    async fn wait_in_line(&self, queue: &Queue, order: u8, purpose: Purpose) -> Buffer {
        let _turn = queue.turn.lock().await;
        loop {
            let mut freed = std::pin::pin!(self.inner.arena.freed().notified());
            let mut told = std::pin::pin!(self.inner.passed_on.notified());
            freed.as_mut().enable();
            told.as_mut().enable();
            let got = self
                .take(order, purpose)
                .or_else(|| self.reclaim_and_take(order, purpose, RECLAIM_ROUNDS))
                .or_else(|| self.end_speculation_and_take(order, purpose));
            if has_fault(Fault::ListenLate) {
                told.set(self.inner.passed_on.notified());
            }
            if let Some(buffer) = got {
                // What was freed may be more than was taken: let the next head look, too.
                self.inner.passed_on.notify_waiters();
                return buffer;
            }
            tokio::select! {
                biased;
                () = freed => self.inner.passed_on.notify_waiters(),
                () = told => {}
                () = sleep(RETRY) => {}
            }
        }
    }

    fn exhausted(&self, order: u8, purpose: Purpose) -> Error {
        let message = format!(
            "waiting {} s for {} blocks of memory ({purpose:?}): {} of {} blocks free, {} kept in reserve",
            MEMORY_WAIT.as_secs(),
            1u32 << order,
            self.free_blocks(),
            self.capacity_blocks(),
            self.inner.reserve_blocks
        );
        Error::new(ErrorKind::OutOfMemory, message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn memory() -> Memory {
        Memory::new(MEMORY_BYTES_MIN).unwrap()
    }

    fn take_all(memory: &Memory, purpose: Purpose) -> Vec<Buffer> {
        std::iter::from_fn(|| memory.try_allocate(0, purpose)).collect()
    }

    #[test]
    fn a_budget_under_the_smallest_is_refused() {
        let error = Memory::new(MEMORY_BYTES_MIN - 1).err().unwrap();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
    }

    #[test]
    fn data_leaves_the_reserve_to_the_reserved() {
        let memory = memory();
        let data = take_all(&memory, Purpose::Data);
        assert!(memory.reserve_blocks() > 0);
        assert_eq!(memory.free_blocks(), memory.reserve_blocks());
        assert!(memory.low());
        let reserved = take_all(&memory, Purpose::Reserved);
        assert_eq!(reserved.len(), memory.reserve_blocks());
        assert_eq!(memory.free_blocks(), 0);
        drop((data, reserved));
        assert_eq!(memory.free_blocks(), memory.capacity_blocks());
        assert_eq!(memory.shortfall(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_gets_memory_when_it_is_freed_in_the_order_of_asking() {
        let memory = memory();
        let mut held = take_all(&memory, Purpose::Data);
        let order = Arc::new(Mutex::new(Vec::new()));
        let tasks: Vec<_> = (0..3)
            .map(|n| {
                let (memory, order) = (memory.clone(), order.clone());
                tokio::spawn(async move {
                    let buffer = memory.allocate(0, Purpose::Data).await.unwrap();
                    order.lock().push(n);
                    buffer
                })
            })
            .collect();
        tokio::task::yield_now().await;
        assert!(order.lock().is_empty());
        held.truncate(held.len() - 3);
        for task in tasks {
            drop(task.await.unwrap());
        }
        assert_eq!(*order.lock(), [0, 1, 2]);
        drop(held);
        assert_eq!(memory.free_blocks(), memory.capacity_blocks());
    }

    #[tokio::test(start_paused = true)]
    async fn a_wait_for_memory_ends_with_a_named_error() {
        let memory = memory();
        let _held = take_all(&memory, Purpose::Data);
        let start = tokio::time::Instant::now();
        assert!(!memory.is_waited_for());
        let wait = memory.allocate(0, Purpose::Data);
        let looks = async {
            tokio::task::yield_now().await;
            memory.is_waited_for()
        };
        let (error, is_waited_for) = tokio::join!(wait, looks);
        let error = error.unwrap_err();
        assert!(is_waited_for && !memory.is_waited_for());
        assert_eq!(error.kind(), ErrorKind::OutOfMemory);
        assert!(error.to_string().contains("Data"), "{error}");
        assert!(start.elapsed() >= MEMORY_WAIT && start.elapsed() < 2 * MEMORY_WAIT);
        assert!(error.is_retryable());
        assert_eq!(memory.inner.queues[0].waiting.load(Ordering::Relaxed), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_reserved_request_does_not_stand_behind_data_requests() {
        let memory = memory();
        let mut held = take_all(&memory, Purpose::Data);
        held.extend(take_all(&memory, Purpose::Reserved));
        let stuck = {
            let memory = memory.clone();
            tokio::spawn(async move { memory.allocate(0, Purpose::Data).await })
        };
        let served = {
            let memory = memory.clone();
            tokio::spawn(async move { memory.allocate(0, Purpose::Reserved).await })
        };
        tokio::task::yield_now().await;
        held.pop();
        let got = served.await.unwrap();
        assert!(got.is_ok() && !stuck.is_finished());
        stuck.abort();
    }

    /// Gives one block back per call, as long as it has some.
    struct Stock(Mutex<Vec<Buffer>>);

    impl Reclaimer for Stock {
        fn reclaim(&self, _blocks: usize) -> usize {
            usize::from(self.0.lock().pop().is_some())
        }

        fn give_up_speculation(&self, _blocks: usize) -> usize {
            0
        }
    }

    /// Has only what was taken on speculation.
    struct Bets(Mutex<Vec<Buffer>>);

    impl Reclaimer for Bets {
        fn reclaim(&self, _blocks: usize) -> usize {
            0
        }

        fn give_up_speculation(&self, blocks: usize) -> usize {
            let mut bets = self.0.lock();
            let kept = bets.len().saturating_sub(blocks);
            bets.drain(kept..).count()
        }
    }

    /// In the smallest budget read-ahead held a quarter of the memory and dirty folios the rest. The
    /// pass of writeback that would have freed those waited for a folio whose writer waited for memory, and
    /// read-ahead aged only between passes: the wait ran out, with memory full of guesses.
    #[tokio::test(start_paused = true)]
    async fn speculation_ends_for_who_waits_and_for_nobody_else() {
        let memory = memory();
        let mut bets = take_all(&memory, Purpose::Data);
        let held = bets.split_off(bets.len() / 2);
        let bets = Arc::new(Bets(Mutex::new(bets)));
        let weak: Weak<Bets> = Arc::downgrade(&bets);
        memory.set_reclaimer(weak);
        let before = bets.0.lock().len();
        assert!(memory.try_allocate(0, Purpose::Data).is_none());
        assert!(!memory.make_room(1));
        assert_eq!(bets.0.lock().len(), before, "nobody waited");
        let start = tokio::time::Instant::now();
        let one = memory.allocate(0, Purpose::Data).await.unwrap();
        assert_eq!(start.elapsed(), Duration::ZERO);
        assert_eq!(bets.0.lock().len(), before - RECLAIM_BATCH_BLOCKS);
        drop((held, one));
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_bets_while_somebody_waits() {
        let memory = memory();
        let mut held = take_all(&memory, Purpose::Data);
        held.truncate(held.len() - 100);
        assert!(memory.make_room(1));
        let wait = memory.allocate(9, Purpose::Data);
        let looks = async {
            tokio::task::yield_now().await;
            assert!(!memory.make_room(1));
        };
        _ = tokio::join!(wait, looks);
        assert!(memory.make_room(1));
    }

    #[tokio::test(start_paused = true)]
    async fn direct_reclaim_comes_before_waiting_and_the_bell_rings() {
        let memory = memory();
        let stock = Arc::new(Stock(Mutex::new(take_all(&memory, Purpose::Data))));
        let weak: Weak<Stock> = Arc::downgrade(&stock);
        memory.set_reclaimer(weak);
        let before = tokio::time::Instant::now();
        let _one = memory.allocate(0, Purpose::Data).await.unwrap();
        assert_eq!(before.elapsed(), Duration::ZERO);
        memory.bell().notified().await;
        drop(stock);
        let _two = memory.allocate(0, Purpose::Data).await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn dropped_waiters_leave_the_line_working() {
        let memory = memory();
        let mut held = take_all(&memory, Purpose::Data);
        for _ in 0..3 {
            let wait = memory.allocate(0, Purpose::Data);
            assert!(timeout(RETRY * 3, wait).await.is_err());
        }
        held.pop();
        memory.allocate(0, Purpose::Data).await.unwrap();
        assert_eq!(memory.inner.queues[0].waiting.load(Ordering::Relaxed), 0);
    }
}
