//! Reads without a copy: the caller gets the folio's own memory, pinned.
//!
//! Guarantees: the bytes never change (a writer that meets shared memory replaces it); what is pinned
//! stays counted in the memory budget until the last handle goes. Bytes that no single folio holds,
//! or that somebody is about to change, are copied once into memory of the same budget.
//!
//! Does not limit how much a caller pins: who pins the whole budget waits for himself. Called by
//! `api::object`.

use std::ops::Range;

use foliant_device::Segment;

use crate::error::Error;
use crate::error::Result;
use crate::iomap::ahead::Reader;
use crate::iomap::bundle::Counts;
use crate::iomap::bundle::Mapped;
use crate::iomap::contract::MappingProvider;
use crate::iomap::contract::Transport;
use crate::iomap::contract::checked_range;
use crate::kit::lock_order::watched;
use crate::kit::memory::Purpose;
use crate::limits::SHARED_READ_BYTES_MAX;
use crate::units::BLOCK;
use crate::units::FileBlocks;

/// How often what is missing is fetched before it is given up.
const FETCHES_FOR_PIECES: usize = 4;

fn checked_share(range: Range<u64>) -> Result<Range<u64>> {
    let Some(len) = range.end.checked_sub(range.start) else {
        return Err(Error::invalid(format!("range {range:?} runs backwards")));
    };
    if len > SHARED_READ_BYTES_MAX {
        let why = format!("a shared read of {len} bytes, at most {SHARED_READ_BYTES_MAX}");
        return Err(Error::invalid(why));
    }
    checked_range(range.start, len as usize)
}

impl<P: MappingProvider, T: Transport> Mapped<P, T> {
    /// The bytes of `range`, as far as they lie below the size; `None` if none do.
    ///
    /// Errors: `InvalidInput` (also over [`SHARED_READ_BYTES_MAX`]), and those of a read. Dropping
    /// the future has no effect.
    pub async fn read_shared(&self, reader: &Reader, range: Range<u64>) -> Result<Option<Segment>> {
        let range = checked_share(range)?;
        let mut looks = self.looks();
        loop {
            looks.begin().await;
            let shared = self.share_once(reader, &range).await?;
            if looks.is_whole() {
                return Ok(shared);
            }
        }
    }

    /// Lets `look` see the bytes of `range` where they lie; `None` unless one folio of a single block holds them
    /// all up to date below the size, nobody is about to change them, and no commit showed itself beside it.
    /// Never waits, and holds no lock while `look` runs. It may have run for nothing.
    ///
    /// Not in larger folios: who changes a byte of one while somebody looks has to find memory for all of it.
    ///
    /// Errors: `InvalidInput` as [`Mapped::read_shared`].
    pub fn peek<R>(&self, range: Range<u64>, look: impl FnOnce(&[u8]) -> R) -> Result<Option<R>> {
        let range = checked_share(range)?;
        let seen = self.publications.seen();
        if range.end > self.provider.size() {
            return Ok(None);
        }
        let Some(segment) = self.cache.share_block(&range) else { return Ok(None) };
        Counts::add(&self.counts.hits, 1);
        let looked = look(&segment);
        let is_below = self.still_below(range.clone()) == range.end;
        Ok((is_below && self.publications.is_whole(seen)).then_some(looked))
    }

    /// The bytes of `range`, as far as they lie below the size, in pieces that lie together in memory: those of
    /// the folios, also of the ones that had to be read first.
    ///
    /// `None` when they cannot be shared just now: somebody is about to change them, or they go as they come. It
    /// does not copy, because one large buffer may not be had while others keep pieces here and there.
    ///
    /// Errors and drop as for [`Mapped::read_shared`].
    pub async fn read_pieces(
        &self,
        reader: &Reader,
        range: Range<u64>,
    ) -> Result<Option<Vec<Segment>>> {
        let range = checked_share(range)?;
        let mut looks = self.looks();
        loop {
            looks.begin().await;
            let pieces = self.pieces_once(reader, &range).await?;
            if looks.is_whole() {
                return Ok(pieces);
            }
        }
    }

    /// The same, but a commit may show itself in the middle of it.
    ///
    /// Nothing is pinned while this waits: readers that each kept one piece and waited for memory for the next
    /// could wait for each other.
    async fn pieces_once(
        &self,
        reader: &Reader,
        range: &Range<u64>,
    ) -> Result<Option<Vec<Segment>>> {
        for _ in 0..FETCHES_FOR_PIECES {
            let range = range.start..range.end.min(self.provider.size()).max(range.start);
            match self.share_all(range.clone()) {
                Ok(pieces) if self.still_below(range.clone()) == range.end => {
                    return Ok(Some(pieces));
                }
                Ok(_) => continue,
                Err(at) if self.is_cached(at / BLOCK) => break,
                Err(at) => watched(self.fetch_some(reader, at..range.end)).await?,
            }
        }
        Ok(None)
    }

    /// The pieces of `range`; or the first byte that cannot be shared.
    fn share_all(&self, range: Range<u64>) -> std::result::Result<Vec<Segment>, u64> {
        let mut pieces = Vec::new();
        let mut at = range.start;
        while at < range.end {
            let piece = self.cache.share_some(&(at..range.end)).ok_or(at)?;
            at += piece.len() as u64;
            pieces.push(piece);
        }
        Counts::add(&self.counts.hits, pieces.len() as u64);
        Ok(pieces)
    }

    /// Brings the first part of `range` into the cache.
    async fn fetch_some(&self, reader: &Reader, range: Range<u64>) -> Result<()> {
        let asked = FileBlocks::covering(&range);
        if self.approach(reader, asked).await && self.is_cached(asked.start) {
            return Ok(());
        }
        self.bring(asked).await.map(drop)
    }

    /// The same, but a commit may show itself in the middle of it.
    async fn share_once(&self, reader: &Reader, range: &Range<u64>) -> Result<Option<Segment>> {
        let end = range.end.min(self.provider.size());
        if end <= range.start {
            return Ok(None);
        }
        let range = range.start..end;
        let shared = match self.share_hit(&range) {
            Some(segment) => segment,
            None => self.copy_out_shared(reader, range.clone()).await?,
        };
        let len = shared.len().min((self.still_below(range.clone()) - range.start) as usize);
        Ok(match len {
            0 => None,
            _ if len < shared.len() => Some(shared.slice(0..len)),
            _ => Some(shared),
        })
    }

    fn share_hit(&self, range: &Range<u64>) -> Option<Segment> {
        let segment = self.cache.share_hit(range)?;
        Counts::add(&self.counts.hits, 1);
        Some(segment)
    }

    async fn copy_out_shared(&self, reader: &Reader, range: Range<u64>) -> Result<Segment> {
        let len = range.end - range.start;
        let order = len.div_ceil(BLOCK).next_power_of_two().ilog2() as u8;
        let mut buffer = self.memory.allocate(order, Purpose::Data).await?;
        let bytes = buffer.get_mut().expect("a fresh buffer has one owner");
        let read = self.read_once(reader, range.start, &mut bytes[..len as usize]).await?;
        Ok(buffer.segment(0..read))
    }
}
