//! Typed device errors: which operation, at which bytes, of which kind, with the cause.
//!
//! Guarantees that every error names its place. Does not decide what is retried: that is the
//! caller's policy. Used by every file of this crate and wrapped by the engine's own error.

use std::io;

/// What a device was doing when it failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// Opening, probing or locking.
    Open,
    /// Reading blocks.
    Read,
    /// Writing blocks.
    Write,
    /// Making earlier writes durable.
    Flush,
    /// Telling the device that blocks hold nothing of value.
    Discard,
    /// Writing zeroes without a buffer.
    WriteZeroes,
    /// Closing.
    Close,
}

/// The class of a failure; small on purpose, so that callers can match on all of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum DeviceErrorKind {
    /// The range does not lie on the device.
    OutOfRange,
    /// Another opener, in this or another process, holds the exclusive lock.
    Locked,
    /// The backing store has no room for the write.
    NoSpace,
    /// The medium reported an error for this range.
    Io,
    /// The device is closed, removed or powered off.
    Gone,
    /// The operation or the configuration is not supported here.
    Unsupported,
    /// An argument makes no sense (zero size, absurd depth, odd alignment).
    InvalidInput,
}

/// A failed device operation.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{op:?} of {len} bytes at byte {offset} failed ({kind:?}): {detail}")]
pub struct DeviceError {
    /// What was asked.
    pub op: Operation,
    /// First byte of the request on the device.
    pub offset: u64,
    /// Length of the request in bytes.
    pub len: u64,
    /// The class of the failure.
    pub kind: DeviceErrorKind,
    /// What the system said, in words.
    pub detail: String,
}

impl DeviceError {
    /// An error of `kind` with its place and a sentence.
    pub fn new(
        op: Operation,
        offset: u64,
        len: u64,
        kind: DeviceErrorKind,
        detail: impl Into<String>,
    ) -> Self {
        Self { op, offset, len, kind, detail: detail.into() }
    }

    /// An error made from what the system returned.
    pub fn from_io(op: Operation, offset: u64, len: u64, source: &io::Error) -> Self {
        let kind = match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => DeviceErrorKind::NoSpace,
            io::ErrorKind::Unsupported => DeviceErrorKind::Unsupported,
            io::ErrorKind::InvalidInput => DeviceErrorKind::InvalidInput,
            _ => match source.raw_os_error() {
                Some(libc::ENODEV | libc::ENXIO | libc::ESHUTDOWN) => DeviceErrorKind::Gone,
                Some(libc::EOPNOTSUPP) => DeviceErrorKind::Unsupported,
                _ => DeviceErrorKind::Io,
            },
        };
        Self::new(op, offset, len, kind, source.to_string())
    }
}

/// The result of a device operation.
pub type Result<T> = std::result::Result<T, DeviceError>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_system_says_becomes_a_kind() {
        for (number, kind) in [
            (libc::EIO, DeviceErrorKind::Io),
            (libc::ENOSPC, DeviceErrorKind::NoSpace),
            (libc::EDQUOT, DeviceErrorKind::NoSpace),
            (libc::ENODEV, DeviceErrorKind::Gone),
            (libc::ENXIO, DeviceErrorKind::Gone),
            (libc::EOPNOTSUPP, DeviceErrorKind::Unsupported),
            (libc::EINVAL, DeviceErrorKind::InvalidInput),
            (libc::EBADF, DeviceErrorKind::Io),
        ] {
            let source = io::Error::from_raw_os_error(number);
            let error = DeviceError::from_io(Operation::Write, 4096, 512, &source);
            assert_eq!(error.kind, kind, "{source}");
            let told = error.to_string();
            assert!(told.contains("512 bytes at byte 4096"), "no place: {told}");
        }
    }
}
