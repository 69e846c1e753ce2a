//! The devices one can open: regular file, block device, memory, and the thread-pool fallback.

pub mod mem;
