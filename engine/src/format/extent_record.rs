//! An entry of the extent tree: which device blocks hold which blocks of an object.
//!
//! ```text
//! key    object u64 BE, file block u64 BE      (so that memcmp order is the order of both)
//! value  device start u64, blocks u32, flags u32 (bit 0: unwritten), little-endian
//! ```
//!
//! Guarantees that a decoded extent is not empty and that its ends do not overflow. Does not know
//! the device's size. Called by `extent`.

use crate::error::Error;
use crate::error::ErrorKind;
use crate::error::Result;
use crate::limits::OBJECT_BYTES_MAX;
use crate::units::BLOCK;
use crate::units::BlockNo;
use crate::units::ObjectId;

/// Bytes of a key.
pub const KEY_BYTES: usize = 16;
/// Bytes of a value.
pub const VALUE_BYTES: usize = 16;
/// Blocks of the longest extent.
pub const EXTENT_BLOCKS_MAX: u64 = u32::MAX as u64;
/// The block behind the last one an object can have.
pub const FILE_BLOCKS_MAX: u64 = OBJECT_BYTES_MAX.div_ceil(BLOCK);

const UNWRITTEN: u32 = 1;

/// Contiguous blocks of an object that lie contiguously on the device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// First block of the object.
    pub at: u64,
    /// First block on the device.
    pub start: BlockNo,
    /// Number of blocks.
    pub blocks: u64,
    /// Allocated, but never written: reads as zero.
    pub unwritten: bool,
}

impl Extent {
    /// The object's block behind the last one.
    pub fn end(&self) -> u64 {
        self.at + self.blocks
    }
}

/// The key of the extent of `object` that starts at its block `at`.
pub fn key(object: ObjectId, at: u64) -> [u8; KEY_BYTES] {
    let mut key = [0; KEY_BYTES];
    key[..8].copy_from_slice(&object.0.to_be_bytes());
    key[8..].copy_from_slice(&at.to_be_bytes());
    key
}

/// The value of an extent.
///
/// # Panics
/// If it is empty or longer than [`EXTENT_BLOCKS_MAX`].
pub fn value(extent: &Extent) -> [u8; VALUE_BYTES] {
    assert!(extent.blocks > 0, "an extent has blocks");
    let blocks = u32::try_from(extent.blocks).expect("longer extents are cut before");
    let flags = if extent.unwritten { UNWRITTEN } else { 0 };
    let mut value = [0; VALUE_BYTES];
    value[..8].copy_from_slice(&extent.start.0.to_le_bytes());
    value[8..12].copy_from_slice(&blocks.to_le_bytes());
    value[12..].copy_from_slice(&flags.to_le_bytes());
    value
}

/// The object and the extent of an entry.
///
/// Errors: `Corrupt`; `Incompatible` for unknown flags.
pub fn decode(key: &[u8], value: &[u8]) -> Result<(ObjectId, Extent)> {
    let damaged = |why: String| Err(Error::new(ErrorKind::Corrupt, format!("extent: {why}")));
    if key.len() != KEY_BYTES || value.len() != VALUE_BYTES {
        return damaged(format!("key of {} and value of {} bytes", key.len(), value.len()));
    }
    let object = ObjectId(u64::from_be_bytes(key[..8].try_into().expect("eight bytes")));
    let at = u64::from_be_bytes(key[8..].try_into().expect("eight bytes"));
    let start = u64::from_le_bytes(value[..8].try_into().expect("eight bytes"));
    let blocks = u32::from_le_bytes(value[8..12].try_into().expect("four bytes"));
    let flags = u32::from_le_bytes(value[12..].try_into().expect("four bytes"));
    let blocks = u64::from(blocks);
    if flags & !UNWRITTEN != 0 {
        let why = format!("extent of {object} at its block {at} has unknown flags {flags:#x}");
        return Err(Error::new(ErrorKind::Incompatible, why));
    }
    let file_end = at.checked_add(blocks).filter(|&end| end <= FILE_BLOCKS_MAX);
    if blocks == 0 || start == 0 || file_end.is_none() || start.checked_add(blocks).is_none() {
        return damaged(format!("{object}, its block {at}: {blocks} blocks at block {start}"));
    }
    let extent = Extent { at, start: BlockNo(start), blocks, unwritten: flags & UNWRITTEN != 0 };
    Ok((object, extent))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_encoded_is_decoded() {
        for (at, blocks, unwritten) in [(0, 1, false), (77, EXTENT_BLOCKS_MAX, true)] {
            let start = BlockNo(1 << 40);
            let extent = Extent { at, start, blocks, unwritten };
            let key = key(ObjectId(9), at);
            let decoded = decode(&key, &value(&extent)).unwrap();
            assert_eq!(decoded, (ObjectId(9), extent));
        }
    }

    #[test]
    fn keys_sort_by_object_and_then_by_block() {
        assert!(key(ObjectId(1), u64::MAX) < key(ObjectId(2), 0));
        assert!(key(ObjectId(2), 255) < key(ObjectId(2), 256));
    }

    #[test]
    fn impossible_extents_are_errors() {
        let extent = Extent { at: 5, start: BlockNo(9), blocks: 3, unwritten: false };
        let sound = value(&extent);
        let with = |at: usize, bytes: &[u8]| {
            let mut value = sound;
            value[at..at + bytes.len()].copy_from_slice(bytes);
            value
        };
        let good = key(ObjectId(1), 5);
        let kind = |key: &[u8], value: &[u8]| decode(key, value).unwrap_err().kind();
        assert_eq!(kind(&good, &with(8, &[0; 4])), ErrorKind::Corrupt);
        assert_eq!(kind(&good, &with(0, &[0; 8])), ErrorKind::Corrupt);
        assert_eq!(kind(&good, &with(0, &[255; 8])), ErrorKind::Corrupt);
        assert_eq!(kind(&key(ObjectId(1), FILE_BLOCKS_MAX - 2), &sound), ErrorKind::Corrupt);
        assert_eq!(kind(&key(ObjectId(1), u64::MAX), &sound), ErrorKind::Corrupt);
        assert_eq!(kind(&good[1..], &sound), ErrorKind::Corrupt);
        assert_eq!(kind(&good, &with(13, &[1])), ErrorKind::Incompatible);
    }
}
