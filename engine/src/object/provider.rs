//! The provider: answers the core's questions about where an object's bytes lie.
//!
//! Guarantees, beyond the contract: data goes out of place (a block that is stored is never
//! overwritten by writeback), except into unwritten extents; a batch becomes visible in one
//! metadata transaction, behind a flush of its data (if the device has any of it); a failed or dropped batch leaves no claim.
//! Does not touch folios, does not choose what is written when. Called by `iomap`.

use std::sync::Arc;

use crate::alloc::Ticket;
use crate::error::Result;
use crate::extent;
use crate::extent::Extent;
use crate::extent::Lookup;
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
use crate::meta::MetaTxn;
use crate::object::ground::Ground;
use crate::object::ground::Pursuit;
use crate::object::inline;
use crate::object::records;
use crate::object::state::ObjectState;
use crate::units::DeviceSpan;
use crate::units::FileBlocks;
use crate::units::ObjectId;

/// The provider of one open object.
#[derive(Debug)]
pub struct ObjectProvider {
    ground: Ground,
    state: Arc<ObjectState>,
}

/// Claims of a batch between placement and completion.
#[derive(Debug)]
pub struct WritebackBatch {
    ticket: Ticket,
    /// [`crate::kit::poison::Poison::times`] before anything was sent to the device.
    times: u64,
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

    async fn remap(
        &self,
        txn: &mut MetaTxn,
        ticket: &mut Ticket,
        runs: &[PlacedRun],
    ) -> Result<()> {
        for extent in joined(runs) {
            let range = FileBlocks::new(extent.at, extent.at + extent.blocks);
            let freed = extent::replace(txn, ticket, self.state.id(), range, &[extent]).await?;
            for span in freed {
                ticket.free(span);
            }
        }
        for run in runs {
            if let Target::Device(at) = run.placement.target {
                self.ground.space.store_checksums(txn, at, &run.checksums).await?;
            }
        }
        Ok(())
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
        let mut settled = Vec::new();
        let mut fresh = Vec::new();
        let inline = inline::at_writeback(&self.ground, &self.state, &view, runs, size).await?;
        settled.extend(inline);
        for &run in runs {
            let start = if inline.is_some() { run.start.max(1) } else { run.start };
            let run = FileBlocks::new(start, run.end);
            let unwritten = unwritten_parts(&view, self.state.id(), run).await?;
            let mut at = run.start;
            for part in unwritten {
                if at < part.blocks.start {
                    fresh.push(FileBlocks::new(at, part.blocks.start));
                }
                at = part.blocks.end;
                settled.push(part);
            }
            if at < run.end {
                fresh.push(FileBlocks::new(at, run.end));
            }
        }
        let wanted = fresh.iter().map(|f| f.len()).sum::<u64>();
        let spans = match wanted {
            0 => Vec::new(),
            _ => ticket.claim(&view, wanted).await?,
        };
        settled.extend(placements(&fresh, &spans));
        settled.sort_by_key(|p| p.blocks.start);
        Ok((WritebackBatch { ticket, times }, settled))
    }

    async fn writeback_done(
        &self,
        batch: WritebackBatch,
        runs: Vec<PlacedRun>,
        settled_size: u64,
    ) -> Result<()> {
        let WritebackBatch { mut ticket, times } = batch;
        let to_device = runs.iter().any(|run| run.image.is_none());
        stop::at(Stop::BeforeCompletion).await;
        // Data before mapping: the mapping's record must not be durable before the bytes it names.
        if to_device && !is_broken(Canary::MapBeforeData) {
            self.ground.meta.flush().await?;
            // A flush that failed since the data was sent is final for it, whatever this one says.
            self.ground.poison.check_since(times)?;
        }
        let mut txn = self.ground.meta.begin().await?;
        let written = runs.iter().map(|r| r.placement.blocks.len()).sum();
        if self.state.is_removed() {
            // The claims go back with the ticket; nobody will ask for these bytes again.
            drop(ticket);
            self.ground.space.unreserve(written);
            return Ok(());
        }
        self.remap(&mut txn, &mut ticket, &runs).await?;
        let grown = (settled_size > self.state.recorded_size()).then_some(settled_size);
        let inline = inline::record(&mut txn, &mut ticket, &self.state, &runs, grown).await?;
        ticket.record(&mut txn).await?;
        let prepared = txn.prepare().await?;
        let remapped: Vec<_> = runs.iter().map(|r| r.placement.blocks).collect();
        let lsn = prepared.commit_with(|lsn| {
            self.state.set_inline(inline);
            self.state.committed(lsn, grown, &remapped);
        });
        ticket.settle(lsn);
        self.ground.space.unreserve(written);
        Ok(())
    }
}

/// The parts of `run` that lie on unwritten extents, ascending.
async fn unwritten_parts<R: crate::meta::view::BlockRead>(
    view: &R,
    object: ObjectId,
    run: FileBlocks,
) -> Result<Vec<Placement>> {
    let mut parts = Vec::new();
    let mut at = run.start;
    while at < run.end {
        at = match extent::lookup(view, object, at).await? {
            Lookup::Hole { until } => until,
            Lookup::Extent(e) => {
                let end = run.end.min(e.at + e.blocks);
                if e.unwritten {
                    let blocks = FileBlocks::new(at, end);
                    parts.push(Placement { blocks, target: Target::Device(e.start) });
                }
                end
            }
        };
    }
    Ok(parts)
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
