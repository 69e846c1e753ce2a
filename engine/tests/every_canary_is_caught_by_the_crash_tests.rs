//! The crash tests can fail: each deliberate fault of the engine is found by them within a stated
//! number of seeds. A fault that is not means that the harness has gone blind there.

mod support;

use std::panic::AssertUnwindSafe;
use std::panic::catch_unwind;

use foliant::testing::Canary;
use foliant::testing::break_on_purpose;
use support::crash::crash;

/// Seeds within which each fault must show. Two thousand sound runs go through.
const SEEDS_MAX: u64 = 1_500;

/// The first seed at which the crash test notices the fault.
fn caught_at(canary: Canary) -> Option<u64> {
    (0..SEEDS_MAX).find(|&seed| {
        break_on_purpose(Some(canary));
        let outcome = catch_unwind(AssertUnwindSafe(|| crash(seed)));
        break_on_purpose(None);
        outcome.is_err()
    })
}

#[track_caller]
fn is_caught(canaries: &[Canary]) {
    for &canary in canaries {
        let seed = caught_at(canary);
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
    is_caught(&[Canary::LoseSpace]);
}
