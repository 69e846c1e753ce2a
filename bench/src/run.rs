//! One workload on one target: fill, measure, reopen, verify.
//!
//! Guarantees that every read of a run is compared byte by byte, and that after the run every
//! block is read again from a reopened target. Does not print. Called by `main.rs` and, block by
//! block, by `compare.rs`.

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;

use anyhow::Error;
use anyhow::Result;
use foliant_device::BLOCK_SIZE;
use tokio::sync::Barrier;
use tokio::task::JoinSet;

use crate::data::Ledger;
use crate::data::Random;
use crate::measure::Latencies;
use crate::measure::cpu_seconds;
use crate::measure::load;
use crate::progress::Progress;
use crate::report::Figures;
use crate::report::Report;
use crate::report::Title;
use crate::sample::Sample;
use crate::target::Place;
use crate::target::Recovery;
use crate::target::Target;
use crate::targets::write_out;
use crate::workload::Order;
use crate::workload::PIECE_MAX;
use crate::workload::Shape;
use crate::workload::Verb;

/// A target with its data, ready to be measured any number of times.
pub struct Session<T> {
    pub target: T,
    pub ledger: Arc<Ledger>,
    place: Place,
    shape: Shape,
}

/// What all clients of one stretch share.
struct Common<T> {
    target: T,
    ledger: Arc<Ledger>,
    shape: Shape,
    /// Pieces of each client.
    pieces: u64,
    deadline: Instant,
    /// All leave their loops. With syncs it is set between two barriers only, so that no client
    /// leaves while another waits for it.
    stop: AtomicBool,
    /// Somebody failed, so `stop` must follow.
    failed: AtomicBool,
    barrier: Barrier,
    /// The first failure; written once, so a plain mutex.
    failure: Mutex<Option<Error>>,
}

/// What one client did.
struct Tally {
    ops: u64,
    latencies: Latencies,
    sync_latencies: Latencies,
}

/// Writes generation 1 over the whole of a target, in order, and syncs.
pub async fn fill<T: Target>(target: &T, ledger: &Ledger, size: u64, bar: &Progress) -> Result<()> {
    let mut scratch = vec![0; PIECE_MAX];
    for (at, piece) in pieces(size) {
        let block = at / BLOCK_SIZE as u64;
        let make = |out: &mut [u8]| ledger.pattern.fill(block, 1, out);
        target.write(at, &mut scratch[..piece], make).await?;
        bar.at(at + piece as u64);
        tokio::task::consume_budget().await;
    }
    target.sync().await
}

/// Reads the whole of a target, in order, and compares every byte.
pub async fn verify<T: Target>(
    target: &T,
    ledger: &Ledger,
    size: u64,
    bar: &Progress,
) -> Result<()> {
    if target.size() < size {
        ledger.mismatch(format!("{} bytes are left of {size}", target.size()));
    }
    let mut scratch = vec![0; PIECE_MAX];
    for (at, piece) in pieces(size.min(target.size())) {
        let block = at / BLOCK_SIZE as u64;
        let see = |bytes: &[u8]| ledger.check(block, bytes);
        target.read(at, &mut scratch[..piece], see).await?;
        bar.at(at + piece as u64);
        tokio::task::consume_budget().await;
    }
    Ok(())
}

/// Offsets and lengths that cover `size` bytes: powers of two of blocks, as large as may be.
pub fn pieces(size: u64) -> impl Iterator<Item = (u64, usize)> {
    let next = move |at: u64| {
        let blocks = ((size - at) / BLOCK_SIZE as u64).min((PIECE_MAX / BLOCK_SIZE) as u64);
        Some((at, BLOCK_SIZE << blocks.checked_ilog2()?))
    };
    std::iter::successors(next(0), move |&(at, len)| next(at + len as u64))
}

impl<T: Target> Session<T> {
    /// Makes the target and fills it.
    pub async fn start(place: &Place, shape: &Shape, seed: u64) -> Result<Self> {
        write_out(place).await?;
        T::make(place).await?;
        let target = T::open(place).await?;
        let ledger = Arc::new(Ledger::rewritten(seed, place.size / BLOCK_SIZE as u64));
        let bar = Progress::new("fill", place.size);
        fill(&target, &ledger, place.size, &bar).await?;
        if shape.warm {
            verify(&target, &ledger, place.size, &Progress::new("warm", place.size)).await?;
        }
        Ok(Self { target, ledger, place: place.clone(), shape: shape.clone() })
    }

    /// A session over a target that is open and holds what `ledger` says.
    pub fn over(target: T, ledger: Arc<Ledger>, place: &Place, shape: &Shape) -> Self {
        Self { target, ledger, place: place.clone(), shape: shape.clone() }
    }

    /// Runs the clients for about `time`. `stretch` gives each stretch its own random choices.
    pub async fn measure(&self, time: Duration, stretch: u64) -> Result<Sample> {
        let clients = self.shape.clients;
        let pieces = self.place.size / (self.shape.piece as u64 * clients as u64);
        let (load_before, before) = (load(), self.target.counters());
        let (cpu, start) = (cpu_seconds(), Instant::now());
        let common = Arc::new(Common {
            target: self.target.clone(),
            ledger: self.ledger.clone(),
            shape: self.shape.clone(),
            pieces,
            deadline: start + time,
            stop: AtomicBool::new(false),
            failed: AtomicBool::new(false),
            barrier: Barrier::new(clients),
            failure: Mutex::new(None),
        });
        let mut tasks = JoinSet::new();
        for client in 0..clients as u64 {
            let seed = stretch << 32 | client;
            tasks.spawn(common.clone().client(client, Random::new(seed)));
        }
        let mut latencies = Latencies::new()?;
        let mut sync_latencies = Latencies::new()?;
        let mut ops = 0;
        while let Some(tally) = tasks.join_next().await {
            let tally = tally??;
            ops += tally.ops;
            latencies.merge(&tally.latencies)?;
            sync_latencies.merge(&tally.sync_latencies)?;
        }
        common.heard()?;
        if self.shape.final_sync {
            let start = Instant::now();
            self.target.sync().await?;
            sync_latencies.record(start.elapsed());
        }
        let elapsed = start.elapsed();
        let cpu_after = cpu_seconds();
        Ok(Sample {
            ops,
            bytes: ops * self.shape.piece as u64,
            elapsed,
            latencies,
            sync_latencies,
            cpu_seconds: cpu.zip(cpu_after).map(|(before, after)| after - before),
            before,
            after: self.target.counters(),
            load_before,
            load_after: load(),
        })
    }

    /// Measures, ends the session, and gathers everything into a report.
    pub async fn report(self, name: &str, time: Duration, seed: u64) -> Result<Report> {
        let sample = self.measure(time, seed).await?;
        let figures = Figures::of(&sample, self.shape.verb != Verb::Read);
        let (ledger, clients) = (self.ledger.clone(), self.shape.clients);
        let mut title = Title::new::<T>(name, &self.place, self.target.backend(), seed, clients);
        title.piece_bytes = self.shape.piece;
        let (reopening, recovery) = self.finish().await?;
        let mut report = Report::new(title, Some(figures), &ledger);
        report.phase("reopen", reopening);
        report.recovery = recovery;
        Ok(report)
    }

    /// Syncs, closes, opens again and reads everything; the ledger keeps what was wrong.
    ///
    /// Gives back how long the opening took, and how the target recovered.
    pub async fn finish(self) -> Result<(Duration, Option<Recovery>)> {
        let Self { target, ledger, place, .. } = self;
        target.sync().await?;
        target.close().await?;
        let start = Instant::now();
        let target = T::open(&place).await?;
        let reopening = start.elapsed();
        let recovery = target.recovery();
        let bar = Progress::new("verify", place.size);
        verify(&target, &ledger, place.size, &bar).await?;
        target.close().await?;
        Ok((reopening, recovery))
    }
}

impl<T: Target> Common<T> {
    async fn client(self: Arc<Self>, client: u64, mut random: Random) -> Result<Tally> {
        let mut tally =
            Tally { ops: 0, latencies: Latencies::new()?, sync_latencies: Latencies::new()? };
        let mut scratch = vec![0; self.shape.piece];
        let clients = self.shape.clients as u64;
        // Without syncs the round is one operation, and nobody waits for anybody.
        let round = self.shape.sync_every.map_or(1, |every| every / clients);
        let mut turn = 0;
        while !self.stop.load(Ordering::Acquire) {
            for _ in 0..round {
                let index = match self.shape.order {
                    Order::Random => random.below(self.pieces),
                    Order::Sequential => turn % self.pieces,
                };
                turn += 1;
                let piece = index * clients + client;
                if !self.noted(self.once(piece, &mut scratch, &mut tally).await) {
                    break;
                }
            }
            if self.shape.sync_every.is_some() {
                self.meet(&mut tally).await;
            } else if self.is_over(Instant::now()) {
                self.stop.store(true, Ordering::Release);
            }
            tokio::task::consume_budget().await;
        }
        Ok(tally)
    }

    /// One operation on one piece, timed and checked.
    async fn once(&self, piece: u64, scratch: &mut [u8], tally: &mut Tally) -> Result<()> {
        let offset = piece * self.shape.piece as u64;
        let block = offset / BLOCK_SIZE as u64;
        let ledger = &self.ledger;
        let start = Instant::now();
        match self.shape.verb {
            Verb::Read => {
                let glance = self.shape.glance;
                let see = |bytes: &[u8]| match glance {
                    true => ledger.glance(block, bytes),
                    false => ledger.check(block, bytes),
                };
                self.target.read(offset, scratch, see).await?;
            }
            Verb::Write => {
                let make = |out: &mut [u8]| ledger.renew(block, out);
                self.target.write(offset, scratch, make).await?;
            }
            Verb::Commit => {
                let make = |out: &mut [u8]| ledger.renew(block, out);
                self.target.commit(offset, scratch, make).await?;
            }
        }
        tally.latencies.record(start.elapsed());
        tally.ops += 1;
        Ok(())
    }

    /// All clients stand still, one syncs and decides whether to go on.
    async fn meet(&self, tally: &mut Tally) {
        if self.barrier.wait().await.is_leader() {
            let start = Instant::now();
            let synced = self.target.sync().await;
            tally.sync_latencies.record(start.elapsed());
            self.noted(synced);
            if self.is_over(start) {
                self.stop.store(true, Ordering::Release);
            }
        }
        self.barrier.wait().await;
    }

    /// Whether it went well; a failure is kept and stops all clients at their next check.
    fn noted(&self, outcome: Result<()>) -> bool {
        let Err(failure) = outcome else {
            return true;
        };
        let mut first = self.failure.lock().unwrap_or_else(|e| e.into_inner());
        first.get_or_insert(failure);
        self.failed.store(true, Ordering::Release);
        false
    }

    fn is_over(&self, moment: Instant) -> bool {
        moment >= self.deadline || self.failed.load(Ordering::Acquire)
    }

    fn heard(&self) -> Result<()> {
        let mut first = self.failure.lock().unwrap_or_else(|e| e.into_inner());
        first.take().map_or(Ok(()), Err)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_cover_every_block_once() {
        for blocks in [0_u64, 1, 3, 255, 256, 257, 1000] {
            let mut end = 0;
            for (at, len) in pieces(blocks * BLOCK_SIZE as u64) {
                assert_eq!(at, end);
                assert!(len.is_power_of_two() && (BLOCK_SIZE..=PIECE_MAX).contains(&len));
                end = at + len as u64;
            }
            assert_eq!(end, blocks * BLOCK_SIZE as u64);
        }
    }
}
