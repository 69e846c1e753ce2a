//! The header that every metadata block carries: checksum, kind, address, volume.
//!
//! ```text
//!  0  crc u32        CRC32C of bytes 4.., seeded with volume and address
//!  4  kind u16       what the block holds
//!  6  version u16
//!  8  address u64    which block of the device this is
//! 16  volume u32
//! 20  zero u32
//! ```
//!
//! Guarantees: a block that passes [`verify`] was written by this volume, to this address, as this
//! kind, whole. Does not look at the body. Called by `meta`, just before a write and just after a read.

use crate::error::Error;
use crate::error::Result;
use crate::kit::checksum;
use crate::units::BLOCK_BYTES;
use crate::units::BlockNo;

/// What a metadata block holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u16)]
pub enum BlockKind {
    /// The root block.
    Root = 1,
    /// A group block: header and bitmap.
    Group = 2,
    /// Checksums of data blocks.
    Checksums = 3,
    /// A node of a tree.
    Node = 4,
}

impl BlockKind {
    /// The kind in words, for errors.
    pub fn name(self) -> &'static str {
        match self {
            Self::Root => "root block",
            Self::Group => "group block",
            Self::Checksums => "checksum block",
            Self::Node => "tree node",
        }
    }
}

/// Bytes of the header; the body follows.
pub const BODY: usize = 24;
const VERSION: u16 = 1;

/// Makes `block` an empty block of this kind; not sealed yet.
pub fn init(block: &mut [u8], kind: BlockKind, at: BlockNo, volume: u32) {
    assert_eq!(block.len(), BLOCK_BYTES, "a metadata block is one block");
    block.fill(0);
    block[4..6].copy_from_slice(&(kind as u16).to_le_bytes());
    block[6..8].copy_from_slice(&VERSION.to_le_bytes());
    block[8..16].copy_from_slice(&at.0.to_le_bytes());
    block[16..20].copy_from_slice(&volume.to_le_bytes());
}

/// The checksum that belongs into bytes 0..4.
pub fn sum(block: &[u8], at: BlockNo, volume: u32) -> u32 {
    let seed = checksum::append(volume, &at.0.to_le_bytes());
    checksum::append(seed, &block[4..])
}

/// Puts the checksum into a block that is complete, and says it.
pub fn seal(block: &mut [u8], at: BlockNo, volume: u32) -> u32 {
    let crc = sum(block, at, volume);
    block[0..4].copy_from_slice(&crc.to_le_bytes());
    crc
}

/// Whether `block` is a sound block of this kind, at this address, of this volume.
///
/// Errors: `Corrupt`, naming the block.
pub fn verify(block: &[u8], kind: BlockKind, at: BlockNo, volume: u32) -> Result<()> {
    assert_eq!(block.len(), BLOCK_BYTES, "a metadata block is one block");
    let expected = u32::from_le_bytes([block[0], block[1], block[2], block[3]]);
    let got = sum(block, at, volume);
    if expected != got {
        return Err(Error::checksum(kind.name(), at, expected, got));
    }
    let mut like = [0; BODY];
    like.copy_from_slice(&block[..BODY]);
    let mut whole = [0; BODY];
    whole[0..4].copy_from_slice(&block[0..4]);
    whole[4..6].copy_from_slice(&(kind as u16).to_le_bytes());
    whole[6..8].copy_from_slice(&VERSION.to_le_bytes());
    whole[8..16].copy_from_slice(&at.0.to_le_bytes());
    whole[16..20].copy_from_slice(&volume.to_le_bytes());
    if like != whole {
        return Err(Error::corrupt(kind.name(), at, "its header says that it is another block"));
    }
    Ok(())
}

/// Whether an image that passed its checksum before is of this kind. Errors: `Corrupt`: two places
/// disagree about what the block is.
pub fn check_kind(block: &[u8], kind: BlockKind, at: BlockNo) -> Result<()> {
    let found = u16::from_le_bytes([block[4], block[5]]);
    match found == kind as u16 {
        true => Ok(()),
        false => Err(Error::corrupt(kind.name(), at, format!("it holds kind {found}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sealed() -> Vec<u8> {
        let mut block = vec![0; BLOCK_BYTES];
        init(&mut block, BlockKind::Node, BlockNo(77), 9);
        block[BODY] = 5;
        seal(&mut block, BlockNo(77), 9);
        block
    }

    #[test]
    fn a_sealed_block_verifies_only_as_itself() {
        let block = sealed();
        verify(&block, BlockKind::Node, BlockNo(77), 9).expect("sound");
        assert!(verify(&block, BlockKind::Group, BlockNo(77), 9).is_err());
        assert!(verify(&block, BlockKind::Node, BlockNo(78), 9).is_err());
        assert!(verify(&block, BlockKind::Node, BlockNo(77), 8).is_err());
    }

    #[test]
    fn every_flipped_bit_is_seen() {
        for bit in (0..BLOCK_BYTES * 8).step_by(37) {
            let mut block = sealed();
            block[bit / 8] ^= 1 << (bit % 8);
            assert!(verify(&block, BlockKind::Node, BlockNo(77), 9).is_err(), "bit {bit}");
        }
    }
}
