//! Programs on Foliant. A facade: it defines nothing.
//!
//! [`kv`] is a durable ordered key-value store: a B+tree in one Foliant object, served over RESP by
//! the binary `kv`. [`nbd`] serves the objects of a store as network block devices, for virtual
//! machines and kernels, by the binary `nbd`. [`fuse`] shows a store as a file system, by the binary `fuse`. All
//! use the public API of the engine and nothing else.

#![forbid(unsafe_code)]

pub mod fuse;
pub mod fuzz;
pub mod kv;
pub mod nbd;
pub mod opening;
pub mod quiet;
pub mod service;
pub mod size;
