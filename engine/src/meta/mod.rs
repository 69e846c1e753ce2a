//! The meta room.
pub mod view;
