//! Failures as programs hear them: a number of Linux.
//!
//! | engine | errno | |
//! |---|---|---|
//! | `NotFound` | ENOENT | |
//! | `AlreadyExists` | EEXIST | |
//! | `InvalidInput` | EINVAL | |
//! | `NoSpace` | ENOSPC | decided before anything was accepted |
//! | `TooLarge` | EFBIG | one change is larger than the journal takes; the limits of `fuse` keep below |
//! | `OutOfMemory` | ENOMEM | |
//! | `TimedOut` | EAGAIN | the same call may succeed |
//! | `Closed` | ESTALE | removed meanwhile, or the server stops; the kernel looks the path up again |
//! | all others | EIO | damage, a device that fails, writes that are stopped |
//!
//! Guarantees that every failure of the engine has a number, and that what a disk did wrong is logged. Called
//! by all of `fuse`.

use foliant::ErrorKind;
use fuser::Errno;

/// Why a request was not done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fault(pub Errno);

/// The result of a request.
pub type Outcome<T> = Result<T, Fault>;

impl From<Errno> for Fault {
    fn from(errno: Errno) -> Self {
        Self(errno)
    }
}

impl From<foliant::Error> for Fault {
    fn from(cause: foliant::Error) -> Self {
        let errno = match cause.kind() {
            ErrorKind::NotFound => Errno::ENOENT,
            ErrorKind::AlreadyExists => Errno::EEXIST,
            ErrorKind::InvalidInput => Errno::EINVAL,
            ErrorKind::NoSpace => Errno::ENOSPC,
            ErrorKind::TooLarge => Errno::EFBIG,
            ErrorKind::OutOfMemory => Errno::ENOMEM,
            ErrorKind::TimedOut => Errno::EAGAIN,
            ErrorKind::Closed => Errno::ESTALE,
            _ => {
                tracing::warn!(%cause, "a request fails");
                Errno::EIO
            }
        };
        Self(errno)
    }
}

impl Fault {
    /// A structure of the file system is not what it must be.
    pub fn damaged(what: &str, ino: u64) -> Self {
        tracing::warn!(ino, "{what}");
        Self(Errno::EIO)
    }

    /// Whether room is what was missing.
    pub fn is_no_space(self) -> bool {
        self.0 == Errno::ENOSPC
    }
}

#[cfg(test)]
mod tests {
    use foliant::Error;

    use super::*;

    #[test]
    fn what_the_engine_says_is_what_programs_hear() {
        let said = [
            (ErrorKind::NotFound, Errno::ENOENT),
            (ErrorKind::AlreadyExists, Errno::EEXIST),
            (ErrorKind::InvalidInput, Errno::EINVAL),
            (ErrorKind::NoSpace, Errno::ENOSPC),
            (ErrorKind::TooLarge, Errno::EFBIG),
            (ErrorKind::OutOfMemory, Errno::ENOMEM),
            (ErrorKind::TimedOut, Errno::EAGAIN),
            (ErrorKind::Closed, Errno::ESTALE),
            (ErrorKind::Corrupt, Errno::EIO),
            (ErrorKind::Device, Errno::EIO),
            (ErrorKind::WritesStopped, Errno::EIO),
        ];
        for (kind, heard) in said {
            assert_eq!(Fault::from(Error::new(kind, "why")).0, heard, "{kind:?}");
        }
    }
}
