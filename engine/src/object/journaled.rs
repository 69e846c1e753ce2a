//! Logged writes: small changes to stored blocks go through the journal, and their folios with them.
//!
//! This is the one place where the two wings touch. A commit locks the ranges and the folios it
//! changes, builds the new image of each block beside the old one, hands the images to a metadata
//! transaction, and only after the transaction is in the log puts them into the folios, marks these
//! as journaled, and unlocks them. "Unlock, then attach" cannot be written here: the images reach the
//! folio through the lock that the commit holds.
//!
//! Guarantees: a commit is visible whole or not at all within each object; until
//! `Prepared::commit_with` nothing has an effect, so dropping the future before is harmless, and
//! behind it nothing waits. A folio that carries a journal mark is not evicted before its block
//! is home.
//!
//! Does not: wait for durability, choose what belongs to a transaction. Called by `api::transaction`
//! and by `object::resize` (the tail block of a truncate).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::Weak;

use bytes::Bytes;
use foliant_device::Buffer;

use crate::alloc::Ticket;
use crate::error::Error;
use crate::error::ErrorKind;
use crate::error::Result;
use crate::extent;
use crate::extent::Extent;
use crate::extent::Lookup;
use crate::folio::Folio;
use crate::folio::FolioLock;
use crate::kit::memory::Memory;
use crate::kit::memory::Purpose;
use crate::kit::range_lock::RangeGuard;
use crate::meta::HomeMark;
use crate::meta::MetaTxn;
use crate::object::open::OpenObject;
use crate::object::provider::Ground;
use crate::object::records;
use crate::object::reservation::Reservation;
use crate::units::BLOCK;
use crate::units::BLOCK_BYTES;
use crate::units::BlockNo;
use crate::units::FileBlocks;
use crate::units::Lsn;

/// New bytes inside one block.
#[derive(Debug, Clone)]
pub struct Patch {
    /// First byte within the block.
    pub at: usize,
    /// What stands there afterwards.
    pub bytes: Bytes,
}

/// All that a transaction changes in one object.
#[derive(Debug)]
pub struct LoggedPart {
    /// The object.
    pub object: Arc<OpenObject>,
    /// Patches by file block, each list in the order in which it was written.
    pub patches: BTreeMap<u64, Vec<Patch>>,
    /// The object's size is at least this afterwards; 0 when nothing grows.
    pub end: u64,
}

/// One block on its way through a commit.
pub(super) struct Change {
    object: Arc<OpenObject>,
    block: u64,
    folio: FolioLock,
    before: Buffer,
    after: Buffer,
    /// A fresh block takes the content; otherwise it goes home in place.
    moved: bool,
}

/// Clears the folio's journal mark when its block is home.
struct FolioMark {
    folio: Weak<Folio>,
    block: u64,
}

impl HomeMark for FolioMark {
    fn home(&self, _: BlockNo, lsn: Lsn) {
        if let Some(folio) = self.folio.upgrade() {
            folio.clear_journal(self.block, lsn);
        }
    }
}

/// Commits `parts` as one transaction; returns its position. Durable when `meta.durable(lsn)`.
///
/// Errors: `NoSpace`, `TooLarge`, `OutOfMemory`, `Closed`, `WritesStopped`, `Corrupt`, `Device`: in
/// each case nothing happened. Dropping the future: nothing happened.
pub async fn commit(ground: &Ground, memory: &Memory, mut parts: Vec<LoggedPart>) -> Result<Lsn> {
    parts.sort_by_key(|p| p.object.state().id());
    for part in &parts {
        part.object.state().check()?;
    }
    let _ranges = lock_ranges(&mut parts).await?;
    let mut changes = stage(memory, &parts).await?;
    let reserved = Reservation::new(&ground.space, changes.len() as u64)?;
    let mut txn = ground.meta.begin().await?;
    let mut ticket = ground.space.ticket();
    for change in &mut changes {
        place(ground, &mut txn, &mut ticket, change).await?;
    }
    let sizes = record_sizes(&mut txn, &mut ticket, &parts).await?;
    ticket.record(&mut txn).await?;
    let prepared = txn.prepare().await?;
    // From here on nothing waits and nothing fails: the transaction is accepted.
    let lsn = prepared.commit_with(|lsn| note(lsn, &parts, &sizes, &changes));
    ticket.settle(lsn);
    drop(reserved);
    publish(ground, changes, lsn);
    for part in &parts {
        part.object.state().grow_size(part.end);
    }
    Ok(lsn)
}

/// Locks what the parts touch, ascending by object and offset, so that commits cannot deadlock.
///
/// A part that grows its object also takes the block that holds the recorded end: bytes between
/// the old end and the new one must read as zero after a crash, and what lies behind the end on
/// the device is not known to be zero.
async fn lock_ranges(parts: &mut [LoggedPart]) -> Result<Vec<RangeGuard>> {
    let mut guards = Vec::new();
    for part in parts {
        let recorded = part.object.state().recorded_size();
        if part.end > recorded && !recorded.is_multiple_of(BLOCK) {
            part.patches.entry(recorded / BLOCK).or_default();
        }
        let size = part.object.state().size();
        if part.end > size && !size.is_multiple_of(BLOCK) {
            part.patches.entry(size / BLOCK).or_default();
        }
        for range in runs(part.patches.keys().copied()) {
            guards.push(part.object.core().ranges().exclusive(range.bytes()).await?);
        }
        part.object.state().check_present()?;
    }
    Ok(guards)
}

/// Ascending blocks as maximal runs.
fn runs(blocks: impl Iterator<Item = u64>) -> Vec<FileBlocks> {
    let mut runs: Vec<FileBlocks> = Vec::new();
    for block in blocks {
        match runs.last_mut() {
            Some(last) if last.end == block => last.end += 1,
            _ => runs.push(FileBlocks::new(block, block + 1)),
        }
    }
    runs
}

/// Locks the folios, makes them up to date, and builds the new image of each block.
pub(super) async fn stage(memory: &Memory, parts: &[LoggedPart]) -> Result<Vec<Change>> {
    let count: usize = parts.iter().map(|p| p.patches.len()).sum();
    let most = memory.capacity_blocks() / 8;
    if count > most {
        let why = format!("a transaction over {count} blocks, at most {most} fit this memory");
        return Err(Error::new(ErrorKind::TooLarge, why));
    }
    // Before any folio is locked, because waiting for memory may need folios of others.
    let mut images = Vec::with_capacity(count);
    for _ in 0..count {
        images.push(memory.allocate(0, Purpose::Reserved).await?);
    }
    let mut changes = Vec::with_capacity(count);
    for part in parts {
        let blocks: Vec<u64> = part.patches.keys().copied().collect();
        let folios = part.object.core().lock_uptodate(&blocks).await?;
        for (folio, (&block, patches)) in folios.into_iter().zip(&part.patches) {
            let mut after = images.pop().expect("one image per patched block");
            let before = folio.image(block);
            let bytes = after.get_mut().expect("a fresh image has one owner");
            bytes.copy_from_slice(&before);
            for patch in patches {
                bytes[patch.at..patch.at + patch.bytes.len()].copy_from_slice(&patch.bytes);
            }
            let object = part.object.clone();
            changes.push(Change { object, block, folio, before, after, moved: false });
        }
    }
    Ok(changes)
}

/// Logs one block: as a delta where it lies, or whole in a fresh place.
pub(super) async fn place(
    ground: &Ground,
    txn: &mut MetaTxn,
    ticket: &mut Ticket,
    change: &mut Change,
) -> Result<()> {
    let id = change.object.state().id();
    let found = extent::lookup(txn, id, change.block).await?;
    let home = match found {
        Lookup::Extent(e) if !e.unwritten => Some(e.start),
        _ => None,
    };
    // A delta is only right against what is stored. Unlogged dirty bytes are not stored, and behind
    // the recorded end the device may hold what nobody wrote.
    let past_end = (change.block + 1) * BLOCK > change.object.state().recorded_size();
    change.moved = home.is_none() || past_end || change.folio.is_dirty(change.block);
    let mark = FolioMark { folio: Arc::downgrade(change.folio.folio()), block: change.block };
    let mark: Option<Arc<dyn HomeMark>> = Some(Arc::new(mark));
    let at = match home {
        Some(home) if !change.moved => {
            txn.log_data(home, Some(&change.before), change.after.clone(), mark)?;
            home
        }
        _ => {
            let at = ticket.claim(txn, 1).await?[0].start;
            txn.log_data(at, None, change.after.clone(), mark)?;
            remap(txn, ticket, change, at).await?;
            at
        }
    };
    let sum = crc32c::crc32c(&change.after);
    ground.space.store_checksums(txn, at, &[sum]).await
}

async fn remap(txn: &mut MetaTxn, ticket: &mut Ticket, change: &Change, at: BlockNo) -> Result<()> {
    let range = FileBlocks::new(change.block, change.block + 1);
    let extent = Extent { at: change.block, start: at, blocks: 1, unwritten: false };
    let id = change.object.state().id();
    for span in extent::replace(txn, ticket, id, range, &[extent]).await? {
        ticket.free(span);
    }
    Ok(())
}

/// Puts the grown sizes into the object records; the answer is by part.
async fn record_sizes(
    txn: &mut MetaTxn,
    ticket: &mut Ticket,
    parts: &[LoggedPart],
) -> Result<Vec<Option<u64>>> {
    let mut sizes = Vec::with_capacity(parts.len());
    for part in parts {
        let state = part.object.state();
        let grown = (part.end > state.recorded_size()).then_some(part.end);
        if let Some(size) = grown {
            records::set_size(txn, ticket, state.id(), size).await?;
        }
        sizes.push(grown);
    }
    Ok(sizes)
}

fn note(lsn: Lsn, parts: &[LoggedPart], sizes: &[Option<u64>], changes: &[Change]) {
    for (part, &size) in parts.iter().zip(sizes) {
        part.object.state().committed(lsn, size, &[]);
    }
    for change in changes.iter().filter(|c| c.moved) {
        let blocks = FileBlocks::new(change.block, change.block + 1);
        change.object.state().committed(lsn, None, &[blocks]);
    }
}

/// Puts the images into the folios under the locks that the commit still holds.
pub(super) fn publish(ground: &Ground, changes: Vec<Change>, lsn: Lsn) {
    for mut change in changes {
        assert_eq!(change.after.len(), BLOCK_BYTES, "an image is one block");
        change.folio.mark_journal(change.block, lsn);
        change.folio.install(change.block, change.after);
        if change.moved {
            let cleaned = change.folio.clear_dirty(change.block);
            ground.space.unreserve(cleaned);
        }
        if ground.meta.applied_now() >= lsn {
            // The checkpoint was quicker than this thread, and its call found no mark to clear.
            change.folio.folio().clear_journal(change.block, lsn);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_become_maximal_runs() {
        let found = runs([1, 2, 3, 7, 9, 10].into_iter());
        let expected = [FileBlocks::new(1, 4), FileBlocks::new(7, 8), FileBlocks::new(9, 11)];
        assert_eq!(found, expected);
    }
}
