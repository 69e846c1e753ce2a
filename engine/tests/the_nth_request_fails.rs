//! A short script of every kind of change runs with the N-th device request failing, for N = 1, 2, 3 and
//! so on until the script meets no failure any more; once, and from there on for ever; on a volume
//! that was closed, and on one that has to recover first.
//!
//! Nothing panics or hangs, every error is typed, a failed change leaves each block old or new for
//! readers, a sync that succeeds covers what readers saw, and after the fault is gone the reopened
//! volume has all that was acknowledged and works.

#![allow(clippy::unwrap_used)] // In helpers of tests as in tests: a failed unwrap is the failed test.

mod support;

use std::collections::BTreeMap;
use std::time::Duration;

use foliant::Engine;
use foliant::ErrorKind;
use foliant::Object;
use foliant::Result;
use foliant_device::error::DeviceErrorKind;
use foliant_device::sim::FaultRule;
use foliant_device::sim::Rng;
use foliant_device::sim::SimDisk;
use foliant_device::sim::SimOptions;
use support::BLOCK;
use support::DEVICE_BLOCKS_TIGHT;

/// No wait of the engine is longer than a minute, and the script has some thirty of them.
const BOUND: Duration = Duration::from_secs(3_600);
const KINDS: [ErrorKind; 3] = [ErrorKind::Device, ErrorKind::WritesStopped, ErrorKind::NotFound];

type Bytes = Vec<u8>;

/// What readers may see of an object now, and what it may be after a crash.
#[derive(Clone, Debug, Default)]
struct Known {
    /// Usually one; more when a failed change could not be looked at.
    visible: Vec<Bytes>,
    /// Everything visible since the last acknowledged sync.
    kept: Vec<Bytes>,
}

fn block(bytes: &[u8], at: usize) -> Bytes {
    let start = (at * BLOCK).min(bytes.len());
    let mut block = bytes[start..bytes.len().min(start + BLOCK)].to_vec();
    block.resize(BLOCK, 0);
    block
}

/// Each block of `found` is that block of one of `allowed`, and the size is one of theirs.
fn is_made_of(found: &[u8], allowed: &[Bytes]) -> std::result::Result<(), String> {
    if !allowed.iter().any(|a| a.len() == found.len()) {
        let sizes: Vec<_> = allowed.iter().map(Vec::len).collect();
        return Err(format!("{} bytes, allowed are {sizes:?}", found.len()));
    }
    for at in 0..found.len().div_ceil(BLOCK) {
        if !allowed.iter().any(|a| block(a, at) == block(found, at)) {
            return Err(format!("block {at} is none of the {} contents it had", allowed.len()));
        }
    }
    Ok(())
}

impl Known {
    fn synced(bytes: Bytes) -> Self {
        Self { visible: vec![bytes.clone()], kept: vec![bytes] }
    }

    /// A change was tried: `seen` is what a read shows then, if it works.
    fn changed(&mut self, what: &str, change: impl Fn(&mut Bytes), ok: bool, seen: Option<Bytes>) {
        let mut next = self.visible.clone();
        next.iter_mut().for_each(change);
        let both = if ok { next } else { [self.visible.clone(), next].concat() };
        self.visible = match seen {
            Some(seen) => {
                let outcome = if ok { "succeeded" } else { "failed" };
                if let Err(why) = is_made_of(&seen, &both) {
                    panic!("{what} {outcome}, and then readers see what never was: {why}");
                }
                vec![seen]
            }
            None => both,
        };
        self.kept.extend(self.visible.iter().cloned());
    }

    fn synced_now(&mut self) {
        self.kept = self.visible.clone();
    }
}

/// The script's view of the volume.
struct Run {
    disk: SimDisk,
    objects: BTreeMap<&'static str, Known>,
    /// Old and new name of the renamed object, and whether the rename is certain.
    renamed: Option<bool>,
    removed: Option<bool>,
    created: Option<bool>,
    failures: u64,
}

async fn read_all(object: &Object) -> Result<Bytes> {
    let mut bytes = vec![0; object.size() as usize];
    let read = object.read_at(0, &mut bytes).await?;
    bytes.truncate(read);
    Ok(bytes)
}

fn pattern(seed: u64, len: usize) -> Bytes {
    support::bytes(&mut Rng::new(seed), len)
}

fn put(bytes: &mut Bytes, at: usize, data: &[u8]) {
    bytes.resize(bytes.len().max(at + data.len()), 0);
    bytes[at..at + data.len()].copy_from_slice(data);
}

/// Every other block is stored, so that there is metadata to read.
async fn scattered(engine: &Engine, name: &str, seed: u64) -> Bytes {
    let object = engine.create(name).await.unwrap();
    let mut bytes = Vec::new();
    for at in (0..16).step_by(2) {
        let data = pattern(seed + at as u64, BLOCK);
        object.write_at((at * BLOCK) as u64, &data).await.unwrap();
        put(&mut bytes, at * BLOCK, &data);
    }
    object.sync().await.unwrap();
    bytes
}

const STORED: [&str; 5] = ["cut", "logged", "punched", "renamed", "removed"];

impl Run {
    async fn new(seed: u64, clean: bool) -> Self {
        let disk = SimDisk::new(DEVICE_BLOCKS_TIGHT, SimOptions { seed, ..SimOptions::default() });
        support::format(&disk).await;
        let engine = support::open(&disk).await.unwrap();
        let mut objects = BTreeMap::new();
        for (n, name) in STORED.into_iter().enumerate() {
            let bytes = scattered(&engine, name, n as u64 * 100).await;
            objects.insert(name, Known::synced(bytes));
        }
        match clean {
            true => engine.close().await.unwrap(),
            false => disk.power_cut(),
        }
        Self { disk, objects, renamed: None, removed: None, created: None, failures: 0 }
    }

    /// Whether it worked; a failure must be one that a failing device explains.
    fn heard<T>(&mut self, what: &str, outcome: Result<T>) -> Option<T> {
        match outcome {
            Ok(value) => Some(value),
            Err(cause) => {
                assert!(KINDS.contains(&cause.kind()), "{what}: {cause:?}");
                self.failures += 1;
                None
            }
        }
    }

    async fn change(
        &mut self,
        name: &'static str,
        what: &str,
        object: &Object,
        outcome: Result<()>,
        change: impl Fn(&mut Bytes),
    ) {
        let ok = self.heard(what, outcome).is_some();
        let seen = read_all(object).await;
        let seen = self.heard("read", seen);
        self.objects.get_mut(name).unwrap().changed(what, change, ok, seen);
    }

    async fn sync(&mut self, name: &'static str, object: &Object) {
        if self.heard("sync", object.sync().await).is_some() {
            self.objects.get_mut(name).unwrap().synced_now();
        }
    }

    /// The script; steps go on behind a failed one.
    async fn script(&mut self) {
        let opened = support::open(&self.disk).await;
        let Some(engine) = self.heard("open", opened) else { return };
        self.steps(&engine).await;
        self.heard("close", engine.close().await);
    }

    async fn steps(&mut self, engine: &Engine) {
        self.create(engine).await;
        self.cut(engine).await;
        self.punch(engine).await;
        self.commit(engine).await;
        let renamed = engine.rename("renamed", "renamed-2").await;
        self.renamed = Some(self.heard("rename", renamed).is_some());
        let removed = engine.remove("removed").await;
        self.removed = Some(self.heard("remove", removed).is_some());
        let listed = engine.list("", 100).await;
        self.heard("list", listed);
    }

    /// The fault is gone: the same process goes on. With `failing`, that request of the recovery fails, and
    /// it is asked for again. Everything that readers see is durable when a sync says so.
    async fn recover(&mut self, engine: &Engine, failing: Option<u64>) {
        if let Some(nth) = failing {
            let rule = self.disk.inject(FaultRule::fail(DeviceErrorKind::Io).after(nth));
            let outcome = engine.recover().await;
            self.heard("recover", outcome);
            self.disk.withdraw(rule);
        }
        engine.recover().await.expect("the device works again");
        for (name, known) in &mut self.objects {
            let Ok(object) = engine.object(name).await else { continue };
            object.sync().await.unwrap_or_else(|cause| panic!("{name} after recover: {cause}"));
            let seen = read_all(&object).await.unwrap();
            if let Err(why) = is_made_of(&seen, &known.visible) {
                panic!("{name} after recover: {why}");
            }
            *known = Known::synced(seen);
        }
        let object = engine.create("later").await.unwrap();
        object.write_at(0, &pattern(5, 3 * BLOCK)).await.unwrap();
        object.sync().await.unwrap();
        let mut transaction = engine.transaction();
        transaction.write_at(&object, 77, b"logged").unwrap();
        transaction.commit().await.unwrap().durable().await.unwrap();
        let bytes = read_all(&object).await.unwrap();
        self.objects.insert("later", Known::synced(bytes));
    }

    async fn create(&mut self, engine: &Engine) {
        let created = engine.create("created").await;
        let created = self.heard("create", created);
        self.created = Some(created.is_some());
        let Some(object) = created else { return };
        self.objects.insert("created", Known::synced(Vec::new()));
        for (at, len) in [(0, 3 * BLOCK + 5), (BLOCK + 7, 100)] {
            let data = pattern(at as u64 + 7_000, len);
            let outcome = object.write_at(at as u64, &data).await;
            self.change("created", "write", &object, outcome, |b| put(b, at, &data)).await;
            self.sync("created", &object).await;
        }
    }

    async fn open(&mut self, engine: &Engine, name: &str) -> Option<Object> {
        let found = engine.object(name).await;
        self.heard("open an object", found)
    }

    async fn cut(&mut self, engine: &Engine) {
        let Some(object) = self.open(engine, "cut").await else { return };
        let data = pattern(8_000, 2 * BLOCK);
        let outcome = object.write_at(10 * BLOCK as u64, &data).await;
        self.change("cut", "write", &object, outcome, |b| put(b, 10 * BLOCK, &data)).await;
        let size = 8 * BLOCK + 9;
        let outcome = object.truncate(size as u64).await;
        self.change("cut", "truncate", &object, outcome, |b| b.truncate(size)).await;
        self.sync("cut", &object).await;
        let outcome = object.truncate(13 * BLOCK as u64).await;
        self.change("cut", "grow", &object, outcome, |b| b.resize(13 * BLOCK, 0)).await;
        self.sync("cut", &object).await;
    }

    async fn punch(&mut self, engine: &Engine) {
        let Some(object) = self.open(engine, "punched").await else { return };
        let data = pattern(9_000, 3 * BLOCK);
        let outcome = object.write_at(4 * BLOCK as u64, &data).await;
        self.change("punched", "write", &object, outcome, |b| put(b, 4 * BLOCK, &data)).await;
        let range = 2 * BLOCK + 50..8 * BLOCK + 60;
        let outcome = object.punch(range.start as u64..range.end as u64).await;
        self.change("punched", "punch", &object, outcome, |b| b[range.clone()].fill(0)).await;
        self.sync("punched", &object).await;
    }

    async fn commit(&mut self, engine: &Engine) {
        let Some(object) = self.open(engine, "logged").await else { return };
        for n in 0..3 {
            let (low, high) = (pattern(n + 10_000, 100), pattern(n + 11_000, BLOCK));
            let (at, behind) = (n as usize * BLOCK + 30, 20 * BLOCK);
            let mut transaction = engine.transaction();
            transaction.write_at(&object, at as u64, &low).unwrap();
            transaction.write_at(&object, behind as u64, &high).unwrap();
            let outcome = transaction.commit().await;
            let (accepted, outcome) = match outcome {
                Ok(commit) => (Some(commit), Ok(())),
                Err(cause) => (None, Err(cause)),
            };
            let both = |b: &mut Bytes| {
                put(b, at, &low);
                put(b, behind, &high);
            };
            self.change("logged", "commit", &object, outcome, both).await;
            let Some(commit) = accepted else { continue };
            if self.heard("durable", commit.durable().await).is_some() {
                self.objects.get_mut("logged").unwrap().synced_now();
            }
        }
    }
}

/// After the fault: what is there is what may be there, and the volume works.
async fn check(run: &Run) {
    let engine = support::open(&run.disk).await.expect("it opens without the fault");
    let names = engine.list("", 100).await.unwrap();
    let has = |name: &str| names.iter().any(|n| n == name.as_bytes());
    let sure = |known: Option<bool>, name: &str, there: bool| {
        if known == Some(true) || known.is_none() {
            assert_eq!(
                has(name),
                there == (known == Some(true)),
                "{name}, acknowledged: {known:?}"
            );
        }
    };
    sure(run.created, "created", true);
    sure(run.renamed, "renamed-2", true);
    assert!(has("renamed") != has("renamed-2"), "renamed whole or not at all");
    assert!(!has("removed") || run.removed != Some(true), "it was removed");
    for (name, known) in &run.objects {
        let name = if *name == "renamed" && has("renamed-2") { "renamed-2" } else { name };
        if !has(name) {
            assert!(["created", "removed"].contains(&name), "{name} is gone");
            continue;
        }
        let object = engine.object(name).await.unwrap();
        let found = read_all(&object).await.unwrap();
        if let Err(why) = is_made_of(&found, &known.kept) {
            panic!("{name} after reopening: {why}");
        }
    }
    for name in names {
        let object = engine.object(&name).await.unwrap();
        let data = pattern(1, 100);
        object.write_at(BLOCK as u64 - 50, &data).await.unwrap();
        object.sync().await.unwrap();
        drop(object);
        engine.remove(&name).await.unwrap();
    }
    engine.close().await.unwrap();
    let engine = support::open(&run.disk).await.unwrap();
    let stats = engine.stats();
    engine.close().await.unwrap();
    assert_eq!(stats.free_bytes, empty_free_bytes().await, "space is lost");
}

async fn empty_free_bytes() -> u64 {
    let disk = SimDisk::new(DEVICE_BLOCKS_TIGHT, SimOptions::default());
    support::format(&disk).await;
    let engine = support::open(&disk).await.unwrap();
    let object = engine.create("one").await.unwrap();
    object.write_at(0, b"x").await.unwrap();
    object.sync().await.unwrap();
    engine.remove("one").await.unwrap();
    engine.close().await.unwrap();
    let engine = support::open(&disk).await.unwrap();
    engine.stats().free_bytes
}

/// One run; whether the fault struck at all.
fn run(nth: u64, times: u64, clean: bool) -> bool {
    support::simulate(async {
        let work = async {
            let mut run = Run::new(nth % 5, clean).await;
            let rule = FaultRule::fail(DeviceErrorKind::Io).after(nth).times(times);
            let rule = run.disk.inject(rule);
            run.script().await;
            let struck = run.disk.struck(rule);
            assert!(struck > 0 || run.failures == 0, "failures without a fault");
            run.disk.withdraw(rule);
            check(&run).await;
            struck > 0
        };
        tokio::time::timeout(BOUND, work).await.expect("something hangs")
    })
}

/// Runs until the script completes untouched, which takes `least` requests or more; all failing runs are told.
fn every_request(least: u64, run: impl Fn(u64) -> bool + std::panic::RefUnwindSafe) {
    let mut failed = Vec::new();
    let mut nth = 0;
    loop {
        match std::panic::catch_unwind(|| run(nth)) {
            Ok(true) => {}
            Ok(false) => break,
            Err(_) => failed.push(nth),
        }
        nth += 1;
        assert!(nth < 2_000, "the script does not end");
    }
    assert!(nth > least, "only {nth} requests");
    assert!(failed.is_empty(), "of {nth} requests, failing these breaks a promise: {failed:?}");
}

#[test]
fn once_on_a_closed_volume() {
    every_request(50, |nth| run(nth, 1, true));
}

#[test]
fn for_ever_on_a_closed_volume() {
    every_request(50, |nth| run(nth, u64::MAX, true));
}

#[test]
fn once_on_a_volume_that_must_recover() {
    every_request(50, |nth| run(nth, 1, false));
}

#[test]
fn for_ever_on_a_volume_that_must_recover() {
    every_request(50, |nth| run(nth, u64::MAX, false));
}

/// The same, but the engine stays open over the failure, recovers, and meets a power cut some time later.
fn run_on(nth: u64, times: u64, failing: Option<u64>) -> bool {
    support::simulate(async {
        let work = async {
            let mut run = Run::new(nth % 5, true).await;
            let engine = support::open(&run.disk).await.unwrap();
            let rule = FaultRule::fail(DeviceErrorKind::Io).after(nth).times(times);
            let rule = run.disk.inject(rule);
            run.steps(&engine).await;
            let struck = run.disk.struck(rule);
            run.disk.withdraw(rule);
            run.recover(&engine, failing).await;
            run.disk.power_cut();
            drop(engine);
            check(&run).await;
            struck > 0
        };
        tokio::time::timeout(BOUND, work).await.expect("something hangs")
    })
}

#[test]
fn once_and_then_the_same_process_goes_on() {
    every_request(40, |nth| run_on(nth, 1, None));
}

#[test]
fn for_long_and_then_the_same_process_goes_on() {
    every_request(40, |nth| run_on(nth, u64::MAX, None));
}

#[test]
fn once_and_then_each_request_of_recover_fails_too() {
    for failing in 0..12 {
        every_request(40, |nth| run_on(nth, 1, Some(failing)));
    }
}
