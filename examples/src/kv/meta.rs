//! Page 0: what the tree is and where it starts.
//!
//! Guarantees that a decoded meta page makes sense by itself (root and free list inside, height
//! bounded). Does not do I/O. Called by `store`, `draft` and `view`.

use crate::kv::error::Error;
use crate::kv::error::Result;
use crate::kv::limits::HEIGHT_MAX;
use crate::kv::page::put_u32;
use crate::kv::page::u32_at;
use crate::kv::units::LargeId;
use crate::kv::units::PageNo;

const MAGIC: [u8; 8] = *b"foliantk";
/// Version 1 knew no expiry, version 2 no large values: their counts and numbers read as zero, which is
/// right.
const VERSION: u32 = 3;
const VERSION_OLDEST: u32 = 1;
/// Bytes of page 0 that are in use.
pub const META_BYTES: usize = 72;
/// The first page of an empty tree's root.
pub const ROOT_FIRST: PageNo = 1;

/// The state of the tree at one commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Meta {
    /// The root node.
    pub root: PageNo,
    /// Levels; 1 when the root is a leaf.
    pub height: u8,
    /// Pages that exist; all numbers below are in the tree or free.
    pub pages: u32,
    /// First page of the free list; 0 when it is empty.
    pub free_head: PageNo,
    /// Pages in the free list, its own included.
    pub free_count: u32,
    /// Keys in the tree.
    pub keys: u64,
    /// Of which end by themselves at some time.
    pub expiring: u64,
    /// Values that are objects of their own.
    pub larges: u64,
    /// No number from this one on is that of a large value in the tree.
    pub large_next: LargeId,
    /// How often all keys were taken away; large values of earlier times are to be removed.
    pub epoch: u64,
}

impl Meta {
    /// An empty tree: page 0, and a leaf as root.
    pub fn empty() -> Self {
        Self {
            root: ROOT_FIRST,
            height: 1,
            pages: 2,
            free_head: 0,
            free_count: 0,
            keys: 0,
            expiring: 0,
            larges: 0,
            large_next: 0,
            epoch: 0,
        }
    }

    /// The bytes at the start of page 0.
    pub fn encode(&self) -> [u8; META_BYTES] {
        let mut bytes = [0; META_BYTES];
        bytes[..8].copy_from_slice(&MAGIC);
        put_u32(&mut bytes, 8, VERSION);
        put_u32(&mut bytes, 12, self.root);
        put_u32(&mut bytes, 16, self.height.into());
        put_u32(&mut bytes, 20, self.pages);
        put_u32(&mut bytes, 24, self.free_head);
        put_u32(&mut bytes, 28, self.free_count);
        bytes[32..40].copy_from_slice(&self.keys.to_le_bytes());
        bytes[40..48].copy_from_slice(&self.expiring.to_le_bytes());
        bytes[48..56].copy_from_slice(&self.larges.to_le_bytes());
        bytes[56..64].copy_from_slice(&self.large_next.to_le_bytes());
        bytes[64..72].copy_from_slice(&self.epoch.to_le_bytes());
        bytes
    }

    /// Whether these bytes, which decode, are of an older version.
    pub fn is_old(bytes: &[u8; META_BYTES]) -> bool {
        u32_at(bytes, 8) < VERSION
    }

    /// Errors: `NotAStore`.
    pub fn decode(bytes: &[u8; META_BYTES]) -> Result<Self> {
        let wrong = |why| Err(Error::NotAStore { why });
        if bytes[..8] != MAGIC {
            return wrong("the object does not start with the magic");
        }
        if !(VERSION_OLDEST..=VERSION).contains(&u32_at(bytes, 8)) {
            return wrong("it has another version");
        }
        let height = u32_at(bytes, 16);
        if height == 0 || height > u32::from(HEIGHT_MAX) {
            return wrong("its height is impossible");
        }
        let u64_at = |at| u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32;
        let meta = Self {
            root: u32_at(bytes, 12),
            height: height as u8,
            pages: u32_at(bytes, 20),
            free_head: u32_at(bytes, 24),
            free_count: u32_at(bytes, 28),
            keys: u64_at(32),
            expiring: u64_at(40),
            larges: u64_at(48),
            large_next: u64_at(56),
            epoch: u64_at(64),
        };
        if meta.root == 0 || meta.root >= meta.pages || meta.free_head >= meta.pages {
            return wrong("its root or its free list lies outside");
        }
        if meta.free_count >= meta.pages || (meta.free_count == 0) != (meta.free_head == 0) {
            return wrong("its free list is counted wrong");
        }
        Ok(meta)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_meta_page_comes_back_and_a_damaged_one_does_not() {
        let meta = Meta {
            keys: 7 << 33,
            expiring: 5,
            larges: 3,
            large_next: 9,
            epoch: 2,
            ..Meta::empty()
        };
        assert_eq!(Meta::decode(&meta.encode()).unwrap(), meta);
        for at in [0, 8, 15, 19, 27, 31] {
            let mut bytes = meta.encode();
            bytes[at] ^= 0xFF;
            assert!(Meta::decode(&bytes).is_err(), "byte {at}");
        }
    }
}
