//! Room for names when data has taken all.
//!
//! The engine refuses data that it has no room for, and removals alone work on a full volume. But a removal here
//! also changes the directory, and an open file that loses its last name goes on a list; both need a little room.
//! So one object holds a reserve: allocated, and never written. A change of names that finds no room gives it back
//! to the volume and tries again; data and new names must have it put back before they take anything more.
//!
//! Guarantees that names can be changed and taken away on a full store, as long as the reserve lasts. Called by
//! the operations.

use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;

use foliant::Engine;
use foliant::Object;
use fuser::Errno;
use tokio::sync::Mutex;
use tokio::time::Instant;
use tokio::time::sleep;

use crate::fuse::fault::Fault;
use crate::fuse::fault::Outcome;
use crate::fuse::keys;
use crate::fuse::limits::ORPHAN_PAUSE;
use crate::fuse::limits::ORPHAN_WAIT;
use crate::fuse::limits::RESERVE_BYTES_MAX;
use crate::fuse::limits::RESERVE_BYTES_MIN;
use crate::fuse::limits::RESERVE_SHARE;

/// The reserve of a store.
#[derive(Debug)]
pub struct Room {
    object: Object,
    bytes: u64,
    /// Held while the reserve goes or comes back.
    moving: Mutex<()>,
    is_kept: AtomicBool,
    /// Inodes without a name that still have their room.
    orphans: AtomicU64,
}

impl Room {
    /// Takes the reserve, if the store has as much.
    pub async fn new(engine: &Engine) -> Outcome<Self> {
        let object = engine.object(keys::RESERVE).await?;
        let share = engine.stats().capacity_bytes / RESERVE_SHARE;
        let bytes = share.clamp(RESERVE_BYTES_MIN, RESERVE_BYTES_MAX);
        let (moving, is_kept, orphans) = Default::default();
        let room = Self { object, bytes, moving, is_kept, orphans };
        match room.grow().await {
            Err(full) if !full.is_no_space() => Err(full),
            _ => Ok(room),
        }
    }

    /// To be called before anything grows. Errors: ENOSPC while the reserve is out and cannot be put back.
    pub async fn grow(&self) -> Outcome<()> {
        if self.is_kept.load(Ordering::Relaxed) {
            return Ok(());
        }
        let _moving = self.moving.lock().await;
        if let Err(cause) = self.object.preallocate(0..self.bytes).await {
            // Not by halves: what it got serves names.
            self.object.punch(0..self.bytes).await?;
            return Err(cause.into());
        }
        self.is_kept.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// Gives the reserve to who changes names and found no room; whether there was any to give.
    pub async fn lend(&self) -> Outcome<bool> {
        let _moving = self.moving.lock().await;
        if !self.is_kept.load(Ordering::Relaxed) {
            return Ok(false);
        }
        self.object.punch(0..self.bytes).await?;
        self.is_kept.store(false, Ordering::Relaxed);
        Ok(true)
    }

    /// Does what grows, and does it `again` if it found no room and somebody gave some back. The kernel closes and
    /// forgets behind the back of who closed and removed: what that was told is gone has its room for a moment
    /// longer.
    ///
    /// Errors: theirs; ENOSPC when there is nothing to wait for.
    pub async fn twice<T>(
        &self,
        first: impl Future<Output = Outcome<T>>,
        again: impl Future<Output = Outcome<T>>,
    ) -> Outcome<T> {
        match first.await {
            Err(full) if full.is_no_space() => {
                self.expect().await?;
                again.await
            }
            done => done,
        }
    }

    /// Waits until something that was removed gives its room back. Errors: ENOSPC if nothing does.
    async fn expect(&self) -> Outcome<()> {
        let before = self.orphans.load(Ordering::Relaxed);
        let deadline = Instant::now() + ORPHAN_WAIT;
        while before > 0 && Instant::now() < deadline {
            sleep(ORPHAN_PAUSE).await;
            if self.orphans.load(Ordering::Relaxed) < before {
                return Ok(());
            }
        }
        Err(Fault(Errno::ENOSPC))
    }

    /// So many inodes lost their last name and are known.
    pub fn orphaned(&self, count: u64) {
        self.orphans.fetch_add(count, Ordering::Relaxed);
    }

    /// One of them is gone.
    pub fn reclaimed(&self) {
        // Those of an earlier mount were never counted.
        let less = |count: u64| count.checked_sub(1);
        let _ = self.orphans.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
    }
}
