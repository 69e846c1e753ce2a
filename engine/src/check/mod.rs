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

#[cfg(test)]
mod tests {
    use foliant_device::backend::mem::MemDevice;

    use super::*;
    use crate::error::ErrorKind;

    fn is_send<T: Send>(future: T) -> T {
        future
    }

    #[tokio::test]
    async fn every_call_can_be_spawned_and_refuses_what_is_no_store() {
        let device = Device::new(MemDevice::new(2_000));
        let options = Options::default();
        let mut out = Vec::new();
        let refusals = [
            is_send(check(&device, &options)).await.err(),
            is_send(repair(&device, &options)).await.err(),
            is_send(info(&device, &options, &mut out)).await.err(),
            is_send(dump(&device, &options, Structure::Root, &mut out)).await.err(),
            is_send(export_object(&device, &options, Which::Name(b"a"), &mut Vec::new()))
                .await
                .err(),
        ];
        for refusal in refusals {
            assert_eq!(refusal.map(|cause| cause.kind()), Some(ErrorKind::NotAStore));
        }
        let little = Options { memory_bytes: 1 << 20, ..options };
        let refusal = check(&device, &little).await.expect_err("too little memory");
        assert_eq!(refusal.kind(), ErrorKind::InvalidInput);
    }
}
