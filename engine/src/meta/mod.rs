//! The meta room.
pub mod tree;
pub mod view;
#[cfg(test)]
pub mod view_model;
