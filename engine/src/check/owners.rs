//! Who owns which block: one bit per block, set when something reachable claims it.
//!
//! Guarantees that a second claim of a block is told, with the block, and that memory is one bit per
//! block of the groups in which something was claimed. Does not read. Called by `walk` and `survey`.

use std::collections::BTreeMap;
use std::ops::Range;

use crate::format::layout::GROUP_HEAD_BLOCKS;
use crate::format::layout::Layout;
use crate::kit::bitset::BitSet;
use crate::units::BlockNo;
use crate::units::DeviceSpan;

/// What became of a claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Claim {
    /// The blocks had no owner before.
    Fresh,
    /// This block had one already; the others belong to the claimant now.
    Twice(BlockNo),
    /// The blocks are not all of one group, or not behind its head.
    Outside,
}

/// The blocks that something owns.
#[derive(Debug)]
pub struct Owners {
    layout: Layout,
    groups: BTreeMap<u64, BitSet>,
    blocks: u64,
}

impl Owners {
    /// Nobody owns anything.
    pub fn new(layout: Layout) -> Self {
        Self { layout, groups: BTreeMap::new(), blocks: 0 }
    }

    /// Blocks with an owner.
    pub fn blocks(&self) -> u64 {
        self.blocks
    }

    /// Notes an owner of `span`.
    pub fn claim(&mut self, span: DeviceSpan) -> Claim {
        if !self.layout.is_data(span) {
            return Claim::Outside;
        }
        let (group, index) = self.layout.group_of(span.start).expect("it is data");
        let owned = self.groups.entry(group).or_insert_with(|| fresh(&self.layout, group));
        let range = index as usize..(index + span.blocks) as usize;
        let first = owned.next_set(range.start).filter(|&at| at < range.end);
        self.blocks += owned.set(range) as u64;
        match first {
            None => Claim::Fresh,
            Some(at) => Claim::Twice(span.start.plus(at as u64 - index)),
        }
    }

    /// The owned blocks of `group`, its head among them.
    pub fn of_group(&self, group: u64) -> BitSet {
        self.groups.get(&group).cloned().unwrap_or_else(|| fresh(&self.layout, group))
    }

    /// The last group in which a block has an owner.
    pub fn last_group(&self) -> Option<u64> {
        self.groups.keys().next_back().copied()
    }
}

fn fresh(layout: &Layout, group: u64) -> BitSet {
    let mut owned = BitSet::new(layout.group_span(group).blocks as usize);
    owned.set(0..GROUP_HEAD_BLOCKS as usize);
    owned
}

/// The runs of bits that are set in `a` and not in `b`; both are of one length.
pub fn only_in(a: &BitSet, b: &BitSet) -> Vec<Range<usize>> {
    let mut runs = Vec::new();
    let mut at = 0;
    while let Some(start) = a.next_set(at) {
        let end = a.next_clear(start).unwrap_or(a.len());
        at = start;
        while at < end {
            let first = b.next_clear(at).unwrap_or(end).min(end);
            let last = b.next_set(first).unwrap_or(end).min(end);
            if first < last {
                runs.push(first..last);
            }
            at = last.max(first);
        }
        at = end;
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::GROUP_BLOCKS;
    use crate::limits::JOURNAL_BYTES_MIN;
    use crate::units::BLOCK;

    #[test]
    fn a_block_is_claimed_once() {
        let journal = JOURNAL_BYTES_MIN / BLOCK;
        let layout = Layout::new(32 + journal + 2 * GROUP_BLOCKS, journal).unwrap();
        let start = layout.group_block(1);
        let span = |index: u64, blocks| DeviceSpan::new(start.plus(index), blocks);
        let mut owners = Owners::new(layout);
        assert_eq!(owners.claim(span(40, 5)), Claim::Fresh);
        assert_eq!(owners.claim(span(45, 1)), Claim::Fresh);
        assert_eq!(owners.claim(span(38, 4)), Claim::Twice(start.plus(40)));
        assert_eq!(owners.claim(span(32, 4)), Claim::Outside);
        assert_eq!(owners.claim(span(GROUP_BLOCKS - 1, 2)), Claim::Outside);
        assert_eq!(owners.claim(DeviceSpan::new(BlockNo(0), 1)), Claim::Outside);
        assert_eq!((owners.blocks(), owners.last_group()), (8, Some(1)));
        assert_eq!(owners.of_group(1).count(), 33 + 8);
        assert_eq!(owners.of_group(0).count(), 33);
    }

    #[test]
    fn differences_are_runs() {
        let set = |ranges: &[Range<usize>]| {
            let mut set = BitSet::new(200);
            for range in ranges {
                set.set(range.clone());
            }
            set
        };
        let a = set(&[3..10, 60..130, 199..200]);
        let b = set(&[5..7, 64..65, 120..140]);
        assert_eq!(only_in(&a, &b), [3..5, 7..10, 60..64, 65..120, 199..200]);
        assert_eq!(only_in(&b, &a).first(), Some(&(130..140)));
        assert!(only_in(&a, &a).is_empty() && only_in(&set(&[]), &a).is_empty());
    }
}
