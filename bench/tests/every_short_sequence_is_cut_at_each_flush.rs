//! Every sequence of up to three operations over a few objects, with the power cut at each flush and each
//! durable write: names, sizes and bytes are what the model allows, and the store is sound.

use std::panic::AssertUnwindSafe;
use std::panic::catch_unwind;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;

use foliant::testing::Canary;
use foliant::testing::break_on_purpose;
use foliant_bench::crash::ground::for_seeds;
use foliant_bench::crash::short::Start;
use foliant_bench::crash::short::Step;
use foliant_bench::crash::short::drawn;
use foliant_bench::crash::short::sequences;

#[test]
fn up_to_three_operations() {
    let start = Start::new(1);
    let all: Vec<Vec<Step>> = (1..=3).flat_map(sequences).collect();
    let cuts = AtomicU64::new(0);
    for_seeds(0..all.len() as u64, |i| {
        cuts.fetch_add(start.every_cut(&all[i as usize]), Ordering::Relaxed);
    });
    let cuts = cuts.into_inner();
    println!("{} sequences, {cuts} cuts", all.len());
    assert!(cuts > 2_000, "only {cuts} cuts");
}

#[test]
fn longer_ones_that_a_seed_draws() {
    for_seeds(0..60, |seed| _ = drawn(seed));
}

#[test]
fn deliberate_faults_are_found_by_two_operations() {
    for canary in [Canary::AcknowledgeAtOnce, Canary::MapBeforeData, Canary::LeaveSizeOut] {
        let found = (1..=2).flat_map(sequences).find(|steps| {
            break_on_purpose(Some(canary));
            let run = AssertUnwindSafe(|| Start::new(1).every_cut(steps));
            let outcome = catch_unwind(run);
            break_on_purpose(None);
            outcome.is_err()
        });
        println!("{canary:?}: noticed by {found:?}");
        assert!(found.is_some(), "{canary:?} survived");
    }
}
