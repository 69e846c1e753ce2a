//! Runs on a disk that loses, misplaces and changes what it was given: each answer is right or a typed error,
//! nothing panics or hangs, and a look at the store ends in a report.

use std::panic::AssertUnwindSafe;
use std::panic::catch_unwind;
use std::sync::Mutex;

use foliant::testing::Canary;
use foliant::testing::MapCanary;
use foliant::testing::break_mapping_on_purpose;
use foliant::testing::break_on_purpose;
use foliant_bench::crash::Tally;
use foliant_bench::crash::ground::for_seeds;
use foliant_bench::crash::lying::lying;

const SEEDS: std::ops::Range<u64> = 0..400;

#[test]
fn what_it_returns_is_right_or_a_typed_error() {
    let all = Mutex::new(Tally::default());
    for_seeds(SEEDS, |seed| {
        let tally = lying(seed);
        all.lock().expect("nobody panics with it").merge(&tally);
    });
    let all = all.into_inner().expect("nobody panics with it");
    all.counts().for_each(|(what, n)| println!("{n:>9} {what}"));
    for lie in ["lost writes", "misdirected writes", "misdirected reads"] {
        assert!(all.get(lie) > 10, "hardly any {lie}");
    }
    for lie in ["bits flipped in writes", "bits flipped in reads", "bits flipped at rest"] {
        assert!(all.get(lie) > 10, "hardly any {lie}");
    }
    assert!(all.get("lies that were detected") > 50);
}

/// Some run notices what `set` breaks.
#[track_caller]
fn is_noticed(name: &str, set: impl Fn(bool)) {
    let seed = (0..SEEDS.end).find(|&seed| {
        set(true);
        let outcome = catch_unwind(AssertUnwindSafe(|| lying(seed)));
        set(false);
        outcome.is_err()
    });
    println!("| `{name}` | {} |", seed.map_or("none".into(), |seed| (seed + 1).to_string()));
    assert!(seed.is_some(), "{name} survived");
}

#[test]
fn checksums_that_are_not_compared_are_noticed() {
    let set = |on: bool| break_mapping_on_purpose(on.then_some(MapCanary::TrustDevice));
    is_noticed("TrustDevice", set);
}

#[test]
fn homes_that_nobody_looks_at_again_are_noticed() {
    is_noticed("BelieveHomes", |on| break_on_purpose(on.then_some(Canary::BelieveHomes)));
}
