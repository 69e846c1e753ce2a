//! Folios of chosen blocks, locked, up to date and at rest: what a transaction needs.
//!
//! Guarantees that the locks are taken in ascending order, that every chosen block is up to date but those
//! whose bytes are all replaced, and that no writeback of these folios is in flight. Does not dirty
//! anything. Called by `object`'s journaled writes, which hold the range lock over the blocks.

use crate::error::Result;
use crate::iomap::bundle::Mapped;
use crate::iomap::contract::MapIntent;
use crate::iomap::contract::MappingProvider;
use crate::iomap::contract::Transport;
use crate::iomap::fetch::Fetched;
use crate::iomap::grip::Grip;
use crate::iomap::iter::Cursor;
use crate::iomap::iter::Lease;
use crate::iomap::iter::lease_of;
use crate::iomap::pause::Point;
use crate::iomap::retry::Attempt;
use crate::iomap::retry::Attempts;
use crate::units::FileBlocks;

/// A block that a transaction changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wanted {
    /// Which one.
    pub block: u64,
    /// All of its bytes are replaced: what it holds is not read from the device.
    pub whole: bool,
}

impl<P: MappingProvider, T: Transport> Mapped<P, T> {
    /// Locks the folios that hold `blocks` (ascending, no duplicates), makes the blocks up to date
    /// and waits until their writeback has ended. One guard per folio, ascending; a folio may
    /// hold several of the blocks.
    ///
    /// The caller holds the range lock over the blocks and no folio lock. Errors: those of a
    /// read. Dropping the future releases everything.
    pub async fn lock_uptodate(&self, blocks: &[u64]) -> Result<Vec<Grip>> {
        let wanted: Vec<Wanted> =
            blocks.iter().map(|&block| Wanted { block, whole: false }).collect();
        self.lock_wanted(&wanted).await
    }

    /// The same, but blocks that are replaced whole stay as they are: locked and at rest, up to date or not.
    pub async fn lock_wanted(&self, wanted: &[Wanted]) -> Result<Vec<Grip>> {
        let sorted = wanted.windows(2).all(|pair| pair[0].block < pair[1].block);
        assert!(sorted, "blocks are not ascending: {wanted:?}");
        if let Some(folios) = self.lock_cached(wanted).await? {
            return Ok(folios);
        }
        let mut attempts = Attempts::default();
        loop {
            let attempt = self.attempt(&mut attempts).await;
            // Boxed: beside a read of the device it costs nothing, and who needs none has no room for it.
            if let Some(folios) = Box::pin(self.try_lock_wanted(&attempt, wanted)).await? {
                return Ok(folios);
            }
        }
    }

    /// The same without a look at mappings, if none of the blocks has to be read.
    async fn lock_cached(&self, wanted: &[Wanted]) -> Result<Option<Vec<Grip>>> {
        let mut folios: Vec<Grip> = Vec::new();
        for &Wanted { block, whole } in wanted {
            if folios.last().is_none_or(|last| last.span().end <= block) {
                if whole {
                    folios.push(Grip::find_or_create(&self.cache, block, 0, &self.memory).await?);
                    continue;
                }
                let Some(lock) = self.cache.find_locked(block).await else {
                    return Ok(None);
                };
                folios.push(lock.into());
            }
            if !whole && !folios.last().is_some_and(|last| last.is_uptodate(block)) {
                return Ok(None);
            }
        }
        for folio in &folios {
            folio.wait_writeback().await?;
        }
        Ok(Some(folios))
    }

    async fn try_lock_wanted(
        &self,
        attempt: &Attempt<'_>,
        wanted: &[Wanted],
    ) -> Result<Option<Vec<Grip>>> {
        let read: Vec<u64> = wanted.iter().filter(|w| !w.whole).map(|w| w.block).collect();
        let mut leases = self.map_each(&read).await?;
        self.pauses.at(Point::AfterMap).await;
        let mut folios: Vec<Grip> = Vec::new();
        for &Wanted { block, .. } in wanted {
            if folios.last().is_none_or(|last| last.span().end <= block) {
                self.pauses.at(Point::BeforeFolioLock).await;
                let folio = Grip::find_or_create(&self.cache, block, 0, &self.memory).await?;
                folios.push(folio);
            }
        }
        self.pauses.at(Point::AfterFolioLock).await;
        for block in read {
            let at = folios.partition_point(|folio| folio.span().end <= block);
            if folios[at].is_uptodate(block) {
                continue;
            }
            let lease = std::slice::from_ref(lease_of(&mut leases, block));
            if !self.all_current(attempt, lease) {
                return Ok(None);
            }
            let own = std::slice::from_mut(&mut folios[at]);
            let missing = FileBlocks::new(block, block + 1);
            if self.fetch(attempt, own, lease, missing, block + 1).await? == Fetched::Stale {
                return Ok(None);
            }
        }
        // The batch that carries them needs no folio lock to end, and takes no further one while
        // it holds images of ours.
        for folio in &mut folios {
            folio.wait_writeback().await?;
        }
        Ok(Some(folios))
    }

    /// One mapping per run of neighbouring blocks.
    async fn map_each(&self, blocks: &[u64]) -> Result<Vec<Lease<P>>> {
        let mut leases = Vec::new();
        let mut rest = blocks;
        while let Some(&first) = rest.first() {
            let next_to = |(index, &block): (usize, &u64)| block == first + index as u64;
            let count = rest.iter().enumerate().take_while(|&pair| next_to(pair)).count();
            let run = FileBlocks::new(first, first + count as u64);
            leases.extend(Cursor::new(&self.provider, run, MapIntent::Read).collect().await?);
            rest = &rest[count..];
        }
        Ok(leases)
    }
}
