//! The crash tests can fail: each deliberate fault of the engine is found by them within a stated
//! number of seeds. A fault that is not means that the harness has gone blind there.
//!
//! The lines that begin with `|` are the table of `engine/src/doc/faults.md`.

use std::panic::AssertUnwindSafe;
use std::panic::catch_unwind;

use foliant::testing::Canary;
use foliant::testing::MapCanary;
use foliant::testing::break_mapping_on_purpose;
use foliant::testing::break_on_purpose;
use foliant_bench::crash::Plan;
use foliant_bench::crash::points::HOOKS;
use foliant_bench::crash::run;

/// Seeds within which each fault must show. Two thousand sound runs go through.
const SEEDS_MAX: u64 = 1_500;

/// The first seed at which a run of the crash test notices the fault.
fn caught_at(canary: Option<Canary>, mapping: Option<MapCanary>, looks: bool) -> Option<u64> {
    (0..SEEDS_MAX).find(|&seed| {
        break_on_purpose(canary);
        break_mapping_on_purpose(mapping);
        let plan = Plan { looks, hooks: Some(HOOKS), ..Plan::new(seed) };
        let outcome = catch_unwind(AssertUnwindSafe(|| run(&plan)));
        break_on_purpose(None);
        break_mapping_on_purpose(None);
        outcome.is_err()
    })
}

#[track_caller]
fn is_caught(canaries: &[Canary]) {
    for &canary in canaries {
        // By the contents alone, so that a look at the structures hides no blindness of the model.
        told(&format!("{canary:?}"), caught_at(Some(canary), None, false));
    }
}

#[track_caller]
fn mapping_is_caught(canaries: &[MapCanary]) {
    for &canary in canaries {
        told(&format!("{canary:?}"), caught_at(None, Some(canary), false));
    }
}

#[track_caller]
fn told(name: &str, seed: Option<u64>) {
    println!("| `{name}` | {} |", seed.map_or("none".into(), |seed| (seed + 1).to_string()));
    assert!(seed.is_some(), "{name} is not noticed within {SEEDS_MAX} seeds");
}

#[test]
fn broken_promises_of_the_log() {
    is_caught(&[Canary::AcknowledgeAtOnce, Canary::TailBeforeHome]);
}

#[test]
fn groups_that_are_acknowledged_out_of_order() {
    is_caught(&[Canary::AcknowledgeOutOfOrder]);
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
fn blocks_that_move_without_a_look() {
    is_caught(&[Canary::MapMovedUnseen, Canary::MoveLogged]);
}

#[test]
fn space_that_is_reused_too_early() {
    is_caught(&[Canary::ReuseBeforeApplied]);
}

#[test]
fn logged_bytes_that_reclaim_may_drop() {
    is_caught(&[Canary::ForgetMark]);
}

#[test]
fn stale_mappings_that_are_taken_for_good() {
    mapping_is_caught(&[MapCanary::IgnoreStaleness]);
}

#[test]
fn sizes_ahead_of_their_bytes() {
    mapping_is_caught(&[MapCanary::SettleEverything]);
}

#[test]
fn errors_that_are_forgotten() {
    mapping_is_caught(&[MapCanary::ForgetWriteErrors]);
}

#[test]
fn space_that_is_lost() {
    // Nothing is wrong with the contents: only a look at all structures sees it.
    told("LoseSpace", caught_at(Some(Canary::LoseSpace), None, true));
}
