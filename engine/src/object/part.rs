//! What a transaction changes in one object, and the locking of the ranges that this touches.
//!
//! Guarantees that the ranges of a part are locked at once, that parts are locked in the order of their
//! objects, and that a part knows, from then on, what size its object has and will have. Does not look at
//! folios, does not commit. Called by `journaled`; made by `api::transaction`.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::SemaphorePermit;

use crate::error::Error;
use crate::error::ErrorKind;
use crate::error::Result;
use crate::iomap::publish::MayPublish;
use crate::kit::canary::Canary;
use crate::kit::canary::is_broken;
use crate::kit::lock_order;
use crate::kit::lock_order::Held;
use crate::kit::lock_order::Rank;
use crate::kit::range_lock::RangeGuard;
use crate::object::open::OpenObject;
use crate::object::open::Wing;
use crate::object::resize::BLOCKS_END;
use crate::units::BLOCK;
use crate::units::BLOCK_BYTES;
use crate::units::FileBlocks;

/// New bytes inside one block.
#[derive(Debug, Clone)]
pub struct Patch {
    /// First byte within the block.
    pub at: usize,
    /// What stands there afterwards.
    pub bytes: Bytes,
}

impl Patch {
    /// Whether it replaces the whole block.
    pub fn is_whole(&self) -> bool {
        self.bytes.len() == BLOCK_BYTES
    }
}

/// All that a transaction changes in one object.
#[derive(Debug)]
pub struct LoggedPart {
    /// The object.
    pub object: Arc<OpenObject>,
    /// Patches by file block, each list in the order in which it was written. Those behind the size are
    /// left out.
    pub patches: BTreeMap<u64, Vec<Patch>>,
    /// The object's size is at least this afterwards; 0 when nothing grows.
    pub end: u64,
    /// The size is `end` afterwards, also if it is larger before. Every byte between the lowest size to
    /// which the transaction cut the object and `end` is patched.
    pub exact: bool,
    /// The size when the ranges were locked.
    before: u64,
}

impl LoggedPart {
    /// A part whose ranges are not locked.
    pub fn new(
        object: Arc<OpenObject>,
        patches: BTreeMap<u64, Vec<Patch>>,
        end: u64,
        exact: bool,
    ) -> Self {
        Self { object, patches, end, exact, before: 0 }
    }

    /// The size afterwards. The ranges are locked.
    pub fn after(&self) -> u64 {
        if self.exact { self.end } else { self.end.max(self.before) }
    }

    /// Whether the object becomes shorter. The ranges are locked.
    pub fn cuts(&self) -> bool {
        self.exact && self.end < self.before
    }

    /// The blocks behind the end afterwards.
    pub fn behind(&self) -> FileBlocks {
        FileBlocks::new(self.after().div_ceil(BLOCK), BLOCKS_END)
    }

    /// The blocks that change, ascending, with their patches. The ranges are locked.
    pub fn touched(&self) -> impl Iterator<Item = (u64, &[Patch])> {
        let live = self.patches.range(..self.after().div_ceil(BLOCK));
        live.map(|(&block, patches)| (block, patches.as_slice()))
    }

    /// Locks the ranges of all that the part touches, at once.
    ///
    /// A part that grows its object locks everything from the visible end on, and takes the blocks that
    /// hold the visible and the recorded end along: bytes between the old end and the new one must read
    /// as zero after a crash, and what lies behind the end on the device is not known to be zero. One
    /// that shortens it locks everything from the new end on, and takes the block along that holds it.
    async fn lock(&mut self) -> RangeGuard {
        let state = self.object.state().clone();
        loop {
            // Ends that an earlier attempt took along.
            self.patches.retain(|_, patches| !patches.is_empty());
            let size = state.size();
            for end in [size, state.recorded_size()] {
                if self.end > end && !end.is_multiple_of(BLOCK) && !is_broken(Canary::LeaveOldEnd) {
                    self.patches.entry(end / BLOCK).or_default();
                }
            }
            let cuts = self.exact && self.end < size;
            if cuts && !self.end.is_multiple_of(BLOCK) && !is_broken(Canary::LeaveCutEnd) {
                self.patches.entry(self.end / BLOCK).or_default();
            }
            let open = (self.end > size || cuts).then_some(self.end.min(size) / BLOCK);
            let ranges = ranges_of(self.patches.keys().copied(), open);
            let guard = self.object.core().ranges().exclusive_all(ranges).await;
            self.before = state.size();
            // A size that moved while this waited may ask for other locks.
            if self.before == size || (!self.exact && self.end <= self.before) {
                return guard;
            }
        }
    }
}

/// The ranges to lock for ascending `blocks`, in blocks; from `open` on one without end.
fn ranges_of(blocks: impl Iterator<Item = u64>, open: Option<u64>) -> Vec<Range<u64>> {
    let open = open.unwrap_or(u64::MAX);
    let mut ranges: Vec<Range<u64>> = Vec::new();
    for block in blocks.take_while(|&block| block < open) {
        match ranges.last_mut() {
            Some(last) if last.end == block => last.end += 1,
            _ => ranges.push(block..block + 1),
        }
    }
    if open < u64::MAX {
        ranges.push(open..u64::MAX);
    }
    ranges
}

/// Locks the ranges of all parts, which are in the order of their objects ([`objects`]); nobody else holds
/// ranges of two objects, so commits cannot deadlock.
///
/// Errors: `Closed`, and a kept failure of an object.
pub async fn lock_all(parts: &mut [LoggedPart]) -> Result<Vec<RangeGuard>> {
    assert!(parts.is_sorted_by_key(|p| p.object.state().id()), "ranges are locked out of order");
    let mut ranges = Vec::with_capacity(parts.len());
    for part in parts {
        part.object.state().check()?;
        ranges.push(part.lock().await);
        part.object.state().check_present()?;
    }
    Ok(ranges)
}

/// The objects of the parts, in the order in which they are locked.
pub fn objects(parts: &mut [LoggedPart]) -> Vec<Arc<OpenObject>> {
    parts.sort_by_key(|p| p.object.state().id());
    parts.iter().map(|part| part.object.clone()).collect()
}

/// The right to show what changes in `objects`, one after the other. Before any range is locked: a reader
/// that keeps commits out locks ranges.
pub async fn gates(objects: &[Arc<OpenObject>]) -> Vec<MayPublish<'_>> {
    let mut gates = Vec::with_capacity(objects.len());
    for object in objects {
        gates.push(object.core().may_publish().await);
    }
    gates
}

/// Images that a transaction over `blocks` blocks of `objects` objects holds at most: two more per object, the
/// blocks of its old ends, or of an old and a new one.
pub fn images(blocks: usize, objects: usize) -> usize {
    blocks + 2 * objects
}

/// The right to hold the images of the parts. Errors: `TooLarge`.
pub async fn admit<'a>(
    wing: &'a Wing,
    parts: &[LoggedPart],
) -> Result<(SemaphorePermit<'a>, Held)> {
    let blocks = parts.iter().map(|p| p.patches.values().filter(|p| !p.is_empty()).count()).sum();
    let blocks = images(blocks, parts.len());
    let most = Wing::images_max(&wing.memory);
    if blocks > most {
        let why = format!("a transaction over {blocks} blocks, at most {most} fit this memory");
        return Err(Error::new(ErrorKind::TooLarge, why));
    }
    lock_order::wait(Rank::Images);
    let permits = wing.images.acquire_many(blocks as u32).await;
    Ok((permits.expect("the semaphore is never closed"), lock_order::hold(Rank::Images)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_become_maximal_ranges() {
        let found = ranges_of([1, 2, 3, 7, 9, 10].into_iter(), None);
        assert_eq!(found, [1..4, 7..8, 9..11]);
    }

    #[test]
    fn who_changes_the_end_locks_from_there_on() {
        let found = ranges_of([1, 2, 3, 9].into_iter(), Some(2));
        assert_eq!(found, [1..2, 2..u64::MAX]);
        let everything: Vec<_> = std::iter::once(0..u64::MAX).collect();
        assert_eq!(ranges_of([].into_iter(), Some(0)), everything);
    }
}
