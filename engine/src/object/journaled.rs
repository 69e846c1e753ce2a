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
//! carries a journal mark is not evicted before its block is home.
//!
//! A read sees what a commit does to its object entirely or not at all (`iomap::whole`).
//!
//! Does not: wait for durability, choose what belongs to a transaction. Called by
//! `api::transaction`.

use std::future::Future;
use std::ops::Range;
use std::sync::Arc;
use std::sync::Weak;

use foliant_device::Buffer;

use crate::alloc::Ticket;
use crate::error::Result;
use crate::extent;
use crate::extent::Extent;
use crate::extent::Lookup;
use crate::folio::Folio;
use crate::format::log_record::Delta;
use crate::iomap::grip::Grip;
use crate::iomap::hold::Wanted;
use crate::iomap::publish::MayPublish;
use crate::iomap::writeback::StillWriteback;
use crate::kit::canary::Canary;
use crate::kit::canary::is_broken;
use crate::kit::checksum;
use crate::kit::memory::Memory;
use crate::kit::memory::Purpose;
use crate::kit::range_lock::RangeGuard;
use crate::kit::stop;
use crate::kit::stop::Stop;
use crate::meta::DataImage;
use crate::meta::HomeMark;
use crate::meta::MetaTxn;
use crate::object::ground::Ground;
use crate::object::inline;
use crate::object::open::OpenObject;
use crate::object::open::Wing;
use crate::object::part;
use crate::object::part::LoggedPart;
use crate::object::part::Patch;
use crate::object::records;
use crate::object::resize;
use crate::object::state::OutOfRecord;
use crate::object::stored;
use crate::units::BLOCK;
use crate::units::BLOCK_BYTES;
use crate::units::BlockNo;
use crate::units::FileBlocks;
use crate::units::Lsn;

/// One block on its way through a commit.
struct Change {
    object: Arc<OpenObject>,
    block: u64,
    /// Which of the locked folios holds it.
    folio: usize,
    after: Buffer,
    /// The checksum of `after`.
    sum: u32,
    /// What changes of what the folio holds; taken by the record.
    delta: Option<Delta>,
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
struct Staged<'a> {
    folios: Vec<Locked>,
    changes: Vec<Change>,
    still: Vec<StillWriteback<'a>>,
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

/// What a transaction changes besides bytes, in the same commit.
pub trait Beside: Send + Sync {
    /// Blocks of room that it needs at most.
    fn promises(&self) -> u64;

    /// Makes its changes; called once per attempt, before those of bytes. An error ends the attempt.
    fn apply(
        &mut self,
        txn: &mut MetaTxn,
        ticket: &mut Ticket,
    ) -> impl Future<Output = Result<()>> + Send;

    /// The transaction is accepted, and nobody else can look at it before this returns.
    fn accepted(&self, lsn: Lsn);
}

/// Commits `parts` as one transaction; returns its position. Durable when `meta.durable(lsn)`.
///
/// Errors: `TooLarge` when what has to be logged whole is too much for the log: [`commit_over_stored`]
/// takes it. `NoSpace`, `OutOfMemory`, `TimedOut`, `Closed`, `WritesStopped`, `Corrupt`, `Device`, and those of `beside`:
/// in each case nothing happened. Dropping the future: nothing happened; but if a part cuts its object
/// it must be driven to its end by a task of the engine, because the cut is finished behind the commit.
pub async fn commit<B: Beside>(
    ground: &Ground,
    wing: &Wing,
    parts: &mut [LoggedPart],
    beside: &mut B,
) -> Result<Lsn> {
    commit_on(ground, wing, parts, beside, Base::AsFound).await
}

/// The same for transactions whose blocks cannot all be logged whole. Those that would have to be are first
/// written back as they are, in transactions of writeback; then each is logged as the difference that the
/// transaction makes, which is what its maker was charged for.
///
/// To be driven to its end by a task of the engine, as all writeback. Errors: as [`commit`]; what was
/// plain and dirty may be stored by then, and holes may be blocks of zeroes.
pub async fn commit_over_stored<B: Beside>(
    ground: &Ground,
    wing: &Wing,
    parts: &mut [LoggedPart],
    beside: &mut B,
) -> Result<Lsn> {
    metrics::counter!("foliant_commits_over_stored_total").increment(1);
    commit_on(ground, wing, parts, beside, Base::Stored).await
}

async fn commit_on<B: Beside>(
    ground: &Ground,
    wing: &Wing,
    parts: &mut [LoggedPart],
    beside: &mut B,
    base: Base,
) -> Result<Lsn> {
    let _images = part::admit(wing, parts).await?;
    let objects = part::objects(parts);
    let gates = part::gates(&objects).await;
    let ranges = part::lock_all(parts).await?;
    let _out_of_records = match base {
        Base::AsFound => Vec::new(),
        Base::Stored => Box::pin(store_first(ground, parts)).await?,
    };
    let locked = LockedParts { parts, gates: &gates, ranges: &ranges };
    commit_locked(ground, wing, locked, beside, base).await
}

/// Stores the blocks of the parts as they are, and keeps the first ones out of their records while the
/// answer lives.
async fn store_first(ground: &Ground, parts: &[LoggedPart]) -> Result<Vec<OutOfRecord>> {
    let mut out_of_records = Vec::new();
    // What the transaction makes has no record yet, and was charged for whole.
    for part in parts.iter().filter(|part| !part.object.state().is_pending()) {
        let touched: Vec<u64> = part.touched().map(|(block, _)| block).collect();
        if touched.first() == Some(&0) {
            out_of_records.push(part.object.state().keep_out_of_record());
        }
        if !is_broken(Canary::LogWholeOnly) {
            stored::write_as_they_are(ground, &part.object, &touched).await?;
        }
    }
    Ok(out_of_records)
}

/// Parts whose ranges are locked, with the right to show what changes in their objects.
#[derive(Clone, Copy)]
struct LockedParts<'a> {
    parts: &'a [LoggedPart],
    gates: &'a [MayPublish<'a>],
    ranges: &'a [RangeGuard],
}

/// Commits what is locked.
async fn commit_locked<B: Beside>(
    ground: &Ground,
    wing: &Wing,
    locked: LockedParts<'_>,
    beside: &mut B,
    base: Base,
) -> Result<Lsn> {
    let LockedParts { parts, gates, ranges } = locked;
    let blocks: usize = parts.iter().map(|part| part.touched().count()).sum();
    let reserved = ground.reserve(blocks as u64 + beside.promises()).await?;
    let mut staged = stage(&wing.memory, parts, blocks).await?;
    let mut txn = ground.meta.begin().await?;
    let mut ticket = ground.ticket();
    beside.apply(&mut txn, &mut ticket).await?;
    for change in &mut staged.changes {
        let grip = &staged.folios[change.folio].grip;
        place(ground, &mut txn, &mut ticket, change, grip, base).await?;
        txn.check_size()?;
    }
    let sizes = record_sizes(&mut txn, &mut ticket, parts, &staged.changes).await?;
    ticket.record(&mut txn).await?;
    let prepared = txn.prepare().await?;
    // From here on nothing waits and nothing fails: the transaction is accepted.
    let publishing: Vec<_> = gates.iter().map(MayPublish::publish).collect();
    let lsn = prepared.commit_with(|lsn| {
        note(lsn, parts, &sizes, &staged.changes);
        beside.accepted(lsn);
    });
    ticket.settle(lsn);
    reserved.settle();
    publish(ground, parts, staged, lsn);
    drop(publishing);
    if parts.iter().any(LoggedPart::cuts) {
        // Boxed, as other ways that few commits take: the future of each commit is moved with room for all.
        Box::pin(finish_cuts(parts, ranges)).await;
    }
    Ok(lsn)
}

/// Takes what lies behind the new ends out of the cache, then off the device. The commit has happened: what
/// goes wrong here leaves blocks that the size hides and that the record says are to be removed.
///
/// Writeback goes on beside it, or commits over the same objects could wait for each other. What it maps
/// behind an end, with the new size in hand, is removed with the rest.
async fn finish_cuts(parts: &[LoggedPart], ranges: &[RangeGuard]) {
    for (part, held) in parts.iter().zip(ranges).filter(|(part, _)| part.cuts()) {
        let finished = match part.object.core().drop_cached(held, part.behind()).await {
            Ok(()) => resize::trim(&part.object, part.behind()).await,
            Err(cause) => Err(cause),
        };
        if let Err(cause) = finished {
            let object = part.object.state().id().0;
            tracing::warn!(%cause, object, "a cut in a transaction is not finished");
        }
    }
}

/// Locks the folios, makes them up to date, and builds the new image of each block. Writeback of an
/// object that becomes shorter is held still: a batch that was collected before could record the old size
/// behind this transaction, or map blocks that are cut off.
async fn stage<'a>(memory: &Memory, parts: &'a [LoggedPart], blocks: usize) -> Result<Staged<'a>> {
    // Before any folio is locked, because waiting for memory may need folios of others.
    let mut images = Vec::with_capacity(blocks);
    for _ in 0..blocks {
        images.push(memory.allocate(0, Purpose::Reserved).await?);
    }
    let changes = Vec::with_capacity(blocks);
    let mut staged = Staged { folios: Vec::new(), changes, still: Vec::new() };
    for part in parts {
        let core = part.object.core();
        if part.cuts() && !is_broken(Canary::CutBesideWriteback) {
            staged.still.push(core.hold_writeback().await);
        }
        let first = staged.folios.len();
        for grip in core.lock_wanted(&wanted(part)).await? {
            staged.folios.push(Locked { grip, spare: None });
        }
        let mut folio = first;
        for (block, patches) in part.touched() {
            while staged.folios[folio].grip.span().end <= block {
                folio += 1;
            }
            let mut after = images.pop().expect("one image per patched block");
            // Nobody else can change a size within block 0 while its range is locked.
            let end = part.after();
            let grip = &staged.folios[folio].grip;
            fill_image(grip, block, patches, end, &mut after);
            // Here and not in the transaction, which is one at a time.
            let (sum, delta) = (checksum::of(&after), Some(delta_of(grip, block, &after)));
            let object = part.object.clone();
            let (moved, inline) = (false, false);
            let change = Change { object, block, folio, after, sum, delta, moved, end, inline };
            staged.changes.push(change);
        }
    }
    for held in &mut staged.folios {
        // Folios of one block take the image itself; larger ones are changed in place, and from
        // here on nobody can begin to share their memory.
        if held.grip.order() > 0 {
            held.spare = held.grip.spare(memory, Purpose::Reserved).await?;
        }
    }
    Ok(staged)
}

/// The blocks of a part. One that is replaced from end to end need not be read: it is logged whole, and
/// replay asks nothing of what it holds.
fn wanted(part: &LoggedPart) -> Vec<Wanted> {
    let whole = |patches: &[Patch]| patches.iter().any(Patch::is_whole);
    part.touched().map(|(block, patches)| Wanted { block, whole: whole(patches) }).collect()
}

/// The bytes of `block` in the folio's memory.
fn within(grip: &Grip, block: u64) -> Range<usize> {
    let at = (block - grip.span().start) as usize * BLOCK_BYTES;
    at..at + BLOCK_BYTES
}

fn fill_image(grip: &Grip, block: u64, patches: &[Patch], end: u64, after: &mut Buffer) {
    let bytes = after.get_mut().expect("a fresh image has one owner");
    // What stands in front of the last whole patch is not seen.
    let first = patches.iter().rposition(Patch::is_whole);
    if first.is_none() {
        let hit = grip.read_at(within(grip, block).start, bytes);
        assert!(hit, "block {block} was just made up to date");
    }
    for patch in &patches[first.unwrap_or(0)..] {
        bytes[patch.at..patch.at + patch.bytes.len()].copy_from_slice(&patch.bytes);
    }
    // Behind the end all is zero, also where it was not behind the end before.
    let keep = end.saturating_sub(block * BLOCK).min(BLOCK) as usize;
    bytes[keep..].fill(0);
}

/// What turns the bytes of `block` that the folio holds into `after`; from zeroes on if it holds none, because
/// all of them are replaced.
fn delta_of(grip: &Grip, block: u64, after: &Buffer) -> Delta {
    let memory = grip.memory().filter(|_| grip.is_uptodate(block));
    let before = memory.as_ref().map(|memory| &memory[within(grip, block)]);
    Delta::between(before, after, true)
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
        return Box::pin(inline::store(txn, ticket, state.id(), change.end, &change.after)).await;
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
    let (at, delta) = match (stored, change.delta.take()) {
        (Some(home), Some(delta)) => (home, delta),
        _ => (ticket.claim(txn, 1).await?[0].start, Delta::between(None, &change.after, true)),
    };
    let (after, sum) = (change.after.clone(), change.sum);
    txn.log_data(at, DataImage { after, sum, delta }, mark);
    change.moved = stored.is_none();
    if change.moved {
        Box::pin(remap(txn, ticket, change, at)).await?;
    }
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

/// Puts the new sizes into the object records; the answer is by part.
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
        let recorded = state.recorded_size();
        let shorter = part.exact && end < recorded && !is_broken(Canary::LeaveCutSize);
        let changed = end > recorded || shorter;
        let changed = (changed && !left_out).then_some(end);
        if let Some(size) = changed {
            records::set_size(txn, ticket, state.id(), size).await?;
        }
        if part.cuts() && !extent::list(txn, state.id(), part.behind(), 1).await?.is_empty() {
            // They are removed behind the commit; a crash before leaves that to whoever opens the object.
            records::set_trimming(txn, ticket, state.id(), true).await?;
        }
        sizes.push(changed);
    }
    Ok(sizes)
}

fn note(lsn: Lsn, parts: &[LoggedPart], sizes: &[Option<u64>], changes: &[Change]) {
    for (part, &size) in parts.iter().zip(sizes) {
        let state = part.object.state();
        state.committed(lsn, size, &[]);
        if part.cuts() {
            // What is inline was cut with the record; block 0, if it stays, is one of the changes.
            let cut = if state.is_inline() { inline::FIRST } else { part.behind() };
            state.committed(lsn, None, &[part.behind(), cut]);
            state.set_inline(state.is_inline() && part.after() > 0);
            state.set_size(part.after());
        }
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
fn publish(ground: &Ground, parts: &[LoggedPart], staged: Staged<'_>, lsn: Lsn) {
    let Staged { mut folios, changes, still: _still } = staged;
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
