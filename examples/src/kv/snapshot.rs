//! Reading one committed state of the tree.
//!
//! Guarantees that all pages of a snapshot belong to the same commit. A read whose pages are in the
//! engine's cache completes on its first poll. Does not retry when the view expires (`store` does)
//! and keeps no page. Called by `store` and `cursor`.

use std::sync::Arc;

use bytes::Bytes;
use bytes::BytesMut;
use foliant::Object;

use crate::kv::error::Result;
use crate::kv::error::damaged;
use crate::kv::limits::PAGE_BYTES;
use crate::kv::op::Entry;
use crate::kv::page::HEADER;
use crate::kv::page::Node;
use crate::kv::page::RunRef;
use crate::kv::page::Stored;
use crate::kv::page::blank;
use crate::kv::runs;
use crate::kv::shelf::Shelf;
use crate::kv::units::Page;
use crate::kv::units::PageNo;
use crate::kv::value::Value;
use crate::kv::view::View;

/// The tree as of one commit.
#[derive(Debug, Clone)]
pub struct Snapshot {
    object: Object,
    shelf: Arc<Shelf>,
    view: Arc<View>,
}

impl Snapshot {
    /// Reads `object`, and large values from `shelf`, as of `view`.
    pub fn new(object: Object, shelf: Arc<Shelf>, view: Arc<View>) -> Self {
        Self { object, shelf, view }
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

    /// Reads a page.
    pub async fn read(&self, no: PageNo, page: &mut Page) -> Result<()> {
        self.read_pages(no, &mut page[..]).await
    }

    async fn read_pages(&self, first: PageNo, bytes: &mut [u8]) -> Result<()> {
        let count = (bytes.len() / PAGE_BYTES) as u32;
        if first == 0 || first.checked_add(count).is_none_or(|end| end > self.view.meta().pages) {
            return damaged(first, "a link leads to it, and it is outside of the tree");
        }
        let read = self.object.read_at(u64::from(first) * PAGE_BYTES as u64, bytes).await?;
        for (no, page) in (first..).zip(bytes.chunks_exact_mut(PAGE_BYTES)) {
            self.view.resolve(no, page)?;
        }
        if read < bytes.len() {
            return damaged(first, "the object ends before it");
        }
        Ok(())
    }

    /// What a key stands for, ended or not; without its value (empty) if that is not wanted.
    pub async fn get(&self, key: &[u8], wants_value: bool) -> Result<Option<Entry>> {
        let mut page = blank();
        let no = self.leaf(key, &mut page).await?;
        let node = Node::open(no, &page)?;
        match node.search(key)? {
            Ok(index) => {
                let expires = node.expires(index)?;
                let value = match wants_value {
                    true => self.value(node.value(index)?).await?,
                    false => Value::default(),
                };
                Ok(Some(Entry { value, expires }))
            }
            Err(_) => Ok(None),
        }
    }

    /// A key somewhere: `dice` chooses a child on each level and a key of the leaf. None in an empty
    /// tree. Keys of emptier nodes come more often.
    pub async fn any_key(&self, mut dice: impl FnMut() -> u64) -> Result<Option<Bytes>> {
        let mut page = blank();
        let mut no = self.root();
        for level in (0..self.height()).rev() {
            self.read(no, &mut page).await?;
            let node = Node::open(no, &page)?;
            node.check_level(level)?;
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
        self.leaf(key, &mut blank()).await.map(|_| ())
    }

    /// Reads the leaf where `key` belongs, and gives its number.
    async fn leaf(&self, key: &[u8], page: &mut Page) -> Result<PageNo> {
        let mut no = self.root();
        for level in (0..self.height()).rev() {
            self.read(no, page).await?;
            let node = Node::open(no, page)?;
            node.check_level(level)?;
            if level > 0 {
                no = node.child(node.position(key)?)?;
            }
        }
        Ok(no)
    }

    /// The value that a cell says; a large one may be read when the snapshot is gone.
    pub async fn value(&self, stored: Stored<'_>) -> Result<Value> {
        match stored {
            Stored::Inline(bytes) => Ok(Value::Bytes(Bytes::copy_from_slice(bytes))),
            Stored::Overflow(run) => Ok(Value::Bytes(self.overflow(run).await?)),
            // Boxed: the way to an object is long, and the future of every read would carry room for it.
            Stored::Large(large) => {
                Ok(Value::Large(Box::pin(self.shelf.pin(&self.view, large)).await?))
            }
        }
    }

    async fn overflow(&self, first: RunRef) -> Result<Bytes> {
        let mut value = BytesMut::new();
        let (mut run, mut missing) = (first, first.bytes as usize);
        while missing > 0 {
            runs::check(run, missing, self.view.meta().pages)?;
            let mut bytes = vec![0; run.pages as usize * PAGE_BYTES];
            self.read_pages(run.first, &mut bytes).await?;
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
