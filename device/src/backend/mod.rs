//! The devices one can open: regular file, block device, memory, and the thread-pool fallback.
//!
//! [`OpenOptions`] finds out what a path is, prepares it (`file`, `block`), and puts the machinery
//! on top: the ring (`ring`) or threads (`threads`, which make the blocking calls in `calls`).

mod block;
mod calls;
mod file;
pub mod mem;
mod open;
mod ring;
mod store;
mod threads;

pub use open::BackendChoice;
pub use open::DEPTH_DEFAULT;
pub use open::DEPTH_MAX;
pub use open::OpenOptions;
