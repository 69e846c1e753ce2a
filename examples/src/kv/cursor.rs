//! Walking keys in order, in one committed state.
//!
//! Guarantees strictly ascending keys and hence an end, also over damaged pages. Holds one page per
//! level. Does not go backwards. Called by `store`.

use crate::kv::error::Result;
use crate::kv::error::damaged;
use crate::kv::image::Image;
use crate::kv::page::Node;
use crate::kv::page::Stored;
use crate::kv::snapshot::Snapshot;
use crate::kv::units::Millis;
use crate::kv::units::PageNo;

/// A position between keys.
pub struct Cursor<'a> {
    snapshot: &'a Snapshot<'a>,
    /// From the root down to a leaf.
    levels: Vec<Level>,
    /// The last key given out; the next one is above it.
    last: Option<Vec<u8>>,
    /// Pages read so far. A tree has no page twice, a damaged one could lead in circles.
    visited: u32,
}

struct Level {
    no: PageNo,
    page: Image,
    /// In a leaf the index of the next key, above it the position of the next child.
    next: usize,
}

impl<'a> Cursor<'a> {
    /// Stands before the first key that is not below `from`.
    pub async fn seek(snapshot: &'a Snapshot<'a>, from: &[u8]) -> Result<Self> {
        let mut cursor = Self { snapshot, levels: Vec::new(), last: None, visited: 0 };
        cursor.descend(snapshot.root(), Some(from)).await?;
        Ok(cursor)
    }

    /// Reads from `no` down to a leaf: towards `key`, or along the first children.
    async fn descend(&mut self, mut no: PageNo, key: Option<&[u8]>) -> Result<()> {
        loop {
            let level = self.snapshot.height() - 1 - self.levels.len() as u8;
            self.visited += 1;
            if self.visited > self.snapshot.pages() {
                return damaged(no, "the walk has met more pages than there are");
            }
            let page = self.snapshot.node(no, level).await?;
            let node = Node::open(no, &page)?;
            let next = match (level, key) {
                (_, None) => 0,
                (0, Some(key)) => node.search(key)?.unwrap_or_else(|index| index),
                (_, Some(key)) => node.position(key)?,
            };
            if level == 0 {
                self.levels.push(Level { no, page, next });
                return Ok(());
            }
            let child = node.child(next)?;
            self.levels.push(Level { no, page, next: next + 1 });
            no = child;
        }
    }

    /// The next key, its value and its end, none behind the last one.
    pub async fn next(&mut self) -> Result<Option<(&[u8], Stored<'_>, Option<Millis>)>> {
        loop {
            let Some(level) = self.levels.last() else { return Ok(None) };
            let node = Node::open(level.no, &level.page)?;
            if node.is_leaf() && level.next < node.len() {
                break;
            }
            if node.is_leaf() || level.next > node.len() {
                self.levels.pop();
                continue;
            }
            let child = node.child(level.next)?;
            self.levels.last_mut().expect("there is a last level").next += 1;
            self.descend(child, None).await?;
        }
        let level = self.levels.last_mut().expect("there is a last level");
        let node = Node::open(level.no, &level.page)?;
        let key = node.key(level.next)?;
        if self.last.as_deref().is_some_and(|last| last >= key) {
            return damaged(level.no, "its keys do not ascend");
        }
        let last = self.last.get_or_insert_default();
        last.clear();
        last.extend_from_slice(key);
        let (stored, expires) = (node.value(level.next)?, node.expires(level.next)?);
        level.next += 1;
        Ok(Some((key, stored, expires)))
    }
}
