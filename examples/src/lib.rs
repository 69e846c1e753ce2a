//! Programs on Foliant. A facade: it defines nothing.
//!
//! [`kv`] is a durable ordered key-value store: a B+tree in one Foliant object, served over RESP by
//! the binary `kv`. It uses the public API of the engine and nothing else.

#![forbid(unsafe_code)]

pub mod kv;
pub mod opening;
pub mod size;
