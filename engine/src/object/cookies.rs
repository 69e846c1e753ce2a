//! Validity cookies per range of an object: did anything change here since I looked?
//!
//! Guarantees: two equal samples over the same blocks mean that no change of a mapping in these
//! blocks was noted in between; a change elsewhere is seen as "changed" only when it falls into the
//! same bucket (1 in 64), which costs a remap and never correctness. Does not know mappings.
//! Called by `object::provider` (samples, compares) and by whoever changes extents (notes).

use crate::iomap::contract::Cookie;
use crate::kit::sync::atomic::AtomicU64;
use crate::kit::sync::atomic::Ordering;
use crate::units::FileBlocks;

/// Blocks of one bucket (1 MiB): large enough that a write piece touches few buckets.
const BUCKET_BLOCKS: u64 = 256;
/// Buckets per object: 512 bytes of counters.
const BUCKETS: u64 = 64;

/// The change counters of one object.
#[derive(Debug)]
pub struct Cookies {
    /// Each counts the changes noted in its blocks; it only grows.
    changes: [AtomicU64; BUCKETS as usize],
}

impl Cookies {
    /// Counters at zero.
    pub fn new() -> Self {
        Self { changes: std::array::from_fn(|_| AtomicU64::new(0)) }
    }

    /// The sum of the counters over `blocks`. Sums are equal exactly when no counter moved, since
    /// counters only grow.
    pub fn sample(&self, blocks: FileBlocks) -> Cookie {
        let sum = self.buckets(blocks).map(|b| b.load(Ordering::Acquire)).sum();
        Cookie(sum)
    }

    /// Notes that the mapping of `blocks` changed. Called inside the transaction that changes it.
    pub fn note(&self, blocks: FileBlocks) {
        for bucket in self.buckets(blocks) {
            bucket.fetch_add(1, Ordering::AcqRel);
        }
    }

    fn buckets(&self, blocks: FileBlocks) -> impl Iterator<Item = &AtomicU64> {
        let first = blocks.start / BUCKET_BLOCKS;
        let last = blocks.end.saturating_sub(1).max(blocks.start) / BUCKET_BLOCKS;
        let count = (last - first + 1).min(BUCKETS);
        (0..count).map(move |i| &self.changes[((first + i) % BUCKETS) as usize])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_inside_is_seen_and_one_elsewhere_is_not() {
        let cookies = Cookies::new();
        let here = FileBlocks::new(10, 20);
        let before = cookies.sample(here);
        cookies.note(FileBlocks::new(5000, 5001));
        assert_eq!(cookies.sample(here), before);
        cookies.note(FileBlocks::new(19, 20));
        assert_ne!(cookies.sample(here), before);
    }

    #[test]
    fn a_range_without_end_touches_every_bucket_once() {
        let cookies = Cookies::new();
        cookies.note(FileBlocks::new(3, u64::MAX / 4096));
        assert_eq!(cookies.sample(FileBlocks::new(0, BUCKET_BLOCKS * BUCKETS)), Cookie(BUCKETS));
    }
}
