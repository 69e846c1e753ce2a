//! The write path: bytes from the caller into dirty folios.
//!
//! Guarantees: a piece of at most `WRITE_PIECE_BLOCKS` is applied whole or not at all, whatever
//! happens to the future: all awaits come first, then one synchronous apply with every folio of
//! the piece locked. Each newly dirty block has its promise, all others go back. No byte changes
//! under a stale mapping. Memory that writeback or a reader shares is replaced, never changed.
//! The size is published folio by folio, each time with the folio of the new last byte locked.
//!
//! Does not write to the device and does not zero behind the old end (`eof` does). Called by
//! `object`, and by `zero` and `eof` for their zeroes.

use std::ops::Range;

use foliant_device::Buffer;

use crate::error::Error;
use crate::error::ErrorKind;
use crate::error::Result;
use crate::iomap::bundle::Mapped;
use crate::iomap::bundle::order_for;
use crate::iomap::contract::MapIntent;
use crate::iomap::contract::MappingProvider;
use crate::iomap::contract::Transport;
use crate::iomap::contract::checked_range;
use crate::iomap::grip::Grip;
use crate::iomap::guard::FolioGuard;
use crate::iomap::guard::FolioHook;
use crate::iomap::iter::Cursor;
use crate::iomap::iter::Lease;
use crate::iomap::iter::lease_of;
use crate::iomap::pause::Canary;
use crate::iomap::pause::Point;
use crate::iomap::retry::Attempt;
use crate::iomap::retry::Attempts;
use crate::kit::lock_order::watched;
use crate::kit::memory::Purpose;
use crate::kit::range_lock::RangeGuard;
use crate::limits::WRITE_PIECE_BLOCKS;
use crate::units::BLOCK;
use crate::units::FileBlocks;

/// What a piece writes.
#[derive(Clone, Copy)]
pub(super) enum Source<'a> {
    /// These bytes.
    Bytes(&'a [u8]),
    /// Zeroes.
    Zeroes,
}

impl Source<'_> {
    /// The part that belongs to `range` of a piece that starts at `start`.
    fn part(&self, start: u64, range: &Range<u64>) -> Self {
        match self {
            Self::Zeroes => Self::Zeroes,
            Self::Bytes(bytes) => {
                Self::Bytes(&bytes[(range.start - start) as usize..(range.end - start) as usize])
            }
        }
    }
}

/// What is applied at once; the caller holds the range lock over its blocks.
pub(super) struct Piece<'a> {
    /// Bytes of the object.
    pub bytes: Range<u64>,
    /// What they become.
    pub source: Source<'a>,
    /// Whether the size grows to the end of the piece.
    pub grows: bool,
}

impl Piece<'_> {
    fn blocks(&self) -> FileBlocks {
        FileBlocks::covering(&self.bytes)
    }

    /// Whether every byte of `block` that means something (below `size`) is overwritten, so that
    /// its old content is of no interest.
    fn replaces(&self, block: u64, size: u64) -> bool {
        let end = ((block + 1) * BLOCK).min(size);
        let start = (block * BLOCK).min(end);
        start == end || (self.bytes.start <= start && end <= self.bytes.end)
    }

    fn covers(&self, block: u64) -> bool {
        self.bytes.start <= block * BLOCK && (block + 1) * BLOCK <= self.bytes.end
    }

    /// The first and the last block, if they are not covered.
    fn edges(&self) -> impl Iterator<Item = u64> + '_ {
        let blocks = self.blocks();
        let last = (blocks.len() > 1).then(|| blocks.end - 1);
        let both = std::iter::once(blocks.start).chain(last);
        both.filter(|&block| !self.covers(block))
    }
}

/// All that a piece needs, gathered: what follows cannot wait.
struct Gathered<P: MappingProvider> {
    leases: Vec<Lease<P>>,
    folios: Vec<Grip>,
    /// Images of edge blocks that must keep bytes; `None` reads as zero.
    images: Vec<(u64, Option<Buffer>)>,
    /// For each folio the memory that replaces its own, if that is shared.
    spares: Vec<Option<Buffer>>,
    size: u64,
}

impl<P: MappingProvider, T: Transport> Mapped<P, T> {
    /// Writes `src` at `offset`; the size grows to the end if that lies behind it.
    ///
    /// Errors: `InvalidInput`, `NoSpace`, `OutOfMemory`, `TimedOut`, `Corrupt` and `Device` (an
    /// edge block cannot be read). After an error a prefix of whole pieces may be written.
    /// Dropping the future leaves a prefix of whole pieces written and nothing else behind.
    pub async fn write_at(&self, offset: u64, src: &[u8]) -> Result<()> {
        if self.write_dirty(offset, src) {
            return Ok(());
        }
        self.write_with(offset, src, &()).await
    }

    /// As [`Mapped::write_at`], with a hook that sees each folio while it is locked.
    pub async fn write_with<H: FolioHook>(&self, offset: u64, src: &[u8], hook: &H) -> Result<()> {
        let range = checked_range(offset, src.len())?;
        let mut at = range.start;
        while at < range.end {
            let piece_bytes = WRITE_PIECE_BLOCKS * BLOCK;
            let end = range.end.min((at / piece_bytes + 1) * piece_bytes);
            let part = &src[(at - offset) as usize..(end - offset) as usize];
            at += watched(self.write_piece(at..end, part, hook)).await?;
        }
        Ok(())
    }

    /// Changes bytes of blocks that are dirty already: their promises are given, whatever is stored
    /// for them is of no interest, and nothing needs to be waited for. `false` if it is not so; then
    /// nothing was changed.
    ///
    /// The folio's lock alone keeps it whole against all others: who shrinks sets the size before it comes
    /// to the folio, and who drops, replaces or logs blocks locks the folio. The range is needed for order:
    /// what was asked for earlier and still waits for its range must not undo this write later. So the
    /// range is locked while anybody holds or wants one alone, and not touched otherwise: two writers of
    /// one object then share nothing that either of them changes.
    pub fn write_dirty(&self, offset: u64, src: &[u8]) -> bool {
        let Ok(range) = checked_range(offset, src.len()) else { return false };
        let blocks = FileBlocks::covering(&range);
        if blocks.is_empty() || self.provider.may_write().is_err() {
            return false;
        }
        let mut _held = None;
        if self.ranges.is_wanted_alone() {
            _held = self.ranges.try_exclusive(blocks.start..blocks.end);
            if _held.is_none() {
                return false;
            }
        }
        let folio = self.cache.find(blocks.start).filter(|folio| folio.span().end >= blocks.end);
        let locked = folio.and_then(|folio| folio.try_lock());
        let Some(mut folio) = locked.filter(|lock| !lock.is_detached()).map(Grip::from) else {
            return false;
        };
        // With the folio locked: a cut that has set its size comes to the folio later.
        let inside = range.end <= self.provider.size();
        if !inside || !folio.are_dirty(blocks) || folio.needs_spare() {
            return false;
        }
        folio.write((range.start - folio.span().bytes().start) as usize, src, &mut None);
        folio.folio().touch();
        true
    }

    async fn write_piece<H: FolioHook>(
        &self,
        bytes: Range<u64>,
        src: &[u8],
        hook: &H,
    ) -> Result<u64> {
        let blocks = FileBlocks::covering(&bytes).len();
        // Where a writer is throttled: with nothing held.
        let _share = self.dirty.admit(blocks).await?;
        let _held = self.lock_for_write(&bytes).await;
        let size = self.provider.size();
        let grows = bytes.end > size;
        if grows {
            self.clear_old_end(size, bytes.start).await?;
        }
        let piece = Piece { bytes, source: Source::Bytes(src), grows };
        self.apply(piece, hook, || {}).await
    }

    /// The exclusive range lock over what a write touches: its blocks, and if it grows the object
    /// everything from the old last block on, so that only one task changes the size at a time.
    pub(super) async fn lock_for_write(&self, bytes: &Range<u64>) -> RangeGuard {
        let blocks = FileBlocks::covering(bytes);
        let mut attempts = Attempts::default();
        loop {
            let size = self.provider.size();
            attempts.count();
            let wanted = if attempts.exhausted() {
                // Wherever the end goes, this holds it.
                0..u64::MAX
            } else if bytes.end > size {
                size.min(bytes.start) / BLOCK..u64::MAX
            } else {
                blocks.start..blocks.end
            };
            let held = self.ranges.exclusive(wanted.clone()).await;
            let size = self.provider.size();
            let grows = bytes.end > size;
            if !grows || (wanted.end == u64::MAX && wanted.start <= size / BLOCK) {
                return held;
            }
            drop(held);
        }
    }

    /// Applies a piece whole; `under_lock` runs once, with the first folio of the piece locked,
    /// before any byte changes. Gives back how many bytes the piece had in the end: it may be
    /// cut short when memory is scarce, but not to nothing.
    pub(super) async fn apply<H: FolioHook>(
        &self,
        mut piece: Piece<'_>,
        hook: &H,
        under_lock: impl FnOnce() + Send,
    ) -> Result<u64> {
        let mut attempts = Attempts::default();
        loop {
            let attempt = self.attempt(&mut attempts).await;
            let Some(gathered) = self.gather(&attempt, &mut piece).await? else {
                continue;
            };
            under_lock();
            return self.apply_now(&piece, gathered, hook);
        }
    }

    /// Maps, locks and reads all that the piece needs; `None` if a mapping became stale.
    async fn gather(
        &self,
        attempt: &Attempt<'_>,
        piece: &mut Piece<'_>,
    ) -> Result<Option<Gathered<P>>> {
        let intent = if attempt.is_last() { MapIntent::Write } else { self.intent_of(piece) };
        let cursor = Cursor::new(&self.provider, piece.blocks(), intent);
        let mut leases = cursor.collect().await?;
        self.pauses.at(Point::AfterMap).await;
        let mut folios = self.lock_piece(piece).await?;
        self.pauses.at(Point::AfterFolioLock).await;
        if !self.all_current(attempt, &leases) {
            return Ok(None);
        }
        let size = self.provider.size();
        let mut images = Vec::new();
        for block in piece.edges() {
            let folio = holder(&folios, block);
            if folio.is_uptodate(block) || piece.replaces(block, size) {
                continue;
            }
            if intent == MapIntent::Overwrite && !self.pauses.is_broken(Canary::IgnoreStaleness) {
                // It was evicted after the look at it: ask anew, with its place.
                return Ok(None);
            }
            let lease = lease_of(&mut leases, block);
            match self.read_block(lease, block, size).await {
                Ok(image) => images.push((block, image)),
                Err(_) if !self.all_current(attempt, &leases) => return Ok(None),
                Err(error) => return Err(error),
            }
        }
        let spares = self.spares(&mut folios).await?;
        if !self.all_current(attempt, &leases) {
            return Ok(None);
        }
        Ok(Some(Gathered { leases, folios, images, spares, size }))
    }

    /// Whether something of the piece's blocks may have to be read: then their places are asked for.
    fn intent_of(&self, piece: &Piece<'_>) -> MapIntent {
        let size = self.provider.size();
        let cached = |block: u64| {
            let folio = self.cache.find(block);
            folio.is_some_and(|folio| {
                let at = (block - folio.index()) as usize;
                folio.is_uptodate(at..at + 1)
            })
        };
        match piece.edges().all(|block| piece.replaces(block, size) || cached(block)) {
            true => MapIntent::Overwrite,
            false => MapIntent::Write,
        }
    }

    /// Locks the folios of the piece, ascending. Only the first one may wait for memory: while
    /// something is held and memory is low the piece is cut instead.
    async fn lock_piece(&self, piece: &mut Piece<'_>) -> Result<Vec<Grip>> {
        let blocks = piece.blocks();
        let mut folios: Vec<Grip> = Vec::new();
        let mut at = blocks.start;
        while at < blocks.end {
            if !folios.is_empty() && self.memory.low() && self.cache.find(at).is_none() {
                piece.bytes.end = at * BLOCK;
                break;
            }
            self.pauses.at(Point::BeforeFolioLock).await;
            let order = order_for(at, blocks.end - at);
            let folio = Grip::find_or_create(&self.cache, at, order, &self.memory).await?;
            at = folio.span().end;
            folios.push(folio);
        }
        Ok(folios)
    }

    /// Memory for each folio whose own is shared with writeback or a reader. A large piece that is
    /// not free at once is not waited for before its writeback has ended: then it may not be needed.
    pub(super) async fn spares(&self, folios: &mut [Grip]) -> Result<Vec<Option<Buffer>>> {
        let mut spares = Vec::with_capacity(folios.len());
        for folio in folios {
            let order = folio.order();
            let mut spare = None;
            if folio.needs_spare() {
                spare = self.memory.try_at_once(order, Purpose::Data);
                if spare.is_none() && order > 0 {
                    folio.wait_writeback().await?;
                }
                if spare.is_none() {
                    spare = folio.spare(&self.memory, Purpose::Data).await?;
                }
            }
            spares.push(spare);
        }
        Ok(spares)
    }

    /// The synchronous part.
    fn apply_now<H: FolioHook>(
        &self,
        piece: &Piece<'_>,
        mut gathered: Gathered<P>,
        hook: &H,
    ) -> Result<u64> {
        self.late_spares(&mut gathered.folios, &mut gathered.spares)?;
        let folios = gathered.folios.into_iter().zip(gathered.spares);
        for (folio, spare) in folios {
            let bytes = folio.span().bytes();
            let start = piece.bytes.start.max(bytes.start);
            let range = start..piece.bytes.end.min(bytes.end);
            let blocks = FileBlocks::covering(&range);
            let mut guard = FolioGuard::new(folio, range.clone(), spare, hook, &self.pauses);
            for (block, image) in &gathered.images {
                let own = FileBlocks::new(*block, block + 1);
                match image {
                    _ if own.intersect(blocks).is_empty() => {}
                    Some(image) => guard.fill_block(*block, image),
                    None => guard.zero_blocks(own),
                }
            }
            for block in piece.edges() {
                let own = FileBlocks::new(block, block + 1);
                if !own.intersect(blocks).is_empty() && piece.replaces(block, gathered.size) {
                    guard.zero_blocks(own);
                }
            }
            match piece.source.part(piece.bytes.start, &range) {
                Source::Bytes(src) => guard.copy(src),
                Source::Zeroes => guard.zero(),
            }
            // Folio by folio: writeback may take each one as soon as it is unlocked, and must find
            // nothing but zeroes behind the size.
            let late = self.pauses.is_broken(Canary::PublishLate) && range.end < piece.bytes.end;
            let publish = || {
                if piece.grows && !late {
                    self.provider.publish_size(range.end);
                }
            };
            let whole = (range.end - range.start) as usize;
            let accepted = guard.commit(whole, &mut gathered.leases, publish);
            assert_eq!(accepted, whole, "edges were filled, so nothing is short");
        }
        Ok(piece.bytes.end - piece.bytes.start)
    }

    /// A reader may have pinned a folio since the spares were made; one more try, without waiting.
    pub(super) fn late_spares(
        &self,
        folios: &mut [Grip],
        spares: &mut [Option<Buffer>],
    ) -> Result<()> {
        for (folio, spare) in folios.iter_mut().zip(spares) {
            // What is lent comes back whole and private.
            if !folio.is_lent() && folio.needs_spare() && spare.is_none() {
                let late = self.memory.try_allocate(folio.order(), Purpose::Reserved);
                let Some(late) = late else {
                    let why = "no memory to replace a folio that a reader holds";
                    return Err(Error::new(ErrorKind::OutOfMemory, why));
                };
                *spare = Some(late);
            }
        }
        Ok(())
    }
}

/// The locked folio that holds `block`.
pub(super) fn holder(folios: &[Grip], block: u64) -> &Grip {
    let at = folios.partition_point(|folio| folio.span().end <= block);
    folios.get(at).expect("every touched block's folio is locked")
}
