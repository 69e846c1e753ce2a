//! What can be wrong, and how it is told.
//!
//! Guarantees that failures of one kind compare equal by it, so that a log can be made small without
//! turning into another failure. Used by all that play and judge.

use std::fmt;

use foliant::ErrorKind;

/// What kind of failure: shrinking keeps to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Bytes are not what they must be.
    Content,
    /// The size is not what it must be.
    Size,
    /// Extents are out of order, missing, or where there must be none.
    Places,
    /// Something is dirty or promised at rest.
    Balance,
    /// Space did not come back.
    Space,
    /// A verb failed.
    Error(ErrorKind),
    /// Something panicked.
    Panic,
    /// An operation did not end.
    Stuck,
    /// The plain file is not what the oracle says.
    Beside,
    /// The exerciser itself could not go on.
    Setup,
}

/// Why a run failed.
#[derive(Debug, Clone)]
pub struct Failure {
    /// The kind.
    pub kind: Kind,
    /// A sentence.
    pub what: String,
    /// The index of the operation.
    pub at: usize,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "operation {}: {:?}: {}", self.at, self.kind, self.what)
    }
}

impl std::error::Error for Failure {}

impl From<foliant::Error> for Failure {
    fn from(cause: foliant::Error) -> Self {
        fail(Kind::Error(cause.kind()), cause.to_string())
    }
}

impl From<std::io::Error> for Failure {
    fn from(cause: std::io::Error) -> Self {
        fail(Kind::Beside, format!("the plain file: {cause}"))
    }
}

/// A failure; the caller of the play knows the operation.
pub(super) fn fail(kind: Kind, what: impl Into<String>) -> Failure {
    Failure { kind, what: what.into(), at: 0 }
}
