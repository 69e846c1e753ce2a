//! Rows g1 and g2: opening a store, closed well or not; how fast its log is replayed.
//!
//! The store that was not closed is a copy of the file of an open one between two commits, which is what
//! a kill at that moment leaves. Its log is as full as it gets at rest, because the engine empties
//! a half-full one. Each opening has a fresh copy, written over the last one, and every block is
//! compared behind it. Called by `rows`.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use anyhow::Result;
use foliant::Engine;
use foliant_device::BLOCK_SIZE;
use tokio::runtime::Runtime;

use crate::data::Ledger;
use crate::data::Random;
use crate::place::Lodging;
use crate::progress::Progress;
use crate::report::Verdict;
use crate::rows::contest;
use crate::rows::contest::Levels;
use crate::rows::contest::Reading;
use crate::rows::contest::Side;
use crate::rows::contest::Unit;
use crate::rows::fio;
use crate::rows::fio::Fio;
use crate::rows::fio::Job;
use crate::rows::plan::Plan;
use crate::rows::report::Outcome;
use crate::rows::store::lodge;
use crate::rows::store::runtime;
use crate::run::fill;
use crate::run::verify;
use crate::target::Place;
use crate::target::Target;
use crate::targets::foliant::Foliant;
use crate::workload::PIECE_MAX;

const MEMORY: u64 = 64 << 20;
const JOURNAL: u64 = 128 << 20;
/// Of the journal, in percent: a little below what makes the engine empty it.
const LOGGED_PERCENT: u64 = 46;
/// Clients that commit at once, so that log writes are shared.
const CLIENTS: u64 = 16;

/// A store with a full log, and where copies of it are opened.
struct Crashed {
    original: Lodging,
    copy: Lodging,
    runtime: Runtime,
    ledger: Arc<Ledger>,
    /// Milliseconds of each opening.
    openings: Vec<f64>,
    replayed: Vec<u64>,
}

impl Crashed {
    fn make(plan: &Plan) -> Result<Self> {
        let journal = if plan.quick { 4 << 20 } else { JOURNAL };
        let size = plan.size(64 << 20, 8 << 20);
        let memory = if plan.quick { 16 << 20 } else { MEMORY };
        let mut original = lodge(plan, "logged", size, memory, 25)?;
        original.place.store = size * 4 + journal;
        let mut copy = lodge(plan, "copied", size, memory, 25)?;
        copy.place.store = original.place.store;
        let runtime = runtime(1)?;
        let ledger = Arc::new(Ledger::rewritten(plan.rules.seed, size / BLOCK_SIZE as u64));
        runtime.block_on(logged(&original.place, &copy.place.path, journal, &ledger))?;
        Ok(Self { original, copy, runtime, ledger, openings: Vec::new(), replayed: Vec::new() })
    }

    /// Where the copy for the next opening is made from.
    fn image(&self) -> PathBuf {
        self.original.place.path.with_extension("crashed")
    }

    /// Opens a fresh copy and compares everything in it.
    fn opened(&mut self) -> Result<(u64, f64)> {
        copy_over(&self.image(), &self.copy.place.path)?;
        let (place, ledger) = (&self.copy.place, &self.ledger);
        let recovery = self.runtime.block_on(async {
            let target = Foliant::open(place).await?;
            let recovery = target.recovery().context("an engine says how it opened")?;
            verify(&target, ledger, place.size, &Progress::new("verify", place.size)).await?;
            target.close().await?;
            anyhow::Ok(recovery)
        })?;
        self.openings.push(recovery.elapsed_ms);
        self.replayed.push(recovery.bytes_replayed);
        Ok((recovery.bytes_replayed, recovery.elapsed_ms / 1e3))
    }
}

impl Drop for Crashed {
    fn drop(&mut self) {
        // Not there if making it failed before.
        std::fs::remove_file(self.image()).ok();
    }
}

impl Side for Crashed {
    fn name(&self) -> String {
        "foliant, opening".to_owned()
    }

    fn block(&mut self, _: Duration, _: u64) -> Result<Reading> {
        let (bytes, seconds) = self.opened()?;
        Ok(Reading { ops: 1.0, bytes: bytes as f64, seconds, cpu_seconds: None })
    }
}

/// Makes a store, fills its log, and copies it while it is open.
async fn logged(place: &Place, first_copy: &PathBuf, journal: u64, ledger: &Ledger) -> Result<()> {
    let format = Engine::format(&place.path).size_bytes(place.store).journal_bytes(journal);
    format.run().await?;
    let target = Foliant::open(place).await?;
    fill(&target, ledger, place.size, &Progress::new("fill", place.size)).await?;
    target.close().await?;
    let target = Foliant::open(place).await?;
    let written = |target: &Foliant| target.engine().stats().device_bytes_written;
    let (start, mut random) = (written(&target), Random::new(1));
    // Few blocks, many times: the images of logged blocks are memory that makes the engine empty its log.
    let blocks = (place.size / BLOCK_SIZE as u64).min(1024);
    while written(&target) - start < journal * LOGGED_PERCENT / 100 {
        let commits = (0..CLIENTS).map(|client| {
            let block = random.below(blocks / CLIENTS) * CLIENTS + client;
            let target = target.clone();
            async move {
                let mut scratch = vec![0; BLOCK_SIZE];
                let make = |out: &mut [u8]| ledger.renew(block, out);
                target.commit(block * BLOCK_SIZE as u64, &mut scratch, make).await
            }
        });
        futures_util::future::try_join_all(commits).await?;
    }
    copy_over(&place.path, &place.path.with_extension("crashed"))?;
    // The file for the openings, written once so that later copies are overwrites.
    copy_over(&place.path, first_copy)?;
    target.close().await
}

/// Writes all of `from` over `to`; durable, so that nothing of it is on its way while a store is opened.
fn copy_over(from: &PathBuf, to: &PathBuf) -> Result<()> {
    let from = File::open(from).with_context(|| format!("opening {}", from.display()))?;
    let to = File::options().write(true).create(true).truncate(false).open(to)?;
    let (len, mut bytes) = (from.metadata()?.len(), vec![0; PIECE_MAX]);
    for at in (0..len).step_by(PIECE_MAX) {
        let piece = &mut bytes[..PIECE_MAX.min((len - at) as usize)];
        from.read_exact_at(piece, at)?;
        to.write_all_at(piece, at)?;
    }
    to.sync_all()?;
    rustix::fs::fadvise(&to, 0, None, rustix::fs::Advice::DontNeed)?;
    Ok(())
}

pub fn g1(plan: &Plan, outcome: &mut Outcome) -> Result<()> {
    let mut crashed = Crashed::make(plan)?;
    let what = "g1 over fio's sequential read";
    match fio::version() {
        _ if plan.alone => outcome.alone(plan, what, &mut crashed)?,
        Err(e) => {
            outcome.skip(format!("{e:#}: no peer for this row (apt-get install fio)"));
            outcome.alone(plan, what, &mut crashed)?;
        }
        Ok(version) => {
            let place = &crashed.original.place;
            let (piece, size) = (PIECE_MAX as u64, place.store);
            let job = Job { pattern: "read", piece, depth: 16, size, batch: None };
            let (mut fio, remark) = Fio::new(&place.path, job, place.memory);
            outcome.fact("peer", format!("{version}; {remark}"));
            let judge = (Unit::Ratio, Levels::new(0.5, 0.8));
            outcome.contest(plan, what, judge, &mut crashed, &mut fio)?;
        }
    }
    told_log(&crashed, outcome);
    outcome.verdicts.push(Verdict::of(&crashed.ledger));
    Ok(())
}

fn told_log(crashed: &Crashed, outcome: &mut Outcome) {
    let bytes = crashed.replayed.iter().max().unwrap_or(&0) >> 20;
    let memory = crashed.copy.place.memory >> 20;
    outcome.fact("log", format!("{bytes} MiB replayed by each opening; memory {memory} MiB"));
}

pub fn g2(plan: &Plan, outcome: &mut Outcome) -> Result<()> {
    let mut crashed = Crashed::make(plan)?;
    let place = crashed.original.place.clone();
    let mut clean = Vec::new();
    for _ in 0..plan.rules.pairs {
        crashed.opened()?;
        let target = crashed.runtime.block_on(Foliant::open(&place))?;
        clean.extend(target.recovery().map(|r| r.elapsed_ms));
        crashed.runtime.block_on(target.close())?;
    }
    let killed = crashed.openings.clone();
    let seed = plan.rules.seed;
    for (what, levels, values) in [
        ("g2 open after a clean close", Levels::new(50.0, 10.0), clean),
        ("g2 open after a kill", Levels::new(300.0, 100.0), killed),
    ] {
        outcome.contests.push(contest::judged(what, (Unit::Milliseconds, levels), values, seed));
    }
    told_log(&crashed, outcome);
    outcome.verdicts.push(Verdict::of(&crashed.ledger));
    Ok(())
}
