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
//! Nodes look for any block from the lowest free one on, so that they fill holes and stay together.
//!
//! Guarantees that a search that ends dry has seen every group that could be read. Bounded: each
//! phase visits each group at most once. Never waits: it asks for groups to be loaded. Called by
//! `alloc::ticket` through `alloc::space`.

use crate::alloc::inner::Cursor;
use crate::alloc::inner::Inner;
use crate::units::DeviceSpan;

/// A run of this length is as good as any longer one (4 MiB).
const LONG_BLOCKS: u64 = 1024;
/// Runs shorter than this make device writes small (64 KiB).
const RUN_BLOCKS: u64 = 16;
/// The same for scattered blocks.
const SCATTERED_RUN_BLOCKS: u64 = 4;
/// Groups looked at for long runs, before a virgin one is opened.
const LONG_GROUPS: u32 = 4;
/// Groups looked at for runs, before single blocks are taken.
const RUN_GROUPS: u32 = 16;
/// Blocks left to nodes when they reach the place where data is being put.
const NODE_ZONE: usize = 64;

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
    for_node: bool,
    /// The blocks are for short pieces all over an object.
    scattered: bool,
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
        Self { scattered, ..Self::new(blocks, false, Phase::Long) }
    }

    /// A search for the block of a node.
    pub fn for_node() -> Self {
        Self::new(1, true, Phase::Singles)
    }

    fn new(wanted: u64, for_node: bool, phase: Phase) -> Self {
        let (start, scattered) = (UNSET, false);
        Self { wanted, for_node, scattered, phase, start, visited: 0, looked: 0, gains: 0 }
    }

    fn enter(&mut self, phase: Phase) {
        self.phase = phase;
        self.start = UNSET;
        self.visited = 0;
        self.looked = 0;
    }

    /// The counter of claims of this kind.
    pub fn count<'i>(&self, inner: &'i mut Inner) -> &'i mut u64 {
        match self.for_node {
            true => &mut inner.nodes,
            false => &mut inner.claimed,
        }
    }

    /// Looks everywhere once more, after something was given back.
    pub fn again(&mut self) {
        self.enter(Phase::Singles);
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
        let next = match (inner.opened < inner.layout.groups(), self.for_node) {
            (true, for_node) => {
                let first = (inner.opened, Inner::FIRST);
                inner.opened += 1;
                if for_node {
                    inner.node_cursor = first;
                    Phase::Singles
                } else {
                    inner.data_cursor = first;
                    Phase::Long
                }
            }
            (false, true) => Phase::Over,
            (false, false) => Phase::Runs,
        };
        self.enter(next);
    }

    /// Least length of a run that this phase takes, how many groups it looks into, and what follows.
    fn terms(&self) -> (u64, u32, Phase) {
        let after_singles = if self.for_node { Phase::Virgin } else { Phase::Over };
        match self.phase {
            Phase::Long => (self.wanted.min(LONG_BLOCKS), LONG_GROUPS, Phase::Virgin),
            Phase::Runs if self.scattered => {
                (self.wanted.min(SCATTERED_RUN_BLOCKS), u32::MAX, Phase::Singles)
            }
            Phase::Runs => (self.wanted.min(RUN_BLOCKS), RUN_GROUPS, Phase::Singles),
            _ => (1, u32::MAX, after_singles),
        }
    }

    /// Goes through the opened groups; stops at one that must be loaded.
    fn sweep(&mut self, inner: &mut Inner, found: &mut Vec<DeviceSpan>) -> Option<u64> {
        let opened = inner.opened;
        if self.start == UNSET {
            self.gains = inner.gains;
            self.start = if self.for_node { inner.node_cursor } else { inner.data_cursor };
        }
        // The group where it began is visited twice: from the cursor on, and at last from its start.
        while self.visited <= opened && opened > 0 && self.looked < self.terms().1 {
            let group = (self.start.0 + self.visited) % opened;
            let min = self.terms().0;
            let hint = inner.hints[group as usize];
            let hopeless = hint.free == 0 || u64::from(hint.longest) < min;
            if !hopeless && !inner.unreadable.contains_key(&group) {
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
        while self.wanted > 0 {
            let min = self.terms().0;
            let state = inner.group(group).expect("it was just there");
            let Some(run) = state.find(from, min as usize) else {
                if whole {
                    inner.hints[group as usize].longest = (min - 1) as u32;
                }
                return;
            };
            let blocks = (run.len() as u64).min(self.wanted);
            let end = run.start + blocks as usize;
            found.push(inner.take(group, run.start..end));
            self.wanted -= blocks;
            from = end;
            self.advance(inner, (group, run.start), (group, end));
        }
    }

    fn advance(&self, inner: &mut Inner, at: Cursor, behind: Cursor) {
        if !self.for_node {
            inner.data_cursor = behind;
            return;
        }
        inner.node_cursor = behind;
        if at == inner.data_cursor {
            // Nodes have reached the frontier of data. Taking turns there would cut data into
            // pieces, so data leaves a zone to them.
            inner.data_cursor.1 += NODE_ZONE;
        }
    }
}
