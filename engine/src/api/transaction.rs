//! A transaction: writes over any objects that become visible and durable together.
//!
//! Guarantees: nothing is seen outside before [`Transaction::commit`]; its own reads see its writes;
//! after a crash it is there whole or not at all, and commits survive in the order in which they
//! were accepted. Does not lock anything before commit: transactions that touch the same bytes are
//! ordered by their commits, and the later one wins. Called by users.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

use crate::api::handle::Inner;
use crate::api::object::Object;
use crate::error::Error;
use crate::error::ErrorKind;
use crate::error::Result;
use crate::iomap::contract::checked_range;
use crate::kit::lock_order::watched;
use crate::object::journaled;
use crate::object::journaled::LoggedPart;
use crate::object::journaled::Patch;
use crate::object::open::OpenObject;
use crate::object::open::Wing;
use crate::units::BLOCK;
use crate::units::Lsn;
use crate::units::ObjectId;

/// Log bytes that a patch costs besides its content at most: the header of a range, and equal bytes
/// between it and its neighbour that are cheaper to log than to leave out.
const PATCH_COST: u64 = 24;
/// Log bytes that the first patch of a block costs besides at most: the header of its record, and its checksum
/// with a header of its own. Not the block: if it cannot be logged whole, it is stored first.
const BLOCK_COST: u64 = 64;
/// Log bytes that an object costs besides at most: its size, and the blocks of two old ends.
const OBJECT_COST: u64 = 64 + 2 * BLOCK_COST;
/// Log bytes in front of all.
const HEADER_COST: u64 = 64;

/// Changes that become visible and durable together. Dropping it forgets them.
#[derive(Debug)]
pub struct Transaction {
    engine: Arc<Inner>,
    parts: BTreeMap<ObjectId, Part>,
    log_bytes: u64,
    /// Blocks that are written.
    blocks: u64,
}

#[derive(Debug)]
struct Part {
    object: Arc<OpenObject>,
    patches: BTreeMap<u64, Vec<Patch>>,
    end: u64,
}

impl Transaction {
    pub(super) fn new(engine: Arc<Inner>) -> Self {
        Self { engine, parts: BTreeMap::new(), log_bytes: 0, blocks: 0 }
    }

    /// Adds a write of `src` at `offset`; the object grows if need be.
    ///
    /// Errors: `InvalidInput` (range, or an object of another engine), `TooLarge` when the transaction
    /// would not fit the journal ([`Transaction::log_bytes_max`]) or the memory
    /// ([`Transaction::blocks_max`]): the write is not added, the rest can still be committed. What was
    /// accepted here fails no more for its size.
    pub fn write_at(&mut self, object: &Object, offset: u64, src: &[u8]) -> Result<()> {
        let range = checked_range(offset, src.len())?;
        if !Arc::ptr_eq(object.engine(), &self.engine) {
            return Err(Error::invalid("the object belongs to another engine"));
        }
        if src.is_empty() {
            return Ok(());
        }
        let id = object.opened().state().id();
        let blocks = range.start / BLOCK..range.end.div_ceil(BLOCK);
        let (cost, fresh) = self.cost(id, blocks, src.len());
        self.charge(cost, fresh, !self.parts.contains_key(&id))?;
        let part = self.parts.entry(id).or_insert_with(|| Part {
            object: object.opened().clone(),
            patches: BTreeMap::new(),
            end: 0,
        });
        part.end = part.end.max(range.end);
        let bytes = Bytes::copy_from_slice(src);
        let mut at = offset;
        while at < range.end {
            let stop = range.end.min((at / BLOCK + 1) * BLOCK);
            let piece = bytes.slice((at - offset) as usize..(stop - offset) as usize);
            let patch = Patch { at: (at % BLOCK) as usize, bytes: piece };
            part.patches.entry(at / BLOCK).or_default().push(patch);
            at = stop;
        }
        Ok(())
    }

    /// Log bytes of a write at most, and how many of its blocks the transaction does not touch yet.
    fn cost(&self, id: ObjectId, blocks: Range<u64>, len: usize) -> (u64, u64) {
        let known = self.parts.get(&id);
        let fresh = |b: &u64| known.is_none_or(|part| !part.patches.contains_key(b));
        let count = blocks.end - blocks.start;
        let fresh = blocks.filter(fresh).count() as u64;
        let object = if known.is_none() { OBJECT_COST } else { 0 };
        (len as u64 + count * PATCH_COST + fresh * BLOCK_COST + object, fresh)
    }

    /// Counts what is to be added. Errors: `TooLarge`, and nothing is counted.
    fn charge(&mut self, log_bytes: u64, blocks: u64, object: bool) -> Result<()> {
        let log = (self.log_bytes + log_bytes, self.log_bytes_max());
        if log.0 > log.1 {
            let most = log.1;
            let why =
                format!("the transaction needs more than the {most} bytes that the log takes");
            return Err(Error::new(ErrorKind::TooLarge, why));
        }
        let objects = self.parts.len() + usize::from(object);
        let images = journaled::images((self.blocks + blocks) as usize, objects);
        let most = self.blocks_max();
        if images as u64 > most {
            let why =
                format!("the transaction holds more than the {most} blocks that memory takes");
            return Err(Error::new(ErrorKind::TooLarge, why));
        }
        (self.log_bytes, self.blocks) = (log.0, self.blocks + blocks);
        Ok(())
    }

    /// Reads through the transaction's own writes; short only at the end of the object.
    ///
    /// Errors: as [`Object::read_at`].
    pub async fn read_at(&self, object: &Object, offset: u64, dst: &mut [u8]) -> Result<usize> {
        let range = checked_range(offset, dst.len())?;
        let read = object.read_at(offset, dst).await?;
        let Some(part) = self.parts.get(&object.opened().state().id()) else { return Ok(read) };
        let end = object.size().max(part.end).min(range.end);
        let len = (end.saturating_sub(offset)) as usize;
        dst[read.min(len)..len].fill(0);
        for (&block, patches) in part.patches.range(offset / BLOCK..end.div_ceil(BLOCK)) {
            for patch in patches {
                overlay(dst, offset..offset + len as u64, block * BLOCK, patch);
            }
        }
        Ok(len)
    }

    /// Bytes of log that the transaction will need at most.
    pub fn log_bytes(&self) -> u64 {
        self.log_bytes
    }

    /// The most that [`Transaction::log_bytes`] may be.
    pub fn log_bytes_max(&self) -> u64 {
        self.engine.volume.table.ground().meta.payload_max() - HEADER_COST
    }

    /// Blocks of 4096 bytes of which the commit will hold images at most: those that are written, and two
    /// more for each object.
    pub fn blocks(&self) -> u64 {
        journaled::images(self.blocks as usize, self.parts.len()) as u64
    }

    /// The most that [`Transaction::blocks`] may be: an eighth of the memory.
    pub fn blocks_max(&self) -> u64 {
        Wing::images_max(&self.engine.volume.table.wing().memory) as u64
    }

    /// Makes the changes visible, in the order of commits; the handle waits for durability.
    ///
    /// Other readers see the new bytes on return, before they are durable. A transaction whose blocks are
    /// not stored as they are, and that are too many to be logged whole, has them written back first.
    /// Errors: `NoSpace`, `OutOfMemory`, `Closed`, `WritesStopped`, `Corrupt`, `Device`: nothing happened.
    /// Dropping the future: either nothing happened, or the commit happened whole.
    pub async fn commit(self) -> Result<Commit> {
        let volume = self.engine.volume.clone();
        let entered = volume.enter()?;
        let ground = volume.table.ground();
        let part = |p: Part| LoggedPart { object: p.object, patches: p.patches, end: p.end };
        let mut parts: Vec<LoggedPart> = self.parts.into_values().map(part).collect();
        if parts.is_empty() {
            return Ok(Commit { engine: self.engine, lsn: ground.meta.durable_now() });
        }
        let wing = volume.table.wing();
        let lsn = match watched(journaled::commit(ground, wing, &mut parts)).await {
            Err(cause) if cause.kind() == ErrorKind::TooLarge => {
                let flusher = volume.flusher.clone();
                let work = async move {
                    let (_entered, table) = (entered, &volume.table);
                    let (ground, wing) = (table.ground(), table.wing());
                    watched(journaled::commit_over_stored(ground, wing, &mut parts)).await
                };
                flusher.run_to_end(work).await?
            }
            outcome => outcome?,
        };
        Ok(Commit { engine: self.engine, lsn })
    }
}

/// Copies what `patch` of the block at byte `base` changes into `dst`, which holds the bytes `range`.
fn overlay(dst: &mut [u8], range: Range<u64>, base: u64, patch: &Patch) {
    let start = base + patch.at as u64;
    let end = start + patch.bytes.len() as u64;
    let (from, to) = (start.max(range.start), end.min(range.end));
    if from >= to {
        return;
    }
    let source = &patch.bytes[(from - start) as usize..(to - start) as usize];
    let at = (from - range.start) as usize;
    dst[at..at + source.len()].copy_from_slice(source);
}

/// An accepted transaction. Dropping it changes nothing: the commit becomes durable by itself.
#[derive(Debug, Clone)]
pub struct Commit {
    engine: Arc<Inner>,
    lsn: Lsn,
}

impl Commit {
    /// Waits until the transaction, and every one accepted before it, is durable.
    ///
    /// Errors: `WritesStopped` when the journal failed: the transaction may or may not survive.
    pub async fn durable(self) -> Result<()> {
        self.engine.volume.table.ground().meta.durable(self.lsn).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_overlay_touches_only_its_bytes() {
        let mut dst = [0_u8; 10];
        let patch = Patch { at: 4, bytes: Bytes::from_static(b"abcdef") };
        overlay(&mut dst, 100..110, 100, &patch);
        assert_eq!(&dst, b"\0\0\0\0abcdef");
        let mut dst = [0_u8; 4];
        overlay(&mut dst, 106..110, 100, &patch);
        assert_eq!(&dst, b"cdef");
        overlay(&mut dst, 0..4, 100, &patch);
        assert_eq!(&dst, b"cdef");
    }
}
