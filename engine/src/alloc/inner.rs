//! The state behind [`super::space::Space`]: loaded groups, hints, counters, holds.
//!
//! Guarantees that the counters agree with the groups: `usable` falls and rises with each block
//! that is taken and given back. Never waits and does no I/O: what is not loaded is asked for. Does not
//! lock itself. Called by `alloc::{space, search, ticket, ready}`.

use std::collections::BTreeMap;
use std::ops::Range;

use crate::alloc::group::Group;
use crate::alloc::moving::Moving;
use crate::alloc::release::Holds;
use crate::alloc::spans::SpanSet;
use crate::error::Error;
use crate::error::Result;
use crate::format::layout::GROUP_HEAD_BLOCKS;
use crate::format::layout::Layout;
use crate::format::root::Root;
use crate::units::DeviceSpan;

/// Loaded groups beyond this number are dropped when they hold nothing but what the disk says.
///
/// 4 KiB each. Groups with claimed or held blocks stay above it; each of those has a change in the
/// log that is younger than its tail, or is being written to, so log and memory bound their number.
pub const LOADED_GROUPS_MAX: usize = 512;

/// What is known about a group without loading it.
#[derive(Debug, Clone, Copy)]
pub struct Hint {
    /// Free blocks at most.
    pub free: u32,
    /// Blocks in the longest free run at most.
    pub longest: u32,
}

/// Spans of stale blocks that are remembered: 1 MiB or so on the heap.
const STALE_SPANS_MAX: usize = 16_384;

const UNKNOWN: Hint = Hint { free: u32::MAX, longest: u32::MAX };

/// A place from which a search goes on: a group and an index in it.
pub type Cursor = (u64, usize);

/// The state of space.
#[derive(Debug)]
pub struct Inner {
    pub layout: Layout,
    pub groups: BTreeMap<u64, (Group, u64)>,
    pub groups_max: usize,
    pub hints: Vec<Hint>,
    /// Groups that could not be read, with the reason; searches pass them by.
    pub unreadable: BTreeMap<u64, Error>,
    pub holds: Holds,
    /// Groups from this one on have no claims and, on disk, are virgin.
    pub opened: u64,
    /// Where the next data claim looks first, so that consecutive claims are neighbours.
    pub data_cursor: Cursor,
    /// The same for blocks that move: they have been still for a while, and stay together.
    pub cold_cursor: Cursor,
    /// No free block lies before this one in the groups that were looked at for nodes.
    pub node_cursor: Cursor,
    /// Blocks that can be claimed.
    pub usable: u64,
    /// Sum of all reservations.
    pub promised: u64,
    /// Claimed data blocks of tickets that are neither settled nor dropped.
    pub claimed: u64,
    /// The same for node blocks.
    pub nodes: u64,
    /// Blocks that could not be written: neither claimed nor usable, and free on disk.
    pub quarantined: u64,
    /// Blocks that are being discarded.
    pub discarding: u64,
    /// Usable blocks that were in use since they were discarded, if anybody wants to know.
    pub stale: Option<SpanSet>,
    /// What moves.
    pub moving: Moving,
    /// Grows with each group dropped from memory: tells a loader that its image may be old.
    pub drops: u64,
    /// Grows whenever blocks become usable or a group is opened.
    pub gains: u64,
    clock: u64,
}

impl Inner {
    /// Space of a volume whose root says these counts.
    pub fn new(layout: Layout) -> Self {
        let groups = layout.groups() as usize;
        Self {
            layout,
            groups: BTreeMap::new(),
            groups_max: LOADED_GROUPS_MAX,
            hints: vec![UNKNOWN; groups],
            unreadable: BTreeMap::new(),
            holds: Holds::default(),
            opened: 0,
            data_cursor: (0, 0),
            cold_cursor: (0, 0),
            node_cursor: (0, 0),
            usable: 0,
            promised: 0,
            claimed: 0,
            nodes: 0,
            quarantined: 0,
            discarding: 0,
            stale: None,
            moving: Moving::default(),
            drops: 0,
            gains: 0,
            clock: 0,
        }
    }

    /// Takes over the counts of `root`; nothing may be claimed or held yet.
    ///
    /// Errors: `Corrupt` when they cannot be.
    pub fn load(&mut self, root: &Root) -> Result<()> {
        assert_eq!(self.claimed + self.nodes + self.holds.blocks(), 0, "loaded while in use");
        if root.free_blocks > self.layout.data_blocks() || root.groups_ready > self.layout.groups()
        {
            let why = "it counts more free blocks or groups than there are";
            return Err(Error::corrupt("root", self.layout.root, why));
        }
        self.groups.clear();
        self.hints.fill(UNKNOWN);
        self.unreadable.clear();
        self.node_cursor = (0, 0);
        self.usable = root.free_blocks;
        self.opened = root.groups_ready;
        self.data_cursor = (root.groups_ready.saturating_sub(1), 0);
        self.cold_cursor = (0, 0);
        Ok(())
    }

    /// Blocks that data can never have: room for nodes of changes that were not promised.
    pub fn metadata_reserve(&self) -> u64 {
        (self.layout.data_blocks() / 128).max(64)
    }

    /// Whether `blocks` more can be promised; see the room's proof.
    pub fn can_promise(&self, blocks: u64) -> bool {
        if blocks > self.usable {
            return false;
        }
        let promised = self.promised + blocks;
        let unclaimed = self.promised.saturating_sub(self.claimed) + blocks;
        unclaimed + promised.div_ceil(16) + self.metadata_reserve() <= self.usable
    }

    /// A claimed data block stays out of use, if all promises can be kept without it. Its group stays loaded: the
    /// disk says that it is free.
    pub fn quarantine(&mut self) -> bool {
        self.claimed -= 1;
        if !self.can_promise(0) {
            self.claimed += 1;
            return false;
        }
        self.quarantined += 1;
        true
    }

    /// How many blocks can be promised: the most there are, or one or two less.
    pub fn available(&self) -> u64 {
        let unclaimed = self.promised.saturating_sub(self.claimed);
        let spoken_for = unclaimed + self.promised.div_ceil(16) + self.metadata_reserve();
        self.usable.saturating_sub(spoken_for) * 16 / 17
    }

    /// The loaded group, marked as used just now.
    pub fn group(&mut self, group: u64) -> Option<&mut Group> {
        self.clock += 1;
        let (found, touched) = self.groups.get_mut(&group)?;
        *touched = self.clock;
        Some(found)
    }

    /// The group of claimed or held blocks, which cannot have been dropped.
    fn pinned(&mut self, group: u64) -> &mut Group {
        self.group(group).expect("groups with claimed or held blocks stay loaded")
    }

    /// Puts a group into memory, and drops others that need not be there.
    pub fn install(&mut self, group: u64, loaded: Group) {
        self.hints[group as usize].free = loaded.free() as u32;
        self.unreadable.remove(&group);
        self.clock += 1;
        let old = self.groups.insert(group, (loaded, self.clock));
        assert!(old.is_none(), "group {group} was loaded twice");
        self.trim(Some(group));
    }

    /// Drops groups that need not be in memory while there are too many, but not `except`.
    pub fn trim(&mut self, except: Option<u64>) {
        while self.groups.len() > self.groups_max && self.drop_oldest(except) {}
    }

    fn drop_oldest(&mut self, except: Option<u64>) -> bool {
        let mut oldest: Option<(u64, u64)> = None;
        for (&group, (state, touched)) in &self.groups {
            let older = oldest.is_none_or(|(least, _)| *touched < least);
            if older && Some(group) != except && state.is_on_disk() {
                oldest = Some((*touched, group));
            }
        }
        let Some((_, group)) = oldest else {
            return false;
        };
        self.groups.remove(&group);
        self.drops += 1;
        true
    }

    /// Where `span`, which holds data or a node, lies.
    pub fn locate(&self, span: DeviceSpan) -> (u64, Range<usize>) {
        assert!(self.layout.is_data(span), "{span:?} is not in the data area of a group");
        let (group, index) = self.layout.group_of(span.start).expect("it is data");
        (group, index as usize..(index + span.blocks) as usize)
    }

    /// Claims free blocks of a loaded group.
    pub fn take(&mut self, group: u64, range: Range<usize>) -> DeviceSpan {
        let blocks = range.len() as u64;
        let start = self.layout.group_span(group).start.plus(range.start as u64);
        let state = self.pinned(group);
        state.take(range);
        state.pin(blocks);
        let free = state.free() as u32;
        self.hints[group as usize].free = free;
        self.usable = self.usable.checked_sub(blocks).expect("more was free than counted");
        let span = DeviceSpan::new(start, blocks);
        if let Some(stale) = &mut self.stale {
            stale.cut(span);
        }
        span
    }

    /// Makes claimed or held blocks usable.
    pub fn give(&mut self, span: DeviceSpan) {
        self.give_fresh(span);
        if let Some(stale) = &mut self.stale {
            // When there are too many to remember, a hint that is not given harms nobody.
            if stale.count() < STALE_SPANS_MAX {
                stale.insert(span);
            }
        }
    }

    /// The same for blocks that hold nothing that a discard would drop.
    pub fn give_fresh(&mut self, span: DeviceSpan) {
        self.moving.given(span);
        let (group, range) = self.locate(span);
        let first = (group, range.start);
        let state = self.pinned(group);
        state.give(range);
        state.unpin(span.blocks);
        let free = state.free() as u32;
        self.hints[group as usize] = Hint { free, longest: u32::MAX };
        self.node_cursor = self.node_cursor.min(first);
        self.usable += span.blocks;
        self.gains += 1;
    }

    /// Keeps the group of `span` loaded because its blocks are being freed; it must be loaded.
    ///
    /// Errors: `Corrupt` when one of them is not in use.
    pub fn pin(&mut self, span: DeviceSpan) -> Result<()> {
        let (group, range) = self.locate(span);
        let at = self.layout.group_block(group);
        let state = self.pinned(group);
        if !state.is_busy(range) {
            return Err(Error::corrupt("group block", at, format!("{span:?} was free already")));
        }
        state.pin(span.blocks);
        Ok(())
    }

    /// The state of `span` is what the disk says again.
    pub fn unpin(&mut self, span: DeviceSpan) {
        let (group, _) = self.locate(span);
        self.pinned(group).unpin(span.blocks);
    }

    /// The group head's end, where data begins.
    pub const FIRST: usize = GROUP_HEAD_BLOCKS as usize;
}
