//! `soak`: simulated proofs for as long as asked, on all cores.
//!
//! Each seed is one run of each kind: a crash run, one past the cache, every disk of one cut, a lying disk, and a
//! short sequence with all its cuts. Exit code 1 means that a run failed; the command that replays it is
//! printed. Does not measure and touches no real device. With the feature `testing` runs are also delayed and
//! cut at the named places of the engine, and what was passed is counted.
#![forbid(unsafe_code)]

use std::ops::Range;
use std::panic::AssertUnwindSafe;
use std::panic::catch_unwind;
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;

use anyhow::Context;
use anyhow::Result;
use anyhow::ensure;
use clap::Parser;
use clap::ValueEnum;
use foliant_bench::crash::Hooks;
use foliant_bench::crash::Plan;
use foliant_bench::crash::Tally;
use foliant_bench::crash::every_outcome;
use foliant_bench::crash::lying::lying;
use foliant_bench::crash::run;
use foliant_bench::crash::short::drawn;
use indicatif::ProgressBar;
use indicatif::ProgressStyle;

#[derive(Parser)]
#[command(about = "Runs simulated crashes and lying disks until time is up; a seed replays a run")]
struct Line {
    /// Stop after so many minutes, at the end of a run; without it, when the seeds are done.
    #[arg(long)]
    minutes: Option<f64>,
    /// Seeds, such as 0..2000.
    #[arg(long, value_parser = seeds, default_value = "0..1000000000")]
    seeds: Range<u64>,
    /// Threads; one per core if not given.
    #[arg(long)]
    threads: Option<usize>,
    /// Only runs of this kind.
    #[arg(long)]
    kind: Option<Kind>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Kind {
    /// Work, failing disks, cuts, recovery.
    Crash,
    /// The same with requests past the cache.
    Direct,
    /// Every disk that one cut could have left.
    Outcomes,
    /// A disk that lies.
    Lying,
    /// A short sequence, cut at each flush.
    Short,
}

const KINDS: [Kind; 5] = [Kind::Crash, Kind::Direct, Kind::Outcomes, Kind::Lying, Kind::Short];

fn seeds(text: &str) -> Result<Range<u64>> {
    let (from, to) = text.split_once("..").context("seeds are written 0..20")?;
    let range = from.parse()?..to.parse()?;
    ensure!(!range.is_empty(), "no seed lies in {text}");
    Ok(range)
}

#[cfg(feature = "testing")]
fn hooks() -> Option<Hooks> {
    Some(foliant_bench::crash::points::HOOKS)
}

#[cfg(not(feature = "testing"))]
fn hooks() -> Option<Hooks> {
    None
}

/// What this thread passed of the named places, in lines.
#[cfg(feature = "testing")]
fn hits() -> Vec<(String, u64, u64)> {
    foliant_bench::crash::points::hits()
}

#[cfg(not(feature = "testing"))]
fn hits() -> Vec<(String, u64, u64)> {
    Vec::new()
}

fn run_one(kind: Kind, seed: u64) -> Tally {
    let plan = Plan { hooks: hooks(), ..Plan::new(seed) };
    match kind {
        Kind::Crash => run(&plan),
        Kind::Direct => run(&Plan { direct: true, ..plan }),
        Kind::Lying => lying(seed),
        Kind::Outcomes => {
            let mut tally = Tally::default();
            tally.add("disks that a cut could have left", every_outcome(seed).1);
            tally
        }
        Kind::Short => {
            let mut tally = Tally::default();
            tally.add("cuts in short sequences", drawn(seed));
            tally
        }
    }
}

#[derive(Default)]
struct Found {
    tally: Tally,
    hits: Vec<(String, u64, u64)>,
    failed: Vec<(Kind, u64)>,
}

impl Found {
    fn passed(&mut self, hits: Vec<(String, u64, u64)>) {
        if self.hits.is_empty() {
            self.hits = hits;
            return;
        }
        for (all, own) in self.hits.iter_mut().zip(hits) {
            all.1 += own.1;
            all.2 += own.2;
        }
    }
}

/// Takes seeds until time is up or a run failed.
fn work(line: &Line, next: &AtomicU64, stop: &AtomicBool, found: &Mutex<Found>, bar: &ProgressBar) {
    let started = Instant::now();
    let limit = line.minutes.map(|m| Duration::from_secs_f64(m * 60.0));
    let over = || stop.load(Ordering::Relaxed) || limit.is_some_and(|l| started.elapsed() >= l);
    while !over() {
        let seed = next.fetch_add(1, Ordering::Relaxed);
        if seed >= line.seeds.end {
            break;
        }
        for kind in KINDS.into_iter().filter(|k| line.kind.is_none_or(|only| only == *k)) {
            let outcome = catch_unwind(AssertUnwindSafe(|| run_one(kind, seed)));
            let mut found = found.lock().unwrap_or_else(|broken| broken.into_inner());
            match outcome {
                Ok(tally) => found.tally.merge(&tally),
                Err(_) => {
                    found.failed.push((kind, seed));
                    stop.store(true, Ordering::Relaxed);
                }
            }
            if over() {
                break;
            }
        }
        match limit {
            Some(_) => bar.set_position(started.elapsed().as_secs()),
            None => bar.inc(1),
        }
        bar.set_message(format!("seed {seed}"));
    }
    let mut found = found.lock().unwrap_or_else(|broken| broken.into_inner());
    found.passed(hits());
}

fn main() -> ExitCode {
    let line = Line::parse();
    let cores = std::thread::available_parallelism().map_or(1, |n| n.get());
    let len = match line.minutes {
        Some(minutes) => (minutes * 60.0) as u64,
        None => line.seeds.end - line.seeds.start,
    };
    let bar = ProgressBar::new(len);
    let unit = if line.minutes.is_some() { "seconds" } else { "seeds" };
    let style = format!("{{msg:14}} [{{bar:40}}] {{human_pos}} of {{human_len}} {unit}  {{eta}}");
    bar.set_style(ProgressStyle::with_template(&style).expect("the template parses"));
    let (next, stop) = (AtomicU64::new(line.seeds.start), AtomicBool::new(false));
    let found = Mutex::new(Found::default());
    let started = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..line.threads.unwrap_or(cores) {
            scope.spawn(|| work(&line, &next, &stop, &found, &bar));
        }
    });
    bar.finish_and_clear();
    let found = found.into_inner().unwrap_or_else(|broken| broken.into_inner());
    report(&line, &found, next.into_inner(), started.elapsed())
}

fn report(line: &Line, found: &Found, next: u64, took: Duration) -> ExitCode {
    let seeds = next.min(line.seeds.end) - line.seeds.start;
    println!("{seeds} seeds from {} in {:.1} s", line.seeds.start, took.as_secs_f64());
    found.tally.counts().for_each(|(what, n)| println!("{n:>12} {what}"));
    match found.hits.is_empty() {
        true => println!(
            "nothing stopped at named places: that needs -p foliant-bench --features testing"
        ),
        false => println!("{:>12} {:>8} named place", "visits", "cuts"),
    }
    found.hits.iter().for_each(|(place, n, cuts)| println!("{n:>12} {cuts:>8} {place}"));
    for (kind, seed) in &found.failed {
        let features = if cfg!(feature = "testing") { " --features testing" } else { "" };
        let kind = format!("{kind:?}").to_lowercase();
        println!(
            "seed {seed} fails; replay: cargo run --release -p foliant-bench{features} --bin soak -- --kind {kind} --seeds {seed}..{}",
            seed + 1
        );
    }
    if found.failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
