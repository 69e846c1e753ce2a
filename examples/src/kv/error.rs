//! What can go wrong in the key-value store.
//!
//! Guarantees that bytes from disk and arguments from callers end here and never in a panic; every
//! damage names its page. Clones share the engine's cause, so that all writers of a batch hear it.
//! Used by every file of `kv`.

use crate::kv::limits::KEY_BYTES_MAX;
use crate::kv::limits::VALUE_BYTES_MAX;
use crate::kv::units::LargeId;
use crate::kv::units::PageNo;

/// The result of an operation of the store.
pub type Result<T> = std::result::Result<T, Error>;

/// A failed operation of the store.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A page does not hold what its place in the tree demands.
    #[error("page {page} is damaged: {why}")]
    Damaged {
        /// The page.
        page: PageNo,
        /// What is wrong with it.
        why: &'static str,
    },
    /// The object is no store of this version.
    #[error("not a key-value store: {why}")]
    NotAStore {
        /// What is wrong with it.
        why: &'static str,
    },
    /// The key is empty or too long.
    #[error("a key has 1 to {KEY_BYTES_MAX} bytes, this one {bytes}")]
    KeyLength {
        /// Its length.
        bytes: usize,
    },
    /// The value is too long.
    #[error("a value has at most {VALUE_BYTES_MAX} bytes, this one {bytes}")]
    ValueLength {
        /// Its length.
        bytes: usize,
    },
    /// The atomic group of changes does not fit one transaction.
    #[error("the changes need {bytes} bytes of log, one transaction has {bytes_max}")]
    TooLarge {
        /// What it would need.
        bytes: u64,
        /// What there is.
        bytes_max: u64,
    },
    /// An object that the tree refers to is not there, or shorter than the tree says.
    #[error("the large value {id} is missing or too short")]
    LargeMissing {
        /// Which.
        id: LargeId,
    },
    /// The values that one command asks for are too many for the memory.
    #[error("the values are too long for one reply")]
    ReplyTooLong,
    /// All page numbers are in use (16 TiB).
    #[error("the store has no page number left")]
    Full,
    /// The read was overtaken by too many commits; the store retries it.
    #[error("the view of the read is too old")]
    ViewExpired,
    /// The store is closed.
    #[error("the store is closed")]
    Closed,
    /// The engine failed.
    #[error(transparent)]
    Engine(#[from] foliant::Error),
}

/// Shorthand for a damage.
pub fn damaged<T>(page: PageNo, why: &'static str) -> Result<T> {
    Err(Error::Damaged { page, why })
}
