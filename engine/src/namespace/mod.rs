//! Names: from bytes to objects, flat, in one tree.

pub mod ops;
pub mod tree;
