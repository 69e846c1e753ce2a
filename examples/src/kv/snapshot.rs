//! Reading one committed state of the tree.
//!
//! Guarantees that all pages of a snapshot belong to the same commit. A read whose pages are in the
//! engine's cache completes on its first poll. Keeps inner pages (`upper`) and no others. Does not retry when
//! the view expires (`store` does). Called by `store` and `cursor`.

use std::sync::Arc;

use bytes::Bytes;
use bytes::BytesMut;

use crate::kv::error::Result;
use crate::kv::error::damaged;
use crate::kv::ground::Ground;
use crate::kv::image::Image;
use crate::kv::limits::PAGE_BYTES;
use crate::kv::op::Entry;
use crate::kv::page::HEADER;
use crate::kv::page::LargeRef;
use crate::kv::page::Node;
use crate::kv::page::RunRef;
use crate::kv::page::Stored;
use crate::kv::runs;
use crate::kv::units::Millis;
use crate::kv::units::Page;
use crate::kv::units::PageNo;
use crate::kv::value::Value;
use crate::kv::view::View;

/// The tree as of one commit.
#[derive(Debug, Clone)]
pub struct Snapshot<'a> {
    ground: &'a Ground,
    view: Arc<View>,
}

impl<'a> Snapshot<'a> {
    /// Reads `ground` as of `view`.
    pub fn new(ground: &'a Ground, view: Arc<View>) -> Self {
        Self { ground, view }
    }

    /// Levels of the tree.
    pub fn height(&self) -> u8 {
        self.view.meta().height
    }

    /// Pages that exist.
    pub fn pages(&self) -> u32 {
        self.view.meta().pages
    }

    /// The root's page.
    pub fn root(&self) -> PageNo {
        self.view.meta().root
    }

    /// A node of the tree at `level`, 0 being the leaves.
    pub async fn node(&self, no: PageNo, level: u8) -> Result<Image> {
        let uppers = &self.ground.uppers;
        self.check(no, 1)?;
        if level > 0
            && let Some(kept) = uppers.get(no)
        {
            return at_level(no, level, self.view.before(no)?.unwrap_or(kept));
        }
        let stamp = (level > 0).then(|| uppers.stamp());
        let mut page = Image::to_fill();
        self.fill(no, &mut page.sole()[..]).await?;
        if let Some(before) = self.view.before(no)? {
            return at_level(no, level, before);
        }
        let page = at_level(no, level, page)?;
        if let Some(stamp) = stamp {
            uppers.keep(stamp, no, &page);
        }
        Ok(page)
    }

    /// Errors: the pages are none of the tree's.
    fn check(&self, first: PageNo, count: u32) -> Result<()> {
        let end = first.checked_add(count);
        if first == 0 || end.is_none_or(|end| end > self.view.meta().pages) {
            return damaged(first, "a link leads to it, and it is outside of the tree");
        }
        Ok(())
    }

    /// Reads pages as the object has them now.
    async fn fill(&self, first: PageNo, bytes: &mut [u8]) -> Result<()> {
        let offset = u64::from(first) * PAGE_BYTES as u64;
        match self.ground.object.read_at(offset, bytes).await? < bytes.len() {
            // In a state that has gone on, the object may have become shorter: who asks hears that first.
            true => {
                self.view.before(first).and_then(|_| damaged(first, "the object ends before it"))
            }
            false => Ok(()),
        }
    }

    async fn read_run(&self, first: PageNo, bytes: &mut [u8]) -> Result<()> {
        self.check(first, (bytes.len() / PAGE_BYTES) as u32)?;
        self.fill(first, bytes).await?;
        for (no, page) in (first..).zip(bytes.chunks_exact_mut(PAGE_BYTES)) {
            if let Some(before) = self.view.before(no)? {
                page.copy_from_slice(&before[..]);
            }
        }
        Ok(())
    }

    /// What a key stands for, ended or not; without its value (empty) if that is not wanted.
    pub async fn get(&self, key: &[u8], wants_value: bool) -> Result<Option<Entry>> {
        let found = match self.glance(key, wants_value) {
            Some(found) => found,
            None => {
                let (no, page) = self.leaf(key).await?;
                find(no, &page, key, wants_value)?
            }
        };
        let Some(Found { place, expires }) = found else { return Ok(None) };
        let value = match place {
            Place::Here(value) => value,
            Place::Run(run) => self.value(Stored::Overflow(run)).await?,
            Place::Large(large) => self.value(Stored::Large(large)).await?,
        };
        Ok(Some(Entry { value, expires }))
    }

    /// The same without waiting, and with no copy of a page: what most reads find. None if not all of the way
    /// lies in memory, if a commit came by, or if something is wrong with it, which the other way finds out.
    fn glance(&self, key: &[u8], wants_value: bool) -> Option<Option<Found>> {
        let no = self.kept_way(key)?;
        let start = u64::from(no) * PAGE_BYTES as u64;
        let look = |page: &[u8]| find(no, page.first_chunk()?, key, wants_value).ok();
        let found = self.ground.object.peek(start..start + PAGE_BYTES as u64, look).ok()???;
        // Asked last: so the way and the leaf are those of this view.
        self.view.is_untouched().then_some(found)
    }

    /// The leaf where `key` belongs, if all inner pages above it are kept.
    fn kept_way(&self, key: &[u8]) -> Option<PageNo> {
        let kept = self.ground.uppers.look();
        let mut no = self.root();
        for _ in 1..self.height() {
            no = kept.child(no, key)?;
        }
        self.check(no, 1).ok().map(|()| no)
    }

    /// A key somewhere: `dice` chooses a child on each level and a key of the leaf. None in an empty
    /// tree. Keys of emptier nodes come more often.
    pub async fn any_key(&self, mut dice: impl FnMut() -> u64) -> Result<Option<Bytes>> {
        let mut no = self.root();
        for level in (0..self.height()).rev() {
            let page = self.node(no, level).await?;
            let node = Node::open(no, &page)?;
            if level > 0 {
                no = node.child((dice() % (node.len() as u64 + 1)) as usize)?;
                continue;
            }
            if node.is_empty() {
                return Ok(None);
            }
            let key = node.key((dice() % node.len() as u64) as usize)?;
            return Ok(Some(Bytes::copy_from_slice(key)));
        }
        Ok(None)
    }

    /// Brings the pages on the way to a key into the engine's cache.
    pub async fn warm(&self, key: &[u8]) -> Result<()> {
        self.leaf(key).await.map(|_| ())
    }

    /// The leaf where `key` belongs.
    async fn leaf(&self, key: &[u8]) -> Result<(PageNo, Image)> {
        let mut no = self.root();
        for level in (1..self.height()).rev() {
            let page = self.node(no, level).await?;
            let node = Node::open(no, &page)?;
            no = node.child(node.position(key)?)?;
        }
        Ok((no, self.node(no, 0).await?))
    }

    /// The value that a cell says; a large one may be read when the snapshot is gone.
    pub async fn value(&self, stored: Stored<'_>) -> Result<Value> {
        match stored {
            Stored::Inline(bytes) => Ok(Value::Bytes(Bytes::copy_from_slice(bytes))),
            Stored::Overflow(run) => Ok(Value::Bytes(self.overflow(run).await?)),
            // Boxed: the way to an object is long, and the future of every read would carry room for it.
            Stored::Large(large) => {
                Ok(Value::Large(Box::pin(self.ground.shelf.pin(&self.view, large)).await?))
            }
        }
    }

    async fn overflow(&self, first: RunRef) -> Result<Bytes> {
        let mut value = BytesMut::new();
        let (mut run, mut missing) = (first, first.bytes as usize);
        while missing > 0 {
            runs::check(run, missing, self.view.meta().pages)?;
            let mut bytes = vec![0; run.pages as usize * PAGE_BYTES];
            self.read_run(run.first, &mut bytes).await?;
            let Some(page) = bytes.first_chunk() else { break };
            let following = runs::next(run, page)?;
            let part = missing.min(runs::capacity(run.pages));
            value.extend_from_slice(&bytes[HEADER..HEADER + part]);
            missing -= part;
            run = following;
        }
        Ok(value.freeze())
    }
}

/// What a leaf says of a key.
struct Found {
    place: Place,
    expires: Option<Millis>,
}

/// Where the value is.
enum Place {
    /// In its cell, or not wanted.
    Here(Value),
    Run(RunRef),
    Large(LargeRef),
}

/// What the leaf `page` says of `key`.
fn find(no: PageNo, page: &Page, key: &[u8], wants_value: bool) -> Result<Option<Found>> {
    let node = Node::open(no, page)?;
    node.check_level(0)?;
    let Ok(index) = node.search(key)? else { return Ok(None) };
    let expires = node.expires(index)?;
    let place = match node.value(index)? {
        _ if !wants_value => Place::Here(Value::default()),
        Stored::Inline(bytes) => Place::Here(Value::Bytes(Bytes::copy_from_slice(bytes))),
        Stored::Overflow(run) => Place::Run(run),
        Stored::Large(large) => Place::Large(large),
    };
    Ok(Some(Found { place, expires }))
}

/// The page, if it is a node of that level.
fn at_level(no: PageNo, level: u8, page: Image) -> Result<Image> {
    Node::open(no, &page)?.check_level(level)?;
    Ok(page)
}
