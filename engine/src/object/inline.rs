//! Small objects live in their record: when block 0 goes there, and when it leaves.
//!
//! Guarantees: block 0 is stored in one place. Its bytes go into the record, or out of it, in the
//! transaction that also maps or unmaps the block on the device and sets the size; so a crash
//! finds it old or new. Inline bytes never reach behind the recorded size, and a record that gets
//! some records every byte below the visible size with them.
//!
//! A block 0 that somebody preallocated is used, and not gone round: at writeback it takes the
//! bytes. An object that is inline when block 0 is preallocated keeps its bytes in the record and
//! the room beside it, until it is written the next time.
//!
//! Does not touch folios, does not commit. Called by the provider, by `journaled` and by `resize`,
//! within their transactions.

use crate::alloc::Ticket;
use crate::error::Result;
use crate::extent;
use crate::extent::Lookup;
use crate::iomap::contract::PlacedRun;
use crate::iomap::contract::Placement;
use crate::iomap::contract::Target;
use crate::kit::canary::Canary;
use crate::kit::canary::is_broken;
use crate::limits::INLINE_BYTES_MAX;
use crate::meta::MetaTxn;
use crate::meta::view::BlockRead;
use crate::object::ground::Ground;
use crate::object::records;
use crate::object::state::ObjectState;
use crate::units::FileBlocks;
use crate::units::ObjectId;

/// The block that can be inline.
pub const FIRST: FileBlocks = FileBlocks { start: 0, end: 1 };

/// Whether block 0 of an object that has `size` bytes is to be stored in its record.
///
/// Errors: those of a look-up.
pub async fn belongs<R: BlockRead>(
    ground: &Ground,
    view: &R,
    object: ObjectId,
    size: u64,
) -> Result<bool> {
    if !ground.inline || size == 0 || size > INLINE_BYTES_MAX as u64 {
        return Ok(false);
    }
    let found = extent::lookup(view, object, 0).await?;
    Ok(!matches!(found, Lookup::Extent(e) if e.unwritten))
}

/// The place of block 0 in a batch of `runs`, if the record is one. The object has `size` bytes then.
pub async fn at_writeback<R: BlockRead>(
    ground: &Ground,
    state: &ObjectState,
    view: &R,
    runs: &[FileBlocks],
    size: u64,
) -> Result<Option<Placement>> {
    let first = runs.first().is_some_and(|run| run.start == 0) && !state.is_kept_out_of_record();
    // What the batch may record: the visible size can only grow while it is on its way, and a direct write
    // shows its size to nobody before it has landed.
    let size = size.max(state.size());
    let fits = first && belongs(ground, view, state.id(), size).await?;
    Ok(fits.then_some(Placement { blocks: FIRST, target: Target::Inline }))
}

/// Records what a batch says about the size (`grown`) and about block 0; whether the object is
/// inline afterwards.
pub async fn record(
    txn: &mut MetaTxn,
    ticket: &mut Ticket,
    state: &ObjectState,
    runs: &[PlacedRun],
    grown: Option<u64>,
) -> Result<bool> {
    let first = runs.iter().find(|run| run.placement.blocks.start == 0);
    if let Some(image) = first.and_then(|run| run.image.as_ref()) {
        let size = grown.unwrap_or(state.recorded_size());
        store(txn, ticket, state.id(), size, image).await?;
        return Ok(size > 0);
    }
    let leaves = first.is_some() && state.is_inline();
    if leaves && !is_broken(Canary::KeepInlineBytes) {
        records::set_inline(txn, ticket, state.id(), grown, &[]).await?;
    } else if let Some(size) = grown {
        records::set_size(txn, ticket, state.id(), size).await?;
    }
    Ok(state.is_inline() && !leaves)
}

/// Puts `image` of block 0 into the record of an object that has `size` bytes then, and frees the
/// block that held it.
///
/// # Panics
/// If the image has bytes behind `size`: they would be lost.
pub async fn store(
    txn: &mut MetaTxn,
    ticket: &mut Ticket,
    object: ObjectId,
    size: u64,
    image: &[u8],
) -> Result<()> {
    let (bytes, rest) = image.split_at(size.min(INLINE_BYTES_MAX as u64) as usize);
    assert!(rest.iter().all(|&byte| byte == 0), "{object} has bytes behind its {size} inline ones");
    // What was preallocated meanwhile stays.
    let found = extent::lookup(txn, object, 0).await?;
    if matches!(found, Lookup::Extent(e) if !e.unwritten) {
        for span in extent::replace(txn, ticket, object, FIRST, &[]).await? {
            ticket.free(span);
        }
    }
    records::set_inline(txn, ticket, object, Some(size), bytes).await
}

/// Takes the bytes of block 0 out of the record, because it is placed elsewhere or becomes a hole;
/// whether there were any.
pub async fn take_out(txn: &mut MetaTxn, ticket: &mut Ticket, state: &ObjectState) -> Result<bool> {
    let was = state.is_inline();
    if was {
        records::set_inline(txn, ticket, state.id(), None, &[]).await?;
    }
    Ok(was)
}
