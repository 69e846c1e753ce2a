//! Brings logged blocks home and moves the log's tail, so that the log never runs out of room.
//!
//! Guarantees, in this order: the records of an image are durable before the image is written home; all
//! images of a round are home and flushed before the tail moves over their records, and metadata was read
//! again and found there; whoever waits to hear that a block is home hears it after that. A block that is
//! logged again meanwhile keeps its newer image for the next round.
//!
//! Does not take the metadata lock, so that a transaction may wait for log room while it holds it.
//! The loop is spawned by `volume`; `Meta::checkpoint` is called by `volume` as well.

use foliant_device::Buffer;
use foliant_device::Persist;
use foliant_device::Segment;
use futures_util::StreamExt;
use futures_util::stream;
use tokio::sync::MutexGuard;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::error::Error;
use crate::error::ErrorKind;
use crate::error::Result;
use crate::kit::canary::Canary;
use crate::kit::canary::is_broken;
use crate::kit::stop;
use crate::kit::stop::Stop;
use crate::limits::LOG_ROOM_WAIT;
use crate::meta::readback::Readback;
use crate::meta::store::Inner;
use crate::meta::store::Meta;
use crate::meta::table::Logged;
use crate::units::BlockNo;
use crate::units::Lsn;

/// Blocks in one write home (256 KiB: beyond that there is no gain).
const RUN_BLOCKS: usize = 64;
/// Such writes in flight at once.
const WRITES_IN_FLIGHT: usize = 16;

/// No block goes home while this lives.
#[allow(dead_code)] // Held, not read.
pub struct HeldHomes<'a>(MutexGuard<'a, Readback>);

impl Meta {
    /// Everything logged so far goes home, and the tail moves behind it.
    ///
    /// Errors: `WritesStopped`, `Device`; a failed flush stops all writes, because nobody can say what
    /// it lost. Must be driven to its end by a task of the engine: the writes of a dropped round go on,
    /// and would meet those of the next.
    pub async fn checkpoint(&self) -> Result<()> {
        let inner = &self.inner;
        let mut readback = inner.checkpoint.lock().await;
        inner.poison.check()?;
        // What is appended but not sealed would not be covered by the tail that this round can reach.
        inner.journal.durable(inner.journal.last()).await?;
        let (sealed, going) = {
            let blocks = inner.blocks.lock();
            (inner.journal.sealed(), blocks.table.going())
        };
        if sealed <= inner.journal.applied() {
            return Ok(());
        }
        let since = Instant::now();
        let newest = going.iter().map(|g| g.lsn).max().unwrap_or(sealed);
        inner.journal.durable(newest.max(sealed)).await?;
        // An image whose record lies behind the tail of this round is home, too, but stays noted: who
        // hears of its home now would not find the tail past it, and keep its mark for good.
        let passed = going.iter().filter(|g| g.lsn <= sealed);
        let homes: Vec<(BlockNo, Lsn)> = passed.map(|g| (g.at, g.lsn)).collect();
        if !is_broken(Canary::TailBeforeHome) {
            stop::at(Stop::BeforeCheckpointWrite).await;
            let metadata = going.iter().filter(|g| g.kind == Logged::Metadata);
            let metadata = metadata.map(|g| (g.at, g.image.clone())).collect();
            let images: Vec<_> = going.into_iter().map(|g| (g.at, g.image)).collect();
            self.bring_home(&images).await?;
            self.look_for(metadata, &mut readback).await?;
        }
        let arrived = inner.blocks.lock().table.arrived(&homes);
        let moved = inner.journal.advance_tail(sealed).await;
        if let Err(cause) = &moved {
            // The images are home, but the log does not say so: it would run full.
            inner.poison.set(cause.clone());
        } else {
            inner.blocks.lock().table.purge(sealed);
        }
        for mark in arrived {
            mark.tell();
        }
        metrics::counter!("foliant_checkpoints_total").increment(1);
        metrics::histogram!("foliant_checkpoint_seconds").record(since.elapsed());
        moved
    }

    /// Keeps all blocks from going home while the answer lives: for who reads where some of them belong. Waits for a
    /// checkpoint that is on its way. Whoever has it must not wait for the metadata lock: its holder may wait for log
    /// room, which a checkpoint makes.
    pub async fn hold_homes(&self) -> HeldHomes<'_> {
        HeldHomes(self.inner.checkpoint.lock().await)
    }

    /// Writes ascending images home; stable on return.
    async fn bring_home(&self, images: &[(BlockNo, Buffer)]) -> Result<()> {
        self.inner.write_home(images).await?;
        self.flush().await?;
        // A flush of somebody else may have failed meanwhile: nobody knows what it lost, also of these.
        self.inner.poison.check()
    }

    /// Reads metadata again that is home, and writes once more what is not there: the log still has it.
    ///
    /// Errors: what was found there the second time; the tail must stay.
    async fn look_for(
        &self,
        metadata: Vec<(BlockNo, Buffer)>,
        readback: &mut Readback,
    ) -> Result<()> {
        let device = &self.inner.device;
        let again = readback.missing(device, metadata).await?;
        if again.is_empty() {
            return Ok(());
        }
        self.bring_home(&again).await?;
        readback.insist(device, &again).await
    }

    /// Makes everything stable that was written to the device before this call. Callers share flushes.
    ///
    /// Errors: `Device`; a failure stops all writes, because nobody can say what it lost.
    pub async fn flush(&self) -> Result<()> {
        let inner = &self.inner;
        // Both with the turn in hand: who waits behind a flush that failed must not be told that a later
        // one made its data stable.
        let flush = async || {
            inner.poison.check()?;
            let flushed = inner.device.flush().await.map_err(Error::from);
            flushed.inspect_err(|cause| inner.poison.set(cause.clone()))
        };
        inner.flushes.flush(flush).await
    }

    /// Lets writes go on after a failure stopped them: what was in flight has ended, the log on the device
    /// is this one, a flush works, and every group that was not acknowledged is written again. Images that
    /// may not have arrived at home are still held, and go there again before the tail moves.
    ///
    /// The answer is how many groups were written again. Errors: `Device`, `Corrupt`, `TimedOut`,
    /// `WritesStopped` (for good): writes stay stopped, and it can be called again. To be driven to its end
    /// by a task of the engine.
    pub async fn resume(&self) -> Result<u64> {
        let inner = &self.inner;
        let round = tokio::time::timeout(LOG_ROOM_WAIT, inner.checkpoint.lock()).await;
        let _round = round.map_err(|_| {
            Error::new(ErrorKind::TimedOut, "waited too long for a round of the checkpoint to end")
        })?;
        if inner.poison.get().is_none() {
            return Ok(0);
        }
        inner.journal.at_rest().await?;
        inner.journal.check_identity().await?;
        // That it works says nothing about what was written before: who sent that asks `check_since`. The first
        // one may fail for what was before it (a device that was gone); the second one answers for itself.
        if inner.device.flush().await.is_err() {
            inner.device.flush().await?;
        }
        let rewritten = inner.journal.rewrite().await?;
        match inner.poison.clear() {
            true => Ok(rewritten),
            false => inner.poison.check().map(|()| rewritten),
        }
    }

    /// Asks the checkpointer's loop for a checkpoint of all that is logged now, and waits for it.
    ///
    /// For callers whose future may be dropped: a round must not be, because its writes go on and
    /// would meet those of the next one. Errors: `WritesStopped`, `Closed`.
    pub async fn checkpointed(&self) -> Result<()> {
        let mut rounds = self.inner.rounds.subscribe();
        // A round that is on its way may have begun too early; the one behind it has not.
        for _ in 0..2 {
            let seen = *rounds.borrow_and_update();
            self.inner.bell.notify_one();
            tokio::select! {
                biased;
                done = rounds.wait_for(|&finished| finished > seen) => {
                    done.expect("the sender lives in this value");
                }
                cause = self.inner.poison.tripped() => return Err(cause),
            }
        }
        Ok(())
    }

    /// The checkpointer's loop: starts a round when the bell rings, until `stop` is cancelled.
    pub async fn run(self, stop: CancellationToken) {
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = self.inner.bell.notified() => {}
            }
            if let Err(cause) = self.checkpoint().await {
                tracing::error!(%cause, "a checkpoint failed");
                if self.inner.poison.get().is_none() {
                    self.inner.poison.set(cause);
                }
                continue;
            }
            self.inner.rounds.send_modify(|finished| *finished += 1);
        }
    }
}

impl Inner {
    /// Writes images home, neighbours together, and waits for all of them.
    async fn write_home(&self, images: &[(BlockNo, Buffer)]) -> Result<()> {
        let writes = runs(images)
            .into_iter()
            .map(|(at, segments)| self.device.write(at.0, segments, Persist::Cached));
        let mut writes = stream::iter(writes).buffer_unordered(WRITES_IN_FLIGHT);
        let mut outcome = Ok(());
        while let Some(written) = writes.next().await {
            outcome = outcome.and(written);
        }
        Ok(outcome?)
    }
}

/// Ascending images as device writes.
fn runs(images: &[(BlockNo, Buffer)]) -> Vec<(BlockNo, Vec<Segment>)> {
    let mut runs: Vec<(BlockNo, Vec<Segment>)> = Vec::new();
    for (at, image) in images {
        let (at, image) = (*at, image.clone());
        match runs.last_mut() {
            Some((start, segments))
                if start.plus(segments.len() as u64) == at && segments.len() < RUN_BLOCKS =>
            {
                segments.push(image.into());
            }
            _ => runs.push((at, vec![image.into()])),
        }
    }
    runs
}
