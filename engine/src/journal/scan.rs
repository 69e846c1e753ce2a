//! Reads the groups of the log after a crash, from the tail to the first one that is not ours.
//!
//! Guarantees: a group is handed out only when it is whole, of this volume and epoch, at its place and
//! next in number. A crash ends the log at groups that were never acknowledged; where a later group says that the
//! missing one was, the device has lost or damaged it, and [`Scan::lost`] tells. That the very last groups are
//! lost cannot be told. Memory is bounded by one group. Does not apply anything. Called by `meta::recover`.

use std::ops::RangeInclusive;

use foliant_device::Device;

use crate::error::Result;
use crate::format::journal_header::GROUP_HEADER;
use crate::format::journal_header::GroupHeader;
use crate::format::journal_header::Slot;
use crate::journal::ring::Ring;
use crate::kit::canary::Canary;
use crate::kit::canary::is_broken;
use crate::kit::memory::Memory;
use crate::kit::memory::Purpose;
use crate::units::BLOCK;
use crate::units::LogPosition;

/// How many of the largest groups may be missing before the first one that is looked for.
const LOST_GROUPS: u64 = 2;
/// Read at once while looking for it.
const LOOK_BYTES: u64 = 64 << 10;

/// A cursor over the log.
#[derive(Debug)]
pub struct Scan<'a> {
    device: &'a Device,
    memory: &'a Memory,
    ring: Ring,
    volume: u32,
    epoch: u64,
    tail: LogPosition,
    at: LogPosition,
    sequence: u64,
    /// Why the log ends where it ends.
    pub stopped: String,
}

impl<'a> Scan<'a> {
    /// A cursor at the tail that `slot` names.
    pub fn new(
        device: &'a Device,
        memory: &'a Memory,
        ring: Ring,
        volume: u32,
        slot: Slot,
    ) -> Self {
        let (epoch, at, sequence) = (slot.epoch, slot.tail, slot.next_group);
        let stopped = "nothing was read".into();
        Self { device, memory, ring, volume, epoch, tail: at, at, sequence, stopped }
    }

    /// Behind the last group.
    pub fn end(&self) -> LogPosition {
        self.at
    }

    /// The number of the group that would come next.
    pub fn next_group(&self) -> u64 {
        self.sequence
    }

    /// The payload of the next group, or `None` at the log's end.
    ///
    /// Errors: `Device` when the ring cannot be read, `OutOfMemory`.
    pub async fn next(&mut self) -> Result<Option<Vec<u8>>> {
        // A group that did not fit before the ring's end lies at its start.
        let here = self.at;
        let wrapped = self.ring.place(here, self.ring.bytes());
        for start in [here, wrapped] {
            if let Some(payload) = self.group_at(start).await? {
                return Ok(Some(payload));
            }
            if here == wrapped {
                break;
            }
        }
        let reach = self.tail.0 + self.ring.group_bytes_max();
        if is_broken(Canary::ScanOn) && self.at.0 < reach {
            self.at = LogPosition(self.at.0 + BLOCK);
            return Box::pin(self.next()).await;
        }
        Ok(None)
    }

    /// The groups that were acknowledged and are missing, once the log's end was reached: later ones say so.
    ///
    /// Looks at as many bytes behind the end as two of the largest groups take (a few milliseconds), block by
    /// block, because where the missing group ended is lost with it. Errors: as [`Scan::next`].
    pub async fn lost(&self) -> Result<Option<RangeInclusive<u64>>> {
        let end = self.at.0 + LOST_GROUPS * self.ring.group_bytes_max();
        let end = end.min(self.tail.0 + self.ring.bytes());
        let mut acknowledged = 0;
        let mut at = self.at;
        while at.0 < end {
            let before_wrap = self.ring.bytes() - at.0 % self.ring.bytes();
            let bytes = LOOK_BYTES.min(end - at.0).min(before_wrap);
            let seen = self.read(at, bytes / BLOCK).await?;
            for (n, block) in seen.chunks(BLOCK as usize).enumerate() {
                let place = LogPosition(at.0 + n as u64 * BLOCK);
                if let Some(header) = self.later_group(place, block).await? {
                    acknowledged = acknowledged.max(header.acknowledged);
                }
            }
            at = LogPosition(at.0 + bytes);
        }
        let is_lost = acknowledged >= self.sequence && !is_broken(Canary::BelieveLogEnd);
        Ok(is_lost.then_some(self.sequence..=acknowledged))
    }

    /// The header of a whole group of this epoch that starts at `place` and comes behind the log's end.
    async fn later_group(&self, place: LogPosition, block: &[u8]) -> Result<Option<GroupHeader>> {
        let Ok(header) = GroupHeader::peek(block, self.volume) else { return Ok(None) };
        let Some(blocks) = self.blocks_of(&header) else { return Ok(None) };
        let is_later = header.epoch == self.epoch && header.sequence > self.sequence;
        if !is_later || header.lsn != place {
            return Ok(None);
        }
        let group = self.read(place, blocks).await?;
        Ok(header.payload(&group).is_ok().then_some(header))
    }

    /// Blocks of a group, unless it claims what none can have.
    fn blocks_of(&self, header: &GroupHeader) -> Option<u64> {
        let blocks = (GROUP_HEADER as u64 + u64::from(header.payload)).div_ceil(BLOCK);
        let bytes = blocks * BLOCK;
        let fits = bytes <= self.ring.group_bytes_max()
            && self.ring.place(header.lsn, bytes) == header.lsn;
        fits.then_some(blocks)
    }

    async fn group_at(&mut self, start: LogPosition) -> Result<Option<Vec<u8>>> {
        if start.0 + BLOCK - self.tail.0 > self.ring.bytes() {
            self.stopped = "the ring is read whole".into();
            return Ok(None);
        }
        let mut bytes = self.read(start, 1).await?;
        let header = match GroupHeader::peek(&bytes, self.volume) {
            Ok(header) => header,
            Err(cause) => return self.stop(start, &cause.to_string()),
        };
        let expected = (self.epoch, self.sequence, start);
        let found = (header.epoch, header.sequence, header.lsn);
        let same = found == expected
            || (is_broken(Canary::IgnoreEpoch) && (found.1, found.2) == (expected.1, expected.2));
        if !same && !is_broken(Canary::ScanOn) {
            return self.stop(start, "the group is of another time");
        }
        // Its place is `start`, also where a canary takes what says otherwise.
        let Some(blocks) = self.blocks_of(&GroupHeader { lsn: start, ..header }) else {
            return self.stop(start, "the group claims an impossible size");
        };
        if blocks > 1 {
            bytes.extend(self.read(LogPosition(start.0 + BLOCK), blocks - 1).await?);
        }
        match header.payload(&bytes) {
            Ok(payload) => {
                let payload = payload.to_vec();
                self.at = LogPosition(start.0 + blocks * BLOCK);
                self.sequence += 1;
                Ok(Some(payload))
            }
            Err(cause) => self.stop(start, &cause.to_string()),
        }
    }

    fn stop(&mut self, at: LogPosition, why: &str) -> Result<Option<Vec<u8>>> {
        self.stopped = format!("at {at}: {why}");
        Ok(None)
    }

    async fn read(&self, at: LogPosition, blocks: u64) -> Result<Vec<u8>> {
        let mut found = Vec::with_capacity((blocks * BLOCK) as usize);
        let mut next = self.ring.block(at);
        let mut left = blocks;
        while left > 0 {
            let order = left.ilog2().min(4) as u8;
            let into = vec![self.memory.allocate(order, Purpose::Reserved).await?];
            let (buffers, outcome) = self.device.read(next.0, into).await;
            outcome?;
            found.extend_from_slice(&buffers[0]);
            next = next.plus(1 << order);
            left -= 1 << order;
        }
        Ok(found)
    }
}
