//! The root block: where the three trees start, and the counters of the volume.
//!
//! ```text
//! body   0  objects, 16 extents, 32 names: each block u64, height u8, zero [7]
//!       48  next object u64      56  free blocks u64
//!       64  ready groups u64     72  objects u64
//! ```
//!
//! Guarantees that what was encoded decodes to the same value, and that an impossible body is a typed
//! error. Does not read or write blocks. Called by `meta`.

use crate::error::Error;
use crate::error::Result;
use crate::limits::TREE_HEIGHT_MAX;
use crate::units::BlockNo;

/// Where a tree starts; block 0 means that it is empty.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TreeRoot {
    /// The root node.
    pub block: BlockNo,
    /// Levels: 0 for an empty tree, 1 for a single leaf.
    pub height: u8,
}

/// The decoded root block.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Root {
    /// Object id -> object record.
    pub objects: TreeRoot,
    /// (Object id, file block) -> extent.
    pub extents: TreeRoot,
    /// Name -> object id.
    pub names: TreeRoot,
    /// The id of the next object made.
    pub next_object: u64,
    /// Blocks of all groups that are not in use, virgin groups included.
    pub free_blocks: u64,
    /// Groups from this one on were never used.
    pub groups_ready: u64,
    /// Objects in the volume.
    pub object_count: u64,
}

impl Root {
    /// Writes the root into the body of its block.
    pub fn encode(&self, body: &mut [u8]) {
        for (i, tree) in [self.objects, self.extents, self.names].iter().enumerate() {
            body[16 * i..16 * i + 8].copy_from_slice(&tree.block.0.to_le_bytes());
            body[16 * i + 8..16 * i + 16].copy_from_slice(&u64::from(tree.height).to_le_bytes());
        }
        let counters = [self.next_object, self.free_blocks, self.groups_ready, self.object_count];
        for (i, counter) in counters.iter().enumerate() {
            body[48 + 8 * i..56 + 8 * i].copy_from_slice(&counter.to_le_bytes());
        }
    }

    /// The root in `body`, read from block `at`. Errors: `Corrupt`.
    pub fn decode(body: &[u8], at: BlockNo) -> Result<Self> {
        let word = |i: usize| {
            u64::from_le_bytes(body[i..i + 8].try_into().expect("a slice of eight bytes"))
        };
        let tree = |i: usize| {
            let (block, height) = (BlockNo(word(i)), word(i + 8));
            let sound = (block.0 == 0) == (height == 0) && height <= u64::from(TREE_HEIGHT_MAX);
            match sound {
                true => Ok(TreeRoot { block, height: height as u8 }),
                false => Err(Error::corrupt("root block", at, "impossible root of a tree")),
            }
        };
        Ok(Self {
            objects: tree(0)?,
            extents: tree(16)?,
            names: tree(32)?,
            next_object: word(48),
            free_blocks: word(56),
            groups_ready: word(64),
            object_count: word(72),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_root_survives_the_round_trip() {
        let root = Root {
            objects: TreeRoot { block: BlockNo(99), height: 2 },
            names: TreeRoot { block: BlockNo(5), height: 1 },
            next_object: 7,
            free_blocks: 1 << 40,
            groups_ready: 3,
            object_count: 6,
            ..Root::default()
        };
        let mut body = [0; 100];
        root.encode(&mut body);
        assert_eq!(Root::decode(&body, BlockNo(24)).expect("sound"), root);
    }

    #[test]
    fn an_impossible_height_is_damage() {
        let mut body = [0; 100];
        body[8] = 1;
        assert!(Root::decode(&body, BlockNo(24)).is_err());
        body[0] = 1;
        body[8] = TREE_HEIGHT_MAX + 1;
        assert!(Root::decode(&body, BlockNo(24)).is_err());
    }
}
