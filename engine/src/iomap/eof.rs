//! The one owner of the end-of-object rule: bytes between the old end and the new one read as zero.
//!
//! Guarantees, when the size grows from `old`: before the new size is published, whatever the
//! device or the cache holds behind `old` is zeroed through the cache and dirty, so it stays zero
//! after eviction and after a crash; what reads as zero anyway (holes, unwritten blocks) is neither
//! made nor dirtied nor allocated. The block that must be fixed is the one that holds the *old*
//! end, which need not be near the bytes that are written.
//!
//! The rest of the rule is an invariant kept elsewhere: bytes of a folio behind the size are zero
//! (`fetch` clears what it reads, a write zeroes what it does not replace, a truncate zeroes what
//! it cuts off). Called by `write` and, through [`Mapped::grow`], by `object`.

use std::ops::Range;

use crate::error::Result;
use crate::iomap::bundle::Mapped;
use crate::iomap::contract::MappingProvider;
use crate::iomap::contract::Transport;
use crate::iomap::pause::Canary;
use crate::kit::canary::Canary::LeaveStoredEnd;
use crate::kit::canary::is_broken;
use crate::kit::range_lock::RangeGuard;
use crate::units::BLOCK;
use crate::units::FileBlocks;

/// The bytes that a write from `start` on cannot take care of itself: from the old end to the
/// first block that the write touches.
fn behind_old_end(old: u64, start: u64) -> Range<u64> {
    let first = start / BLOCK * BLOCK;
    old..first.max(old)
}

impl<P: MappingProvider, T: Transport> Mapped<P, T> {
    /// Zeroes what lies behind the old end `old`, up to the first block of a write at `start`.
    /// The caller holds the range lock from the old end on.
    ///
    /// Dropping the future leaves zeroes behind the end, which nobody sees.
    pub(super) async fn clear_old_end(&self, old: u64, start: u64) -> Result<()> {
        let range = behind_old_end(old, start);
        let broken = self.pauses.is_broken(Canary::LeaveOldEnd) || is_broken(LeaveStoredEnd);
        if range.is_empty() || broken {
            return Ok(());
        }
        self.zero_stored(range).await
    }

    /// Grows the size to `size`; the new bytes read as zero. Does nothing if it is not larger.
    ///
    /// `held` is the exclusive range lock from the block of the old end (at most) to `u64::MAX`.
    /// Errors: those of a write. Dropping the future: the size is old or new.
    pub async fn grow(&self, held: &RangeGuard, size: u64) -> Result<()> {
        let old = self.provider.size();
        if size <= old {
            return Ok(());
        }
        self.expect_held(held, FileBlocks::new(old / BLOCK, u64::MAX));
        self.clear_old_end(old, size.div_ceil(BLOCK) * BLOCK).await?;
        let last = self.cache.find((size - 1) / BLOCK);
        let _locked = match last {
            Some(folio) => Some(folio.lock().await),
            None => None,
        };
        self.provider.publish_size(size);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The rule by bytes: what is neither below the old end nor in a block of the write.
    fn by_bytes(old: u64, start: u64) -> Vec<u64> {
        let untouched = |&at: &u64| at / BLOCK < start / BLOCK;
        (old..start).filter(untouched).collect()
    }

    #[test]
    fn the_write_takes_care_of_its_own_blocks_and_eof_of_all_others() {
        let near = |edge: u64| [edge.saturating_sub(1), edge, edge + 1];
        let edges = [0, 512, 1024, 4096, 8192, 3 * 4096];
        let points: Vec<u64> = edges.iter().flat_map(|&e| near(e)).collect();
        for &old in &points {
            for &start in points.iter().filter(|&&s| s >= old) {
                let range: Vec<u64> = behind_old_end(old, start).collect();
                assert_eq!(range, by_bytes(old, start), "old {old}, start {start}");
            }
        }
    }
}
