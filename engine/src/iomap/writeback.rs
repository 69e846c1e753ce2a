//! Dirty folios to the device, one batch at a time.
//!
//! Guarantees the order: folio locked, image taken, folio unlocked; places; device writes, a
//! bounded number at once; only when all of them completed `writeback_done`; then the end of
//! writeback. On any error the blocks are dirty again, with the newest bytes, and the caller gets
//! the error. The durable size that a batch may publish is never ahead of data that is not on the
//! device: no block below it, from the block of the durable end on, is dirty or under writeback
//! outside of the batch.
//!
//! One batch of an object is on its way at a time (an async mutex in the bundle). Does not decide
//! when or what to write, and does not flush. Called by the flusher's tasks through `object`.

use std::sync::Arc;

use foliant_device::Segment;
use futures_util::StreamExt;
use futures_util::stream;

use crate::error::Result;
use crate::folio::folio::Folio;
use crate::iomap::bundle::Counts;
use crate::iomap::bundle::Mapped;
use crate::iomap::contract::DirtyRun;
use crate::iomap::contract::MappingProvider;
use crate::iomap::contract::Transport;
use crate::iomap::grip::Grip;
use crate::iomap::grip::within;
use crate::iomap::pause::Canary;
use crate::iomap::pause::Point;
use crate::iomap::run::DeviceWrite;
use crate::iomap::run::plan;
use crate::kit::lock_order;
use crate::kit::lock_order::Held;
use crate::kit::lock_order::InCache;
use crate::kit::lock_order::Rank;
use crate::kit::lock_order::watched;
use crate::limits::WRITEBACK_BATCH_BLOCKS;
use crate::limits::WRITEBACK_WRITES_IN_FLIGHT;
use crate::units::BLOCK;
use crate::units::FileBlocks;

/// Blocks under writeback; whatever is in here when it is dropped becomes dirty again.
struct Batch<'a, P: MappingProvider> {
    provider: &'a P,
    folios: Vec<(Arc<Folio>, FileBlocks)>,
}

impl<P: MappingProvider> Batch<'_, P> {
    fn end(&mut self, ok: bool) {
        let mut merged = 0;
        for (folio, blocks) in self.folios.drain(..) {
            merged += folio.end_writeback(within(folio.index(), blocks), ok);
        }
        // A block that was dirtied again while it was under way held two promises.
        if merged > 0 {
            self.provider.forget_dirty(merged);
        }
    }
}

impl<P: MappingProvider> Drop for Batch<'_, P> {
    fn drop(&mut self) {
        self.end(false);
    }
}

/// Keeps a provider's claims until it is known that no write to them is in flight. If the future
/// is dropped before, the claims are leaked on purpose: until the store is opened again nobody may
/// be given blocks that a forgotten write can still hit.
struct Claims<B>(Option<B>);

impl<B> Claims<B> {
    fn settled(mut self) -> B {
        self.0.take().expect("taken only once, by value")
    }
}

impl<B> Drop for Claims<B> {
    fn drop(&mut self) {
        std::mem::forget(self.0.take());
    }
}

/// What is on its way: the runs in order, and who must hear of the end.
struct Collected<'a, P: MappingProvider> {
    batch: Batch<'a, P>,
    runs: Vec<DirtyRun>,
    settled_size: u64,
}

impl<P: MappingProvider, T: Transport> Mapped<P, T> {
    /// Writes back all blocks of `blocks` that are dirty when this is called, batch by batch.
    ///
    /// Gives back how many blocks were written. Errors: the first one; the blocks of its batch
    /// are dirty again. To be driven to its end by a task of the engine: dropped under way, the
    /// blocks are dirty again and the claimed space is lost until the store is opened again.
    pub async fn write_back(&self, blocks: FileBlocks) -> Result<u64> {
        let mut rest = blocks;
        let mut written = 0;
        while let Some(next) = watched(self.write_back_batch(rest)).await? {
            written += next.blocks;
            rest.start = next.end.min(rest.end);
        }
        Ok(written)
    }

    /// Writes back one batch of at most `WRITEBACK_BATCH_BLOCKS` dirty blocks (a few more when a
    /// large folio ends it), the first ones of `blocks`; `None` if nothing is dirty there.
    ///
    /// Errors and drop as for [`Mapped::write_back`].
    pub async fn write_back_batch(&self, blocks: FileBlocks) -> Result<Option<Written>> {
        if blocks.is_empty() {
            return Ok(None);
        }
        let _one_at_a_time = self.hold_writeback().await;
        let Some(collected) = self.collect(blocks).await else {
            return Ok(None);
        };
        let Collected { mut batch, runs, settled_size } = collected;
        let end = runs.last().map_or(blocks.end, |run| run.blocks.end);
        let count = runs.iter().map(|run| run.blocks.len()).sum();
        let result = self.carry(runs, settled_size).await;
        let forgiven = self.pauses.is_broken(Canary::ForgetWriteErrors);
        batch.end(result.is_ok() || forgiven);
        result?;
        Counts::add(&self.counts.blocks_written, count);
        Ok(Some(Written { blocks: count, end }))
    }

    /// Keeps writeback of this object still: no batch is on its way while the answer lives.
    ///
    /// Take it behind the range lock, and with no folio locked. Do not wait for room to dirty
    /// blocks while you hold it.
    pub async fn hold_writeback(&self) -> StillWriteback<'_> {
        let rank = Rank::Cache(self.cache.object().0, InCache::Writeback);
        lock_order::wait(rank);
        let guard = self.writeback.lock().await;
        StillWriteback(guard, lock_order::hold(rank))
    }

    /// The largest size that may be durable now: below it, from the block of the durable end on,
    /// nothing waits for writeback.
    pub fn settled_now(&self, _: &StillWriteback<'_>) -> u64 {
        self.settled_size(self.provider.size(), &[])
    }

    /// Takes the images of the first dirty blocks of `blocks`. Waits for the first folio's lock
    /// only: whoever holds a later one may be waiting for the writeback of an earlier one.
    async fn collect(&self, blocks: FileBlocks) -> Option<Collected<'_, P>> {
        // Sampled first: every byte below it is on the device, or dirty from now on.
        let size = self.provider.size();
        let mut batch = Batch { provider: &*self.provider, folios: Vec::new() };
        let mut taken: Vec<(u64, Segment)> = Vec::new();
        let mut at = blocks.start;
        while (taken.len() as u64) < WRITEBACK_BATCH_BLOCKS {
            let next = self.cache.dirty_folios(FileBlocks::new(at, blocks.end), 1).pop();
            let Some(folio) = next else {
                break;
            };
            let locked = if taken.is_empty() { Some(folio.lock().await) } else { folio.try_lock() };
            let Some(mut locked) = locked.map(Grip::from) else {
                break;
            };
            at = folio.span().end;
            for (block, segment) in locked.begin_writeback() {
                self.check_tail(block, &segment);
                batch.folios.push((Arc::clone(&folio), FileBlocks::new(block, block + 1)));
                taken.push((block, segment));
            }
            if at >= blocks.end {
                break;
            }
        }
        if taken.is_empty() {
            return None;
        }
        let runs = join(taken);
        let settled_size = self.settled_size(size, &runs);
        Some(Collected { batch, runs, settled_size })
    }

    /// Bytes behind the size must never reach the device as anything but zero.
    fn check_tail(&self, block: u64, image: &[u8]) {
        if cfg!(debug_assertions) {
            let size = self.provider.size();
            if size <= block * BLOCK {
                // A truncate set the new size and has not come to this folio yet: the size hides it.
                return;
            }
            let keep = (size - block * BLOCK).min(BLOCK) as usize;
            let clean = image[keep..].iter().all(|&byte| byte == 0);
            assert!(clean, "bytes behind the end of block {block} are not zero");
        }
    }

    /// The largest size that may become durable with these runs.
    fn settled_size(&self, size: u64, runs: &[DirtyRun]) -> u64 {
        let from = self.provider.durable_size() / BLOCK;
        let end = size.div_ceil(BLOCK);
        if from >= end || self.pauses.is_broken(Canary::SettleEverything) {
            return size;
        }
        let mut at = from;
        while let Some(open) = self.cache.first_unsettled(FileBlocks::new(at, end)) {
            let run = runs.iter().find(|run| open < run.blocks.end);
            match run.filter(|run| run.blocks.start <= open) {
                Some(run) => at = run.blocks.end.min(end),
                None => return size.min(open * BLOCK),
            }
        }
        size
    }

    /// Places, device writes, completion.
    async fn carry(&self, runs: Vec<DirtyRun>, settled_size: u64) -> Result<()> {
        self.pauses.at(Point::BeforeWritebackMapping).await;
        let blocks: Vec<FileBlocks> = runs.iter().map(|run| run.blocks).collect();
        let (claims, placements) = self.provider.map_writeback(&blocks).await?;
        let claims = Claims(Some(claims));
        let plan = plan(&runs, &placements);
        let written = self.write_all(plan.writes).await;
        self.pauses.at(Point::BeforeCompletion).await;
        let claims = claims.settled();
        written?;
        self.provider.writeback_done(claims, plan.placed, settled_size).await
    }

    /// Waits for all of the writes, also after one failed: nothing may be in flight afterwards.
    async fn write_all(&self, writes: Vec<DeviceWrite>) -> Result<()> {
        let requests = writes.into_iter().map(|write| self.transport.write(write.at, write.data));
        let mut results = stream::iter(requests).buffer_unordered(WRITEBACK_WRITES_IN_FLIGHT);
        let mut outcome = Ok(());
        while let Some(result) = results.next().await {
            outcome = outcome.and(result);
        }
        outcome
    }
}

/// The proof that no writeback of an object is on its way.
#[allow(dead_code)] // Held, not read.
pub struct StillWriteback<'a>(tokio::sync::MutexGuard<'a, ()>, Held);

/// What one batch wrote.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Written {
    /// How many blocks.
    pub blocks: u64,
    /// The block behind the last one.
    pub end: u64,
}

/// Joins images of ascending blocks into runs.
fn join(taken: Vec<(u64, Segment)>) -> Vec<DirtyRun> {
    let mut runs: Vec<DirtyRun> = Vec::new();
    for (block, segment) in taken {
        match runs.last_mut().filter(|run| run.blocks.end == block) {
            Some(run) => {
                run.blocks.end += 1;
                run.data.push(segment);
            }
            None => runs
                .push(DirtyRun { blocks: FileBlocks::new(block, block + 1), data: vec![segment] }),
        }
    }
    runs
}
