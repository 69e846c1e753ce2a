//! A hundred thousand operations agree with the oracle, and deliberate faults of the engine are
//! noticed within a stated number of operations.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is the failed test")]

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;

use foliant_bench::exercise::generate::stream;
use foliant_bench::exercise::op::Op;
use foliant_bench::exercise::op::show_log;
use foliant_bench::exercise::run::Plan;
use foliant_bench::exercise::run::run;

const SEEDS: u64 = 20;
const OPS: usize = 5_000;
const VERIFY_EVERY: usize = 1_000;

/// Plays, and panics with what replays the failure.
fn agrees(plan: &Plan, ops: &[Op]) {
    if let Err(failure) = run(plan, ops, &mut |_| {}) {
        let seed = plan.seed;
        let log = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{seed}.log"));
        std::fs::write(&log, show_log(ops)).unwrap();
        panic!(
            "seed {seed}, {failure}\nshrink it: cargo run --release --bin exercise -- --seeds \
             {seed}..{} --ops {OPS} --replay {}",
            seed + 1,
            log.display()
        );
    }
}

#[test]
fn a_hundred_thousand_operations_agree() {
    let next = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(2, |n| n.get()) {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= SEEDS {
                        return;
                    }
                    agrees(&Plan::sim(seed), &stream(seed, OPS, VERIFY_EVERY));
                }
            });
        }
    });
}

#[test]
fn two_threads_agree_as_well() {
    let plan = |seed| Plan { threads: true, ..Plan::sim(seed) };
    (100..102).for_each(|seed| agrees(&plan(seed), &stream(seed, 2_000, VERIFY_EVERY)));
}
