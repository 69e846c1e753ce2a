//! A transaction: changes of any objects and names that become visible and durable together.
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
use crate::api::work::Made;
use crate::api::work::Work;
use crate::error::Error;
use crate::error::ErrorKind;
use crate::error::Result;
use crate::iomap::contract::checked_range;
use crate::limits::ATTRIBUTE_BYTES_MAX;
use crate::namespace::batch::Step;
use crate::namespace::tree;
use crate::object::open::OpenObject;
use crate::object::open::Wing;
use crate::object::part;
use crate::object::part::LoggedPart;
use crate::object::part::Patch;
use crate::units::BLOCK;
use crate::units::BLOCK_BYTES;
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
/// Log bytes that a block of an object costs which the transaction makes: it is logged whole, and mapped.
const FRESH_COST: u64 = BLOCK + 512;
/// Log bytes that a change of a name or of attributes costs: a leaf that is split, and its parent, both changed from end to end.
const NAME_COST: u64 = 3 * BLOCK;
/// Log bytes in front of all.
const HEADER_COST: u64 = 64;

/// Zeroes for one block.
static ZEROES: [u8; BLOCK_BYTES] = [0; BLOCK_BYTES];

/// When [`Transaction::commit_with`] returns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// As soon as the transaction is accepted: readers see it, and it becomes durable by itself, in its turn. A
    /// crash before that loses it whole, with everything that was accepted behind it.
    Buffered,
    /// When it is durable, with everything that was accepted before it.
    Durable,
}

/// Changes that become visible and durable together. Dropping it forgets them.
#[derive(Debug)]
pub struct Transaction {
    engine: Arc<Inner>,
    parts: BTreeMap<ObjectId, Part>,
    steps: Vec<Step>,
    made: Made,
    log_bytes: u64,
    /// Blocks that are written.
    blocks: u64,
}

#[derive(Debug)]
struct Part {
    object: Arc<OpenObject>,
    patches: BTreeMap<u64, Vec<Patch>>,
    end: u64,
    /// The lowest size to which the transaction cuts the object; the size is `end` then.
    cut: Option<u64>,
}

/// What is put into an object.
enum Content<'a> {
    Bytes(&'a [u8]),
    Zeroes,
}

impl Part {
    /// Adds patches for the bytes `range`.
    fn put(&mut self, range: Range<u64>, content: &Content<'_>) {
        let mut at = range.start;
        while at < range.end {
            let stop = range.end.min((at / BLOCK + 1) * BLOCK);
            let bytes = match content {
                Content::Bytes(src) => {
                    let part = (at - range.start) as usize..(stop - range.start) as usize;
                    Bytes::copy_from_slice(&src[part])
                }
                Content::Zeroes => Bytes::from_static(&ZEROES[..(stop - at) as usize]),
            };
            let patch = Patch { at: (at % BLOCK) as usize, bytes };
            self.patches.entry(at / BLOCK).or_default().push(patch);
            at = stop;
        }
    }

    /// Forgets patches behind `size`.
    fn cut(&mut self, size: u64) {
        self.patches.split_off(&size.div_ceil(BLOCK));
        let keep = (size % BLOCK) as usize;
        let last = if keep > 0 { self.patches.get_mut(&(size / BLOCK)) } else { None };
        if let Some(patches) = last {
            patches.retain(|patch| patch.at < keep);
            for patch in patches.iter_mut() {
                patch.bytes.truncate(keep - patch.at);
            }
        }
        self.end = size;
        self.cut = Some(self.cut.map_or(size, |cut| cut.min(size)));
    }

    /// The size afterwards of an object that has `size` bytes.
    fn size_after(&self, size: u64) -> u64 {
        if self.cut.is_some() { self.end } else { self.end.max(size) }
    }
}

impl Transaction {
    pub(super) fn new(engine: Arc<Inner>) -> Self {
        let (parts, steps, made) = (BTreeMap::new(), Vec::new(), Made::default());
        Self { engine, parts, steps, made, log_bytes: 0, blocks: 0 }
    }

    /// Adds a write of `src` at `offset`; the object grows if need be.
    ///
    /// Errors: `InvalidInput` (range, an object of another engine, one that another transaction makes),
    /// `TooLarge` when the transaction would not fit the journal ([`Transaction::log_bytes_max`]) or the memory
    /// ([`Transaction::blocks_max`]): the write is not added, the rest can still be committed. What was
    /// accepted here fails no more for its size.
    pub fn write_at(&mut self, object: &Object, offset: u64, src: &[u8]) -> Result<()> {
        let range = checked_range(offset, src.len())?;
        self.check(object)?;
        if src.is_empty() {
            return Ok(());
        }
        // What a cut took away must not come back between the end and the write.
        let from = self.gap_from(object).map_or(range.start, |end| end.min(range.start));
        self.charge(object, from..range.end)?;
        let part = self.part(object);
        part.put(from..range.start, &Content::Zeroes);
        part.put(range.clone(), &Content::Bytes(src));
        part.end = part.end.max(range.end);
        Ok(())
    }

    /// Makes the bytes of `range` zero, as far as they lie below the size that the object has when the
    /// transaction commits. Takes log and blocks like a write of zeroes, and keeps the space.
    ///
    /// Errors: as [`Transaction::write_at`].
    pub fn zero(&mut self, object: &Object, range: Range<u64>) -> Result<()> {
        let len = range.end.checked_sub(range.start).and_then(|len| usize::try_from(len).ok());
        let Some(len) = len else {
            return Err(Error::invalid(format!("range {range:?} runs backwards")));
        };
        let range = checked_range(range.start, len)?;
        self.check(object)?;
        let end = range.end.min(self.end_of(object).unwrap_or(range.end));
        if range.start >= end {
            return Ok(());
        }
        self.charge(object, range.start..end)?;
        self.part(object).put(range.start..end, &Content::Zeroes);
        Ok(())
    }

    /// Sets the size, whatever it is when the transaction commits; new bytes read as zero, and what lies
    /// behind is given back to the volume after the commit. Later writes of the transaction may go beyond
    /// it; the bytes between the lowest size and the end are then logged, zeroes included.
    ///
    /// Errors: as [`Transaction::write_at`].
    pub fn truncate(&mut self, object: &Object, size: u64) -> Result<()> {
        checked_range(size, 0)?;
        self.check(object)?;
        let from = self.gap_from(object).unwrap_or(size).min(size);
        self.charge(object, from..size)?;
        // The rest of the last block becomes zero.
        self.count(BLOCK, 0, 0)?;
        let part = self.part(object);
        part.put(from..size, &Content::Zeroes);
        part.cut(size);
        Ok(())
    }

    /// Makes an empty object with this name when the transaction commits. The handle can be written through
    /// this transaction at once; its own verbs give `NotFound` until then, and `Closed` if the transaction
    /// goes without a commit.
    ///
    /// Errors: `InvalidInput`, `Closed`, `TooLarge`; a name that is taken at the commit is `AlreadyExists` there.
    pub fn create(&mut self, name: impl AsRef<[u8]>) -> Result<Object> {
        tree::check(name.as_ref())?;
        self.engine.volume.check_open()?;
        self.count(NAME_COST, 0, 0)?;
        let object = self.engine.volume.table.prepare();
        self.made.0.push(object.clone());
        self.steps.push(Step::Create { name: name.as_ref().to_vec(), object: object.clone() });
        Ok(Object::new(self.engine.clone(), object))
    }

    /// Gives an object another name when the transaction commits. Steps on names follow each other: a name
    /// that an earlier one made or took away is there or free.
    ///
    /// Errors: `InvalidInput`, `TooLarge`; at the commit `NotFound` and `AlreadyExists`.
    pub fn rename(&mut self, from: impl AsRef<[u8]>, to: impl AsRef<[u8]>) -> Result<()> {
        tree::check(from.as_ref())?;
        tree::check(to.as_ref())?;
        self.count(NAME_COST, 0, 0)?;
        let (from, to) = (from.as_ref().to_vec(), to.as_ref().to_vec());
        self.steps.push(Step::Rename { from, to });
        Ok(())
    }

    /// Removes a name and its object when the transaction commits; its space comes back behind that.
    ///
    /// Errors: `InvalidInput`, `TooLarge`; at the commit `NotFound`.
    pub fn remove(&mut self, name: impl AsRef<[u8]>) -> Result<()> {
        tree::check(name.as_ref())?;
        self.count(NAME_COST, 0, 0)?;
        self.steps.push(Step::Remove { name: name.as_ref().to_vec() });
        Ok(())
    }

    /// Gives an object other attributes, at most [`ATTRIBUTE_BYTES_MAX`] bytes that mean something to the caller
    /// alone. Of several calls for one object the last one counts, and only the first one is charged.
    ///
    /// Errors: `InvalidInput` (also an object that the transaction cannot change), `TooLarge`; at the commit
    /// `Closed` for an object that was removed.
    pub fn set_attributes(&mut self, object: &Object, attributes: &[u8]) -> Result<()> {
        self.check(object)?;
        if attributes.len() > ATTRIBUTE_BYTES_MAX {
            let (len, most) = (attributes.len(), ATTRIBUTE_BYTES_MAX);
            return Err(Error::invalid(format!("{len} bytes of attributes; {most} are possible")));
        }
        let known = self.steps.iter_mut().find_map(|step| attributes_of(step, object));
        if let Some(known) = known {
            *known = attributes.to_vec();
            return Ok(());
        }
        self.count(NAME_COST, 0, 0)?;
        let (object, attributes) = (object.opened().clone(), attributes.to_vec());
        self.steps.push(Step::Attributes { object, attributes });
        Ok(())
    }

    /// The attributes that the object would have if the transaction committed now.
    ///
    /// Errors: as [`Object::attributes`]. Dropping the future has no effect.
    pub async fn attributes(&self, object: &Object) -> Result<Bytes> {
        for step in &self.steps {
            if let Step::Attributes { object: known, attributes } = step
                && Arc::ptr_eq(known, object.opened())
            {
                return Ok(Bytes::copy_from_slice(attributes));
            }
        }
        match object.opened().state().is_pending() {
            true => self.check(object).map(|()| Bytes::new()),
            false => object.attributes().await,
        }
    }

    /// Errors: `InvalidInput` for objects that the transaction cannot change.
    fn check(&self, object: &Object) -> Result<()> {
        if !Arc::ptr_eq(object.engine(), &self.engine) {
            return Err(Error::invalid("the object belongs to another engine"));
        }
        let own = |made: &Arc<OpenObject>| Arc::ptr_eq(made, object.opened());
        if object.opened().state().is_pending() && !self.made.0.iter().any(own) {
            return Err(Error::invalid("another transaction makes the object"));
        }
        Ok(())
    }

    fn part(&mut self, object: &Object) -> &mut Part {
        let fresh = || Part {
            object: object.opened().clone(),
            patches: BTreeMap::new(),
            end: 0,
            cut: None,
        };
        self.parts.entry(object.opened().state().id()).or_insert_with(fresh)
    }

    /// Where the object ends after what was added so far, if that is known.
    fn end_of(&self, object: &Object) -> Option<u64> {
        let state = object.opened().state();
        match self.parts.get(&state.id()) {
            Some(part) if part.cut.is_some() || state.is_pending() => Some(part.end),
            None if state.is_pending() => Some(0),
            _ => None,
        }
    }

    /// Where bytes begin that the object had before it was cut, and that nothing covers.
    fn gap_from(&self, object: &Object) -> Option<u64> {
        let state = object.opened().state();
        let part = self.parts.get(&state.id()).filter(|_| !state.is_pending())?;
        part.cut.map(|_| part.end)
    }

    /// Counts patches of the bytes `range`. Errors: `TooLarge`, and nothing is counted.
    fn charge(&mut self, object: &Object, range: Range<u64>) -> Result<()> {
        let state = object.opened().state();
        let known = self.parts.get(&state.id());
        let blocks = range.start / BLOCK..range.end.div_ceil(BLOCK).max(range.start / BLOCK);
        let count = blocks.end - blocks.start;
        if count > self.blocks_max() {
            return Err(self.too_many());
        }
        let is_fresh = |b: &u64| known.is_none_or(|part| !part.patches.contains_key(b));
        let fresh = blocks.filter(is_fresh).count() as u64;
        let object = u64::from(known.is_none());
        let bytes = match state.is_pending() {
            true => fresh * FRESH_COST,
            // One more: a write behind a gap of zeroes begins within a block.
            false => range.end - range.start + (count + 1) * PATCH_COST + fresh * BLOCK_COST,
        };
        self.count(bytes + object * OBJECT_COST, fresh, object)
    }

    fn too_many(&self) -> Error {
        let most = self.blocks_max();
        let why = format!("the transaction holds more than the {most} blocks that memory takes");
        Error::new(ErrorKind::TooLarge, why)
    }

    /// Errors: `TooLarge`, and nothing is counted.
    fn count(&mut self, log_bytes: u64, blocks: u64, objects: u64) -> Result<()> {
        let most = self.log_bytes_max();
        if self.log_bytes + log_bytes > most {
            let why =
                format!("the transaction needs more than the {most} bytes that the log takes");
            return Err(Error::new(ErrorKind::TooLarge, why));
        }
        let objects = self.parts.len() + objects as usize;
        if part::images((self.blocks + blocks) as usize, objects) as u64 > self.blocks_max() {
            return Err(self.too_many());
        }
        (self.log_bytes, self.blocks) = (self.log_bytes + log_bytes, self.blocks + blocks);
        Ok(())
    }

    /// The size that the object would have if the transaction committed now.
    pub fn size(&self, object: &Object) -> u64 {
        let part = self.parts.get(&object.opened().state().id());
        part.map_or(object.size(), |part| part.size_after(object.size()))
    }

    /// Reads through the transaction's own changes; short only at the end of the object.
    ///
    /// Errors: as [`Object::read_at`].
    pub async fn read_at(&self, object: &Object, offset: u64, dst: &mut [u8]) -> Result<usize> {
        let range = checked_range(offset, dst.len())?;
        let state = object.opened().state();
        let part = self.parts.get(&state.id());
        let read = match state.is_pending() {
            true => 0,
            false => object.read_at(offset, dst).await?,
        };
        let Some(part) = part else { return Ok(read) };
        let end = part.size_after(object.size()).min(range.end);
        let len = (end.saturating_sub(offset)) as usize;
        let kept = part.cut.map_or(read, |cut| read.min(cut.saturating_sub(offset) as usize));
        dst[kept.min(len)..len].fill(0);
        for (&block, patches) in
            part.patches.range(offset / BLOCK..end.div_ceil(BLOCK).max(offset / BLOCK))
        {
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
        part::images(self.blocks as usize, self.parts.len()) as u64
    }

    /// The most that [`Transaction::blocks`] may be: an eighth of the memory.
    pub fn blocks_max(&self) -> u64 {
        Wing::images_max(&self.engine.volume.table.wing().memory) as u64
    }

    /// As [`Transaction::commit_with`], with [`Durability::Buffered`].
    pub async fn commit(self) -> Result<Commit> {
        self.commit_with(Durability::Buffered).await
    }

    /// Makes the changes visible, in the order of commits; the handle waits for durability.
    ///
    /// Other readers see the new bytes, sizes and names as soon as the transaction is accepted, before it is
    /// durable. A read of an object sees what the commit does to it entirely or not at all; several objects,
    /// and names, change one after the other. Whoever acts on what it read, and must not act on what a crash takes back, waits for a commit of its own or a sync.
    /// A transaction whose blocks are not stored as they are, and that are too many to be logged whole, has
    /// them written back first. Removed objects have given their space back on return.
    ///
    /// Errors: `AlreadyExists`, `NotFound` (names), `NoSpace`, `OutOfMemory`, `TimedOut`, `Closed` (also for an object that
    /// was removed), `WritesStopped`, `Corrupt`, `Device`: nothing happened. With [`Durability::Durable`] also `WritesStopped`
    /// when the journal failed behind the acceptance: the transaction may or may not survive.
    /// Dropping the future: either nothing happened, or the commit happens whole.
    pub async fn commit_with(self, durability: Durability) -> Result<Commit> {
        let engine = self.engine.clone();
        let lsn = self.accept().await?;
        if durability == Durability::Durable {
            engine.volume.table.ground().meta.durable(lsn).await?;
        }
        Ok(Commit { engine, lsn })
    }

    async fn accept(self) -> Result<Lsn> {
        let Self { engine, parts, steps, made, .. } = self;
        let volume = engine.volume.clone();
        let entered = volume.enter()?;
        if parts.is_empty() && steps.is_empty() {
            return Ok(volume.table.ground().meta.durable_now());
        }
        let part = |p: Part| LoggedPart::new(p.object, p.patches, p.end, p.cut.is_some());
        let parts: Vec<LoggedPart> = parts.into_values().map(part).collect();
        // What is finished behind the commit must be finished, whoever waits.
        let goes_on = parts.iter().any(|part| part.exact)
            || steps.iter().any(|step| matches!(step, Step::Remove { .. }));
        let flusher = volume.flusher.clone();
        let mut work = Work { volume, parts, steps, _made: made, _entered: entered };
        if goes_on {
            return flusher.run_to_end(async move { work.drive().await }).await;
        }
        match work.try_as_found().await {
            Err(cause) if cause.kind() == ErrorKind::TooLarge => {
                flusher.run_to_end(async move { work.over_stored().await }).await
            }
            outcome => outcome,
        }
    }
}

/// The attributes that a step gives to `object`, if it does.
fn attributes_of<'a>(step: &'a mut Step, object: &Object) -> Option<&'a mut Vec<u8>> {
    match step {
        Step::Attributes { object: known, attributes } if Arc::ptr_eq(known, object.opened()) => {
            Some(attributes)
        }
        _ => None,
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
