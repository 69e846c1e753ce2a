//! The extent room.
pub mod lookup;
pub mod replace;

pub use crate::format::extent_record::Extent;

#[cfg(test)]
mod tests;
