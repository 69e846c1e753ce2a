//! The exerciser can fail: each deliberate fault of the engine is noticed within a stated number of
//! operations, and the shrinker makes the failing log small.
//!
//! A fault is set for one thread, and a run on the simulated disk is one thread.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is the failed test")]

use foliant::testing::Canary;
use foliant::testing::break_on_purpose;
use foliant_bench::exercise::generate::stream;
use foliant_bench::exercise::op::Op;
use foliant_bench::exercise::op::parse_log;
use foliant_bench::exercise::op::show_log;
use foliant_bench::exercise::run::Failure;
use foliant_bench::exercise::run::Kind;
use foliant_bench::exercise::run::Plan;
use foliant_bench::exercise::run::run;
use foliant_bench::exercise::shrink::shrink;

const OPS: usize = 1_000;
const SEEDS_MAX: u64 = 10;
const SHRINK_TRIES: usize = 400;

fn broken(canary: Canary, plan: &Plan, ops: &[Op]) -> Result<(), Failure> {
    break_on_purpose(Some(canary));
    let outcome = run(plan, ops, &mut |_| {});
    break_on_purpose(None);
    outcome
}

/// The seed, its log and its failure, with the number of operations until then.
fn caught(canary: Canary) -> (u64, Vec<Op>, Failure) {
    let mut played = 0;
    for seed in 0..SEEDS_MAX {
        let ops = stream(seed, OPS, OPS / 2);
        if let Err(failure) = broken(canary, &Plan::sim(seed), &ops) {
            played += failure.at;
            println!("{canary:?}: noticed after {played} operations: {failure}");
            return (seed, ops, failure);
        }
        played += ops.len();
    }
    panic!("{canary:?} is not noticed within {played} operations");
}

#[test]
fn stale_bytes_behind_an_end() {
    caught(Canary::LeaveOldEnd);
    caught(Canary::LeaveCutEnd);
    caught(Canary::LeaveStoredEnd);
}

#[test]
fn bytes_that_should_be_gone_and_space_that_should_be_back() {
    caught(Canary::KeepPunched);
    let (_, _, failure) = caught(Canary::LoseSpace);
    assert_eq!(failure.kind, Kind::Space);
}

#[test]
fn a_failing_log_becomes_small_and_its_text_replays_it() {
    let (seed, ops, failure) = caught(Canary::LeaveCutEnd);
    let (plan, kind) = (Plan::sim(seed), failure.kind);
    let mut fails = |ops: &[Op]| {
        broken(Canary::LeaveCutEnd, &plan, ops).is_err_and(|failure| failure.kind == kind)
    };
    let small = shrink(ops[..=failure.at].to_vec(), SHRINK_TRIES, &mut fails);
    println!("{} operations became:\n{}", failure.at + 1, show_log(&small));
    assert!(small.len() <= 4, "{} operations are left", small.len());
    let again = parse_log(&show_log(&small)).unwrap();
    assert_eq!(again, small);
    assert!(fails(&again), "the text of the log does not replay the failure");
    assert!(run(&plan, &small, &mut |_| {}).is_ok(), "the sound engine fails as well");
}
