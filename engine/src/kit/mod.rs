//! The kit room.
pub mod bitset;
pub mod checksum;
