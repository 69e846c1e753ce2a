//! The recovery of a crash meets a failing disk: the N-th request of it fails, for every N until it meets no
//! failure any more, once and from there on for ever. And the power goes at every request of a repair.
//!
//! Opening fails with a type or succeeds; afterwards, on a sound disk, everything is there that is there without
//! the disturbance, repair succeeds, and the store is sound.

#![allow(clippy::unwrap_used)] // In helpers of tests as in tests: a failed unwrap is the failed test.

mod support;

use std::collections::BTreeMap;
use std::time::Duration;

use foliant::Engine;
use foliant::ErrorKind;
use foliant::check::Options;
use foliant::check::repair;
use foliant_device::Device;
use foliant_device::DeviceErrorKind;
use foliant_device::error::Operation;
use foliant_device::sim::Cut;
use foliant_device::sim::FaultRule;
use foliant_device::sim::Rng;
use foliant_device::sim::SimDisk;
use foliant_device::sim::SimOptions;
use support::BLOCK;
use support::DEVICE_BLOCKS_TIGHT;
use support::bytes;
use support::is_sound;
use support::open;
use support::put;
use support::read_all;
use support::simulate;

/// No wait of an opening is longer than a minute.
const BOUND: Duration = Duration::from_secs(600);
const KINDS: [ErrorKind; 3] = [ErrorKind::Device, ErrorKind::WritesStopped, ErrorKind::NoSpace];
/// First block of the only group.
const GROUP: u64 = 32 + 1024;

type Contents = BTreeMap<Vec<u8>, Vec<u8>>;

/// Changes that a crash leaves in the log, and what of them was acknowledged.
async fn change(engine: &Engine, rng: &mut Rng) -> Contents {
    let mut known = Contents::new();
    for i in 0..6_usize {
        let name = format!("object-{i}").into_bytes();
        let object = engine.create(&name).await.unwrap();
        let mut content = bytes(rng, 3_000 * i + 50);
        object.write_at(0, &content).await.unwrap();
        object.sync().await.unwrap();
        let (at, data) = (i * 1_500, bytes(rng, 700));
        let mut transaction = engine.transaction();
        transaction.write_at(&object, at as u64, &data).unwrap();
        transaction.commit().await.unwrap().durable().await.unwrap();
        put(&mut content, at, &data);
        known.insert(name, content);
    }
    engine.remove("object-3").await.unwrap();
    known.remove(&b"object-3"[..]);
    engine.rename("object-4", "renamed").await.unwrap();
    let moved = known.remove(&b"object-4"[..]).unwrap();
    known.insert(b"renamed".to_vec(), moved);
    known
}

/// A volume whose log has to be replayed, as a cut found it, and what must be there.
fn crashed(seed: u64) -> (Cut, Contents) {
    simulate(async {
        let options = SimOptions { seed, keeps_cuts: true, ..SimOptions::default() };
        let disk = SimDisk::new(DEVICE_BLOCKS_TIGHT, options);
        support::format(&disk).await;
        let engine = open(&disk).await.unwrap();
        let known = change(&engine, &mut Rng::new(seed)).await;
        disk.power_cut();
        drop(engine);
        (disk.last_cut().unwrap(), known)
    })
}

async fn contents(engine: &Engine) -> Contents {
    let mut found = Contents::new();
    for name in engine.list("", 100).await.unwrap() {
        let object = engine.object(&name).await.unwrap();
        found.insert(name, read_all(&object).await);
    }
    found
}

/// One opening with a fault at its `nth` request; whether it struck.
async fn disturbed(cut: &Cut, known: &Contents, rule: FaultRule) -> bool {
    let disk = SimDisk::after(cut, 0);
    let rule = disk.inject(rule);
    match open(&disk).await {
        Err(cause) => {
            assert!(KINDS.contains(&cause.kind()), "opening fails with {cause:?}");
            assert!(disk.struck(rule) > 0, "opening fails without a fault: {cause}");
        }
        Ok(engine) => drop(engine.close().await),
    }
    let struck = disk.struck(rule) > 0;
    disk.withdraw(rule);
    disk.power_cut();
    is_sound(&disk, true).await;
    let engine = open(&disk).await.expect("it opens without the fault");
    assert_eq!(contents(&engine).await, *known, "something acknowledged is gone");
    engine.close().await.unwrap();
    struck
}

fn every_request(kind: DeviceErrorKind, on: Option<Operation>, times: u64) {
    let mut requests = Vec::new();
    for seed in 0..3 {
        let (cut, known) = crashed(seed);
        let strikes = |nth: u64| {
            let rule = FaultRule::fail(kind).after(nth).times(times);
            let rule = on.into_iter().fold(rule, FaultRule::on);
            let run = async {
                tokio::time::timeout(BOUND, disturbed(&cut, &known, rule)).await.unwrap_or_else(
                    |_| panic!("opening with a fault at request {nth} of seed {seed} hangs"),
                )
            };
            simulate(run)
        };
        requests.push((0..).take_while(|&nth| strikes(nth)).count());
    }
    println!("requests that failed, by seed: {requests:?}");
    assert!(requests.iter().all(|&n| n > 2), "{requests:?}");
}

#[test]
fn the_nth_request_of_a_recovery_fails_once() {
    every_request(DeviceErrorKind::Io, None, 1);
}

#[test]
fn the_nth_request_of_a_recovery_and_all_behind_it_fail() {
    every_request(DeviceErrorKind::Io, None, u64::MAX);
}

#[test]
fn the_nth_write_of_a_recovery_finds_no_space() {
    every_request(DeviceErrorKind::NoSpace, Some(Operation::Write), 1);
    every_request(DeviceErrorKind::NoSpace, Some(Operation::Write), u64::MAX);
}

fn options() -> Options<'static> {
    Options { memory_bytes: 2 << 20, ..Options::default() }
}

/// The same crash with damage that has one right answer.
fn damaged(cut: &Cut) -> SimDisk {
    let disk = SimDisk::after(cut, 0);
    disk.poke(0, &[0x5A; BLOCK]);
    disk.flip(GROUP, 300, 3);
    disk
}

/// Repairs that the power ends at the given requests, one after the other, and one that nothing ends. Whether
/// the last of those cuts came in time.
async fn repaired(cut: &Cut, known: &Contents, at: &[u64]) -> bool {
    let disk = damaged(cut);
    let mut in_time = false;
    for &requests in at {
        disk.crash_after_requests(requests);
        let outcome = repair(&Device::new(disk.attach()), &options()).await;
        in_time = !disk.is_powered();
        assert!(in_time || outcome.is_ok(), "with the power on: {outcome:?}");
        disk.power_cut();
    }
    let last = repair(&Device::new(disk.attach()), &options()).await.unwrap();
    assert!(last.after.is_sound(), "cut at {at:?}, repair leaves:\n{}", last.after);
    disk.power_cut();
    is_sound(&disk, true).await;
    let engine = open(&disk).await.expect("a repaired store opens");
    assert_eq!(contents(&engine).await, *known, "cut at {at:?}, something readable is gone");
    engine.close().await.unwrap();
    in_time
}

#[test]
fn the_power_goes_at_every_request_of_a_repair() {
    let mut requests = Vec::new();
    for seed in 0..3 {
        let (cut, known) = crashed(seed);
        assert!(!simulate(repaired(&cut, &known, &[])));
        let in_time = |at: &u64| simulate(repaired(&cut, &known, &[*at]));
        let count = (1..).take_while(in_time).count() as u64;
        // And in the repair of what a cut repair left.
        let mut rng = Rng::new(seed);
        for at in (1..=count).step_by(3) {
            simulate(repaired(&cut, &known, &[at, rng.below(count) + 1]));
        }
        requests.push(count);
    }
    println!("cuts in a repair, by seed: {requests:?}");
    assert!(requests.iter().all(|&n| n > 10), "{requests:?}");
}
