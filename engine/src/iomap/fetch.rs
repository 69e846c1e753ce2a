//! Blocks from the device into locked folios: verified, and zero behind the end.
//!
//! Guarantees: bytes enter a folio only if the mapping was current, with the folio locked, after
//! they were read, and only if they match their checksum; bytes behind the size are zero. A
//! dropped future leaves the folios as they were.
//!
//! Does not lock or map. Called by `read`, `write` and `hold`.

use foliant_device::Buffer;

use crate::error::Error;
use crate::error::Result;
use crate::iomap::bundle::Counts;
use crate::iomap::bundle::Mapped;
use crate::iomap::contract::MappingProvider;
use crate::iomap::contract::Transport;
use crate::iomap::grip::Grip;
use crate::iomap::iter::Lease;
use crate::iomap::pause::Canary;
use crate::iomap::write::holder;
use crate::kit::memory::Purpose;
use crate::units::BLOCK;
use crate::units::BLOCK_BYTES;
use crate::units::BlockNo;
use crate::units::FileBlocks;

/// What became of a fetch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fetched {
    /// All blocks up to this one are up to date.
    UpTo(u64),
    /// The mapping changed; nothing was accepted.
    Stale,
}

/// Zeroes the part of a block's image that lies at or behind `size`.
fn clear_behind(image: &mut [u8], block: u64, size: u64) {
    let keep = size.saturating_sub(block * BLOCK).min(BLOCK) as usize;
    image[keep..].fill(0);
}

/// The run of blocks to fetch: from the start of `wanted` to the first block that is up to date.
/// If the start itself is, the answer is empty and lies at the end of what is up to date.
fn missing_run(folios: &[Grip], wanted: FileBlocks) -> FileBlocks {
    let present = |&block: &u64| holder(folios, block).is_uptodate(block);
    if wanted.is_empty() {
        return wanted;
    }
    if present(&wanted.start) {
        let end = (wanted.start..wanted.end).find(|block| !present(block));
        let end = end.unwrap_or(wanted.end);
        return FileBlocks::new(end, end);
    }
    let end = (wanted.start..wanted.end).find(present);
    FileBlocks::new(wanted.start, end.unwrap_or(wanted.end))
}

/// The order of the folio that starts at `at`, if the run covers it: then it can take over the
/// buffer instead of a copy.
fn whole_folio_at(folios: &[Grip], at: u64, wanted: FileBlocks) -> Option<u8> {
    let folio = holder(folios, at);
    let whole = folio.span().start == at && folio.span().end <= wanted.end;
    whole.then(|| folio.order())
}

impl<P: MappingProvider, T: Transport> Mapped<P, T> {
    /// The verified bytes of one block, zero behind `size`; `None` if nothing is stored there.
    ///
    /// The caller checks that the lease is current afterwards: an error or a wrong checksum of a
    /// stale place means nothing.
    pub(super) async fn read_block(
        &self,
        lease: &Lease<P>,
        block: u64,
        size: u64,
    ) -> Result<Option<Buffer>> {
        let Some((at, sum)) = lease.stored(block) else {
            return Ok(None);
        };
        let buffer = self.memory.allocate(0, Purpose::Data).await?;
        let (mut buffers, result) = self.transport.read(at, vec![buffer]).await;
        result?;
        Counts::add(&self.counts.blocks_read, 1);
        let mut buffer = buffers.pop().expect("a read gives its buffers back");
        self.verify(at, &buffer, sum)?;
        let image = buffer.get_mut().expect("nobody else has seen this buffer");
        clear_behind(image, block, size);
        Ok(Some(buffer))
    }

    fn verify(&self, at: BlockNo, image: &[u8], expected: Option<u32>) -> Result<()> {
        let Some(expected) = expected else {
            return Ok(());
        };
        let got = crc32c::crc32c(image);
        if got == expected || self.pauses.is_broken(Canary::TrustDevice) {
            return Ok(());
        }
        Err(Error::checksum("data", at, expected, got))
    }

    /// Makes the blocks `wanted` of the locked `folios` up to date under `lease`, up to the first
    /// one that already is, in one device read.
    ///
    /// `demand` is the block up to which somebody waits: damage behind it is left for who reads
    /// it. Errors: `Device`, `Corrupt`, `OutOfMemory`.
    pub(super) async fn fetch(
        &self,
        folios: &mut [Grip],
        lease: &Lease<P>,
        wanted: FileBlocks,
        demand: u64,
    ) -> Result<Fetched> {
        let wanted = missing_run(folios, wanted);
        if wanted.is_empty() {
            return Ok(Fetched::UpTo(wanted.end));
        }
        let Some((at, _)) = lease.stored(wanted.start) else {
            return self.fetch_zeroes(folios, lease, wanted).await;
        };
        let mut spares = self.spares(folios).await?;
        let buffers = self.buffers(folios, wanted).await?;
        let count: usize = buffers.iter().map(Buffer::blocks).sum();
        let wanted = FileBlocks::new(wanted.start, wanted.start + count as u64);
        let (buffers, result) = self.transport.read(at, buffers).await;
        if !self.all_current(std::slice::from_ref(lease)) {
            return Ok(Fetched::Stale);
        }
        result?;
        Counts::add(&self.counts.blocks_read, wanted.len());
        self.late_spares(folios, &mut spares)?;
        let mut at = wanted.start;
        for buffer in buffers {
            let end = at + buffer.blocks() as u64;
            match self.accept(folios, &mut spares, lease, at, buffer) {
                Ok(()) => at = end,
                Err((bad, _)) if bad >= demand => return Ok(Fetched::UpTo(bad)),
                Err((_, error)) => return Err(error),
            }
        }
        Ok(Fetched::UpTo(wanted.end))
    }

    /// Takes the blocks of one buffer, which was read for block `start` on, up to the first
    /// damaged one.
    fn accept(
        &self,
        folios: &mut [Grip],
        spares: &mut [Option<Buffer>],
        lease: &Lease<P>,
        start: u64,
        mut buffer: Buffer,
    ) -> std::result::Result<(), (u64, Error)> {
        let size = self.provider.size();
        let mut blocks = FileBlocks::new(start, start + buffer.blocks() as u64);
        let mut outcome = Ok(());
        let bytes = buffer.get_mut().expect("nobody else has seen this buffer");
        for (image, block) in bytes.chunks_mut(BLOCK_BYTES).zip(blocks.start..) {
            let (at, sum) = lease.stored(block).expect("a stored run was read");
            if let Err(error) = self.verify(at, image, sum) {
                outcome = Err((block, error));
                blocks.end = block;
                break;
            }
            clear_behind(image, block, size);
        }
        let holder = folios.partition_point(|folio| folio.span().end <= start);
        let folio = &mut folios[holder];
        if folio.span() == blocks {
            folio.install(buffer);
        } else if !blocks.is_empty() {
            let within = (start - folio.span().start) as usize * BLOCK_BYTES;
            let bytes = &buffer[..blocks.len() as usize * BLOCK_BYTES];
            folio.write(within, bytes, &mut spares[holder]);
        }
        folio.set_uptodate(blocks);
        outcome
    }

    /// Buffers for the run: as large as they may be, so that whole folios can take them over.
    /// Only the first one waits for memory.
    async fn buffers(&self, folios: &[Grip], wanted: FileBlocks) -> Result<Vec<Buffer>> {
        let mut buffers = Vec::new();
        let mut at = wanted.start;
        while at < wanted.end {
            let order = whole_folio_at(folios, at, wanted).unwrap_or(0);
            let buffer = match self.memory.try_allocate(order, Purpose::Data) {
                Some(buffer) => buffer,
                None if buffers.is_empty() => self.memory.allocate(0, Purpose::Data).await?,
                None => break,
            };
            at += buffer.blocks() as u64;
            buffers.push(buffer);
        }
        Ok(buffers)
    }

    /// A hole or unwritten blocks: zeroes without a read.
    async fn fetch_zeroes(
        &self,
        folios: &mut [Grip],
        lease: &Lease<P>,
        wanted: FileBlocks,
    ) -> Result<Fetched> {
        let mut spares = self.spares(folios).await?;
        if !self.all_current(std::slice::from_ref(lease)) {
            return Ok(Fetched::Stale);
        }
        for (folio, spare) in folios.iter_mut().zip(&mut spares) {
            let own = folio.span().intersect(wanted);
            if !own.is_empty() {
                let start = folio.span().bytes().start;
                let bytes = own.bytes();
                let within = (bytes.start - start) as usize..(bytes.end - start) as usize;
                folio.zero(within, spare);
                folio.set_uptodate(own);
            }
        }
        Ok(Fetched::UpTo(wanted.end))
    }
}
