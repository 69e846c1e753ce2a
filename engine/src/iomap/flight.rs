//! Read-ahead on its way: device reads that were started for blocks that nobody has asked for yet.
//!
//! Guarantees: a bounded number of flights per object, each found by the blocks that it carries; the
//! oldest makes room, and goes first when somebody waits for memory; those that no reader came for age
//! and are dropped. A flight has one reader that lands it; who wants blocks of it meanwhile can wait for
//! that instead of reading them once more.
//!
//! Does not start or end them (`launch` does). Called by `launch` and `bundle`.

use std::future::Future;
use std::pin::Pin;

use foliant_device::Buffer;

use crate::error::Result;
use crate::iomap::contract::Cookie;
use crate::kit::sync::Mutex;
use crate::kit::sync::Notify;
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
    /// The number that [`Flights::start`] gave it.
    pub serial: u64,
}

/// What carries a block.
pub(super) enum Carrier<'a> {
    /// Nothing does.
    None,
    /// A flight that was on its way, and is the caller's to land.
    Own(Flight, Landing<'a>),
    /// A flight that somebody is starting or landing.
    Other,
}

/// A flight that somebody is starting or landing; it counts as that until this is dropped.
pub(super) struct Landing<'a> {
    flights: &'a Flights,
    /// Of the flight.
    serial: u64,
    /// Its own: who starts a flight and who lands it are two, and may be there at the same time.
    ticket: u64,
}

impl Drop for Landing<'_> {
    fn drop(&mut self) {
        let mut list = self.flights.list.lock();
        list.landing.retain(|&(ticket, _)| ticket != self.ticket);
        drop(list);
        self.flights.landed.notify_waiters();
    }
}

fn holds(blocks: FileBlocks, block: u64) -> bool {
    blocks.start <= block && block < blocks.end
}

/// A flight that was not reached while this many others were started has lost its reader. A reader that
/// keeps going reaches its own behind a few.
const LOST_AFTER: u64 = 16;

/// The flights of one object.
#[derive(Default)]
pub(super) struct Flights {
    /// Pushes and removals in lists of at most [`FLIGHTS_MAX`]; never held across an await.
    list: Mutex<List>,
    started: AtomicU64,
    /// A landing ended. One for all of them: whoever waits looks again.
    landed: Notify,
}

#[derive(Default)]
struct List {
    waiting: Vec<Flight>,
    /// Tickets and blocks of those that are being started or landed. Each has a reader, who has one of either kind
    /// at most.
    landing: Vec<(u64, FileBlocks)>,
    tickets: u64,
}

impl Flights {
    /// The first part of `blocks` that none of them carries.
    pub fn without(&self, mut blocks: FileBlocks) -> FileBlocks {
        let list = self.list.lock();
        let waiting = list.waiting.iter().map(|flight| flight.blocks);
        for carried in waiting.chain(list.landing.iter().map(|&(_, blocks)| blocks)) {
            let common = carried.intersect(blocks);
            match common.start == blocks.start {
                _ if common.is_empty() => {}
                true => blocks.start = common.end,
                false => blocks.end = common.start,
            }
        }
        blocks
    }

    /// What carries `block`; a flight that waited is the caller's from now on.
    pub fn take(&self, block: u64) -> Carrier<'_> {
        let mut list = self.list.lock();
        if let Some(at) = list.waiting.iter().position(|flight| holds(flight.blocks, block)) {
            let flight = list.waiting.remove(at);
            let (serial, ticket) = (flight.serial, list.land(flight.blocks));
            return Carrier::Own(flight, Landing { flights: self, serial, ticket });
        }
        match list.is_landing(block) {
            true => Carrier::Other,
            false => Carrier::None,
        }
    }

    /// Claims `blocks` for a flight that is about to be added, so that nobody else starts reads of them.
    pub fn start(&self, blocks: FileBlocks) -> Landing<'_> {
        let serial = self.started.fetch_add(1, Ordering::Relaxed);
        let ticket = self.list.lock().land(blocks);
        Landing { flights: self, serial, ticket }
    }

    /// Waits until nobody is starting or landing `block`. Whether it came is another question. The caller
    /// holds nothing that a landing needs, and does not wait for ever: who lands may not be polled any more.
    /// Dropping the future has no effect.
    pub async fn landed(&self, block: u64) {
        loop {
            let mut landed = std::pin::pin!(self.landed.notified());
            landed.as_mut().enable();
            if !self.list.lock().is_landing(block) {
                return;
            }
            landed.await;
        }
    }

    /// Adds a flight that was `started`; the oldest makes room.
    pub fn add(&self, mut flight: Flight, started: Landing<'_>) {
        flight.serial = started.serial;
        let mut list = self.list.lock();
        let dropped = (list.waiting.len() >= FLIGHTS_MAX).then(|| list.waiting.remove(0));
        list.waiting.push(flight);
        drop(list);
        drop((dropped, started));
    }

    /// How many of `blocks` more can be on their way beside them, if all of them are `most` at most; those
    /// that have lost their readers go.
    pub fn room(&self, blocks: u64, most: u64) -> u64 {
        let mut lost = Vec::new();
        let waiting = &mut self.list.lock().waiting;
        loop {
            let lent: u64 = waiting.iter().map(|flight| flight.blocks.len()).sum();
            let room = most.saturating_sub(lent);
            let started = self.started.load(Ordering::Relaxed);
            let is_lost = |flight: &Flight| flight.serial + LOST_AFTER <= started;
            if room >= blocks || !waiting.first().is_some_and(is_lost) {
                return room.min(blocks);
            }
            lost.push(waiting.remove(0));
        }
    }

    /// Drops the oldest until `blocks` are given up, or none is left; how many were.
    pub fn give_up(&self, blocks: u64) -> u64 {
        let mut given = Vec::new();
        let mut freed = 0;
        let waiting = &mut self.list.lock().waiting;
        while freed < blocks && !waiting.is_empty() {
            let flight = waiting.remove(0);
            freed += flight.blocks.len();
            given.push(flight);
        }
        freed
    }

    /// Drops those that have been on their way for `ticks` calls of this.
    pub fn drop_old(&self, ticks: u32) {
        let mut old = Vec::new();
        let waiting = &mut self.list.lock().waiting;
        for flight in std::mem::take(waiting) {
            let side = if flight.age >= ticks { &mut old } else { &mut *waiting };
            side.push(Flight { age: flight.age + 1, ..flight });
        }
    }
}

impl List {
    fn land(&mut self, blocks: FileBlocks) -> u64 {
        self.tickets += 1;
        self.landing.push((self.tickets, blocks));
        self.tickets
    }

    fn is_landing(&self, block: u64) -> bool {
        self.landing.iter().any(|&(_, blocks)| holds(blocks, block))
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

    fn add(flights: &Flights, flight: Flight) {
        let started = flights.start(flight.blocks);
        flights.add(flight, started);
    }

    fn is_own(carrier: Carrier<'_>) -> bool {
        matches!(carrier, Carrier::Own(..))
    }

    /// Many requests of one stream at once read most of it twice: the first one took the flight, and the
    /// others found neither that nor what it had not brought yet.
    #[tokio::test]
    async fn a_flight_that_is_being_landed_is_waited_for_and_not_started_again() {
        let flights = Flights::default();
        let started = flights.start(FileBlocks::new(64, 128));
        assert!(matches!(flights.take(64), Carrier::Other), "somebody starts it");
        flights.add(flight(64, 64), started);
        let Carrier::Own(_, landing) = flights.take(70) else { panic!("nobody has it yet") };
        assert!(matches!(flights.take(64), Carrier::Other), "somebody has it");
        assert!(matches!(flights.take(128), Carrier::None));
        assert_eq!(flights.without(FileBlocks::new(64, 192)), FileBlocks::new(128, 192));
        let mut waits = Box::pin(flights.landed(127));
        assert!(futures_util::poll!(&mut waits).is_pending());
        flights.landed(128).await;
        drop(landing);
        waits.await;
        assert!(matches!(flights.take(64), Carrier::None));
        assert_eq!(flights.without(FileBlocks::new(64, 192)), FileBlocks::new(64, 192));
    }

    /// A flight was taken before its starter had let go of it, who then took the claim of the reader away: its
    /// blocks were read once more.
    #[test]
    fn regression_who_starts_a_flight_lets_go_of_his_own_claim_alone() {
        let flights = Flights::default();
        let blocks = FileBlocks::new(64, 128);
        let started = flights.start(blocks);
        flights.list.lock().waiting.push(Flight { serial: started.serial, ..flight(64, 64) });
        let Carrier::Own(_, landing) = flights.take(64) else { panic!("nobody has it yet") };
        drop(started);
        assert!(matches!(flights.take(64), Carrier::Other), "somebody has it");
        drop(landing);
        assert!(matches!(flights.take(64), Carrier::None));
    }

    /// A reader went away with 1,536 of 1,920 blocks on their way. The windows of the next one were refused
    /// until the flusher had ticked three times: it read at a seventh of the rate.
    #[test]
    fn flights_whose_reader_went_away_make_room_for_those_of_the_next() {
        let flights = Flights::default();
        (0..3).for_each(|n| add(&flights, flight(100_000 + n * 512, 512)));
        assert_eq!(flights.room(512, 1920), 384, "they may still be reached");
        for at in 0..LOST_AFTER {
            assert_eq!(flights.room(8, 1920), 8);
            add(&flights, flight(at * 8, 8));
            assert!(is_own(flights.take(at * 8)));
        }
        assert_eq!(flights.room(512, 1920), 512);
    }

    #[test]
    fn the_oldest_flights_are_given_up_first_and_no_more_than_are_needed() {
        let flights = Flights::default();
        (0..4).for_each(|n| add(&flights, flight(n * 16, 16)));
        assert_eq!(flights.give_up(17), 32);
        assert!(!is_own(flights.take(0)) && !is_own(flights.take(31)));
        assert!(is_own(flights.take(32)));
        assert_eq!(flights.give_up(100), 16);
        assert_eq!(flights.give_up(100), 0);
    }
}
