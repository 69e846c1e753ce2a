//! `bench`: one workload over interchangeable targets, with every byte verified.
//!
//! Runs what the command line says and prints it; exit code 1 means that data was wrong or a run
//! failed. A figure without a verification is not printed as good.
#![forbid(unsafe_code)]

mod cli;
mod compare;
mod data;
mod fill;
mod kill;
mod measure;
mod place;
mod progress;
mod report;
mod rounds;
mod rows;
mod run;
mod sample;
mod target;
mod targets;
mod workload;

use std::process::ExitCode;

use anyhow::Result;
use anyhow::ensure;
use clap::Parser;

use crate::cli::Compare;
use crate::cli::Do;
use crate::cli::Line;
use crate::cli::Run;
use crate::cli::Which;
use crate::fill::FILL_VERIFY;
use crate::kill::KILL_REOPEN;
use crate::place::Lodging;
use crate::report::Report;
use crate::run::Session;
use crate::target::Target;
use crate::targets::buffered::Buffered;
use crate::targets::foliant::Foliant;
use crate::targets::raw::Raw;
use crate::workload::PIECE_MAX;
use crate::workload::WORKLOADS;
use crate::workload::Workload;
use crate::workload::show_bytes;

fn main() -> ExitCode {
    let done = match Line::parse().verb {
        Do::List => list(),
        Do::Run(run) => match run.target {
            Which::Foliant => run_on::<Foliant>(&run),
            Which::Raw => run_on::<Raw>(&run),
            Which::Buffered => run_on::<Buffered>(&run),
        },
        Do::Compare(compare) => match compare.peer {
            Which::Foliant => compare_with::<Foliant>(&compare),
            Which::Raw => compare_with::<Raw>(&compare),
            Which::Buffered => compare_with::<Buffered>(&compare),
        },
        Do::Row(line) => rows::run(&line),
        Do::RowPart(line) => rows::part(&line),
        Do::RowPeer(line) => rows::peer(&line),
        Do::KillChild(run) => match run.target {
            Which::Foliant => kill_child::<Foliant>(&run),
            Which::Raw => kill_child::<Raw>(&run),
            Which::Buffered => kill_child::<Buffered>(&run),
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
    println!("targets: {}, {}, {}", Foliant::NAME, Raw::NAME, Buffered::NAME);
    println!("workloads:");
    let row = |name: &str, about: &str, size: u64, memory: u64| {
        let (size, memory) = (show_bytes(size), show_bytes(memory));
        println!("  {name:18} {about} [{size} of data, {memory} of memory]");
    };
    for w in WORKLOADS {
        row(w.name, w.about, w.size, w.memory);
    }
    row(FILL_VERIFY, fill::ABOUT, fill::SIZE_DEFAULT, fill::MEMORY_DEFAULT);
    row(KILL_REOPEN, kill::ABOUT, kill::SIZE_DEFAULT, kill::MEMORY_DEFAULT);
    Ok(true)
}

/// Runs, prints, and says whether every byte was right.
fn run_on<T: Target>(run: &Run) -> Result<bool> {
    let report = match run.workload.as_str() {
        FILL_VERIFY => {
            let lodging = fill_lodging::<T>(run)?;
            run.options.runtime()?.block_on(fill::whole::<T>(&lodging.place, run.options.seed))?
        }
        KILL_REOPEN if run.rounds > 1 => {
            let mut lodging = kill_lodging::<T>(run)?;
            return rounds::run::<T>(run, &mut lodging.place);
        }
        KILL_REOPEN => {
            let lodging = kill_lodging::<T>(run)?;
            let (time, seed) = (run.options.time()?, run.options.seed);
            let child = kill::start::<T>(run, &lodging.place, seed)?;
            let work = kill::reopened::<T>(&lodging.place, seed, time, child);
            run.options.runtime()?.block_on(work)?.0
        }
        name => measured::<T>(run, Workload::named(name)?)?,
    };
    println!("{}", report.table());
    if let Some(path) = &run.options.json {
        report::write_json(path, &report)?;
    }
    Ok(report.verdict.verified)
}

fn measured<T: Target>(run: &Run, workload: &Workload) -> Result<Report> {
    let options = &run.options;
    let wishes = options.wishes();
    let shape = workload.shape(T::CACHES, &wishes)?;
    let size = workload.size(&shape, &wishes)?;
    let memory = wishes.memory.unwrap_or(workload.memory);
    let named = (run.file.clone(), run.device.clone());
    let lodging = options.lodging(named, T::NAME, size, shape.fill_percent, memory)?;
    let (time, seed) = (options.time()?, options.seed);
    options.runtime()?.block_on(async {
        let session = Session::<T>::start(&lodging.place, &shape, seed).await?;
        session.report(workload.name, time, seed).await
    })
}

/// Data in whole pieces, so that a killed child's progress is easy to name.
fn whole_pieces(size: u64) -> Result<u64> {
    let size = size / PIECE_MAX as u64 * PIECE_MAX as u64;
    ensure!(size > 0, "--size must be at least 1MiB");
    Ok(size)
}

fn fill_lodging<T: Target>(run: &Run) -> Result<Lodging> {
    let options = &run.options;
    let size = whole_pieces(options.size.unwrap_or(fill::SIZE_DEFAULT))?;
    let fill = options.fill.unwrap_or(fill::FILL_PERCENT);
    let memory = options.memory.unwrap_or(fill::MEMORY_DEFAULT);
    options.lodging((run.file.clone(), run.device.clone()), T::NAME, size, fill, memory)
}

fn kill_lodging<T: Target>(run: &Run) -> Result<Lodging> {
    let options = &run.options;
    let size = whole_pieces(options.size.unwrap_or(kill::SIZE_DEFAULT))?;
    let fill = options.fill.unwrap_or(kill::FILL_PERCENT);
    let memory = options.memory.unwrap_or(kill::MEMORY_DEFAULT);
    options.lodging((run.file.clone(), run.device.clone()), T::NAME, size, fill, memory)
}

fn kill_child<T: Target>(run: &Run) -> Result<bool> {
    let lodging = kill_lodging::<T>(run)?;
    let runtime = run.options.runtime()?;
    runtime.block_on(kill::child::<T>(&lodging.place, run.options.seed))?;
    Ok(false)
}

fn compare_with<B: Target>(line: &Compare) -> Result<bool> {
    let options = &line.options;
    let workload = Workload::named(&line.workload)?;
    ensure!((1..=1000).contains(&line.rounds), "--rounds must be 1 to 1000");
    let (time, seed, wishes) = (options.time()?, options.seed, options.wishes());
    let memory = wishes.memory.unwrap_or(workload.memory);
    let shape = workload.shape(Foliant::CACHES, &wishes)?;
    let other = workload.shape(B::CACHES, &wishes)?;
    // Both hold the same bytes, so the size must suit both shapes.
    let size = workload.size(&shape, &wishes)?.min(workload.size(&other, &wishes)?);
    let lodging = |name: &str, fill| options.lodging((None, None), name, size, fill, memory);
    let subject = lodging(Foliant::NAME, shape.fill_percent)?;
    let peer = lodging(&format!("peer-{}", B::NAME), other.fill_percent)?;
    let outcome = options.runtime()?.block_on(async {
        let subject = Session::<Foliant>::start(&subject.place, &shape, seed).await?;
        let peer = Session::<B>::start(&peer.place, &other, seed).await?;
        compare::compare(workload.name, subject, peer, line.rounds, time, seed).await
    })?;
    println!("{}", outcome.table());
    println!("{}", outcome.sentence());
    if let Some(path) = &options.json {
        report::write_json(path, &outcome)?;
    }
    Ok(outcome.verified)
}
