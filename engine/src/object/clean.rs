//! One pass of the cleaner: windows whose free space is scattered are emptied, so that it lies in one piece.
//!
//! Guarantees: a pass is made of short steps, each of which leaves everything in order, so that it can be given up
//! behind any of them; windows with the least in them come first; a window that would give less than it costs
//! by far is left alone. A step moves what there are long runs for, and at least one window: where all free space is
//! scattered the first windows go into pieces, the next ones into those, and each step has more. The owners of what lies in the windows are found by going through all extents once per
//! pass (nothing on the device says whose a block is), so a pass takes many windows.
//!
//! Does not decide when, and does not wait for others. Called by `volume::cleaner`.

use std::ops::Range;
use std::sync::Arc;

use crate::alloc::moves::ClosedWindows;
use crate::alloc::windows::FreeRuns;
use crate::alloc::windows::WINDOW_BLOCKS;
use crate::alloc::windows::Window;
use crate::error::ErrorKind;
use crate::error::Result;
use crate::extent::owners;
use crate::extent::owners::Next;
use crate::extent::owners::Owned;
use crate::kit::lock_order::watched;
use crate::object::ground::Ground;
use crate::object::ground::Moves;
use crate::object::relocate;
use crate::object::relocate::Moved;
use crate::object::relocate::Wish;
use crate::object::table::Table;
use crate::units::DeviceSpan;
use crate::units::FileBlocks;
use crate::units::ObjectId;

/// Groups whose windows one pass looks at (2 GiB).
pub const PASS_GROUPS: u64 = 16;
/// Blocks that one pass moves at most (32 MiB): what is known of their owners takes 256 KiB.
const PASS_BLOCKS_MAX: u64 = 8192;
/// Scattered free blocks that a window must have: below a 16th of it, moving the rest costs 16 times what it gives.
const SCATTERED_MIN: u64 = 4;
/// Extents that one step looks at.
const STEP_EXTENTS: usize = 2048;
/// Pieces of objects that one step moves at most, so objects that it opens.
const STEP_PIECES_MAX: usize = 1024;

/// A pass that is on its way.
#[derive(Debug)]
pub struct Pass {
    /// The windows, ascending, each with its turn.
    windows: Vec<(DeviceSpan, usize)>,
    /// Keeps their free blocks from being taken meanwhile.
    closed: ClosedWindows,
    /// Where the look for owners goes on.
    next: Option<Next>,
    /// What lies in the windows, each with the turn of its window.
    owned: Vec<(usize, Owned)>,
    /// How many of `owned` had their turn.
    done: usize,
    /// Free blocks in long runs, about.
    long: u64,
    /// Blocks of a step at most.
    most: u64,
    /// Moved so far.
    pub moved: u64,
}

/// How free space lies in `groups`.
///
/// Errors: `OutOfMemory`, `Device`. Dropping the future has no effect.
pub async fn free_runs(ground: &Ground, groups: Range<u64>) -> Result<FreeRuns> {
    ground.space.release();
    let view = ground.meta.read().await;
    Ok(ground.space.windows(&view, groups).await?.1)
}

impl Pass {
    /// A pass over `groups`, if it would gain anything.
    ///
    /// Errors and drop: as [`free_runs`].
    pub async fn begin(table: &Table, groups: Range<u64>) -> Result<Option<Self>> {
        let ground = table.ground();
        ground.space.release();
        let (found, runs) = {
            let view = ground.meta.read().await;
            ground.space.windows(&view, groups).await?
        };
        let chosen = choose(found, ground.space.stats().usable);
        if chosen.is_empty() {
            return Ok(None);
        }
        Moves::add(&ground.moves.passes, 1);
        let mut windows: Vec<_> = chosen.into_iter().enumerate().map(|(n, w)| (w, n)).collect();
        windows.sort_unstable();
        let closed = ground.space.close_windows(windows.iter().map(|(w, _)| *w).collect());
        Ok(Some(Self {
            windows,
            closed,
            next: Some((ObjectId(0), 0)),
            owned: Vec::new(),
            done: 0,
            long: runs.long_blocks,
            most: relocate::blocks_max(ground, table.wing()),
            moved: 0,
        }))
    }

    /// One step; whether there is another one. To be driven to its end by a task of the engine.
    ///
    /// Errors: those of [`relocate::relocate`], and of opening an object. Nothing is half done then.
    pub async fn step(&mut self, table: &Arc<Table>) -> Result<bool> {
        match self.next {
            Some(from) => {
                self.look_for_owners(table, from).await?;
                Ok(true)
            }
            None => self.empty_some(table).await,
        }
    }

    async fn look_for_owners(&mut self, table: &Table, from: Next) -> Result<()> {
        let windows: Vec<DeviceSpan> = self.windows.iter().map(|(window, _)| *window).collect();
        let mut found = Vec::new();
        let view = table.ground().meta.read().await;
        self.next = owners::owners(&view, from, STEP_EXTENTS, &windows, &mut found).await?;
        for owned in found {
            let window = self.windows.partition_point(|(w, _)| w.end() <= owned.start);
            self.owned.push((self.windows[window].1, owned));
        }
        if self.next.is_none() {
            self.owned.sort_unstable_by_key(|(turn, owned)| (*turn, owned.object, owned.at));
        }
        Ok(())
    }

    async fn empty_some(&mut self, table: &Arc<Table>) -> Result<bool> {
        let (mut step, done) = self.next_step();
        step.sort_unstable_by_key(|owned| (owned.object, owned.at));
        let wishes = wishes(table, &step).await?;
        let ground = table.ground();
        let moved = match watched(relocate::relocate(ground, table.wing(), &wishes, None)).await {
            Err(cause) if cause.kind() == ErrorKind::TooLarge && self.most > 1 => {
                self.most /= 2;
                return Ok(true);
            }
            moved => moved?,
        };
        make_usable(ground, &moved).await?;
        let last = self.owned.get(done).map_or(usize::MAX, |(turn, _)| *turn);
        let before = self.windows.len() as u64;
        self.windows.retain(|(_, turn)| *turn >= last);
        // What is empty is a place to move to.
        self.closed.keep(self.windows.iter().map(|(window, _)| *window).collect());
        self.done = done;
        self.moved += moved.blocks;
        self.long = self.long.saturating_sub(moved.blocks);
        self.long += (before - self.windows.len() as u64) * WINDOW_BLOCKS;
        Ok(!moved.short && self.done < self.owned.len())
    }

    /// What the next step moves, and how many of `owned` have had their turn then.
    fn next_step(&self) -> (Vec<Owned>, usize) {
        let most = self.most.min(self.long.max(WINDOW_BLOCKS));
        let (mut step, mut blocks, mut done) = (Vec::new(), 0, self.done);
        for (_, owned) in &self.owned[self.done..] {
            // Where memory is so short that a window does not fit, its rest comes with another pass.
            let part = Owned { blocks: owned.blocks.min(most), ..*owned };
            if blocks + part.blocks > most || step.len() == STEP_PIECES_MAX {
                break;
            }
            blocks += part.blocks;
            done += 1;
            step.push(part);
        }
        (step, done)
    }
}

/// The blocks of `step` (ascending) with their objects.
async fn wishes(table: &Arc<Table>, step: &[Owned]) -> Result<Vec<Wish>> {
    let mut wishes: Vec<Wish> = Vec::with_capacity(step.len());
    for owned in step {
        let before = wishes.last().map(|wish| &wish.object);
        let same = before.filter(|object| object.state().id() == owned.object).cloned();
        let object = match same {
            Some(object) => object,
            None => match watched(table.open(owned.object)).await {
                // Removed since it was seen.
                Err(cause) if cause.kind() == ErrorKind::NotFound => continue,
                opened => opened?,
            },
        };
        let blocks = FileBlocks::new(owned.at, owned.at + owned.blocks);
        wishes.push(Wish { object, blocks, from: owned.start });
    }
    Ok(wishes)
}

/// Waits until the old places may be used again, so that the next step finds them.
pub(super) async fn make_usable(ground: &Ground, moved: &Moved) -> Result<()> {
    if let Some(lsn) = moved.lsn {
        ground.meta.durable(lsn).await?;
        ground.space.release();
    }
    Ok(())
}

/// The windows to empty, in their order: those with the least in them, as long as there is ample room elsewhere.
fn choose(mut found: Vec<Window>, usable: u64) -> Vec<DeviceSpan> {
    found.retain(|window| window.scattered >= SCATTERED_MIN);
    found.sort_by_key(|window| (window.busy, window.span));
    let (mut busy, mut free) = (0, 0);
    let mut chosen = Vec::new();
    for window in found {
        busy += window.busy;
        free += window.span.blocks - window.busy;
        if busy > PASS_BLOCKS_MAX || busy * 2 > usable.saturating_sub(free) {
            break;
        }
        chosen.push(window.span);
    }
    chosen
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::BlockNo;

    fn window(at: u64, busy: u64, scattered: u64) -> Window {
        Window { span: DeviceSpan::new(BlockNo(at * 64), 64), busy, scattered }
    }

    #[test]
    fn the_emptiest_windows_come_first_and_dense_ones_never() {
        let found = vec![window(1, 50, 14), window(2, 10, 54), window(3, 62, 2), window(4, 0, 0)];
        let starts = |usable| -> Vec<u64> {
            choose(found.clone(), usable).iter().map(|span| span.start.0 / 64).collect()
        };
        assert_eq!(starts(10_000), [2, 1]);
        assert_eq!(starts(100), [2], "there must be room elsewhere for what moves");
        assert_eq!(starts(60), []);
    }
}
