//! The table of requests: who owns the memory of each, and who waits for it.
//!
//! | state | the memory belongs to | left by |
//! |---|---|---|
//! | free | - | a new request |
//! | queued | the slot | its turn, once fewer than `depth` are in flight |
//! | in flight | the kernel; the slot keeps it alive | its completion |
//! | done | the slot | the future that takes it |
//!
//! A queued or in-flight slot whose future was dropped is *orphaned*: it goes the same way, and is
//! freed instead of becoming done. Guarantees that no request is dropped while in flight: only
//! [`Slots::complete`] ends that state, and [`Slots::forget`] leaks what the kernel never gave back.
//!
//! At most `depth` requests are in flight. Queued ones wait in order of arrival; how many there
//! are is bounded by the callers (see the contract). Does no I/O. Called by `driver`.

use std::collections::VecDeque;
use std::task::Context;
use std::task::Poll;
use std::task::Waker;

use crate::error::DeviceError;
use crate::error::DeviceErrorKind;
use crate::error::Result;
use crate::uring::op::Request;
use crate::uring::op::Verdict;

/// Names a request: the slot, and which life of the slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Key {
    index: u32,
    life: u32,
}

impl Key {
    /// As the number that goes through the kernel.
    pub(crate) fn to_number(self) -> u64 {
        u64::from(self.life) << 32 | u64::from(self.index)
    }

    /// From the number that came back.
    pub(crate) fn from_number(number: u64) -> Self {
        Self { index: number as u32, life: (number >> 32) as u32 }
    }
}

#[derive(Debug)]
enum State {
    Free,
    Queued { request: Request, orphaned: bool },
    InFlight { request: Request, orphaned: bool },
    Done { request: Request, result: Result<()> },
}

#[derive(Debug)]
struct Slot {
    state: State,
    life: u32,
    waker: Option<Waker>,
}

/// What a critical section leaves to do outside of it: wakers run foreign code, and freed memory
/// wakes whoever waits for memory.
#[derive(Default)]
pub(crate) struct Harvest {
    /// Those whose request is done.
    pub(crate) wakers: Vec<Waker>,
    /// Requests that nobody waits for.
    pub(crate) orphans: Vec<Request>,
    /// Completions seen.
    pub(crate) completions: usize,
    /// Requests that ended with an error.
    pub(crate) errors: usize,
}

impl Harvest {
    /// Drops the orphans and wakes the waiters. Returns how many completions there were.
    pub(crate) fn bring_in(&mut self) -> usize {
        self.orphans.clear();
        self.wakers.drain(..).for_each(Waker::wake);
        self.errors = 0;
        std::mem::take(&mut self.completions)
    }
}

/// All requests of one device.
#[derive(Debug)]
pub(crate) struct Slots {
    slots: Vec<Slot>,
    free: Vec<u32>,
    queue: VecDeque<u32>,
    in_flight: u32,
    depth: u32,
    /// Set once no request is accepted any more, with the reason.
    closed: Option<&'static str>,
    /// The driver task sleeps and must be rung for new work.
    pub(crate) driver_sleeps: bool,
}

impl Slots {
    /// An empty table that lets `depth` requests be in flight.
    pub(crate) fn new(depth: u32) -> Self {
        assert!(depth > 0, "a table without slots serves nobody");
        Self {
            slots: Vec::with_capacity(depth as usize),
            free: Vec::with_capacity(depth as usize),
            queue: VecDeque::with_capacity(depth as usize),
            in_flight: 0,
            depth,
            closed: None,
            driver_sleeps: false,
        }
    }

    /// Queues a request. A closed table returns it with the reason.
    pub(crate) fn insert(
        &mut self,
        request: Request,
    ) -> std::result::Result<Key, Box<(Request, DeviceError)>> {
        if let Some(reason) = self.closed {
            let error = request.error(DeviceErrorKind::Gone, reason);
            return Err(Box::new((request, error)));
        }
        let index = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot { state: State::Free, life: 0, waker: None });
            (self.slots.len() - 1) as u32
        });
        let slot = &mut self.slots[index as usize];
        assert!(matches!(slot.state, State::Free), "a free slot is in use");
        slot.state = State::Queued { request, orphaned: false };
        self.queue.push_back(index);
        Ok(Key { index, life: slot.life })
    }

    /// Whether a queued request may go.
    pub(crate) fn has_work(&self) -> bool {
        !self.queue.is_empty() && self.in_flight < self.depth
    }

    /// The next request to hand to the kernel; it counts as in flight from here on.
    pub(crate) fn next(&mut self) -> Option<(Key, &mut Request)> {
        if !self.has_work() {
            return None;
        }
        let index = self.queue.pop_front()?;
        self.in_flight += 1;
        let slot = &mut self.slots[index as usize];
        let State::Queued { request, orphaned } = std::mem::replace(&mut slot.state, State::Free)
        else {
            unreachable!("only queued slots stand in the queue")
        };
        slot.state = State::InFlight { request, orphaned };
        let State::InFlight { request, .. } = &mut slot.state else { unreachable!("just set") };
        Some((Key { index, life: slot.life }, request))
    }

    /// Takes in the kernel's result for a request in flight.
    pub(crate) fn complete(&mut self, key: Key, result: i32, granule: u64, harvest: &mut Harvest) {
        harvest.completions += 1;
        self.end_flight(key, harvest, |request| request.judge(result, granule));
    }

    /// Ends a request that the kernel never took.
    pub(crate) fn refuse(&mut self, key: Key, reason: &str, harvest: &mut Harvest) {
        self.end_flight(key, harvest, |request| {
            Verdict::Finished(Err(request.error(DeviceErrorKind::Gone, reason)))
        });
    }

    fn end_flight(
        &mut self,
        key: Key,
        harvest: &mut Harvest,
        judge: impl FnOnce(&mut Request) -> Verdict,
    ) {
        let slot = &mut self.slots[key.index as usize];
        assert_eq!(slot.life, key.life, "a completion for an earlier life of its slot");
        let State::InFlight { mut request, orphaned } =
            std::mem::replace(&mut slot.state, State::Free)
        else {
            unreachable!("a completion for a slot that is not in flight")
        };
        self.in_flight -= 1;
        match judge(&mut request) {
            Verdict::Again => {
                slot.state = State::Queued { request, orphaned };
                self.queue.push_front(key.index);
            }
            Verdict::Finished(result) => self.finish(key.index, request, orphaned, result, harvest),
        }
    }

    fn finish(
        &mut self,
        index: u32,
        request: Request,
        orphaned: bool,
        result: Result<()>,
        harvest: &mut Harvest,
    ) {
        harvest.errors += usize::from(result.is_err());
        if orphaned {
            harvest.orphans.push(request);
            self.release(index);
        } else {
            let slot = &mut self.slots[index as usize];
            slot.state = State::Done { request, result };
            harvest.wakers.extend(slot.waker.take());
        }
    }

    fn release(&mut self, index: u32) {
        let slot = &mut self.slots[index as usize];
        slot.state = State::Free;
        slot.waker = None;
        slot.life = slot.life.wrapping_add(1);
        self.free.push(index);
    }

    /// The request and its result if it is done; `None` otherwise.
    pub(crate) fn take(&mut self, key: Key) -> Option<(Request, Result<()>)> {
        let slot = &mut self.slots[key.index as usize];
        assert_eq!(slot.life, key.life, "a future outlived its slot");
        if !matches!(slot.state, State::Done { .. }) {
            return None;
        }
        let State::Done { request, result } = std::mem::replace(&mut slot.state, State::Free)
        else {
            unreachable!("just looked")
        };
        self.release(key.index);
        Some((request, result))
    }

    /// Like [`Slots::take`], and otherwise remembers whom to wake.
    pub(crate) fn poll(
        &mut self,
        key: Key,
        context: &mut Context<'_>,
    ) -> Poll<(Request, Result<()>)> {
        if let Some(done) = self.take(key) {
            return Poll::Ready(done);
        }
        let waker = &mut self.slots[key.index as usize].waker;
        match waker {
            Some(known) => known.clone_from(context.waker()),
            None => *waker = Some(context.waker().clone()),
        }
        Poll::Pending
    }

    /// Its future is gone. Returns the request if it was done, to be dropped outside of the lock.
    pub(crate) fn orphan(&mut self, key: Key) -> Option<Request> {
        if let Some((request, _)) = self.take(key) {
            return Some(request);
        }
        let slot = &mut self.slots[key.index as usize];
        slot.waker = None;
        match &mut slot.state {
            State::Queued { orphaned, .. } | State::InFlight { orphaned, .. } => *orphaned = true,
            State::Free | State::Done { .. } => unreachable!("a future's slot is in use"),
        }
        None
    }

    /// Refuses new requests from here on; the first reason stays.
    pub(crate) fn close(&mut self, reason: &'static str) {
        self.closed.get_or_insert(reason);
    }

    /// Whether new requests are refused.
    pub(crate) fn is_closed(&self) -> bool {
        self.closed.is_some()
    }

    /// Ends every queued request with `Gone`.
    pub(crate) fn refuse_queued(&mut self, reason: &str, harvest: &mut Harvest) {
        while let Some(index) = self.queue.pop_front() {
            let slot = &mut self.slots[index as usize];
            let State::Queued { request, orphaned } =
                std::mem::replace(&mut slot.state, State::Free)
            else {
                unreachable!("only queued slots stand in the queue")
            };
            let error = request.error(DeviceErrorKind::Gone, reason);
            self.finish(index, request, orphaned, Err(error), harvest);
        }
    }

    /// Requests that the kernel holds.
    pub(crate) fn in_flight(&self) -> usize {
        self.in_flight as usize
    }

    /// Requests that wait for their turn.
    pub(crate) fn queued(&self) -> usize {
        self.queue.len()
    }

    /// Nothing is queued and nothing in flight.
    pub(crate) fn is_idle(&self) -> bool {
        self.in_flight == 0 && self.queue.is_empty()
    }

    /// Leaks the memory of every request in flight, for a kernel that may still write to it, and
    /// ends the requests. No completion may be taken in afterwards.
    pub(crate) fn forget(&mut self, reason: &str, harvest: &mut Harvest) {
        for index in 0..self.slots.len() {
            let slot = &mut self.slots[index];
            if !matches!(slot.state, State::InFlight { .. }) {
                continue;
            }
            let State::InFlight { request, orphaned } =
                std::mem::replace(&mut slot.state, State::Free)
            else {
                unreachable!("just looked")
            };
            self.in_flight -= 1;
            let error = request.error(DeviceErrorKind::Io, reason);
            let hollow = request.hollow();
            std::mem::forget(request);
            self.finish(index as u32, hollow, orphaned, Err(error), harvest);
        }
        assert_eq!(self.in_flight, 0, "the count of requests in flight is wrong");
    }
}

impl Drop for Slots {
    /// The driver waits for all requests before it lets go of the table; should it not have been
    /// able to, memory that the kernel may still use must never be freed.
    fn drop(&mut self) {
        if self.in_flight > 0 {
            self.forget("dropped while in flight", &mut Harvest::default());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::buffer::Arena;
    use crate::geometry::BLOCK_SIZE;
    use crate::uring::op::Work;

    fn reader(arena: &Arena) -> Request {
        let buffer = arena.allocate(0).unwrap();
        Request::new(Work::Read(vec![buffer]), 0, BLOCK_SIZE as u64)
    }

    fn fly(slots: &mut Slots) -> Option<Key> {
        slots.next().map(|(key, _)| key)
    }

    #[test]
    fn the_depth_bounds_what_is_in_flight_and_the_rest_goes_in_order() {
        let mut slots = Slots::new(2);
        let keys: Vec<Key> =
            (0..5).map(|_| slots.insert(Request::new(Work::Flush, 0, 0)).unwrap()).collect();
        assert_eq!(fly(&mut slots), Some(keys[0]));
        assert_eq!(fly(&mut slots), Some(keys[1]));
        assert_eq!(fly(&mut slots), None);
        let mut harvest = Harvest::default();
        slots.complete(keys[1], 0, 512, &mut harvest);
        assert_eq!(fly(&mut slots), Some(keys[2]));
        assert_eq!((slots.in_flight(), slots.queued()), (2, 2));
        assert!(slots.take(keys[0]).is_none());
        assert!(slots.take(keys[1]).unwrap().1.is_ok());
    }

    #[test]
    fn memory_in_flight_outlives_its_future() {
        let arena = Arena::new(4 * BLOCK_SIZE).unwrap();
        let mut slots = Slots::new(4);
        let key = slots.insert(reader(&arena)).unwrap();
        slots.next().unwrap().1.set_asked_for_tests(BLOCK_SIZE as u64);
        assert!(slots.orphan(key).is_none());
        assert_eq!(arena.free_blocks(), 3);
        let mut harvest = Harvest::default();
        slots.complete(key, BLOCK_SIZE as i32, 512, &mut harvest);
        assert_eq!(harvest.orphans.len(), 1);
        assert_eq!(harvest.bring_in(), 1);
        assert_eq!(arena.free_blocks(), 4);
        let next = slots.insert(reader(&arena)).unwrap();
        assert_eq!(next.index, key.index);
        assert_ne!(next.to_number(), key.to_number(), "a late completion would be taken for ours");
        assert_eq!(Key::from_number(next.to_number()), next);
    }

    #[test]
    fn an_orphan_that_waits_is_still_done() {
        let arena = Arena::new(4 * BLOCK_SIZE).unwrap();
        let mut slots = Slots::new(4);
        let key = slots.insert(reader(&arena)).unwrap();
        assert!(slots.orphan(key).is_none());
        assert_eq!(fly(&mut slots), Some(key));
    }

    #[test]
    fn memory_that_the_kernel_never_gave_back_is_leaked_not_freed() {
        let arena = Arena::new(4 * BLOCK_SIZE).unwrap();
        let mut slots = Slots::new(4);
        slots.insert(reader(&arena)).unwrap();
        fly(&mut slots).unwrap();
        slots.insert(reader(&arena)).unwrap();
        drop(slots);
        assert_eq!(arena.free_blocks(), 3, "the queued one is freed, the one in flight is not");
    }

    #[test]
    fn a_short_transfer_goes_to_the_front_of_the_queue() {
        let arena = Arena::new(4 * BLOCK_SIZE).unwrap();
        let mut slots = Slots::new(1);
        let key = slots.insert(reader(&arena)).unwrap();
        slots.insert(Request::new(Work::Flush, 0, 0)).unwrap();
        let (_, request) = slots.next().unwrap();
        request.set_asked_for_tests(BLOCK_SIZE as u64);
        slots.complete(key, 512, 512, &mut Harvest::default());
        assert_eq!(fly(&mut slots), Some(key));
    }

    #[test]
    fn a_closed_table_refuses_and_ends_what_waits() {
        let mut slots = Slots::new(1);
        let key = slots.insert(Request::new(Work::Flush, 0, 0)).unwrap();
        slots.close("closed");
        slots.close("closed twice");
        let (_, error) = *slots.insert(Request::new(Work::Flush, 0, 0)).unwrap_err();
        assert_eq!((error.kind, &error.detail[..]), (DeviceErrorKind::Gone, "closed"));
        slots.refuse_queued("closed", &mut Harvest::default());
        assert_eq!(slots.take(key).unwrap().1.unwrap_err().kind, DeviceErrorKind::Gone);
        assert!(slots.is_idle());
    }
}
