//! Rows b1 to b3: random reads of 4 KiB that miss, checksums verified, against fio on the same file.
//!
//! fio reads the store's own file, so both sides ask the same blocks of the same device. The data is
//! 64 times the memory; the share of hits that is left is told. fio holds no data, so its memory
//! limit decides nothing. Called by `rows`.

use anyhow::Result;

use crate::rows::contest::Levels;
use crate::rows::contest::Unit;
use crate::rows::fio;
use crate::rows::fio::Batch;
use crate::rows::fio::Fio;
use crate::rows::fio::Job;
use crate::rows::plan::Plan;
use crate::rows::report::Outcome;
use crate::rows::store::READ;
use crate::rows::store::Store;
use crate::targets::foliant::Foliant;
use crate::workload::Shape;

/// Batches of submission and completion that are tried, up to the depth.
const BATCHES: [(u32, u32); 8] =
    [(8, 1), (16, 1), (32, 1), (64, 1), (8, 8), (16, 16), (32, 32), (64, 64)];

const DEFAULT: &str = "fio default";
const BEST: &str = "fio with the best batch";

pub fn b1(plan: &Plan, outcome: &mut Outcome) -> Result<()> {
    against_fio(plan, outcome, 1, &[(DEFAULT, Levels::new(0.9, 1.15))])
}

pub fn b2(plan: &Plan, outcome: &mut Outcome) -> Result<()> {
    against_fio(plan, outcome, 32, &[(DEFAULT, Levels::new(0.95, 1.05)), (BEST, Levels::NONE)])
}

pub fn b3(plan: &Plan, outcome: &mut Outcome) -> Result<()> {
    let levels = [(DEFAULT, Levels::new(1.1, 1.3)), (BEST, Levels::new(0.8, 0.97))];
    against_fio(plan, outcome, 128, &levels)
}

fn against_fio(
    plan: &Plan,
    outcome: &mut Outcome,
    depth: u32,
    peers: &[(&'static str, Levels)],
) -> Result<()> {
    let size = plan.size(4 << 30, 32 << 20);
    let memory = (size / 64).max(8 << 20);
    let shape = Shape { clients: depth as usize, ..READ };
    let mut store = Store::<Foliant>::start(plan, shape, (size, memory), 1)?;
    // Without this, what the fill left in memory would be hits of the first block.
    store = store.moved(1)?;
    outcome.fact("backend", backend(&store));
    let name = format!("foliant depth {depth}");
    let job = Job { pattern: "randread", piece: 4096, depth, size, batch: None };
    let mut fio = None;
    match fio::version() {
        _ if plan.alone => outcome.alone(plan, "one thread", &mut store.side(&name))?,
        Err(e) => {
            outcome.skip(format!("{e:#}: no peer for this row (apt-get install fio)"));
            outcome.alone(plan, "one thread", &mut store.side(&name))?;
        }
        Ok(version) => {
            let (peer, remark) = Fio::new(&store.place().path, job, memory);
            outcome.fact("peer", format!("{version}; {remark}"));
            fio = Some(peer);
        }
    }
    for (what, levels) in peers {
        let Some(fio) = &mut fio else { break };
        if *what == BEST {
            let swept = fio.sweep(&batches(depth), plan.rules.time / 2)?;
            outcome.fact("fio, operations per second by batch", swept);
        }
        let side = &mut store.side(&name);
        outcome.contest(plan, what, (Unit::Ratio, *levels), side, fio)?;
    }
    told_hits(&store, outcome, "hits, one thread");
    if let Some(fio) = &mut fio {
        store = store.moved(2)?;
        fio.job.batch = None;
        let name = format!("foliant depth {depth}, two workers");
        let judge = (Unit::Ratio, Levels::NONE);
        outcome.contest(
            plan,
            "two workers over fio default",
            judge,
            &mut store.side(&name),
            fio,
        )?;
    }
    outcome.verdicts.push(store.finish()?);
    Ok(())
}

fn batches(depth: u32) -> Vec<Option<Batch>> {
    let fits = BATCHES.iter().filter(|(submit, _)| *submit <= depth);
    let batch = |&(submit, complete_min): &(u32, u32)| {
        Some(Batch { submit, complete_min, complete_max: depth })
    };
    std::iter::once(None).chain(fits.map(batch)).collect()
}

fn backend(store: &Store) -> String {
    use crate::target::Target;
    store.target().backend()
}

fn told_hits(store: &Store, outcome: &mut Outcome, name: &str) {
    let stats = store.target().engine().stats();
    // A miss is followed by no hit: the bytes come out of the folio that was filled.
    let all = (stats.cache_hits + stats.cache_misses).max(1);
    let share = stats.cache_hits as f64 * 100.0 / all as f64;
    outcome.fact(name, format!("{share:.1} % of {all}"));
}
