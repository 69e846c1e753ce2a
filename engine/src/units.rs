//! The vocabulary of the engine: block numbers, spans, ranges, identities, log positions.
//!
//! Guarantees that conversions between bytes and blocks happen here and that sums are checked or
//! asserted. Does not know limits of a device or an object. Used by every room.

use std::fmt;
use std::ops::Range;

/// Bytes in a block.
pub const BLOCK: u64 = foliant_device::BLOCK_SIZE as u64;
/// The same as `usize`, for slices.
pub const BLOCK_BYTES: usize = foliant_device::BLOCK_SIZE;

/// A block of the device.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct BlockNo(pub u64);

impl BlockNo {
    /// The block `count` further on.
    pub fn plus(self, count: u64) -> Self {
        Self(self.0.checked_add(count).expect("block numbers are far below 2^64"))
    }
}

impl fmt::Debug for BlockNo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "block {}", self.0)
    }
}

impl fmt::Display for BlockNo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// Contiguous blocks of the device; may be empty.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct DeviceSpan {
    /// First block.
    pub start: BlockNo,
    /// Number of blocks.
    pub blocks: u64,
}

impl DeviceSpan {
    /// `blocks` blocks from `start`.
    pub fn new(start: BlockNo, blocks: u64) -> Self {
        Self { start, blocks }
    }

    /// The block behind the last one.
    pub fn end(self) -> BlockNo {
        self.start.plus(self.blocks)
    }

    /// Whether `block` lies inside.
    pub fn contains(self, block: BlockNo) -> bool {
        self.start <= block && block < self.end()
    }

    /// Each block in order.
    pub fn iter(self) -> impl Iterator<Item = BlockNo> {
        (self.start.0..self.end().0).map(BlockNo)
    }
}

/// Contiguous blocks of an object, `start..end` in units of blocks; may be empty.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct FileBlocks {
    /// First block of the object.
    pub start: u64,
    /// The block behind the last one.
    pub end: u64,
}

impl FileBlocks {
    /// Blocks `start..end`.
    ///
    /// # Panics
    /// If `start > end`.
    pub fn new(start: u64, end: u64) -> Self {
        assert!(start <= end, "file blocks run backwards: {start}..{end}");
        Self { start, end }
    }

    /// The blocks that the bytes `range` touch.
    pub fn covering(range: &Range<u64>) -> Self {
        if range.start >= range.end {
            let at = range.start / BLOCK;
            return Self { start: at, end: at };
        }
        Self { start: range.start / BLOCK, end: range.end.div_ceil(BLOCK) }
    }

    /// Number of blocks.
    pub fn len(self) -> u64 {
        self.end - self.start
    }

    /// Whether there is none.
    pub fn is_empty(self) -> bool {
        self.start == self.end
    }

    /// The blocks in both.
    pub fn intersect(self, other: Self) -> Self {
        let start = self.start.max(other.start);
        Self { start, end: self.end.min(other.end).max(start) }
    }

    /// The bytes of these blocks.
    pub fn bytes(self) -> Range<u64> {
        self.start * BLOCK..self.end * BLOCK
    }
}

/// Names an object for ever; ids are never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct ObjectId(pub u64);

impl fmt::Display for ObjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "object {}", self.0)
    }
}

/// The number of a transaction since open, in commit order. It is durable when `durable >= lsn`, and
/// home when `applied >= lsn`. Numbers start at 1; 0 is "before everything".
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Lsn(pub u64);

/// A position in the endless log, in bytes; its place in the ring is the position modulo its size.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct LogPosition(pub u64);

impl fmt::Display for LogPosition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn covering_rounds_outwards_and_keeps_empty_ranges_empty() {
        assert_eq!(FileBlocks::covering(&(0..1)), FileBlocks::new(0, 1));
        assert_eq!(FileBlocks::covering(&(4095..4097)), FileBlocks::new(0, 2));
        assert_eq!(FileBlocks::covering(&(4096..8192)), FileBlocks::new(1, 2));
        assert!(FileBlocks::covering(&(5000..5000)).is_empty());
    }

    #[test]
    fn disjoint_ranges_intersect_in_nothing() {
        let both = FileBlocks::new(0, 3).intersect(FileBlocks::new(5, 9));
        assert!(both.is_empty());
    }
}
