//! `kill-reopen --rounds`: many short lives, each ended by SIGKILL and verified whole.
//!
//! Guarantees that every round has its own seed and a life of random length, that a round which went
//! wrong is named with what replays its choices, and that all rounds are counted. Keeps nothing of a
//! round but numbers. Called by `main.rs`.

use std::time::Duration;

use anyhow::Context;
use anyhow::Result;
use anyhow::ensure;

use crate::cli::Run;
use crate::data::Random;
use crate::kill;
use crate::target::Place;
use crate::target::Target;
use crate::workload::show_bytes;

/// More is a mistake in the command line.
const ROUNDS_MAX: u64 = 1_000_000;

/// Sums over all rounds.
#[derive(Debug, Default)]
struct Sums {
    wrong: u64,
    commits: u64,
    writes: u64,
    newer: u64,
    compared: u64,
    transactions: u64,
    replayed: u64,
    slowest: Duration,
}

/// Runs all rounds; `false` when any byte was wrong in any of them.
pub fn run<T: Target>(run: &Run, place: &mut Place) -> Result<bool> {
    ensure!(run.rounds <= ROUNDS_MAX, "--rounds must be at most {ROUNDS_MAX}");
    let longest = run.options.time()?;
    let mut random = Random::new(run.options.seed);
    let mut sums = Sums::default();
    for round in 0..run.rounds {
        let seed = run.options.seed + round;
        let half = longest / 2;
        let life = half + Duration::from_nanos(random.below(half.as_nanos() as u64 + 1));
        let child = kill::start::<T>(run, place, seed)?;
        let work = kill::reopened::<T>(place, seed, life, child);
        let (report, toll) = run
            .options
            .runtime()?
            .block_on(work)
            .with_context(|| format!("round {round}, seed {seed}"))?;
        // Once is enough: the rounds behind it find the file as this one left it.
        place.write_out = false;
        let verdict = &report.verdict;
        if !verdict.verified {
            eprintln!("round {round}, seed {seed}, life {life:?}: WRONG: {verdict:?}");
        }
        sums.add(&report, toll);
        if (round + 1) % 10 == 0 || round + 1 == run.rounds {
            println!("{} rounds: {}", round + 1, sums.words());
        }
    }
    Ok(sums.wrong == 0)
}

impl Sums {
    fn add(&mut self, report: &crate::report::Report, toll: kill::Toll) {
        self.wrong += u64::from(!report.verdict.verified);
        self.compared += report.verdict.blocks_compared;
        self.commits += toll.commits;
        self.writes += toll.writes;
        self.newer += toll.newer;
        self.slowest = self.slowest.max(toll.reopening);
        if let Some(recovery) = report.recovery {
            self.transactions += recovery.transactions;
            self.replayed += recovery.bytes_replayed;
        }
    }

    fn words(&self) -> String {
        let Self { wrong, commits, writes, newer, compared, transactions, .. } = self;
        let (replayed, slowest) = (show_bytes(self.replayed), self.slowest.as_secs_f64() * 1e3);
        format!(
            "{wrong} wrong; {commits} commits and {writes} synced writes acknowledged, {newer} blocks \
             newer than that, {compared} blocks compared; {transactions} transactions, {replayed} \
             replayed; slowest opening {slowest:.0} ms"
        )
    }
}
