//! Rows a1 to a3: hits in the cache, against the page cache, plain memory and each other.
//!
//! The loops do nothing beside the read but choose a block and look at the number in its head, since
//! a hit is as short as what a harness usually puts around it. Every byte is compared before and
//! after. Both sides hold all of the data in memory, so no limit is needed for a fair match. Does not
//! measure a mapped file: mapping one is `unsafe`; plain memory stands in for it, with the same
//! small pages when the machine gives huge ones on request only. Called by `rows`.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::task::Context as Polling;
use std::task::Poll;
use std::task::Wake;
use std::task::Waker;
use std::time::Duration;
use std::time::Instant;

use anyhow::Context;
use anyhow::Result;
use anyhow::ensure;
use foliant::Object;
use foliant_device::BLOCK_SIZE;

use crate::data::Random;
use crate::measure::cpu_seconds;
use crate::rows::contest::Levels;
use crate::rows::contest::Reading;
use crate::rows::contest::Side;
use crate::rows::contest::Unit;
use crate::rows::line::LINE;
use crate::rows::line::LINES;
use crate::rows::line::ROUND;
use crate::rows::line::choose;
use crate::rows::line::says_block;
use crate::rows::line::touch;
use crate::rows::plan::Plan;
use crate::rows::pread::Load;
use crate::rows::pread::Pread;
use crate::rows::report::Outcome;
use crate::rows::store::READ;
use crate::rows::store::Store;
use crate::targets::buffered::Buffered;
use crate::targets::foliant::Foliant;
use crate::workload::Shape;

/// Blocks that stay in the processor's cache, for the cost of the call alone.
const HOT_BLOCKS: u64 = 64;
/// Hits that are polled by hand.
const POLLED: u64 = 100_000;
const GIB: u64 = 1 << 30;

const WARM: Shape = Shape { warm: true, ..READ };

/// How Foliant reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum How {
    Copied,
    Shared,
    /// Without a future.
    Direct,
}

/// One reader of a store whose data is in the cache.
struct Hits<'a> {
    store: &'a Store,
    how: How,
    /// Reads among the first so many blocks.
    blocks: u64,
}

impl Side for Hits<'_> {
    fn name(&self) -> String {
        match self.how {
            How::Copied => "foliant read_at".to_owned(),
            How::Shared => "foliant read, 64 bytes touched".to_owned(),
            How::Direct => "foliant try_read_at".to_owned(),
        }
    }

    fn block(&mut self, time: Duration, stretch: u64) -> Result<Reading> {
        let object = self.store.target().object();
        let random = Random::new(stretch);
        let (cpu, start) = (cpu_seconds(), Instant::now());
        let (ops, wrong) = self.store.runtime.block_on(async {
            match self.how {
                How::Copied => copied(object, self.blocks, random, start, time).await,
                How::Shared => shared(object, self.blocks, random, start, time).await,
                How::Direct => direct(object, self.blocks, random, start, time),
            }
        })?;
        let seconds = start.elapsed().as_secs_f64();
        ensure!(wrong == 0, "{wrong} of {ops} reads gave wrong bytes");
        // Where little is touched, the rate in bytes is that of the touched line.
        let each = if self.how == How::Shared { LINE } else { BLOCK_SIZE };
        let bytes = ops as f64 * each as f64;
        let cpu_seconds = cpu.zip(cpu_seconds()).map(|(before, after)| after - before);
        Ok(Reading { ops: ops as f64, bytes, seconds, cpu_seconds })
    }
}

async fn copied(
    object: &Object,
    blocks: u64,
    mut random: Random,
    start: Instant,
    time: Duration,
) -> Result<(u64, u64)> {
    let mut scratch = vec![0; BLOCK_SIZE];
    let (mut ops, mut wrong) = (0, 0);
    while start.elapsed() < time {
        for _ in 0..ROUND {
            let block = random.below(blocks);
            let read = object.read_at(block * BLOCK_SIZE as u64, &mut scratch).await?;
            std::hint::black_box(&scratch);
            wrong += u64::from(read != BLOCK_SIZE || !says_block(&scratch, block));
        }
        ops += ROUND;
    }
    Ok((ops, wrong))
}

async fn shared(
    object: &Object,
    blocks: u64,
    mut random: Random,
    start: Instant,
    time: Duration,
) -> Result<(u64, u64)> {
    let (mut ops, mut wrong, mut last) = (0, 0, 0);
    while start.elapsed() < time {
        for _ in 0..ROUND {
            let (block, line) = (choose(&mut random, last, blocks), random.below(LINES));
            let at = block * BLOCK_SIZE as u64;
            let bytes = object.read(at..at + BLOCK_SIZE as u64).await?;
            let touched = &bytes[line as usize * LINE..][..LINE];
            last = touch(touched);
            wrong += u64::from(line == 0 && !says_block(touched, block));
        }
        ops += ROUND;
    }
    Ok((ops, wrong))
}

fn direct(
    object: &Object,
    blocks: u64,
    mut random: Random,
    start: Instant,
    time: Duration,
) -> Result<(u64, u64)> {
    let mut scratch = vec![0; BLOCK_SIZE];
    let (mut ops, mut wrong) = (0, 0);
    while start.elapsed() < time {
        for _ in 0..ROUND {
            let block = random.below(blocks);
            let read = object.try_read_at(block * BLOCK_SIZE as u64, &mut scratch)?;
            std::hint::black_box(&scratch);
            wrong += u64::from(read != Some(BLOCK_SIZE) || !says_block(&scratch, block));
        }
        ops += ROUND;
    }
    Ok((ops, wrong))
}

/// A warm store whose data fits its memory half again.
fn warm(plan: &Plan, own: u64) -> Result<(Store, u64)> {
    let size = plan.size(own, 16 << 20);
    let store = Store::<Foliant>::start(plan, WARM, (size, size / 2 * 3), 1)?;
    Ok((store, size / BLOCK_SIZE as u64))
}

pub fn a1(plan: &Plan, outcome: &mut Outcome) -> Result<()> {
    let (store, blocks) = warm(plan, GIB)?;
    let file = Store::<Buffered>::start(plan, WARM, (blocks * BLOCK_SIZE as u64, 0), 1)?;
    let mut peer = Pread::new(&file.place().path, blocks, BLOCK_SIZE)?;
    let mut mine = Hits { store: &store, how: How::Copied, blocks };
    let judge = (Unit::Ratio, Levels::new(2.0, 2.7));
    let before = misses(&store);
    outcome.contest(plan, "a1 over pread", judge, &mut mine, &mut peer)?;
    outcome.fact("misses while measuring", (misses(&store) - before).to_string());
    outcome.fact("memory", "both sides hold all data in memory; no limit applies to either");
    outcome.verdicts.extend([store.finish()?, file.finish()?]);
    Ok(())
}

pub fn a2(plan: &Plan, outcome: &mut Outcome) -> Result<()> {
    let (store, blocks) = warm(plan, GIB)?;
    let file = Store::<Buffered>::start(plan, WARM, (blocks * BLOCK_SIZE as u64, 0), 1)?;
    let mut peer = Pread::new(&file.place().path, blocks, LINE)?;
    let mut mine = Hits { store: &store, how: How::Shared, blocks };
    let judge = (Unit::Ratio, Levels::new(3.0, 4.5));
    outcome.contest(plan, "a2 over pread of 64 bytes", judge, &mut mine, &mut peer)?;
    if !plan.alone {
        let mut peer = Load::new(blocks);
        let judge = (Unit::Ratio, Levels::new(0.7, 1.0));
        outcome.contest(plan, "a2 over plain memory", judge, &mut mine, &mut peer)?;
    }
    let huge = std::fs::read_to_string("/sys/kernel/mm/transparent_hugepage/enabled");
    outcome.fact("huge pages for plain memory", huge.unwrap_or_default().trim());
    outcome.skip(
        "a mapped file: mapping one is unsafe in Rust, which this crate forbids; a load from plain \
         memory of the same size stands in for it, and is no slower",
    );
    outcome.verdicts.extend([store.finish()?, file.finish()?]);
    Ok(())
}

pub fn a3(plan: &Plan, outcome: &mut Outcome) -> Result<()> {
    let (store, blocks) = warm(plan, 64 << 20)?;
    let judge = (Unit::NanosecondsMore, Levels::new(50.0, 20.0));
    let hits = |how, blocks| Hits { store: &store, how, blocks };
    let hot = HOT_BLOCKS.min(blocks);
    let (mut mine, mut peer) = (hits(How::Copied, hot), hits(How::Direct, hot));
    outcome.contest(plan, "a3 over the direct call", judge, &mut mine, &mut peer)?;
    let (pending, wakes) = polled_by_hand(store.target().object(), hot)?;
    ensure!(pending == 0 && wakes == 0, "{pending} hits were not ready, {wakes} wakes");
    outcome.fact("ready at the first poll", format!("{POLLED} of {POLLED} hits, {wakes} wakes"));
    outcome.skip(
        "allocations per hit: a counting allocator is unsafe in Rust; count calls of malloc with \
         `perf probe` or `ltrace` while `row a3 --alone` runs",
    );
    outcome.verdicts.push(store.finish()?);
    Ok(())
}

fn misses(store: &Store) -> u64 {
    store.target().engine().stats().cache_misses
}

/// Counts wakes.
struct Bell(AtomicU64);

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// How many hits were not ready at the first poll, and how often anything was woken.
fn polled_by_hand(object: &Object, blocks: u64) -> Result<(u64, u64)> {
    let bell = Arc::new(Bell(AtomicU64::new(0)));
    let waker = Waker::from(bell.clone());
    let mut polling = Polling::from_waker(&waker);
    let mut scratch = vec![0; BLOCK_SIZE];
    let mut pending = 0;
    for turn in 0..POLLED {
        let block = turn % blocks;
        let polled = pin!(object.read_at(block * BLOCK_SIZE as u64, &mut scratch));
        let polled = polled.poll(&mut polling);
        let Poll::Ready(read) = polled else {
            pending += 1;
            continue;
        };
        ensure!(read.context("a hit failed")? == BLOCK_SIZE, "a short hit");
    }
    Ok((pending, bell.0.load(Ordering::Relaxed)))
}
