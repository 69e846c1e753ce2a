//! How much room data may still take.
//!
//! The engine refuses what it has no room for, and removals work on a full volume. But a removal here also
//! changes the directory, and that of an open file keeps it for a while; both need a little room. So data and
//! new names leave a reserve, as other file systems do.
//!
//! Guarantees that data is refused before the reserve is touched, up to what is on its way at once. Called by
//! the operations.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;

use foliant::Engine;
use fuser::Errno;

use crate::fuse::fault::Fault;
use crate::fuse::fault::Outcome;
use crate::fuse::limits::ALLOWANCE_SHARE;
use crate::fuse::limits::RESERVE_BYTES_MAX;
use crate::fuse::limits::RESERVE_BYTES_MIN;
use crate::fuse::limits::RESERVE_SHARE;

/// The room of a store.
#[derive(Debug)]
pub struct Room {
    engine: Engine,
    reserve: u64,
    /// What may be taken before the engine is asked again.
    allowance: AtomicU64,
}

impl Room {
    /// All that is free, but the reserve.
    pub fn new(engine: Engine) -> Self {
        let share = engine.stats().capacity_bytes / RESERVE_SHARE;
        let reserve = share.clamp(RESERVE_BYTES_MIN, RESERVE_BYTES_MAX);
        Self { engine, reserve, allowance: AtomicU64::new(0) }
    }

    /// What data may not use.
    pub fn reserve(&self) -> u64 {
        self.reserve
    }

    /// Asks for room for `len` more bytes. Overwriting needs it, too: bytes go beside those that they replace.
    ///
    /// Errors: ENOSPC.
    pub async fn take(&self, len: u64) -> Outcome<()> {
        let taken = self
            .allowance
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(len));
        if taken.is_ok() || self.look(len) {
            return Ok(());
        }
        // What was overwritten gives its room back when what replaces it is written.
        self.engine.sync().await?;
        match self.look(len) {
            true => Ok(()),
            false => Err(Fault(Errno::ENOSPC)),
        }
    }

    /// Whether `len` bytes have room; sets what may be taken without looking.
    fn look(&self, len: u64) -> bool {
        let free = self.engine.stats().free_bytes;
        let left = free.checked_sub(self.reserve).and_then(|left| left.checked_sub(len));
        self.allowance.store(left.unwrap_or(0) / ALLOWANCE_SHARE, Ordering::Relaxed);
        left.is_some()
    }
}
