//! After a crash: replays the log onto the blocks, and starts a new epoch.
//!
//! Guarantees: idempotent and restartable at any point, because records are absolute and the header
//! moves last; bounded by the log's size in time, and by the budget in memory; it needs no structure
//! but the log, so that no damage elsewhere can stop it. A metadata block that does not match its checksum
//! after its last record is reported, and so are acknowledged groups that are missing; a data block that does
//! not match stays as it lies there, where its sum tells every reader. Metadata is read again at home
//! before the log is given up.
//!
//! Does not look into blocks. Called by `volume::mount` before anything else is read.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use foliant_device::BLOCK_SIZE;
use foliant_device::Buffer;
use foliant_device::Device;
use foliant_device::Persist;
use futures_util::StreamExt;
use futures_util::stream;

use crate::error::Error;
use crate::error::Result;
use crate::format::block;
use crate::format::journal_header::Slot;
use crate::format::layout::Layout;
use crate::format::log_record;
use crate::format::log_record::Record;
use crate::journal::ring::Ring;
use crate::journal::scan::Scan;
use crate::journal::slots;
use crate::kit::checksum;
use crate::kit::memory::Memory;
use crate::kit::memory::Purpose;
use crate::meta::readback::Readback;
use crate::units::BLOCK;
use crate::units::BlockNo;

/// What recovery found and did.
#[derive(Debug, Clone)]
pub struct Recovered {
    /// How the journal goes on.
    pub slot: Slot,
    /// Groups found.
    pub groups: u64,
    /// Transactions in them.
    pub transactions: u64,
    /// Bytes of log replayed.
    pub bytes: u64,
    /// Blocks written to their homes.
    pub blocks_home: u64,
    /// Data blocks that do not match their last record: what it was applied to is not what it was made for.
    pub damaged: u64,
    /// Why the log ended where it ended.
    pub stopped: String,
    /// Groups that were acknowledged, and are missing or damaged: the store is as it was before them.
    pub lost: Option<RangeInclusive<u64>>,
}

/// What to do where acknowledged groups are missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gap {
    /// Report it, and leave the log as it is.
    Refuse,
    /// Go on from what was before it.
    Accept,
}

/// One block while the log is replayed.
struct Image {
    buffer: Buffer,
    crc: u32,
    data: bool,
}

/// Blocks read, and written home, at once.
const READS_IN_FLIGHT: usize = 64;
const WRITES_IN_FLIGHT: usize = 64;

/// Whether images are checked against their last record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verify {
    /// The log is read whole: each image must be what its last record says.
    Now,
    /// In the middle of the log a block may hold bytes of later records already (it was torn on its
    /// way home), so its checksum says nothing yet. Its reader checks it.
    Later,
}

struct Replay<'a> {
    device: &'a Device,
    memory: &'a Memory,
    readback: Readback,
    volume: u32,
    images: BTreeMap<BlockNo, Image>,
    /// Images that may be held at once; the rest goes home earlier, which is legal: all their records
    /// so far are durable.
    images_max: usize,
    home: u64,
    damaged: u64,
}

/// Replays what the log holds, brings it home, and makes the log empty under a new epoch.
///
/// The caller has flushed the device. Errors: `Corrupt` (no journal header, a block that does not match
/// after its last record or does not arrive at home, acknowledged groups that are missing), `Device`,
/// `OutOfMemory`. Dropping the future: run it again.
pub async fn recover(
    device: &Device,
    memory: &Memory,
    layout: &Layout,
    volume: u32,
    gap: Gap,
) -> Result<Recovered> {
    let slot = slots::read(device, memory, volume).await?;
    let ring = Ring::new(layout.journal);
    check_slot(&slot, layout)?;
    let mut scan = Scan::new(device, memory, ring, volume, slot);
    let images_max = memory.capacity_blocks() / 2;
    let readback = Readback::new(memory).await?;
    let images = BTreeMap::new();
    let (home, damaged) = (0, 0);
    let mut replay = Replay { device, memory, readback, volume, images, images_max, home, damaged };
    let (mut transactions, mut groups, mut bytes) = (0, 0, 0);
    while let Some(payload) = scan.next().await? {
        groups += 1;
        bytes += payload.len() as u64;
        replay.fetch_bases(&payload).await?;
        let mut rest = &payload[..];
        while !rest.is_empty() {
            let (count, records) = log_record::next_transaction(&mut rest)?;
            replay.apply(count, records).await?;
            transactions += 1;
        }
    }
    let lost = scan.lost().await?;
    if gap == Gap::Refuse
        && let Some(lost) = &lost
    {
        return Err(missing(lost, ring.block(scan.end())));
    }
    replay.write_home(Verify::Now).await?;
    let next = Slot {
        sequence: slot.sequence,
        epoch: slot.epoch + 1,
        tail: scan.end(),
        next_group: scan.next_group(),
    };
    // No group of the new epoch is written before both headers name it.
    let next = slots::write_both(device, memory, volume, next).await?;
    let (blocks_home, damaged) = (replay.home, replay.damaged);
    tracing::info!(groups, transactions, bytes, blocks_home, stopped = scan.stopped, "recovered");
    let stopped = scan.stopped;
    let slot = next;
    Ok(Recovered { slot, groups, transactions, bytes, blocks_home, damaged, stopped, lost })
}

/// What is said of acknowledged groups that are missing.
pub fn missing(groups: &RangeInclusive<u64>, at: BlockNo) -> Error {
    let (first, last) = (groups.start(), groups.end());
    let why = format!(
        "groups {first} to {last} were acknowledged and are not there: the device has lost or damaged them"
    );
    Error::corrupt("journal", at, why)
}

/// No log has written so much, or was opened so often: all arithmetic on the fields of a header stays
/// below 2^63.
const COUNTER_MAX: u64 = 1 << 62;

/// Errors: `Corrupt` for what no log can have come to.
fn check_slot(slot: &Slot, layout: &Layout) -> Result<()> {
    let counters = [slot.sequence, slot.epoch, slot.tail.0, slot.next_group];
    let small = counters.iter().all(|&counter| counter < COUNTER_MAX);
    // Groups are counted from one: zero in a group's header means that it does not tell.
    if slot.tail.0.is_multiple_of(BLOCK) && slot.next_group > 0 && small {
        return Ok(());
    }
    let why = format!(
        "impossible tail {}, epoch {}, group {} or sequence {}",
        slot.tail, slot.epoch, slot.next_group, slot.sequence
    );
    Err(Error::corrupt("journal header", layout.journal.start, why))
}

impl Replay<'_> {
    /// Reads what the records of a group are applied to, many blocks at once, as far as the images
    /// fit; what does not is read when its record comes.
    async fn fetch_bases(&mut self, payload: &[u8]) -> Result<()> {
        let mut rest = payload;
        let mut wanted = BTreeMap::new();
        while !rest.is_empty() {
            let (count, mut records) = log_record::next_transaction(&mut rest)?;
            for _ in 0..count {
                let record = log_record::next_record(&mut records)?;
                self.check_place(&record)?;
                wanted.entry(record.block).or_insert(record.init);
            }
        }
        wanted.retain(|at, init| !*init && !self.images.contains_key(at));
        if self.images.len() + wanted.len() > self.images_max {
            self.write_home(Verify::Later).await?;
        }
        let wanted = wanted.into_keys().take(self.images_max);
        let mut reads = stream::iter(wanted.map(|at| read_block(self.device, self.memory, at)))
            .buffer_unordered(READS_IN_FLIGHT);
        while let Some(read) = reads.next().await {
            let (at, buffer) = read?;
            let image = Image { buffer, crc: 0, data: false };
            self.images.insert(at, image);
        }
        Ok(())
    }

    fn check_place(&self, record: &Record<'_>) -> Result<()> {
        let geometry = self.device.geometry();
        Ok(geometry.check(foliant_device::error::Operation::Write, record.block.0, 1)?)
    }

    async fn apply(&mut self, count: u32, mut records: &[u8]) -> Result<()> {
        for _ in 0..count {
            let record = log_record::next_record(&mut records)?;
            self.check_place(&record)?;
            if !self.images.contains_key(&record.block) && self.images.len() >= self.images_max {
                self.write_home(Verify::Later).await?;
            }
            self.apply_one(&record).await?;
        }
        Ok(())
    }

    async fn apply_one(&mut self, record: &Record<'_>) -> Result<()> {
        if !self.images.contains_key(&record.block) {
            let buffer = self.base(record).await?;
            let image = Image { buffer, crc: record.crc, data: record.data };
            self.images.insert(record.block, image);
        }
        let image = self.images.get_mut(&record.block).expect("it was put there");
        let bytes = image.buffer.get_mut().expect("a replayed image has one owner");
        record.apply(bytes);
        image.crc = record.crc;
        image.data = record.data;
        Ok(())
    }

    /// What the record is applied to: what lies there now, whatever that is.
    async fn base(&self, record: &Record<'_>) -> Result<Buffer> {
        if record.init {
            return self.memory.allocate(0, Purpose::Reserved).await;
        }
        Ok(read_block(self.device, self.memory, record.block).await?.1)
    }

    /// Writes all images home, stable, and looks whether metadata is there.
    async fn write_home(&mut self, verify: Verify) -> Result<()> {
        let images = std::mem::take(&mut self.images);
        let (mut all, mut metadata) = (Vec::with_capacity(images.len()), Vec::new());
        for (at, image) in images {
            let bytes = &image.buffer[..BLOCK_SIZE];
            let got = match image.data {
                true => checksum::of(bytes),
                false => block::sum(bytes, at, self.volume),
            };
            let matches = verify == Verify::Later || got == image.crc;
            if !image.data {
                if !matches {
                    return Err(Error::checksum("replayed block", at, image.crc, got));
                }
                metadata.push((at, image.buffer.clone()));
            } else if !matches {
                let cause = Error::checksum("replayed data", at, image.crc, got);
                tracing::error!(%cause, "the device lost what the log builds upon");
                self.damaged += 1;
                continue;
            }
            all.push((at, image.buffer));
        }
        self.home += all.len() as u64;
        self.write(all).await?;
        let again = self.readback.missing(self.device, metadata).await?;
        if again.is_empty() {
            return Ok(());
        }
        self.write(again.clone()).await?;
        self.readback.insist(self.device, &again).await
    }

    /// Writes blocks; stable on return.
    async fn write(&self, images: Vec<(BlockNo, Buffer)>) -> Result<()> {
        let requests = images
            .into_iter()
            .map(|(at, buffer)| self.device.write(at.0, vec![buffer.into()], Persist::Cached));
        let mut requests = stream::iter(requests).buffer_unordered(WRITES_IN_FLIGHT);
        while let Some(written) = requests.next().await {
            written?;
        }
        Ok(self.device.flush().await?)
    }
}

async fn read_block(device: &Device, memory: &Memory, at: BlockNo) -> Result<(BlockNo, Buffer)> {
    let buffer = memory.allocate(0, Purpose::Reserved).await?;
    let (mut buffers, outcome) = device.read(at.0, vec![buffer]).await;
    outcome?;
    Ok((at, buffers.pop().expect("a read gives its buffer back")))
}
