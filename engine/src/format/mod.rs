//! The format room.
pub mod block;
pub mod root;
