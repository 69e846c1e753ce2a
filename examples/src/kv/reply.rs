//! A reply, as data.
//!
//! Has what RESP3 can say; how it looks on the wire, in either version, is `resp`'s. Does not know
//! commands. Used by everything between the writer and the socket.

use bytes::Bytes;

use crate::kv::pinned::Pinned;
use crate::kv::value::Value;

/// A reply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// A short text without line ends.
    Simple(&'static str),
    /// A failure; the text starts with its class, like `ERR`.
    Error(String),
    /// A number.
    Integer(i64),
    /// Bytes.
    Bulk(Bytes),
    /// Bytes of a large value, which whoever sends it reads piece by piece.
    Large(Pinned),
    /// Text that is meant for people: INFO.
    Verbatim(String),
    /// No value.
    Null,
    /// No list: a transaction that did not happen.
    NullArray,
    /// A list.
    Array(Vec<Reply>),
    /// Pairs.
    Map(Vec<(Reply, Reply)>),
}

/// `+OK`.
pub const OK: Reply = Reply::Simple("OK");

impl Reply {
    /// A failure of the class `ERR`.
    pub fn err(text: impl std::fmt::Display) -> Self {
        Self::Error(format!("ERR {text}"))
    }

    /// A value, if there is one.
    pub fn value(value: Option<Value>) -> Self {
        value.map_or(Self::Null, Self::from)
    }

    /// Static text.
    pub fn text(text: &'static str) -> Self {
        Self::Bulk(Bytes::from_static(text.as_bytes()))
    }

    /// Bytes of memory that it holds.
    pub fn bytes(&self) -> usize {
        match self {
            Self::Bulk(bytes) => bytes.len(),
            Self::Large(large) => Value::Large(large.clone()).held(),
            Self::Verbatim(text) | Self::Error(text) => text.len(),
            Self::Array(all) => all.iter().map(Self::bytes).sum(),
            Self::Map(all) => all.iter().map(|(key, value)| key.bytes() + value.bytes()).sum(),
            Self::Simple(_) | Self::Integer(_) | Self::Null | Self::NullArray => 0,
        }
    }
}

impl From<i64> for Reply {
    fn from(number: i64) -> Self {
        Self::Integer(number)
    }
}

impl From<bool> for Reply {
    fn from(yes: bool) -> Self {
        Self::Integer(yes.into())
    }
}

impl From<Bytes> for Reply {
    fn from(bytes: Bytes) -> Self {
        Self::Bulk(bytes)
    }
}

impl From<Value> for Reply {
    fn from(value: Value) -> Self {
        match value {
            Value::Bytes(bytes) => Self::Bulk(bytes),
            Value::Large(large) => Self::Large(large),
        }
    }
}

impl From<String> for Reply {
    fn from(text: String) -> Self {
        Self::Bulk(text.into())
    }
}
