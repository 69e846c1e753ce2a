//! Changes to what an object maps: truncate, punch, preallocate.
//!
//! Guarantees: each step is one metadata transaction, in which the cache follows the mapping under
//! the folio locks that were taken before; a shrinking object reads as zero behind its new end if
//! it grows again, at once and after a crash. An object with more extents than one transaction can
//! remove is cut in several; the record is marked in the first one, and `object::table` finishes
//! the cut when a crash came between.
//!
//! Does not: zero partial blocks of a punch (that is an ordinary write of zeroes), wait for
//! durability. Called by `api::object`; runs inside a tracked task, so that a dropped caller
//! does not leave it half done.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

use crate::alloc::Ticket;
use crate::error::Error;
use crate::error::Result;
use crate::extent;
use crate::extent::Extent;
use crate::extent::Lookup;
use crate::folio::FolioLock;
use crate::iomap::contract::MappingProvider;
use crate::kit::memory::Memory;
use crate::kit::range_lock::RangeGuard;
use crate::limits::OBJECT_BYTES_MAX;
use crate::meta::MetaTxn;
use crate::object::journaled;
use crate::object::journaled::LoggedPart;
use crate::object::journaled::Patch;
use crate::object::open::OpenObject;
use crate::object::provider::Ground;
use crate::object::records;
use crate::object::reservation::Reservation;
use crate::units::BLOCK;
use crate::units::DeviceSpan;
use crate::units::FileBlocks;
use crate::units::Lsn;

/// Extents that one transaction removes or adds at most: about 64 KiB of log.
const STEP_EXTENTS: usize = 512;
/// Blocks that one preallocation step claims at most (16 MiB).
const STEP_BLOCKS: u64 = 4096;
/// The block behind the last one that an object can have.
const BLOCKS_END: u64 = OBJECT_BYTES_MAX.div_ceil(BLOCK);

/// Sets the size. Growing exposes zeroes; shrinking drops what lies behind.
///
/// Errors: `InvalidInput` over the largest size, `NoSpace`, `Closed`, `WritesStopped`, `Device`.
pub async fn truncate(object: &Arc<OpenObject>, memory: &Memory, size: u64) -> Result<()> {
    if size > OBJECT_BYTES_MAX {
        return Err(Error::invalid(format!("size {size} is over the largest, {OBJECT_BYTES_MAX}")));
    }
    object.state().check()?;
    let ground = object.ground();
    ground.poison.check()?;
    let _range = lock_behind(object, size).await?;
    if size >= object.state().size() {
        let old = object.state().size();
        object.core().extend(old, size).await?;
        object.provider().publish_size(size);
        return Ok(());
    }
    let _still = object.core().pause_writeback().await?;
    shrink(object, memory, size).await
}

/// Locks everything from the smaller of the two ends on, the block of that end included.
async fn lock_behind(object: &OpenObject, size: u64) -> Result<RangeGuard> {
    loop {
        let from = size.min(object.state().size()) / BLOCK * BLOCK;
        let guard = object.core().ranges().exclusive(from..BLOCKS_END * BLOCK).await?;
        if size.min(object.state().size()) >= from {
            return Ok(guard);
        }
        // Somebody shortened the object while this waited: the lock must start lower.
    }
}

async fn shrink(object: &Arc<OpenObject>, memory: &Memory, size: u64) -> Result<()> {
    let ground = object.ground();
    let state = object.state();
    let behind = FileBlocks::new(size.div_ceil(BLOCK), BLOCKS_END);
    let tail = tail_part(object, size);
    let mut changes = journaled::stage(memory, &tail).await?;
    let dropped = object.core().cache().lock_range(behind).await?;
    let reserved = Reservation::new(&ground.space, 1)?;
    let mut txn = ground.meta.begin().await?;
    let mut ticket = ground.space.ticket();
    for change in &mut changes {
        journaled::place(ground, &mut txn, &mut ticket, change).await?;
    }
    let all = remove_extents(&mut txn, &mut ticket, object, behind).await?;
    records::set_size(&mut txn, &mut ticket, state.id(), size).await?;
    records::set_trimming(&mut txn, &mut ticket, state.id(), all.is_some()).await?;
    ticket.record(&mut txn).await?;
    let prepared = txn.prepare().await?;
    let lsn = prepared.commit_with(|lsn| state.committed(lsn, Some(size), &[behind]));
    ticket.settle(lsn);
    drop(reserved);
    journaled::publish(ground, changes, lsn);
    state.set_size(size);
    drop_folios(object, dropped);
    match all {
        Some(next) => trim(object, FileBlocks::new(next, BLOCKS_END)).await,
        None => Ok(()),
    }
}

/// The change that zeroes the last block behind the new end, if the end is inside a block.
fn tail_part(object: &Arc<OpenObject>, size: u64) -> Vec<LoggedPart> {
    let inside = (size % BLOCK) as usize;
    if inside == 0 {
        return Vec::new();
    }
    let zeroes = Bytes::from(vec![0; BLOCK as usize - inside]);
    let patches = [(size / BLOCK, vec![Patch { at: inside, bytes: zeroes }])].into();
    vec![LoggedPart { object: object.clone(), patches, end: 0 }]
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
    let end = last.at + last.blocks;
    let freed = extent::replace(txn, ticket, id, FileBlocks::new(blocks.start, end), &[]).await?;
    for span in freed {
        ticket.free(span);
    }
    Ok((found.len() == STEP_EXTENTS && end < blocks.end).then_some(end))
}

/// Removes extents step by step until none is left, then takes the mark off the record.
pub(super) async fn trim(object: &Arc<OpenObject>, mut blocks: FileBlocks) -> Result<()> {
    let ground = object.ground();
    loop {
        let mut txn = ground.meta.begin().await?;
        let mut ticket = ground.space.ticket();
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

fn drop_folios(object: &OpenObject, folios: Vec<FolioLock>) {
    let mut dirty = 0;
    for mut folio in folios {
        dirty += folio.detach();
        object.core().cache().remove(&folio);
    }
    object.provider().forget_dirty(dirty);
}

/// Makes the blocks that lie wholly inside `range` holes. Partial blocks at its edges are zeroed
/// by ordinary writes. Not atomic over more than 512 extents. The size does not change.
///
/// Errors: `InvalidInput`, `NoSpace` (edges), `Closed`, `WritesStopped`, `Device`.
pub async fn punch(object: &Arc<OpenObject>, range: Range<u64>) -> Result<()> {
    if range.start > range.end {
        return Err(Error::invalid(format!("range {}..{} runs backwards", range.start, range.end)));
    }
    object.state().check()?;
    object.ground().poison.check()?;
    let range = range.start..range.end.min(object.state().size());
    let (first, last) = (range.start.div_ceil(BLOCK), range.end / BLOCK);
    if range.end <= range.start {
        return Ok(());
    }
    if first > last {
        return object.core().write_zeroes(range).await;
    }
    object.core().write_zeroes(range.start..first * BLOCK).await?;
    object.core().write_zeroes(last * BLOCK..range.end).await?;
    let blocks = FileBlocks::new(first, last);
    let _range = object.core().ranges().exclusive(blocks.bytes()).await?;
    let _still = object.core().pause_writeback().await?;
    let mut at = blocks.start;
    while at < blocks.end {
        at = punch_step(object, FileBlocks::new(at, blocks.end)).await?;
    }
    Ok(())
}

async fn punch_step(object: &Arc<OpenObject>, blocks: FileBlocks) -> Result<u64> {
    let ground = object.ground();
    let dropped = object.core().cache().lock_range(blocks).await?;
    let mut txn = ground.meta.begin().await?;
    let mut ticket = ground.space.ticket();
    let rest = remove_extents(&mut txn, &mut ticket, object, blocks).await?;
    ticket.record(&mut txn).await?;
    let prepared = txn.prepare().await?;
    let end = rest.unwrap_or(blocks.end);
    let done = FileBlocks::new(blocks.start, end);
    let lsn = prepared.commit_with(|lsn| object.state().committed(lsn, None, &[done]));
    ticket.settle(lsn);
    drop_folios(object, dropped.into_iter().filter(|f| f.index() < end).collect());
    Ok(end)
}

/// Allocates every hole in `range` (rounded outwards to blocks) as unwritten space, so that
/// writing there later cannot fail for lack of room. The size does not change.
///
/// Errors: `NoSpace` (what was allocated before stays), `InvalidInput`, `Closed`, `Device`.
pub async fn preallocate(object: &Arc<OpenObject>, range: Range<u64>) -> Result<()> {
    if range.start > range.end || range.end > OBJECT_BYTES_MAX {
        return Err(Error::invalid(format!("range {}..{} is not valid", range.start, range.end)));
    }
    object.state().check()?;
    object.ground().poison.check()?;
    let blocks = FileBlocks::covering(&range);
    if blocks.is_empty() {
        return Ok(());
    }
    let _range = object.core().ranges().exclusive(blocks.bytes()).await?;
    let mut at = blocks.start;
    while at < blocks.end {
        at = preallocate_step(object, FileBlocks::new(at, blocks.end)).await?;
    }
    Ok(())
}

async fn preallocate_step(object: &Arc<OpenObject>, blocks: FileBlocks) -> Result<u64> {
    let ground = object.ground();
    let mut txn = ground.meta.begin().await?;
    let until = match extent::lookup(&txn, object.state().id(), blocks.start).await? {
        Lookup::Extent(e) => return Ok(e.at + e.blocks),
        Lookup::Hole { until } => until.min(blocks.end).min(blocks.start + STEP_BLOCKS),
    };
    let reserved = Reservation::new(&ground.space, until - blocks.start)?;
    let mut ticket = ground.space.ticket();
    let spans = ticket.claim(&txn, until - blocks.start).await?;
    insert_unwritten(&mut txn, &mut ticket, object, blocks.start, &spans).await?;
    ticket.record(&mut txn).await?;
    let prepared = txn.prepare().await?;
    let done = FileBlocks::new(blocks.start, until);
    let lsn = prepared.commit_with(|lsn| object.state().committed(lsn, None, &[done]));
    ticket.settle(lsn);
    drop(reserved);
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

/// Makes the size durable that readers see, when no dirty block stands in its way.
///
/// Called by the flusher at the end of a sync. The answer is the transaction to wait for.
pub async fn record_size(object: &Arc<OpenObject>) -> Result<Lsn> {
    let state = object.state();
    let _still = object.core().pause_writeback().await?;
    let size = state.size();
    let settled = object.core().settled_size(size);
    if settled <= state.recorded_size() || state.is_removed() {
        return Ok(state.last_lsn());
    }
    let ground = object.ground();
    let mut txn = ground.meta.begin().await?;
    let mut ticket = ground.space.ticket();
    records::set_size(&mut txn, &mut ticket, state.id(), settled).await?;
    ticket.record(&mut txn).await?;
    let prepared = txn.prepare().await?;
    let lsn = prepared.commit_with(|lsn| state.committed(lsn, Some(settled), &[]));
    ticket.settle(lsn);
    Ok(lsn)
}

/// Drops every cached folio of `blocks`; the caller holds the range and keeps writeback still.
pub(super) async fn discard_cache(object: &OpenObject, blocks: FileBlocks) -> Result<()> {
    let dropped = object.core().cache().lock_range(blocks).await?;
    drop_folios(object, dropped);
    Ok(())
}
