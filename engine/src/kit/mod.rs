//! The kit room.
pub mod memory;
pub mod range_lock;
