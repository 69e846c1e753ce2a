//! Where everything lies on the device: pure arithmetic over three numbers.
//!
//! ```text
//! 0, 16        superblock copies
//! 8, 9         journal headers
//! 24           root block
//! 32 .. 32+J   journal ring
//! 32+J ..      groups of GROUP_BLOCKS blocks, the last one maybe shorter:
//!              +0       group block
//!              +1..=32  checksum blocks
//!              +33..    data and metadata
//! ```
//!
//! Guarantees that no two regions overlap and that every place lies on the device. A rest at the
//! end that is too short for a useful group stays unused. Does not read or write. Called by
//! `volume`, `alloc`, and tools that show a store.

use crate::error::Error;
use crate::error::Result;
use crate::format::root::Root;
use crate::limits::CHECKSUMS_PER_BLOCK;
use crate::limits::GROUP_BLOCKS;
use crate::limits::GROUP_CHECKSUM_BLOCKS;
use crate::limits::JOURNAL_BYTES_MIN;
use crate::units::BLOCK;
use crate::units::BlockNo;
use crate::units::DeviceSpan;

/// The two copies of the superblock; far apart, so that one torn or misdirected write hits one.
pub const SUPERBLOCKS: [BlockNo; 2] = [BlockNo(0), BlockNo(16)];
/// The two journal headers, written in turns.
pub const JOURNAL_HEADERS: [BlockNo; 2] = [BlockNo(8), BlockNo(9)];
/// The root block.
pub const ROOT_BLOCK: BlockNo = BlockNo(24);
/// First block of the journal ring.
pub const JOURNAL_START: BlockNo = BlockNo(32);
/// Blocks at the start of each group that never hold data.
pub const GROUP_HEAD_BLOCKS: u64 = 1 + GROUP_CHECKSUM_BLOCKS;
/// A rest at the end of the device that is shorter than this is no group.
pub const GROUP_BLOCKS_MIN: u64 = 2 * GROUP_HEAD_BLOCKS;

/// The layout of one volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    /// The journal ring.
    pub journal: DeviceSpan,
    /// The root block.
    pub root: BlockNo,
    groups: u64,
    last_group_blocks: u64,
}

impl Layout {
    /// The layout of a device of `device_blocks` with a journal ring of `journal_blocks`.
    ///
    /// Errors: `InvalidInput` for a journal that is too small, or when no group fits behind it.
    pub fn new(device_blocks: u64, journal_blocks: u64) -> Result<Self> {
        if journal_blocks < JOURNAL_BYTES_MIN / BLOCK {
            return Err(Error::invalid(format!(
                "a journal of {journal_blocks} blocks is smaller than {JOURNAL_BYTES_MIN} bytes"
            )));
        }
        let needed = journal_blocks
            .checked_add(JOURNAL_START.0 + GROUP_BLOCKS_MIN)
            .ok_or_else(|| Error::invalid(format!("a journal of {journal_blocks} blocks")))?;
        if device_blocks < needed {
            return Err(Error::invalid(format!(
                "the device has {device_blocks} blocks, this layout needs {needed}"
            )));
        }
        let room = device_blocks - (needed - GROUP_BLOCKS_MIN);
        let rest = room % GROUP_BLOCKS;
        let (groups, last_group_blocks) = match rest < GROUP_BLOCKS_MIN {
            true => (room / GROUP_BLOCKS, GROUP_BLOCKS),
            false => (room / GROUP_BLOCKS + 1, rest),
        };
        assert!(groups > 0, "room for a group was checked");
        Ok(Self {
            journal: DeviceSpan::new(JOURNAL_START, journal_blocks),
            root: ROOT_BLOCK,
            groups,
            last_group_blocks,
        })
    }

    /// Number of groups; at least 1.
    pub fn groups(&self) -> u64 {
        self.groups
    }

    /// First block of the first group.
    pub fn first_group(&self) -> BlockNo {
        self.journal.end()
    }

    /// All blocks of group `group`.
    ///
    /// # Panics
    /// If there is no such group.
    pub fn group_span(&self, group: u64) -> DeviceSpan {
        assert!(group < self.groups, "group {group} of {}", self.groups);
        let start = self.first_group().plus(group * GROUP_BLOCKS);
        let blocks = match group + 1 == self.groups {
            true => self.last_group_blocks,
            false => GROUP_BLOCKS,
        };
        DeviceSpan::new(start, blocks)
    }

    /// The group block of group `group`.
    pub fn group_block(&self, group: u64) -> BlockNo {
        self.group_span(group).start
    }

    /// The `index`-th checksum block of group `group`.
    pub fn checksum_block(&self, group: u64, index: u64) -> BlockNo {
        assert!(index < GROUP_CHECKSUM_BLOCKS, "checksum block {index}");
        self.group_span(group).start.plus(1 + index)
    }

    /// The group of `block` and its index inside; `None` for blocks outside of all groups.
    pub fn group_of(&self, block: BlockNo) -> Option<(u64, u64)> {
        let offset = block.0.checked_sub(self.first_group().0)?;
        let (group, index) = (offset / GROUP_BLOCKS, offset % GROUP_BLOCKS);
        (group < self.groups && index < self.group_span(group).blocks).then_some((group, index))
    }

    /// Whether `span` is not empty and only of blocks that can hold data, all of one group.
    pub fn is_data(&self, span: DeviceSpan) -> bool {
        match self.group_of(span.start) {
            Some((group, index)) => {
                let rest = self.group_span(group).blocks - index;
                index >= GROUP_HEAD_BLOCKS && span.blocks > 0 && span.blocks <= rest
            }
            None => false,
        }
    }

    /// The checksum block that keeps the checksum of `block`, and the place in it; `None` for
    /// blocks that can hold no data.
    pub fn checksum_place(&self, block: BlockNo) -> Option<(BlockNo, usize)> {
        let (group, index) = self.group_of(block)?;
        if index < GROUP_HEAD_BLOCKS {
            return None;
        }
        let at = self.checksum_block(group, index / CHECKSUMS_PER_BLOCK);
        Some((at, (index % CHECKSUMS_PER_BLOCK) as usize))
    }

    /// Blocks that can hold data, in all groups.
    pub fn data_blocks(&self) -> u64 {
        let full = (self.groups - 1) * (GROUP_BLOCKS - GROUP_HEAD_BLOCKS);
        full + self.last_group_blocks - GROUP_HEAD_BLOCKS
    }

    /// The root of a volume without objects: every group is virgin, and its data blocks are free.
    pub fn initial_root(&self) -> Root {
        Root { next_object: 1, free_blocks: self.data_blocks(), ..Root::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    const JOURNAL: u64 = JOURNAL_BYTES_MIN / BLOCK;
    const FIXED: u64 = 32 + JOURNAL;

    #[test]
    fn regions_do_not_overlap_and_end_on_the_device() {
        for blocks in
            [GROUP_BLOCKS_MIN, 1000, GROUP_BLOCKS, GROUP_BLOCKS + 65, 3 * GROUP_BLOCKS + 66]
        {
            let layout = Layout::new(FIXED + blocks, JOURNAL).unwrap();
            let mut end = layout.journal.end();
            let mut data = 0;
            for group in 0..layout.groups() {
                let span = layout.group_span(group);
                assert_eq!(span.start, end);
                assert!(span.blocks >= GROUP_BLOCKS_MIN);
                end = span.end();
                data += span.blocks - 33;
            }
            assert!(end.0 <= FIXED + blocks);
            assert!(FIXED + blocks - end.0 < GROUP_BLOCKS_MIN, "a useful rest stays unused");
            assert_eq!(layout.data_blocks(), data);
            assert!(SUPERBLOCKS.iter().chain(&JOURNAL_HEADERS).all(|b| *b < layout.journal.start));
        }
    }

    #[test]
    fn every_block_of_a_group_is_found_again() {
        let layout = Layout::new(FIXED + 2 * GROUP_BLOCKS + 100, JOURNAL).unwrap();
        for (group, index) in [(0, 0), (0, 33), (0, GROUP_BLOCKS - 1), (1, 0), (2, 99)] {
            let block = layout.group_span(group).start.plus(index);
            assert_eq!(layout.group_of(block), Some((group, index)));
            let place = layout.checksum_place(block);
            assert_eq!(place.is_some(), index >= 33);
            if let Some((at, slot)) = place {
                let (in_group, head) = layout.group_of(at).unwrap();
                assert_eq!(in_group, group);
                assert_eq!((head - 1) * CHECKSUMS_PER_BLOCK + slot as u64, index);
            }
        }
        assert_eq!(layout.group_of(BlockNo(31)), None);
        assert_eq!(layout.group_of(layout.group_span(2).end()), None);
        assert_eq!(layout.group_of(BlockNo(u64::MAX)), None);
    }

    #[test]
    fn only_spans_inside_the_data_area_of_one_group_are_data() {
        let layout = Layout::new(FIXED + 2 * GROUP_BLOCKS, JOURNAL).unwrap();
        let span = |group: u64, index: u64, blocks| {
            DeviceSpan::new(layout.group_span(group).start.plus(index), blocks)
        };
        assert!(layout.is_data(span(0, 33, GROUP_BLOCKS - 33)));
        assert!(!layout.is_data(span(0, 33, GROUP_BLOCKS - 32)));
        assert!(!layout.is_data(span(0, 32, 1)));
        assert!(!layout.is_data(span(1, 40, 0)));
        assert!(!layout.is_data(span(1, 40, u64::MAX)));
        assert!(!layout.is_data(DeviceSpan::new(BlockNo(0), 1)));
    }

    #[test]
    fn devices_and_journals_that_are_too_small_are_refused() {
        let kind = |blocks, journal| Layout::new(blocks, journal).unwrap_err().kind();
        assert_eq!(kind(FIXED + GROUP_BLOCKS_MIN - 1, JOURNAL), ErrorKind::InvalidInput);
        assert_eq!(kind(1 << 30, JOURNAL - 1), ErrorKind::InvalidInput);
        assert_eq!(kind(1 << 30, u64::MAX), ErrorKind::InvalidInput);
        assert!(Layout::new(FIXED + GROUP_BLOCKS_MIN, JOURNAL).is_ok());
    }
}
