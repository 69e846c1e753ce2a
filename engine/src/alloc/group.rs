//! The busy blocks of one allocation group, in memory.
//!
//! Guarantees that no block is taken twice or given back twice. Does not tell claimed from used
//! blocks: `pins` only counts those whose state is not on disk. Called by `alloc::inner`.

use std::ops::Range;

use crate::kit::bitset::BitSet;

/// One group.
#[derive(Debug)]
pub struct Group {
    /// Set: used on disk, claimed, or held.
    busy: BitSet,
    free: usize,
    /// Claimed blocks, and freed blocks that are not usable yet: while there are any, this must
    /// stay in memory.
    pins: u64,
}

impl Group {
    /// A group whose `used` blocks are set.
    pub fn new(used: BitSet) -> Self {
        let free = used.len() - used.count();
        Self { busy: used, free, pins: 0 }
    }

    /// Blocks that can be taken.
    pub fn free(&self) -> usize {
        self.free
    }

    /// All of its blocks, its head included.
    pub fn len(&self) -> usize {
        self.busy.len()
    }

    /// Whether its state is only what the disk says.
    pub fn is_on_disk(&self) -> bool {
        self.pins == 0
    }

    /// The first free run at or after `from` with at least `min` blocks.
    pub fn find(&self, from: usize, min: usize) -> Option<Range<usize>> {
        let mut at = from;
        loop {
            let start = self.busy.next_clear(at)?;
            let end = self.busy.next_set(start).unwrap_or(self.busy.len());
            if end - start >= min {
                return Some(start..end);
            }
            at = end;
        }
    }

    /// Makes free blocks busy.
    ///
    /// # Panics
    /// If one is busy.
    pub fn take(&mut self, range: Range<usize>) {
        let taken = self.busy.set(range.clone());
        assert_eq!(taken, range.len(), "blocks {range:?} were taken twice");
        self.free -= taken;
    }

    /// Makes busy blocks free.
    ///
    /// # Panics
    /// If one is free.
    pub fn give(&mut self, range: Range<usize>) {
        let given = self.busy.clear(range.clone());
        assert_eq!(given, range.len(), "blocks {range:?} were given back twice");
        self.free += given;
    }

    /// Whether all of these are busy.
    pub fn is_busy(&self, range: Range<usize>) -> bool {
        self.busy.next_clear(range.start).is_none_or(|clear| clear >= range.end)
    }

    /// Keeps the group in memory for `blocks` more blocks.
    pub fn pin(&mut self, blocks: u64) {
        self.pins += blocks;
    }

    /// Ends [`Self::pin`] for `blocks`.
    pub fn unpin(&mut self, blocks: u64) {
        self.pins = self.pins.checked_sub(blocks).expect("unpinned more than was pinned");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group() -> Group {
        let mut used = BitSet::new(100);
        used.set(0..33);
        used.set(40..45);
        used.set(46..90);
        Group::new(used)
    }

    #[test]
    fn runs_are_found_by_length_from_a_place_on() {
        let group = group();
        assert_eq!(group.free(), 7 + 1 + 10);
        assert_eq!(group.find(0, 1), Some(33..40));
        assert_eq!(group.find(35, 1), Some(35..40));
        assert_eq!(group.find(35, 6), Some(90..100));
        assert_eq!(group.find(41, 1), Some(45..46));
        assert_eq!(group.find(0, 11), None);
        assert_eq!(group.find(100, 1), None);
    }

    #[test]
    fn taking_and_giving_change_what_is_found() {
        let mut group = group();
        group.take(33..35);
        assert_eq!(group.find(0, 1), Some(35..40));
        group.give(40..45);
        assert_eq!(group.find(0, 1), Some(35..46));
        assert_eq!(group.free(), 18 - 2 + 5);
        assert!(group.is_busy(46..90) && !group.is_busy(45..47));
    }

    #[test]
    #[should_panic(expected = "taken twice")]
    fn taking_a_busy_block_is_our_mistake() {
        group().take(39..41);
    }

    #[test]
    #[should_panic(expected = "given back twice")]
    fn giving_a_free_block_is_our_mistake() {
        group().give(39..41);
    }
}
