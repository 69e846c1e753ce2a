//! The folio room: memory of file ranges, with per-block bits, locks and dirty counts.
pub mod cache;
pub mod dirty;
pub mod evict;
// The central type of the room bears its name.
#[allow(clippy::module_inception)]
pub mod folio;
pub mod index;
pub mod lock;
pub mod state;

pub use dirty::DirtyLimits;
pub use folio::Folio;

#[cfg(test)]
mod tests;
