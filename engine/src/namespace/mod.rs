//! The namespace room.
pub mod tree;
