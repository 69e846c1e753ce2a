//! Makes blocks be stored as they are, so that a commit can log what it changes in them and no more.
//!
//! Guarantees on return: each of the blocks has a place on the device that holds what its folio holds, behind
//! the end of the object included, and nothing of it is dirty. What readers find is the same before and
//! after, and so is what a crash may leave: dirty bytes may be written back at any time, and a hole that
//! became a block of zeroes reads as it did.
//!
//! Does not change a size, and does not commit anything of the transaction. Called by `journaled`, which
//! holds the ranges of the blocks alone, so that it stays so until its commit.

use std::sync::Arc;

use crate::error::Result;
use crate::extent;
use crate::extent::Lookup;
use crate::kit::canary::Canary;
use crate::kit::canary::is_broken;
use crate::object::ground::Ground;
use crate::object::open::OpenObject;
use crate::units::BLOCK;
use crate::units::FileBlocks;

/// Writes back those of `touched` (ascending) that a commit would have to log whole.
///
/// Errors: `NoSpace`, and those of a read and of writeback. To be driven to its end by a task of the
/// engine.
pub async fn write_as_they_are(
    ground: &Ground,
    object: &Arc<OpenObject>,
    touched: &[u64],
) -> Result<()> {
    let (Some(&first), Some(&last)) = (touched.first(), touched.last()) else { return Ok(()) };
    let mut reserved = ground.reserve(touched.len() as u64).await?;
    let mut grips = object.core().lock_uptodate(touched).await?;
    let view = ground.meta.read().await;
    let mut wanted = Vec::new();
    for &block in touched {
        let found = extent::lookup(&view, object.state().id(), block).await?;
        let is_stored = matches!(found, Lookup::Extent(e) if !e.unwritten);
        // Behind the recorded end the device may hold what nobody wrote.
        let past_end = (block + 1) * BLOCK > object.state().recorded_size();
        if !is_stored || (past_end && !is_broken(Canary::TrustStoredEnd)) {
            wanted.push(block);
        }
    }
    drop(view);
    // Over the limit if need be: it is written at once.
    let share = ground.dirty.admit_over(wanted.len() as u64);
    let mut grip = 0;
    for block in wanted {
        while grips[grip].span().end <= block {
            grip += 1;
        }
        let own = FileBlocks::new(block, block + 1);
        reserved.keep(grips[grip].mark_dirty(own));
    }
    drop((grips, share));
    reserved.settle();
    object.core().write_back_in_turn(FileBlocks::new(first, last + 1)).await.map(|_| ())
}
