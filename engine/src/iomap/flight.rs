//! Read-ahead on its way: device reads that were started for blocks that nobody has asked for yet.
//!
//! Guarantees: a bounded number of flights per object, each found by the blocks that it carries; the
//! oldest makes room, and goes first when somebody waits for memory; those that no reader came for age
//! and are dropped.
//!
//! Does not start or end them (`launch` does). Called by `launch` and `bundle`.

use std::future::Future;
use std::pin::Pin;

use foliant_device::Buffer;

use crate::error::Result;
use crate::iomap::contract::Cookie;
use crate::kit::sync::Mutex;
use crate::kit::sync::atomic::AtomicU64;
use crate::kit::sync::atomic::Ordering;
use crate::limits::FLIGHTS_MAX;
use crate::units::FileBlocks;

/// A started device read.
pub(super) type Request = Pin<Box<dyn Future<Output = (Vec<Buffer>, Result<()>)> + Send>>;

/// One device read of a flight.
pub(super) struct Leg {
    pub blocks: FileBlocks,
    /// Of each block, if they are kept.
    pub checksums: Option<Vec<u32>>,
    pub request: Request,
}

/// Device reads that were started together.
pub(super) struct Flight {
    pub blocks: FileBlocks,
    /// Sampled over `sampled` before anybody looked whether the blocks are cached: a change from then
    /// on shows here, and what was changed before and is not home yet is in the cache.
    pub cookie: Cookie,
    pub sampled: FileBlocks,
    pub legs: Vec<Leg>,
    /// Ticks of the flusher that it has seen.
    pub age: u32,
    /// The number that [`Flights::add`] gave it.
    pub serial: u64,
}

impl Flight {
    fn carries(&self, block: u64) -> bool {
        self.blocks.start <= block && block < self.blocks.end
    }
}

/// A flight that was not reached while this many others were started has lost its reader. A reader that
/// keeps going reaches its own behind a few.
const LOST_AFTER: u64 = 16;

/// The flights of one object.
#[derive(Default)]
pub(super) struct Flights {
    /// Pushes and removals in a list of at most [`FLIGHTS_MAX`]; never held across an await.
    list: Mutex<Vec<Flight>>,
    started: AtomicU64,
}

impl Flights {
    /// The first part of `blocks` that none of them carries.
    pub fn without(&self, mut blocks: FileBlocks) -> FileBlocks {
        let list = self.list.lock();
        for flight in list.iter() {
            let common = flight.blocks.intersect(blocks);
            match common.start == blocks.start {
                _ if common.is_empty() => {}
                true => blocks.start = common.end,
                false => blocks.end = common.start,
            }
        }
        blocks
    }

    /// Takes out the flight that carries `block`.
    pub fn take(&self, block: u64) -> Option<Flight> {
        let mut list = self.list.lock();
        let at = list.iter().position(|flight| flight.carries(block))?;
        Some(list.remove(at))
    }

    /// Adds a flight; the oldest makes room.
    pub fn add(&self, mut flight: Flight) {
        flight.serial = self.started.fetch_add(1, Ordering::Relaxed);
        let mut list = self.list.lock();
        let dropped = (list.len() >= FLIGHTS_MAX).then(|| list.remove(0));
        list.push(flight);
        drop(list);
        drop(dropped);
    }

    /// How many of `blocks` more can be on their way beside them, if all of them are `most` at most; those
    /// that have lost their readers go.
    pub fn room(&self, blocks: u64, most: u64) -> u64 {
        let mut lost = Vec::new();
        let mut list = self.list.lock();
        loop {
            let lent: u64 = list.iter().map(|flight| flight.blocks.len()).sum();
            let room = most.saturating_sub(lent);
            let started = self.started.load(Ordering::Relaxed);
            let is_lost = |flight: &Flight| flight.serial + LOST_AFTER <= started;
            if room >= blocks || !list.first().is_some_and(is_lost) {
                return room.min(blocks);
            }
            lost.push(list.remove(0));
        }
    }

    /// Drops the oldest until `blocks` are given up, or none is left; how many were.
    pub fn give_up(&self, blocks: u64) -> u64 {
        let mut given = Vec::new();
        let mut freed = 0;
        let mut list = self.list.lock();
        while freed < blocks && !list.is_empty() {
            let flight = list.remove(0);
            freed += flight.blocks.len();
            given.push(flight);
        }
        freed
    }

    /// Drops those that have been on their way for `ticks` calls of this.
    pub fn drop_old(&self, ticks: u32) {
        let mut old = Vec::new();
        let mut list = self.list.lock();
        for flight in std::mem::take(&mut *list) {
            let side = if flight.age >= ticks { &mut old } else { &mut *list };
            side.push(Flight { age: flight.age + 1, ..flight });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flight(start: u64, blocks: u64) -> Flight {
        let blocks = FileBlocks::new(start, start + blocks);
        let cookie = Cookie::default();
        Flight { blocks, cookie, sampled: blocks, legs: Vec::new(), age: 0, serial: 0 }
    }

    /// A reader went away with 1,536 of 1,920 blocks on their way. The windows of the next one were refused
    /// until the flusher had ticked three times: it read at a seventh of the rate.
    #[test]
    fn flights_whose_reader_went_away_make_room_for_those_of_the_next() {
        let flights = Flights::default();
        (0..3).for_each(|n| flights.add(flight(100_000 + n * 512, 512)));
        assert_eq!(flights.room(512, 1920), 384, "they may still be reached");
        for at in 0..LOST_AFTER {
            assert_eq!(flights.room(8, 1920), 8);
            flights.add(flight(at * 8, 8));
            flights.take(at * 8);
        }
        assert_eq!(flights.room(512, 1920), 512);
    }

    #[test]
    fn the_oldest_flights_are_given_up_first_and_no_more_than_are_needed() {
        let flights = Flights::default();
        (0..4).for_each(|n| flights.add(flight(n * 16, 16)));
        assert_eq!(flights.give_up(17), 32);
        assert!(flights.take(0).is_none() && flights.take(31).is_none());
        assert!(flights.take(32).is_some());
        assert_eq!(flights.give_up(100), 16);
        assert_eq!(flights.give_up(100), 0);
    }
}
