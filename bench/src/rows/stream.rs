//! Rows c1 and c2: one client that reads or overwrites in order, against fio with 1 MiB at depth 16.
//!
//! Reads: fio reads the store's own file. Writes: fio has a file of the same size, written out
//! beforehand, and its final flush counts as ours does. Called by `rows`.

use anyhow::Result;

use crate::rows::contest::Levels;
use crate::rows::contest::Unit;
use crate::rows::fio;
use crate::rows::fio::Fio;
use crate::rows::fio::Job;
use crate::rows::plan::Plan;
use crate::rows::report::Outcome;
use crate::rows::store::READ;
use crate::rows::store::Store;
use crate::rows::store::lodge;
use crate::targets::foliant::Foliant;
use crate::targets::write_out;
use crate::workload::Order;
use crate::workload::PIECE_MAX;
use crate::workload::Shape;
use crate::workload::Verb;

const MEMORY: u64 = 128 << 20;
const DEPTH: u32 = 16;

pub fn c1(plan: &Plan, outcome: &mut Outcome) -> Result<()> {
    let shape = Shape { order: Order::Sequential, ..READ };
    streamed(plan, outcome, shape, Levels::new(0.85, 0.97))
}

pub fn c2(plan: &Plan, outcome: &mut Outcome) -> Result<()> {
    let shape = Shape {
        verb: Verb::Write,
        order: Order::Sequential,
        piece: PIECE_MAX,
        final_sync: true,
        fill_percent: 50,
        ..READ
    };
    streamed(plan, outcome, shape, Levels::new(0.9, 1.05))
}

fn streamed(plan: &Plan, outcome: &mut Outcome, shape: Shape, levels: Levels) -> Result<()> {
    let size = plan.size(2 << 30, 32 << 20);
    let memory = if plan.quick { 16 << 20 } else { MEMORY };
    let writes = shape.verb == Verb::Write;
    let store = Store::<Foliant>::start(plan, shape, (size, memory), 1)?;
    let what = if writes { "c2 over fio" } else { "c1 over fio" };
    let subject = "foliant, one client";
    match fio::version() {
        _ if plan.alone => outcome.alone(plan, what, &mut store.side(subject))?,
        Err(e) => {
            outcome.skip(format!("{e:#}: no peer for this row (apt-get install fio)"));
            outcome.alone(plan, what, &mut store.side(subject))?;
        }
        Ok(version) => {
            // fio's own file; as large as the store, so that no file lies better than the other.
            let mut own = lodge(plan, "peer-fio", size, memory, 50)?;
            own.place.write_out = true;
            if writes {
                store.runtime.block_on(write_out(&own.place))?;
            }
            let file = if writes { &own.place.path } else { &store.place().path };
            let pattern = if writes { "write" } else { "read" };
            let piece = PIECE_MAX as u64;
            let job = Job { pattern, piece, depth: DEPTH, size, batch: None };
            let (mut fio, remark) = Fio::new(file, job, memory);
            outcome.fact("peer", format!("{version}; {remark}"));
            let judge = (Unit::Ratio, levels);
            outcome.contest(plan, what, judge, &mut store.side(subject), &mut fio)?;
        }
    }
    outcome.verdicts.push(store.finish()?);
    Ok(())
}
