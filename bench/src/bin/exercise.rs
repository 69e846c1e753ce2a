//! `exercise`: plays streams of operations against the engine and a byte oracle, and shrinks failures.
//!
//! Exit code 1 means that an answer was wrong; the failing log, a small one and the command that
//! replays it are printed. Does not measure: use `bench` for figures.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;
use std::time::Instant;

use anyhow::Context;
use anyhow::Result;
use anyhow::ensure;
use clap::Parser;
use foliant_bench::exercise::generate;
use foliant_bench::exercise::op::Op;
use foliant_bench::exercise::op::parse_log;
use foliant_bench::exercise::op::show_log;
use foliant_bench::exercise::run::Failure;
use foliant_bench::exercise::run::Place;
use foliant_bench::exercise::run::Plan;
use foliant_bench::exercise::run::run;
use foliant_bench::exercise::shrink::shrink;
use indicatif::ProgressBar;
use indicatif::ProgressStyle;

/// Operations between two looks at the clock of the progress bar.
const PROGRESS_OPS: usize = 256;
/// Runs that shrinking may take.
const SHRINK_TRIES: usize = 2_000;

#[derive(Parser)]
#[command(about = "Plays operations against foliant and a byte oracle; shrinks what fails")]
struct Line {
    /// Operations of each seed.
    #[arg(long, default_value_t = 5_000)]
    ops: usize,
    /// Seeds, such as 0..20.
    #[arg(long, value_parser = seeds, default_value = "0..20")]
    seeds: Range<u64>,
    /// `sim`, `file` (one in the temporary folder), or a path: a block device, or a file to make.
    #[arg(long, default_value = "sim")]
    device: String,
    /// Allow content to be lost that is in the named file or device.
    #[arg(long)]
    overwrite: bool,
    /// Memory budget in MiB.
    #[arg(long, default_value_t = 8)]
    memory: u64,
    /// A folder in which plain files follow, to be compared.
    #[arg(long)]
    beside: Option<PathBuf>,
    /// Two at once on two threads, not on one: then a seed does not replay a run exactly.
    #[arg(long)]
    threads: bool,
    /// Longest range of an operation in bytes.
    #[arg(long, default_value_t = generate::LEN_MAX)]
    len_max: u64,
    /// Operations between two comparisons of everything.
    #[arg(long, default_value_t = 1_000)]
    every: usize,
    /// Stop after so many seconds, at the end of a seed.
    #[arg(long)]
    seconds: Option<u64>,
    /// Plays this log instead of seeds.
    #[arg(long)]
    replay: Option<PathBuf>,
    /// Prints a failure as it is.
    #[arg(long)]
    no_shrink: bool,
}

fn seeds(text: &str) -> Result<Range<u64>> {
    let (from, to) = text.split_once("..").context("seeds are written 0..20")?;
    let range = from.parse()?..to.parse()?;
    ensure!(!range.is_empty(), "no seed lies in {text}");
    Ok(range)
}

/// A place, and the file to remove at the end.
struct Lodging(Place, Option<PathBuf>);

impl Drop for Lodging {
    fn drop(&mut self) {
        if let Some(path) = &self.1 {
            // It may not exist, when the run failed before it was made.
            std::fs::remove_file(path).ok();
        }
    }
}

fn lodging(line: &Line) -> Result<Lodging> {
    use std::os::unix::fs::FileTypeExt;
    let path = match line.device.as_str() {
        "sim" => return Ok(Lodging(Place::Sim, None)),
        "file" => {
            let name = format!("foliant-exercise-{}.img", std::process::id());
            let path = std::env::temp_dir().join(name);
            return Ok(Lodging(Place::File(path.clone()), Some(path)));
        }
        path => PathBuf::from(path),
    };
    let shown = path.display();
    match std::fs::metadata(&path) {
        Ok(found) => {
            ensure!(line.overwrite, "everything on {shown} will be lost: say --overwrite");
            match found.file_type().is_block_device() {
                true => Ok(Lodging(Place::Device(path), None)),
                false => Ok(Lodging(Place::File(path), None)),
            }
        }
        Err(_) => Ok(Lodging(Place::File(path.clone()), Some(path))),
    }
}

fn bar(len: u64) -> ProgressBar {
    let bar = ProgressBar::new(len);
    let style = "{msg:12} [{bar:40}] {human_pos} of {human_len} operations  {per_sec}  {eta}";
    bar.set_style(ProgressStyle::with_template(style).expect("the template parses"));
    bar
}

/// The log, the small log and how to replay it.
fn report(line: &Line, plan: &Plan, ops: Vec<Op>, failure: &Failure) -> Result<()> {
    println!("seed {} fails: {failure}", plan.seed);
    let folder = std::env::temp_dir();
    let full = folder.join(format!("foliant-exercise-{}-full.log", plan.seed));
    let upto = (failure.at + 1).min(ops.len());
    std::fs::write(&full, show_log(&ops[..upto]))?;
    println!("the log up to it ({upto} operations): {}", full.display());
    if line.no_shrink {
        return Ok(());
    }
    // Panics are expected now, hundreds of them.
    std::panic::set_hook(Box::new(|_| {}));
    let kind = failure.kind;
    let mut tries = 0;
    let mut fails = |ops: &[Op]| {
        tries += 1;
        run(plan, ops, &mut |_| {}).is_err_and(|f| f.kind == kind)
    };
    let upto = if fails(&ops[..upto]) { upto } else { ops.len() };
    let small = shrink(ops[..upto].to_vec(), SHRINK_TRIES, &mut fails);
    let last = run(plan, &small, &mut |_| {});
    drop(std::panic::take_hook());
    let path = folder.join(format!("foliant-exercise-{}-small.log", plan.seed));
    std::fs::write(&path, show_log(&small))?;
    println!("the smallest log found in {tries} runs ({} operations):", small.len());
    println!("{}", show_log(&small));
    match last {
        Err(failure) => println!("it fails so: {failure}"),
        Ok(()) => println!("it does not fail every time"),
    }
    println!("replay: {}", command(line, plan, &path));
    Ok(())
}

fn command(line: &Line, plan: &Plan, log: &Path) -> String {
    let mut text = format!(
        "cargo run --release --bin exercise -- --seeds {}..{} --device {} --memory {} --replay {}",
        plan.seed,
        plan.seed + 1,
        line.device,
        line.memory,
        log.display()
    );
    if let Some(dir) = &line.beside {
        text += &format!(" --beside {}", dir.display());
    }
    for (flag, on) in [("--threads", line.threads), ("--overwrite", line.overwrite)] {
        text += &if on { format!(" {flag}") } else { String::new() };
    }
    text
}

fn work(line: &Line) -> Result<bool> {
    let lodging = lodging(line)?;
    let plan = |seed| Plan {
        seed,
        place: lodging.0.clone(),
        memory_bytes: line.memory << 20,
        threads: line.threads,
        beside: line.beside.clone(),
    };
    let started = Instant::now();
    let mut counts: BTreeMap<&str, u64> = BTreeMap::new();
    let (mut seeds_done, mut ops_done) = (0_u64, 0_u64);
    let bar = bar((line.seeds.end - line.seeds.start) * line.ops as u64);
    for seed in line.seeds.clone() {
        if line.seconds.is_some_and(|s| started.elapsed() > Duration::from_secs(s)) {
            break;
        }
        bar.set_message(format!("seed {seed}"));
        let ops = match &line.replay {
            Some(path) => parse_log(&std::fs::read_to_string(path)?)?,
            None => generate::stream_up_to(line.len_max, seed, line.ops, line.every),
        };
        let outcome = run(&plan(seed), &ops, &mut |at| {
            if at.is_multiple_of(PROGRESS_OPS) {
                bar.set_position(ops_done + at as u64);
            }
        });
        if let Err(failure) = outcome {
            bar.finish_and_clear();
            report(line, &plan(seed), ops, &failure)?;
            return Ok(false);
        }
        ops.iter().for_each(|op| *counts.entry(op.name()).or_default() += 1);
        (seeds_done, ops_done) = (seeds_done + 1, ops_done + ops.len() as u64);
    }
    bar.finish_and_clear();
    let seconds = started.elapsed().as_secs_f64();
    println!(
        "{seeds_done} seeds from {}, {ops_done} operations in {seconds:.1} s ({:.0}/s), no difference",
        line.seeds.start,
        ops_done as f64 / seconds
    );
    let shown: Vec<String> = counts.iter().map(|(name, n)| format!("{name} {n}")).collect();
    println!("{}", shown.join(", "));
    Ok(true)
}

fn main() -> ExitCode {
    match work(&Line::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(e) => {
            eprintln!("exercise: {e:#}");
            ExitCode::FAILURE
        }
    }
}
