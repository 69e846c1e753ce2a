//! Row `writers`: two writers on one object, each on its half, over one; the same on a file on XFS.
//!
//! Rewrites data that is in memory already, with room for all of it to stay dirty, so that what is
//! compared is the path from the call to the cache and nothing below it. Content: a number for the
//! block, then bytes that do not compress; each block is compared after reopening. Neither side has a
//! memory limit that it could reach. Called by `rows`.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

use anyhow::Context;
use anyhow::Result;
use foliant::Object;
use foliant_device::BLOCK_SIZE;
use tokio::task::JoinSet;

use crate::data::Random;
use crate::measure::cpu_seconds;
use crate::report::Verdict;
use crate::rows::contest::Levels;
use crate::rows::contest::Reading;
use crate::rows::contest::Side;
use crate::rows::contest::Unit;
use crate::rows::line::says_block;
use crate::rows::plan::Plan;
use crate::rows::report::Outcome;
use crate::rows::store::READ;
use crate::rows::store::Store;
use crate::rows::xfs::Xfs;
use crate::targets::foliant::Foliant;
use crate::workload::Shape;
use crate::workload::show_bytes;

const PIECES: [usize; 2] = [BLOCK_SIZE, 64 << 10];
const HEAD: usize = 8;
/// Writes between two looks at the clock.
const ROUND: u64 = 16;

/// One writer's own choices and content.
#[derive(Clone)]
struct Writer {
    first_block: u64,
    pieces: u64,
    random: Random,
    buffer: Vec<u8>,
}

impl Writer {
    fn new(writer: usize, (blocks, piece): (u64, usize), stretch: u64) -> Self {
        let blocks_each = (piece / BLOCK_SIZE) as u64;
        let pieces = blocks / 2 / blocks_each;
        Self {
            first_block: writer as u64 * (blocks / 2),
            pieces,
            random: Random::new(stretch << 8 | writer as u64),
            buffer: noise().repeat(piece / BLOCK_SIZE),
        }
    }

    /// The next piece: its offset and content.
    fn next(&mut self) -> (u64, &[u8]) {
        let piece = self.random.below(self.pieces);
        self.piece(piece)
    }

    fn piece(&mut self, piece: u64) -> (u64, &[u8]) {
        let blocks = (self.buffer.len() / BLOCK_SIZE) as u64;
        let first = self.first_block + piece * blocks;
        for (block, bytes) in (first..).zip(self.buffer.chunks_exact_mut(BLOCK_SIZE)) {
            bytes[..HEAD].copy_from_slice(&block.to_le_bytes());
        }
        (first * BLOCK_SIZE as u64, &self.buffer)
    }
}

/// What every block holds behind its number.
fn noise() -> Vec<u8> {
    let mut random = Random::new(7);
    (0..BLOCK_SIZE / 8).flat_map(|_| random.next().to_le_bytes()).collect()
}

/// Writers as tasks on one object.
struct Tasks<'a> {
    store: &'a Store,
    blocks: u64,
    piece: usize,
    writers: usize,
}

impl Side for Tasks<'_> {
    fn name(&self) -> String {
        format!("foliant, {} x {}", self.writers, show_bytes(self.piece as u64))
    }

    fn block(&mut self, time: Duration, stretch: u64) -> Result<Reading> {
        let (cpu, start) = (cpu_seconds(), Instant::now());
        let object = self.store.target().object();
        let ops = self.store.runtime.block_on(async {
            let mut tasks = JoinSet::new();
            for writer in 0..self.writers {
                let writer = Writer::new(writer, (self.blocks, self.piece), stretch);
                tasks.spawn(write_object(object.clone(), writer, start, time));
            }
            let mut ops = 0;
            while let Some(done) = tasks.join_next().await {
                ops += done??;
            }
            anyhow::Ok(ops)
        })?;
        Ok(reading(ops, self.piece, start, cpu))
    }
}

async fn write_object(
    object: Object,
    mut writer: Writer,
    start: Instant,
    time: Duration,
) -> Result<u64> {
    let mut ops = 0;
    while start.elapsed() < time {
        for _ in 0..ROUND {
            let (at, bytes) = writer.next();
            object.write_at(at, bytes).await?;
        }
        ops += ROUND;
        tokio::task::consume_budget().await;
    }
    Ok(ops)
}

/// Writers as threads on one file.
struct Threads<'a> {
    file: &'a File,
    blocks: u64,
    piece: usize,
    writers: usize,
}

impl Side for Threads<'_> {
    fn name(&self) -> String {
        format!("XFS, {} x {}", self.writers, show_bytes(self.piece as u64))
    }

    fn block(&mut self, time: Duration, stretch: u64) -> Result<Reading> {
        let (cpu, start) = (cpu_seconds(), Instant::now());
        let shape = (self.blocks, self.piece);
        let write = |writer: usize| -> Result<u64> {
            let mut writer = Writer::new(writer, shape, stretch);
            let mut ops = 0;
            while start.elapsed() < time {
                for _ in 0..ROUND {
                    let (at, bytes) = writer.next();
                    self.file.write_all_at(bytes, at)?;
                }
                ops += ROUND;
            }
            Ok(ops)
        };
        let ops: u64 = std::thread::scope(|scope| {
            let threads: Vec<_> =
                (0..self.writers).map(|w| scope.spawn(move || write(w))).collect();
            let joined = threads.into_iter().map(|t| t.join().expect("a writer panicked"));
            joined.sum::<Result<u64>>()
        })?;
        Ok(reading(ops, self.piece, start, cpu))
    }
}

fn reading(ops: u64, piece: usize, start: Instant, cpu: Option<f64>) -> Reading {
    let seconds = start.elapsed().as_secs_f64();
    let cpu_seconds = cpu.zip(cpu_seconds()).map(|(before, after)| after - before);
    Reading { ops: ops as f64, bytes: ops as f64 * piece as f64, seconds, cpu_seconds }
}

pub fn writers(plan: &Plan, outcome: &mut Outcome) -> Result<()> {
    let size = plan.size(128 << 20, 8 << 20);
    let blocks = size / BLOCK_SIZE as u64;
    // All of the data may be dirty beside what is stored, so the store has room for it twice and more.
    let shape = Shape { fill_percent: 25, ..READ };
    // Writeback starts when an eighth of the memory is dirty.
    let mut store = Store::<Foliant>::start(plan, shape, (size, size * 12), 2)?;
    let object = store.target().object().clone();
    store.runtime.block_on(write_all(&object, blocks))?;
    let xfs = peer(plan, outcome, blocks)?;
    for piece in PIECES {
        one_size(plan, outcome, (&store, blocks, piece), xfs.as_ref().map(|(file, _)| file))?;
    }
    let back = store.target().engine().stats().written_back_bytes;
    outcome.fact("written back by foliant in all", show_bytes(back));
    drop(object);
    store = store.moved(1)?;
    outcome.verdicts.push(store.runtime.block_on(verified(store.target().object(), blocks))?);
    Ok(())
}

/// The peer's file system and file, filled; `None`, said loudly, where there can be none.
fn peer(plan: &Plan, outcome: &mut Outcome, blocks: u64) -> Result<Option<(File, Xfs)>> {
    if plan.alone {
        return Ok(None);
    }
    let Some(xfs) = Xfs::or_skip(plan, outcome, Xfs::half_full(blocks * BLOCK_SIZE as u64)) else {
        return Ok(None);
    };
    let path = xfs.folder().join("file");
    let file = File::options().read(true).write(true).create_new(true).open(path);
    let file = file.context("making the peer's file")?;
    for writer in 0..2 {
        let mut writer = Writer::new(writer, (blocks, BLOCK_SIZE), 0);
        for piece in 0..writer.pieces {
            let (at, bytes) = writer.piece(piece);
            file.write_all_at(bytes, at)?;
        }
    }
    file.sync_all()?;
    // In this order: a file that is open keeps its file system busy.
    Ok(Some((file, xfs)))
}

fn one_size(
    plan: &Plan,
    outcome: &mut Outcome,
    (store, blocks, piece): (&Store, u64, usize),
    file: Option<&File>,
) -> Result<()> {
    let told = (Unit::Ratio, Levels::NONE);
    let tasks = |writers| Tasks { store, blocks, piece, writers };
    let shown = show_bytes(piece as u64);
    let what = format!("{shown}: two writers over one, foliant");
    outcome.contest(plan, &what, told, &mut tasks(2), &mut tasks(1))?;
    let Some(file) = file else {
        return Ok(());
    };
    let threads = |writers| Threads { file, blocks, piece, writers };
    let what = format!("{shown}: two writers over one, XFS");
    outcome.contest(plan, &what, told, &mut threads(2), &mut threads(1))?;
    let what = format!("{shown}: two writers, foliant over XFS");
    outcome.contest(plan, &what, told, &mut tasks(2), &mut threads(2))
}

async fn write_all(object: &Object, blocks: u64) -> Result<()> {
    for writer in 0..2 {
        let mut writer = Writer::new(writer, (blocks, 64 << 10), 0);
        for piece in 0..writer.pieces {
            let (at, bytes) = writer.piece(piece);
            object.write_at(at, bytes).await?;
        }
    }
    Ok(())
}

/// Compares every block with what writers write.
async fn verified(object: &Object, blocks: u64) -> Result<Verdict> {
    let noise = Arc::new(noise());
    let mut verdict =
        Verdict { verified: true, blocks_compared: 0, mismatches: 0, first_mismatch: None };
    let mut bytes = vec![0; BLOCK_SIZE];
    for block in 0..blocks {
        let read = object.read_at(block * BLOCK_SIZE as u64, &mut bytes).await?;
        let right = says_block(&bytes, block) && bytes[HEAD..] == noise[HEAD..];
        verdict.blocks_compared += 1;
        if !right || read != BLOCK_SIZE {
            verdict.verified = false;
            verdict.mismatches += 1;
            verdict.first_mismatch.get_or_insert(format!("block {block} is wrong"));
        }
    }
    Ok(verdict)
}
