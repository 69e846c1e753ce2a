//! A provider for tests: extents that move at every writeback, promises that are counted, and
//! failures on demand.
//!
//! Guarantees the treaty exactly (also that a dropped batch undoes its claims), and asserts what
//! the core owes it: one `map_end` per `map_begin`, no more promises back than were given, batches
//! settled once. Knows nothing of folios. Called by the tests of this room.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::error::Error;
use crate::error::ErrorKind;
use crate::error::Result;
use crate::iomap::contract::Claim;
use crate::iomap::contract::Cookie;
use crate::iomap::contract::MapIntent;
use crate::iomap::contract::MapKind;
use crate::iomap::contract::Mapping;
use crate::iomap::contract::MappingProvider;
use crate::iomap::contract::PlacedRun;
use crate::iomap::contract::Placement;
use crate::iomap::contract::Target;
use crate::iomap::testkit::TestTransport;
use crate::iomap::testkit::give_way;
use crate::kit::sync::Mutex;
use crate::units::BlockNo;
use crate::units::FileBlocks;

/// Where one block lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stored {
    /// The device block.
    pub at: u64,
    /// Its checksum; `None` when unwritten or not kept.
    pub sum: Option<u32>,
    /// Preallocated, never written.
    pub unwritten: bool,
}

/// What goes wrong, and how answers look.
#[derive(Debug, Clone)]
pub struct Script {
    /// Longest answer of `map_begin` in blocks.
    pub longest_answer: u64,
    /// Longest placement in blocks.
    pub longest_placement: u64,
    /// Yield to the scheduler in each async call.
    pub yields: bool,
    /// This many of the next validity checks answer "stale".
    pub stale_answers: u64,
    /// `map_begin` fails from this one on (counted from 0).
    pub fail_begin_at: Option<(u64, ErrorKind)>,
    /// The next `map_writeback` fails.
    pub fail_map_writeback: bool,
    /// The next `writeback_done` fails.
    pub fail_done: bool,
    /// Promises that may be out at once.
    pub room: u64,
    /// Keep and hand out checksums.
    pub checksums: bool,
    /// Keep block 0 of objects that are not larger than this; 0 for never.
    pub inline_bytes: u64,
}

/// What was asked so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MockCounts {
    /// Calls of `map_begin` that succeeded.
    pub begins: u64,
    /// Mappings not given back yet.
    pub open: u64,
    /// Promises held.
    pub promised: u64,
    /// Validity checks that said "stale".
    pub stale: u64,
    /// Batches placed and neither done nor dropped.
    pub batches: u64,
    /// Batches done.
    pub done: u64,
}

struct State {
    stored: BTreeMap<u64, Stored>,
    /// Block 0, if it is kept here.
    inline: Option<Vec<u8>>,
    /// Counts the changes of each file block; a cookie is the sum over its range.
    version: BTreeMap<u64, u64>,
    free: Vec<u64>,
    size: u64,
    durable_size: u64,
    script: Script,
    counts: MockCounts,
    begin_calls: u64,
}

/// See the module page.
#[derive(Clone)]
pub struct MockProvider {
    /// Short look-ups; never held across an await.
    state: Arc<Mutex<State>>,
}

/// Claims of one batch.
pub struct MockBatch {
    state: Arc<Mutex<State>>,
    claimed: Vec<u64>,
}

impl Claim for MockBatch {
    fn abandon(self) {
        // Stays counted as placed and not done.
        std::mem::forget(self);
    }
}

impl Drop for MockBatch {
    fn drop(&mut self) {
        let mut state = self.state.lock();
        state.counts.batches -= 1;
        let claimed = std::mem::take(&mut self.claimed);
        state.free.extend(claimed);
    }
}

impl MockProvider {
    /// An empty object over `blocks` device blocks.
    pub fn new(blocks: u64) -> Self {
        let script = Script {
            longest_answer: u64::MAX,
            longest_placement: u64::MAX,
            yields: false,
            stale_answers: 0,
            fail_begin_at: None,
            fail_map_writeback: false,
            fail_done: false,
            room: u64::MAX,
            checksums: true,
            inline_bytes: 0,
        };
        let state = State {
            stored: BTreeMap::new(),
            inline: None,
            version: BTreeMap::new(),
            free: (0..blocks).rev().collect(),
            size: 0,
            durable_size: 0,
            script,
            counts: MockCounts::default(),
            begin_calls: 0,
        };
        Self { state: Arc::new(Mutex::new(state)) }
    }

    /// Changes the script.
    pub fn script(&self, change: impl FnOnce(&mut Script)) {
        change(&mut self.state.lock().script);
    }

    /// What was asked so far.
    pub fn counts(&self) -> MockCounts {
        self.state.lock().counts
    }

    /// Makes `map_begin` fail after `more` further successes.
    pub fn fail_begin_after(&self, more: u64, kind: ErrorKind) {
        let mut state = self.state.lock();
        state.script.fail_begin_at = Some((state.begin_calls + more, kind));
    }

    /// Where a block lies.
    pub fn stored(&self, block: u64) -> Option<Stored> {
        self.state.lock().stored.get(&block).copied()
    }

    /// The bytes of block 0 that are kept without a place on the device.
    pub fn inline(&self) -> Option<Vec<u8>> {
        self.state.lock().inline.clone()
    }

    /// Device blocks that nobody uses.
    pub fn free_blocks(&self) -> u64 {
        self.state.lock().free.len() as u64
    }

    /// Gives `block` a place without writing it; `sum: None` and mapped means stale device bytes
    /// show through.
    pub fn place(&self, block: u64, unwritten: bool) -> u64 {
        let mut state = self.state.lock();
        let at = state.free.pop().expect("the mock device is large enough");
        let stored = Stored { at, sum: None, unwritten };
        state.set(block, Some(stored));
        at
    }

    /// Sets any size, smaller or larger, for both sizes.
    pub fn set_size(&self, size: u64) {
        let mut state = self.state.lock();
        state.size = size;
        state.durable_size = state.durable_size.min(size);
        let keep = state.durable_size as usize;
        if let Some(bytes) = &mut state.inline {
            bytes.truncate(keep);
            *state.version.entry(0).or_default() += 1;
        }
    }

    /// Sets the durable size.
    pub fn set_durable_size(&self, size: u64) {
        self.state.lock().durable_size = size;
    }

    /// Moves a stored block to a fresh place on the device, bytes and all.
    pub fn relocate(&self, block: u64, transport: &TestTransport) {
        let mut state = self.state.lock();
        let old = state.stored.get(&block).copied().expect("only what is stored can move");
        let at = state.free.pop().expect("the mock device is large enough");
        transport.copy(old.at, at);
        // In one step, bytes first: no mapping may name a place that does not hold them yet.
        state.set(block, Some(Stored { at, ..old }));
    }

    /// Forgets what is stored in `blocks` (truncate, punch).
    pub fn unmap(&self, blocks: FileBlocks) {
        let mut state = self.state.lock();
        if blocks.start == 0 && state.inline.is_some() {
            state.set(0, None);
        }
        let range = blocks.start..blocks.end;
        let gone: Vec<u64> = state.stored.range(range).map(|(&b, _)| b).collect();
        for block in gone {
            state.set(block, None);
        }
    }
}

impl State {
    fn set(&mut self, block: u64, stored: Option<Stored>) {
        *self.version.entry(block).or_default() += 1;
        if block == 0 {
            self.inline = None;
        }
        let old = match stored {
            Some(stored) => self.stored.insert(block, stored),
            None => self.stored.remove(&block),
        };
        if let Some(old) = old {
            self.free.insert(0, old.at);
        }
    }

    fn cookie(&self, blocks: FileBlocks) -> Cookie {
        let range = self.version.range(blocks.start..blocks.end);
        Cookie(range.map(|(_, &version)| version).sum())
    }

    /// How many blocks from `blocks.start` on are of one kind and contiguous.
    fn alike(&self, blocks: FileBlocks) -> u64 {
        let first = self.stored.get(&blocks.start).copied();
        let mut count = 1;
        while count < blocks.len() {
            let next = self.stored.get(&(blocks.start + count)).copied();
            let fits = match (first, next) {
                (None, None) => true,
                (Some(a), Some(b)) => {
                    let sums_alike = a.sum.is_some() == b.sum.is_some();
                    b.at == a.at + count && a.unwritten == b.unwritten && sums_alike
                }
                _ => false,
            };
            if !fits {
                break;
            }
            count += 1;
        }
        count
    }

    fn kind(&self, blocks: FileBlocks) -> MapKind {
        if let Some(bytes) = self.inline.as_ref().filter(|_| blocks.start == 0) {
            return MapKind::Inline { bytes: bytes.clone() };
        }
        let Some(first) = self.stored.get(&blocks.start) else {
            return MapKind::Hole;
        };
        let at = BlockNo(first.at);
        if first.unwritten {
            return MapKind::Unwritten { at };
        }
        let sums = (blocks.start..blocks.end).map(|b| self.stored[&b].sum);
        MapKind::Mapped { at, checksums: sums.collect() }
    }

    fn begin(&mut self, asked: FileBlocks, intent: MapIntent) -> Result<Mapping> {
        let call = self.begin_calls;
        self.begin_calls += 1;
        if let Some((at, kind)) = self.script.fail_begin_at
            && call >= at
        {
            return Err(Error::new(kind, "the mock provider was told to fail"));
        }
        let limit = asked.len().min(self.script.longest_answer);
        let asked = FileBlocks::new(asked.start, asked.start + limit);
        // Walking a hole of the largest object block by block would take for ever.
        let near = asked.len().min(100_000);
        let near = FileBlocks::new(asked.start, asked.start + near);
        let kept = near.start == 0 && self.inline.is_some();
        let alike = if kept { 1 } else { self.alike(near) };
        let blocks = FileBlocks::new(asked.start, asked.start + alike);
        let promised = if intent.promises() { alike } else { 0 };
        if self.counts.promised + promised > self.script.room {
            return Err(Error::new(ErrorKind::NoSpace, "the mock device is full"));
        }
        self.counts.begins += 1;
        self.counts.open += 1;
        self.counts.promised += promised;
        Ok(Mapping { blocks, kind: self.kind(blocks), cookie: self.cookie(blocks), promised })
    }

    fn place_runs(&mut self, runs: &[FileBlocks], size: u64) -> (Vec<u64>, Vec<Placement>) {
        let size = self.size.max(size);
        let mut claimed = Vec::new();
        let mut places: Vec<Placement> = Vec::new();
        for run in runs {
            for block in run.start..run.end {
                let fits = size > 0 && size <= self.script.inline_bytes;
                if block == 0 && fits {
                    let blocks = FileBlocks::new(0, 1);
                    places.push(Placement { blocks, target: Target::Inline });
                    continue;
                }
                let at = self.free.pop().expect("promised blocks have room");
                claimed.push(at);
                let joined = places.last_mut().filter(|last| {
                    let Target::Device(start) = last.target else { return false };
                    let next = start.plus(last.blocks.len());
                    let fits = last.blocks.len() < self.script.longest_placement;
                    last.blocks.end == block && next == BlockNo(at) && fits
                });
                match joined {
                    Some(last) => last.blocks.end += 1,
                    None => places.push(Placement {
                        blocks: FileBlocks::new(block, block + 1),
                        target: Target::Device(BlockNo(at)),
                    }),
                }
            }
        }
        (claimed, places)
    }

    fn finish(&mut self, runs: &[PlacedRun], settled: u64) {
        for run in runs {
            let blocks = run.placement.blocks;
            assert!(self.counts.promised >= blocks.len(), "unpromised writeback");
            self.counts.promised -= blocks.len();
            let Target::Device(start) = run.placement.target else {
                self.keep(run, settled);
                continue;
            };
            assert_eq!(run.checksums.len() as u64, blocks.len());
            for (index, block) in (blocks.start..blocks.end).enumerate() {
                let sum = self.script.checksums.then_some(run.checksums[index]);
                let stored = Stored { at: start.0 + index as u64, sum, unwritten: false };
                self.set(block, Some(stored));
            }
        }
        self.durable_size = self.durable_size.max(settled);
        self.counts.done += 1;
    }
}

impl State {
    /// Keeps block 0 as far as the size goes; the rest of it must be zero.
    fn keep(&mut self, run: &PlacedRun, settled: u64) {
        let image = run.image.as_ref().expect("what is kept is handed over");
        let size = self.durable_size.max(settled) as usize;
        let (bytes, rest) = image.split_at(size.min(image.len()));
        assert!(rest.iter().all(|&byte| byte == 0), "bytes behind the settled size would be lost");
        self.set(0, None);
        self.inline = Some(bytes.to_vec());
    }
}

impl MockProvider {
    async fn maybe_yield(&self) {
        let yields = self.state.lock().script.yields;
        if yields {
            give_way().await;
        }
    }
}

impl MappingProvider for MockProvider {
    type Batch = MockBatch;

    fn size(&self) -> u64 {
        self.state.lock().size
    }

    fn durable_size(&self) -> u64 {
        self.state.lock().durable_size
    }

    fn publish_size(&self, end: u64) {
        let mut state = self.state.lock();
        state.size = state.size.max(end);
    }

    async fn map_begin(&self, blocks: FileBlocks, intent: MapIntent) -> Result<Mapping> {
        self.maybe_yield().await;
        self.state.lock().begin(blocks, intent)
    }

    fn map_end(&self, mapping: &Mapping, dirtied: u64) {
        let mut state = self.state.lock();
        assert!(state.counts.open > 0, "map_end without map_begin");
        assert!(dirtied <= mapping.promised, "more dirtied than promised");
        state.counts.open -= 1;
        state.counts.promised -= mapping.promised - dirtied;
    }

    fn mapping_is_current(&self, mapping: &Mapping) -> bool {
        let mut state = self.state.lock();
        let forced = state.script.stale_answers > 0;
        state.script.stale_answers -= u64::from(forced);
        let current = !forced && state.cookie(mapping.blocks) == mapping.cookie;
        state.counts.stale += u64::from(!current);
        current
    }

    fn may_write(&self) -> Result<()> {
        Ok(())
    }

    fn contents_cookie(&self, blocks: FileBlocks) -> Cookie {
        self.state.lock().cookie(blocks)
    }

    fn forget_dirty(&self, blocks: u64) {
        let mut state = self.state.lock();
        assert!(state.counts.promised >= blocks, "forgets unpromised blocks");
        state.counts.promised -= blocks;
    }

    async fn map_writeback(
        &self,
        runs: &[FileBlocks],
        size: u64,
    ) -> Result<(MockBatch, Vec<Placement>)> {
        self.maybe_yield().await;
        let mut state = self.state.lock();
        if std::mem::take(&mut state.script.fail_map_writeback) {
            return Err(Error::new(ErrorKind::Device, "the mock refuses to place"));
        }
        let sorted = runs.windows(2).all(|w| w[0].end <= w[1].start);
        assert!(sorted, "runs are not ascending: {runs:?}");
        let (claimed, places) = state.place_runs(runs, size);
        state.counts.batches += 1;
        let batch = MockBatch { state: Arc::clone(&self.state), claimed };
        Ok((batch, places))
    }

    async fn writeback_done(
        &self,
        mut batch: MockBatch,
        runs: Vec<PlacedRun>,
        settled_size: u64,
    ) -> Result<()> {
        self.maybe_yield().await;
        let mut state = self.state.lock();
        if std::mem::take(&mut state.script.fail_done) {
            drop(state);
            return Err(Error::new(ErrorKind::WritesStopped, "the mock log failed"));
        }
        batch.claimed.clear();
        state.finish(&runs, settled_size);
        Ok(())
    }
}
