//! The mapping cache: all folios of one object, found by block.
//!
//! Guarantees: at most one folio per block; a folio returned locked is attached and has memory;
//! ranges are walked in ascending order; when the last handle goes, everything goes back (what
//! others still hold goes with them).
//!
//! Does no I/O, does not map blocks to the device, evicts nothing by itself. Called by iomap,
//! object and the flusher.

use std::ops::Range;
use std::sync::Arc;

use foliant_device::Buffer;
use foliant_device::Segment;

use super::dirty::DirtyLimits;
use super::folio::Folio;
use super::folio::FolioIndex;
use super::folio::Owner;
use super::folio::Residents;
use super::index::Tag;
use super::lock::FolioLock;
use crate::error::Result;
use crate::kit::memory::Memory;
use crate::kit::memory::Purpose;
use crate::kit::sync::Notify;
use crate::kit::sync::RwLock;
use crate::kit::sync::atomic::AtomicU64;
use crate::kit::sync::atomic::Ordering;
use crate::units::FileBlocks;
use crate::units::ObjectId;

/// The folios of one object; clones are the same cache.
#[derive(Clone)]
pub struct MappingCache {
    owner: Arc<Owner>,
    /// Counts handles; empties the index with the last one.
    _life: Arc<Life>,
}

struct Life(Arc<Owner>);

impl Drop for Life {
    fn drop(&mut self) {
        let index = std::mem::take(&mut *self.0.index.write());
        let mut from = 0;
        while let Some((at, folio)) = index.map.next(from) {
            folio.detached.store(true, Ordering::Release);
            from = at + 1;
        }
    }
}

impl FolioIndex {
    /// The folio that holds `block`: the last one that starts at or before it, if it reaches there.
    fn covering(&self, block: u64) -> Option<&Arc<Folio>> {
        self.map.floor(block).filter(|folio| folio.span().end > block)
    }

    /// The first folio that ends behind `block`.
    fn at_or_after(&self, block: u64) -> Option<&Arc<Folio>> {
        match self.covering(block) {
            Some(folio) => Some(folio),
            None => self.map.next(block).map(|(_, folio)| folio),
        }
    }

    /// The first folio that ends behind `block` and may have `tag` (any, if `None`).
    fn tagged_at_or_after(&self, block: u64, tag: Option<Tag>) -> Option<&Arc<Folio>> {
        // A large folio that covers `block` has its tag at an earlier key.
        match self.covering(block).filter(|f| f.index() < block) {
            Some(folio) => Some(folio),
            None => match tag {
                Some(tag) => self.map.next_tagged(block, tag),
                None => self.map.next_with_any_tag(block),
            }
            .map(|(_, folio)| folio),
        }
    }
}

impl MappingCache {
    /// An empty cache. `residents` hears of every folio made and gone.
    pub fn new(object: ObjectId, limits: DirtyLimits, residents: Arc<dyn Residents>) -> Self {
        let owner = Arc::new(Owner {
            object,
            index: RwLock::new(FolioIndex::default()),
            limits,
            residents,
            dirty: AtomicU64::new(0),
            writeback: AtomicU64::new(0),
            writeback_ended: Notify::new(),
        });
        Self { _life: Arc::new(Life(owner.clone())), owner }
    }

    /// Whose folios these are.
    pub fn object(&self) -> ObjectId {
        self.owner.object
    }

    /// The folio that holds `block`, if there is one. Never waits, allocates nothing.
    pub fn find(&self, block: u64) -> Option<Arc<Folio>> {
        self.owner.index.read().covering(block).cloned()
    }

    /// Copies the bytes from `offset` (of the object) on, if one folio holds them all up to date.
    /// The shortest way for a hit: no reference is counted, nothing waits.
    pub fn read_hit(&self, offset: u64, dst: &mut [u8]) -> bool {
        let index = self.owner.index.read();
        let Some(folio) = index.covering(offset / crate::units::BLOCK) else {
            return false;
        };
        let bytes = folio.span().bytes();
        if offset + dst.len() as u64 > bytes.end {
            return false;
        }
        folio.read_at((offset - bytes.start) as usize, dst)
    }

    /// The bytes `range` (of the object) without a copy, if one folio holds them all up to date; as
    /// [`MappingCache::read_hit`].
    pub fn share_hit(&self, range: &Range<u64>) -> Option<Segment> {
        self.share_up_to(u8::MAX, range)
    }

    /// As [`MappingCache::share_hit`], but only of a folio of one block.
    pub fn share_block(&self, range: &Range<u64>) -> Option<Segment> {
        self.share_up_to(0, range)
    }

    fn share_up_to(&self, order: u8, range: &Range<u64>) -> Option<Segment> {
        let index = self.owner.index.read();
        let folio = index.covering(range.start / crate::units::BLOCK)?;
        let bytes = folio.span().bytes();
        if folio.order() > order || range.end > bytes.end {
            return None;
        }
        folio.share((range.start - bytes.start) as usize..(range.end - bytes.start) as usize)
    }

    /// As [`MappingCache::share_hit`], but of the start of the range what the first folio holds of it.
    pub fn share_some(&self, range: &Range<u64>) -> Option<Segment> {
        let index = self.owner.index.read();
        let folio = index.covering(range.start / crate::units::BLOCK)?;
        let bytes = folio.span().bytes();
        let end = range.end.min(bytes.end);
        folio.share((range.start - bytes.start) as usize..(end - bytes.start) as usize)
    }

    /// The folio of `block`, locked, if there is one.
    pub async fn find_locked(&self, block: u64) -> Option<FolioLock> {
        loop {
            let lock = self.find(block)?.lock().await;
            if !lock.is_detached() {
                return Some(lock);
            }
        }
    }

    /// The folio of `block`, locked; made if there is none, and then `true`. A new one has
    /// 2^order blocks (its first block rounded down), or fewer when other folios are in the way or
    /// memory is in small pieces; an existing one has the order it has. The folio has memory; nothing in a new one is up
    /// to date.
    ///
    /// Errors: `OutOfMemory`. Dropping the future leaves at most an empty, unlocked folio.
    pub async fn find_or_create(
        &self,
        block: u64,
        order: u8,
        memory: &Memory,
    ) -> Result<(FolioLock, bool)> {
        loop {
            if let Some(lock) = self.find_locked(block).await {
                if !lock.needs_memory() {
                    return Ok((lock, false));
                }
                // Its memory was lost with a dropped read. Nothing of it is worth waiting for a large piece.
                let order = lock.folio().order();
                match memory.try_at_once(order, Purpose::Data) {
                    Some(buffer) => lock.give_back(buffer),
                    None if order == 0 => {
                        lock.give_back(memory.allocate(0, Purpose::Data).await?);
                    }
                    None => {
                        assert_eq!(lock.detach(), 0, "a folio without memory was dirty");
                        continue;
                    }
                }
                return Ok((lock, false));
            }
            let order = self.largest_free(block, order);
            let buffer = match memory.try_largest(order, Purpose::Data) {
                Some(buffer) => buffer,
                None => memory.allocate(0, Purpose::Data).await?,
            };
            if let Ok(lock) = self.insert(block, buffer) {
                return Ok((lock, true));
            }
        }
    }

    /// Makes a folio around `block` of `memory`'s order and returns it locked. Fails, giving the
    /// memory back, when another folio lies there. For callers who gathered memory beforehand.
    pub fn insert(&self, block: u64, memory: Buffer) -> std::result::Result<FolioLock, Buffer> {
        let order = memory.order();
        let head = block & (u64::MAX << order);
        let mut index = self.owner.index.write();
        if !is_free(&index, head, order) {
            return Err(memory);
        }
        let folio = Arc::new(Folio::new_locked(self.owner.clone(), head, memory));
        index.map.insert(head, folio.clone());
        drop(index);
        self.owner.residents.added(&folio);
        Ok(FolioLock::held(folio))
    }

    /// The largest order up to `order` whose folio around `block` no other one is in the way of.
    fn largest_free(&self, block: u64, order: u8) -> u8 {
        let index = self.owner.index.read();
        let fits = |&order: &u8| is_free(&index, block & (u64::MAX << order), order);
        (1..=order).rev().find(fits).unwrap_or(0)
    }

    /// The folios that touch `range`, ascending, at most `limit`.
    pub fn folios(&self, range: FileBlocks, limit: usize) -> Vec<Arc<Folio>> {
        let index = self.owner.index.read();
        let next = |from| index.at_or_after(from);
        collect(range, limit, next)
    }

    /// The folios that touch `range` and have dirty blocks (or had a moment ago), ascending, at
    /// most `limit`.
    pub fn dirty_folios(&self, range: FileBlocks, limit: usize) -> Vec<Arc<Folio>> {
        let index = self.owner.index.read();
        let next = |from| index.tagged_at_or_after(from, Some(Tag::Dirty));
        collect(range, limit, next)
    }

    /// The first block of `range` that is dirty or under writeback.
    pub fn first_unsettled(&self, range: FileBlocks) -> Option<u64> {
        first_unsettled(&self.owner.index.read(), range)
    }

    /// The first run of blocks of `range` that are dirty or under writeback, cut after `blocks_max`.
    pub fn unsettled_run(&self, range: FileBlocks, blocks_max: u64) -> Option<FileBlocks> {
        let index = self.owner.index.read();
        let start = first_unsettled(&index, range)?;
        let limit = range.end.min(start + blocks_max);
        // The first one counts, also when its writeback ended a moment ago.
        let mut end = start + 1;
        while end < limit
            && let Some(folio) = index.covering(end)
        {
            let settled = folio.first_settled(end);
            end = settled.min(limit);
            if settled < folio.span().end {
                break;
            }
        }
        Some(FileBlocks::new(start, end))
    }

    /// Drops the folios of `range`, after their writeback ended (one that lies partly inside forgets that
    /// part). `spare` hears how many dirty blocks went, folio by folio, so that no promise is lost when
    /// the future fails or is dropped. The caller holds the range exclusively until the mapping is gone.
    ///
    /// Errors: `TimedOut` for writeback.
    pub async fn drop_range_into(
        &self,
        range: FileBlocks,
        mut spare: impl FnMut(u64),
    ) -> Result<()> {
        let mut from = range.start;
        while from < range.end {
            let next = self.folios(FileBlocks::new(from, range.end), 1).pop();
            let Some(folio) = next else { break };
            let lock = folio.lock().await;
            if lock.is_detached() {
                continue;
            }
            let span = folio.span();
            let inside = span.intersect(range);
            let first = (inside.start - span.start) as usize;
            let part = first..first + inside.len() as usize;
            folio.wait_writeback(part.clone()).await?;
            let dropped = if inside == span { lock.detach() } else { lock.forget(part) };
            spare(dropped);
            from = span.end;
        }
        Ok(())
    }

    /// Dirty blocks of this object.
    pub fn dirty_blocks(&self) -> u64 {
        self.owner.dirty.load(Ordering::SeqCst)
    }

    /// Blocks of this object under writeback.
    pub fn writeback_blocks(&self) -> u64 {
        self.owner.writeback.load(Ordering::SeqCst)
    }
}

fn first_unsettled(index: &FolioIndex, range: FileBlocks) -> Option<u64> {
    let mut from = range.start;
    while from < range.end {
        let folio = index.tagged_at_or_after(from, None)?;
        if let Some(block) = folio.first_unsettled(from) {
            return (block < range.end).then_some(block);
        }
        from = folio.span().end;
    }
    None
}

fn is_free(index: &FolioIndex, head: u64, order: u8) -> bool {
    match index.at_or_after(head) {
        Some(folio) => folio.index() >= head + (1 << order),
        None => true,
    }
}

fn collect<'a>(
    range: FileBlocks,
    limit: usize,
    next: impl Fn(u64) -> Option<&'a Arc<Folio>>,
) -> Vec<Arc<Folio>> {
    let mut found = Vec::new();
    let mut from = range.start;
    while found.len() < limit && from < range.end {
        let Some(folio) = next(from).filter(|f| f.index() < range.end) else {
            break;
        };
        found.push(folio.clone());
        from = folio.span().end;
    }
    found
}
