//! Errors as the protocol tells them: a number that the client's kernel knows, and a sentence.
//!
//! Guarantees that every failure of the engine has a number. Does not log. Called by `request`,
//! `export` and `session`.

use foliant::ErrorKind;

/// The protocol's error numbers, which are those of Linux.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Errno {
    /// The export is read-only.
    Perm = 1,
    /// The device, or what it holds, is damaged.
    Io = 5,
    /// The memory budget is used up.
    NoMemory = 12,
    /// The request makes no sense, or lies outside.
    Invalid = 22,
    /// The store is full, or the export ends before the write does.
    NoSpace = 28,
    /// The payload is longer than this server takes.
    Overflow = 75,
    /// It would not be faster than writing zeroes.
    NotSupported = 95,
    /// The server stops.
    Shutdown = 108,
}

/// Why a request was not done.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{why}")]
pub struct Refusal {
    /// For the client's kernel.
    pub errno: Errno,
    /// For whoever reads its log.
    pub why: String,
}

impl Refusal {
    /// A refusal with its reason.
    pub fn new(errno: Errno, why: impl Into<String>) -> Self {
        Self { errno, why: why.into() }
    }
}

impl From<foliant::Error> for Refusal {
    fn from(cause: foliant::Error) -> Self {
        let errno = match cause.kind() {
            ErrorKind::NoSpace => Errno::NoSpace,
            ErrorKind::OutOfMemory => Errno::NoMemory,
            ErrorKind::InvalidInput => Errno::Invalid,
            ErrorKind::Closed => Errno::Shutdown,
            // A device that fails, writes that are stopped, damage, waits that did not end: to a
            // disk's user all of that is one thing.
            _ => Errno::Io,
        };
        Self::new(errno, cause.to_string())
    }
}

#[cfg(test)]
mod tests {
    use foliant::Error;

    use super::*;

    #[test]
    fn what_the_engine_says_is_what_the_client_hears() {
        let said = [
            (ErrorKind::NoSpace, Errno::NoSpace),
            (ErrorKind::Device, Errno::Io),
            (ErrorKind::WritesStopped, Errno::Io),
            (ErrorKind::Corrupt, Errno::Io),
            (ErrorKind::TimedOut, Errno::Io),
            (ErrorKind::OutOfMemory, Errno::NoMemory),
            (ErrorKind::InvalidInput, Errno::Invalid),
            (ErrorKind::Closed, Errno::Shutdown),
        ];
        for (kind, heard) in said {
            let refusal = Refusal::from(Error::new(kind, "this is why"));
            assert_eq!((refusal.errno, refusal.why.as_str()), (heard, "this is why"), "{kind:?}");
        }
    }
}
