//! The verbs that move stored blocks: cleaning, and putting an object into one piece.
//!
//! Guarantees: whoever reads and writes meanwhile is served as ever, and finds the same bytes; what was not moved
//! stays as it was. Does not run by itself: a future that the caller drives, step by step. Called by users.

use std::sync::Arc;

use crate::alloc::windows::FreeRuns;
use crate::api::engine::Engine;
use crate::api::object::Object;
use crate::error::Result;
use crate::object::defragment;
use crate::object::defragment::Restoring;
use crate::units::BLOCK;

/// How free space lies, in the parts of the store that were ever used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct FreeSpace {
    /// Bytes that are free.
    pub bytes: u64,
    /// Runs in which they lie; between two of them something is stored.
    pub runs: u64,
    /// Bytes in runs of 256 KiB and more.
    pub long_bytes: u64,
}

impl From<FreeRuns> for FreeSpace {
    fn from(runs: FreeRuns) -> Self {
        let (bytes, long_bytes) = (runs.blocks * BLOCK, runs.long_blocks * BLOCK);
        Self { bytes, runs: runs.runs, long_bytes }
    }
}

/// What a cleaning did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CleanReport {
    /// How free space lay before.
    pub before: FreeSpace,
    /// How it lies now.
    pub after: FreeSpace,
    /// Bytes that were moved.
    pub moved_bytes: u64,
    /// Passes over parts of the store.
    pub passes: u64,
}

/// What putting an object into one piece did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DefragmentReport {
    /// Extents before.
    pub extents_before: u64,
    /// Extents now; more than one where no free run was long enough, where it was being written, or where it has
    /// holes.
    pub extents_after: u64,
    /// Bytes that were moved.
    pub moved_bytes: u64,
}

impl Engine {
    /// How free space lies now.
    ///
    /// Reads the bitmaps that are not in memory. Errors: `Closed`, `OutOfMemory`, `Device`. Dropping the future has no
    /// effect.
    pub async fn free_space(&self) -> Result<FreeSpace> {
        Ok(self.volume()?.cleaner.free_runs().await?.into())
    }

    /// Moves stored blocks together until free space does not get longer runs by it: at whatever degree of filling, and
    /// beside whatever else goes on.
    ///
    /// Steps of 4 MiB at most (a 32nd of the memory), each durable when the next one begins; takes room for one step,
    /// and ends early when there is none. Errors: `Closed`, `WritesStopped`, `Device`, `Corrupt`, `OutOfMemory`,
    /// `TimedOut` (somebody else has cleaned for a minute). What was moved before stays so. Dropping the future
    /// ends it behind the pass that is on its way (32 MiB at most).
    pub async fn clean(&self) -> Result<CleanReport> {
        let volume = self.volume()?.clone();
        let _turn = volume.cleaner.turn().await?;
        let mut report = CleanReport {
            before: volume.cleaner.free_runs().await?.into(),
            ..CleanReport::default()
        };
        for part in volume.cleaner.parts() {
            loop {
                let entered = volume.enter()?;
                let (own, part) = (volume.clone(), part.clone());
                let pass = async move {
                    let _entered = entered;
                    own.cleaner.pass(part, || !own.is_closed()).await
                };
                let cleaned = volume.flusher.run_to_end(pass).await?;
                report.moved_bytes += cleaned.moved * BLOCK;
                report.passes += u64::from(cleaned.moved > 0);
                if !cleaned.again {
                    break;
                }
            }
        }
        volume.check_open()?;
        report.after = volume.cleaner.free_runs().await?.into();
        Ok(report)
    }
}

impl Object {
    /// Writes back what is dirty, brings home what is logged, and then puts the object into as few pieces as free space
    /// has room for, so that reading it in order is reading the device in order.
    ///
    /// Steps of 4 MiB at most (a 32nd of the memory), each of which moves a range into one free run or leaves it
    /// where it is; what was only preallocated stays where it is. Errors: those of [`Object::sync`], `Corrupt`,
    /// `OutOfMemory`, `TimedOut` (somebody else has moved blocks for a minute). What was moved before
    /// stays so. Dropping the future ends it behind the step that is on its way.
    pub async fn defragment(&self) -> Result<DefragmentReport> {
        self.sync().await?;
        let (volume, open) = (self.engine().volume.clone(), self.opened().clone());
        let table = volume.table.clone();
        table.ground().meta.checkpointed().await?;
        let _turn = volume.cleaner.turn().await?;
        let extents_before = defragment::extents(&table, &open).await?;
        let mut restoring = Restoring::new(&table, open.clone());
        loop {
            self.check()?;
            let entered = volume.enter()?;
            let table = Arc::clone(&table);
            let step = async move {
                let _entered = entered;
                let more = restoring.step(&table).await?;
                Ok((restoring, more))
            };
            let (after, more) = volume.flusher.run_to_end(step).await?;
            restoring = after;
            if !more {
                break;
            }
        }
        let extents_after = defragment::extents(&table, &open).await?;
        let moved_bytes = restoring.moved * BLOCK;
        Ok(DefragmentReport { extents_before, extents_after, moved_bytes })
    }
}
