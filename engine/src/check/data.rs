//! Checksums of data: what is stored against what its writer said.
//!
//! Guarantees that memory and requests in flight are bounded, and that a place that cannot be read costs only
//! itself: a run that fails is read again block by block. Blocks whose checksum block is damaged are
//! passed by: that is another finding. Called by `survey` and `export`.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;

use foliant_device::BLOCK_SIZE;
use foliant_device::Buffer;
use foliant_device::Device;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;

use crate::check::report::Fault;
use crate::check::report::Place;
use crate::check::report::Report;
use crate::check::source::Source;
use crate::check::source::read;
use crate::check::walk::Look;
use crate::error::Error;
use crate::error::ErrorKind;
use crate::error::Result;
use crate::format::block::BODY;
use crate::format::block::BlockKind;
use crate::format::checksum_block;
use crate::format::extent_record::Extent;
use crate::kit::checksum;
use crate::kit::memory::Memory;
use crate::kit::memory::Purpose;
use crate::limits::CHECKSUMS_PER_BLOCK;
use crate::meta::view::BlockRead;
use crate::units::BlockNo;
use crate::units::ObjectId;

/// Runs that are read at once.
const IN_FLIGHT: usize = 8;
/// Blocks of a run, as a power of two, with plenty of memory (256 KiB) and with little.
const ORDER: u8 = 6;
const ORDER_SMALL: u8 = 3;
/// Memory from which on there is plenty of it, in blocks.
const PLENTY: usize = 2048;
/// Checksum blocks that are kept.
const SUMS_KEPT: usize = 64;

/// Contiguous blocks of one object with their sums, where these are known.
#[derive(Debug, Clone)]
pub struct Run {
    /// Whose.
    pub object: ObjectId,
    /// Its block.
    pub at: u64,
    /// The first block on the device.
    pub start: BlockNo,
    /// One for each block; empty when they are not known.
    pub sums: Vec<u32>,
    /// Number of blocks.
    pub blocks: u64,
}

/// A run that was read: its bytes, and what is wrong with which of its blocks.
#[derive(Debug)]
pub struct Fetched {
    /// What was asked for.
    pub run: Run,
    /// The bytes, when they could be read at once.
    pub bytes: Option<Buffer>,
    /// Blocks that could not be read, or do not match; by their place in the run.
    pub wrong: Vec<(u64, Error)>,
}

/// Cuts extents into runs and looks their sums up.
#[derive(Debug)]
pub struct Cutter {
    kept: BTreeMap<BlockNo, Option<Buffer>>,
    order: u8,
}

impl Cutter {
    /// For runs that fit the memory of `source`.
    pub fn new(source: &Source) -> Self {
        let plenty = source.memory.capacity_blocks() >= PLENTY;
        Self { kept: BTreeMap::new(), order: if plenty { ORDER } else { ORDER_SMALL } }
    }

    /// The first run of an extent that lies in one group, and the rest.
    ///
    /// Errors: `OutOfMemory`. A checksum block that is not sound gives a run without sums.
    pub async fn cut(
        &mut self,
        source: &Source,
        object: ObjectId,
        extent: &Extent,
    ) -> Result<(Run, Option<Extent>)> {
        let (at, first) = source.layout.checksum_place(extent.start).expect("it is data");
        let room = (CHECKSUMS_PER_BLOCK - first as u64).min(1 << self.order);
        let blocks = extent.blocks.min(room);
        let sums = match self.image(source, at).await? {
            Some(image) => checksum_block::get(&image[BODY..], first, blocks as usize).collect(),
            None => Vec::new(),
        };
        let run = Run { object, at: extent.at, start: extent.start, sums, blocks };
        let rest = (blocks < extent.blocks).then(|| Extent {
            at: extent.at + blocks,
            start: extent.start.plus(blocks),
            blocks: extent.blocks - blocks,
            ..*extent
        });
        Ok((run, rest))
    }

    async fn image(&mut self, source: &Source, at: BlockNo) -> Result<Option<Buffer>> {
        if let Some(known) = self.kept.get(&at) {
            return Ok(known.clone());
        }
        let image = match source.block(at, BlockKind::Checksums).await {
            Ok(image) => Some(image),
            Err(cause) if cause.is_corruption() || cause.kind() == ErrorKind::Device => None,
            Err(cause) => return Err(cause),
        };
        if self.kept.len() >= SUMS_KEPT {
            self.kept.clear();
        }
        self.kept.insert(at, image.clone());
        Ok(image)
    }
}

/// Reads a run and compares its sums.
///
/// Errors: `OutOfMemory`.
///
/// # Panics
/// If its length is no power of two (see [`powers`]).
pub async fn fetch(device: Device, memory: Memory, run: Run) -> Result<Fetched> {
    let order = run.blocks.next_power_of_two().ilog2() as u8;
    assert_eq!(1 << order, run.blocks, "a run fills its buffer");
    let mut wrong = Vec::new();
    let into = vec![memory.allocate(order, Purpose::Reserved).await?];
    let (mut buffers, outcome) = device.read(run.start.0, into).await;
    if let (Ok(()), Some(bytes)) = (outcome, buffers.pop()) {
        for (i, block) in bytes.chunks_exact(BLOCK_SIZE).enumerate() {
            wrong.extend(compare(&run, i as u64, block).err().map(|cause| (i as u64, cause)));
        }
        return Ok(Fetched { run, bytes: Some(bytes), wrong });
    }
    for i in 0..run.blocks {
        let block = match read(&device, &memory, run.start.plus(i)).await {
            Ok(block) => compare(&run, i, &block),
            Err(cause) if cause.kind() == ErrorKind::Device => Err(cause),
            Err(cause) => return Err(cause),
        };
        wrong.extend(block.err().map(|cause| (i, cause)));
    }
    Ok(Fetched { run, bytes: None, wrong })
}

/// Errors: `Corrupt` when block `i` of the run does not match.
pub fn compare(run: &Run, i: u64, block: &[u8]) -> Result<()> {
    let Some(&expected) = run.sums.get(i as usize) else { return Ok(()) };
    let got = checksum::of(block);
    match got == expected {
        true => Ok(()),
        false => Err(Error::checksum("data", run.start.plus(i), expected, got)),
    }
}

type Fetching = Pin<Box<dyn Future<Output = Result<Fetched>> + Send>>;

/// The comparison of everything, several runs at once.
pub struct Data {
    cutter: Cutter,
    fetching: FuturesUnordered<Fetching>,
}

impl Data {
    /// Nothing is on its way.
    pub fn new(source: &Source) -> Self {
        Self { cutter: Cutter::new(source), fetching: FuturesUnordered::new() }
    }

    /// Starts to compare an extent that lies in one group; waits while too much is on its way.
    ///
    /// Errors: `OutOfMemory`.
    pub async fn compare(
        &mut self,
        look: &mut Look<'_>,
        object: ObjectId,
        extent: &Extent,
    ) -> Result<()> {
        let mut rest = Some(*extent);
        while let Some(extent) = rest.take() {
            let (run, more) = self.cutter.cut(look.source, object, &extent).await?;
            rest = more;
            for run in powers(run) {
                while self.fetching.len() >= IN_FLIGHT {
                    self.one(look.report).await?;
                }
                let (device, memory) = (look.source.device.clone(), look.source.memory.clone());
                self.fetching.push(Box::pin(fetch(device, memory, run)));
            }
        }
        Ok(())
    }

    /// Waits for all that is on its way. Errors: `OutOfMemory`.
    pub async fn finish(&mut self, look: &mut Look<'_>) -> Result<()> {
        while !self.fetching.is_empty() {
            self.one(look.report).await?;
        }
        Ok(())
    }

    async fn one(&mut self, report: &mut Report) -> Result<()> {
        let Some(fetched) = self.fetching.next().await else { return Ok(()) };
        let Fetched { run, wrong, .. } = fetched?;
        report.counts.summed_blocks += run.sums.len() as u64;
        for (i, cause) in wrong {
            let place = Place::object(run.object).at(run.start.plus(i));
            report.add_failure(Fault::Data, place, cause)?;
        }
        Ok(())
    }
}

/// A run as runs whose lengths are powers of two, so that each fills one buffer.
pub fn powers(run: Run) -> Vec<Run> {
    let mut parts = Vec::new();
    let mut done = 0;
    while done < run.blocks {
        let blocks = 1 << (run.blocks - done).ilog2();
        let sums = run.sums.iter().skip(done as usize).take(blocks as usize).copied().collect();
        let start = run.start.plus(done);
        parts.push(Run { object: run.object, at: run.at + done, start, sums, blocks });
        done += blocks;
    }
    parts
}
