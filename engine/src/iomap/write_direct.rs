//! Writes from memory of the caller straight to the device, past the cache.
//!
//! Guarantees that whole blocks change at once, or not at all: they go to fresh places (or unwritten
//! extents), one batch and one transaction per call; only then what is cached of them is dropped, dirty
//! bytes included, and only then the size grows. Until then the old bytes are where they were, so a
//! failed write loses nothing. It is a batch like those of `writeback` and takes one of their slots;
//! the durable size obeys the same rule, and no other batch carries the same blocks.
//!
//! Nobody can cache old bytes or zeroes of these blocks behind the mapping's back: who fills the cache
//! holds the range, which is held here from before the promise of room until after the invalidation.
//! The folios that are there already are locked before anything is sent, so that nothing waits
//! between the transaction and the invalidation, and no dropped future can fall between them.
//!
//! Parts of blocks at the edges, and ranges whose place in the memory is aligned otherwise than in the
//! object, go through the cache by copy. Does not make anything durable. Called by `api::direct`.

use std::ops::Range;

use foliant_device::Buffer;
use foliant_device::Segment;

use crate::error::Result;
use crate::iomap::bundle::Counts;
use crate::iomap::bundle::Mapped;
use crate::iomap::contract::DirtyRun;
use crate::iomap::contract::MapIntent;
use crate::iomap::contract::MappingProvider;
use crate::iomap::contract::Transport;
use crate::iomap::contract::checked_range;
use crate::iomap::grip::Grip;
use crate::iomap::iter::Cursor;
use crate::iomap::pause::Canary;
use crate::iomap::pause::Point;
use crate::iomap::read_direct::Parts;
use crate::iomap::write::Piece;
use crate::iomap::write::Source;
use crate::units::FileBlocks;

/// Promises of room for blocks that are not dirty in any folio; what is left goes back on drop.
struct Promised<'a, P: MappingProvider> {
    provider: &'a P,
    blocks: u64,
}

impl<P: MappingProvider> Promised<'_, P> {
    /// The provider has used all of them up.
    fn used(mut self) {
        self.blocks = 0;
    }
}

impl<P: MappingProvider> Drop for Promised<'_, P> {
    fn drop(&mut self) {
        if self.blocks > 0 {
            self.provider.forget_dirty(self.blocks);
        }
    }
}

impl<P: MappingProvider, T: Transport> Mapped<P, T> {
    /// Writes the bytes `within` of `memory` at `offset`; the size grows to the end if that lies behind it.
    ///
    /// Whole blocks change at once; the parts of blocks before and behind them are written before and
    /// after that, through the cache. Errors: those of [`Mapped::write_at`] and of writeback; what
    /// was written before stays. To be driven to its end by a task of the engine: dropped under way, the
    /// blocks are old or new, and the claimed space is lost until the store is opened again.
    pub async fn write_direct(
        &self,
        offset: u64,
        memory: &Buffer,
        within: Range<usize>,
    ) -> Result<()> {
        let range = checked_range(offset, within.len())?;
        let Parts { head, blocks, tail } = Parts::of(&range, within.start);
        let place = |bytes: &Range<u64>| {
            let at = |byte: u64| within.start + (byte - offset) as usize;
            at(bytes.start)..at(bytes.end)
        };
        if blocks.is_empty() {
            return self.write_at(offset, &memory[within]).await;
        }
        let has_edges = !head.is_empty() || !tail.is_empty();
        if has_edges && !self.dirty.has_room() {
            // Where a writer is throttled: with nothing held.
            drop(self.dirty.admit(1).await?);
        }
        // One lock over all of it: who asks for these bytes later, because the caller went away, comes later. The
        // two blocks at the edges go over the limit of dirty blocks if need be.
        let _held = match self.pauses.is_broken(Canary::WriteUnlocked) {
            true => None,
            false => Some(self.lock_for_write(&range).await),
        };
        self.write_edge(&head, &memory[place(&head)]).await?;
        let data = memory.segment(place(&blocks.bytes()));
        self.replace_blocks(blocks, data).await?;
        self.write_edge(&tail, &memory[place(&tail)]).await
    }

    /// Writes a part of a block through the cache; its range is locked.
    async fn write_edge(&self, bytes: &Range<u64>, src: &[u8]) -> Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        let _share = self.dirty.admit_over(1);
        let size = self.provider.size();
        let grows = bytes.end > size;
        if grows {
            self.clear_old_end(size, bytes.start).await?;
        }
        let piece = Piece { bytes: bytes.clone(), source: Source::Bytes(src), grows };
        self.apply(piece, &(), || {}).await.map(|_| ())
    }

    /// Replaces whole blocks, whose range is locked.
    async fn replace_blocks(&self, blocks: FileBlocks, data: Segment) -> Result<()> {
        let end = blocks.bytes().end;
        let old = self.provider.size();
        if end > old {
            self.clear_old_end(old, blocks.bytes().start).await?;
        }
        let promised = self.promise(blocks).await?;
        self.pauses.at(Point::AfterMap).await;
        let _slot = self.slot().await;
        let folios = self.lock_cached_folios(blocks).await?;
        self.pauses.at(Point::AfterFolioLock).await;
        let runs = vec![DirtyRun { blocks, data: vec![data] }];
        // Behind the slot: a truncate above this range may have passed by, and its size must stay.
        let size = self.provider.size().max(end);
        let sent = self.carry(&runs, size, self.settled_size(size, &runs)).await?;
        // From here on nothing waits: the transaction, the cache and the size change together.
        promised.used();
        Counts::add(&self.counts.blocks_written, sent);
        let folios = self.supersede(folios, blocks);
        if end > old {
            // Behind the invalidation, so that nobody finds old bytes below the new size. No folio holds
            // the last byte any more, and none can be made while the range is held.
            self.provider.publish_size(end);
        }
        drop(folios);
        Ok(())
    }

    /// Room for all of `blocks`. Errors: `NoSpace` and the other ones of `map_begin`; nothing is promised then.
    async fn promise(&self, blocks: FileBlocks) -> Result<Promised<'_, P>> {
        let mut promised = Promised { provider: &*self.provider, blocks: 0 };
        let mut cursor = Cursor::new(&self.provider, blocks, MapIntent::Overwrite);
        while let Some(mut lease) = cursor.next().await? {
            // Where they lie now is of no interest: places are chosen when writeback is still.
            lease.keep_promises(lease.blocks().len());
            promised.blocks += lease.blocks().len();
        }
        Ok(promised)
    }

    /// Locks the folios that touch `blocks`, ascending, and waits until none of their blocks is on its
    /// way in a batch, which would be mapped behind this write; makes none. Errors: `TimedOut`.
    async fn lock_cached_folios(&self, blocks: FileBlocks) -> Result<Vec<Grip>> {
        let mut folios: Vec<Grip> = Vec::new();
        let mut rest = blocks;
        while let Some(folio) = self.cache.folios(rest, 1).pop() {
            let lock = folio.lock().await;
            if lock.is_detached() {
                continue;
            }
            rest.start = folio.span().end.min(rest.end);
            folios.push(lock.into());
        }
        for folio in &folios {
            folio.wait_writeback().await?;
        }
        Ok(folios)
    }

    /// Drops what is cached of `blocks`: it is old. The folios stay locked.
    fn supersede(&self, mut folios: Vec<Grip>, blocks: FileBlocks) -> Vec<Grip> {
        if self.pauses.is_broken(Canary::KeepSuperseded) {
            return folios;
        }
        let dirty: u64 = folios.iter_mut().map(|folio| folio.forget(blocks)).sum();
        if dirty > 0 {
            self.provider.forget_dirty(dirty);
        }
        folios
    }
}
