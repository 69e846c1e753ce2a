//! The provider: answers the core's questions about where an object's bytes lie.
//!
//! Guarantees, beyond the contract: data goes out of place (a block that is stored is never
//! overwritten by writeback), except into unwritten extents; a batch becomes visible in one
//! metadata transaction (in several if the log does not take as much at once), behind a flush of its data
//! (if the device has any of it); a failed or dropped batch leaves no claim.
//! Does not touch folios, does not choose what is written when. Called by `iomap`.

use std::sync::Arc;

use crate::alloc::Ticket;
use crate::error::ErrorKind;
use crate::error::Result;
use crate::extent;
use crate::extent::Extent;
use crate::extent::Lookup;
use crate::iomap::contract::Claim;
use crate::iomap::contract::Cookie;
use crate::iomap::contract::MapIntent;
use crate::iomap::contract::MapKind;
use crate::iomap::contract::Mapping;
use crate::iomap::contract::MappingProvider;
use crate::iomap::contract::PlacedRun;
use crate::iomap::contract::Placement;
use crate::iomap::contract::Target;
use crate::kit::canary::Canary;
use crate::kit::canary::is_broken;
use crate::kit::stop;
use crate::kit::stop::Stop;
use crate::limits::DIRECT_BUFFER_BYTES_MAX;
use crate::meta::MetaTxn;
use crate::object::ground::Ground;
use crate::object::ground::Pursuit;
use crate::object::inline;
use crate::object::records;
use crate::object::state::ObjectState;
use crate::units::BLOCK;
use crate::units::DeviceSpan;
use crate::units::FileBlocks;
use crate::units::Lsn;

/// The provider of one open object.
#[derive(Debug)]
pub struct ObjectProvider {
    ground: Ground,
    state: Arc<ObjectState>,
}

/// Bytes of log that the mapping of one run takes at most in most cases: entries of a leaf, a checksum, two bits
/// of bitmaps, each with its headers. When it was more, the transaction is made again with half of the runs.
const LOG_BYTES_PER_RUN: u64 = 256;

/// Claims of a batch between placement and completion.
#[derive(Debug)]
pub struct WritebackBatch {
    ticket: Ticket,
    /// [`crate::kit::poison::Poison::times`] before anything was sent to the device.
    times: u64,
    /// It may be a direct write, which changes all of its blocks at once.
    whole: bool,
}

impl Claim for WritebackBatch {
    fn abandon(self) {
        self.ticket.abandon();
    }
}

impl ObjectProvider {
    /// A provider for `state` on `ground`.
    pub fn new(ground: Ground, state: Arc<ObjectState>) -> Self {
        Self { ground, state }
    }

    /// The shared parts below.
    pub fn ground(&self) -> &Ground {
        &self.ground
    }

    async fn lookup(
        &self,
        blocks: FileBlocks,
        sums: bool,
    ) -> Result<(FileBlocks, MapKind, Cookie)> {
        let view = self.ground.meta.read().await;
        // Sampled with the view held: changes are noted while the metadata lock is held exclusively, so
        // none can fall between the answer and the sample.
        let cookie_of = |blocks| self.state.cookies.sample(blocks);
        if blocks.start == 0 && self.state.is_inline() {
            let bytes = records::inline(&view, self.state.id()).await;
            // A look without a range lock may find the object removed since it began.
            let bytes = bytes.or_else(|cause| self.state.check_present().and(Err(cause)))?;
            let first = FileBlocks::new(0, 1);
            return Ok((first, MapKind::Inline { bytes }, cookie_of(first)));
        }
        let found = extent::lookup(&view, self.state.id(), blocks.start).await?;
        let (end, kind) = match found {
            Lookup::Hole { until } => (until, MapKind::Hole),
            Lookup::Extent(e) if e.unwritten => {
                (e.at + e.blocks, MapKind::Unwritten { at: e.start })
            }
            Lookup::Extent(e) => {
                let end = blocks.end.min(e.at + e.blocks);
                let span = DeviceSpan::new(e.start, end - blocks.start);
                let checksums = match sums {
                    true => Some(self.ground.space.checksums(&view, span).await?),
                    false => None,
                };
                (end, MapKind::Mapped { at: e.start, checksums })
            }
        };
        let blocks = FileBlocks::new(blocks.start, blocks.end.min(end));
        Ok((blocks, kind, cookie_of(blocks)))
    }

    /// Maps `runs` in as few transactions as the log allows, in one if they are to change as a `whole`.
    /// The size is recorded in the last one.
    async fn map_all(
        &self,
        mut ticket: Ticket,
        runs: &[PlacedRun],
        settled_size: u64,
        whole: bool,
    ) -> Result<()> {
        let most = match whole {
            true => usize::MAX,
            false => (self.ground.meta.payload_max() / LOG_BYTES_PER_RUN).max(1) as usize,
        };
        let mut rest = runs;
        let mut most = most;
        while !rest.is_empty() {
            let (part, others) = rest.split_at(rest.len().min(most));
            let mut own = match others {
                [] => std::mem::replace(&mut ticket, self.ground.ticket()),
                _ => ticket.split(part.iter().filter_map(span_of)),
            };
            let size = others.is_empty().then_some(settled_size);
            match self.map(&mut own, part, size).await {
                Ok(Some(lsn)) => own.settle(lsn),
                // The claims go back with the tickets; nobody will ask for these bytes again.
                Ok(None) => return Ok(()),
                Err(cause) if cause.kind() == ErrorKind::TooLarge && !whole && part.len() > 1 => {
                    own.restart();
                    ticket.join(own);
                    most = part.len() / 2;
                    continue;
                }
                Err(cause) => return Err(cause),
            }
            rest = others;
        }
        Ok(())
    }

    /// One transaction: maps `runs`, and records `size` if that is given and larger than what is recorded.
    /// `None` when the object was removed. Errors: `TooLarge` before anything was done, and others.
    async fn map(
        &self,
        ticket: &mut Ticket,
        runs: &[PlacedRun],
        size: Option<u64>,
    ) -> Result<Option<Lsn>> {
        let mut txn = self.ground.meta.begin().await?;
        if self.state.is_removed() {
            return Ok(None);
        }
        self.remap(&mut txn, ticket, runs).await?;
        let grown = size.filter(|&size| size > self.state.recorded_size());
        let inline = inline::record(&mut txn, ticket, &self.state, runs, grown).await?;
        ticket.record(&mut txn).await?;
        let prepared = txn.prepare().await?;
        let remapped: Vec<_> = runs.iter().map(|r| r.placement.blocks).collect();
        Ok(Some(prepared.commit_with(|lsn| {
            self.state.set_inline(inline);
            self.state.committed(lsn, grown, &remapped);
        })))
    }

    async fn remap(
        &self,
        txn: &mut MetaTxn,
        ticket: &mut Ticket,
        runs: &[PlacedRun],
    ) -> Result<()> {
        for span in extent::remap(txn, ticket, self.state.id(), &joined(runs)).await? {
            ticket.free(span);
        }
        for run in runs {
            if let Target::Device(at) = run.placement.target {
                self.ground.space.store_checksums(txn, at, &run.checksums).await?;
            }
        }
        Ok(())
    }
}

/// Where a run lies on the device, if it does.
fn span_of(run: &PlacedRun) -> Option<DeviceSpan> {
    let Placement { blocks, target } = run.placement;
    match target {
        Target::Device(at) => Some(DeviceSpan::new(at, blocks.len())),
        Target::Inline => None,
    }
}

/// Placed runs as extents, neighbours joined, so that the tree is touched once per extent.
fn joined(runs: &[PlacedRun]) -> Vec<Extent> {
    let mut extents: Vec<Extent> = Vec::with_capacity(runs.len());
    for Placement { blocks, target } in runs.iter().map(|r| r.placement) {
        let Target::Device(at) = target else { continue };
        match extents.last_mut() {
            Some(last)
                if last.at + last.blocks == blocks.start && last.start.plus(last.blocks) == at =>
            {
                last.blocks += blocks.len();
            }
            _ => extents.push(Extent {
                at: blocks.start,
                start: at,
                blocks: blocks.len(),
                unwritten: false,
            }),
        }
    }
    extents
}

/// Cuts `spans` into pieces that cover `runs` exactly, in order.
fn placements(runs: &[FileBlocks], spans: &[DeviceSpan]) -> Vec<Placement> {
    let mut placed = Vec::new();
    let mut spans = spans.iter().copied();
    let mut rest = DeviceSpan::default();
    for run in runs {
        let mut at = run.start;
        while at < run.end {
            if rest.blocks == 0 {
                rest = spans.next().expect("as many blocks are claimed as are placed");
                continue;
            }
            let take = rest.blocks.min(run.end - at);
            let blocks = FileBlocks::new(at, at + take);
            placed.push(Placement { blocks, target: Target::Device(rest.start) });
            rest = DeviceSpan::new(rest.start.plus(take), rest.blocks - take);
            at += take;
        }
    }
    placed
}

impl MappingProvider for ObjectProvider {
    type Batch = WritebackBatch;

    fn size(&self) -> u64 {
        self.state.size()
    }

    fn durable_size(&self) -> u64 {
        self.state.recorded_size()
    }

    fn publish_size(&self, end: u64) {
        self.state.grow_size(end);
    }

    async fn map_begin(&self, blocks: FileBlocks, intent: MapIntent) -> Result<Mapping> {
        assert!(!blocks.is_empty(), "mapping of nothing");
        self.state.check_present()?;
        if intent.promises() {
            // What could not be written back must not pile up until nobody may write any more.
            self.may_write()?;
        }
        let sums = intent != MapIntent::Report;
        let mut pursuit = Pursuit::default();
        loop {
            let (blocks, kind, cookie) = match intent {
                MapIntent::Overwrite => (blocks, MapKind::Hole, self.state.cookies.sample(blocks)),
                _ => self.lookup(blocks, sums).await?,
            };
            if !intent.promises() {
                return Ok(Mapping { blocks, kind, cookie, promised: 0 });
            }
            // The last step, without an await behind it: a dropped future leaves no promise.
            match self.ground.space.reserve(blocks.len()) {
                Ok(()) => return Ok(Mapping { blocks, kind, cookie, promised: blocks.len() }),
                Err(cause) if !cause.is_no_space() => return Err(cause),
                Err(cause) => self.ground.pursue(&mut pursuit, cause).await?,
            }
        }
    }

    fn map_end(&self, mapping: &Mapping, dirtied: u64) {
        assert!(dirtied <= mapping.promised, "more blocks dirtied than were promised");
        self.ground.space.unreserve(mapping.promised - dirtied);
    }

    fn mapping_is_current(&self, mapping: &Mapping) -> bool {
        self.state.cookies.sample(mapping.blocks) == mapping.cookie
    }

    fn may_write(&self) -> Result<()> {
        self.state.check()?;
        self.ground.poison.check()
    }

    fn contents_cookie(&self, blocks: FileBlocks) -> Cookie {
        self.state.contents.sample(blocks)
    }

    fn forget_dirty(&self, blocks: u64) {
        self.ground.space.unreserve(blocks);
    }

    fn leave_alone(&self, batch: &mut WritebackBatch, places: &[DeviceSpan]) {
        let left: u64 = places.iter().map(|&place| batch.ticket.quarantine(place)).sum();
        if left > 0 {
            let object = self.state.id().0;
            tracing::error!(
                left,
                object,
                "blocks that cannot be written are used by nobody any more"
            );
        }
    }

    async fn map_writeback(
        &self,
        runs: &[FileBlocks],
        size: u64,
    ) -> Result<(WritebackBatch, Vec<Placement>)> {
        stop::at(Stop::BeforeWritebackMapping).await;
        let times = self.ground.poison.times();
        self.ground.poison.check()?;
        let view = self.ground.meta.read().await;
        let mut ticket = self.ground.ticket();
        let blocks: u64 = runs.iter().map(|run| run.len()).sum();
        let whole = runs.len() == 1 && blocks * BLOCK <= DIRECT_BUFFER_BYTES_MAX as u64;
        let mut settled = Vec::new();
        let mut fresh = Vec::new();
        let inline = inline::at_writeback(&self.ground, &self.state, &view, runs, size).await?;
        settled.extend(inline);
        let runs: Vec<FileBlocks> = runs
            .iter()
            .map(|run| FileBlocks::new(run.start.max(u64::from(inline.is_some())), run.end))
            .collect();
        let unwritten = extent::unwritten_in(&view, self.state.id(), &runs).await?;
        let mut unwritten = unwritten.into_iter().peekable();
        for run in runs {
            let mut at = run.start;
            while let Some(part) = unwritten.next_if(|part| part.at < run.end) {
                if at < part.at {
                    fresh.push(FileBlocks::new(at, part.at));
                }
                at = part.end();
                let (blocks, target) = (FileBlocks::new(part.at, at), Target::Device(part.start));
                settled.push(Placement { blocks, target });
            }
            if at < run.end {
                fresh.push(FileBlocks::new(at, run.end));
            }
        }
        let wanted = fresh.iter().map(|f| f.len()).sum::<u64>();
        let spans = match wanted {
            0 => Vec::new(),
            _ => ticket.claim_for(&view, wanted, wanted / fresh.len() as u64).await?,
        };
        settled.extend(placements(&fresh, &spans));
        settled.sort_by_key(|p| p.blocks.start);
        Ok((WritebackBatch { ticket, times, whole }, settled))
    }

    async fn writeback_done(
        &self,
        batch: WritebackBatch,
        runs: Vec<PlacedRun>,
        settled_size: u64,
    ) -> Result<()> {
        let WritebackBatch { ticket, times, whole } = batch;
        let to_device = runs.iter().any(|run| run.image.is_none());
        stop::at(Stop::BeforeCompletion).await;
        // Data before mapping: the mapping's record must not be durable before the bytes it names.
        if to_device && !is_broken(Canary::MapBeforeData) {
            self.ground.meta.flush().await?;
            // A flush that failed since the data was sent is final for it, whatever this one says.
            self.ground.poison.check_since(times)?;
        }
        let whole = whole || runs.iter().any(|run| run.image.is_some());
        self.map_all(ticket, &runs, settled_size, whole).await?;
        // Only now: if one of several transactions fails, all of the blocks are dirty again.
        let written = runs.iter().map(|r| r.placement.blocks.len()).sum();
        self.ground.space.unreserve(written);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::BlockNo;

    fn run(start: u64, end: u64, at: u64) -> PlacedRun {
        let blocks = FileBlocks::new(start, end);
        let placement = Placement { blocks, target: Target::Device(BlockNo(at)) };
        PlacedRun { placement, checksums: vec![0; blocks.len() as usize], image: None }
    }

    #[test]
    fn neighbours_in_both_worlds_become_one_extent() {
        let extents = joined(&[run(0, 4, 100), run(4, 6, 104), run(6, 7, 200), run(9, 10, 201)]);
        let sizes: Vec<_> = extents.iter().map(|e| (e.at, e.start.0, e.blocks)).collect();
        assert_eq!(sizes, [(0, 100, 6), (6, 200, 1), (9, 201, 1)]);
    }

    #[test]
    fn placements_cover_the_runs_exactly() {
        let runs = [FileBlocks::new(0, 5), FileBlocks::new(8, 9), FileBlocks::new(20, 24)];
        let spans = [DeviceSpan::new(BlockNo(50), 3), DeviceSpan::new(BlockNo(90), 7)];
        let placed = placements(&runs, &spans);
        let pieces: Vec<_> =
            placed.iter().map(|p| (p.blocks.start, p.blocks.end, p.target)).collect();
        let expected = [(0, 3, 50), (3, 5, 90), (8, 9, 92), (20, 24, 93)];
        assert_eq!(pieces, expected.map(|(a, b, at)| (a, b, Target::Device(BlockNo(at)))));
    }
}
