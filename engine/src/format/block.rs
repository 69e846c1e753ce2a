//! The header that every metadata block carries.
//!
//! Guarantees: see below. Called by `meta` and the block formats.

/// What a metadata block holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
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

/// Bytes of the header; the body follows.
pub const BODY: usize = 24;
