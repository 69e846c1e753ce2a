//! Changes to what an object maps: truncate, punch, preallocate.
//!
//! Guarantees: all that can fail comes before the commit, and the cache follows it, under the range
//! lock that is held from before until after, with writeback held still: so a failed call changed
//! nothing, and no batch maps what is being unmapped; a shrinking object reads as zero behind its new end if it grows
//! again, at once and after a crash; shrinking and punching whole blocks need no room. An object with
//! more extents than one transaction can remove is cut in several; the record is marked in the first
//! one, and `object::table` finishes the cut when a crash came between.
//!
//! Does not: zero partial blocks of a punch (`iomap::zero` does), wait for durability. Called by
//! `api::object` and `object::table`; runs inside a tracked task, so that a dropped caller does not
//! leave it half done.

use std::ops::Range;
use std::sync::Arc;

use crate::alloc::Ticket;
use crate::error::Error;
use crate::error::Result;
use crate::extent;
use crate::extent::Extent;
use crate::extent::Lookup;
use crate::kit::canary::Canary;
use crate::kit::canary::is_broken;
use crate::kit::range_lock::RangeGuard;
use crate::limits::OBJECT_BYTES_MAX;
use crate::meta::MetaTxn;
use crate::object::inline;
use crate::object::open::OpenObject;
use crate::object::records;
use crate::units::BLOCK;
use crate::units::DeviceSpan;
use crate::units::FileBlocks;
use crate::units::Lsn;

/// Extents that one transaction removes or adds at most: about 64 KiB of log.
const STEP_EXTENTS: usize = 512;
/// Blocks that one preallocation step claims at most (16 MiB).
const STEP_BLOCKS: u64 = 4096;
/// The block behind the last one that an object can have.
pub(super) const BLOCKS_END: u64 = OBJECT_BYTES_MAX.div_ceil(BLOCK);

/// The range in bytes, checked. Errors: `InvalidInput` when it runs backwards or leaves the largest
/// object.
fn checked(range: &Range<u64>) -> Result<()> {
    if range.start > range.end || range.end > OBJECT_BYTES_MAX {
        let why = format!("range {}..{} is not one of an object", range.start, range.end);
        return Err(Error::invalid(why));
    }
    Ok(())
}

fn check_writable(object: &OpenObject) -> Result<()> {
    object.state().check()?;
    object.ground().poison.check()
}

/// Sets the size. Growing exposes zeroes; shrinking drops what lies behind.
///
/// Errors: `InvalidInput` over the largest size, `NoSpace` (growing over stored bytes), `Closed`,
/// `WritesStopped`, `Device`.
pub async fn truncate(object: &Arc<OpenObject>, size: u64) -> Result<()> {
    checked(&(0..size))?;
    check_writable(object)?;
    let held = lock_from(object, size).await;
    check_writable(object)?;
    if size >= object.state().size() {
        return object.core().grow(&held, size).await;
    }
    shrink(object, &held, size).await
}

/// Locks everything from the lower one of `size` and the visible end on, that block included.
async fn lock_from(object: &OpenObject, size: u64) -> RangeGuard {
    loop {
        let from = size.min(object.state().size()) / BLOCK;
        let guard = object.core().ranges().exclusive(from..u64::MAX).await;
        if size.min(object.state().size()) / BLOCK >= from {
            return guard;
        }
        // Somebody shortened the object while this waited: the lock must start lower.
    }
}

/// Cuts the object: mapping, size and cache.
///
/// Writeback is held still: a batch that was collected before could record its old, larger size
/// behind this transaction, or map blocks that it unmaps.
async fn shrink(object: &Arc<OpenObject>, held: &RangeGuard, size: u64) -> Result<()> {
    let (ground, state) = (object.ground(), object.state());
    let behind = FileBlocks::new(size.div_ceil(BLOCK), BLOCKS_END);
    let still = object.core().hold_writeback().await;
    let end = object.core().hold_end(held, size).await?;
    let mut txn = ground.meta.begin().await?;
    let mut ticket = ground.ticket();
    let rest = remove_extents(&mut txn, &mut ticket, object, behind).await?;
    let recorded = size.min(state.recorded_size());
    records::set_size(&mut txn, &mut ticket, state.id(), recorded).await?;
    records::set_trimming(&mut txn, &mut ticket, state.id(), rest.is_some()).await?;
    ticket.record(&mut txn).await?;
    let prepared = txn.prepare().await?;
    let lsn = prepared.commit_with(|lsn| {
        // What is inline was cut with the record.
        let cut = if state.is_inline() { inline::FIRST } else { behind };
        state.set_inline(state.is_inline() && recorded > 0);
        state.committed(lsn, Some(recorded), &[behind, cut]);
        state.set_size(size);
    });
    ticket.settle(lsn);
    object.core().cut(held, end).await?;
    drop(still);
    match rest {
        Some(next) => trim(object, FileBlocks::new(next, BLOCKS_END)).await,
        None => Ok(()),
    }
}

/// Removes up to a step's worth of extents from `blocks`; the answer is where the rest starts.
async fn remove_extents(
    txn: &mut MetaTxn,
    ticket: &mut Ticket,
    object: &OpenObject,
    blocks: FileBlocks,
) -> Result<Option<u64>> {
    let id = object.state().id();
    let found = extent::list(txn, id, blocks, STEP_EXTENTS).await?;
    let Some(last) = found.last() else { return Ok(None) };
    let end = (last.at + last.blocks).min(blocks.end);
    let freed = extent::replace(txn, ticket, id, FileBlocks::new(blocks.start, end), &[]).await?;
    for span in freed.into_iter().filter(|_| !is_broken(Canary::LoseSpace)) {
        ticket.free(span);
    }
    Ok((found.len() == STEP_EXTENTS && end < blocks.end).then_some(end))
}

/// Removes extents step by step until none is left, then takes the mark off the record.
///
/// The caller holds the range lock over `blocks`, or the object is not known to anybody else.
pub(super) async fn trim(object: &Arc<OpenObject>, mut blocks: FileBlocks) -> Result<()> {
    let ground = object.ground();
    loop {
        let mut txn = ground.meta.begin().await?;
        let mut ticket = ground.ticket();
        let rest = remove_extents(&mut txn, &mut ticket, object, blocks).await?;
        if rest.is_none() && !object.state().is_removed() {
            records::set_trimming(&mut txn, &mut ticket, object.state().id(), false).await?;
        }
        ticket.record(&mut txn).await?;
        let prepared = txn.prepare().await?;
        let lsn = prepared.commit_with(|lsn| object.state().committed(lsn, None, &[blocks]));
        ticket.settle(lsn);
        match rest {
            Some(next) => blocks.start = next,
            None => return Ok(()),
        }
    }
}

/// Makes the blocks that lie wholly inside `range` holes, and zeroes the rest of it, as far as it
/// lies below the size. A range that reaches to the size takes the last block whole. Not atomic over more than 512 extents. The size does not change.
///
/// Errors: `InvalidInput`, `NoSpace` (edges, when the whole blocks gave back nothing), `Closed`,
/// `WritesStopped`, `Device`.
pub async fn punch(object: &Arc<OpenObject>, range: Range<u64>) -> Result<()> {
    checked(&range)?;
    check_writable(object)?;
    if range.is_empty() {
        return Ok(());
    }
    let covering = FileBlocks::covering(&range);
    let held = object.core().ranges().exclusive(covering.start..covering.end).await;
    check_writable(object)?;
    // Behind the size there is nothing to keep, and with the block of the end locked it stays there.
    let to_end = range.end >= object.state().size();
    let range = if to_end { range.start..covering.end * BLOCK } else { range };
    let inner = FileBlocks::new(
        range.start.div_ceil(BLOCK).min(covering.end),
        (range.end / BLOCK).max(range.start.div_ceil(BLOCK)),
    );
    // The whole blocks first: on a full volume they make the room that the edges need.
    let mut at = inner.start;
    while at < inner.end {
        at = punch_step(object, &held, FileBlocks::new(at, inner.end)).await?;
    }
    object.core().zero_edges(&held, range).await
}

async fn punch_step(
    object: &Arc<OpenObject>,
    held: &RangeGuard,
    blocks: FileBlocks,
) -> Result<u64> {
    let ground = object.ground();
    let beside = is_broken(Canary::PunchBesideWriteback);
    let _still = if beside { None } else { Some(object.core().hold_writeback().await) };
    let mut txn = ground.meta.begin().await?;
    let mut ticket = ground.ticket();
    let state = object.state();
    let rest = remove_extents(&mut txn, &mut ticket, object, blocks).await?;
    let first = blocks.start == 0;
    if first {
        inline::take_out(&mut txn, &mut ticket, state).await?;
    }
    ticket.record(&mut txn).await?;
    let prepared = txn.prepare().await?;
    let end = rest.unwrap_or(blocks.end);
    let done = FileBlocks::new(blocks.start, end);
    let lsn = prepared.commit_with(|lsn| {
        state.set_inline(state.is_inline() && !first);
        state.committed(lsn, None, &[done]);
    });
    ticket.settle(lsn);
    if !is_broken(Canary::KeepPunched) {
        object.core().drop_cached(held, done).await?;
    }
    Ok(end)
}

/// Allocates every hole in `range` (rounded outwards to blocks) as unwritten space, so that
/// what is written there later takes no further room. The size does not change.
///
/// Errors: `NoSpace` (what was allocated before stays), `InvalidInput`, `Closed`, `Device`.
pub async fn preallocate(object: &Arc<OpenObject>, range: Range<u64>) -> Result<()> {
    checked(&range)?;
    check_writable(object)?;
    let blocks = FileBlocks::covering(&range);
    if blocks.is_empty() {
        return Ok(());
    }
    let _held = object.core().ranges().exclusive(blocks.start..blocks.end).await;
    check_writable(object)?;
    let mut at = blocks.start;
    while at < blocks.end {
        at = preallocate_step(object, FileBlocks::new(at, blocks.end)).await?;
    }
    Ok(())
}

async fn preallocate_step(object: &Arc<OpenObject>, blocks: FileBlocks) -> Result<u64> {
    let ground = object.ground();
    let step = blocks.len().min(STEP_BLOCKS);
    // Outside of the transaction, because a checkpoint may have to make the room.
    let reserved = ground.reserve(step).await?;
    let mut txn = ground.meta.begin().await?;
    let until = match extent::lookup(&txn, object.state().id(), blocks.start).await? {
        Lookup::Extent(e) => return Ok(e.at + e.blocks),
        Lookup::Hole { until } => until.min(blocks.start + step),
    };
    let mut ticket = ground.ticket();
    let spans = ticket.claim(&txn, until - blocks.start).await?;
    insert_unwritten(&mut txn, &mut ticket, object, blocks.start, &spans).await?;
    ticket.record(&mut txn).await?;
    let prepared = txn.prepare().await?;
    let done = FileBlocks::new(blocks.start, until);
    let lsn = prepared.commit_with(|lsn| object.state().committed(lsn, None, &[done]));
    ticket.settle(lsn);
    reserved.settle();
    Ok(until)
}

async fn insert_unwritten(
    txn: &mut MetaTxn,
    ticket: &mut Ticket,
    object: &OpenObject,
    mut at: u64,
    spans: &[DeviceSpan],
) -> Result<()> {
    for span in spans {
        let extent = Extent { at, start: span.start, blocks: span.blocks, unwritten: true };
        let range = FileBlocks::new(at, at + span.blocks);
        let freed = extent::replace(txn, ticket, object.state().id(), range, &[extent]).await?;
        assert!(freed.is_empty(), "a hole held blocks");
        at += span.blocks;
    }
    Ok(())
}

/// Makes the size durable that readers see, as far as no dirty block stands in its way.
///
/// Called by the flusher at the end of a sync. The answer is the transaction to wait for.
pub async fn record_size(object: &Arc<OpenObject>) -> Result<Lsn> {
    let state = object.state();
    let still = object.core().hold_writeback().await;
    let settled = object.core().settled_now(&still);
    if settled <= state.recorded_size() || state.is_removed() {
        return Ok(state.last_lsn());
    }
    let ground = object.ground();
    let mut txn = ground.meta.begin().await?;
    if settled <= state.recorded_size() {
        return Ok(state.last_lsn());
    }
    let mut ticket = ground.ticket();
    records::set_size(&mut txn, &mut ticket, state.id(), settled).await?;
    ticket.record(&mut txn).await?;
    let prepared = txn.prepare().await?;
    let lsn = prepared.commit_with(|lsn| state.committed(lsn, Some(settled), &[]));
    ticket.settle(lsn);
    Ok(lsn)
}
