//! The read path: a hit copies, a miss fetches.
//!
//! Guarantees: a read whose bytes are all in the cache completes on first poll, without a lock
//! that waits, without allocating and without asking the provider. A miss takes the range lock
//! shared, so it never meets a half-made change of the mapping; a read never returns bytes that
//! lie behind the size at its end.
//!
//! Does not write, dirty or allocate space. Called by `object`.

use std::ops::Range;

use crate::error::Result;
use crate::iomap::ahead::Reader;
use crate::iomap::bundle::Counts;
use crate::iomap::bundle::Mapped;
use crate::iomap::bundle::order_for;
use crate::iomap::contract::MapIntent;
use crate::iomap::contract::MappingProvider;
use crate::iomap::contract::Transport;
use crate::iomap::contract::checked_range;
use crate::iomap::fetch::Fetched;
use crate::iomap::flight::Carrier;
use crate::iomap::grip::Grip;
use crate::iomap::iter::Cursor;
use crate::iomap::iter::Lease;
use crate::iomap::pause::Point;
use crate::iomap::retry::Attempts;
use crate::kit::fault::Fault;
use crate::kit::fault::has_fault;
use crate::kit::lock_order::watched;
use crate::kit::range_lock::RangeGuard;
use crate::kit::sync::timeout;
use crate::limits::LANDING_WAIT;
use crate::limits::READ_MISS_BLOCKS_MAX;
use crate::limits::READS_IN_FLIGHT;
use crate::units::BLOCK;
use crate::units::FileBlocks;

/// A miss: what is missing.
#[derive(Debug, Clone, Copy)]
struct Miss {
    first: u64,
    /// The block behind the last one that the reader asked for.
    demand: u64,
}

/// What a miss brought.
pub(super) struct Brought {
    /// Ascending and without gaps, from the one of the first block on.
    pub folios: Vec<Grip>,
    /// All blocks up to this one are up to date.
    pub reached: u64,
    _held: RangeGuard,
}

/// The block behind the last one that one miss of `asked` fetches.
fn demand_of(asked: FileBlocks) -> u64 {
    asked.end.min(asked.start + READ_MISS_BLOCKS_MAX)
}

impl<P: MappingProvider, T: Transport> Mapped<P, T> {
    #[cfg(test)]
    /// As [`Mapped::read_by`], for tests.
    pub async fn read_at(&self, offset: u64, dst: &mut [u8]) -> Result<usize> {
        self.read_by(&self.ahead, offset, dst).await
    }

    /// Fills `dst` from `offset` on; gives back how many bytes were read, less than `dst` has only
    /// at the end of the object. `reader` keeps the guesses about what this handle reads next.
    ///
    /// Errors: `InvalidInput`, `Device`, `Corrupt` (naming the device block), `OutOfMemory`,
    /// `TimedOut`; the content of `dst` is unspecified then. Dropping the future has no effect.
    pub async fn read_by(&self, reader: &Reader, offset: u64, dst: &mut [u8]) -> Result<usize> {
        let mut looks = self.looks();
        loop {
            looks.begin().await;
            let read = self.read_once(reader, offset, dst).await?;
            if looks.is_whole() {
                return Ok(read);
            }
        }
    }

    /// The same, but a commit may show itself in the middle of it.
    pub(super) async fn read_once(
        &self,
        reader: &Reader,
        offset: u64,
        dst: &mut [u8],
    ) -> Result<usize> {
        let range = checked_range(offset, dst.len())?;
        let end = range.end.min(self.provider.size()).max(offset);
        let len = (end - offset) as usize;
        let mut done = 0;
        while done < len {
            let at = offset + done as u64;
            let rest = &mut dst[done..len];
            done += match self.hit(at, rest) {
                0 => watched(self.miss(reader, at, rest)).await?,
                copied => {
                    Counts::add(&self.counts.hits, 1);
                    copied
                }
            };
        }
        Ok((self.still_below(offset..end) - offset) as usize)
    }

    /// Where what was read of `range` ends now: a truncate may have passed by, and what it cut off was never
    /// the reader's to see.
    pub(super) fn still_below(&self, range: Range<u64>) -> u64 {
        let cut = if has_fault(Fault::TrustOldSize) { range.end } else { self.provider.size() };
        range.end.min(cut).max(range.start)
    }

    /// As [`Mapped::read_at`], but only from the cache: `None` as soon as something is missing, or when a
    /// commit shows itself beside it. Never waits, allocates nothing; the content of `dst` is unspecified after `None`.
    ///
    /// Errors: `InvalidInput`.
    pub fn try_read_at(&self, offset: u64, dst: &mut [u8]) -> Result<Option<usize>> {
        let range = checked_range(offset, dst.len())?;
        let seen = self.publications.seen();
        let end = range.end.min(self.provider.size()).max(offset);
        let len = (end - offset) as usize;
        let mut done = 0;
        while done < len {
            let copied = self.hit(offset + done as u64, &mut dst[done..len]);
            if copied == 0 {
                return Ok(None);
            }
            Counts::add(&self.counts.hits, 1);
            done += copied;
        }
        let end = self.still_below(offset..end);
        Ok(self.publications.is_whole(seen).then_some((end - offset) as usize))
    }

    /// Copies what one folio holds from `at` on; 0 if its first block is not up to date.
    fn hit(&self, at: u64, dst: &mut [u8]) -> usize {
        if self.cache.read_hit(at, dst) {
            return dst.len();
        }
        let Some(folio) = self.cache.find(at / BLOCK) else {
            return 0;
        };
        let span = folio.span().bytes();
        let within = (at - span.start) as usize;
        let all = dst.len().min((span.end - at) as usize);
        if folio.read_at(within, &mut dst[..all]) {
            return all;
        }
        let one = all.min((BLOCK - at % BLOCK) as usize);
        if one < all && folio.read_at(within, &mut dst[..one]) {
            return one;
        }
        0
    }

    /// Fetches the block of `at` and what follows; gives back how many bytes it copied.
    async fn miss(&self, reader: &Reader, at: u64, dst: &mut [u8]) -> Result<usize> {
        let asked = FileBlocks::covering(&(at..at + dst.len() as u64));
        if self.approach(reader, asked).await {
            let copied = self.hit(at, dst);
            if copied > 0 {
                return Ok(copied);
            }
        }
        let brought = self.bring(asked).await?;
        Ok(copy_out(&brought.folios, at, dst, brought.reached))
    }

    /// The first steps of a miss of `asked`: starts what will be wanted next, and lands what carries the first
    /// block, or waits for who does. Whether something carried it; it need not have come.
    pub(super) async fn approach(&self, reader: &Reader, asked: FileBlocks) -> bool {
        Counts::add(&self.counts.misses, 1);
        let demand = demand_of(asked);
        let mut carrier = self.flights.take(asked.start);
        let carried = !matches!(carrier, Carrier::None);
        // Started before anything is waited for: the device works on them meanwhile.
        self.launch(reader.miss(asked.start, demand - asked.start, carried)).await;
        if matches!(carrier, Carrier::Other) {
            let landed = timeout(LANDING_WAIT, self.behind_others(asked.start)).await;
            // A flight that somebody keeps and does not land is his loss: the block is read once more.
            carrier = landed.unwrap_or(Carrier::None);
        }
        if let Carrier::Own(flight, _landing) = carrier {
            self.land(flight).await;
        }
        carried
    }

    /// What carries `block` when nobody is starting or landing it any more.
    async fn behind_others(&self, block: u64) -> Carrier<'_> {
        loop {
            self.flights.landed(block).await;
            // It came; or it was only started, and waits for whoever is first.
            if self.is_cached(block) {
                return Carrier::None;
            }
            match self.flights.take(block) {
                Carrier::Other => {}
                carrier => return carrier,
            }
        }
    }

    pub(super) fn is_cached(&self, block: u64) -> bool {
        let folio = self.cache.find(block);
        folio.is_some_and(|folio| {
            let within = (block - folio.index()) as usize;
            folio.is_uptodate(within..within + 1)
        })
    }

    /// The first part of `asked`, at least its first block, up to date in locked folios.
    pub(super) async fn bring(&self, asked: FileBlocks) -> Result<Brought> {
        // What is on its way further on comes without being asked for here.
        let own = self.flights.without(asked);
        let asked = if own.start == asked.start && !own.is_empty() { own } else { asked };
        let miss = Miss { first: asked.start, demand: demand_of(asked) };
        let mut attempts = Attempts::default();
        loop {
            if let Some(brought) = self.try_bring(&mut attempts, miss).await? {
                return Ok(brought);
            }
        }
    }

    /// One attempt; `None` if the mapping became stale.
    async fn try_bring(&self, attempts: &mut Attempts, miss: Miss) -> Result<Option<Brought>> {
        let asked = FileBlocks::new(miss.first, miss.demand);
        let held = self.ranges.shared(asked.start..asked.end).await;
        let attempt = self.attempt(attempts).await;
        let leases = self.map_some(asked).await?;
        self.pauses.at(Point::AfterMap).await;
        let end = leases.last().expect("a miss misses something").blocks().end;
        let blocks = FileBlocks::new(asked.start, end);
        let mut folios = self.lock_missing(blocks, miss.demand).await?;
        self.pauses.at(Point::AfterFolioLock).await;
        if !self.all_current(&attempt, &leases) {
            return Ok(None);
        }
        let end = folios.last().map_or(blocks.start, |f| f.span().end);
        let wanted = FileBlocks::new(blocks.start, blocks.end.min(end));
        let fetched = self.fetch(&attempt, &mut folios, &leases, wanted, miss.demand).await?;
        let Fetched::UpTo(reached) = fetched else {
            return Ok(None);
        };
        Ok(Some(Brought { folios, reached, _held: held }))
    }

    /// The mappings of the first part of a range: a bounded number of them.
    async fn map_some(&self, asked: FileBlocks) -> Result<Vec<Lease<P>>> {
        let mut cursor = Cursor::new(&self.provider, asked, MapIntent::Read);
        let mut leases: Vec<Lease<P>> = Vec::new();
        while leases.len() < READS_IN_FLIGHT
            && let Some(lease) = cursor.next().await?
        {
            leases.push(lease);
        }
        Ok(leases)
    }

    /// Locks the folios of `blocks`, ascending. Behind the first one it neither waits for memory
    /// nor goes over what is cached already.
    async fn lock_missing(&self, blocks: FileBlocks, demand: u64) -> Result<Vec<Grip>> {
        let mut folios: Vec<Grip> = Vec::new();
        let mut at = blocks.start;
        while at < blocks.end {
            let cached = self.cache.find(at).is_some();
            let scarce = !cached && self.memory.low();
            if !folios.is_empty() && (scarce || (cached && at >= demand)) {
                break;
            }
            self.pauses.at(Point::BeforeFolioLock).await;
            let order = order_for(at, blocks.end - at);
            let folio = Grip::find_or_create(&self.cache, at, order, &self.memory).await?;
            at = folio.span().end;
            let cut = folio.is_uptodate(folio.span().start.max(blocks.start));
            folios.push(folio);
            if cut {
                break;
            }
        }
        Ok(folios)
    }
}

/// Copies from locked folios what is up to date, from `at` to the end of block `reached`.
fn copy_out(folios: &[Grip], at: u64, dst: &mut [u8], reached: u64) -> usize {
    let end = (reached * BLOCK).min(at + dst.len() as u64);
    let mut done = 0;
    for folio in folios {
        let span = folio.span().bytes();
        let from = at + done as u64;
        let to = end.min(span.end);
        if from >= to {
            break;
        }
        assert!(span.start <= from, "locked folios have a gap");
        let part = &mut dst[done..done + (to - from) as usize];
        let hit = folio.read_at((from - span.start) as usize, part);
        assert!(hit, "blocks up to {reached} were just made up to date");
        done += part.len();
    }
    done
}
