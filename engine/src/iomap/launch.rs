//! Read-ahead: starts device reads for blocks that will be wanted, and lands them when they are.
//!
//! A flight is started by one miss and landed by a later one, so that the device works while the
//! reader copies. The reader that reaches it lands it, others that want its blocks wait for him, and no task
//! drives it: the device goes on by itself.
//!
//! Guarantees: a flight holds no lock and no mapping. Its bytes enter the cache only if nothing that
//! is stored for its blocks has changed since before they were mapped (the contents cookie, compared
//! with the range lock held), only if they match their checksums, and only where no folio is. It
//! takes memory only above the low watermark. Damage ahead is left for who reads it.
//!
//! Does not guess (`ahead` does). Flights that no reader reaches are dropped by
//! [`Mapped::drop_old_flights`]. Called by `read`; by the flusher for the old ones, and through
//! `volume` by reclaim while somebody waits for memory.

use foliant_device::Buffer;

use crate::error::Result;
use crate::iomap::bundle::Counts;
use crate::iomap::bundle::Mapped;
use crate::iomap::bundle::order_for;
use crate::iomap::contract::MapIntent;
use crate::iomap::contract::MappingProvider;
use crate::iomap::contract::Transport;
use crate::iomap::flight::Flight;
use crate::iomap::flight::Leg;
use crate::iomap::iter::Cursor;
use crate::kit::checksum;
use crate::kit::memory::Purpose;
use crate::limits::READS_IN_FLIGHT;
use crate::units::BLOCK;
use crate::units::BLOCK_BYTES;
use crate::units::FileBlocks;

/// Of the memory, at most this part is lent to the flights of one object.
const MEMORY_SHARE: usize = 16;
/// Cached folios at the start of a window that are stepped over.
const SKIPS_MAX: usize = 16;

impl<P: MappingProvider, T: Transport> Mapped<P, T> {
    /// Starts the reads of `pieces`, as far as they are stored, not cached, and memory is plentiful.
    ///
    /// An error ends the work: whoever asks for the blocks will hear it. Dropping the future leaves
    /// out the pieces that were not started.
    pub(super) async fn launch(&self, pieces: Vec<FileBlocks>) {
        for piece in pieces {
            let started = self.start_flight(piece).await;
            if !started.unwrap_or(false) {
                return;
            }
        }
    }

    /// Whether there is room for more.
    async fn start_flight(&self, piece: FileBlocks) -> Result<bool> {
        let cookie = self.provider.contents_cookie(piece);
        let Some(blocks) = self.uncached_part(self.flights.without(piece)) else {
            return Ok(true);
        };
        let most = (self.memory.capacity_blocks() / MEMORY_SHARE) as u64;
        let room = self.flights.room(blocks.len(), most);
        if room == 0 || !self.memory.make_room(room as usize) {
            return Ok(false);
        }
        let clipped = room < blocks.len();
        let blocks = FileBlocks::new(blocks.start, blocks.start + room);
        let started = self.flights.start(blocks);
        let legs = Vec::new();
        let mut flight = Flight { blocks, cookie, sampled: piece, legs, age: 0, serial: 0 };
        let mut cursor = Cursor::new(&self.provider, blocks, MapIntent::Read);
        let mut plentiful = true;
        while plentiful
            && flight.legs.len() < READS_IN_FLIGHT
            && let Some(lease) = cursor.next().await?
        {
            let Some((at, _)) = lease.stored(lease.blocks().start) else {
                continue;
            };
            let (buffers, end) = self.flight_buffers(lease.blocks());
            plentiful = end == lease.blocks().end;
            let own = FileBlocks::new(lease.blocks().start, end);
            if !own.is_empty() {
                let checksums = lease.checksums();
                let request = Box::pin(self.transport.read(at, buffers));
                flight.legs.push(Leg { blocks: own, checksums, request });
                Counts::add(&self.counts.blocks_read_ahead, own.len());
            }
        }
        flight.blocks.end = flight.legs.last().map_or(blocks.start, |leg| leg.blocks.end);
        if !flight.legs.is_empty() {
            self.flights.add(flight, started);
        }
        Ok(plentiful && !clipped)
    }

    /// The part of `piece` below the size that starts behind the cached folios at its start and ends
    /// at the next one.
    fn uncached_part(&self, piece: FileBlocks) -> Option<FileBlocks> {
        let end = piece.end.min(self.provider.size().div_ceil(BLOCK));
        let mut start = piece.start;
        for _ in 0..SKIPS_MAX {
            if start >= end {
                return None;
            }
            let next = self.cache.folios(FileBlocks::new(start, end), 1).pop();
            match next.map(|folio| folio.span()) {
                Some(span) if span.start <= start => start = span.end,
                Some(span) => return Some(FileBlocks::new(start, span.start)),
                None => return Some(FileBlocks::new(start, end)),
            }
        }
        None
    }

    /// Memory for the folios of `blocks`, as large as they can be; and where it ends.
    fn flight_buffers(&self, blocks: FileBlocks) -> (Vec<Buffer>, u64) {
        let mut buffers = Vec::new();
        let mut at = blocks.start;
        while at < blocks.end {
            let order = order_for(at, blocks.end - at);
            let Some(buffer) = self.memory.try_largest(order, Purpose::Data) else {
                break;
            };
            at += buffer.blocks() as u64;
            buffers.push(buffer);
        }
        (buffers, at)
    }

    /// Brings a flight into the cache.
    ///
    /// What does not come along (damage, something changed, somebody was quicker) is left out: the
    /// caller looks again. Dropping the future loses the flight.
    pub(super) async fn land(&self, flight: Flight) {
        let _held = self.ranges.shared(flight.blocks.start..flight.blocks.end).await;
        for leg in flight.legs {
            let (buffers, result) = leg.request.await;
            let unchanged = self.provider.contents_cookie(flight.sampled) == flight.cookie;
            if result.is_err() || !unchanged {
                return;
            }
            Counts::add(&self.counts.blocks_read, leg.blocks.len());
            let mut at = leg.blocks.start;
            for buffer in buffers {
                let sums =
                    leg.checksums.as_deref().map(|sums| &sums[(at - leg.blocks.start) as usize..]);
                let next = at + buffer.blocks() as u64;
                self.settle(at, buffer, sums);
                at = next;
            }
        }
    }

    /// Makes a folio of a buffer that was read, unless a block of it is damaged or has a folio.
    fn settle(&self, at: u64, mut buffer: Buffer, checksums: Option<&[u32]>) {
        let blocks = buffer.blocks();
        let sound = |(index, image): (usize, &[u8])| match checksums {
            Some(sums) => checksum::of(image) == sums[index],
            None => true,
        };
        if !buffer.chunks(BLOCK_BYTES).enumerate().all(sound) {
            return;
        }
        let size = self.provider.size();
        let keep = size.saturating_sub(at * BLOCK).min((blocks * BLOCK_BYTES) as u64) as usize;
        let bytes = buffer.get_mut().expect("nobody else has seen this buffer");
        bytes[keep..].fill(0);
        if let Ok(folio) = self.cache.insert(at, buffer) {
            folio.set_uptodate(0..blocks);
        }
    }

    /// Drops read-ahead that has been on its way for `ticks` calls of this: its reader went elsewhere,
    /// and it holds memory.
    pub fn drop_old_flights(&self, ticks: u32) {
        self.flights.drop_old(ticks);
    }

    /// Gives up `blocks` of read-ahead, because somebody waits for memory; how many it gave up.
    pub fn give_up_flights(&self, blocks: u64) -> u64 {
        self.flights.give_up(blocks)
    }
}
