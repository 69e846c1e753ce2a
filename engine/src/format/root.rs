//! The root block: where the three trees start, and the counters of the volume.
//!
//! Guarantees that what was encoded decodes to the same value, and that a damaged body is a typed
//! error. Does not read or write blocks. Called by `meta`.

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
