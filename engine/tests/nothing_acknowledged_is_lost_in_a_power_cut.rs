//! Two thousand seeded runs of the whole engine, each cut off at random moments, recovery included,
//! reopened, and compared with an exact model (`support/crash.rs`). A failing seed is printed.

mod support;

use support::crash::crash;

const SEEDS: std::ops::Range<u64> = 0..2_000;

#[test]
fn two_thousand_power_cuts_lose_nothing_acknowledged() {
    let acknowledged = std::sync::atomic::AtomicU64::new(0);
    support::for_seeds(SEEDS, |seed| {
        acknowledged.fetch_add(crash(seed), std::sync::atomic::Ordering::Relaxed);
    });
    let acknowledged = acknowledged.into_inner();
    println!("{} seeds, {acknowledged} acknowledged commits", SEEDS.end - SEEDS.start);
    assert!(acknowledged > 1_000, "the runs hardly committed anything");
}

#[test]
fn one_seed_replays_one_run() {
    assert_eq!(crash(42), crash(42));
}
