//! Moves stored blocks of objects to other places, beside everything else that goes on.
//!
//! Guarantees: whoever reads finds the same bytes before, meanwhile and afterwards, and a crash leaves each block
//! at its old place or at its new one, whole. No lock is held while bytes are copied: a block whose mapping or
//! bytes changed meanwhile is left alone, which the transaction that maps the others looks at:
//!
//! * it is mapped where it was, and that place was in use all the time (it is *watched*: a place that was freed and
//!   handed out again looks the same);
//! * no commit logged bytes of it: what goes home in place is counted per range, and what was logged before and is
//!   not home yet is not touched at all, because the device does not hold it;
//! * nobody has its range, which is taken by trial for the transaction: who reads it finds it where he looked it up;
//! * nobody holds writeback of the object still, and takes its mappings for true without asking.
//!
//! No read meets a write in the device: while it reads, nothing goes home and nothing that is freed is handed out.
//!
//! Dirty blocks are no matter: the bytes that are stored are the old ones wherever they lie. What is
//! unwritten, inline, damaged or cannot be read is left where it is. A place that the medium refuses is left
//! alone. The old places are freed as those of an overwrite are.
//!
//! Does not wait for memory or room, and takes little of both; one mover at a time. Does not choose. To be driven to
//! its end by a task of the engine: dropped under way, the claimed space is lost until the store is opened
//! again. Called by `object::{clean, defragment}`.

use std::sync::Arc;

use foliant_device::Buffer;
use foliant_device::Segment;
use futures_util::StreamExt;
use futures_util::stream;

use crate::alloc::Ticket;
use crate::alloc::moves::Watched;
use crate::error::Error;
use crate::error::ErrorKind;
use crate::error::Result;
use crate::extent;
use crate::extent::Extent;
use crate::iomap::contract::Cookie;
use crate::iomap::contract::Transport;
use crate::iomap::run::DeviceWrite;
use crate::iomap::writeback;
use crate::kit::canary::Canary;
use crate::kit::canary::is_broken;
use crate::kit::checksum;
use crate::kit::memory::Purpose;
use crate::kit::range_lock::RangeGuard;
use crate::kit::stop;
use crate::kit::stop::Stop;
use crate::limits::MOVE_BLOCKS_MAX;
use crate::limits::MOVE_MEMORY_SHARE;
use crate::limits::WRITEBACK_RUN_BLOCKS;
use crate::limits::WRITEBACK_WRITES_IN_FLIGHT;
use crate::meta::MetaTxn;
use crate::meta::view::BlockRead;
use crate::object::ground::Ground;
use crate::object::ground::Moves;
use crate::object::open::OpenObject;
use crate::object::open::Wing;
use crate::units::BlockNo;
use crate::units::DeviceSpan;
use crate::units::FileBlocks;
use crate::units::Lsn;

/// Bytes of log that one moved block takes at most in most cases: two more entries, sums and bitmaps of two places.
const LOG_BYTES_PER_BLOCK: u64 = 512;

/// Blocks of an object that shall move, and where they were seen.
#[derive(Debug, Clone)]
pub struct Wish {
    /// Whose.
    pub object: Arc<OpenObject>,
    /// Which.
    pub blocks: FileBlocks,
    /// Where they lie, contiguously.
    pub from: BlockNo,
}

/// What came of it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Moved {
    /// Blocks that have another place.
    pub blocks: u64,
    /// There was no room, or no memory, to move all of them.
    pub short: bool,
    /// The transaction, if there was one.
    pub lsn: Option<Lsn>,
}

/// One block on its way.
#[derive(Debug)]
struct Block {
    object: Arc<OpenObject>,
    at: u64,
    from: BlockNo,
    sum: u32,
    /// [`crate::object::state::ObjectState::in_place`] when it was looked up.
    cookie: Cookie,
    image: Option<Buffer>,
    to: BlockNo,
}

/// How many blocks may be moved at once.
pub fn blocks_max(ground: &Ground, wing: &Wing) -> u64 {
    let by_memory = wing.memory.capacity_blocks() as u64 / MOVE_MEMORY_SHARE;
    let by_log = ground.meta.payload_max() / LOG_BYTES_PER_BLOCK;
    MOVE_BLOCKS_MAX.min(by_memory).min(by_log).max(1)
}

/// Moves the blocks of `wishes` (ascending by object and block, at most [`blocks_max`] together) to where moved
/// blocks are packed; in one piece or not at all if they are the first of so many blocks that shall lie `together`.
///
/// Errors: `WritesStopped`, `Device` (also of a flush or a write), `Corrupt` and `OutOfMemory` of the metadata,
/// `TooLarge` (too much for one transaction: try fewer). Nothing has moved then.
pub async fn relocate(
    ground: &Ground,
    wing: &Wing,
    wishes: &[Wish],
    together: Option<u64>,
) -> Result<Moved> {
    let times = ground.poison.times();
    ground.poison.check()?;
    let _turn = ground.borrowing.lock().await;
    let wanted = wishes.iter().map(|wish| wish.blocks.len()).sum();
    assert!(wanted <= blocks_max(ground, wing), "{wanted} blocks at once");
    let short = Moved { short: true, ..Moved::default() };
    if !wing.memory.make_room(wanted as usize) {
        return Ok(short);
    }
    let Some(_loan) = ground.space.lend(wanted) else { return Ok(short) };
    let (mut blocks, watched) = look_up(ground, wishes).await?;
    {
        // What is logged by now goes home only behind the reads, and is not read: a write in the device
        // must not meet them.
        let _homes = ground.meta.hold_homes().await;
        blocks.retain(|block| may_be_read(ground, block.from));
        read_all(wing, &mut blocks).await;
        watched.were_read();
    }
    let read = blocks.len();
    blocks.retain(|block| block.image.is_some());
    if blocks.is_empty() || (together.is_some() && (blocks.len() as u64) < wanted) {
        return Ok(Moved::default());
    }
    let claimed = claim(ground, &mut blocks, together).await;
    let ticket = match claimed {
        Err(cause) if cause.is_no_space() => return Ok(short),
        claimed => claimed?,
    };
    let ticket = write_all(ground, wing, ticket, &mut blocks).await?;
    stop::at(Stop::BlocksCopied).await;
    ground.meta.flush().await?;
    // A flush that failed since the data was sent is final for it, whatever this one says.
    ground.poison.check_since(times)?;
    let copied = blocks.len() as u64;
    let moved = map(ground, ticket, blocks, &watched).await?;
    Moves::add(&ground.moves.blocks, moved.blocks);
    Moves::add(&ground.moves.overtaken, copied - moved.blocks);
    metrics::counter!("foliant_moved_bytes_total").increment(moved.blocks * crate::units::BLOCK);
    Ok(Moved { short: read as u64 > copied, ..moved })
}

/// What of `wishes` is stored as was seen, and may be copied.
async fn look_up(ground: &Ground, wishes: &[Wish]) -> Result<(Vec<Block>, Watched)> {
    let mut blocks: Vec<Block> = Vec::new();
    let mut places = Vec::new();
    // As long as the view lives nothing commits: all of this is one moment.
    let view = ground.meta.read().await;
    for wish in wishes {
        let state = wish.object.state();
        for extent in stored(&view, &wish.object, wish.blocks).await? {
            let seen = wish.from.plus(extent.at - wish.blocks.start);
            let span = DeviceSpan::new(extent.start, extent.blocks);
            if extent.start != seen || state.is_removed() {
                continue;
            }
            let sums = ground.space.checksums(&view, span).await?;
            for ((at, from), sum) in (extent.at..extent.end()).zip(span.iter()).zip(sums) {
                if !may_be_read(ground, from) {
                    continue;
                }
                places.push(DeviceSpan::new(from, 1));
                let cookie = state.in_place.sample(FileBlocks::new(at, at + 1));
                let (object, to) = (wish.object.clone(), BlockNo(0));
                blocks.push(Block { object, at, from, sum, cookie, image: None, to });
            }
        }
    }
    let watched = ground.space.watch(places);
    drop(view);
    Ok((blocks, watched))
}

/// Whether the device holds the newest bytes of the block at `from`.
fn may_be_read(ground: &Ground, from: BlockNo) -> bool {
    !ground.meta.is_logged(from) || is_broken(Canary::MoveLogged)
}

/// The written extents of `object` in `blocks`.
async fn stored<R: BlockRead>(
    r: &R,
    object: &OpenObject,
    blocks: FileBlocks,
) -> Result<Vec<Extent>> {
    let mut found = extent::list(r, object.state().id(), blocks, blocks.len() as usize).await?;
    found.retain(|extent| !extent.unwritten);
    Ok(found)
}

/// Reads the blocks where they lie. What is not read, or is not what was stored, stays without an image.
async fn read_all(wing: &Wing, blocks: &mut [Block]) {
    let reads = runs_by_place(blocks).into_iter().map(|(at, run)| async move {
        let one = || wing.memory.try_allocate(0, Purpose::Data);
        let into = run.iter().map(|_| one()).collect::<Option<Vec<Buffer>>>();
        let Some(into) = into else { return (run, None) };
        let (buffers, result) = wing.transport.read(at, into).await;
        (run, result.is_ok().then_some(buffers))
    });
    let mut reads = stream::iter(reads).buffer_unordered(WRITEBACK_WRITES_IN_FLIGHT);
    while let Some((run, buffers)) = reads.next().await {
        for (i, image) in run.into_iter().zip(buffers.into_iter().flatten()) {
            let block = &mut blocks[i];
            // What is damaged stays where it is, for its reader to hear of.
            let sound = checksum::of(&image) == block.sum || is_broken(Canary::MoveLogged);
            block.image = sound.then_some(image);
        }
    }
}

/// Which blocks lie beside each other, and where the first of them lies.
fn runs_by_place(blocks: &[Block]) -> Vec<(BlockNo, Vec<usize>)> {
    let mut order: Vec<usize> = (0..blocks.len()).collect();
    order.sort_unstable_by_key(|&i| blocks[i].from);
    let mut runs: Vec<(BlockNo, Vec<usize>)> = Vec::new();
    for i in order {
        match runs.last_mut() {
            Some((at, run))
                if at.plus(run.len() as u64) == blocks[i].from
                    && run.len() < WRITEBACK_RUN_BLOCKS as usize =>
            {
                run.push(i);
            }
            _ => runs.push((blocks[i].from, vec![i])),
        }
    }
    runs
}

/// Gives each block a place. Errors: `NoSpace`, when there is none of the kind.
async fn claim(ground: &Ground, blocks: &mut [Block], together: Option<u64>) -> Result<Ticket> {
    let mut ticket = ground.ticket();
    let view = ground.meta.read().await;
    let spans = ticket.claim_moved(&view, blocks.len() as u64, together).await?;
    let mut places = spans.iter().flat_map(|span| span.iter());
    for block in blocks {
        block.to = places.next().expect("as many were claimed");
    }
    Ok(ticket)
}

/// Keeps a ticket whose places are being written to. If the future is dropped under way, its claims are
/// abandoned, as those of writeback are.
struct InFlight(Option<Ticket>);

impl Drop for InFlight {
    fn drop(&mut self) {
        if let Some(ticket) = self.0.take() {
            ticket.abandon();
        }
    }
}

/// Writes the blocks to their new places, and waits for all of the writes.
async fn write_all(
    ground: &Ground,
    wing: &Wing,
    ticket: Ticket,
    blocks: &mut [Block],
) -> Result<Ticket> {
    let mut in_flight = InFlight(Some(ticket));
    let mut writes: Vec<DeviceWrite> = Vec::new();
    for block in blocks {
        let image = Segment::from(block.image.take().expect("only blocks that were read"));
        match writes.last_mut() {
            Some(write)
                if write.at.plus(write.blocks) == block.to
                    && write.blocks < WRITEBACK_RUN_BLOCKS =>
            {
                write.blocks += 1;
                write.data.push(image);
            }
            _ => writes.push(DeviceWrite { at: block.to, blocks: 1, data: vec![image] }),
        }
    }
    Moves::add(&ground.moves.writes, writes.len() as u64);
    let (outcome, bad) = writeback::write_all(&wing.transport, writes).await;
    let mut ticket = in_flight.0.take().expect("taken only here");
    let left: u64 = bad.into_iter().map(|place| ticket.quarantine(place)).sum();
    if left > 0 {
        tracing::error!(left, "blocks that cannot be written are used by nobody any more");
    }
    outcome.map(|()| ticket)
}

/// Maps the blocks that are what was copied, in one transaction.
async fn map(
    ground: &Ground,
    mut ticket: Ticket,
    blocks: Vec<Block>,
    watched: &Watched,
) -> Result<Moved> {
    // Whoever holds writeback still trusts what is mapped; he is not waited for.
    let slots: Vec<_> = by_object(&blocks).map(|own| own[0].object.core().try_slot()).collect();
    // Who has looked up where the blocks lie and reads them there holds their range: the old place must be his until
    // he is done, or its next owner's write would meet the read in the device (crash seed 5871).
    let held: Vec<Vec<_>> = by_object(&blocks).map(hold_ranges).collect();
    let mut txn = ground.meta.begin().await?;
    let mut kept: Vec<Vec<&Block>> = Vec::new();
    for (held, slot) in held.iter().zip(&slots) {
        kept.push(match slot {
            Some(_) => unchanged(&txn, held, watched).await?,
            None => Vec::new(),
        });
    }
    give_back_all_but(&mut ticket, &blocks, &kept);
    for own in kept.iter().filter(|own| !own.is_empty()) {
        let object = own[0].object.state().id();
        for span in extent::remap(&mut txn, &mut ticket, object, &joined(own)).await? {
            ticket.free(span);
        }
        for (at, sums) in sums_by_place(own) {
            store_sums(ground, &mut txn, at, &sums).await?;
        }
    }
    let count = kept.iter().map(|own| own.len() as u64).sum();
    if count == 0 {
        return Ok(Moved::default());
    }
    ticket.record(&mut txn).await?;
    let prepared = txn.prepare().await?;
    let lsn = prepared.commit_with(|lsn| {
        for block in kept.iter().flatten() {
            let own = FileBlocks::new(block.at, block.at + 1);
            block.object.state().committed(lsn, None, &[own]);
        }
    });
    ticket.settle(lsn);
    Moves::add(&ground.moves.transactions, 1);
    Ok(Moved { blocks: count, short: false, lsn: Some(lsn) })
}

/// The blocks of each object.
fn by_object(blocks: &[Block]) -> impl Iterator<Item = &[Block]> {
    let ends = |i: &usize| {
        let own = blocks[i - 1].object.state().id();
        blocks.get(*i).is_none_or(|next| next.object.state().id() != own)
    };
    let mut start = 0;
    (1..=blocks.len()).filter(ends).map(move |end| &blocks[std::mem::replace(&mut start, end)..end])
}

/// Gives back the places of blocks that are not mapped there.
fn give_back_all_but(ticket: &mut Ticket, blocks: &[Block], kept: &[Vec<&Block>]) {
    let mut kept = kept.iter().flatten().peekable();
    for block in blocks {
        if kept.next_if(|kept| std::ptr::eq(**kept, block)).is_none() {
            ticket.unclaim(DeviceSpan::new(block.to, 1));
        }
    }
}

/// Of blocks that follow each other.
fn range_of(run: &[Block]) -> FileBlocks {
    FileBlocks::new(run[0].at, run[0].at + run.len() as u64)
}

/// The parts of `blocks` (of one object) whose ranges nobody has or wants, with these.
fn hold_ranges(blocks: &[Block]) -> Vec<(&[Block], RangeGuard)> {
    let mut held = Vec::new();
    // Halves, so that somebody at one block keeps few others back.
    let mut rest: Vec<&[Block]> = blocks.chunk_by(|a, b| a.at + 1 == b.at).collect();
    rest.reverse();
    while let Some(run) = rest.pop() {
        let FileBlocks { start, end } = range_of(run);
        match run[0].object.core().ranges().try_exclusive(start..end) {
            Some(guard) => held.push((run, guard)),
            None if run.len() > 1 => {
                let (left, right) = run.split_at(run.len() / 2);
                rest.extend([right, left]);
            }
            None => {}
        }
    }
    held
}

/// Those of `held` (of one object, ascending, with their ranges) whose mapping and bytes are what was copied.
async fn unchanged<'b>(
    txn: &MetaTxn,
    held: &[(&'b [Block], RangeGuard)],
    watched: &Watched,
) -> Result<Vec<&'b Block>> {
    let mut kept = Vec::new();
    for &(run, _) in held {
        let object = &run[0].object;
        if object.state().is_removed() {
            break;
        }
        let extents = stored(txn, object, range_of(run)).await?;
        let mut extents = extents.iter().peekable();
        for block in run {
            while extents.next_if(|extent| extent.end() <= block.at).is_some() {}
            let here = extents.peek().filter(|extent| extent.at <= block.at);
            let same = here.is_some_and(|e| e.start.plus(block.at - e.at) == block.from);
            let own = FileBlocks::new(block.at, block.at + 1);
            let untouched = block.object.state().in_place.sample(own) == block.cookie;
            let is_what_was_copied = same && watched.is_still(block.from) && untouched;
            if is_what_was_copied || is_broken(Canary::MapMovedUnseen) {
                kept.push(block);
            }
        }
    }
    Ok(kept)
}

/// The checksums of blocks that lie beside each other, with the place of the first.
fn sums_by_place(blocks: &[&Block]) -> Vec<(BlockNo, Vec<u32>)> {
    let runs = blocks.chunk_by(|a, b| a.to.plus(1) == b.to);
    runs.map(|run| (run[0].to, run.iter().map(|block| block.sum).collect())).collect()
}

/// Stores checksums of blocks that lie beside each other, group by group.
async fn store_sums(ground: &Ground, txn: &mut MetaTxn, at: BlockNo, sums: &[u32]) -> Result<()> {
    match ground.space.layout().is_data(DeviceSpan::new(at, sums.len() as u64)) {
        true => ground.space.store_checksums(txn, at, sums).await,
        false => Err(Error::new(ErrorKind::Corrupt, "moved blocks do not lie in one group")),
    }
}

/// The new extents of blocks of one object, ascending, neighbours joined.
fn joined(blocks: &[&Block]) -> Vec<Extent> {
    let runs = blocks.chunk_by(|a, b| a.at + 1 == b.at && a.to.plus(1) == b.to);
    let extent = |run: &[&Block]| {
        let blocks = run.len() as u64;
        Extent { at: run[0].at, start: run[0].to, blocks, unwritten: false }
    };
    runs.map(extent).collect()
}
