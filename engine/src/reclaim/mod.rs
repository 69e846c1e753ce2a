//! The reclaim room: which clean memory is dropped when memory is wanted.
pub mod ghost;
pub mod lru;
pub mod pressure;
pub mod shrink;
pub mod shrinker;

pub use shrink::Reclaim;

#[cfg(test)]
mod tests;
