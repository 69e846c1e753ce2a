//! A value: bytes in memory, or an object of its own.
//!
//! Does not read objects. Used by everything between the tree and the replies.

use std::sync::Arc;

use bytes::Bytes;

use crate::kv::pinned::Pinned;
use crate::kv::shelf::Staged;

/// A value that is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// Its bytes.
    Bytes(Bytes),
    /// A large one, which whoever sends it reads piece by piece.
    Large(Pinned),
}

impl Default for Value {
    fn default() -> Self {
        Self::Bytes(Bytes::new())
    }
}

impl Value {
    /// Its length.
    pub fn len(&self) -> usize {
        match self {
            Self::Bytes(bytes) => bytes.len(),
            Self::Large(large) => large.len(),
        }
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Its bytes, unless it is large.
    pub fn bytes(&self) -> Option<&Bytes> {
        match self {
            Self::Bytes(bytes) => Some(bytes),
            Self::Large(_) => None,
        }
    }

    /// Bytes of memory that it takes.
    pub fn held(&self) -> usize {
        match self {
            Self::Bytes(bytes) => bytes.len(),
            // A handle of the object, and a registration.
            Self::Large(_) => 4096,
        }
    }
}

/// A value that a client has sent.
#[derive(Debug, Clone)]
pub enum New {
    /// Its bytes.
    Bytes(Bytes),
    /// A large one, which is on its shelf already.
    Staged(Arc<Staged>),
}

impl New {
    /// Its length.
    pub fn len(&self) -> usize {
        match self {
            Self::Bytes(bytes) => bytes.len(),
            Self::Staged(staged) => staged.len(),
        }
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes of memory that it takes.
    pub fn held(&self) -> usize {
        match self {
            Self::Bytes(bytes) => bytes.len(),
            Self::Staged(_) => 4096,
        }
    }
}

impl<B: Into<Bytes>> From<B> for New {
    fn from(bytes: B) -> Self {
        Self::Bytes(bytes.into())
    }
}
