//! Names: from bytes to objects, flat, in one tree.

pub mod batch;
pub mod ops;
pub mod tree;
