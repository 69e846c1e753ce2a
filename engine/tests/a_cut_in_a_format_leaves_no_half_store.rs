//! The power goes at every single request of a format, and of what was not flushed any part survives: the
//! device holds no store, or the new one, whole; where an old store is replaced, that one may be left too, as
//! it was. One of its two superblocks may be gone then, which repair writes again. Formatting again always helps.

#![allow(clippy::unwrap_used)] // In helpers of tests as in tests: a failed unwrap is the failed test.

mod support;

use std::collections::BTreeMap;

use foliant::Engine;
use foliant::ErrorKind;
use foliant::check::Fault;
use foliant::check::Options;
use foliant::check::repair;
use foliant::testing::Canary;
use foliant::testing::break_on_purpose;
use foliant_device::Device;
use foliant_device::sim::Rng;
use foliant_device::sim::SimDisk;
use foliant_device::sim::SimOptions;
use support::DEVICE_BLOCKS;
use support::JOURNAL_BYTES;

/// Up to so many undoable writes all subsets are tried.
const WRITES_EXHAUSTIVE: usize = 6;
/// Subsets that are tried of more.
const SUBSETS: u64 = 16;
/// What the old store holds.
const OLD: &[u8] = &[9; 10_000];

/// What is found after a cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Found {
    Nothing,
    Old,
    New,
    /// Half of a store.
    Half,
}

async fn disk(with_old: bool) -> SimDisk {
    let options = SimOptions { seed: 1, keeps_cuts: true, ..SimOptions::default() };
    let disk = SimDisk::new(DEVICE_BLOCKS, options);
    if with_old {
        support::format(&disk).await;
        let engine = support::open(&disk).await.unwrap();
        let object = engine.create("old").await.unwrap();
        object.write_at(0, OLD).await.unwrap();
        object.sync().await.unwrap();
        engine.close().await.unwrap();
    }
    disk
}

async fn replace(disk: &SimDisk) -> foliant::Result<()> {
    let options = Engine::format_device(Device::new(disk.attach())).journal_bytes(JOURNAL_BYTES);
    options.uuid([8; 16]).force(true).run().await
}

async fn look(disk: &SimDisk) -> Found {
    let engine = match support::open(disk).await {
        Ok(engine) => engine,
        Err(cause) if cause.kind() == ErrorKind::NotAStore => return Found::Nothing,
        Err(_) => return Found::Half,
    };
    let names = engine.list("", 10).await.unwrap();
    let found = match names.as_slice() {
        [] => Found::New,
        _ => {
            let object = engine.object("old").await.unwrap();
            let mut bytes = vec![0; OLD.len() + 1];
            assert_eq!(object.read_at(0, &mut bytes).await.unwrap(), OLD.len());
            assert_eq!(&bytes[..OLD.len()], OLD);
            Found::Old
        }
    };
    engine.close().await.unwrap();
    let repaired = repair(&Device::new(disk.attach()), &Options::default()).await.unwrap();
    let superblocks = repaired.before.count(Fault::Superblock);
    assert_eq!(repaired.before.total(), superblocks, "{}", repaired.before);
    assert!(superblocks < 2 && repaired.after.is_sound(), "{}", repaired.after);
    support::is_sound(disk, true).await;
    found
}

/// What is found after a cut at the `requests`-th request of a format; `None` when it came too late.
async fn cut(requests: u64, with_old: bool, outcomes: &mut BTreeMap<Found, u64>) -> Option<()> {
    let disk = disk(with_old).await;
    disk.crash_after_requests(requests);
    let made = replace(&disk).await;
    let over = disk.is_powered();
    assert_eq!(made.is_ok(), over, "{made:?}");
    disk.power_cut();
    let cut = disk.last_cut().unwrap();
    *outcomes.entry(look(&disk).await).or_insert(0) += 1;
    let mut rng = Rng::new(requests);
    let subsets = match cut.writes() {
        writes @ ..=WRITES_EXHAUSTIVE => 1_u64 << writes,
        _ => SUBSETS,
    };
    for subset in 0..subsets {
        let all = cut.writes() <= WRITES_EXHAUSTIVE;
        let survivors = if all { subset } else { rng.next_u64() };
        let disk = SimDisk::after(&cut, survivors);
        let found = look(&disk).await;
        assert!(!over || found == Found::New, "a format that was told is gone");
        *outcomes.entry(found).or_insert(0) += 1;
        if subset == 0 {
            replace(&disk).await.unwrap();
            assert_eq!(look(&disk).await, Found::New, "formatting again helps");
        }
    }
    (!over).then_some(())
}

fn cut_everywhere(with_old: bool) -> BTreeMap<Found, u64> {
    let mut outcomes = BTreeMap::new();
    for requests in 1.. {
        if support::simulate(cut(requests, with_old, &mut outcomes)).is_none() {
            break;
        }
    }
    println!("cut: what a format leaves, with an old store {with_old}: {outcomes:?}");
    outcomes
}

#[test]
fn on_an_empty_device() {
    let found = cut_everywhere(false);
    assert!(found.keys().eq(&[Found::Nothing, Found::New]), "{found:?}");
}

#[test]
fn over_an_old_store() {
    let found = cut_everywhere(true);
    assert!(found.keys().eq(&[Found::Nothing, Found::Old, Found::New]), "{found:?}");
}

#[test]
fn the_canary_is_noticed() {
    break_on_purpose(Some(Canary::PublishUnflushed));
    let found = cut_everywhere(false);
    break_on_purpose(None);
    assert!(found.contains_key(&Found::Half), "the canary survived: {found:?}");
}
