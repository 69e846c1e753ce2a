//! A cut leaves any subset of the writes that no flush covers. Here all of them are tried, not some: short
//! runs over the objects of `foliant_bench::crash`, a cut at any request, and every disk that it could
//! have left is opened and compared with the model.

use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::panic::catch_unwind;
use std::sync::Mutex;

use foliant::testing::Canary;
use foliant::testing::break_on_purpose;
use foliant_bench::crash::every_outcome;
use foliant_bench::crash::ground::for_seeds;

const SEEDS: std::ops::Range<u64> = 0..300;

#[test]
fn every_disk_that_a_cut_could_leave_is_sound() {
    let found: Mutex<BTreeMap<usize, (u64, u64)>> = Mutex::default();
    for_seeds(SEEDS, |seed| {
        let (writes, disks) = every_outcome(seed);
        let mut found = found.lock().unwrap();
        let entry = found.entry(writes).or_default();
        *entry = (entry.0 + 1, entry.1 + disks);
    });
    let found = found.into_inner().unwrap();
    println!("writes that could be undone: (cuts, disks): {found:?}");
    let disks: u64 = found.values().map(|entry| entry.1).sum();
    assert!(disks > 2_000, "only {disks} disks were tried");
}

#[test]
fn a_missing_flush_is_found() {
    let is_found = (0..100).any(|seed| {
        break_on_purpose(Some(Canary::MapBeforeData));
        let outcome = catch_unwind(AssertUnwindSafe(|| every_outcome(seed)));
        break_on_purpose(None);
        outcome.is_err()
    });
    assert!(is_found, "the canary survived a hundred runs");
}
