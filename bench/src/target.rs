//! What a workload asks of the thing it measures.
//!
//! A target stores one long array of bytes. It guarantees that a completed `commit`, and every
//! completed `write` before a completed `sync`, is there after a reopen. Content is made and seen
//! in the target's own memory where it can be, so that no target pays for a copy that only the
//! harness wants. Implementations: `targets/`. Called by `run.rs` and `fill.rs`.

use std::future::Future;
use std::path::PathBuf;

use anyhow::Result;
use foliant_device::wrap::count::Snapshot;
use serde::Serialize;

/// How a target came back after it was closed or killed.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Recovery {
    pub transactions: u64,
    pub bytes_replayed: u64,
    pub blocks_written_home: u64,
    pub elapsed_ms: f64,
}

/// Where a target lives, and how large it is.
#[derive(Debug, Clone)]
pub struct Place {
    pub path: PathBuf,
    /// A block device: it has its size and is never created or removed.
    pub device: bool,
    /// Bytes of user data.
    pub size: u64,
    /// Bytes of the file around it, for targets that need room beyond the data.
    pub store: u64,
    /// Memory that the target may use, in bytes.
    pub memory: u64,
    /// Write the whole file once before it is used.
    pub write_out: bool,
}

/// Totals since the target was opened; `None` is what the target does not have.
#[derive(Debug, Clone, Copy, Default)]
pub struct Counters {
    pub device: Option<Snapshot>,
    pub cache_hits: Option<u64>,
    pub cache_misses: Option<u64>,
    pub commits: Option<u64>,
    pub commit_groups: Option<u64>,
    pub checkpoints: Option<u64>,
}

/// One array of bytes under measurement. Clones are the same target.
pub trait Target: Clone + Send + Sync + 'static {
    /// The name on the command line.
    const NAME: &'static str;
    /// It has a cache and works ahead, so that one client is enough where order allows it.
    const CACHES: bool;

    /// Makes an empty target at `place`, whatever was there.
    fn make(place: &Place) -> impl Future<Output = Result<()>> + Send;

    /// Opens what `make` made.
    fn open(place: &Place) -> impl Future<Output = Result<Self>> + Send;

    /// Bytes that can be read, from zero on.
    fn size(&self) -> u64;

    /// Reads `scratch.len()` bytes and shows them to `see`; `scratch` may be used for them.
    fn read<F>(
        &self,
        offset: u64,
        scratch: &mut [u8],
        see: F,
    ) -> impl Future<Output = Result<()>> + Send
    where
        F: FnOnce(&[u8]) + Send;

    /// Writes `scratch.len()` bytes that `fill` makes; `scratch` may be used for them.
    fn write<F>(
        &self,
        offset: u64,
        scratch: &mut [u8],
        fill: F,
    ) -> impl Future<Output = Result<()>> + Send
    where
        F: FnOnce(&mut [u8]) + Send;

    /// As `write`, and durable when it completes.
    fn commit<F>(
        &self,
        offset: u64,
        scratch: &mut [u8],
        fill: F,
    ) -> impl Future<Output = Result<()>> + Send
    where
        F: FnOnce(&mut [u8]) + Send;

    /// Makes every completed write durable.
    fn sync(&self) -> impl Future<Output = Result<()>> + Send;

    /// Totals since open.
    fn counters(&self) -> Counters;

    /// Which machinery runs, and why.
    fn backend(&self) -> String;

    /// How the open recovered, if there is such a thing.
    fn recovery(&self) -> Option<Recovery>;

    /// Stops the target. All clones must be gone.
    fn close(self) -> impl Future<Output = Result<()>> + Send;
}
