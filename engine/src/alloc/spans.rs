//! A set of device blocks, kept as spans that are joined when they touch.
//!
//! Guarantees that a block is in the set at most once, and that spans come out in ascending order.
//! Does not know groups; joined spans never cross one, because its head lies between. Called by
//! `alloc::ticket`.

use std::collections::BTreeMap;

use crate::units::BlockNo;
use crate::units::DeviceSpan;

/// A set of blocks.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SpanSet {
    /// First block -> number of blocks.
    spans: BTreeMap<u64, u64>,
    blocks: u64,
}

impl SpanSet {
    /// Number of blocks.
    pub fn blocks(&self) -> u64 {
        self.blocks
    }

    /// Number of spans.
    pub fn count(&self) -> usize {
        self.spans.len()
    }

    /// Each span, ascending.
    pub fn iter(&self) -> impl Iterator<Item = DeviceSpan> + '_ {
        let span = |(&start, &blocks): (&u64, &u64)| DeviceSpan::new(BlockNo(start), blocks);
        self.spans.iter().map(span)
    }

    /// Whether `block` is in the set.
    pub fn contains(&self, block: BlockNo) -> bool {
        let below = self.spans.range(..=block.0).next_back();
        below.is_some_and(|(&start, &blocks)| block.0 - start < blocks)
    }

    /// Adds all of `span`; `false` and no change when a block of it is there already.
    pub fn insert(&mut self, span: DeviceSpan) -> bool {
        if span.blocks == 0 {
            return true;
        }
        let (mut start, mut end) = (span.start.0, span.end().0);
        let below = self.spans.range(..end).next_back();
        let below = below.map(|(&start, &blocks)| (start, start + blocks));
        if below.is_some_and(|(_, end)| end > start) {
            return false;
        }
        if let Some((low, _)) = below.filter(|&(_, end)| end == start) {
            self.spans.remove(&low);
            start = low;
        }
        if let Some(blocks) = self.spans.remove(&end) {
            end += blocks;
        }
        self.spans.insert(start, end - start);
        self.blocks += span.blocks;
        true
    }

    /// Takes all of `span` out; `false` and no change when a block of it is missing.
    pub fn remove(&mut self, span: DeviceSpan) -> bool {
        if span.blocks == 0 {
            return true;
        }
        let (start, end) = (span.start.0, span.end().0);
        let holder = self.spans.range(..=start).next_back();
        let Some((&low, &blocks)) = holder.filter(|&(&low, &blocks)| low + blocks >= end) else {
            return false;
        };
        self.spans.remove(&low);
        if low < start {
            self.spans.insert(low, start - low);
        }
        if low + blocks > end {
            self.spans.insert(end, low + blocks - end);
        }
        self.blocks -= span.blocks;
        true
    }

    /// Takes out what of `span` is in the set; how many blocks that was.
    pub fn cut(&mut self, span: DeviceSpan) -> u64 {
        let (start, end) = (span.start.0, span.end().0);
        let before = self.blocks;
        while let Some((low, blocks)) = self.overlap(start, end) {
            let (from, to) = (low.max(start), (low + blocks).min(end));
            let cut = self.remove(DeviceSpan::new(BlockNo(from), to - from));
            assert!(cut, "an overlap lies in one span");
        }
        before - self.blocks
    }

    /// A span of the set that holds a block of `start..end`.
    fn overlap(&self, start: u64, end: u64) -> Option<(u64, u64)> {
        let (&low, &blocks) = self.spans.range(..end).next_back()?;
        (start < end && low + blocks > start).then_some((low, blocks))
    }

    /// Empties the set.
    pub fn take(&mut self) -> Self {
        std::mem::take(self)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::meta::view_model::Random;

    #[test]
    fn behaves_like_a_set_of_blocks() {
        let mut random = Random(1);
        let mut set = SpanSet::default();
        let mut model = BTreeSet::new();
        let mut refused = 0;
        for _ in 0..20_000 {
            let (start, len) = (random.below(100), random.below(6));
            let span = DeviceSpan::new(BlockNo(start), len);
            let blocks: Vec<u64> = (start..start + len).collect();
            let (done, possible) = match random.below(3) {
                1 => {
                    let there = blocks.iter().filter(|&block| model.remove(block)).count();
                    assert_eq!(set.cut(span), there as u64);
                    continue;
                }
                0 => (set.insert(span), blocks.iter().all(|b| !model.contains(b))),
                _ => {
                    let possible = blocks.iter().all(|b| model.contains(b));
                    let done = set.remove(span);
                    if done {
                        blocks.iter().for_each(|b| assert!(model.remove(b)));
                    }
                    assert_eq!(done, possible);
                    continue;
                }
            };
            assert_eq!(done, possible);
            refused += u32::from(!done);
            if done {
                model.extend(blocks);
            }
            let all: Vec<u64> = set.iter().flat_map(|s| s.iter().map(|b| b.0)).collect();
            assert_eq!(all, model.iter().copied().collect::<Vec<_>>());
            assert_eq!(set.blocks(), model.len() as u64);
            let spans: Vec<_> = set.iter().collect();
            assert!(spans.windows(2).all(|w| w[0].end() < w[1].start), "not joined");
        }
        assert!(refused > 1000);
    }
}
