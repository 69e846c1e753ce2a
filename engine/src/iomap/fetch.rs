//! Blocks from the device, or from the provider itself, into locked folios: verified, and zero behind the end.
//!
//! Guarantees: bytes enter a folio only if the mapping was current, with the folio locked, after
//! they were read, and only if they match their checksum; bytes behind the size are zero. A
//! dropped future leaves the folios as they were.
//!
//! Does not lock or map. Called by `read`, `write` and `hold`; `read_direct` borrows its checks.

use foliant_device::Buffer;
use futures_util::future::join_all;

use crate::error::Error;
use crate::error::Result;
use crate::iomap::bundle::Counts;
use crate::iomap::bundle::Mapped;
use crate::iomap::contract::MappingProvider;
use crate::iomap::contract::Transport;
use crate::iomap::grip::Grip;
use crate::iomap::iter::Lease;
use crate::iomap::pause::Canary;
use crate::iomap::retry::Attempt;
use crate::iomap::write::holder;
use crate::kit::checksum;
use crate::kit::memory::Purpose;
use crate::limits::READS_IN_FLIGHT;
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
pub(super) fn clear_behind(image: &mut [u8], block: u64, size: u64) {
    let keep = size.saturating_sub(block * BLOCK).min(BLOCK) as usize;
    image[keep..].fill(0);
}

/// Makes the image of block 0 from its stored bytes.
pub(super) fn fill_inline(image: &mut [u8], bytes: &[u8], size: u64) {
    image[..bytes.len()].copy_from_slice(bytes);
    image[bytes.len()..].fill(0);
    clear_behind(image, 0, size);
}

/// A run of blocks that are missing, all under one mapping.
struct Missing {
    blocks: FileBlocks,
    /// Where they are stored, with the memory to read them into; `None` reads as zero.
    stored: Option<(BlockNo, Vec<Buffer>)>,
    /// Which of the mappings it is.
    lease: usize,
}

fn is_present(folios: &[Grip], block: u64) -> bool {
    holder(folios, block).is_uptodate(block)
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
        if let Some(bytes) = lease.inline() {
            let mut buffer = self.memory.allocate(0, Purpose::Data).await?;
            let image = buffer.get_mut().expect("a fresh buffer has one owner");
            fill_inline(image, bytes, size);
            return Ok(Some(buffer));
        }
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

    /// Compares a block with its checksum, if there is one. Errors: `Corrupt`.
    pub(super) fn verify(&self, at: BlockNo, image: &[u8], expected: Option<u32>) -> Result<()> {
        let Some(expected) = expected else {
            return Ok(());
        };
        let got = checksum::of(image);
        if got == expected || self.pauses.is_broken(Canary::TrustDevice) {
            return Ok(());
        }
        Err(Error::checksum("data", at, expected, got))
    }

    /// Makes the blocks `wanted` of the locked `folios` up to date under `leases`, which cover them:
    /// all device reads at once, at most [`READS_IN_FLIGHT`].
    ///
    /// `demand` is the block up to which somebody waits. Behind it the first block that is up to
    /// date ends the work, as does damage, which is left for who reads it. Errors: `Device`,
    /// `Corrupt`, `OutOfMemory`.
    pub(super) async fn fetch(
        &self,
        attempt: &Attempt<'_>,
        folios: &mut [Grip],
        leases: &[Lease<P>],
        wanted: FileBlocks,
        demand: u64,
    ) -> Result<Fetched> {
        let mut spares = self.spares(folios).await?;
        let (mut runs, end) = self.missing_runs(folios, leases, wanted, demand).await?;
        let requests = runs.iter_mut().map(|run| {
            let (at, buffers) = match &mut run.stored {
                Some((at, buffers)) => (*at, std::mem::take(buffers)),
                None => (BlockNo(0), Vec::new()),
            };
            let reads = !buffers.is_empty();
            let request = reads.then(|| self.transport.read(at, buffers));
            async move {
                match request {
                    Some(request) => request.await,
                    None => (Vec::new(), Ok(())),
                }
            }
        });
        let answers = join_all(requests).await;
        if !self.all_current(attempt, leases) {
            return Ok(Fetched::Stale);
        }
        self.late_spares(folios, &mut spares)?;
        for (run, (buffers, result)) in runs.iter().zip(answers) {
            let taken = match result {
                Ok(()) => self.take_run(folios, &mut spares, leases, run, buffers),
                Err(error) => Err((run.blocks.start, error)),
            };
            match taken {
                Ok(()) => {}
                Err((bad, _)) if bad >= demand => return Ok(Fetched::UpTo(bad)),
                Err((_, error)) => return Err(error),
            }
        }
        Ok(Fetched::UpTo(end))
    }

    /// What is missing in `wanted`, run by run, with memory to read into; and where that ends, which
    /// is earlier than asked when memory is short.
    async fn missing_runs(
        &self,
        folios: &[Grip],
        leases: &[Lease<P>],
        wanted: FileBlocks,
        demand: u64,
    ) -> Result<(Vec<Missing>, u64)> {
        let mut runs: Vec<Missing> = Vec::new();
        let mut at = wanted.start;
        while at < wanted.end && runs.len() < READS_IN_FLIGHT {
            if is_present(folios, at) {
                if at >= demand {
                    break;
                }
                at += 1;
                continue;
            }
            let lease = leases.partition_point(|lease| lease.blocks().end <= at);
            let end = wanted.end.min(leases[lease].blocks().end);
            let end = (at..end).find(|&block| is_present(folios, block)).unwrap_or(end);
            let mut blocks = FileBlocks::new(at, end);
            let stored = match leases[lease].stored(at) {
                None => None,
                Some((place, _)) => {
                    let buffers = self.buffers(folios, blocks, runs.is_empty()).await?;
                    let count: usize = buffers.iter().map(Buffer::blocks).sum();
                    blocks.end = at + count as u64;
                    Some((place, buffers))
                }
            };
            if blocks.is_empty() {
                break;
            }
            at = blocks.end;
            runs.push(Missing { blocks, stored, lease });
            if at < end {
                break;
            }
        }
        Ok((runs, at))
    }

    /// Takes what was read for a run, up to the first damaged block.
    fn take_run(
        &self,
        folios: &mut [Grip],
        spares: &mut [Option<Buffer>],
        leases: &[Lease<P>],
        run: &Missing,
        buffers: Vec<Buffer>,
    ) -> std::result::Result<(), (u64, Error)> {
        if run.stored.is_none() {
            match leases[run.lease].inline() {
                Some(bytes) => self.take_inline(folios, spares, bytes),
                None => zero_run(folios, spares, run.blocks),
            }
            return Ok(());
        }
        Counts::add(&self.counts.blocks_read, run.blocks.len());
        let mut at = run.blocks.start;
        for buffer in buffers {
            let end = at + buffer.blocks() as u64;
            self.accept(folios, spares, &leases[run.lease], at, buffer)?;
            at = end;
        }
        Ok(())
    }

    /// Fills block 0 from what the provider stores, at once: a reader without the lock must not see
    /// it half filled.
    fn take_inline(&self, folios: &mut [Grip], spares: &mut [Option<Buffer>], bytes: &[u8]) {
        let mut image = [0; BLOCK_BYTES];
        fill_inline(&mut image, bytes, self.provider.size());
        // Folios ascend, and the first one that lacks a block of the run is the one of block 0.
        let (folio, spare) = (&mut folios[0], &mut spares[0]);
        assert_eq!(folio.span().start, 0, "block 0 lies in the first folio");
        folio.write(0, &image, spare);
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
        } else if folio.is_lent() {
            folio.give_back(buffer);
        } else if !blocks.is_empty() {
            let within = (start - folio.span().start) as usize * BLOCK_BYTES;
            let bytes = &buffer[..blocks.len() as usize * BLOCK_BYTES];
            folio.write(within, bytes, &mut spares[holder]);
        }
        folio.set_uptodate(blocks);
        outcome
    }

    /// Buffers for the run: the memory of folios that are read whole, or other as large as it may be.
    /// Only the first one of a fetch waits for memory.
    async fn buffers(
        &self,
        folios: &[Grip],
        wanted: FileBlocks,
        may_wait: bool,
    ) -> Result<Vec<Buffer>> {
        let mut buffers = Vec::new();
        let mut at = wanted.start;
        while at < wanted.end {
            let whole = whole_folio_at(folios, at, wanted);
            let order = whole.unwrap_or(0);
            let own = whole.and_then(|_| holder(folios, at).lend());
            let buffer = match own.or_else(|| self.memory.try_allocate(order, Purpose::Data)) {
                Some(buffer) => buffer,
                None if may_wait && buffers.is_empty() => {
                    self.memory.allocate(0, Purpose::Data).await?
                }
                None => break,
            };
            at += buffer.blocks() as u64;
            buffers.push(buffer);
        }
        Ok(buffers)
    }
}

/// A hole or unwritten blocks: zeroes without a read.
fn zero_run(folios: &mut [Grip], spares: &mut [Option<Buffer>], blocks: FileBlocks) {
    for (folio, spare) in folios.iter_mut().zip(spares) {
        let own = folio.span().intersect(blocks);
        if !own.is_empty() {
            let start = folio.span().bytes().start;
            let bytes = own.bytes();
            folio.zero((bytes.start - start) as usize..(bytes.end - start) as usize, spare);
            folio.set_uptodate(own);
        }
    }
}
