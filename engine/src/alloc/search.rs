//! How free blocks are looked for: next fit, long runs first, any block at last.
//!
//! ```text
//! Long     runs that hold all that is wanted (or 4 MiB), in a few groups from the cursor on
//! Virgin   a group that was never used, then Long again
//! Runs     runs of 64 KiB, in more groups; for scattered blocks runs of 16 KiB, in all groups
//! Singles  anything, in all groups
//! ```
//!
//! Scattered blocks are random overwrites, and what they free is scattered as well: who takes every long
//! run as soon as there is one leaves single blocks to everybody. Going round over all runs of four blocks
//! and more lets the holes grow until the next round: 5.9 blocks each in place of 3.4 (simulated, half
//! full).
//!
//! Blocks that move have been still for a while: they have a place of their own from which they look on, so that
//! they lie beside each other and not between blocks that are overwritten soon. They take the first runs of
//! 256 KiB, then 64 KiB, anywhere; or one run for all of them, first one that has room for what follows them, or
//! nothing.
//!
//! Nodes look for any block from the lowest free one on, so that they fill holes and stay together.
//!
//! Guarantees that a search that ends dry has seen every group that could be read. Bounded: each
//! phase visits each group at most once. Never waits: it asks for groups to be loaded. Called by
//! `alloc::ticket` through `alloc::space`.

use std::ops::Range;

use crate::alloc::inner::Cursor;
use crate::alloc::inner::Inner;
use crate::units::DeviceSpan;

/// A run of this length is as good as any longer one (4 MiB).
const LONG_BLOCKS: u64 = 1024;
/// Runs shorter than this make device writes small (64 KiB).
const RUN_BLOCKS: u64 = 16;
/// The same for scattered blocks.
const SCATTERED_RUN_BLOCKS: u64 = 4;
/// Blocks that move take a run of this length before any shorter one (256 KiB).
const COLD_RUN_BLOCKS: u64 = 64;
/// Groups looked at for long runs, before a virgin one is opened.
const LONG_GROUPS: u32 = 4;
/// Groups looked at for runs, before single blocks are taken.
const RUN_GROUPS: u32 = 16;
/// Blocks left to nodes when they reach the place where data is being put.
const NODE_ZONE: usize = 64;

/// For whom blocks are looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Taker {
    Data,
    /// Data that moves.
    Move,
    /// The same, in one piece or not at all.
    MoveWhole,
    Node,
}

/// A phase that has not begun.
const UNSET: Cursor = (u64::MAX, 0);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Long,
    Virgin,
    Runs,
    Singles,
    Over,
}

/// What a search wants next.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// All blocks were found.
    Done,
    /// This group must be loaded, or marked unreadable.
    Load(u64),
    /// There are not enough.
    Dry,
}

/// A search for blocks; what it found is claimed.
#[derive(Debug)]
pub struct Search {
    wanted: u64,
    taker: Taker,
    /// The blocks are for short pieces all over an object.
    scattered: bool,
    /// A run that has so many blocks is better than one that has just those that are wanted.
    ahead: u64,
    phase: Phase,
    /// Where this phase began.
    start: Cursor,
    /// Groups behind `start` that this phase has finished.
    visited: u64,
    /// Groups among them that were really looked into.
    looked: u32,
    /// [`Inner::gains`] when the last sweep over everything began: if it grew meanwhile, there may
    /// be blocks where the sweep had passed.
    gains: u64,
}

impl Search {
    /// A search for `blocks` blocks of data, for parts of an object that are `mean` blocks long.
    pub fn for_data(blocks: u64, mean: u64) -> Self {
        let scattered = mean < SCATTERED_RUN_BLOCKS;
        Self { scattered, ..Self::new(blocks, Taker::Data, Phase::Long) }
    }

    /// A search for `blocks` blocks that move; in one piece or not at all if they are the first of so many that shall
    /// lie together.
    pub fn for_move(blocks: u64, together: Option<u64>) -> Self {
        let taker = if together.is_some() { Taker::MoveWhole } else { Taker::Move };
        let ahead = together.unwrap_or(0).min(LONG_BLOCKS);
        Self { ahead, ..Self::new(blocks, taker, Phase::Long) }
    }

    /// A search for the block of a node.
    pub fn for_node() -> Self {
        Self::new(1, Taker::Node, Phase::Singles)
    }

    fn new(wanted: u64, taker: Taker, phase: Phase) -> Self {
        let (start, scattered, ahead) = (UNSET, false, 0);
        Self { wanted, taker, scattered, ahead, phase, start, visited: 0, looked: 0, gains: 0 }
    }

    /// Whether it is for blocks that move: who looks for them gives way to all others.
    pub fn is_for_move(&self) -> bool {
        matches!(self.taker, Taker::Move | Taker::MoveWhole)
    }

    fn cursor<'i>(&self, inner: &'i mut Inner) -> &'i mut Cursor {
        match self.taker {
            Taker::Node => &mut inner.node_cursor,
            Taker::Data => &mut inner.data_cursor,
            Taker::Move | Taker::MoveWhole => &mut inner.cold_cursor,
        }
    }

    fn enter(&mut self, phase: Phase) {
        self.phase = phase;
        self.start = UNSET;
        self.visited = 0;
        self.looked = 0;
    }

    /// The counter of claims of this kind.
    pub fn count<'i>(&self, inner: &'i mut Inner) -> &'i mut u64 {
        match self.taker {
            Taker::Node => &mut inner.nodes,
            _ => &mut inner.claimed,
        }
    }

    /// Looks everywhere once more, after something was given back.
    pub fn again(&mut self) {
        self.enter(if self.taker == Taker::MoveWhole { Phase::Long } else { Phase::Singles });
    }

    /// Claims what can be claimed, into `found`, until something is missing.
    pub fn step(&mut self, inner: &mut Inner, found: &mut Vec<DeviceSpan>) -> Step {
        while self.wanted > 0 {
            match self.phase {
                Phase::Over if self.gains != inner.gains => self.again(),
                Phase::Over => return Step::Dry,
                Phase::Virgin => self.open_virgin(inner),
                _ => {
                    if let Some(group) = self.sweep(inner, found) {
                        return Step::Load(group);
                    }
                }
            }
        }
        Step::Done
    }

    fn open_virgin(&mut self, inner: &mut Inner) {
        inner.gains += u64::from(inner.opened < inner.layout.groups());
        let next = if inner.opened < inner.layout.groups() {
            *self.cursor(inner) = (inner.opened, Inner::FIRST);
            inner.opened += 1;
            if self.taker == Taker::Node { Phase::Singles } else { Phase::Long }
        } else {
            match self.taker {
                Taker::Node | Taker::MoveWhole => Phase::Over,
                Taker::Data | Taker::Move => Phase::Runs,
            }
        };
        self.enter(next);
    }

    /// Least length of a run that this phase takes, how many groups it looks into, and what follows.
    fn terms(&self) -> (u64, u32, Phase) {
        let after_singles = if self.taker == Taker::Node { Phase::Virgin } else { Phase::Over };
        match (self.phase, self.taker) {
            (Phase::Long, Taker::MoveWhole) => (self.wanted.max(self.ahead), u32::MAX, Phase::Runs),
            (Phase::Runs, Taker::MoveWhole) => (self.wanted, u32::MAX, Phase::Virgin),
            (Phase::Long, Taker::Move) => {
                (self.wanted.min(COLD_RUN_BLOCKS), u32::MAX, Phase::Virgin)
            }
            (Phase::Long, _) => (self.wanted.min(LONG_BLOCKS), LONG_GROUPS, Phase::Virgin),
            (Phase::Runs, Taker::Move) => (self.wanted.min(RUN_BLOCKS), u32::MAX, Phase::Singles),
            (Phase::Runs, _) if self.scattered => {
                (self.wanted.min(SCATTERED_RUN_BLOCKS), u32::MAX, Phase::Singles)
            }
            (Phase::Runs, _) => (self.wanted.min(RUN_BLOCKS), RUN_GROUPS, Phase::Singles),
            _ => (1, u32::MAX, after_singles),
        }
    }

    /// Goes through the opened groups; stops at one that must be loaded.
    fn sweep(&mut self, inner: &mut Inner, found: &mut Vec<DeviceSpan>) -> Option<u64> {
        let opened = inner.opened;
        if self.start == UNSET {
            self.gains = inner.gains;
            self.start = *self.cursor(inner);
        }
        // The group where it began is visited twice: from the cursor on, and at last from its start.
        while self.visited <= opened && opened > 0 && self.looked < self.terms().1 {
            let group = (self.start.0 + self.visited) % opened;
            let min = self.terms().0;
            let hint = inner.hints[group as usize];
            let hopeless = hint.free == 0 || u64::from(hint.longest) < min;
            // Where the last moved block lies, a rest of any length will do.
            let goes_on = self.visited == 0 && self.taker == Taker::Move;
            if (!hopeless || goes_on) && !inner.unreadable.contains_key(&group) {
                if inner.group(group).is_none() {
                    return Some(group);
                }
                self.look_into(inner, group, found);
                self.looked += 1;
                if self.wanted == 0 {
                    return None;
                }
            }
            self.visited += 1;
        }
        let next = self.terms().2;
        self.enter(next);
        None
    }

    /// Claims what this phase wants of a loaded group.
    fn look_into(&mut self, inner: &mut Inner, group: u64, found: &mut Vec<DeviceSpan>) {
        let whole = self.visited > 0 || self.start.1 <= Inner::FIRST;
        let mut from = if whole { Inner::FIRST } else { self.start.1 };
        let mut hid = false;
        while self.wanted > 0 {
            let min = self.least(inner, (group, from));
            let state = inner.group(group).expect("it was just there");
            let Some(run) = state.find(from, min as usize) else {
                if whole && !hid {
                    inner.hints[group as usize].longest = (min - 1) as u32;
                }
                return;
            };
            let run = match self.outside(inner, group, run, min as usize) {
                Ok(run) => run,
                Err(behind) => {
                    (from, hid) = (behind, true);
                    continue;
                }
            };
            let blocks = (run.len() as u64).min(self.wanted);
            let end = run.start + blocks as usize;
            found.push(inner.take(group, run.start..end));
            self.wanted -= blocks;
            from = end;
            self.advance(inner, group, run, end);
        }
    }

    /// The least length of a run from `at` on. What is left of the run in which the last moved block lies is good
    /// whatever its length, or each move would leave a piece.
    fn least(&self, inner: &mut Inner, at: Cursor) -> u64 {
        let least = self.terms().0;
        let goes_on = self.taker == Taker::Move && at == inner.cold_cursor;
        let next = inner.group(at.0).and_then(|group| group.find(at.1, 1));
        if goes_on && next.is_some_and(|run| run.start == at.1) { 1 } else { least }
    }

    /// The part of a free run in front of what is kept for moves, or where to look on behind that.
    fn outside(
        &self,
        inner: &Inner,
        group: u64,
        run: Range<usize>,
        min: usize,
    ) -> Result<Range<usize>, usize> {
        let start = inner.layout.group_span(group).start;
        let span = DeviceSpan::new(start.plus(run.start as u64), run.len() as u64);
        let Some(hidden) = inner.moving.hidden(span, self.is_for_move()) else { return Ok(run) };
        let from = hidden.start.0.saturating_sub(start.0) as usize;
        match from.saturating_sub(run.start) >= min {
            true => Ok(run.start..from),
            false => Err((hidden.end().0 - start.0) as usize),
        }
    }

    /// Of `run`, all in front of `end` was taken.
    fn advance(&self, inner: &mut Inner, group: u64, run: Range<usize>, end: usize) {
        *self.cursor(inner) = (group, end);
        if self.is_for_move() {
            let behind = inner.layout.group_span(group).start.plus(end as u64);
            inner.moving.pack_at(DeviceSpan::new(behind, (run.end - end) as u64));
        }
        if self.taker == Taker::Node && (group, run.start) == inner.data_cursor {
            // Nodes have reached the frontier of data. Taking turns there would cut data into
            // pieces, so data leaves a zone to them.
            inner.data_cursor.1 += NODE_ZONE;
        }
    }
}
