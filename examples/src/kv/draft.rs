//! The pages of one batch of changes, before they become one transaction, and what the batch does to
//! large values: which the tree comes to know, which it lets go of, and which bytes of them change.
//!
//! Guarantees that the committed pages stay as they are until the commit, that dropping a draft
//! forgets all of it, and that only changed byte ranges reach the log. It holds the pages that its
//! batch touches and nothing longer than the batch: the cache is the engine's. It keeps the old image
//! of each changed page, for readers that still need it (see `view`).
//!
//! Does not know what a tree is, nor who else writes: there is one draft at a time. Called by
//! `tree`, `balance`, `space`, `runs` (as its user) and `writer` (as its owner).

use std::collections::HashMap;
use std::collections::hash_map;
use std::sync::Arc;

use bytes::Bytes;
use foliant::Engine;
use foliant::Object;
use foliant::Transaction;

use crate::kv::error::Result;
use crate::kv::error::damaged;
use crate::kv::ground::Ground;
use crate::kv::image::Image;
use crate::kv::limits::PAGE_BYTES;
use crate::kv::meta::Meta;
use crate::kv::node::NodeMut;
use crate::kv::page::LargeRef;
use crate::kv::page::Node;
use crate::kv::page::is_inner;
use crate::kv::pinned::Pinned;
use crate::kv::pinned::overlay;
use crate::kv::shelf::Shelf;
use crate::kv::shelf::Staged;
use crate::kv::units::LargeId;
use crate::kv::units::Page;
use crate::kv::units::PageNo;
use crate::kv::view::Old;
use crate::kv::view::Undo;

/// Log bytes that the first change of a page costs besides its content (the engine's estimate).
const PAGE_COST: u64 = 576;
/// Log bytes that one more changed range costs besides its content.
const RANGE_COST: u64 = 64;
/// Changed ranges closer than this are logged as one: a range costs as much as the gap.
const GAP_BYTES_MAX: usize = 64;
/// Piece of a page that is compared at once, before its words are.
const SAME_BYTES: usize = 256;
/// Log bytes that a change of a name costs (the engine's estimate: leaves that are split).
const NAME_COST: u64 = 3 * PAGE_BYTES as u64;
/// Log bytes that the first change of an object costs.
const OBJECT_COST: u64 = 512;

/// Changes in the making.
pub struct Draft<'a> {
    ground: &'a Ground,
    committed: Meta,
    /// The state of the tree after the changes so far.
    pub meta: Meta,
    /// By number; only pages that this batch touched.
    pages: HashMap<PageNo, Entry>,
    dirty: usize,
    log_bytes: u64,
    larges: Larges,
}

/// What becomes of large values.
#[derive(Default)]
struct Larges {
    /// Those that the batch looked into.
    objects: HashMap<LargeId, Object>,
    /// Those that the tree comes to know.
    kept: Vec<Arc<Staged>>,
    /// Those that it lets go of.
    buried: Vec<LargeId>,
    /// Bytes that change, and what they replace; in order.
    patches: Vec<Patch>,
    replaced: Vec<Old>,
    /// Those that were pinned.
    pinned: Vec<LargeId>,
}

struct Patch {
    id: LargeId,
    at: usize,
    bytes: Bytes,
}

/// A draft as a transaction.
pub struct Finished {
    /// Itself.
    pub transaction: Transaction,
    /// What it changes, as it was.
    pub undo: Undo,
    /// Every page that it changes; inner ones as they are then.
    pub changed: Vec<(PageNo, Option<Image>)>,
    /// The large values that the tree comes to know.
    pub kept: Vec<Arc<Staged>>,
    /// Those that it lets go of.
    pub buried: Vec<LargeId>,
    /// Those that were pinned while it was planned.
    pub pinned: Vec<LargeId>,
}

struct Entry {
    /// The committed image. None for a page that no committed state knows.
    before: Option<Image>,
    /// The image after the changes so far, if there are any.
    after: Option<Image>,
    /// It was freed by this batch; its content means nothing until it is claimed again.
    free: bool,
}

impl<'a> Draft<'a> {
    /// No changes yet, on top of the state `committed`.
    pub fn new(ground: &'a Ground, committed: Meta) -> Self {
        let pages = HashMap::with_capacity(64);
        let (meta, larges) = (committed, Larges::default());
        Self { ground, committed, meta, pages, dirty: 0, log_bytes: 0, larges }
    }

    /// Whether a commit would change anything.
    pub fn is_clean(&self) -> bool {
        self.dirty == 0 && self.meta == self.committed && self.larges.patches.is_empty()
    }

    /// Where large values are.
    pub fn shelf(&self) -> &'a Arc<Shelf> {
        &self.ground.shelf
    }

    /// The tree comes to know a large value.
    pub fn keep(&mut self, staged: Arc<Staged>) {
        let id = staged.refer().id;
        self.log_bytes += NAME_COST;
        self.meta.large_next = self.meta.large_next.max(id + 1);
        self.larges.objects.insert(id, staged.object().clone());
        self.larges.kept.push(staged);
    }

    /// The tree lets go of a large value.
    pub fn bury(&mut self, large: LargeRef) {
        self.log_bytes += NAME_COST;
        self.larges.buried.push(large.id);
    }

    /// The object of a large value that the tree refers to.
    pub async fn object(&mut self, id: LargeId) -> Result<Object> {
        if let Some(object) = self.larges.objects.get(&id) {
            return Ok(object.clone());
        }
        let object = self.shelf().open(self.committed.epoch, id).await?;
        self.larges.objects.insert(id, object.clone());
        Ok(object)
    }

    /// A large value as it is after the changes so far, to be read when they are committed.
    pub async fn pin(&mut self, large: LargeRef) -> Result<Pinned> {
        let object = self.object(large.id).await?;
        self.larges.pinned.push(large.id);
        Ok(self.shelf().pin_planned(object, large, self.larges.replaced.len()))
    }

    /// Reads a large value as it is after the changes so far; zeroes behind its end.
    pub async fn read_large(&mut self, id: LargeId, at: usize, bytes: &mut [u8]) -> Result<()> {
        let object = self.object(id).await?;
        let read = object.read_at(at as u64, bytes).await?;
        bytes[read..].fill(0);
        for patch in self.larges.patches.iter().filter(|patch| patch.id == id) {
            overlay(bytes, at, patch.at, &patch.bytes);
        }
        Ok(())
    }

    /// Changes bytes of a large value, through the log.
    pub async fn patch(&mut self, large: LargeRef, at: usize, bytes: Bytes) -> Result<()> {
        let end = (at + bytes.len()).min(large.bytes as usize);
        if at < end {
            let mut old = vec![0; end - at];
            self.read_large(large.id, at, &mut old).await?;
            self.larges.replaced.push(Old { id: large.id, at, bytes: old.into() });
        }
        let pages = bytes.len() / PAGE_BYTES + 2;
        self.dirty += pages;
        self.log_bytes += bytes.len() as u64 + pages as u64 * 2 * RANGE_COST + OBJECT_COST;
        self.object(large.id).await?;
        self.larges.patches.push(Patch { id: large.id, at, bytes });
        Ok(())
    }

    /// Pages changed so far.
    pub fn dirty_pages(&self) -> usize {
        self.dirty + 1
    }

    /// Bytes of log that the commit takes at most.
    pub fn log_bytes(&self) -> u64 {
        self.log_bytes + PAGE_COST + PAGE_BYTES as u64
    }

    /// Makes sure that the page is here.
    pub async fn load(&mut self, no: PageNo) -> Result<()> {
        if no == 0 || no >= self.meta.pages {
            return damaged(no, "a link leads to it, and it is outside of the tree");
        }
        if self.pages.contains_key(&no) {
            return Ok(());
        }
        let mut page = Image::to_fill();
        let offset = u64::from(no) * PAGE_BYTES as u64;
        if self.ground.object.read_at(offset, &mut page.sole()[..]).await? != PAGE_BYTES {
            return damaged(no, "the object ends before it");
        }
        self.pages.insert(no, Entry { before: Some(page), after: None, free: false });
        Ok(())
    }

    /// The same for an inner node, which may be kept in memory. No commit is on its way while a draft is made.
    pub async fn load_inner(&mut self, no: PageNo) -> Result<()> {
        let uppers = &self.ground.uppers;
        let hash_map::Entry::Vacant(place) = self.pages.entry(no) else { return Ok(()) };
        if no < self.meta.pages
            && let Some(page) = uppers.get(no)
        {
            place.insert(Entry { before: Some(page), after: None, free: false });
            return Ok(());
        }
        let stamp = uppers.stamp();
        self.load(no).await?;
        if let Some(Entry { before: Some(page), after: None, .. }) = self.pages.get(&no)
            && is_inner(no, page)
        {
            uppers.keep(stamp, no, page);
        }
        Ok(())
    }

    /// The page as it is after the changes so far. It was loaded.
    pub fn page(&self, no: PageNo) -> &Page {
        let entry = self.pages.get(&no).expect("the page was loaded");
        match (&entry.after, &entry.before) {
            (Some(after), _) => after,
            (None, Some(before)) => before,
            (None, None) => unreachable!("a fresh page is born changed"),
        }
    }

    /// The page, to change about `bytes` bytes of it. It was loaded.
    pub fn edit(&mut self, no: PageNo, bytes: usize) -> &mut Page {
        let entry = self.pages.get_mut(&no).expect("the page was loaded");
        if entry.before.is_some() {
            self.log_bytes += bytes as u64 + 2 * RANGE_COST;
        }
        if entry.after.is_none() {
            self.log_bytes += PAGE_COST;
            self.dirty += 1;
        }
        let before = &entry.before;
        let after = entry.after.get_or_insert_with(|| match before {
            Some(before) => before.copied(),
            None => Image::blank(),
        });
        after.sole()
    }

    /// The node as it is now.
    pub fn node(&self, no: PageNo) -> Result<Node<'_>> {
        Node::open(no, self.page(no))
    }

    /// The node, to change about `bytes` bytes of it.
    pub fn node_mut(&mut self, no: PageNo, bytes: usize) -> Result<NodeMut<'_>> {
        NodeMut::open(no, self.edit(no, bytes))
    }

    /// Puts a page in place that no committed state knows; it is logged whole.
    pub fn add_fresh(&mut self, no: PageNo) {
        assert!(no >= self.committed.pages, "page {no} is known to readers");
        self.dirty += 1;
        self.log_bytes += PAGE_COST + PAGE_BYTES as u64;
        let entry = Entry { before: None, after: Some(Image::blank()), free: false };
        let old = self.pages.insert(no, entry);
        assert!(old.is_none(), "page {no} is fresh twice");
    }

    /// The page is free from now on: what was changed in it need not be logged.
    pub fn release(&mut self, no: PageNo) {
        let Some(entry) = self.pages.get_mut(&no) else { return };
        entry.free = true;
        if entry.before.is_some() && entry.after.take().is_some() {
            self.dirty -= 1;
        }
    }

    /// A free page is used again. It was loaded.
    pub fn claim(&mut self, no: PageNo) {
        self.pages.get_mut(&no).expect("the page was loaded").free = false;
    }

    /// Whether this draft changes the page and did not free it.
    pub fn is_in_use(&self, no: PageNo) -> bool {
        self.pages.get(&no).is_some_and(|entry| entry.after.is_some() && !entry.free)
    }

    /// Everything as one transaction.
    ///
    /// Errors: `TooLarge` of the engine.
    pub fn into_transaction(self, engine: &Engine) -> Result<Finished> {
        let mut transaction = engine.transaction();
        let (object, mut undo) = (&self.ground.object, Undo::default());
        let mut changed = Vec::with_capacity(self.pages.len());
        let (old, new) = (self.committed.encode(), self.meta.encode());
        for (from, to) in changed_ranges(&old, &new) {
            transaction.write_at(object, from as u64, &new[from..to])?;
        }
        for (no, entry) in self.pages {
            let Some(after) = entry.after else { continue };
            let is_inner = !entry.free && is_inner(no, &after);
            let base = u64::from(no) * PAGE_BYTES as u64;
            let Some(before) = entry.before else {
                transaction.write_at(object, base, &after[..])?;
                changed.push((no, is_inner.then_some(after)));
                continue;
            };
            for (from, to) in changed_ranges(&before[..], &after[..]) {
                transaction.write_at(object, base + from as u64, &after[from..to])?;
            }
            undo.pages.insert(no, before);
            changed.push((no, is_inner.then_some(after)));
        }
        let Larges { objects, kept, buried, patches, replaced, pinned } = self.larges;
        for Patch { id, at, bytes } in patches {
            transaction.write_at(&objects[&id], at as u64, &bytes)?;
        }
        let (shelf, epoch) = (&self.ground.shelf, self.committed.epoch);
        for id in kept.iter().map(|staged| staged.refer().id) {
            transaction.rename(shelf.name_new(id), shelf.name_live(epoch, id))?;
        }
        for &id in &buried {
            transaction.rename(shelf.name_live(epoch, id), shelf.name_old(id))?;
        }
        undo.larges = replaced;
        Ok(Finished { transaction, undo, changed, kept, buried, pinned })
    }
}

/// Where `new` differs from `old`, in ranges that are at least `GAP_BYTES_MAX` apart.
fn changed_ranges(old: &[u8], new: &[u8]) -> Vec<(usize, usize)> {
    assert_eq!(old.len(), new.len(), "two images of one page");
    let mut ranges: Vec<(usize, usize)> = Vec::new();
    for at in (0..old.len()).step_by(SAME_BYTES) {
        let end = old.len().min(at + SAME_BYTES);
        // Most of a page is as it was: found out fast.
        if old[at..end] == new[at..end] {
            continue;
        }
        let words = old[at..end].chunks(8).zip(new[at..end].chunks(8)).enumerate();
        for (word, _) in words.filter(|(_, (a, b))| a != b) {
            let (from, to) = (at + word * 8, end.min(at + word * 8 + 8));
            match ranges.last_mut() {
                Some(last) if from - last.1 < GAP_BYTES_MAX => last.1 = to,
                _ => ranges.push((from, to)),
            }
        }
    }
    for (from, to) in &mut ranges {
        *from += (*from..*to).take_while(|&at| old[at] == new[at]).count();
        *to -= (*from..*to).rev().take_while(|&at| old[at] == new[at]).count();
    }
    ranges
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_changed_bytes_are_named_and_near_ones_together() {
        let old = [7_u8; 4096];
        let mut new = old;
        assert_eq!(changed_ranges(&old, &new), []);
        new[3] = 1;
        new[60] = 1;
        new[1000] = 1;
        new[4095] = 1;
        assert_eq!(changed_ranges(&old, &new), [(3, 61), (1000, 1001), (4095, 4096)]);
    }
}
