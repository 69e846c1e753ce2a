//! A transaction: writes over any objects that become visible and durable together.
//!
//! Guarantees: nothing is seen outside before [`Transaction::commit`]; its own reads see its writes;
//! after a crash it is there whole or not at all, and commits survive in the order in which they
//! were accepted. Does not lock anything before commit: transactions that touch the same bytes are
//! ordered by their commits, and the later one wins. Called by users.

use std::collections::BTreeMap;
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
use crate::units::BLOCK;
use crate::units::Lsn;
use crate::units::ObjectId;

/// Log bytes that a patch costs besides its content: its share of the record's header, the block's
/// checksum, and the metadata that follows.
const PATCH_COST: u64 = 64;
/// Log bytes that the first patch of a block costs: a block may have to be logged whole, with its
/// new mapping.
const BLOCK_COST: u64 = 512;

/// Changes that become visible and durable together. Dropping it forgets them.
#[derive(Debug)]
pub struct Transaction {
    engine: Arc<Inner>,
    parts: BTreeMap<ObjectId, Part>,
    log_bytes: u64,
}

#[derive(Debug)]
struct Part {
    object: Arc<OpenObject>,
    patches: BTreeMap<u64, Vec<Patch>>,
    end: u64,
}

impl Transaction {
    pub(super) fn new(engine: Arc<Inner>) -> Self {
        Self { engine, parts: BTreeMap::new(), log_bytes: 0 }
    }

    /// Adds a write of `src` at `offset`; the object grows if need be.
    ///
    /// Errors: `InvalidInput` (range, or an object of another engine), `TooLarge` when the transaction
    /// would not fit the journal: the write is not added, the rest can still be committed.
    pub fn write_at(&mut self, object: &Object, offset: u64, src: &[u8]) -> Result<()> {
        let range = checked_range(offset, src.len())?;
        if !Arc::ptr_eq(object.engine(), &self.engine) {
            return Err(Error::invalid("the object belongs to another engine"));
        }
        if src.is_empty() {
            return Ok(());
        }
        let id = object.opened().state().id();
        let cost = self.cost(id, range.start / BLOCK..range.end.div_ceil(BLOCK), src.len());
        if self.log_bytes + cost > self.log_bytes_max() {
            let most = self.log_bytes_max();
            let why =
                format!("the transaction needs more than the {most} bytes that the log takes");
            return Err(Error::new(ErrorKind::TooLarge, why));
        }
        self.log_bytes += cost;
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

    fn cost(&self, id: ObjectId, blocks: std::ops::Range<u64>, len: usize) -> u64 {
        let known = self.parts.get(&id);
        let fresh = |b: &u64| known.is_none_or(|part| !part.patches.contains_key(b));
        let count = blocks.end - blocks.start;
        len as u64 + count * PATCH_COST + blocks.filter(fresh).count() as u64 * BLOCK_COST
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
        self.engine.volume.table.ground().meta.payload_max() / 2
    }

    /// Makes the changes visible, in the order of commits; the handle waits for durability.
    ///
    /// Other readers see the new bytes on return, before they are durable. Errors: `NoSpace`,
    /// `TooLarge`, `OutOfMemory`, `Closed`, `WritesStopped`, `Corrupt`, `Device`: nothing happened.
    /// Dropping the future: either nothing happened, or the commit happened whole.
    pub async fn commit(self) -> Result<Commit> {
        let volume = self.engine.volume.clone();
        let _entered = volume.enter()?;
        let ground = volume.table.ground().clone();
        let part = |p: Part| LoggedPart { object: p.object, patches: p.patches, end: p.end };
        let parts: Vec<LoggedPart> = self.parts.into_values().map(part).collect();
        let lsn = match parts.is_empty() {
            true => ground.meta.durable_now(),
            false => watched(journaled::commit(&ground, volume.table.wing(), parts)).await?,
        };
        Ok(Commit { engine: self.engine, lsn })
    }
}

/// Copies what `patch` of the block at byte `base` changes into `dst`, which holds the bytes `range`.
fn overlay(dst: &mut [u8], range: std::ops::Range<u64>, base: u64, patch: &Patch) {
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
