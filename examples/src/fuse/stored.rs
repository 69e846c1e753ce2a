//! How much of an object takes room.
//!
//! Guarantees an exact answer for objects of few extents; beyond, what was not looked at is taken to be like
//! what was. Called by `fs` and `data`.

use std::ops::Range;

use foliant::ExtentState;
use foliant::Object;

use crate::fuse::limits::EXTENTS_COUNTED;

/// What a small object in its record counts as.
const BLOCK: u64 = 4096;

/// Bytes of `range` that are stored, or will be.
pub async fn bytes(object: &Object, range: Range<u64>) -> foliant::Result<u64> {
    if range.is_empty() {
        return Ok(0);
    }
    let extents = object.extents(range.clone(), EXTENTS_COUNTED).await?;
    let mut stored = 0;
    for extent in &extents {
        stored += match extent.state {
            // As it would be if it were larger: `st_blocks` does not change when the bytes find their place.
            ExtentState::Inline => BLOCK,
            _ => extent.range.end - extent.range.start,
        };
    }
    let seen = extents.last().map_or(range.start, |last| last.range.end);
    if extents.len() < EXTENTS_COUNTED || seen >= range.end {
        return Ok(stored);
    }
    let share = u128::from(range.end - range.start) / u128::from((seen - range.start).max(1));
    Ok(u64::try_from(u128::from(stored) * share.max(1)).unwrap_or(u64::MAX))
}
