//! Opening a store by its path: what is it, may we, and which machinery serves it.
//!
//! Guarantees a typed error that names the path for everything a caller can get wrong, and that
//! the choice of machinery is said in [`crate::BackendInfo`]. Called by the engine and by tests.

use std::fs::FileType;
use std::io;
use std::os::unix::fs::FileTypeExt;
use std::path::PathBuf;
use std::time::Duration;

use crate::backend::block;
use crate::backend::file;
use crate::backend::file::Create;
use crate::backend::ring::RingDevice;
use crate::backend::store::Store;
use crate::backend::store::open_error;
use crate::backend::store::open_failed;
use crate::backend::threads::ThreadsDevice;
use crate::contract::Device;
use crate::error::DeviceErrorKind;
use crate::error::Result;
use crate::geometry::BLOCK_SIZE;

/// Requests in flight unless something else is asked for.
pub const DEPTH_DEFAULT: u32 = 256;

/// The most requests in flight that one may ask for.
pub const DEPTH_MAX: u32 = 4096;

/// How long a claimed block device is tried again.
const CLAIMED_PATIENCE: Duration = Duration::from_millis(500);
const CLAIMED_PAUSE: Duration = Duration::from_millis(10);

/// The largest size that file offsets can express, in bytes.
const BYTES_MAX: u64 = i64::MAX as u64;

/// Which machinery serves the device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum BackendChoice {
    /// The ring; threads where it cannot be had.
    #[default]
    Auto,
    /// The ring, or an error of kind `Unsupported` that says what is missing.
    Ring,
    /// Threads that read and write with blocking calls.
    Threads,
}

/// How to open a regular file or a raw block device.
#[derive(Debug, Clone)]
pub struct OpenOptions {
    path: PathBuf,
    create_bytes: Option<u64>,
    sparse: bool,
    backend: BackendChoice,
    depth: u32,
}

impl OpenOptions {
    /// Opens what stands at `path`, as it is.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            create_bytes: None,
            sparse: false,
            backend: BackendChoice::Auto,
            depth: DEPTH_DEFAULT,
        }
    }

    /// Makes sure that the store has at least `bytes` bytes, a multiple of a block: a missing file
    /// is created, a shorter one grown. Never shrinks or empties anything. A block device must be
    /// as large already.
    pub fn create_bytes(mut self, bytes: u64) -> Self {
        self.create_bytes = Some(bytes);
        self
    }

    /// Does not set the space of a created file aside. Writes are slower then and may fail with
    /// `NoSpace` at any time.
    pub fn sparse(mut self, sparse: bool) -> Self {
        self.sparse = sparse;
        self
    }

    /// Which machinery; [`BackendChoice::Auto`] if not called.
    pub fn backend(mut self, backend: BackendChoice) -> Self {
        self.backend = backend;
        self
    }

    /// Requests in flight at once, 1 to [`DEPTH_MAX`]; [`DEPTH_DEFAULT`] if not called. More wait
    /// in the device, in order.
    pub fn depth(mut self, depth: u32) -> Self {
        self.depth = depth;
        self
    }

    /// Opens the store and takes its exclusive lock.
    ///
    /// Must run inside a tokio runtime with I/O and time enabled, which serves the device from
    /// then on: when that runtime is shut down, the device ends with it (requests fail with
    /// `Gone`), and the store can be opened again. Blocks its thread for a few system calls.
    ///
    /// A block device that was closed a moment ago may still be claimed by the last request of its
    /// former opener, which nobody can take back: a claimed one is tried again for
    /// half a second.
    ///
    /// Errors: `InvalidInput` (nothing there, a directory, zero size, absurd depth), `Locked`
    /// (another opener), `Unsupported` (no ring although [`BackendChoice::Ring`], no runtime),
    /// `NoSpace`, `Io`; a file that was created in vain is removed.
    pub async fn open(self) -> Result<Device> {
        self.check()?;
        let store = self.prepared().await?;
        for note in &store.notes {
            tracing::warn!(path = %self.path.display(), "{note}");
        }
        match self.backend {
            BackendChoice::Threads => self.on_threads(store, "asked for"),
            BackendChoice::Ring | BackendChoice::Auto => self.on_ring(store),
        }
    }

    fn check(&self) -> Result<()> {
        let wrong = |detail: &str| open_error(&self.path, DeviceErrorKind::InvalidInput, detail);
        if self.depth == 0 || self.depth > DEPTH_MAX {
            let detail = format!("depth {} is not within 1 to {DEPTH_MAX}", self.depth);
            return Err(wrong(&detail));
        }
        match self.create_bytes {
            Some(0) => Err(wrong("a store of zero bytes makes no sense")),
            Some(bytes) if bytes > BYTES_MAX => Err(wrong("a store of that size makes no sense")),
            Some(bytes) if !bytes.is_multiple_of(BLOCK_SIZE as u64) => {
                Err(wrong("the size is not a multiple of 4096 bytes"))
            }
            _ => Ok(()),
        }
    }

    async fn prepared(&self) -> Result<Store> {
        // Counted, not timed: a runtime with a paused clock must come to the end as well.
        let tries = CLAIMED_PATIENCE.as_millis() / CLAIMED_PAUSE.as_millis();
        for _ in 0..tries {
            match self.prepare() {
                Err(e) if e.kind == DeviceErrorKind::Locked && self.may_be_claimed() => {
                    tokio::time::sleep(CLAIMED_PAUSE).await;
                }
                found => return found,
            }
        }
        self.prepare()
    }

    /// A block device cannot be given up by hand, as a lock on a file can. Without a runtime nobody waits.
    fn may_be_claimed(&self) -> bool {
        let kind = std::fs::metadata(&self.path).map(|m| m.file_type());
        kind.is_ok_and(|kind| kind.is_block_device())
            && tokio::runtime::Handle::try_current().is_ok()
    }

    fn prepare(&self) -> Result<Store> {
        let path = &self.path;
        let create = self.create_bytes.map(|bytes| Create { bytes, sparse: self.sparse });
        let kind = match std::fs::metadata(path) {
            Ok(metadata) => metadata.file_type(),
            Err(e) if e.kind() == io::ErrorKind::NotFound && create.is_some() => {
                return file::open(path, create);
            }
            Err(e) => return Err(open_failed(path, "looking it up", &e)),
        };
        if kind.is_file() {
            file::open(path, create)
        } else if kind.is_block_device() {
            block::open(path, self.create_bytes.unwrap_or(0))
        } else {
            Err(open_error(path, DeviceErrorKind::InvalidInput, &refusal(kind)))
        }
    }

    fn on_ring(&self, store: Store) -> Result<Device> {
        if tokio::runtime::Handle::try_current().is_err() {
            let detail = "the ring needs a tokio runtime";
            return Err(open_error(&self.path, DeviceErrorKind::Unsupported, detail));
        }
        match RingDevice::start(store, self.depth) {
            Ok(device) => Ok(Device::new(device)),
            Err((_, why)) if self.backend == BackendChoice::Ring => {
                Err(open_error(&self.path, DeviceErrorKind::Unsupported, &why))
            }
            Err((store, why)) => {
                tracing::warn!(path = %self.path.display(), "no ring, threads instead: {why}");
                self.on_threads(store, &why)
            }
        }
    }

    fn on_threads(&self, store: Store, why: &str) -> Result<Device> {
        Ok(Device::new(ThreadsDevice::start(store, self.depth, why)?))
    }
}

fn refusal(kind: FileType) -> String {
    let what = if kind.is_dir() {
        "a directory"
    } else if kind.is_char_device() {
        "a character device"
    } else {
        "a pipe or socket"
    };
    format!("it is {what}, not a regular file or block device")
}
