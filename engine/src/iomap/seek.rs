//! What lies where, told with what the cache holds: data and holes, and the list of extents.
//!
//! Guarantees: the cache is looked at *between* the mapping and the check that the mapping is
//! current, so a block whose writeback completes meanwhile is seen as dirty or as mapped, never as
//! a hole. Each look is at one run; beside writers, two runs of one answer may be from different
//! moments. A look costs one mapping and the dirty blocks of its run, whatever the object's size.
//!
//! Does not lock, read, make or dirty anything. Called by `api::object`.

use std::ops::Range;

use crate::error::Error;
use crate::error::Result;
use crate::iomap::bundle::Mapped;
use crate::iomap::contract::MapIntent;
use crate::iomap::contract::MapKind;
use crate::iomap::contract::MappingProvider;
use crate::iomap::contract::Transport;
use crate::iomap::iter::Cursor;
use crate::iomap::iter::Lease;
use crate::iomap::pause::Point;
use crate::iomap::retry::Attempts;
use crate::limits::EXTENTS_PER_CALL_MAX;
use crate::limits::OBJECT_BYTES_MAX;
use crate::units::BLOCK;
use crate::units::BlockNo;
use crate::units::FileBlocks;

/// Dirty blocks that one look walks over with the cache's index locked.
const LOOK_BLOCKS_MAX: u64 = 1024;

/// How a run of blocks is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stored {
    /// Dirty or under writeback over a hole: has no place yet.
    Delalloc,
    /// Allocated, never written on the device; the cache may hold newer bytes.
    Unwritten(BlockNo),
    /// On the device; the cache may hold newer bytes.
    Mapped(BlockNo),
    /// Kept by the provider itself; the cache may hold newer bytes.
    Inline,
}

/// A run of blocks that is not a hole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoredRun {
    /// Which blocks of the object.
    pub blocks: FileBlocks,
    /// How they are stored.
    pub stored: Stored,
}

impl StoredRun {
    /// Takes `next` in if it continues this run; whether it did.
    fn join(&mut self, next: &Self) -> bool {
        let len = self.blocks.len();
        let fits = match (self.stored, next.stored) {
            (Stored::Delalloc, Stored::Delalloc) => true,
            (Stored::Unwritten(a), Stored::Unwritten(b))
            | (Stored::Mapped(a), Stored::Mapped(b)) => a.plus(len) == b,
            _ => false,
        };
        let joins = fits && self.blocks.end == next.blocks.start;
        if joins {
            self.blocks.end = next.blocks.end;
        }
        joins
    }
}

/// What one look found.
struct Look {
    blocks: FileBlocks,
    /// `None` is a hole.
    stored: Option<Stored>,
    /// Dirty or under writeback, where that decides.
    unsettled: bool,
}

impl Look {
    fn is_data(&self) -> bool {
        self.unsettled || !matches!(self.stored, None | Some(Stored::Unwritten(_)))
    }
}

impl<P: MappingProvider, T: Transport> Mapped<P, T> {
    /// The first byte at or behind `offset` that lies in a block with data; `None` when there is
    /// none below the size.
    ///
    /// Errors: those of `map_begin`, `TimedOut`. Dropping the future has no effect.
    pub async fn seek_data(&self, offset: u64) -> Result<Option<u64>> {
        self.seek(offset, true).await
    }

    /// The first byte at or behind `offset` that lies in a hole; the end of the object is one.
    /// `None` when `offset` lies at or behind the end. Errors and drop as for data.
    pub async fn seek_hole(&self, offset: u64) -> Result<Option<u64>> {
        self.seek(offset, false).await
    }

    async fn seek(&self, offset: u64, data: bool) -> Result<Option<u64>> {
        let size = self.provider.size();
        if offset >= size {
            return Ok(None);
        }
        let mut rest = FileBlocks::new(offset / BLOCK, size.div_ceil(BLOCK));
        while !rest.is_empty() {
            let look = self.look(rest).await?;
            if look.is_data() == data {
                return Ok(Some(offset.max(rest.start * BLOCK)));
            }
            rest.start = look.blocks.end;
        }
        Ok((!data).then_some(size))
    }

    /// Up to `limit` runs that touch `range` (bytes; rounded outwards to blocks), ascending, joined
    /// where they continue each other; at most [`EXTENTS_PER_CALL_MAX`].
    ///
    /// Errors: `InvalidInput` for a range that runs backwards or leaves the largest object, and as
    /// [`Mapped::seek_data`].
    pub async fn stored_runs(&self, range: Range<u64>, limit: usize) -> Result<Vec<StoredRun>> {
        if range.start > range.end || range.end > OBJECT_BYTES_MAX {
            let why = format!("range {}..{} is not one of an object", range.start, range.end);
            return Err(Error::invalid(why));
        }
        let limit = limit.min(EXTENTS_PER_CALL_MAX);
        let mut found: Vec<StoredRun> = Vec::new();
        let mut rest = FileBlocks::covering(&range);
        while !rest.is_empty() && limit > 0 {
            let Look { blocks, stored, .. } = self.look(rest).await?;
            rest.start = blocks.end;
            let Some(stored) = stored else { continue };
            let run = StoredRun { blocks, stored };
            if found.last_mut().is_some_and(|last| last.join(&run)) {
                continue;
            }
            if found.len() == limit {
                break;
            }
            found.push(run);
        }
        Ok(found)
    }

    /// What lies at the start of `blocks`, as far as it is of one kind.
    async fn look(&self, blocks: FileBlocks) -> Result<Look> {
        let mut attempts = Attempts::default();
        loop {
            // A mapping that is held still is true only for who also keeps out the holders of its range.
            let _held = match attempts.next_is_last() {
                true => Some(self.ranges.shared(blocks.start..blocks.end).await),
                false => None,
            };
            let attempt = self.attempt(&mut attempts).await;
            let mut cursor = Cursor::new(&self.provider, blocks, MapIntent::Report);
            let lease = cursor.next().await?.expect("the range is not empty");
            self.pauses.at(Point::AfterMap).await;
            let look = self.look_through(&lease);
            if self.all_current(&attempt, std::slice::from_ref(&lease)) {
                return Ok(look);
            }
        }
    }

    fn look_through(&self, lease: &Lease<P>) -> Look {
        let blocks = lease.blocks();
        let data = |stored| Look { blocks, stored: Some(stored), unsettled: false };
        let settled = match lease.mapping().kind {
            MapKind::Mapped { at, .. } => return data(Stored::Mapped(at)),
            MapKind::Inline { .. } => return data(Stored::Inline),
            MapKind::Unwritten { at } => Some(Stored::Unwritten(at)),
            MapKind::Hole => None,
        };
        match self.cache.unsettled_run(blocks, LOOK_BLOCKS_MAX) {
            None => Look { blocks, stored: settled, unsettled: false },
            Some(run) if run.start > blocks.start => {
                let blocks = FileBlocks::new(blocks.start, run.start);
                Look { blocks, stored: settled, unsettled: false }
            }
            Some(run) => {
                let stored = settled.or(Some(Stored::Delalloc));
                Look { blocks: run, stored, unsettled: true }
            }
        }
    }
}
