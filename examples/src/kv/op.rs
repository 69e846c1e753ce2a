//! What a client asks to be changed, and what became of it.
//!
//! Guarantees that an operation in the writer's queue is within bounds: `check` runs before. Does
//! not know pages. Called by `store` and `writer`.

use bytes::Bytes;

use crate::kv::error::Error;
use crate::kv::error::Result;
use crate::kv::limits::KEY_BYTES_MAX;
use crate::kv::limits::VALUE_BYTES_MAX;

/// The condition of a put.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum When {
    /// None.
    Always,
    /// The key is not there.
    Missing,
    /// The key is there.
    Present,
}

/// One change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Op {
    /// Stores a value.
    Put {
        /// Its key.
        key: Bytes,
        /// Its bytes.
        value: Bytes,
        /// Whether at all.
        when: When,
    },
    /// Takes a key away.
    Delete {
        /// The key.
        key: Bytes,
    },
    /// Takes all keys away. Alone in its group.
    Clear,
}

/// What became of one change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The value is stored.
    Stored,
    /// The condition did not hold.
    Refused,
    /// The key is gone; whether it was there.
    Deleted(bool),
    /// All keys are gone.
    Cleared,
}

/// Changes that become visible and durable together.
pub type Group = Vec<Op>;

impl Op {
    /// A put without a condition.
    pub fn put(key: impl Into<Bytes>, value: impl Into<Bytes>) -> Self {
        Self::Put { key: key.into(), value: value.into(), when: When::Always }
    }

    /// A delete.
    pub fn delete(key: impl Into<Bytes>) -> Self {
        Self::Delete { key: key.into() }
    }

    /// Errors: `KeyLength`, `ValueLength`.
    pub fn check(&self) -> Result<()> {
        match self {
            Self::Put { key, value, .. } => {
                if value.len() > VALUE_BYTES_MAX {
                    return Err(Error::ValueLength { bytes: value.len() });
                }
                check_key(key)
            }
            Self::Delete { key } => check_key(key),
            Self::Clear => Ok(()),
        }
    }

    /// The key that it changes.
    pub fn key(&self) -> Option<&Bytes> {
        match self {
            Self::Put { key, .. } | Self::Delete { key } => Some(key),
            Self::Clear => None,
        }
    }

    /// Bytes of the value.
    pub fn value_bytes(&self) -> usize {
        match self {
            Self::Put { value, .. } => value.len(),
            Self::Delete { .. } | Self::Clear => 0,
        }
    }

    /// Bytes of key and value.
    pub fn bytes(&self) -> usize {
        match self {
            Self::Put { key, value, .. } => key.len() + value.len(),
            Self::Delete { key } => key.len(),
            Self::Clear => 0,
        }
    }
}

/// Errors: `KeyLength`.
pub fn check_key(key: &[u8]) -> Result<()> {
    if key.is_empty() || key.len() > KEY_BYTES_MAX {
        return Err(Error::KeyLength { bytes: key.len() });
    }
    Ok(())
}
