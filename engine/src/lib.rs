//! Foliant: an async storage engine to embed.
#![forbid(unsafe_code)]

mod alloc;
mod api;
pub mod error;
mod extent;
mod folio;
mod format;
mod iomap;
mod journal;
mod kit;
pub mod limits;
mod meta;
mod namespace;
mod object;
mod reclaim;
pub mod units;
mod volume;
