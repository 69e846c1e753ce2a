//! One run: a fresh store, a log of operations, and what must be left at the end.
//!
//! Guarantees that a run on the simulated disk with one task is determined by seed and log (virtual
//! time, one thread); that a panic is a failure like others; that at the end all objects are removed
//! and the free space is what it was. Does not choose operations (`generate`) or make logs smaller
//! (`shrink`). Used by the program and the tests.

use std::cell::Cell;
use std::panic::AssertUnwindSafe;
use std::panic::catch_unwind;
use std::path::PathBuf;

use foliant::Engine;
use foliant_device::Device;
use foliant_device::sim::SimDisk;
use foliant_device::sim::SimOptions;

pub use super::failure::Failure;
pub use super::failure::Kind;

use super::beside::Beside;
use super::failure::fail;
use super::generate::OBJECTS;
use super::op::Fill;
use super::op::Op;
use super::op::Span;
use super::oracle::Oracle;
use super::play::BALLAST;
use super::play::BALLAST_PIECE_BYTES;
use super::play::BALLAST_PIECES;
use super::play::Play;
use super::play::name;

/// Bytes of the store: objects, ballast and their old versions never fill it.
pub const STORE_BYTES: u64 = 128 << 20;
/// The smallest journal, so that it laps.
const JOURNAL_BYTES: u64 = 4 << 20;
/// Reopenings until the empty store looks as it did at the start.
const REST_ROUNDS: usize = 2;

/// Where the store lies.
#[derive(Debug, Clone)]
pub enum Place {
    /// On the simulated disk.
    Sim,
    /// In this file, which is made, replaced and left behind.
    File(PathBuf),
    /// On this block device, whose content is lost.
    Device(PathBuf),
}

/// How to run.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Decides what the simulated disk does.
    pub seed: u64,
    /// Where the store lies.
    pub place: Place,
    /// The engine's budget.
    pub memory_bytes: u64,
    /// Two operations at once run on two threads; otherwise they take turns on one.
    pub threads: bool,
    /// The folder for plain files to compare with.
    pub beside: Option<PathBuf>,
}

impl Plan {
    /// One task on the simulated disk, with the smallest budget.
    pub fn sim(seed: u64) -> Self {
        let memory_bytes = foliant::limits::MEMORY_BYTES_MIN;
        Self { seed, place: Place::Sim, memory_bytes, threads: false, beside: None }
    }

    fn runtime(&self) -> std::io::Result<tokio::runtime::Runtime> {
        if self.threads {
            return tokio::runtime::Builder::new_multi_thread()
                .worker_threads(2)
                .enable_all()
                .build();
        }
        let mut builder = tokio::runtime::Builder::new_current_thread();
        match self.place {
            Place::Sim => builder.enable_time().start_paused(true),
            _ => builder.enable_all(),
        };
        builder.build()
    }
}

/// The medium, which outlives the engines on it.
enum Medium {
    Sim(SimDisk),
    Path(PathBuf),
}

impl Medium {
    async fn make(plan: &Plan) -> foliant::Result<Self> {
        let (medium, format) = match &plan.place {
            Place::Sim => {
                // On real time a delay costs, and what it reorders threads reorder as well.
                let latency_ms_max = if plan.threads { 0 } else { 4 };
                let options =
                    SimOptions { seed: plan.seed, latency_ms_max, ..SimOptions::default() };
                let blocks = STORE_BYTES / super::oracle::BLOCK;
                let disk = SimDisk::new(blocks, options);
                let format = Engine::format_device(Device::new(disk.attach()));
                (Self::Sim(disk), format)
            }
            Place::File(path) => {
                (Self::Path(path.clone()), Engine::format(path).size_bytes(STORE_BYTES))
            }
            Place::Device(path) => (Self::Path(path.clone()), Engine::format(path)),
        };
        format.journal_bytes(JOURNAL_BYTES).uuid([7; 16]).force(true).run().await?;
        Ok(medium)
    }

    async fn open(&self, memory_bytes: u64) -> foliant::Result<Engine> {
        let options = match self {
            Self::Sim(disk) => Engine::open_device(Device::new(disk.attach())),
            Self::Path(path) => Engine::open(path),
        };
        options.memory_bytes(memory_bytes).run().await
    }
}

/// Plays `ops`; `at` hears the index of each before it runs.
///
/// Errors: the first failure.
pub fn run(plan: &Plan, ops: &[Op], at: &mut dyn FnMut(usize)) -> Result<(), Failure> {
    let reached = Cell::new(0);
    let mut note = |index: usize| {
        reached.set(index);
        at(index);
    };
    let work = AssertUnwindSafe(|| {
        let runtime = plan.runtime().map_err(|cause| fail(Kind::Setup, cause.to_string()))?;
        runtime.block_on(whole(plan, ops, &mut note))
    });
    let outcome = catch_unwind(work).unwrap_or_else(|cause| {
        let text = cause.downcast_ref::<String>().cloned();
        let text = text.or_else(|| cause.downcast_ref::<&str>().map(|&s| s.to_owned()));
        Err(fail(Kind::Panic, text.unwrap_or_default()))
    });
    outcome.map_err(|failure| Failure { at: reached.get(), ..failure })
}

/// Reopens a store whose objects are all removed until its free space does not change any more.
async fn free_at_rest(medium: &Medium, mut engine: Engine, memory: u64) -> Result<u64, Failure> {
    for _ in 0..REST_ROUNDS {
        engine.close().await?;
        engine = medium.open(memory).await?;
    }
    let free = engine.stats().free_bytes;
    engine.close().await?;
    Ok(free)
}

async fn start(plan: &Plan, medium: &Medium) -> Result<(Play, u64), Failure> {
    let engine = medium.open(plan.memory_bytes).await?;
    let ballast = engine.create(BALLAST).await?;
    for piece in 0..BALLAST_PIECES {
        let at = piece * BALLAST_PIECE_BYTES;
        let span = Span { object: 0, at, len: BALLAST_PIECE_BYTES };
        ballast.write_at(at, &Fill { span, tag: 0 }.bytes()).await?;
    }
    drop(ballast);
    let free = free_at_rest(medium, engine, plan.memory_bytes).await?;
    let engine = medium.open(plan.memory_bytes).await?;
    for at in 0..OBJECTS {
        engine.create(name(at)).await?;
    }
    let beside = match &plan.beside {
        Some(dir) => Some(Beside::new(dir, OBJECTS)?),
        None => None,
    };
    let (hands, oracle) = ([Vec::new(), Vec::new()], Oracle::new(OBJECTS));
    let mut play = Play { engine, hands, oracle, beside, evictions: 0, spawn: plan.threads };
    play.take_hands().await?;
    Ok((play, free))
}

async fn whole(plan: &Plan, ops: &[Op], at: &mut dyn FnMut(usize)) -> Result<(), Failure> {
    let medium = Medium::make(plan).await?;
    let (mut play, free) = start(plan, &medium).await?;
    for (index, op) in ops.iter().enumerate() {
        at(index);
        match op {
            Op::Reopen => reopen(plan, &medium, &mut play).await?,
            op => play.step(op).await?,
        }
    }
    at(ops.len());
    for op in [Op::Verify, Op::SyncAll, Op::Verify] {
        play.step(&op).await?;
    }
    reopen(plan, &medium, &mut play).await?;
    play.step(&Op::Verify).await?;
    finish(plan, &medium, play, free).await
}

/// Closes and opens.
async fn reopen(plan: &Plan, medium: &Medium, play: &mut Play) -> Result<(), Failure> {
    play.hands.iter_mut().for_each(Vec::clear);
    play.engine.clone().close().await?;
    play.engine = medium.open(plan.memory_bytes).await?;
    play.take_hands().await?;
    play.oracle.apply(&Op::Reopen);
    play.check_sizes()?;
    play.follow(&Op::Reopen)
}

/// Removes all objects; the space must be back.
async fn finish(plan: &Plan, medium: &Medium, play: Play, start: u64) -> Result<(), Failure> {
    let Play { engine, hands, .. } = play;
    drop(hands);
    for at in 0..OBJECTS {
        engine.remove(name(at)).await?;
    }
    engine.sync().await?;
    let dirty = engine.stats().dirty_bytes;
    if dirty > 0 {
        return Err(fail(Kind::Balance, format!("{dirty} bytes are dirty and belong to nobody")));
    }
    let end = free_at_rest(medium, engine, plan.memory_bytes).await?;
    if end != start {
        let what = format!("{end} bytes are free in the end, {start} were at the start");
        return Err(fail(Kind::Space, what));
    }
    Ok(())
}
