//! The cleaner: makes long runs of free space when nobody else wants the device, restores the order of objects, and
//! tells the device what is free.
//!
//! Guarantees: in the background it begins only where more than [`FULL_PERCENT`] of the volume is in use and its free
//! space is short of long runs, only while others move less than [`QUIET_BLOCKS`] in a tick, and gives way between
//! two steps, each of which moves at most a few MiB; it does nothing while writes are stopped, and ends with the
//! step in hand when it is stopped. A step that fails changes nothing, and is no failure of the store. One pass
//! at a time, its own or a caller's.
//!
//! Why not beside others that write: what moves costs them processor time and device time, and random overwrites
//! use up long runs as fast as a cleaner beside them makes them ([`performance`](crate::doc::performance)).
//!
//! Does not move anything itself. Spawned by `mount`; asked by `api`.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use foliant_device::Device;
use tokio::sync::Mutex;
use tokio::sync::OwnedMutexGuard;
use tokio_util::sync::CancellationToken;

use crate::alloc::windows::FreeRuns;
use crate::error::Error;
use crate::error::ErrorKind;
use crate::error::Result;
use crate::extent::owners::Next;
use crate::limits::CLEANER_WAIT;
use crate::object::clean;
use crate::object::clean::PASS_GROUPS;
use crate::object::clean::Pass;
use crate::object::defragment;
use crate::object::ground::Moves;
use crate::object::table::Table;
use crate::units::ObjectId;

/// How often it looks around.
const TICK: Duration = Duration::from_secs(1);
/// Above this it cleans in the background; below, there are long runs enough to restore the order of objects with.
const FULL_PERCENT: u64 = 70;
/// Blocks that others read, write and commit in a tick while they count as quiet (1 MiB).
const QUIET_BLOCKS: u64 = 256;
/// The same between two steps.
const QUIET_STEP_BLOCKS: u64 = 64;
/// Quiet ticks before the order of objects is restored: they have become cold.
const COLD_TICKS: u32 = 10;
/// Blocks that must have been written before what was looked at in vain is looked at again (4 MiB).
const NEWS_BLOCKS: u64 = 1024;
/// A pass gains enough when it makes a 32nd of what it moved longer.
const GAIN_SHARE: u64 = 32;

/// The cleaner of an open volume.
#[derive(Debug)]
pub struct Cleaner {
    table: Arc<Table>,
    /// Whether it does anything unasked, discards apart.
    in_background: bool,
    /// The device that is told of freed blocks, if it is.
    discards: Option<Device>,
    /// One pass at a time.
    turn: Arc<Mutex<()>>,
    /// Held while the background is at work.
    working: Arc<Mutex<()>>,
}

/// What one pass did.
#[derive(Debug, Clone, Copy, Default)]
pub struct Cleaned {
    /// Blocks that moved.
    pub moved: u64,
    /// Whether another pass over the same groups is worth it.
    pub again: bool,
}

/// What the background remembers from one tick to the next.
#[derive(Debug, Default)]
struct Memory {
    /// What others had moved at the last look.
    foreground: u64,
    quiet: u32,
    /// The first group of the next pass.
    group: u64,
    /// Groups that were looked at in vain, one after the other.
    vain: u64,
    /// What others had moved when all were looked at in vain.
    settled_at: Option<u64>,
    /// Where restoring goes on.
    restore_from: Next,
    /// What others had moved when nothing was left to restore.
    restored_at: Option<u64>,
}

impl Cleaner {
    /// A cleaner over the objects of `table`.
    pub fn new(table: Arc<Table>, in_background: bool, discards: Option<Device>) -> Arc<Self> {
        if discards.is_some() {
            table.ground().space.remember_stale();
        }
        let (turn, working) = (Arc::default(), Arc::default());
        Arc::new(Self { table, in_background, discards, turn, working })
    }

    /// Waits until the background has ended what it is at: for closing, which has stopped it.
    pub async fn ended(&self) {
        drop(self.working.lock().await);
    }

    /// The right to make passes. Errors: `TimedOut` when somebody has it for too long.
    pub async fn turn(&self) -> Result<OwnedMutexGuard<()>> {
        let turn = tokio::time::timeout(CLEANER_WAIT, self.turn.clone().lock_owned()).await;
        let why = "waited too long for another cleaning";
        turn.map_err(|_| Error::new(ErrorKind::TimedOut, why))
    }

    /// The groups of each pass over the whole volume.
    pub fn parts(&self) -> impl Iterator<Item = Range<u64>> + use<> {
        let groups = self.table.ground().space.groups_opened();
        (0..groups).step_by(PASS_GROUPS as usize).map(move |g| g..groups.min(g + PASS_GROUPS))
    }

    /// How free space lies in all groups that were ever used.
    ///
    /// Errors: `OutOfMemory`, `Device`. Dropping the future has no effect.
    pub async fn free_runs(&self) -> Result<FreeRuns> {
        let mut all = FreeRuns::default();
        for part in self.parts() {
            all += clean::free_runs(self.table.ground(), part).await?;
        }
        Ok(all)
    }

    /// One pass over `groups`, as long as `may_go_on` says so between its steps. The caller has the turn. To be
    /// driven to its end by a task of the engine.
    pub async fn pass(
        &self,
        groups: Range<u64>,
        may_go_on: impl Fn() -> bool + Send,
    ) -> Result<Cleaned> {
        let ground = self.table.ground();
        let before = clean::free_runs(ground, groups.clone()).await?;
        let Some(mut pass) = Pass::begin(&self.table, groups.clone()).await? else {
            return Ok(Cleaned::default());
        };
        while pass.step(&self.table).await? && may_go_on() {
            tokio::task::yield_now().await;
        }
        let moved = pass.moved;
        drop(pass);
        let after = clean::free_runs(ground, groups).await?;
        let gained = after.long_blocks.saturating_sub(before.long_blocks);
        Ok(Cleaned { moved, again: moved > 0 && gained * GAIN_SHARE >= moved })
    }

    /// Discards and cleans until `stop` is cancelled.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        let mut memory = Memory { restore_from: (ObjectId(0), 0), ..Memory::default() };
        while stop.run_until_cancelled(tokio::time::sleep(TICK)).await.is_some() {
            let _working = self.working.lock().await;
            if self.table.ground().poison.check().is_err() || stop.is_cancelled() {
                continue;
            }
            if let Some(device) = &self.discards {
                self.discard(device).await;
            }
            if self.in_background
                && let Err(cause) = self.look_around(&mut memory, &stop).await
            {
                tracing::warn!(%cause, "moving blocks in the background failed");
                // Not again before something has changed.
                let now = Some(memory.foreground);
                (memory.settled_at, memory.restored_at) = (now, now);
            }
        }
    }

    /// Blocks that others moved so far, and transactions of theirs.
    fn foreground(&self) -> u64 {
        let ground = self.table.ground();
        let totals = self.table.totals();
        let own = Moves::get(&ground.moves.transactions);
        let commits = ground.meta.stats().transactions.saturating_sub(own);
        totals.blocks_written + totals.blocks_read + commits
    }

    async fn look_around(&self, memory: &mut Memory, stop: &CancellationToken) -> Result<()> {
        let now = self.foreground();
        let busy = now.saturating_sub(memory.foreground) > QUIET_BLOCKS;
        memory.foreground = now;
        memory.quiet = if busy { 0 } else { memory.quiet + 1 };
        if memory.quiet == 0 {
            return Ok(());
        }
        let Ok(_turn) = self.turn.clone().try_lock_owned() else { return Ok(()) };
        let space = &self.table.ground().space;
        let news = |since: Option<u64>| since.is_none_or(|since| now > since + NEWS_BLOCKS);
        if space.is_fuller_than(FULL_PERCENT) && news(memory.settled_at) {
            return self.clean_some(memory, stop).await;
        }
        let cold = memory.quiet > COLD_TICKS && !space.is_fuller_than(FULL_PERCENT);
        if cold && news(memory.restored_at) {
            let (next, _) = defragment::restore_somewhere(&self.table, memory.restore_from).await?;
            memory.restored_at = next.is_none().then_some(now);
            memory.restore_from = next.unwrap_or((ObjectId(0), 0));
        }
        Ok(())
    }

    /// Passes over one part of the volume, until half of its free space lies in long runs.
    async fn clean_some(&self, memory: &mut Memory, stop: &CancellationToken) -> Result<()> {
        let opened = self.table.ground().space.groups_opened();
        let start = if memory.group < opened { memory.group } else { 0 };
        let part = start..opened.min(start + PASS_GROUPS);
        memory.settled_at = None;
        loop {
            let lie = clean::free_runs(self.table.ground(), part.clone()).await?;
            let enough = lie.long_blocks * 2 >= lie.blocks;
            let began = self.foreground();
            let quiet = || !stop.is_cancelled() && self.foreground() <= began + QUIET_STEP_BLOCKS;
            let again = !enough && self.pass(part.clone(), quiet).await?.again;
            if !quiet() {
                return Ok(());
            }
            if again {
                memory.vain = 0;
                continue;
            }
            memory.group = part.end;
            memory.vain += part.end - part.start;
            if memory.vain >= opened {
                memory.vain = 0;
                memory.settled_at = Some(self.foreground());
            }
            return Ok(());
        }
    }

    /// Tells the device what is free, before it is handed out again.
    async fn discard(&self, device: &Device) {
        let ground = self.table.ground();
        let _turn = ground.borrowing.lock().await;
        ground.space.release();
        let Some(free) = ground.space.take_for_discard() else { return };
        for span in free.spans() {
            if let Err(cause) = device.discard(span.start.0, span.blocks).await {
                // A hint that was not taken harms nobody.
                tracing::warn!(%cause, "a discard failed");
                return;
            }
            Moves::add(&ground.moves.discarded, span.blocks);
            metrics::counter!("foliant_discarded_bytes_total")
                .increment(span.blocks * crate::units::BLOCK);
        }
    }
}
