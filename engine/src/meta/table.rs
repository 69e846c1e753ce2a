//! The checkpoint table: blocks whose newest logged image is not home yet, metadata and data alike.
//!
//! Guarantees: an entry stays until its newest image is home *and* the tail has passed its last
//! record, so that `is_logged` is exact. Does no I/O. Called by `meta` with its lock held.

use std::collections::BTreeMap;
use std::sync::Arc;

use foliant_device::Buffer;

use crate::units::BlockNo;
use crate::units::Lsn;

/// Told when a logged data block is home.
pub trait HomeMark: Send + Sync {
    /// The image that the transaction `lsn` made is stable at `at`.
    fn home(&self, at: BlockNo, lsn: Lsn);
}

/// One logged block.
struct Entry {
    /// The newest image, while it is not home. A freed block keeps its one: the tail may stop in the
    /// middle of its records, and what is replayed from there must find what came before at home.
    image: Option<Buffer>,
    /// The last transaction that has a record of it.
    last: Lsn,
    kind: Logged,
    mark: Option<Arc<dyn HomeMark>>,
}

/// What a logged block is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Logged {
    /// It carries its own checksum, and whether it is the newest one can be told by nothing else.
    Metadata,
    /// Its checksum lies elsewhere, and tells that an older block is not this one.
    Data,
}

/// An image on its way home.
pub struct Going {
    /// Where it belongs.
    pub at: BlockNo,
    /// Its bytes.
    pub image: Buffer,
    /// What it is.
    pub kind: Logged,
    /// The transaction that made it.
    pub lsn: Lsn,
}

/// A mark to be told, once the tail has moved.
pub struct Arrived {
    at: BlockNo,
    lsn: Lsn,
    mark: Arc<dyn HomeMark>,
}

impl Arrived {
    /// Tells it.
    pub fn tell(self) {
        self.mark.home(self.at, self.lsn);
    }
}

/// All logged blocks, by address, so that neighbours go home together.
#[derive(Default)]
pub struct Table {
    entries: BTreeMap<BlockNo, Entry>,
    images: usize,
}

impl std::fmt::Debug for Table {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Table({} entries, {} images)", self.entries.len(), self.images)
    }
}

impl Table {
    /// Notes that the transaction `lsn` logged `at`, with this image.
    pub fn put(
        &mut self,
        at: BlockNo,
        lsn: Lsn,
        image: Buffer,
        kind: Logged,
        mark: Option<Arc<dyn HomeMark>>,
    ) {
        let old = self.entries.insert(at, Entry { image: Some(image), last: lsn, kind, mark });
        self.images += 1;
        if let Some(old) = old {
            assert!(old.last <= lsn, "commits are noted in order");
            self.images -= usize::from(old.image.is_some());
        }
    }

    /// The image of a block that is not home.
    pub fn image(&self, at: BlockNo) -> Option<Buffer> {
        self.entries.get(&at)?.image.clone()
    }

    /// Whether a record behind the tail names the block.
    pub fn is_logged(&self, at: BlockNo) -> bool {
        self.entries.contains_key(&at)
    }

    /// Images that are held.
    pub fn images(&self) -> usize {
        self.images
    }

    /// Every image that is not home, ascending.
    pub fn going(&self) -> Vec<Going> {
        let going = |(&at, entry): (&BlockNo, &Entry)| {
            let image = entry.image.clone()?;
            Some(Going { at, image, kind: entry.kind, lsn: entry.last })
        };
        self.entries.iter().filter_map(going).collect()
    }

    /// The images that `going` listed are home and stable. Newer ones stay; the marks of the others
    /// are to be told when the tail has moved.
    pub fn arrived(&mut self, homes: &[(BlockNo, Lsn)]) -> Vec<Arrived> {
        let mut told = Vec::new();
        for &(at, lsn) in homes {
            let Some(entry) = self.entries.get_mut(&at).filter(|e| e.last == lsn) else { continue };
            self.images -= usize::from(entry.image.take().is_some());
            if let Some(mark) = entry.mark.take() {
                told.push(Arrived { at, lsn, mark });
            }
        }
        told
    }

    /// The tail has passed `applied`: entries without newer records go.
    pub fn purge(&mut self, applied: Lsn) {
        self.entries.retain(|_, entry| entry.image.is_some() || entry.last > applied);
    }
}
