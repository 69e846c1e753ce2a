//! The crash tests can fail: each deliberate fault of the engine is found by them within a stated
//! number of seeds. A fault that is not means that the harness has gone blind there.

mod support;

use std::panic::AssertUnwindSafe;
use std::panic::catch_unwind;

use foliant::testing::Canary;
use foliant::testing::break_on_purpose;
use support::crash::crash;
use support::crash::crash_seen_by_the_model;

/// Seeds within which each fault must show. Two thousand sound runs go through.
const SEEDS_MAX: u64 = 1_500;

/// The first seed at which a run of the crash test notices the fault.
fn caught_at(canary: Canary, run: fn(u64) -> u64) -> Option<u64> {
    (0..SEEDS_MAX).find(|&seed| {
        break_on_purpose(Some(canary));
        let outcome = catch_unwind(AssertUnwindSafe(|| run(seed)));
        break_on_purpose(None);
        outcome.is_err()
    })
}

#[track_caller]
fn is_caught(canaries: &[Canary]) {
    for &canary in canaries {
        // By the contents alone, so that a look at the structures hides no blindness of the model.
        let seed = caught_at(canary, crash_seen_by_the_model);
        println!("{canary:?}: noticed at seed {seed:?}");
        assert!(seed.is_some(), "{canary:?} is not noticed within {SEEDS_MAX} seeds");
    }
}

#[test]
fn broken_promises_of_the_log() {
    is_caught(&[Canary::AcknowledgeAtOnce, Canary::TailBeforeHome]);
}

#[test]
fn broken_order_of_data_and_mappings() {
    is_caught(&[Canary::MapBeforeData, Canary::LeaveOldEnd]);
}

#[test]
fn bytes_that_stay_in_the_record() {
    is_caught(&[Canary::KeepInlineBytes]);
}

#[test]
fn bytes_that_are_not_logged() {
    is_caught(&[Canary::LogOverUnloggedBytes]);
}

#[test]
fn cuts_in_transactions() {
    is_caught(&[Canary::LeaveCutSize, Canary::LeaveCutEnd]);
}

#[test]
fn space_that_is_reused_too_early() {
    is_caught(&[Canary::ReuseBeforeApplied]);
}

#[test]
fn space_that_is_lost() {
    // Nothing is wrong with the contents: only a look at all structures sees it.
    let seed = caught_at(Canary::LoseSpace, crash);
    println!("LoseSpace: noticed at seed {seed:?}");
    assert!(seed.is_some(), "LoseSpace is not noticed within {SEEDS_MAX} seeds");
}
