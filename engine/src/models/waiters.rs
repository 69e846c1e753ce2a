//! Who waits is woken: range locks, room to dirty blocks, memory, each with waiters that give up.
//!
//! No time passes in a model, so a wake-up that is lost ends in a deadlock, which is reported.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::AtomicIsize;
use std::sync::atomic::Ordering;

use foliant_device::Buffer;
use shuttle::future::block_on;

use super::explorer::CANARY;
use super::explorer::below;
use super::explorer::dropped_within;
use super::explorer::expect_caught;
use super::explorer::explore;
use super::explorer::join;
use super::explorer::start;
use super::stage::small_memory;
use crate::folio::dirty::DirtyLimits;
use crate::iomap::testkit::give_way;
use crate::kit::fault::Fault;
use crate::kit::memory::Memory;
use crate::kit::memory::Purpose;
use crate::kit::range_lock::RangeLock;

type Cells = Arc<[AtomicIsize; 4]>;

/// Holds a range for a moment; exclusive holders are alone.
async fn hold(lock: RangeLock, cells: Cells, range: Range<u64>, exclusive: bool) {
    let _guard = match exclusive {
        true => lock.exclusive(range.clone()).await,
        false => lock.shared(range.clone()).await,
    };
    let weight = if exclusive { 100 } else { 1 };
    let own = &cells[range.start as usize..range.end as usize];
    for cell in own {
        let before = cell.fetch_add(weight, Ordering::SeqCst);
        assert!(if exclusive { before == 0 } else { before < 100 }, "not alone: {before}");
    }
    give_way().await;
    for cell in own {
        cell.fetch_sub(weight, Ordering::SeqCst);
    }
}

fn ranges() {
    block_on(async {
        let lock = RangeLock::new();
        let cells = Cells::default();
        let mut tasks = Vec::new();
        for task in 0..5 {
            let first = below(4) as u64;
            let range = first..first + 1 + below(4 - first as usize) as u64;
            let (lock, cells) = (lock.clone(), Arc::clone(&cells));
            let exclusive = below(2) == 0;
            if task < 3 {
                tasks.push(start(hold(lock, cells, range, exclusive)));
            } else {
                // Gives up while it waits; with the range in hand it goes on to the end.
                tasks.push(start(async move {
                    let wait = async { drop(lock.exclusive(range).await) };
                    dropped_within(1, wait).await;
                }));
            }
        }
        join(tasks).await;
        assert_eq!(lock.counts(), (0, 0));
    });
}

fn room_to_dirty() {
    block_on(async {
        // Three blocks may be dirty at once.
        let limits = DirtyLimits::new(8);
        assert_eq!(limits.hard_limit(), 3);
        let mut tasks = Vec::new();
        for blocks in [2, 3, 1, 7] {
            let limits = limits.clone();
            tasks.push(start(async move {
                let _admitted = limits.admit(blocks).await.unwrap();
                give_way().await;
            }));
        }
        let dropped = limits.clone();
        tasks.push(start(async move {
            let wait = async { drop(dropped.admit(2).await.unwrap()) };
            dropped_within(1, wait).await;
        }));
        join(tasks).await;
        let _all = limits.admit(3).await.unwrap();
    });
}

/// All blocks that nobody holds. Around the budget: what it does is not modelled here.
fn take_all(memory: &Memory) -> Vec<Buffer> {
    let mut all = Vec::new();
    for order in (0..10).rev() {
        all.extend(std::iter::from_fn(|| memory.arena().allocate(order)));
    }
    all
}

fn memory() {
    block_on(async {
        let memory = small_memory();
        let mut held = take_all(&memory);
        let mut tasks = Vec::new();
        for (order, purpose) in
            [(0, Purpose::Data), (1, Purpose::Data), (0, Purpose::Reserved), (0, Purpose::Data)]
        {
            let memory = memory.clone();
            tasks.push(start(async move {
                // Kept until all are served: giving it back would ring again.
                Some(memory.allocate(order, purpose).await.unwrap())
            }));
        }
        let dropped = memory.clone();
        tasks.push(start(async move {
            let wait = async { drop(dropped.allocate(0, Purpose::Data).await.unwrap()) };
            dropped_within(2, wait).await;
            None
        }));
        // One region, large enough for all: one wake-up, which must be passed on.
        let one = held.remove(0);
        tasks.push(start(async move {
            drop(one);
            None
        }));
        drop(join(tasks).await);
        drop(held);
        assert_eq!(memory.free_blocks(), memory.capacity_blocks());
    });
}

#[test]
fn a_range_that_is_free_is_given_to_who_waits() {
    explore("ranges", 16_000, ranges);
}

#[test]
fn room_to_dirty_blocks_is_given_to_who_waits() {
    explore("room to dirty", 16_000, room_to_dirty);
}

#[test]
fn memory_that_is_freed_is_given_to_who_waits() {
    explore("memory", 16_000, memory);
}

#[test]
fn canary_a_dropped_request_stays_in_line() {
    expect_caught("a dropped request stays in line", CANARY, Some(Fault::StayInLine), ranges);
}

#[test]
fn canary_a_waiter_is_counted_after_its_last_look() {
    expect_caught("a waiter counts late", CANARY, Some(Fault::CountLate), room_to_dirty);
}

#[test]
fn canary_a_waiter_listens_after_its_last_look() {
    expect_caught("a waiter listens late", CANARY, Some(Fault::ListenLate), memory);
}
