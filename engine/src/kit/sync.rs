//! The primitives that the data wing waits, locks and counts with, chosen in one place.
//!
//! Guarantees: in a normal build each name is the type of `parking_lot`, `std` or `tokio` itself, at
//! no cost. Who explores interleavings swaps them here, so that the *same* folios, caches, range
//! locks and guards run under a scheduler that decides every step.
//!
//! Does not add anything to them. Used by `kit`, `folio`, `iomap`, `reclaim` and by the parts of
//! `object` that these call; `std::sync::Arc` is the same everywhere and is not named here.

pub use parking_lot::Mutex;
pub use parking_lot::RwLock;
pub use tokio::sync::Notify;
pub use tokio::sync::Semaphore;
pub use tokio::sync::SemaphorePermit;
pub use tokio::time::timeout;

/// Atomics whose every access is a step that others can see.
pub mod atomic {
    pub use std::sync::atomic::AtomicBool;
    pub use std::sync::atomic::AtomicU8;
    pub use std::sync::atomic::AtomicU32;
    pub use std::sync::atomic::AtomicU64;
    pub use std::sync::atomic::AtomicUsize;
    pub use std::sync::atomic::Ordering;
}
