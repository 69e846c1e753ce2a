//! The iomap room.
pub mod contract;
