//! What this crate needs of the kernel's ring, and in words what is missing.
//!
//! Guarantees that a ring which passed `check` can do every operation of `op`. Does not choose
//! another backend: `backend::open` does. Called by `ring` when it is set up.

use std::fmt;
use std::io;

use io_uring::IoUring;
use io_uring::Probe;
use io_uring::opcode;

/// Why a ring cannot be had.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Missing {
    /// The kernel refused to set up a ring, with this error number.
    Setup(i32),
    /// The kernel has rings but not this operation.
    Opcode(&'static str),
    /// The kernel has rings but not this property.
    Feature(&'static str),
}

impl Missing {
    /// The reason behind a failed set-up call.
    pub(crate) fn from_setup(error: &io::Error) -> Self {
        Self::Setup(error.raw_os_error().unwrap_or(libc::EIO))
    }
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Setup(libc::ENOSYS) => f.write_str("the kernel has no io_uring"),
            Self::Setup(libc::EPERM | libc::EACCES) => {
                f.write_str("io_uring is forbidden (seccomp or kernel.io_uring_disabled)")
            }
            Self::Setup(libc::ENOMEM) => {
                f.write_str("no memory for a ring (an old kernel counts it against RLIMIT_MEMLOCK)")
            }
            Self::Setup(libc::EMFILE | libc::ENFILE) => {
                f.write_str("no file descriptor is left for a ring")
            }
            Self::Setup(number) => {
                write!(f, "setting up a ring failed: {}", io::Error::from_raw_os_error(*number))
            }
            Self::Opcode(name) => write!(f, "the kernel's io_uring lacks {name}"),
            Self::Feature(name) => write!(f, "the kernel's io_uring lacks {name}"),
        }
    }
}

/// Every operation that `op` uses.
const OPCODES: [(u8, &str); 8] = [
    (opcode::Read::CODE, "READ"),
    (opcode::Write::CODE, "WRITE"),
    (opcode::ReadFixed::CODE, "READ_FIXED"),
    (opcode::WriteFixed::CODE, "WRITE_FIXED"),
    (opcode::Readv::CODE, "READV"),
    (opcode::Writev::CODE, "WRITEV"),
    (opcode::Fsync::CODE, "FSYNC"),
    (opcode::Fallocate::CODE, "FALLOCATE"),
];

/// What a ring can do beyond what is needed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Abilities {
    /// `READV_FIXED` and `WRITEV_FIXED`.
    pub(crate) registered_vectors: bool,
}

/// Whether the ring can do all that is needed, and what else.
pub(crate) fn check(ring: &IoUring) -> Result<Abilities, Missing> {
    let features = [
        (ring.params().is_feature_nodrop(), "NODROP (completions are never lost)"),
        (ring.params().is_feature_submit_stable(), "SUBMIT_STABLE"),
        (ring.params().is_feature_ext_arg(), "EXT_ARG (waiting with a bound)"),
    ];
    if let Some((_, name)) = features.iter().find(|(present, _)| !present) {
        return Err(Missing::Feature(name));
    }
    let mut probe = Probe::new();
    ring.submitter().register_probe(&mut probe).map_err(|_| Missing::Feature("PROBE"))?;
    match OPCODES.iter().find(|(code, _)| !probe.is_supported(*code)) {
        Some((_, name)) => Err(Missing::Opcode(name)),
        None => Ok(Abilities {
            registered_vectors: probe.is_supported(opcode::ReadvFixed::CODE)
                && probe.is_supported(opcode::WritevFixed::CODE),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_says_what_to_look_at() {
        let told = |number| Missing::from_setup(&io::Error::from_raw_os_error(number)).to_string();
        assert!(told(libc::EPERM).contains("seccomp"));
        assert!(told(libc::ENOSYS).contains("no io_uring"));
        assert!(told(libc::ENOMEM).contains("MEMLOCK"));
        assert!(told(libc::EINVAL).contains("Invalid argument"));
        assert!(Missing::Opcode("FSYNC").to_string().contains("FSYNC"));
    }
}
