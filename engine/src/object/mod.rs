//! The object room.
pub mod records;
