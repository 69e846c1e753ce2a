//! Dirty folios to the device, in batches, a few of them on their way at once.
//!
//! Guarantees the order within a batch: folio locked, image taken, folio unlocked; places; device
//! writes, a bounded number at once; only when all of them completed `writeback_done`; then the end of
//! writeback. On any error the blocks are dirty again, with the newest bytes, and the caller gets
//! the error. The durable size that a batch may publish is never ahead of data that is not on the
//! device: when its data has arrived, no block below it, from the block of the durable end on, is
//! dirty or under writeback outside of the batch. Two images of one block are never on their way at
//! once.
//!
//! At most `WRITEBACK_BATCHES` batches of an object are on their way (a semaphore in the bundle; who
//! must have none takes all of its permits). Does not decide when or what to write, and does not
//! flush. Called by the flusher's tasks through `object`.

use std::sync::Arc;

use foliant_device::Segment;
use futures_util::StreamExt;
use futures_util::future::join_all;
use futures_util::stream;

use crate::error::Error;
use crate::error::Result;
use crate::folio::folio::Folio;
use crate::iomap::bundle::Counts;
use crate::iomap::bundle::Mapped;
use crate::iomap::contract::Claim;
use crate::iomap::contract::DirtyRun;
use crate::iomap::contract::MappingProvider;
use crate::iomap::contract::Transport;
use crate::iomap::grip::Grip;
use crate::iomap::grip::within;
use crate::iomap::pause::Canary;
use crate::iomap::pause::Point;
use crate::iomap::run::DeviceWrite;
use crate::iomap::run::plan;
use crate::kit::fault::Fault;
use crate::kit::fault::has_fault;
use crate::kit::lock_order;
use crate::kit::lock_order::Held;
use crate::kit::lock_order::InCache;
use crate::kit::lock_order::Rank;
use crate::kit::lock_order::watched;
use crate::kit::memory::Purpose;
use crate::kit::sync::AsyncMutex;
use crate::kit::sync::SemaphorePermit;
use crate::kit::sync::atomic::AtomicBool;
use crate::kit::sync::atomic::AtomicU64;
use crate::kit::sync::atomic::Ordering;
use crate::limits::WRITEBACK_BATCHES;
use crate::limits::WRITEBACK_WRITES_IN_FLIGHT;
use crate::units::BLOCK;
use crate::units::DeviceSpan;
use crate::units::FileBlocks;

/// From this order on a few dirty blocks are copied out of their folio instead of sharing it.
const COPY_FROM_ORDER: u8 = 5;
/// They are few when the folio has at least this many times as many blocks.
const COPY_SHARE: u64 = 4;

/// Blocks under writeback; whatever is in here when it is dropped becomes dirty again.
struct Batch<'a, P: MappingProvider> {
    provider: &'a P,
    /// Who waits for the blocks in another call learns here that they did not arrive.
    failed: &'a AtomicU64,
    folios: Vec<(Arc<Folio>, FileBlocks)>,
}

impl<P: MappingProvider> Batch<'_, P> {
    fn end(&mut self, ok: bool) {
        let mut merged = 0;
        let lost = !ok && !self.folios.is_empty();
        for (folio, blocks) in self.folios.drain(..) {
            merged += folio.end_writeback(within(folio.index(), blocks), ok);
        }
        // A block that was dirtied again while it was under way held two promises.
        if merged > 0 && !has_fault(Fault::KeepDoubledPromises) {
            self.provider.forget_dirty(merged);
        }
        if lost {
            self.failed.fetch_add(1, Ordering::AcqRel);
        }
    }
}

impl<P: MappingProvider> Drop for Batch<'_, P> {
    fn drop(&mut self) {
        if has_fault(Fault::AbandonBatch) {
            return;
        }
        self.end(false);
    }
}

/// Keeps a provider's claims until it is known that no write to them is in flight. If the future
/// is dropped before, they are abandoned.
struct Claims<B: Claim>(Option<B>);

impl<B: Claim> Claims<B> {
    fn settled(mut self) -> B {
        self.0.take().expect("taken only once, by value")
    }
}

impl<B: Claim> Drop for Claims<B> {
    fn drop(&mut self) {
        if let Some(claims) = self.0.take() {
            claims.abandon();
        }
    }
}

/// What is on its way: the runs in order, and who must hear of the end.
struct Collected<'a, P: MappingProvider> {
    batch: Batch<'a, P>,
    runs: Vec<DirtyRun>,
    /// The size that readers saw before the first image was taken: every byte below it is in an image,
    /// on the device, or dirty again.
    size: u64,
    /// What of it was settled when the images were taken.
    settled: u64,
    /// Where the next batch begins.
    next: u64,
}

/// How far one pass over an object's dirty blocks has come, shared by its lanes.
struct Pass {
    end: u64,
    /// The first block that no lane has collected. Held while one collects, so an async mutex.
    next: AsyncMutex<u64>,
    failed: AtomicBool,
}

impl Pass {
    fn fail(&self) {
        self.failed.store(true, Ordering::Release);
    }
}

impl<P: MappingProvider, T: Transport> Mapped<P, T> {
    /// Writes back all blocks of `blocks` that are dirty or under writeback when this is called,
    /// several batches at once, and waits until they are mapped.
    ///
    /// Gives back how many blocks this call wrote. Errors: the first one; the blocks of its batch
    /// are dirty again. To be driven to its end by a task of the engine: dropped under way, the
    /// blocks are dirty again and the claimed space is lost until the store is opened again.
    pub async fn write_back(&self, blocks: FileBlocks) -> Result<u64> {
        self.write_back_by(blocks, WRITEBACK_BATCHES).await
    }

    /// The same, one batch after the other: for who holds locks, as part of whose operation it runs.
    pub async fn write_back_in_turn(&self, blocks: FileBlocks) -> Result<u64> {
        self.write_back_by(blocks, 1).await
    }

    async fn write_back_by(&self, blocks: FileBlocks, lanes: usize) -> Result<u64> {
        let mut written = 0;
        loop {
            let failures = self.failed_batches.load(Ordering::Acquire);
            written += self.write_pass(blocks, lanes).await?;
            // Some of the blocks may be on their way in batches of others.
            drop(self.hold_writeback().await);
            if self.failed_batches.load(Ordering::Acquire) == failures {
                return Ok(written);
            }
            // Theirs failed, and is dirty again: this call must write it, or hear why not.
        }
    }

    async fn write_pass(&self, blocks: FileBlocks, lanes: usize) -> Result<u64> {
        let next = AsyncMutex::new(blocks.start);
        let pass = Pass { end: blocks.end, next, failed: AtomicBool::new(false) };
        let lanes = (0..lanes).map(|_| watched(self.write_lane(&pass)));
        let mut written = Ok(0);
        for lane in join_all(lanes).await {
            written = written.and_then(|sum| lane.map(|blocks| sum + blocks));
        }
        written
    }

    async fn write_lane(&self, pass: &Pass) -> Result<u64> {
        let mut written = 0;
        loop {
            let _slot = self.slot().await;
            let collected = {
                let mut next = pass.next.lock().await;
                if pass.failed.load(Ordering::Acquire) {
                    return Ok(written);
                }
                let rest = FileBlocks::new(*next, pass.end.max(*next));
                let collected = self.collect(rest).await.inspect_err(|_| pass.fail())?;
                *next = collected.as_ref().map_or(pass.end, |collected| collected.next);
                collected
            };
            let Some(collected) = collected else { return Ok(written) };
            let done = self.finish(collected).await;
            written += done.inspect_err(|_| pass.fail())?.blocks;
        }
    }

    #[cfg(test)]
    /// Writes back one batch of dirty blocks (at most `WRITEBACK_BATCH_BLOCKS` with little memory, a few
    /// more when a large folio ends it), the first ones of `blocks`; `None` if nothing is dirty there.
    ///
    /// Errors and drop as for [`Mapped::write_back`].
    pub async fn write_back_batch(&self, blocks: FileBlocks) -> Result<Option<Written>> {
        let _slot = self.slot().await;
        match self.collect(blocks).await? {
            Some(collected) => self.finish(collected).await.map(Some),
            None => Ok(None),
        }
    }

    /// The right to have one batch on its way.
    pub(super) async fn slot(&self) -> Slot<'_> {
        let rank = Rank::Cache(self.cache.object().0, InCache::Writeback);
        lock_order::wait(rank);
        let slot = self.writeback.acquire().await;
        Slot(slot.expect("the semaphore is never closed"), lock_order::hold(rank))
    }

    /// The same for who changes mappings without moving bytes of the cache, if it can be had at once: while it
    /// lives, nobody else takes the mappings of this object for held still.
    pub fn try_slot(&self) -> Option<Slot<'_>> {
        let slot = self.writeback.try_acquire().ok()?;
        Some(Slot(slot, lock_order::hold(Rank::Cache(self.cache.object().0, InCache::Writeback))))
    }

    async fn finish(&self, collected: Collected<'_, P>) -> Result<Written> {
        let Collected { mut batch, runs, size, settled, next: _ } = collected;
        let end = runs.last().expect("a batch has a run").blocks.end;
        let blocks = runs.iter().map(|run| run.blocks.len()).sum();
        let result = self.carry(&runs, size, settled).await;
        let forgiven = self.pauses.is_broken(Canary::ForgetWriteErrors);
        batch.end(result.is_ok() || forgiven);
        Counts::add(&self.counts.blocks_written, result?);
        Ok(Written { blocks, end })
    }

    /// Keeps writeback of this object still: no batch is on its way while the answer lives.
    ///
    /// Take it behind the range lock, and with no folio locked. Do not wait for room to dirty
    /// blocks while you hold it.
    pub async fn hold_writeback(&self) -> StillWriteback<'_> {
        let rank = Rank::Cache(self.cache.object().0, InCache::Writeback);
        lock_order::wait(rank);
        let all = self.writeback.acquire_many(WRITEBACK_BATCHES as u32).await;
        StillWriteback(all.expect("the semaphore is never closed"), lock_order::hold(rank))
    }

    /// The largest size that may be durable now: below it, from the block of the durable end on,
    /// nothing waits for writeback.
    pub fn settled_now(&self, _: &StillWriteback<'_>) -> u64 {
        self.settled_size(self.provider.size(), &[])
    }

    /// Takes the images of the first dirty blocks of `blocks`. Waits for the first folio's lock
    /// only: whoever holds a later one may be waiting for the writeback of an earlier one.
    ///
    /// Errors: `TimedOut` (an older image of the first one does not arrive).
    async fn collect(&self, blocks: FileBlocks) -> Result<Option<Collected<'_, P>>> {
        // Sampled first: every byte below it is on the device, or dirty from now on.
        let mut size = self.provider.size();
        let (provider, failed) = (&*self.provider, &self.failed_batches);
        let mut batch = Batch { provider, failed, folios: Vec::new() };
        let mut taken: Vec<(FileBlocks, Segment)> = Vec::new();
        let mut count = 0;
        let mut at = blocks.start;
        while count < self.batch_blocks && at < blocks.end {
            let next = self.cache.dirty_folios(FileBlocks::new(at, blocks.end), 1).pop();
            let Some(folio) = next else {
                at = blocks.end;
                break;
            };
            let locked = if taken.is_empty() { Some(folio.lock().await) } else { folio.try_lock() };
            let Some(mut locked) = locked.map(Grip::from) else {
                break;
            };
            if folio.index() == 0 && !self.pauses.is_broken(Canary::SettleOldSize) {
                // Who grows the object inside of block 0 holds this lock, so the image has all of it;
                // a provider that keeps the image itself cannot record less than the image holds.
                size = size.max(self.provider.size().min(BLOCK));
            }
            if folio.is_waiting_for_writeback() {
                // Newer bytes behind an image that is on its way. Waited for with the folio locked, or
                // a busy writer could keep it so for ever; batches on their way need no lock to end.
                if !taken.is_empty() {
                    break;
                }
                locked.wait_writeback().await?;
            }
            for (own, segment) in self.take_images(&mut locked) {
                count += own.len();
                batch.folios.push((Arc::clone(&folio), own));
                taken.push((own, segment));
            }
            at = folio.span().end;
        }
        if taken.is_empty() {
            return Ok(None);
        }
        let runs = join(taken);
        let settled = self.settled_size(size, &runs);
        Ok(Some(Collected { batch, runs, size, settled, next: at }))
    }

    /// Begins the writeback of a folio's dirty blocks. A few blocks of a large folio are copied: a
    /// writer that meets them on their way would have to copy all of it.
    fn take_images(&self, locked: &mut Grip) -> Vec<(FileBlocks, Segment)> {
        let mut images = locked.begin_writeback();
        let begun: u64 = images.iter().map(|(blocks, _)| blocks.len()).sum();
        let few = locked.order() >= COPY_FROM_ORDER && begun * COPY_SHARE <= 1 << locked.order();
        for (blocks, segment) in &mut images {
            self.check_tail(*blocks, segment);
            if few && !self.memory.low() {
                let order = blocks.len().next_power_of_two().ilog2() as u8;
                if let Some(mut copy) = self.memory.try_allocate(order, Purpose::Reserved) {
                    let bytes = copy.get_mut().expect("a fresh buffer has one owner");
                    bytes[..segment.len()].copy_from_slice(segment);
                    *segment = copy.segment(0..segment.len());
                }
            }
        }
        images
    }

    /// Bytes behind the size must never reach the device as anything but zero.
    fn check_tail(&self, blocks: FileBlocks, image: &[u8]) {
        if cfg!(debug_assertions) {
            let size = self.provider.size();
            if size <= blocks.start * BLOCK || size.div_ceil(BLOCK) < blocks.end {
                // A truncate set the new size and has not come to this folio yet: the size hides it.
                return;
            }
            let keep = (size - blocks.start * BLOCK).min(image.len() as u64) as usize;
            let clean = image[keep..].iter().all(|&byte| byte == 0);
            assert!(clean, "bytes behind the end in blocks {blocks:?} are not zero");
        }
    }

    /// The largest size that may become durable with these runs.
    pub(super) fn settled_size(&self, size: u64, runs: &[DirtyRun]) -> u64 {
        let from = self.provider.durable_size() / BLOCK;
        let end = size.div_ceil(BLOCK);
        if from >= end || self.pauses.is_broken(Canary::SettleEverything) {
            return size;
        }
        let mut at = from;
        while let Some(open) = self.cache.first_unsettled(FileBlocks::new(at, end)) {
            let run = runs.get(runs.partition_point(|run| run.blocks.end <= open));
            match run.filter(|run| run.blocks.start <= open) {
                Some(run) => at = run.blocks.end.min(end),
                None => return size.min(open * BLOCK),
            }
        }
        size
    }

    /// Places, device writes, completion; how many blocks went to the device. The caller has a slot, and
    /// the runs are under writeback or its folios are locked.
    pub(super) async fn carry(&self, runs: &[DirtyRun], size: u64, settled: u64) -> Result<u64> {
        self.pauses.at(Point::BeforeWritebackMapping).await;
        let blocks: Vec<FileBlocks> = runs.iter().map(|run| run.blocks).collect();
        let (claims, placements) = self.provider.map_writeback(&blocks, size).await?;
        let claims = Claims(Some(claims));
        let plan = plan(runs, &placements);
        let blocks = plan.writes.iter().map(|write| write.blocks).sum();
        let (written, bad) = write_all(&self.transport, plan.writes).await;
        self.pauses.at(Point::BeforeCompletion).await;
        let mut claims = claims.settled();
        if let Err(cause) = written {
            self.provider.leave_alone(&mut claims, &bad);
            return Err(cause);
        }
        // Looked at again: batches that were on their way have arrived meanwhile. What became dirty since
        // then does not matter, because older bytes of it are stored: either answer holds.
        let settled = settled.max(self.settled_size(size, runs));
        self.provider.writeback_done(claims, plan.placed, settled).await?;
        Ok(blocks)
    }
}

/// Waits for all of the writes, also after one failed: nothing may be in flight afterwards. The places that the
/// medium refused come with the first error.
pub async fn write_all<T: Transport>(
    transport: &T,
    writes: Vec<DeviceWrite>,
) -> (Result<()>, Vec<DeviceSpan>) {
    let requests = writes.into_iter().map(|write| {
        let place = DeviceSpan::new(write.at, write.blocks);
        let request = transport.write(write.at, write.data);
        async move { (place, request.await) }
    });
    let mut results = stream::iter(requests).buffer_unordered(WRITEBACK_WRITES_IN_FLIGHT);
    let (mut outcome, mut bad) = (Ok(()), Vec::new());
    while let Some((place, result)) = results.next().await {
        if result.as_ref().is_err_and(Error::is_of_the_medium) {
            bad.push(place);
        }
        outcome = outcome.and(result);
    }
    (outcome, bad)
}

/// The proof that no writeback of an object is on its way.
#[allow(dead_code)] // Held, not read.
pub struct StillWriteback<'a>(SemaphorePermit<'a>, Held);

/// The right to have one batch on its way.
#[allow(dead_code)] // Held, not read.
pub struct Slot<'a>(SemaphorePermit<'a>, Held);

/// What one batch wrote.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Written {
    /// How many blocks.
    pub blocks: u64,
    /// The block behind the last one.
    pub end: u64,
}

/// Joins images of ascending blocks into runs.
fn join(taken: Vec<(FileBlocks, Segment)>) -> Vec<DirtyRun> {
    let mut runs: Vec<DirtyRun> = Vec::new();
    for (blocks, segment) in taken {
        match runs.last_mut().filter(|run| run.blocks.end == blocks.start) {
            Some(run) => {
                run.blocks.end = blocks.end;
                run.data.push(segment);
            }
            None => runs.push(DirtyRun { blocks, data: vec![segment] }),
        }
    }
    runs
}
