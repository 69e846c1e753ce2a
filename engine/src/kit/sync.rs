//! The primitives that the data wing waits, locks and counts with, chosen in one place.
//!
//! Guarantees: in a normal build each name is the type of `parking_lot`, `std` or `tokio` itself, at
//! no cost. With the feature `model` the same names stand for types that give way to the scheduler
//! of an explorer before every step (`stepped`), so that the *same* folios, caches, range locks
//! and guards run under all interleavings it can think of: see [`crate::doc::models`].
//!
//! Does not add anything to them. Used by `kit`, `folio`, `iomap`, `reclaim` and by the parts of
//! `object` that these call; `std::sync::Arc` is the same everywhere and is not named here.

#[cfg(feature = "model")]
mod stepped;

pub use tokio::sync::SemaphorePermit;

#[cfg(not(feature = "model"))]
pub use parking_lot::Mutex;
#[cfg(not(feature = "model"))]
pub use parking_lot::RwLock;
#[cfg(not(feature = "model"))]
pub use tokio::sync::Mutex as AsyncMutex;
#[cfg(not(feature = "model"))]
pub use tokio::sync::Notify;
#[cfg(not(feature = "model"))]
pub use tokio::sync::Semaphore;
#[cfg(not(feature = "model"))]
pub use tokio::time::sleep;
#[cfg(not(feature = "model"))]
pub use tokio::time::timeout;

#[cfg(feature = "model")]
pub use stepped::AsyncMutex;
#[cfg(feature = "model")]
pub use stepped::Mutex;
#[cfg(feature = "model")]
pub use stepped::Notify;
#[cfg(feature = "model")]
pub use stepped::RwLock;
#[cfg(feature = "model")]
pub use stepped::Semaphore;
#[cfg(feature = "model")]
pub use stepped::sleep;
#[cfg(feature = "model")]
pub use stepped::timeout;

/// Atomics whose every access is a step that others can see.
pub mod atomic {
    #[cfg(feature = "model")]
    use shuttle::sync::atomic as chosen;
    #[cfg(not(feature = "model"))]
    use std::sync::atomic as chosen;

    pub use chosen::AtomicBool;
    pub use chosen::AtomicU8;
    pub use chosen::AtomicU32;
    pub use chosen::AtomicU64;
    pub use chosen::AtomicUsize;
    pub use std::sync::atomic::Ordering;
}
