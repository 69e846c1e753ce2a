//! Reads from the device straight into memory of the caller, past the cache.
//!
//! Guarantees the bytes that `read` would give: what is cached and up to date is copied from the cache,
//! because it may be newer than the device (dirty, on its way, or logged and not home); the rest is
//! read where the mapping says, verified, and accepted only if the mapping is still current
//! afterwards. Behind the size all is zero. Whole blocks leave nothing in the cache.
//!
//! Parts of blocks at the edges, and ranges whose place in the memory is aligned otherwise than in the
//! object, go through the cache by copy. Does not write, dirty or lock folios. Called by `api::direct`.

use std::collections::BTreeMap;
use std::ops::Range;

use foliant_device::Buffer;
use futures_util::StreamExt;
use futures_util::stream;

use crate::error::Error;
use crate::error::ErrorKind;
use crate::error::Result;
use crate::iomap::ahead::Reader;
use crate::iomap::bundle::Counts;
use crate::iomap::bundle::Mapped;
use crate::iomap::contract::MapIntent;
use crate::iomap::contract::MappingProvider;
use crate::iomap::contract::Transport;
use crate::iomap::contract::checked_range;
use crate::iomap::fetch::clear_behind;
use crate::iomap::fetch::fill_inline;
use crate::iomap::iter::Cursor;
use crate::iomap::iter::Lease;
use crate::iomap::pause::Canary;
use crate::iomap::pause::Point;
use crate::iomap::retry::Attempts;
use crate::iomap::zero::whole_blocks;
use crate::limits::READS_IN_FLIGHT;
use crate::units::BLOCK;
use crate::units::BLOCK_BYTES;
use crate::units::BlockNo;
use crate::units::FileBlocks;

/// A byte range of an object as the parts that go different ways, ascending.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Parts {
    /// Through the cache.
    pub head: Range<u64>,
    /// Straight.
    pub blocks: FileBlocks,
    /// Through the cache.
    pub tail: Range<u64>,
}

impl Parts {
    /// Cuts `range`, whose bytes lie in memory from `at` on. Blocks go straight only if they are blocks
    /// of the memory, too.
    pub fn of(range: &Range<u64>, at: usize) -> Self {
        let inner = whole_blocks(range);
        if inner.is_empty() || range.start % BLOCK != at as u64 % BLOCK {
            let blocks = FileBlocks::new(0, 0);
            return Self { head: range.clone(), blocks, tail: range.end..range.end };
        }
        let bytes = inner.bytes();
        Self { head: range.start..bytes.start, blocks: inner, tail: bytes.end..range.end }
    }
}

/// Blocks that must come from the device, neighbours there as in the object.
struct Run {
    blocks: FileBlocks,
    at: BlockNo,
    sums: Vec<Option<u32>>,
}

/// A buffer in pieces that can be lent to different requests, by their first block.
struct Pieces {
    order: u8,
    pieces: BTreeMap<usize, Buffer>,
}

impl Pieces {
    fn new(memory: Buffer) -> Self {
        Self { order: memory.order(), pieces: BTreeMap::from([(0, memory)]) }
    }

    /// Makes a piece begin at block `at`, if `at` lies inside of the memory.
    fn cut(&mut self, at: usize) {
        while let Some((&start, piece)) = self.pieces.range_mut(..=at).next_back() {
            if start == at || start + piece.blocks() <= at {
                return;
            }
            let upper = piece.split_half().expect("a piece that holds two places can be split");
            let middle = start + piece.blocks();
            self.pieces.insert(middle, upper);
        }
    }

    fn take(&mut self, blocks: Range<usize>) -> Vec<Buffer> {
        self.cut(blocks.start);
        self.cut(blocks.end);
        let starts: Vec<usize> = self.pieces.range(blocks).map(|(&start, _)| start).collect();
        starts.iter().filter_map(|start| self.pieces.remove(start)).collect()
    }

    fn put(&mut self, mut start: usize, pieces: Vec<Buffer>) {
        for piece in pieces {
            let end = start + piece.blocks();
            self.pieces.insert(start, piece);
            start = end;
        }
    }

    /// The whole memory; `None` if a part of it was never given back.
    fn join(self) -> Option<Buffer> {
        let mut joined: Vec<Buffer> = Vec::new();
        for mut piece in self.pieces.into_values() {
            while let Some(mut lower) = joined.pop() {
                match lower.join_half(piece) {
                    Ok(()) => piece = lower,
                    Err(apart) => {
                        joined.push(lower);
                        piece = apart;
                        break;
                    }
                }
            }
            joined.push(piece);
        }
        joined.pop().filter(|whole| whole.order() == self.order)
    }
}

fn bytes_of(memory: &mut Option<Buffer>) -> Result<&mut [u8]> {
    let bytes = memory.as_mut().and_then(Buffer::get_mut);
    bytes.ok_or_else(|| Error::new(ErrorKind::Closed, "the device kept the memory of a read"))
}

impl<P: MappingProvider, T: Transport> Mapped<P, T> {
    /// Reads from `offset` on into the bytes `within` of `memory`, which nobody else may hold; gives back
    /// how many bytes were read, fewer than asked only at the end of the object.
    ///
    /// The memory comes back with the result, except when the device kept it. Errors: those of
    /// [`Mapped::read_at`]; the bytes `within` are unspecified then. Dropping the future has no
    /// effect: the device keeps what it was given until it is done.
    pub async fn read_direct(
        &self,
        offset: u64,
        memory: Buffer,
        within: Range<usize>,
    ) -> (Option<Buffer>, Result<usize>) {
        let mut memory = Some(memory);
        let mut looks = self.looks();
        loop {
            looks.begin().await;
            let result = self.read_parts(offset, &mut memory, within.clone()).await;
            if result.is_err() || looks.is_whole() {
                return (memory, result);
            }
        }
    }

    async fn read_parts(
        &self,
        offset: u64,
        memory: &mut Option<Buffer>,
        within: Range<usize>,
    ) -> Result<usize> {
        let range = checked_range(offset, within.len())?;
        let Parts { head, blocks, tail } = Parts::of(&range, within.start);
        let place = |at: u64| within.start + (at - offset) as usize;
        let mut end = head.start + self.read_copied(&head, place(head.start), memory).await?;
        if end == head.end && !blocks.is_empty() {
            let start = place(blocks.bytes().start);
            end += self.read_blocks(blocks, start / BLOCK_BYTES, memory).await?;
        }
        if end == tail.start {
            end += self.read_copied(&tail, place(tail.start), memory).await?;
        }
        // A truncate may have passed by between the parts.
        Ok((end.min(self.provider.size()).max(offset) - offset) as usize)
    }

    async fn read_copied(
        &self,
        bytes: &Range<u64>,
        at: usize,
        memory: &mut Option<Buffer>,
    ) -> Result<u64> {
        if bytes.is_empty() {
            return Ok(0);
        }
        let len = (bytes.end - bytes.start) as usize;
        let into = &mut bytes_of(memory)?[at..at + len];
        Ok(self.read_once(&Reader::default(), bytes.start, into).await? as u64)
    }

    /// Reads `blocks` to block `at` of the memory; gives back how many bytes lay below the size.
    async fn read_blocks(
        &self,
        blocks: FileBlocks,
        at: usize,
        memory: &mut Option<Buffer>,
    ) -> Result<u64> {
        let mut attempts = Attempts::default();
        loop {
            if let Some(read) = self.try_read_blocks(&mut attempts, blocks, at, memory).await? {
                return Ok(read);
            }
        }
    }

    /// One attempt; `None` if a mapping became stale.
    async fn try_read_blocks(
        &self,
        attempts: &mut Attempts,
        blocks: FileBlocks,
        at: usize,
        memory: &mut Option<Buffer>,
    ) -> Result<Option<u64>> {
        let _held = self.ranges.shared(blocks.start..blocks.end).await;
        // With the range held nothing here is dirtied, and the size does not cross these blocks.
        let size = self.provider.size();
        let end = blocks.end.min(size.div_ceil(BLOCK));
        if end <= blocks.start {
            return Ok(Some(0));
        }
        let wanted = FileBlocks::new(blocks.start, end);
        let attempt = self.attempt(attempts).await;
        let leases = Cursor::new(&self.provider, wanted, MapIntent::Read).collect().await?;
        self.pauses.at(Point::AfterMap).await;
        let bytes = at * BLOCK_BYTES..(at + wanted.len() as usize) * BLOCK_BYTES;
        let image = &mut bytes_of(memory)?[bytes.clone()];
        let runs = self.copy_cached(wanted, &leases, image);
        let filled = self.fill(&runs, wanted.start, at, memory).await;
        let image = match bytes_of(memory) {
            Ok(memory) => &mut memory[bytes],
            Err(lost) => return Err(filled.err().unwrap_or(lost)),
        };
        // An error or a wrong checksum of a stale place means nothing.
        if !self.all_current(&attempt, &leases) {
            return Ok(None);
        }
        filled?;
        for run in &runs {
            Counts::add(&self.counts.blocks_read, run.blocks.len());
            let first = (run.blocks.start - wanted.start) as usize;
            let images = image.chunks(BLOCK_BYTES).skip(first);
            for ((index, sum), image) in run.sums.iter().enumerate().zip(images) {
                self.verify(run.at.plus(index as u64), image, *sum)?;
            }
        }
        let last = image.len() - BLOCK_BYTES;
        clear_behind(&mut image[last..], wanted.end - 1, size);
        Ok(Some(size.min(wanted.bytes().end) - wanted.bytes().start))
    }

    /// Copies what is cached or kept by the provider, zeroes what is stored nowhere; the answer is what is left to be read.
    ///
    /// Comes after the mappings were made and before they are checked: who is written back and dropped
    /// from the cache in between makes them stale.
    fn copy_cached(&self, wanted: FileBlocks, leases: &[Lease<P>], image: &mut [u8]) -> Vec<Run> {
        let past = self.pauses.is_broken(Canary::ReadPastDirty);
        let folios = if past { Vec::new() } else { self.cache.folios(wanted, usize::MAX) };
        let mut folios = folios.iter().peekable();
        let mut leases = leases.iter().peekable();
        let mut runs: Vec<Run> = Vec::new();
        for (block, image) in (wanted.start..wanted.end).zip(image.chunks_mut(BLOCK_BYTES)) {
            while folios.next_if(|folio| folio.span().end <= block).is_some() {}
            while leases.next_if(|lease| lease.blocks().end <= block).is_some() {}
            let cached =
                folios.peek().filter(|folio| folio.index() <= block).is_some_and(|folio| {
                    folio.read_at((block - folio.index()) as usize * BLOCK_BYTES, image)
                });
            if cached {
                continue;
            }
            let lease = leases.peek().expect("every block was mapped");
            let Some((at, sum)) = lease.stored(block) else {
                match lease.inline() {
                    Some(bytes) => fill_inline(image, bytes, self.provider.size()),
                    None => image.fill(0),
                }
                continue;
            };
            match runs.last_mut() {
                Some(run) if run.blocks.end == block && run.at.plus(run.blocks.len()) == at => {
                    run.blocks.end += 1;
                    run.sums.push(sum);
                }
                _ => runs.push(Run {
                    blocks: FileBlocks::new(block, block + 1),
                    at,
                    sums: vec![sum],
                }),
            }
        }
        runs
    }

    /// Reads the runs to their places in the memory, block `first` of the object being at its block `at`.
    async fn fill(
        &self,
        runs: &[Run],
        first: u64,
        at: usize,
        memory: &mut Option<Buffer>,
    ) -> Result<()> {
        if runs.is_empty() {
            return Ok(());
        }
        let mut pieces = Pieces::new(memory.take().expect("it was just written to"));
        let mut requests = Vec::with_capacity(runs.len());
        for run in runs {
            let start = at + (run.blocks.start - first) as usize;
            let buffers = pieces.take(start..start + run.blocks.len() as usize);
            requests.push((start, run.at, buffers));
        }
        let reads = requests.into_iter().map(|(start, at, buffers)| {
            let request = self.transport.read(at, buffers);
            async move { (start, request.await) }
        });
        let mut reads = stream::iter(reads).buffer_unordered(READS_IN_FLIGHT);
        let mut outcome = Ok(());
        while let Some((start, (buffers, result))) = reads.next().await {
            pieces.put(start, buffers);
            outcome = outcome.and(result);
        }
        *memory = pieces.join();
        outcome
    }
}

#[cfg(test)]
mod tests {
    use foliant_device::Arena;

    use super::*;
    use crate::iomap::testkit::Random;

    #[test]
    fn parts_follow_each_other_and_only_blocks_of_both_worlds_go_straight() {
        let edges = [0, 1, 4095, 4096, 4097, 8191, 8192, 12_288, 12_289];
        for start in edges {
            for end in edges.into_iter().filter(|&end| end >= start) {
                for at in [0, 1, 4095, 4096, 4097] {
                    let parts = Parts::of(&(start..end), at);
                    let blocks = parts.blocks.bytes();
                    if blocks.is_empty() {
                        assert_eq!((parts.head, parts.tail), (start..end, end..end));
                        continue;
                    }
                    assert_eq!((start - at as u64 % BLOCK) % BLOCK, 0);
                    assert_eq!((parts.head.start, parts.tail.end), (start, end));
                    assert_eq!((parts.head.end, parts.tail.start), (blocks.start, blocks.end));
                    let edges = [parts.head, parts.tail];
                    assert!(edges.iter().all(|edge| edge.end - edge.start < BLOCK));
                }
            }
        }
    }

    #[test]
    fn pieces_come_back_as_the_memory_that_they_were() {
        let arena = Arena::new(64 * BLOCK_BYTES).unwrap();
        let mut random = Random::new(7);
        for _ in 0..500 {
            let mut memory = arena.allocate(random.below(7) as u8).unwrap();
            let blocks = memory.blocks();
            let bytes = memory.get_mut().unwrap().chunks_mut(BLOCK_BYTES).enumerate();
            bytes.for_each(|(at, block)| block[0] = at as u8);
            let mut pieces = Pieces::new(memory);
            let (mut at, mut lent) = (0, Vec::new());
            while at < blocks {
                let end = (at + 1 + random.below(9) as usize).min(blocks);
                if random.below(3) > 0 {
                    lent.push((at, end, pieces.take(at..end)));
                }
                at = end;
            }
            for (start, end, buffers) in lent.into_iter().rev() {
                assert_eq!(buffers.iter().map(Buffer::blocks).sum::<usize>(), end - start);
                assert_eq!(usize::from(buffers[0][0]), start);
                pieces.put(start, buffers);
            }
            let memory = pieces.join().expect("all of it is there");
            assert_eq!(memory.blocks(), blocks);
            assert!((0..blocks).all(|at| usize::from(memory[at * BLOCK_BYTES]) == at));
        }
        assert_eq!(arena.free_blocks(), 64);
        let mut pieces = Pieces::new(arena.allocate(3).unwrap());
        drop(pieces.take(3..4));
        assert!(pieces.join().is_none(), "a part is missing");
        assert_eq!(arena.free_blocks(), 64);
    }
}
