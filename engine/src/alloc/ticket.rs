//! The allocation context of one metadata transaction: claims, nodes, frees.
//!
//! ```text
//! claim / take / free ...   any time, with any view; data may be written to claimed blocks
//! record(txn)               bitmaps and counts change in the transaction; last before prepare
//! commit                    (the transaction's)
//! settle(lsn)               claimed blocks are used, freed ones are held until the log allows
//! drop instead of settle    nothing happened
//! abandon instead           nobody gets the claimed blocks before the volume is opened again
//! ```
//!
//! Guarantees that whatever was claimed ends up used or usable, whichever way the ticket goes.
//! A ticket that is dropped makes its blocks usable at once, so it may be dropped only when no write to
//! them is in flight, and is abandoned otherwise; and a ticket must not be dropped between `record` and a commit
//! that happens.
//!
//! Does not check promises. Called by `object` and `volume`.

use std::ops::Range;

use crate::alloc::inner::Inner;
use crate::alloc::ready::ensure_ready;
use crate::alloc::search::Search;
use crate::alloc::space::Space;
use crate::alloc::spans::SpanSet;
use crate::error::Error;
use crate::error::ErrorKind;
use crate::error::Result;
use crate::format::block::BlockKind;
use crate::format::group_block;
use crate::kit::canary::Canary;
use crate::kit::canary::is_broken;
use crate::meta::view::BlockRead;
use crate::meta::view::BlockWrite;
use crate::meta::view::NodeSupply;
use crate::units::BlockNo;
use crate::units::DeviceSpan;
use crate::units::Lsn;

/// Claims and frees of one transaction.
#[derive(Debug)]
pub struct Ticket {
    space: Space,
    data: SpanSet,
    nodes: SpanSet,
    freed: SpanSet,
    /// What of `freed` keeps its group loaded.
    pinned: Vec<DeviceSpan>,
    /// The first impossible free, reported by `record`.
    wrong: Option<Error>,
    recorded: bool,
}

impl Ticket {
    /// The allocation context of one metadata transaction to come.
    pub fn new(space: &Space) -> Self {
        Self {
            space: space.clone(),
            data: SpanSet::default(),
            nodes: SpanSet::default(),
            freed: SpanSet::default(),
            pinned: Vec::new(),
            wrong: None,
            recorded: false,
        }
    }

    /// Claims `blocks` blocks, in one piece if there is such a run near, in pieces of 16 blocks and
    /// more if there are, in any case all of them. The caller promised them before.
    ///
    /// Errors: `NoSpace` (not for promised blocks), `OutOfMemory`, or what stopped the reading of bitmaps.
    /// Dropping the future leaves the ticket with what it had found; dropping the ticket undoes it.
    pub async fn claim<R: BlockRead>(&mut self, r: &R, blocks: u64) -> Result<Vec<DeviceSpan>> {
        self.claim_for(r, blocks, blocks).await
    }

    /// The same for parts of an object that are `mean` blocks long: very short ones need not keep longer
    /// runs from others.
    pub async fn claim_for<R: BlockRead>(
        &mut self,
        r: &R,
        blocks: u64,
        mean: u64,
    ) -> Result<Vec<DeviceSpan>> {
        self.assert_open();
        // What is free by now counts at once: random overwrites free a second's worth of space in a second, and
        // with that much of it missing what is left is in pieces.
        self.space.release();
        let search = Search::for_data(blocks, mean);
        self.space.claim(r, search, &mut self.data).await
    }

    /// The same for blocks that move, from a place where only such lie; in one piece or not at all if they are the
    /// first of so many that shall lie `together`. Gives way to all other claims. Errors: also `NoSpace` when there is room, but not such.
    pub async fn claim_moved<R: BlockRead>(
        &mut self,
        r: &R,
        blocks: u64,
        together: Option<u64>,
    ) -> Result<Vec<DeviceSpan>> {
        self.assert_open();
        self.space.claim(r, Search::for_move(blocks, together), &mut self.data).await
    }

    /// Gives back a part of what was claimed.
    ///
    /// # Panics
    /// If it was not claimed by this ticket.
    pub fn unclaim(&mut self, span: DeviceSpan) {
        self.assert_open();
        assert!(self.data.remove(span), "{span:?} was not claimed");
        self.space.with(|inner| {
            inner.give(span);
            inner.claimed -= span.blocks;
        });
    }

    /// The claims of `spans`, as a ticket of their own; what this one did not claim of them stays out.
    pub fn split(&mut self, spans: impl Iterator<Item = DeviceSpan>) -> Self {
        self.assert_open();
        let mut part = Self::new(&self.space);
        for span in spans.filter(|&span| self.data.remove(span)) {
            assert!(part.data.insert(span), "{span:?} was claimed twice");
        }
        part
    }

    /// Takes over the claims of `part`, which has nothing else.
    pub fn join(&mut self, mut part: Self) {
        self.assert_open();
        part.assert_open();
        for span in part.data.take().iter() {
            assert!(self.data.insert(span), "{span:?} was claimed twice");
        }
    }

    /// The device cannot write `span`: what of it is claimed for data goes to nobody before the volume is opened
    /// again, except blocks that promises need. How many blocks that are.
    pub fn quarantine(&mut self, span: DeviceSpan) -> u64 {
        self.assert_open();
        let mut left = 0;
        for block in span.iter().map(|block| DeviceSpan::new(block, 1)) {
            if self.data.remove(block) {
                if self.space.with(Inner::quarantine) {
                    left += 1;
                } else {
                    assert!(self.data.insert(block), "it was taken out a moment ago");
                }
            }
        }
        left
    }

    /// The transaction was dropped before its commit, and another one shall have the claims for data:
    /// what else was done for the first one is undone.
    pub fn restart(&mut self) {
        let nodes = self.nodes.take();
        let pinned = std::mem::take(&mut self.pinned);
        self.space.with(|inner| {
            nodes.iter().for_each(|span| inner.give(span));
            inner.nodes -= nodes.blocks();
            pinned.into_iter().for_each(|span| inner.unpin(span));
        });
        self.freed = SpanSet::default();
        self.wrong = None;
        self.recorded = false;
    }

    /// Lets go of the claims without making them usable: a forgotten write can still hit these blocks, so nobody
    /// is given them before the volume is opened again.
    pub fn abandon(mut self) {
        self.restart();
        drop(self.data.take());
    }

    #[cfg(test)]
    /// Blocks claimed for data.
    pub fn claimed(&self) -> u64 {
        self.data.blocks()
    }

    #[cfg(test)]
    /// Whether `at` was taken as a node by this ticket.
    pub fn owns_node(&self, at: BlockNo) -> bool {
        self.nodes.contains(at)
    }

    /// Frees used blocks, when the transaction commits. Blocks that this ticket claimed are usable
    /// at once. A free that cannot be right (outside of the groups, or twice) makes `record` fail.
    pub fn free(&mut self, span: DeviceSpan) {
        self.assert_open();
        if span.blocks == 0 {
            return;
        }
        if self.data.remove(span) {
            assert!(self.data.insert(span), "removed a moment ago");
            return self.unclaim(span);
        }
        if !self.space.layout().is_data(span) || !self.freed.insert(span) {
            let what = format!("blocks {span:?} are freed twice, or cannot hold data");
            self.wrong.get_or_insert(Error::new(ErrorKind::Corrupt, what));
        }
    }

    /// Writes claims and frees into the transaction: bitmaps, group counts, the root's counts.
    ///
    /// Errors: `Corrupt` when they contradict the bitmaps; what reading gives. Then, or when the
    /// future is dropped, the transaction must be dropped.
    ///
    /// # Panics
    /// If called twice.
    pub async fn record<W: BlockWrite>(&mut self, w: &mut W) -> Result<()> {
        self.assert_open();
        if let Some(error) = &self.wrong {
            return Err(error.clone());
        }
        self.pin_freed(w).await?;
        self.recorded = true;
        let mut changes: Vec<(DeviceSpan, bool)> = Vec::new();
        changes.extend(self.data.iter().map(|span| (span, true)));
        changes.extend(self.nodes.iter().map(|span| (span, true)));
        changes.extend(self.freed.iter().map(|span| (span, false)));
        changes.sort_unstable();
        let layout = self.space.layout();
        for (span, take) in changes {
            let (group, range) = place(&self.space, span);
            ensure_ready(w, layout, group).await?;
            let at = layout.group_block(group);
            let body = w.modify(at, BlockKind::Group).await?;
            match take {
                true => group_block::take(body, at, range)?,
                false => group_block::give(body, at, range)?,
            }
        }
        let taken = self.data.blocks() + self.nodes.blocks();
        let free = w.root().free_blocks + self.freed.blocks();
        match free.checked_sub(taken) {
            Some(free) if free <= layout.data_blocks() => w.root_mut().free_blocks = free,
            _ => {
                return Err(Error::corrupt(
                    "root",
                    layout.root,
                    "its count of free blocks is wrong",
                ));
            }
        }
        Ok(())
    }

    /// Loads the groups of freed blocks, and keeps them: from the commit on until these are released, the
    /// disk says that they are free, and only memory knows better.
    async fn pin_freed<W: BlockWrite>(&mut self, w: &W) -> Result<()> {
        let freed: Vec<DeviceSpan> = self.freed.iter().collect();
        for span in freed {
            let (group, _) = place(&self.space, span);
            self.space.with_group(w, group, |inner| inner.pin(span)).await??;
            self.pinned.push(span);
        }
        Ok(())
    }

    /// The transaction committed at `lsn`.
    ///
    /// # Panics
    /// If there are claims or frees that were not recorded.
    pub fn settle(mut self, lsn: Lsn) {
        let (data, nodes, freed) = (self.data.take(), self.nodes.take(), self.freed.take());
        let nothing = data.blocks() + nodes.blocks() + freed.blocks() == 0;
        assert!(self.recorded || nothing, "settled without being recorded");
        self.pinned.clear();
        let log = self.space.log();
        let held: Vec<(DeviceSpan, bool)> = freed
            .iter()
            .flat_map(|span| {
                by_logged(span, |b| log.is_logged(b) && !is_broken(Canary::ReuseBeforeApplied))
            })
            .collect();
        self.space.with(|inner| {
            data.iter().chain(nodes.iter()).for_each(|span| inner.unpin(span));
            inner.claimed -= data.blocks();
            inner.nodes -= nodes.blocks();
            held.into_iter().for_each(|(span, logged)| inner.holds.push(lsn, span, logged));
        });
    }

    fn assert_open(&self) {
        assert!(!self.recorded, "the ticket was recorded already");
    }
}

/// The group of a span of data, and its place in it.
fn place(space: &Space, span: DeviceSpan) -> (u64, Range<usize>) {
    let (group, index) = space.layout().group_of(span.start).expect("it was checked to be data");
    (group, index as usize..(index + span.blocks) as usize)
}

/// Cuts a span where the answer changes.
fn by_logged(span: DeviceSpan, is_logged: impl Fn(BlockNo) -> bool) -> Vec<(DeviceSpan, bool)> {
    let mut parts: Vec<(DeviceSpan, bool)> = Vec::new();
    for block in span.iter() {
        let logged = is_logged(block);
        match parts.last_mut() {
            Some((part, same)) if *same == logged => part.blocks += 1,
            _ => parts.push((DeviceSpan::new(block, 1), logged)),
        }
    }
    parts
}

impl NodeSupply for Ticket {
    async fn take<R: BlockRead>(&mut self, view: &R) -> Result<BlockNo> {
        self.assert_open();
        let spans = self.space.claim(view, Search::for_node(), &mut self.nodes).await?;
        Ok(spans.first().expect("a block was found").start)
    }

    fn give_back(&mut self, at: BlockNo) {
        self.assert_open();
        let span = DeviceSpan::new(at, 1);
        if !self.nodes.remove(span) {
            return self.free(span);
        }
        self.space.with(|inner| {
            inner.give(span);
            inner.nodes -= 1;
        });
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.restart();
        let data = self.data.take();
        self.space.with(|inner| {
            data.iter().for_each(|span| inner.give(span));
            inner.claimed -= data.blocks();
        });
    }
}
