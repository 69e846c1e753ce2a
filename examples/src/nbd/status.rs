//! What is stored where, in the words of the context `base:allocation`.
//!
//! | the engine says | the client hears |
//! |---|---|
//! | a hole | hole, zero |
//! | preallocated, never written | zero |
//! | stored on the device, in the record, or written and not yet stored | nothing: allocated, data |
//!
//! Guarantees that the runs follow each other from the start of the range on, without a gap, at
//! least one, none beyond its end, neighbours different; the answer may end before the range does,
//! and the client asks again from there. Beside writers each run is true at a moment of its own.
//! Called by `export` and `manage`.

use std::ops::Range;

use foliant::ExtentInfo;
use foliant::ExtentState;
use foliant::Object;
use foliant::Result;

use crate::nbd::limits::STATUS_EXTENTS_MAX;
use crate::nbd::limits::STATUS_EXTENTS_ONE;
use crate::nbd::reply::Run;
use crate::nbd::wire::STATE_HOLE;
use crate::nbd::wire::STATE_ZERO;

const HOLE: u32 = STATE_HOLE | STATE_ZERO;
const DATA: u32 = 0;

/// The runs of `range`, which is below 4 GiB long; of `one`, the first alone.
pub async fn runs(object: &Object, range: Range<u64>, one: bool) -> Result<Vec<Run>> {
    let limit = if one { STATUS_EXTENTS_ONE } else { STATUS_EXTENTS_MAX };
    let extents = object.extents(range.clone(), limit).await?;
    let complete = extents.len() < limit;
    let mut runs = Runs { at: range.start, end: range.end, runs: Vec::new() };
    for extent in extents {
        runs.reach(extent.range.start, HOLE);
        match extent.state {
            ExtentState::Unwritten => unwritten(object, &mut runs, &extent).await?,
            _ => runs.reach(extent.range.end, DATA),
        }
        if one && runs.runs.len() > 1 {
            break;
        }
    }
    if complete {
        runs.reach(range.end, HOLE);
    }
    let mut runs = runs.runs;
    if one {
        runs.truncate(1);
    }
    Ok(runs)
}

/// How many bytes of `range` have a place, or wait for one.
pub async fn stored(object: &Object, range: Range<u64>) -> Result<u64> {
    let (mut at, mut stored) = (range.start, 0);
    loop {
        let found = object.extents(at..range.end, STATUS_EXTENTS_MAX).await?;
        let bytes = |extent: &ExtentInfo| {
            extent.range.end.min(range.end) - extent.range.start.max(range.start)
        };
        stored += found.iter().map(bytes).sum::<u64>();
        match found.last() {
            Some(last) if last.range.end < range.end => at = last.range.end,
            _ => return Ok(stored),
        }
    }
}

/// A preallocated extent reads as zero, except where the cache holds what was written since.
async fn unwritten(object: &Object, runs: &mut Runs, extent: &ExtentInfo) -> Result<()> {
    let end = extent.range.end.min(runs.end);
    while runs.at < end {
        let data = object.seek_data(runs.at).await?.map_or(end, |at| at.min(end));
        runs.reach(data, STATE_ZERO);
        if data < end {
            let hole = object.seek_hole(data).await?.filter(|&at| at > data);
            runs.reach(hole.map_or(end, |at| at.min(end)), DATA);
        }
    }
    Ok(())
}

/// Runs that were found so far, and how far they reach.
struct Runs {
    at: u64,
    end: u64,
    runs: Vec<Run>,
}

impl Runs {
    /// Everything up to `end` is `state`.
    fn reach(&mut self, end: u64, state: u32) {
        let end = end.min(self.end);
        if end <= self.at {
            return;
        }
        let len = (end - self.at) as u32;
        self.at = end;
        match self.runs.last_mut() {
            Some(last) if last.state == state => last.len += len,
            _ => self.runs.push(Run { len, state }),
        }
    }
}
