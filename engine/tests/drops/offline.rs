//! The verbs that work on a device without an open engine, and the closing of one.
//!
//! Guarantees of each drop: the device is let go of, nothing more is asked of it, looks changed nothing, and what
//! was begun can be begun again. Called by the test; its table is part of the inventory.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use foliant::Engine;
use foliant::ErrorKind;
use foliant::check;
use foliant::check::Options;
use foliant_device::BackendInfo;
use foliant_device::BlockDevice;
use foliant_device::Buffer;
use foliant_device::Device;
use foliant_device::Geometry;
use foliant_device::IoFuture;
use foliant_device::Persist;
use foliant_device::ReadOutcome;
use foliant_device::Segment;
use foliant_device::error::Operation;
use foliant_device::sim::Cut as PowerCut;
use foliant_device::sim::Rng;
use foliant_device::sim::SimDevice;
use foliant_device::sim::SimDisk;
use foliant_device::sim::SimOptions;

use crate::harness::Cut;
use crate::harness::Work;
use crate::harness::bounded;
use crate::harness::cut;
use crate::harness::rest;
use crate::support;
use crate::support::BLOCK;
use crate::support::DEVICE_BLOCKS_TIGHT;
use crate::support::bytes;

/// First block of the only group.
const GROUP: u64 = 32 + 1024;

type Contents = BTreeMap<Vec<u8>, Vec<u8>>;

type Outcome = Result<(), foliant_device::DeviceError>;

/// A device that says when nobody has it any more.
#[derive(Debug)]
struct Held {
    device: SimDevice,
    _hold: Arc<()>,
}

impl BlockDevice for Held {
    fn geometry(&self) -> &Geometry {
        self.device.geometry()
    }

    fn backend(&self) -> BackendInfo {
        self.device.backend()
    }

    fn read(&self, block: u64, into: Vec<Buffer>) -> IoFuture<ReadOutcome> {
        self.device.read(block, into)
    }

    fn write(&self, block: u64, from: Vec<Segment>, persist: Persist) -> IoFuture<Outcome> {
        self.device.write(block, from, persist)
    }

    fn flush(&self) -> IoFuture<Outcome> {
        self.device.flush()
    }

    fn discard(&self, block: u64, count: u64) -> IoFuture<Outcome> {
        self.device.discard(block, count)
    }

    fn write_zeroes(&self, block: u64, count: u64) -> IoFuture<Outcome> {
        self.device.write_zeroes(block, count)
    }

    fn close(&self) -> IoFuture<Outcome> {
        self.device.close()
    }
}

/// What such a verb leaves where it is dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Leaves {
    /// The store, without a write to the device.
    Untouched,
    /// The store, as it was found or replayed.
    Store,
    /// An empty store, or none, or the one that was there.
    Empty,
    /// A store that can be repaired.
    Repairable,
}

/// A verb on a device, in one situation.
pub struct Offline {
    pub name: &'static str,
    case: &'static str,
    run: fn(Device, PathBuf) -> Work,
    /// Whether there is a store with a log to be replayed; else there is nothing.
    crashed: bool,
    damaged: bool,
    leaves: Leaves,
}

fn options() -> Options<'static> {
    Options { memory_bytes: 2 << 20, ..Options::default() }
}

fn looks(name: &'static str, run: fn(Device, PathBuf) -> Work) -> Offline {
    let leaves = Leaves::Untouched;
    Offline { name, case: "", run, crashed: true, damaged: false, leaves }
}

fn format(device: Device, _: PathBuf) -> Work {
    let format = Engine::format_device(device).journal_bytes(support::JOURNAL_BYTES);
    Box::pin(format.uuid([9; 16]).force(true).run())
}

async fn open(device: Device) -> foliant::Result<Engine> {
    Engine::open_device(device).memory_bytes(support::MEMORY_BYTES).run().await
}

/// All of them.
pub fn all() -> Vec<Offline> {
    let formats = |case, crashed| Offline {
        name: "FormatOptions::run",
        case,
        run: format,
        crashed,
        damaged: false,
        leaves: Leaves::Empty,
    };
    let mut all = vec![
        Offline {
            leaves: Leaves::Store,
            ..looks("OpenOptions::run", |device, _| {
                Box::pin(async move { open(device).await?.close().await })
            })
        },
        Offline {
            leaves: Leaves::Store,
            ..looks("Engine::close", |device, _| {
                Box::pin(async move { open(device).await?.close().await })
            })
        },
        formats("on nothing", false),
        formats("on a store", true),
        Offline {
            leaves: Leaves::Repairable,
            damaged: true,
            ..looks("check::repair", |device, _| {
                Box::pin(async move { check::repair(&device, &options()).await.map(|_| ()) })
            })
        },
    ];
    all.extend(looks_of_check());
    all
}

fn looks_of_check() -> Vec<Offline> {
    vec![
        looks("check::check", |device, _| {
            Box::pin(async move { check::check(&device, &options()).await.map(|_| ()) })
        }),
        looks("check::info", |device, _| {
            Box::pin(async move { check::info(&device, &options(), &mut Vec::new()).await })
        }),
        looks("check::dump", |device, _| {
            Box::pin(async move {
                let names = check::Structure::Names;
                check::dump(&device, &options(), names, &mut Vec::new()).await
            })
        }),
        looks("check::export", |device, dir| {
            Box::pin(async move { check::export(&device, &options(), &dir).await.map(|_| ()) })
        }),
        looks("check::export_object", |device, _| {
            Box::pin(async move {
                let which = check::Which::Name(b"renamed");
                let into = &mut Vec::new();
                check::export_object(&device, &options(), which, into).await.map(|_| ())
            })
        }),
    ]
}

/// Changes that a crash leaves in the log, a removal that is not finished among them.
async fn change(disk: &SimDisk, engine: &Engine, rng: &mut Rng) -> Contents {
    let mut known = Contents::new();
    for i in 0..6_usize {
        let name = format!("object-{i}").into_bytes();
        let object = engine.create(&name).await.unwrap();
        let content = bytes(rng, 3_000 * i + 50);
        object.write_at(0, &content).await.unwrap();
        object.sync().await.unwrap();
        known.insert(name, content);
    }
    engine.rename("object-4", "renamed").await.unwrap();
    let moved = known.remove(&b"object-4"[..]).unwrap();
    known.insert(b"renamed".to_vec(), moved);
    // The name goes, and the power before the space comes back.
    let requests = disk.requests();
    let removal = tokio::spawn({
        let engine = engine.clone();
        async move { engine.remove("object-3").await }
    });
    while disk.requests() < requests + 2 && !removal.is_finished() {
        rest(1).await;
    }
    known
}

fn crashed() -> (PowerCut, Contents) {
    support::simulate(async {
        let options = SimOptions { seed: 5, keeps_cuts: true, ..SimOptions::default() };
        let disk = SimDisk::new(DEVICE_BLOCKS_TIGHT, options);
        support::format(&disk).await;
        let engine = support::open(&disk).await.unwrap();
        let known = change(&disk, &engine, &mut Rng::new(5)).await;
        disk.power_cut();
        (disk.last_cut().unwrap(), known)
    })
}

async fn contents(engine: &Engine) -> Contents {
    let mut found = Contents::new();
    for name in bounded("list", engine.list("", 100)).await.unwrap() {
        let object = engine.object(&name).await.unwrap();
        found.insert(name, support::read_all(&object).await);
    }
    found
}

/// The removal may have been finished or not.
fn is_known(mut found: Contents, mut known: Contents) -> bool {
    found.remove(&b"object-3"[..]);
    known.remove(&b"object-3"[..]);
    found == known
}

fn is_written(disk: &SimDisk) -> bool {
    disk.trace()
        .iter()
        .any(|record| !matches!(record.operation, Operation::Read | Operation::Flush))
}

async fn one(verb: &Offline, from: &(PowerCut, Contents), at: Cut) -> bool {
    let what = format!("{} {} {at:?}", verb.name, verb.case);
    let disk = match verb.crashed {
        true => SimDisk::after(&from.0, 0),
        false => SimDisk::new(DEVICE_BLOCKS_TIGHT, SimOptions::default()),
    };
    if verb.damaged {
        disk.poke(0, &[0x5A; BLOCK]);
        disk.flip(GROUP, 300, 3);
    }
    let hold = Arc::new(());
    let device = Device::new(Held { device: disk.attach(), _hold: hold.clone() });
    let dir = std::env::temp_dir().join(format!("foliant-drops-{}-{at:?}", std::process::id()));
    disk.clear_trace();
    let done = cut((verb.run)(device, dir.clone()), at).await;
    let _ = std::fs::remove_dir_all(dir);
    assert!(done.as_ref().is_none_or(|outcome| outcome.is_ok()), "{what}: {done:?}");
    for _ in 0..100 {
        if Arc::strong_count(&hold) == 1 && disk.in_flight() == 0 {
            break;
        }
        rest(1_000).await;
    }
    assert_eq!(Arc::strong_count(&hold), 1, "{what}: somebody keeps the device");
    let requests = disk.requests();
    rest(60_000).await;
    assert_eq!(disk.requests(), requests, "{what}: somebody uses the device");
    leaves(verb, &disk, from, done.is_some(), &what).await;
    done.is_some()
}

async fn leaves(
    verb: &Offline,
    disk: &SimDisk,
    from: &(PowerCut, Contents),
    done: bool,
    what: &str,
) {
    if verb.leaves == Leaves::Untouched {
        assert!(!is_written(disk), "{what}: a look wrote");
    }
    if verb.leaves == Leaves::Repairable {
        let device = Device::new(disk.attach());
        let repaired = bounded("repair", check::repair(&device, &options())).await.unwrap();
        assert!(repaired.after.is_sound(), "{what}: repair leaves\n{}", repaired.after);
    }
    let opened = bounded("open", open(Device::new(disk.attach()))).await;
    if verb.leaves == Leaves::Empty {
        match opened {
            Ok(engine) => {
                let found = contents(&engine).await;
                let old = verb.crashed && !done && is_known(found.clone(), from.1.clone());
                assert!(found.is_empty() || old, "{what}: half of a store");
                engine.close().await.unwrap();
                let report = check::check(&Device::new(disk.attach()), &options()).await.unwrap();
                // Without an end one copy of the superblock may be missing.
                let half = !done && report.total() == report.count(check::Fault::Superblock);
                assert!(report.is_sound() || half, "{what}: {report}");
            }
            Err(cause) => {
                assert_eq!(cause.kind(), ErrorKind::NotAStore, "{what}: {cause}");
                assert!(!done, "{what}: done, and no store");
            }
        }
        bounded("format", format(Device::new(disk.attach()), PathBuf::new())).await.unwrap();
        let engine = open(Device::new(disk.attach())).await.unwrap();
        assert!(contents(&engine).await.is_empty());
        return engine.close().await.unwrap();
    }
    let engine = opened.unwrap_or_else(|cause| panic!("{what}: {cause}"));
    assert!(is_known(contents(&engine).await, from.1.clone()), "{what}: other contents");
    engine.close().await.unwrap();
    support::is_sound(disk, true).await;
}

/// Each verb whose name begins so, dropped at each place where it waits, and by time.
pub fn every_verb_named(start: &str) {
    let from = crashed();
    let mut failed = Vec::new();
    for verb in all().into_iter().filter(|verb| verb.name.starts_with(start)) {
        for by_ms in [false, true] {
            let run = || {
                let (mut n, mut cuts) = (1, 0);
                loop {
                    let at = if by_ms { Cut::Ms(n - 1) } else { Cut::Polls(n) };
                    if support::simulate(one(&verb, &from, at)) {
                        return cuts;
                    }
                    (n, cuts) = (n + 1 + n / 32, cuts + 1);
                    assert!(cuts < 500, "{} never completes", verb.name);
                }
            };
            match std::panic::catch_unwind(std::panic::AssertUnwindSafe(run)) {
                Ok(places) => println!("{:>26} {:<28} {places}", verb.name, verb.case),
                Err(_) => failed.push((verb.name, verb.case, by_ms)),
            }
        }
    }
    assert!(failed.is_empty(), "{failed:?}");
}
