//! Two thousand seeded runs of the whole engine, each cut off at random moments and at named places, recovery
//! included, on a disk that fails at times, reopened, and compared with an exact model
//! (`foliant_bench::crash`). A failing seed is printed.

use std::sync::Mutex;

use foliant_bench::crash::Plan;
use foliant_bench::crash::Tally;
use foliant_bench::crash::crash_past_the_cache;
use foliant_bench::crash::ground::for_seeds;
use foliant_bench::crash::points::HOOKS;
use foliant_bench::crash::points::hits;
use foliant_bench::crash::run;

const SEEDS: std::ops::Range<u64> = 0..2_000;

fn swayed(seed: u64) -> Tally {
    run(&Plan { hooks: Some(HOOKS), ..Plan::new(seed) })
}

#[test]
fn two_thousand_power_cuts_lose_nothing_acknowledged() {
    let all = Mutex::new(Tally::default());
    for_seeds(SEEDS, |seed| {
        let tally = swayed(seed);
        all.lock().expect("nobody panics with it").merge(&tally);
    });
    let all = all.into_inner().expect("nobody panics with it");
    all.counts().for_each(|(what, n)| println!("{n:>9} {what}"));
    assert!(all.get("commits acknowledged") > 1_000, "the runs hardly committed anything");
    assert!(all.get("cuts inside recovery") > 500);
    for fault in ["write EIO", "write ENOSPC", "flush EIO", "read EIO", "slow", "any EIO"] {
        assert!(all.get(fault) > 20, "{fault} hardly happened");
    }
}

#[test]
fn one_seed_replays_one_run() {
    assert_eq!(swayed(42), swayed(42));
}

#[test]
fn every_named_place_is_passed_and_cut() {
    (10_000..10_060).for_each(|seed| drop(swayed(seed)));
    let hits = hits();
    println!("place, visits, cuts: {hits:?}");
    assert!(hits.iter().all(|(_, visits, _)| *visits > 0));
    assert!(hits.iter().take(4).all(|(_, _, cuts)| *cuts > 0));
}

/// Half of the plain writes go past the cache.
#[test]
fn a_power_cut_keeps_what_was_synced_and_leaves_each_other_block_old_or_new() {
    for_seeds(0..400, |seed| drop(crash_past_the_cache(seed)));
}
