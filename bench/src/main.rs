//! `bench`: one workload over interchangeable targets, with every byte verified.
//!
//! Reads the command line, runs, prints; exit code 1 means that data was wrong or a run failed.
//! A figure without a verification is not printed as good.
#![forbid(unsafe_code)]

mod compare;
mod data;
mod fill;
mod measure;
mod place;
mod progress;
mod report;
mod run;
mod target;
mod targets;
mod workload;

use std::path::PathBuf;
use std::process::Command;
use std::process::ExitCode;
use std::process::Stdio;
use std::time::Duration;

use anyhow::Context;
use anyhow::Result;
use anyhow::ensure;
use clap::Args;
use clap::Parser;
use clap::Subcommand;
use clap::ValueEnum;

use crate::place::Lodging;
use crate::place::Wish;
use crate::report::Figures;
use crate::report::Report;
use crate::report::Title;
use crate::run::Session;
use crate::target::Place;
use crate::target::Target;
use crate::targets::foliant::Foliant;
use crate::targets::raw::Raw;
use crate::workload::FILL_VERIFY;
use crate::workload::Shape;
use crate::workload::Verb;
use crate::workload::WORKLOADS;
use crate::workload::Wishes;
use crate::workload::Workload;
use crate::workload::parse_bytes;
use crate::workload::show_bytes;
use crate::workload::store_bytes;

/// Free room that `fill-verify` leaves in its store, as a share of data in the store.
const FILL_VERIFY_PERCENT: u64 = 90;
const FILL_VERIFY_SIZE: u64 = 1 << 30;
const FILL_VERIFY_MEMORY: u64 = 128 << 20;

#[derive(Parser)]
#[command(about = "One workload over interchangeable targets, with every byte verified")]
struct Line {
    #[command(subcommand)]
    verb: Do,
}

#[derive(Subcommand)]
enum Do {
    /// Lists the workloads and targets.
    List,
    /// Runs one workload on one target.
    Run(Run),
    /// Measures foliant against raw, interleaved, with a 95 % interval of the ratio.
    Compare(Compare),
    /// Fills until killed; started by `run fill-verify --kill`.
    #[command(hide = true)]
    FillChild(Run),
}

#[derive(Clone, Copy, ValueEnum)]
enum Which {
    Foliant,
    Raw,
}

#[derive(Args)]
struct Run {
    /// Name of a workload; see `list`.
    workload: String,
    /// What to measure.
    #[arg(long, value_enum)]
    target: Which,
    /// Seconds of measurement.
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
    /// For fill-verify: fill in a child process and kill it at 80 %.
    #[arg(long)]
    kill: bool,
    /// A block device to run on; its content is lost.
    #[arg(long, conflicts_with = "file")]
    device: Option<PathBuf>,
    #[command(flatten)]
    options: Options,
}

#[derive(Args)]
struct Compare {
    /// Name of a workload; see `list`.
    workload: String,
    /// Rounds of foliant, raw, raw, foliant: two pairs each.
    #[arg(long, default_value_t = 4)]
    rounds: u64,
    /// Seconds of one block.
    #[arg(long, default_value_t = 3.0)]
    seconds: f64,
    #[command(flatten)]
    options: Options,
}

#[derive(Args)]
struct Options {
    /// A file to run on, kept afterwards (default: one in the temporary folder, removed).
    #[arg(long)]
    file: Option<PathBuf>,
    /// Bytes of user data, such as 8GiB.
    #[arg(long, value_parser = parse_bytes)]
    size: Option<u64>,
    /// Memory budget, such as 128MiB.
    #[arg(long, value_parser = parse_bytes)]
    memory: Option<u64>,
    /// Writes the result as JSON.
    #[arg(long)]
    json: Option<PathBuf>,
    /// Decides content and choices.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Operations in flight.
    #[arg(long)]
    clients: Option<usize>,
    /// Bytes of one operation.
    #[arg(long, value_parser = parse_bytes)]
    piece: Option<u64>,
    /// Writes between two syncs, for workloads that write.
    #[arg(long)]
    sync_every: Option<u64>,
    /// Data as a share of the store, in percent.
    #[arg(long)]
    fill: Option<u64>,
    /// Threads of the runtime; 1 is a current-thread runtime.
    #[arg(long, default_value_t = 2)]
    workers: usize,
    /// Keep the file in the temporary folder.
    #[arg(long)]
    keep: bool,
    /// Allow content to be lost that is in the named file or device.
    #[arg(long)]
    overwrite: bool,
}

impl Options {
    fn wishes(&self) -> Wishes {
        Wishes {
            size: self.size,
            memory: self.memory,
            clients: self.clients,
            piece: self.piece,
            sync_every: self.sync_every,
            fill_percent: self.fill,
        }
    }

    fn place(&self, device: Option<PathBuf>) -> Wish {
        Wish { file: self.file.clone(), device, keep: self.keep, overwrite: self.overwrite }
    }

    fn runtime(&self) -> Result<tokio::runtime::Runtime> {
        ensure!((1..=64).contains(&self.workers), "--workers must be 1 to 64");
        let mut builder = match self.workers {
            1 => tokio::runtime::Builder::new_current_thread(),
            _ => tokio::runtime::Builder::new_multi_thread(),
        };
        let runtime = builder.worker_threads(self.workers).enable_all().build();
        runtime.context("starting the runtime")
    }
}

fn main() -> ExitCode {
    let done = match Line::parse().verb {
        Do::List => list(),
        Do::Run(run) => match run.target {
            Which::Foliant => run_on::<Foliant>(&run, false),
            Which::Raw => run_on::<Raw>(&run, true),
        },
        Do::Compare(compare) => compare_both(&compare),
        Do::FillChild(run) => match run.target {
            Which::Foliant => fill_child::<Foliant>(&run),
            Which::Raw => fill_child::<Raw>(&run),
        },
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(e) => {
            eprintln!("bench: {e:#}");
            ExitCode::FAILURE
        }
    }
}

fn list() -> Result<bool> {
    println!("targets: {}, {}", Foliant::NAME, Raw::NAME);
    for w in WORKLOADS {
        let (size, memory) = (show_bytes(w.size), show_bytes(w.memory));
        println!("{:18} {} [{size} of data, {memory} of memory]", w.name, w.about);
    }
    let (size, memory) = (show_bytes(FILL_VERIFY_SIZE), show_bytes(FILL_VERIFY_MEMORY));
    println!(
        "{FILL_VERIFY:18} fill, reopen, compare every byte [{size} of data, {memory} of memory]"
    );
    Ok(true)
}

fn time(seconds: f64) -> Result<Duration> {
    let sound = seconds.is_finite() && (0.01..=86_400.0).contains(&seconds);
    ensure!(sound, "--seconds must be 0.01 to 86400");
    Ok(Duration::from_secs_f64(seconds))
}

/// Runs, prints, and says whether every byte was right.
fn run_on<T: Target>(run: &Run, bare: bool) -> Result<bool> {
    let runtime = run.options.runtime()?;
    let report = if run.workload == FILL_VERIFY {
        let lodging = fill_lodging::<T>(run, true)?;
        match run.kill {
            true => runtime.block_on(fill_killed::<T>(run, &lodging.place))?,
            false => runtime.block_on(fill::whole::<T>(&lodging.place, run.options.seed))?,
        }
    } else {
        ensure!(!run.kill, "--kill is for {FILL_VERIFY}");
        let workload = Workload::named(&run.workload)?;
        let wishes = run.options.wishes();
        let shape = workload.shape(bare, &wishes)?;
        let lodging = lodging::<T>(&run.options, run.device.clone(), workload, &shape)?;
        let time = time(run.seconds)?;
        let seed = run.options.seed;
        runtime.block_on(measured::<T>(workload.name, &shape, &lodging.place, time, seed))?
    };
    println!("{}", report.table());
    if let Some(path) = &run.options.json {
        report::write_json(path, &report)?;
    }
    Ok(report.verdict.verified)
}

fn lodging<T: Target>(
    options: &Options,
    device: Option<PathBuf>,
    workload: &Workload,
    shape: &Shape,
) -> Result<Lodging> {
    let wishes = options.wishes();
    let size = workload.size(shape, &wishes)?;
    let store = store_bytes(size, shape.fill_percent);
    let memory = wishes.memory.unwrap_or(workload.memory);
    Lodging::find(&options.place(device), T::NAME, size, store, memory)
}

fn fill_lodging<T: Target>(run: &Run, check: bool) -> Result<Lodging> {
    let options = &run.options;
    let size = options.size.unwrap_or(FILL_VERIFY_SIZE);
    let size = size / workload::PIECE_MAX as u64 * workload::PIECE_MAX as u64;
    ensure!(size > 0, "--size must be at least 1MiB");
    let store = store_bytes(size, options.fill.unwrap_or(FILL_VERIFY_PERCENT).clamp(1, 100));
    let memory = options.memory.unwrap_or(FILL_VERIFY_MEMORY);
    let mut wish = options.place(run.device.clone());
    wish.overwrite |= !check;
    Lodging::find(&wish, T::NAME, size, store, memory)
}

async fn measured<T: Target>(
    name: &str,
    shape: &Shape,
    place: &Place,
    time: Duration,
    seed: u64,
) -> Result<Report> {
    let session = Session::<T>::start(place, shape, seed).await?;
    let sample = session.measure(time, seed).await?;
    let figures = Figures::of(&sample, shape.verb != Verb::Read);
    let title = Title {
        workload: name.to_owned(),
        target: T::NAME.to_owned(),
        backend: session.target.backend(),
        seed,
        size_bytes: place.size,
        memory_bytes: place.memory,
        clients: shape.clients,
        piece_bytes: shape.piece,
    };
    let ledger = session.ledger.clone();
    let (reopening, recovery) = session.finish().await?;
    let mut report = Report::new(title, Some(figures), &ledger);
    report.phase("reopen", reopening);
    report.recovery = recovery;
    Ok(report)
}

/// Starts this program again to do the filling, and kills it.
async fn fill_killed<T: Target>(run: &Run, place: &Place) -> Result<Report> {
    let program = std::env::current_exe().context("finding this program")?;
    let mut command = Command::new(program);
    command.args(["fill-child", FILL_VERIFY, "--target", T::NAME]);
    command.arg("--size").arg(place.size.to_string());
    command.arg("--memory").arg(place.memory.to_string());
    command.arg("--seed").arg(run.options.seed.to_string());
    command.arg("--workers").arg(run.options.workers.to_string());
    if let Some(fill) = run.options.fill {
        command.arg("--fill").arg(fill.to_string());
    }
    let flag = if place.device { "--device" } else { "--file" };
    command.arg(flag).arg(&place.path).arg("--overwrite");
    let child = command.stdout(Stdio::piped()).spawn();
    let child = child.context("starting the child")?;
    fill::killed::<T>(place, run.options.seed, child).await
}

fn fill_child<T: Target>(run: &Run) -> Result<bool> {
    let lodging = fill_lodging::<T>(run, false)?;
    let runtime = run.options.runtime()?;
    runtime.block_on(fill::child::<T>(&lodging.place, run.options.seed))?;
    Ok(false)
}

fn compare_both(line: &Compare) -> Result<bool> {
    let options = &line.options;
    let workload = Workload::named(&line.workload)?;
    ensure!((1..=1000).contains(&line.rounds), "--rounds must be 1 to 1000");
    ensure!(options.file.is_none(), "compare makes two files of its own, in the temporary folder");
    let (time, seed) = (time(line.seconds)?, options.seed);
    let shape = workload.shape(false, &options.wishes())?;
    let bare = workload.shape(true, &options.wishes())?;
    let subject = lodging::<Foliant>(options, None, workload, &shape)?;
    let peer = lodging::<Raw>(options, None, workload, &bare)?;
    let outcome = options.runtime()?.block_on(async {
        let subject = Session::<Foliant>::start(&subject.place, &shape, seed).await?;
        let peer = Session::<Raw>::start(&peer.place, &bare, seed).await?;
        compare::compare(workload.name, subject, peer, line.rounds, time, seed).await
    })?;
    println!("{}", outcome.table());
    println!("{}", outcome.sentence());
    if let Some(path) = &options.json {
        report::write_json(path, &outcome)?;
    }
    Ok(outcome.verified)
}
