//! Foliant: an async storage engine to embed in services.
//!
#![doc = include_str!("../../README.md")]
//!
//! # The house
//!
//! Rooms, from the roof down; imports run downward, and `tests/tidy.rs` holds them to it. The design
//! is told in [`doc`].
//!
//! | room | what it is |
//! |---|---|
//! | `api` | [`Engine`], [`Object`], [`Transaction`]: the public verbs |
//! | [`check`] | looking from outside: is a store sound, repair, export, dump |
//! | `volume` | make, mount, recover, flusher: starts, paces and stops all below |
//! | `namespace` | names to objects |
//! | `object` | the provider: where an object's bytes lie; logged writes; truncate, punch, preallocate |
//! | `alloc`, `extent` | where is space; which bytes lie where |
//! | `meta` | several metadata blocks changed at once; checkpoint, recovery |
//! | `journal`, `iomap`, `reclaim` | the log; bytes between caller, folio and device; giving memory back |
//! | `format`, `folio` | bytes on disk; memory of file ranges |
//! | `kit` | small tools without a domain |
//! | [`units`], [`limits`], [`error`] | vocabulary, every bound, typed errors |
#![forbid(unsafe_code)]

mod alloc;
mod api;
pub mod check;
pub mod doc;
pub mod error;
mod extent;
mod folio;
mod format;
mod iomap;
mod journal;
mod kit;
pub mod limits;
mod meta;
#[cfg(test)]
#[cfg(feature = "model")]
mod models;
mod namespace;
mod object;
mod reclaim;
#[cfg(feature = "testing")]
pub mod testing;
pub mod units;
mod volume;

pub use api::CleanReport;
pub use api::Commit;
pub use api::Damage;
pub use api::DefragmentReport;
pub use api::DirectBuffer;
pub use api::Durability;
pub use api::Engine;
pub use api::ExtentInfo;
pub use api::ExtentState;
pub use api::FailedObject;
pub use api::FormatOptions;
pub use api::FreeSpace;
pub use api::Health;
pub use api::Object;
pub use api::OpenOptions;
pub use api::Piece;
pub use api::RecoveryReport;
pub use api::Scrub;
pub use api::ScrubReport;
pub use api::Stats;
pub use api::Transaction;
pub use error::Error;
pub use error::ErrorKind;
pub use error::Result;
pub use volume::resume::Resumed;
pub use volume::stall::Stalled;
