//! A disk acknowledges a write and flushes it, and it is not there, lies elsewhere, or has changed. The old block is
//! whole and in its place, so that nothing but a second look tells: metadata is read again while the log still
//! has it, and written again; and a group of the log that is missing is known from what a later one says.

#![allow(clippy::unwrap_used)] // In helpers of tests as in tests: a failed unwrap is the failed test.

mod support;

use std::collections::BTreeMap;

use foliant::Engine;
use foliant::ErrorKind;
use foliant::check::Fault as Finding;
use foliant::check::Options;
use foliant::check::check;
use foliant::check::repair;
use foliant::testing::Canary;
use foliant::testing::break_on_purpose;
use foliant_device::Device;
use foliant_device::error::Operation;
use foliant_device::sim::Fault;
use foliant_device::sim::FaultRule;
use foliant_device::sim::SimDisk;
use foliant_device::sim::SimOptions;
use support::BLOCK;
use support::DEVICE_BLOCKS;
use support::format;
use support::is_sound;
use support::open;
use support::simulate;

const ROOT: u64 = 24;
const RING: u64 = 32;
const GROUP: u64 = 32 + 1024;
/// Enough names for a tree with inner nodes.
const NAMES: usize = 120;

type Contents = BTreeMap<Vec<u8>, Vec<u8>>;

fn name(i: usize) -> Vec<u8> {
    format!("{i:03}-a-name-that-is-long-enough-to-fill-nodes-with").into_bytes()
}

/// Small objects live in their records: all that is written home is metadata.
async fn put(engine: &Engine, i: usize, text: &str, contents: &mut Contents) {
    let object = match engine.object(name(i)).await {
        Ok(object) => object,
        Err(_) => engine.create(name(i)).await.unwrap(),
    };
    let mut transaction = engine.transaction();
    transaction.write_at(&object, 0, text.as_bytes()).unwrap();
    transaction.commit().await.unwrap().durable().await.unwrap();
    contents.insert(name(i), text.as_bytes().to_vec());
}

async fn base() -> (SimDisk, Contents) {
    let disk = SimDisk::new(DEVICE_BLOCKS, SimOptions::default());
    format(&disk).await;
    let engine = open(&disk).await.unwrap();
    let mut contents = Contents::new();
    for i in 0..NAMES {
        put(&engine, i, "old", &mut contents).await;
    }
    engine.close().await.unwrap();
    (disk, contents)
}

/// Changes leaves, inner nodes, the root and the bitmap.
async fn work(engine: &Engine, contents: &mut Contents) {
    for i in (0..NAMES).step_by(40) {
        put(engine, i, "new", contents).await;
    }
    for i in NAMES..NAMES + 40 {
        put(engine, i, "more", contents).await;
    }
    for i in (1..NAMES).step_by(7) {
        engine.remove(name(i)).await.unwrap();
        contents.remove(&name(i));
    }
    engine.sync().await.unwrap();
}

async fn holds(disk: &SimDisk, contents: &Contents, case: &str) {
    let engine = open(disk).await.unwrap();
    let names = engine.list("", 1000).await.unwrap();
    assert!(names.iter().eq(contents.keys()), "{case}: other names");
    for (name, expected) in contents {
        let object = engine.object(name).await.unwrap();
        let mut found = vec![0; object.size() as usize];
        object.read_at(0, &mut found).await.unwrap();
        assert_eq!(found, *expected, "{case}: {}", name.escape_ascii());
    }
    drop(engine);
    is_sound(disk, true).await;
}

/// The `nth` write to metadata homes goes wrong; whether there was one.
async fn once(fault: Fault, nth: u64, in_recovery: bool) -> bool {
    let case = format!("{fault:?} of write {nth}, in recovery {in_recovery}");
    let (disk, mut contents) = base().await;
    let lie = FaultRule::new(fault).on(Operation::Write).after(nth).times(1);
    let homes = [ROOT..ROOT + 1, GROUP..DEVICE_BLOCKS];
    let tell = || homes.clone().map(|blocks| disk.inject(lie.clone().blocks(blocks)));
    let engine = open(&disk).await.unwrap();
    let rules = match in_recovery {
        true => {
            work(&engine, &mut contents).await;
            disk.power_cut();
            drop(engine);
            let rules = tell();
            drop(open(&disk).await.unwrap());
            rules
        }
        false => {
            let rules = tell();
            work(&engine, &mut contents).await;
            engine.close().await.unwrap();
            rules
        }
    };
    let struck = rules.iter().any(|&rule| disk.struck(rule) > 0);
    disk.withdraw_all();
    disk.power_cut();
    holds(&disk, &contents, &case).await;
    struck
}

const FAULTS: [Fault; 3] =
    [Fault::Lose, Fault::Misdirect { to: DEVICE_BLOCKS - 3 }, Fault::Flip { bit: 12_345 }];

#[test]
fn metadata_that_did_not_arrive_at_home_is_written_again() {
    for fault in FAULTS {
        for in_recovery in [false, true] {
            let struck = (0..).take_while(|&n| simulate(once(fault, n, in_recovery))).count();
            assert!(struck >= 2, "{fault:?}, in recovery {in_recovery}: {struck} writes home");
        }
    }
}

#[test]
fn without_a_second_look_older_metadata_is_believed() {
    for in_recovery in [false, true] {
        break_on_purpose(Some(Canary::BelieveHomes));
        let blind = std::panic::catch_unwind(|| {
            (0..).take_while(|&n| simulate(once(Fault::Lose, n, in_recovery))).count()
        });
        break_on_purpose(None);
        assert!(blind.is_err(), "the canary was not noticed, in recovery {in_recovery}");
    }
}

/// A place that never holds what is written: the log keeps it, writes stop, nothing is lost.
#[test]
fn a_home_that_never_holds_what_is_written_stops_writes() {
    simulate(async {
        let (disk, mut contents) = base().await;
        let engine = open(&disk).await.unwrap();
        disk.inject(
            FaultRule::new(Fault::Lose).on(Operation::Write).blocks(ROOT..ROOT + 1).always(),
        );
        work(&engine, &mut contents).await;
        let told = engine.close().await.unwrap_err();
        assert!(matches!(told.kind(), ErrorKind::Corrupt | ErrorKind::WritesStopped), "{told}");
        disk.power_cut();
        let told = open(&disk).await.unwrap_err();
        assert_eq!(told.kind(), ErrorKind::Corrupt, "{told}");
        disk.withdraw_all();
        disk.power_cut();
        holds(&disk, &contents, "when the place holds again").await;
    });
}

/// Six commits, a group each; the write of group `lost` never arrives, or arrives changed.
async fn commits(fault: Fault, lost: u64) -> (SimDisk, Vec<Contents>) {
    let (disk, mut contents) = base().await;
    let engine = open(&disk).await.unwrap();
    let mut states = vec![contents.clone()];
    let rule = FaultRule::new(fault).on(Operation::Write).blocks(RING..GROUP);
    let rule = disk.inject(rule.after(lost).times(1));
    for i in 0..COMMITS {
        put(&engine, i, "acknowledged", &mut contents).await;
        states.push(contents.clone());
    }
    assert_eq!(disk.struck(rule), 1);
    disk.power_cut();
    drop(engine);
    disk.withdraw_all();
    (disk, states)
}

const COMMITS: usize = 6;

async fn a_gap_is_told(fault: Fault, lost: usize) {
    let case = format!("{fault:?} of group {lost}");
    let (disk, states) = commits(fault, lost as u64).await;
    let device = Device::new(disk.attach());
    if lost + 1 == COMMITS {
        // Nothing behind it says that it was there: the store is whole, and a commit older.
        holds(&disk, &states[lost], &case).await;
        return;
    }
    let told = open(&disk).await.expect_err(&case);
    assert_eq!(told.kind(), ErrorKind::Corrupt, "{case}: {told}");
    assert!(told.to_string().contains("acknowledged"), "{case}: {told}");
    let report = check(&device, &Options::default()).await.unwrap();
    assert_eq!((report.total(), report.count(Finding::LogGap)), (1, 1), "{case}: {report}");
    let repaired = repair(&device, &Options::default()).await.unwrap();
    assert!(repaired.after.is_sound() && repaired.done.len() == 1, "{case}: {repaired:?}");
    holds(&disk, &states[lost], &case).await;
}

#[test]
fn a_group_of_the_log_that_is_missing_is_told() {
    for fault in [Fault::Lose, Fault::Misdirect { to: GROUP - 9 }, Fault::Flip { bit: 777 }] {
        (0..COMMITS).for_each(|lost| simulate(a_gap_is_told(fault, lost)));
    }
}

#[test]
fn a_log_whose_end_is_believed_loses_commits_in_silence() {
    break_on_purpose(Some(Canary::BelieveLogEnd));
    let silent = simulate(async {
        let (disk, states) = commits(Fault::Lose, 2).await;
        holds(&disk, &states[2], "with the end believed").await;
        open(&disk).await.is_ok()
    });
    break_on_purpose(None);
    assert!(silent, "the canary was not noticed");
}

/// A run of seeds found it: a data block was written home, the write was lost, and the log changed a few bytes of it.
/// Replay took what does not match for a log that cannot be replayed, and nothing could be opened any more.
#[test]
fn data_that_the_log_builds_upon_and_is_lost_damages_that_block_only() {
    simulate(async {
        let (disk, contents) = base().await;
        let engine = open(&disk).await.unwrap();
        let object = engine.create("data").await.unwrap();
        object.write_at(0, &[1; 5 * BLOCK]).await.unwrap();
        object.sync().await.unwrap();
        let extents = object.extents(0..5 * BLOCK as u64, 9).await.unwrap();
        let at = extents[0].device_offset.unwrap() / BLOCK as u64 + 2;
        engine.close().await.unwrap();
        let engine = open(&disk).await.unwrap();
        let object = engine.object("data").await.unwrap();
        let mut transaction = engine.transaction();
        transaction.write_at(&object, 2 * BLOCK as u64 + 9, b"a few bytes").unwrap();
        transaction.commit().await.unwrap().durable().await.unwrap();
        disk.power_cut();
        drop((object, engine));
        disk.poke(at, &[7; BLOCK]);
        let engine = open(&disk).await.unwrap();
        assert_eq!(engine.recovery().blocks_damaged, 1);
        let object = engine.object("data").await.unwrap();
        for block in 0..5 {
            let read = object.read_at(block * BLOCK as u64, &mut [0; BLOCK]).await;
            let told = read.err().map(|cause| cause.kind());
            assert_eq!(told, (block == 2).then_some(ErrorKind::Corrupt), "block {block}");
        }
        assert_eq!(engine.list("", 1000).await.unwrap().len(), contents.len() + 1);
        let options = Options { data: true, ..Options::default() };
        let report = check(&Device::new(disk.attach()), &options).await.unwrap();
        assert_eq!((report.total(), report.count(Finding::Data)), (1, 1), "{report}");
    });
}
