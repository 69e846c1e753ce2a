//! Sizes of a device, and the one place where a range is checked against them.
//!
//! Guarantees that a range that passed [`Geometry::check`] lies on the device and does not
//! overflow. Does not do I/O. Called by `contract::Device` once per request.

use crate::error::DeviceError;
use crate::error::DeviceErrorKind;
use crate::error::Operation;
use crate::error::Result;

/// Bytes in a block: the unit of every request, of mapping and of checksums.
pub const BLOCK_SIZE: usize = 4096;

/// What a device is like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Geometry {
    /// Capacity in whole blocks of [`BLOCK_SIZE`] bytes.
    pub blocks: u64,
    /// Offsets and lengths must be multiples of this many bytes (at most [`BLOCK_SIZE`]).
    pub logical_block_bytes: u32,
    /// Writes of this many bytes are not read back by the device before they are merged.
    pub physical_block_bytes: u32,
    /// Memory addresses must be multiples of this many bytes (buffers always are).
    pub memory_alignment_bytes: u32,
    /// A completed write may still be lost by a power cut until a flush.
    pub volatile_cache: bool,
    /// `discard` does something.
    pub discard: bool,
    /// `write_zeroes` is cheaper than writing zeroes.
    pub write_zeroes: bool,
}

impl Geometry {
    /// A geometry with `blocks` blocks, a volatile cache and no special operations.
    pub fn plain(blocks: u64) -> Self {
        Self {
            blocks,
            logical_block_bytes: 512,
            physical_block_bytes: 4096,
            memory_alignment_bytes: 512,
            volatile_cache: true,
            discard: false,
            write_zeroes: false,
        }
    }

    /// Whether `count` blocks from `block` lie on the device; the error names the place.
    pub fn check(&self, op: Operation, block: u64, count: u64) -> Result<()> {
        let fits = block.checked_add(count).is_some_and(|end| end <= self.blocks);
        if fits {
            return Ok(());
        }
        let size = BLOCK_SIZE as u64;
        Err(DeviceError::new(
            op,
            block.saturating_mul(size),
            count.saturating_mul(size),
            DeviceErrorKind::OutOfRange,
            format!("the device has {} blocks", self.blocks),
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_checked_without_overflow_and_the_error_names_the_place() {
        let geometry = Geometry::plain(10);
        for (block, count) in [(0, 0), (0, 10), (9, 1), (10, 0)] {
            assert!(geometry.check(Operation::Read, block, count).is_ok(), "{block} + {count}");
        }
        for (block, count) in [(0, 11), (10, 1), (11, 0), (u64::MAX, 1), (1, u64::MAX)] {
            let error = geometry.check(Operation::Write, block, count).unwrap_err();
            assert_eq!((error.op, error.kind), (Operation::Write, DeviceErrorKind::OutOfRange));
            assert_eq!(error.offset, block.saturating_mul(4096));
            assert!(error.to_string().contains("10 blocks"), "{error}");
        }
    }
}
