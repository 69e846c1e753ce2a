//! The engine's errors: small outside (`kind`), rich inside (what, where, why).
//!
//! Guarantees: every error that stems from the disk names the place; clones share the cause, so
//! that every waiter can hear the same failure. Does not decide what is retried. Used everywhere.

use std::fmt;
use std::sync::Arc;

use foliant_device::DeviceError;
use foliant_device::DeviceErrorKind;

use crate::units::BlockNo;

/// The class of a failure; callers can match on all of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// No object or name of this kind.
    NotFound,
    /// The name is taken.
    AlreadyExists,
    /// An argument is out of range or makes no sense; nothing was touched.
    InvalidInput,
    /// Bytes on the disk are not what was written there.
    Corrupt,
    /// The device holds no store.
    NotAStore,
    /// The store was made by a newer, incompatible version.
    Incompatible,
    /// There is no room on the device; decided before anything was accepted.
    NoSpace,
    /// The memory budget was exhausted for longer than the deadline.
    OutOfMemory,
    /// A transaction is larger than the journal can take.
    TooLarge,
    /// The device failed.
    Device,
    /// Another opener holds the store.
    Locked,
    /// An earlier failure of the journal or of a flush stopped all writes; reads go on.
    WritesStopped,
    /// The engine or the object is closed or removed.
    Closed,
    /// A wait exceeded its bound; the error names the wait.
    TimedOut,
}

/// A failed engine operation.
#[derive(Clone)]
pub struct Error {
    inner: Arc<Inner>,
}

struct Inner {
    kind: ErrorKind,
    message: String,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

/// The result of an engine operation.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// An error of `kind` with a sentence that says verb, place and reason.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { inner: Arc::new(Inner { kind, message: message.into(), source: None }) }
    }

    /// Bytes at `block` are not a sound `what`.
    pub fn corrupt(what: &str, block: BlockNo, why: impl fmt::Display) -> Self {
        Self::new(ErrorKind::Corrupt, format!("{what} at block {block} is damaged: {why}"))
    }

    /// A checksum did not match.
    pub fn checksum(what: &str, block: BlockNo, expected: u32, got: u32) -> Self {
        Self::corrupt(what, block, format!("checksum {got:#010x}, expected {expected:#010x}"))
    }

    /// An argument that cannot be served.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::InvalidInput, message)
    }

    /// The same failure, told to somebody whose writes it stops.
    pub fn writes_stopped(cause: &Self) -> Self {
        let message = format!("writes are stopped: {cause}");
        let source: Box<dyn std::error::Error + Send + Sync> = Box::new(cause.clone());
        let inner = Inner { kind: ErrorKind::WritesStopped, message, source: Some(source) };
        Self { inner: Arc::new(inner) }
    }

    /// The class of the failure.
    pub fn kind(&self) -> ErrorKind {
        self.inner.kind
    }

    /// Whether the same call may succeed later without repair.
    pub fn is_retryable(&self) -> bool {
        matches!(
            self.kind(),
            ErrorKind::OutOfMemory | ErrorKind::TimedOut | ErrorKind::Locked | ErrorKind::NoSpace
        )
    }

    /// Whether stored bytes are damaged.
    pub fn is_corruption(&self) -> bool {
        self.kind() == ErrorKind::Corrupt
    }

    /// Whether the medium refused these very bytes, and another place may take them.
    pub fn is_of_the_medium(&self) -> bool {
        let source = self.inner.source.as_ref().and_then(|source| source.downcast_ref());
        source.is_some_and(|cause: &DeviceError| cause.kind == DeviceErrorKind::Io)
    }

    /// Whether room on the device is what was missing.
    pub fn is_no_space(&self) -> bool {
        self.kind() == ErrorKind::NoSpace
    }
}

impl From<DeviceError> for Error {
    fn from(cause: DeviceError) -> Self {
        let kind = match cause.kind {
            DeviceErrorKind::Locked => ErrorKind::Locked,
            DeviceErrorKind::NoSpace => ErrorKind::NoSpace,
            DeviceErrorKind::InvalidInput => ErrorKind::InvalidInput,
            _ => ErrorKind::Device,
        };
        let message = cause.to_string();
        Self { inner: Arc::new(Inner { kind, message, source: Some(Box::new(cause)) }) }
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.inner.kind, self.inner.message)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.inner.message)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        let source = self.inner.source.as_deref()?;
        Some(source)
    }
}
