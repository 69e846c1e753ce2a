//! Logged writes: small changes to stored blocks go through the journal, and their folios with them.
//!
//! This is the one place where the two wings touch. A commit locks the ranges and the folios it
//! changes, builds the new image of each block beside the old one, hands the images to a metadata
//! transaction, and only after the transaction is in the log puts them into the folios, marks these
//! as journaled, and unlocks them. "Unlock, then attach" cannot be written here: the images reach the
//! folio through the lock that the commit holds.
//!
//! Guarantees: a commit is accepted whole or not at all; until `Prepared::commit_with` nothing has
//! an effect, so dropping the future before is harmless, and behind it nothing waits. A folio that
//! carries a journal mark is not evicted before its block is home. Each block changes at once for
//! readers; a read of several blocks that runs beside the commit may see some of them old.
//!
//! Does not: wait for durability, choose what belongs to a transaction. Called by
//! `api::transaction`.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::sync::Weak;

use bytes::Bytes;
use foliant_device::Buffer;
use tokio::sync::SemaphorePermit;

use crate::alloc::Ticket;
use crate::error::Error;
use crate::error::ErrorKind;
use crate::error::Result;
use crate::extent;
use crate::extent::Extent;
use crate::extent::Lookup;
use crate::folio::Folio;
use crate::iomap::grip::Grip;
use crate::kit::canary::Canary;
use crate::kit::canary::is_broken;
use crate::kit::checksum;
use crate::kit::lock_order;
use crate::kit::lock_order::Held;
use crate::kit::lock_order::Rank;
use crate::kit::memory::Memory;
use crate::kit::memory::Purpose;
use crate::kit::range_lock::RangeGuard;
use crate::kit::stop;
use crate::kit::stop::Stop;
use crate::meta::HomeMark;
use crate::meta::MetaTxn;
use crate::object::ground::Ground;
use crate::object::inline;
use crate::object::open::OpenObject;
use crate::object::open::Wing;
use crate::object::records;
use crate::object::stored;
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
struct Change {
    object: Arc<OpenObject>,
    block: u64,
    /// Which of the locked folios holds it.
    folio: usize,
    after: Buffer,
    /// A fresh block, or the record, takes the content; otherwise it goes home in place.
    moved: bool,
    /// The size that the object has afterwards.
    end: u64,
    /// The content goes into the object's record.
    inline: bool,
}

/// A locked folio with the memory that replaces its own, should that be shared when it changes.
struct Locked {
    grip: Grip,
    spare: Option<Buffer>,
}

/// Everything that a commit holds while it runs.
struct Staged {
    folios: Vec<Locked>,
    changes: Vec<Change>,
}

/// Clears the folio's journal mark when its block is home.
struct FolioMark {
    folio: Weak<Folio>,
    block: usize,
}

impl HomeMark for FolioMark {
    fn home(&self, _: BlockNo, lsn: Lsn) {
        if let Some(folio) = self.folio.upgrade() {
            folio.clear_journal(self.block, lsn);
        }
    }
}

/// Whether the blocks of a commit were made to be stored before it, so that each is logged as a difference.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Base {
    /// As they are: what is not stored is logged whole.
    AsFound,
    /// All of them are stored, and hold on the device what their folios hold.
    Stored,
}

/// Commits `parts` as one transaction; returns its position. Durable when `meta.durable(lsn)`.
///
/// Errors: `TooLarge` when what has to be logged whole is too much for the log: [`commit_over_stored`]
/// takes it. `NoSpace`, `OutOfMemory`, `TimedOut`, `Closed`, `WritesStopped`, `Corrupt`, `Device`: in each case nothing
/// happened. Dropping the future: nothing happened.
pub async fn commit(ground: &Ground, wing: &Wing, parts: &mut [LoggedPart]) -> Result<Lsn> {
    let _images = admit(wing, parts).await?;
    let _ranges = lock_parts(parts).await?;
    commit_locked(ground, wing, parts, Base::AsFound).await
}

/// The same for transactions whose blocks cannot all be logged whole. Those that would have to be are first
/// written back as they are, in transactions of writeback; then each is logged as the difference that the
/// transaction makes, which is what its maker was charged for.
///
/// To be driven to its end by a task of the engine, as all writeback. Errors: as [`commit`]; what was
/// plain and dirty may be stored by then, and holes may be blocks of zeroes.
pub async fn commit_over_stored(
    ground: &Ground,
    wing: &Wing,
    parts: &mut [LoggedPart],
) -> Result<Lsn> {
    let _images = admit(wing, parts).await?;
    let _ranges = lock_parts(parts).await?;
    let mut out_of_records = Vec::new();
    for part in parts.iter() {
        out_of_records.push(part.object.state().keep_out_of_record());
        if !is_broken(Canary::LogWholeOnly) {
            let touched: Vec<u64> = part.patches.keys().copied().collect();
            stored::write_as_they_are(ground, &part.object, &touched).await?;
        }
    }
    metrics::counter!("foliant_commits_over_stored_total").increment(1);
    commit_locked(ground, wing, parts, Base::Stored).await
}

/// Commits what is locked.
async fn commit_locked(
    ground: &Ground,
    wing: &Wing,
    parts: &[LoggedPart],
    base: Base,
) -> Result<Lsn> {
    let blocks: usize = parts.iter().map(|p| p.patches.len()).sum();
    let reserved = ground.reserve(blocks as u64).await?;
    let mut staged = stage(&wing.memory, parts, blocks).await?;
    let mut txn = ground.meta.begin().await?;
    let mut ticket = ground.ticket();
    for change in &mut staged.changes {
        let grip = &staged.folios[change.folio].grip;
        place(ground, &mut txn, &mut ticket, change, grip, base).await?;
        txn.check_size()?;
    }
    let sizes = record_sizes(&mut txn, &mut ticket, parts, &staged.changes).await?;
    ticket.record(&mut txn).await?;
    let prepared = txn.prepare().await?;
    // From here on nothing waits and nothing fails: the transaction is accepted.
    let lsn = prepared.commit_with(|lsn| note(lsn, parts, &sizes, &staged.changes));
    ticket.settle(lsn);
    drop(reserved);
    publish(ground, parts, staged, lsn);
    Ok(lsn)
}

/// Images that a transaction over `blocks` blocks of `objects` objects holds at most: two more per object, the
/// blocks of its old ends.
pub fn images(blocks: usize, objects: usize) -> usize {
    blocks + 2 * objects
}

/// The right to hold the images of the parts. Errors: `TooLarge`.
async fn admit<'a>(wing: &'a Wing, parts: &[LoggedPart]) -> Result<(SemaphorePermit<'a>, Held)> {
    let blocks = parts.iter().map(|p| p.patches.values().filter(|p| !p.is_empty()).count()).sum();
    let blocks = images(blocks, parts.len());
    let most = Wing::images_max(&wing.memory);
    if blocks > most {
        let why = format!("a transaction over {blocks} blocks, at most {most} fit this memory");
        return Err(Error::new(ErrorKind::TooLarge, why));
    }
    lock_order::wait(Rank::Images);
    let permits = wing.images.acquire_many(blocks as u32).await;
    Ok((permits.expect("the semaphore is never closed"), lock_order::hold(Rank::Images)))
}

/// Locks the ranges of all parts. They come in the order of their objects, and nobody else holds ranges
/// of two objects, so commits cannot deadlock.
async fn lock_parts(parts: &mut [LoggedPart]) -> Result<Vec<RangeGuard>> {
    parts.sort_by_key(|p| p.object.state().id());
    let mut ranges = Vec::with_capacity(parts.len());
    for part in parts {
        part.object.state().check()?;
        ranges.push(lock_part(part).await);
        part.object.state().check_present()?;
    }
    Ok(ranges)
}

/// Locks the ranges of all that a part touches, at once.
///
/// A part that grows its object locks everything from the visible end on, and takes the blocks that
/// hold the visible and the recorded end along: bytes between the old end and the new one must read
/// as zero after a crash, and what lies behind the end on the device is not known to be zero.
async fn lock_part(part: &mut LoggedPart) -> RangeGuard {
    let state = part.object.state().clone();
    loop {
        // Ends that an earlier attempt took along.
        part.patches.retain(|_, patches| !patches.is_empty());
        let size = state.size();
        for end in [size, state.recorded_size()] {
            if part.end > end && !end.is_multiple_of(BLOCK) && !is_broken(Canary::LeaveOldEnd) {
                part.patches.entry(end / BLOCK).or_default();
            }
        }
        let ranges = ranges_of(part.patches.keys().copied(), part.end, size);
        let guard = part.object.core().ranges().exclusive_all(ranges).await;
        // A size that moved while this waited may ask for other locks.
        if state.size() == size || part.end <= state.size() {
            return guard;
        }
    }
}

/// The ranges to lock for ascending `blocks`, in blocks; one without end if the object grows.
fn ranges_of(blocks: impl Iterator<Item = u64>, end: u64, size: u64) -> Vec<Range<u64>> {
    let growing = if end > size { size / BLOCK } else { u64::MAX };
    let mut ranges: Vec<Range<u64>> = Vec::new();
    for block in blocks.take_while(|&block| block < growing) {
        match ranges.last_mut() {
            Some(last) if last.end == block => last.end += 1,
            _ => ranges.push(block..block + 1),
        }
    }
    if growing < u64::MAX {
        ranges.push(growing..u64::MAX);
    }
    ranges
}

/// Locks the folios, makes them up to date, and builds the new image of each block.
async fn stage(memory: &Memory, parts: &[LoggedPart], blocks: usize) -> Result<Staged> {
    // Before any folio is locked, because waiting for memory may need folios of others.
    let mut images = Vec::with_capacity(blocks);
    for _ in 0..blocks {
        images.push(memory.allocate(0, Purpose::Reserved).await?);
    }
    let mut staged = Staged { folios: Vec::new(), changes: Vec::with_capacity(blocks) };
    for part in parts {
        let touched: Vec<u64> = part.patches.keys().copied().collect();
        let first = staged.folios.len();
        for grip in part.object.core().lock_uptodate(&touched).await? {
            staged.folios.push(Locked { grip, spare: None });
        }
        let mut folio = first;
        for (&block, patches) in &part.patches {
            while staged.folios[folio].grip.span().end <= block {
                folio += 1;
            }
            let mut after = images.pop().expect("one image per patched block");
            fill_image(&staged.folios[folio].grip, block, patches, &mut after);
            let object = part.object.clone();
            // Nobody else can change a size within block 0 while its range is locked.
            let end = part.end.max(object.state().size());
            let (moved, inline) = (false, false);
            staged.changes.push(Change { object, block, folio, after, moved, end, inline });
        }
    }
    for held in &mut staged.folios {
        // Folios of one block take the image itself; larger ones are changed in place, and from
        // here on nobody can begin to share their memory.
        if held.grip.order() > 0 && held.grip.needs_spare() {
            held.spare = Some(memory.allocate(held.grip.order(), Purpose::Reserved).await?);
        }
    }
    Ok(staged)
}

/// The bytes of `block` in the folio's memory.
fn within(grip: &Grip, block: u64) -> Range<usize> {
    let at = (block - grip.span().start) as usize * BLOCK_BYTES;
    at..at + BLOCK_BYTES
}

fn fill_image(grip: &Grip, block: u64, patches: &[Patch], after: &mut Buffer) {
    let bytes = after.get_mut().expect("a fresh image has one owner");
    let hit = grip.read_at(within(grip, block).start, bytes);
    assert!(hit, "block {block} was just made up to date");
    for patch in patches {
        bytes[patch.at..patch.at + patch.bytes.len()].copy_from_slice(&patch.bytes);
    }
}

/// Logs one block: as a delta where it lies, whole in a fresh place, or in the object's record.
async fn place(
    ground: &Ground,
    txn: &mut MetaTxn,
    ticket: &mut Ticket,
    change: &mut Change,
    grip: &Grip,
    base: Base,
) -> Result<()> {
    let state = change.object.state();
    let as_found = base == Base::AsFound;
    if as_found && change.block == 0 && inline::belongs(ground, txn, state.id(), change.end).await?
    {
        (change.moved, change.inline) = (true, true);
        return inline::store(txn, ticket, state.id(), change.end, &change.after).await;
    }
    let home = match extent::lookup(txn, state.id(), change.block).await? {
        Lookup::Extent(e) if !e.unwritten => Some(e.start),
        _ => None,
    };
    // A delta is only right against what is stored. Unlogged dirty bytes are not stored, and behind
    // the recorded end the device may hold what nobody wrote.
    let past_end = as_found && (change.block + 1) * BLOCK > state.recorded_size();
    let unlogged = grip.is_dirty(change.block) && !is_broken(Canary::LogOverUnloggedBytes);
    let stored = home.filter(|_| !past_end && !unlogged);
    let block = (change.block - grip.span().start) as usize;
    let mark = FolioMark { folio: Arc::downgrade(grip.folio()), block };
    let mark: Option<Arc<dyn HomeMark>> = Some(Arc::new(mark));
    let at = match stored {
        Some(home) => {
            let memory = grip.memory().expect("an up to date folio has memory");
            let before = &memory[within(grip, change.block)];
            txn.log_data(home, Some(before), change.after.clone(), mark);
            home
        }
        None => {
            let at = ticket.claim(txn, 1).await?[0].start;
            txn.log_data(at, None, change.after.clone(), mark);
            remap(txn, ticket, change, at).await?;
            at
        }
    };
    change.moved = stored.is_none();
    let sum = checksum::of(&change.after);
    ground.space.store_checksums(txn, at, &[sum]).await
}

async fn remap(txn: &mut MetaTxn, ticket: &mut Ticket, change: &Change, at: BlockNo) -> Result<()> {
    let range = FileBlocks::new(change.block, change.block + 1);
    let extent = Extent { at: change.block, start: at, blocks: 1, unwritten: false };
    let id = change.object.state().id();
    for span in extent::replace(txn, ticket, id, range, &[extent]).await? {
        ticket.free(span);
    }
    if change.block == 0 {
        inline::take_out(txn, ticket, change.object.state()).await?;
    }
    Ok(())
}

/// Puts the grown sizes into the object records; the answer is by part.
async fn record_sizes(
    txn: &mut MetaTxn,
    ticket: &mut Ticket,
    parts: &[LoggedPart],
    changes: &[Change],
) -> Result<Vec<Option<u64>>> {
    let mut sizes = Vec::with_capacity(parts.len());
    for part in parts {
        let state = part.object.state();
        // What goes into a record is not dirty any more, so all of it must be below the recorded size,
        // also what plain writes put there before.
        let inline = changes.iter().find(|c| c.inline && c.object.state().id() == state.id());
        let end = inline.map_or(part.end, |change| part.end.max(change.end));
        let left_out = is_broken(Canary::LeaveSizeOut);
        let grown = (end > state.recorded_size() && !left_out).then_some(end);
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
    for change in changes {
        let blocks = FileBlocks::new(change.block, change.block + 1);
        let state = change.object.state();
        if !change.moved {
            state.changed_in_place(change.block);
            continue;
        }
        if change.block == 0 {
            state.set_inline(change.inline);
        }
        state.committed(lsn, None, &[blocks]);
    }
}

/// Puts the images into the folios under the locks that the commit still holds, then the sizes.
fn publish(ground: &Ground, parts: &[LoggedPart], staged: Staged, lsn: Lsn) {
    let Staged { mut folios, changes } = staged;
    for change in changes {
        let Locked { grip, spare } = &mut folios[change.folio];
        let own = FileBlocks::new(change.block, change.block + 1);
        stop::visit(Stop::BeforeAttach);
        if !change.inline && !is_broken(Canary::ForgetMark) {
            grip.mark_journal(change.block, lsn);
        }
        if grip.order() == 0 {
            grip.install(change.after);
        } else {
            grip.write(within(grip, change.block).start, &change.after, spare);
        }
        if change.moved {
            let cleaned = grip.clear_dirty(own);
            ground.space.unreserve(cleaned);
        }
        if ground.meta.applied_now() >= lsn {
            // The checkpoint was quicker than this thread, and its call found no mark to clear.
            let block = (change.block - grip.span().start) as usize;
            grip.folio().clear_journal(block, lsn);
        }
    }
    for part in parts {
        part.object.state().grow_size(part.end);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_become_maximal_ranges() {
        let found = ranges_of([1, 2, 3, 7, 9, 10].into_iter(), 5, 5);
        assert_eq!(found, [1..4, 7..8, 9..11]);
    }

    #[test]
    fn who_grows_an_object_locks_it_from_the_old_end_on() {
        let found = ranges_of([1, 2, 3, 9].into_iter(), 10 * BLOCK, 2 * BLOCK + 7);
        assert_eq!(found, [1..2, 2..u64::MAX]);
        assert_eq!(
            ranges_of([].into_iter(), 1, 0),
            std::iter::once(0..u64::MAX).collect::<Vec<_>>()
        );
    }
}
