//! Read-ahead on its way: device reads that were started for blocks that nobody has asked for yet.
//!
//! Guarantees: a bounded number of flights per object, each found by the blocks that it carries; the
//! oldest makes room; those that no reader came for age and are dropped.
//!
//! Does not start or end them (`launch` does). Called by `launch` and `bundle`.

use std::future::Future;
use std::pin::Pin;

use foliant_device::Buffer;

use crate::error::Result;
use crate::iomap::contract::Cookie;
use crate::kit::sync::Mutex;
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
}

impl Flight {
    fn carries(&self, block: u64) -> bool {
        self.blocks.start <= block && block < self.blocks.end
    }
}

/// The flights of one object.
#[derive(Default)]
pub(super) struct Flights {
    /// Pushes and removals in a list of at most [`FLIGHTS_MAX`]; never held across an await.
    list: Mutex<Vec<Flight>>,
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
    pub fn add(&self, flight: Flight) {
        let mut list = self.list.lock();
        let dropped = (list.len() >= FLIGHTS_MAX).then(|| list.remove(0));
        list.push(flight);
        drop(list);
        drop(dropped);
    }

    /// Blocks of all of them.
    pub fn blocks(&self) -> u64 {
        self.list.lock().iter().map(|flight| flight.blocks.len()).sum()
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
