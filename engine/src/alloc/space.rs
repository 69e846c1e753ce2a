//! The handle to free space: promises, searches, releases, numbers.
//!
//! Guarantees what the room's page says. A view that is given to it shows committed state, and no
//! transaction commits while it is in use (or it is the running transaction itself, before its
//! ticket is recorded): else a bitmap could be loaded that is already out of date.
//!
//! Does not make the log durable or move its tail: it only asks how far they are. Called by `volume` and
//! `object`.

use std::fmt;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::alloc::group::Group;
use crate::alloc::inner::Inner;
use crate::alloc::ready::read_used;
use crate::alloc::release::LogState;
use crate::alloc::search::Search;
use crate::alloc::search::Step;
use crate::alloc::spans::SpanSet;
use crate::error::Error;
use crate::error::ErrorKind;
use crate::error::Result;
use crate::format::layout::Layout;
use crate::format::root::Root;
use crate::limits::TREE_HEIGHT_MAX;
use crate::meta::view::BlockRead;
use crate::units::DeviceSpan;

/// What a change of names or records, without data, promises: a split of every level of two trees.
pub const NODES_PER_CHANGE: u64 = 2 * TREE_HEIGHT_MAX as u64;

/// Free space of a volume; clones share it.
#[derive(Clone)]
pub struct Space {
    shared: Arc<Shared>,
}

struct Shared {
    layout: Layout,
    log: Arc<dyn LogState>,
    /// Short sections of bit searches that never wait, so a plain mutex.
    inner: Mutex<Inner>,
}

/// Numbers, all in blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SpaceStats {
    /// Blocks that can hold data or nodes.
    pub total: u64,
    /// Blocks that can be claimed now.
    pub usable: u64,
    /// Sum of the promises.
    pub promised: u64,
    /// What [`Space::available`] says.
    pub available: u64,
    /// Claimed for data by open tickets.
    pub claimed: u64,
    /// Claimed for nodes by open tickets.
    pub nodes: u64,
    /// Freed, but not usable before the log has got further.
    pub held: u64,
    /// Being discarded.
    pub discarding: u64,
    /// Promised to movers, who give it back soon.
    pub lent: u64,
    /// Not used because the device could not write them.
    pub quarantined: u64,
    /// Groups in memory.
    pub groups_loaded: usize,
    /// Groups that could not be read.
    pub groups_unreadable: usize,
}

impl Space {
    /// Space of a volume with this layout, before its root is known.
    pub fn new(layout: Layout, log: Arc<dyn LogState>) -> Self {
        let inner = Mutex::new(Inner::new(layout.clone()));
        Self { shared: Arc::new(Shared { layout, log, inner }) }
    }

    /// Takes over the counts of the committed root; nothing may be claimed or held yet.
    ///
    /// Errors: `Corrupt` when they are impossible.
    pub fn load(&self, root: &Root) -> Result<()> {
        self.shared.inner.lock().load(root)
    }

    /// The layout of the volume.
    pub fn layout(&self) -> &Layout {
        &self.shared.layout
    }

    /// How many blocks can be promised now: the most there are, or one or two less.
    pub fn available(&self) -> u64 {
        self.shared.inner.lock().available()
    }

    /// Promises `blocks` blocks: claiming them later cannot fail for lack of space.
    ///
    /// Errors: `NoSpace`; when blocks are held (see [`SpaceStats::held`]), it may succeed after the log became
    /// durable or was checkpointed.
    pub fn reserve(&self, blocks: u64) -> Result<()> {
        let mut inner = self.shared.inner.lock();
        if !inner.can_promise(blocks) {
            self.release_into(&mut inner);
        }
        if !inner.can_promise(blocks) {
            return Err(Error::new(
                ErrorKind::NoSpace,
                format!("{blocks} blocks are wanted, {} are available", inner.available()),
            ));
        }
        inner.promised += blocks;
        Ok(())
    }

    /// Takes back a promise of `blocks`, after the ticket that claimed them was settled or dropped.
    ///
    /// # Panics
    /// If less was promised.
    pub fn unreserve(&self, blocks: u64) {
        let mut inner = self.shared.inner.lock();
        let left = inner.promised.checked_sub(blocks);
        inner.promised = left.expect("more was given back than was promised");
    }

    /// Makes freed blocks usable as far as the log allows, and none while a mover reads; returns how many.
    ///
    /// Each claim of data does it, and a promise that fails; the flusher, for those who look at the numbers.
    pub fn release(&self) -> u64 {
        self.release_into(&mut self.shared.inner.lock())
    }

    /// The numbers.
    pub fn stats(&self) -> SpaceStats {
        let inner = self.shared.inner.lock();
        SpaceStats {
            total: inner.layout.data_blocks(),
            usable: inner.usable,
            promised: inner.promised,
            available: inner.available(),
            claimed: inner.claimed,
            nodes: inner.nodes,
            held: inner.holds.blocks(),
            discarding: inner.discarding,
            lent: inner.moving.lent,
            quarantined: inner.quarantined,
            groups_loaded: inner.groups.len(),
            groups_unreadable: inner.unreadable.len(),
        }
    }

    /// Runs `change` on the state; it must be short.
    pub(super) fn with<T>(&self, change: impl FnOnce(&mut Inner) -> T) -> T {
        change(&mut self.shared.inner.lock())
    }

    pub(super) fn log(&self) -> &dyn LogState {
        &*self.shared.log
    }

    fn release_into(&self, inner: &mut Inner) -> u64 {
        if inner.moving.reading {
            return 0;
        }
        // The tail is asked for first: what it has passed is durable by then.
        let applied = self.shared.log.applied();
        let durable = self.shared.log.durable();
        let spans = inner.holds.pop(durable, applied);
        spans.iter().for_each(|&span| inner.give(span));
        inner.trim(None);
        spans.iter().map(|span| span.blocks).sum()
    }

    /// Loads `group` if it is not there, and runs `then` on the state with it loaded.
    pub(super) async fn with_group<R: BlockRead, T>(
        &self,
        r: &R,
        group: u64,
        then: impl FnOnce(&mut Inner) -> T,
    ) -> Result<T> {
        loop {
            let drops = {
                let mut inner = self.shared.inner.lock();
                if inner.group(group).is_some() {
                    return Ok(then(&mut inner));
                }
                inner.drops
            };
            let used = read_used(r, self.layout(), group).await?;
            let mut inner = self.shared.inner.lock();
            if inner.group(group).is_none() {
                if inner.drops != drops {
                    // It may have been loaded, changed and dropped while this image was read.
                    continue;
                }
                inner.install(group, Group::new(used));
            }
            return Ok(then(&mut inner));
        }
    }

    /// Claims what `search` looks for, into `owned`; all or nothing.
    ///
    /// Errors: `NoSpace`; `Corrupt` or `Device` when the blocks may be in groups that cannot be read.
    pub(super) async fn claim<R: BlockRead>(
        &self,
        r: &R,
        mut search: Search,
        owned: &mut SpanSet,
    ) -> Result<Vec<DeviceSpan>> {
        let mut all: Vec<DeviceSpan> = Vec::new();
        loop {
            let mut found = Vec::new();
            // From here to the next await, what was found gets its owner.
            let step = self.with(|inner| {
                let step = search.step(inner, &mut found);
                let blocks: u64 = found.iter().map(|span| span.blocks).sum();
                *search.count(inner) += blocks;
                step
            });
            for span in found {
                assert!(owned.insert(span), "{span:?} was claimed twice");
                push_joined(&mut all, span);
            }
            match step {
                Step::Done => return Ok(all),
                Step::Load(group) => self.load_or_skip(r, group).await?,
                Step::Dry if self.release() > 0 => search.again(),
                // Who moves blocks gives way to all others.
                Step::Dry if !search.is_for_move() && self.open_up() => search.again(),
                Step::Dry => {
                    self.give_back(&search, owned, &all);
                    return Err(self.why_dry());
                }
            }
        }
    }

    fn give_back(&self, search: &Search, owned: &mut SpanSet, spans: &[DeviceSpan]) {
        self.with(|inner| {
            for &span in spans {
                assert!(owned.remove(span), "claimed a moment ago");
                inner.give(span);
                *search.count(inner) -= span.blocks;
            }
        });
    }

    /// Loads a group for a search. One that cannot be read must not stop all writes: it is passed by.
    async fn load_or_skip<R: BlockRead>(&self, r: &R, group: u64) -> Result<()> {
        match self.with_group(r, group, |_| ()).await {
            Err(error) if matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::Device) => {
                tracing::warn!(group, %error, "a group cannot be read, its free blocks are not used");
                self.with(|inner| inner.unreadable.insert(group, error));
                Ok(())
            }
            other => other,
        }
    }

    /// Why a search found nothing; groups that could not be read get another chance after it.
    fn why_dry(&self) -> Error {
        self.with(|inner| {
            let unreadable = std::mem::take(&mut inner.unreadable);
            match unreadable.into_values().next() {
                Some(error) => error,
                None => Error::new(
                    ErrorKind::NoSpace,
                    format!("no free block is left ({} counted)", inner.usable),
                ),
            }
        })
    }
}

/// Appends a span, joined with the last one when it continues it.
fn push_joined(all: &mut Vec<DeviceSpan>, span: DeviceSpan) {
    match all.last_mut() {
        Some(last) if last.end() == span.start => last.blocks += span.blocks,
        _ => all.push(span),
    }
}

impl fmt::Debug for Space {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.stats())
    }
}
