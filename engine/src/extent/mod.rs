//! The extent room.
pub mod lookup;
pub mod owners;
pub mod remap;
pub mod replace;

pub use crate::format::extent_record::Extent;
pub use lookup::Lookup;
pub use lookup::list;
pub use lookup::lookup;
pub use remap::remap;
pub use remap::unwritten_in;
pub use replace::replace;

#[cfg(test)]
mod tests;
