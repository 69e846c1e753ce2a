//! Looking at a store from outside: is it sound, what is in it, what can be saved.
//!
//! | call | what it does |
//! |---|---|
//! | [`check`](check()) | every structure against every other; a [`Report`] |
//! | [`repair`](repair()) | mends what has one right answer, through the journal |
//! | [`export`](export()), [`export_object`] | objects out of a store, damaged or not |
//! | [`info`], [`dump`](dump()) | the store, or one structure of it, in words |
//!
//! Guarantees of all but repair: the device is only read. The store is seen as it would be after
//! recovery: the log is replayed in memory. Nobody may write to the device meanwhile; [`open`] takes
//! the lock that sees to it. Whatever the bytes are: no panic, no endless walk, memory within bounds.
//!
//! Does not run inside an open engine. Called by users, by the command `foliant`, and at the end of
//! every crash test.

mod data;
mod dump;
mod export;
mod groups;
mod items;
mod owners;
mod repair;
mod report;
mod source;
mod survey;
mod walk;

use std::path::Path;

use foliant_device::Device;
use foliant_device::backend;

use crate::error::Result;

pub use dump::Structure;
pub use dump::dump;
pub use dump::info;
pub use export::Exported;
pub use export::Which;
pub use export::export;
pub use export::export_object;
pub use repair::Repaired;
pub use repair::repair;
pub use report::Counts;
pub use report::Fault;
pub use report::Finding;
pub use report::Place;
pub use report::Report;
pub use source::Options;
pub use source::Progress;
pub use survey::check;

/// Opens a file or a block device and takes its lock, so that nobody else changes it.
///
/// Errors: `Locked` when an engine has it open, `InvalidInput`, `Device`. Must be called inside a tokio
/// runtime, which has to outlive the device.
pub async fn open(path: impl AsRef<Path>) -> Result<Device> {
    Ok(backend::OpenOptions::new(path.as_ref()).open().await?)
}
