//! Builders: how to make a store and how to open one.
//!
//! Guarantees that every setting has a default and a checked range, and that a wrong one is a typed
//! error that touched nothing. Does not keep anything open on failure. Called by users.

use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;

use foliant_device::Device;
use foliant_device::backend;
use foliant_device::backend::BackendChoice;
use foliant_device::wrap::count::CountDevice;
use foliant_device::wrap::watch::WatchDevice;

use crate::api::engine::Engine;
use crate::api::handle::Inner;
use crate::error::Error;
use crate::error::Result;
use crate::limits::MEMORY_BYTES_MIN;
use crate::units::BLOCK;
use crate::volume::make;
use crate::volume::make::MakeOptions;
use crate::volume::mount;
use crate::volume::mount::MountOptions;

/// Memory budget when none is given. A fixed number: a share of the host's memory would be wrong in
/// every container.
const MEMORY_BYTES_DEFAULT: u64 = 64 << 20;
/// Largest budget that is believed to be meant (1 TiB).
const MEMORY_BYTES_MAX: u64 = 1 << 40;

#[derive(Debug)]
enum Target {
    Path(PathBuf),
    Device(Device),
}

/// How to make an empty store.
#[derive(Debug)]
pub struct FormatOptions {
    target: Target,
    size_bytes: Option<u64>,
    sparse: bool,
    make: MakeOptions,
}

impl FormatOptions {
    fn new(target: Target) -> Self {
        let make = MakeOptions { journal_bytes: None, force: false, uuid: fresh_uuid() };
        Self { target, size_bytes: None, sparse: false, make }
    }

    pub(super) fn path(path: &Path) -> Self {
        Self::new(Target::Path(path.to_owned()))
    }

    pub(super) fn device(device: Device) -> Self {
        Self::new(Target::Device(device))
    }

    /// Size of the store file in bytes, rounded down to whole blocks. Needed when the file does not
    /// exist; not allowed for a block device.
    pub fn size_bytes(mut self, bytes: u64) -> Self {
        self.size_bytes = Some(bytes);
        self
    }

    /// Size of the journal in bytes, at least 4 MiB. Default: 1/64 of the device, at most 128 MiB.
    pub fn journal_bytes(mut self, bytes: u64) -> Self {
        self.make.journal_bytes = Some(bytes);
        self
    }

    /// Leaves a new file sparse. Default: room is allocated at once, because writes into a sparse file
    /// cost the kernel a worker thread each and can fail with `NoSpace` later.
    pub fn sparse(mut self, sparse: bool) -> Self {
        self.sparse = sparse;
        self
    }

    /// Replaces a store that is already there. Default: `AlreadyExists`.
    pub fn force(mut self, force: bool) -> Self {
        self.make.force = force;
        self
    }

    /// Identity of the store, instead of a random one.
    pub fn uuid(mut self, uuid: [u8; 16]) -> Self {
        self.make.uuid = uuid;
        self
    }

    /// Makes the store; durable on return.
    ///
    /// Errors: `AlreadyExists`, `InvalidInput`, `NoSpace`, `Locked`, `Device`. Dropping the future
    /// leaves something that opens as "not a store" or an empty store, never a half-made one.
    pub async fn run(self) -> Result<()> {
        match self.target {
            Target::Device(device) => make::make(&device, &self.make).await,
            Target::Path(path) => {
                let mut options = backend::OpenOptions::new(&path).sparse(self.sparse);
                if let Some(bytes) = self.size_bytes {
                    options = options.create_bytes(bytes / BLOCK * BLOCK);
                }
                let device = options.open().await?;
                let made = make::make(&device, &self.make).await;
                let closed = device.close().await.map_err(Error::from);
                made.and(closed)
            }
        }
    }
}

/// How to open a store.
#[derive(Debug)]
pub struct OpenOptions {
    target: Target,
    memory_bytes: u64,
    backend: BackendChoice,
    discards: bool,
    cleaning: bool,
}

impl OpenOptions {
    fn new(target: Target) -> Self {
        let backend = BackendChoice::Auto;
        let memory_bytes = MEMORY_BYTES_DEFAULT;
        Self { target, memory_bytes, backend, discards: false, cleaning: true }
    }

    pub(super) fn path(path: &Path) -> Self {
        Self::new(Target::Path(path.to_owned()))
    }

    pub(super) fn device(device: Device) -> Self {
        Self::new(Target::Device(device))
    }

    /// The memory budget in bytes, 8 MiB to 1 TiB; default 64 MiB. Everything the engine holds counts
    /// against it.
    pub fn memory_bytes(mut self, bytes: u64) -> Self {
        self.memory_bytes = bytes;
        self
    }

    /// Uses pread and pwrite on threads instead of a ring.
    pub fn threads_backend(mut self, on: bool) -> Self {
        self.backend = if on { BackendChoice::Threads } else { BackendChoice::Auto };
        self
    }

    /// Tells the device which freed blocks hold nothing of value, in batches of 1 MiB and more, in runs of 64 KiB and
    /// more; those that were freed since the store was opened. Default: no. In a store file it gives space back to
    /// the file system, and costs what writing into a sparse file costs; on a device it is what `fstrim` would
    /// do.
    pub fn discard(mut self, on: bool) -> Self {
        self.discards = on;
        self
    }

    /// Whether the engine moves stored blocks by itself, while nobody else does much: above 70 % full, so that free
    /// space lies in long runs and scattered writes become large ones; and, after ten quiet seconds, 4 MiB in a
    /// second, so that objects that were overwritten at random lie in order again. Default: yes. The verbs
    /// [`Engine::clean`] and [`Object::defragment`](crate::Object::defragment) work either way.
    pub fn background_cleaning(mut self, on: bool) -> Self {
        self.cleaning = on;
        self
    }

    /// Opens the store, after recovery if it was not closed.
    ///
    /// Errors: `NotAStore`, `Incompatible`, `Corrupt`, `Locked`, `InvalidInput`, `OutOfMemory`, `Device`.
    /// Must be called inside a tokio runtime, which has to outlive the engine.
    pub async fn run(self) -> Result<Engine> {
        let range = MEMORY_BYTES_MIN..=MEMORY_BYTES_MAX;
        if !range.contains(&self.memory_bytes) {
            let why = format!("a memory budget of {} bytes is not in {range:?}", self.memory_bytes);
            return Err(Error::invalid(why));
        }
        let device = match self.target {
            Target::Device(device) => device,
            Target::Path(path) => {
                backend::OpenOptions::new(&path).backend(self.backend).open().await?
            }
        };
        let watched = WatchDevice::new(device.clone());
        let watch = watched.watch();
        let counted = CountDevice::new(Device::new(watched));
        let counters = counted.counters();
        let started = tokio::time::Instant::now();
        let options = MountOptions {
            memory_bytes: self.memory_bytes,
            discards: self.discards,
            cleaning: self.cleaning,
            counters: counters.clone(),
            watch,
        };
        match mount::open(Device::new(counted), options).await {
            Ok(volume) => {
                let elapsed = started.elapsed();
                let volume = Arc::new(volume);
                let memory_bytes = self.memory_bytes;
                let inner = Inner { volume, counters, opened_in: elapsed, memory_bytes };
                Ok(Engine::new(Arc::new(inner)))
            }
            Err(cause) => {
                // The lock on the device must not outlive the failed open.
                let _ = device.close().await;
                Err(cause)
            }
        }
    }
}

impl Engine {
    /// Makes an empty store in a file or on a block device.
    pub fn format(path: impl AsRef<Path>) -> FormatOptions {
        FormatOptions::path(path.as_ref())
    }

    /// Opens the store in a file or on a block device.
    pub fn open(path: impl AsRef<Path>) -> OpenOptions {
        OpenOptions::path(path.as_ref())
    }

    /// Makes an empty store on any device.
    pub fn format_device(device: Device) -> FormatOptions {
        FormatOptions::device(device)
    }

    /// Opens the store on any device.
    pub fn open_device(device: Device) -> OpenOptions {
        OpenOptions::device(device)
    }
}

/// A random identity: the only draw of chance in this crate, and only where none was given.
fn fresh_uuid() -> [u8; 16] {
    uuid::Uuid::new_v4().into_bytes()
}
