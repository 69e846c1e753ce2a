//! Every verb, dropped at every place where it waits: afterwards the volume is as before or as after,
//! goes on working at once, and holds no memory, promise or lock for the one who went away.
//!
//! A future is cut in two ways: at its N-th wait, and after N milliseconds of the disk's life. The
//! first finds every await of the caller's side, the second every state of the work that goes on behind.

#![allow(clippy::unwrap_used)] // In helpers of tests as in tests: a failed unwrap is the failed test.

mod support;

use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use foliant::Engine;
use foliant::Object;
use foliant::testing::Canary;
use foliant::testing::break_on_purpose;
use foliant_device::sim::Rng;
use foliant_device::sim::SimDisk;
use foliant_device::sim::SimOptions;
use support::BLOCK;
use support::DEVICE_BLOCKS;

const LEN: usize = 40 * BLOCK + 1_000;
/// No verb waits longer.
const BOUND: Duration = Duration::from_secs(120);

/// Where a future is dropped.
#[derive(Clone, Copy, Debug)]
enum Cut {
    /// When it has waited this often.
    Waits(u32),
    /// After this much of the disk's time.
    Ms(u64),
}

/// Runs `work` up to the cut; its answer if it came before.
async fn cut<T>(work: impl Future<Output = T>, at: Cut) -> Option<T> {
    match at {
        Cut::Ms(ms) => {
            let mut work = pin!(work);
            tokio::select! {
                biased;
                done = &mut work => Some(done),
                () = tokio::time::sleep(Duration::from_millis(ms)) => None,
            }
        }
        Cut::Waits(waits) => {
            let mut left = waits;
            let mut work = pin!(work);
            std::future::poll_fn(|context| match work.as_mut().poll(context) {
                Poll::Ready(done) => Poll::Ready(Some(done)),
                Poll::Pending if left <= 1 => Poll::Ready(None),
                Poll::Pending => {
                    left -= 1;
                    Poll::Pending
                }
            })
            .await
        }
    }
}

async fn bounded<T>(what: &str, work: impl Future<Output = T>) -> T {
    let done = tokio::time::timeout(BOUND, work).await;
    done.unwrap_or_else(|_| panic!("{what} hangs"))
}

async fn read_all(object: &Object) -> Vec<u8> {
    let mut bytes = vec![0; object.size() as usize];
    let read = bounded("read", object.read_at(0, &mut bytes)).await.unwrap();
    assert_eq!(read, bytes.len());
    bytes
}

struct Volume {
    disk: SimDisk,
    engine: Engine,
    rng: Rng,
}

impl Volume {
    async fn new(seed: u64) -> Self {
        let disk = SimDisk::new(DEVICE_BLOCKS, SimOptions { seed, ..SimOptions::default() });
        support::format(&disk).await;
        let engine = support::open(&disk).await.unwrap();
        Self { disk, engine, rng: Rng::new(seed) }
    }

    async fn reopen(&mut self) {
        bounded("close", self.engine.clone().close()).await.unwrap();
        self.engine = support::open(&self.disk).await.unwrap();
    }

    fn bytes(&mut self, len: usize) -> Vec<u8> {
        support::bytes(&mut self.rng, len)
    }

    /// Puts the object at a known, synced content with some of it not cached.
    async fn stored(&mut self, len: usize, cold: bool) -> (Object, Vec<u8>) {
        let object = match self.engine.object("object").await {
            Ok(object) => object,
            Err(_) => self.engine.create("object").await.unwrap(),
        };
        let bytes = self.bytes(len);
        bounded("truncate", object.truncate(0)).await.unwrap();
        bounded("write", object.write_at(0, &bytes)).await.unwrap();
        bounded("sync", object.sync()).await.unwrap();
        if !cold {
            return (object, bytes);
        }
        drop(object);
        self.reopen().await;
        (self.engine.object("object").await.unwrap(), bytes)
    }

    /// The object works on, at once and on the same range; then nothing is left over.
    async fn goes_on(&mut self, object: &Object) {
        let data = self.bytes(LEN);
        bounded("write", object.write_at(0, &data)).await.unwrap();
        let found = read_all(object).await;
        assert!(found.starts_with(&data), "a write behind a dropped operation is not there");
        bounded("sync", object.sync()).await.unwrap();
        tokio::time::sleep(Duration::from_secs(1)).await;
        let found = read_all(object).await;
        assert!(found.starts_with(&data), "a dropped operation came after a later write");
        bounded("sync", self.engine.sync()).await.unwrap();
        assert_eq!(self.engine.stats().dirty_bytes, 0, "dirty data of nobody");
    }

    /// Removes everything and compares with the beginning.
    async fn balances(mut self, free_before: u64) {
        for name in self.engine.list("", 1_000).await.unwrap() {
            bounded("remove", self.engine.remove(name)).await.unwrap();
        }
        let stats = self.engine.stats();
        assert_eq!(stats.dirty_bytes, 0);
        self.reopen().await;
        let free = self.engine.stats().free_bytes;
        assert!(free + 2 * BLOCK as u64 >= free_before, "{free} of {free_before} bytes are free");
        bounded("close", self.engine.close()).await.unwrap();
    }
}

/// What a verb does to an object: the work, and the contents that it may leave.
struct Verb {
    name: &'static str,
    run: for<'a> fn(&'a Engine, &'a Object, &'a [u8]) -> Work<'a>,
    /// Each content on the way, the last one is the whole change.
    states: fn(&[u8], &[u8]) -> Vec<Vec<u8>>,
}

type Work<'a> = std::pin::Pin<Box<dyn Future<Output = foliant::Result<()>> + 'a>>;

const MIB: usize = 1 << 20;

fn written(old: &[u8], at: usize, data: &[u8]) -> Vec<u8> {
    let mut new = old.to_vec();
    new.resize(new.len().max(at + data.len()), 0);
    new[at..at + data.len()].copy_from_slice(data);
    new
}

/// A write after each of its pieces, which end at whole MiB.
fn pieces(old: &[u8], at: usize, data: &[u8]) -> Vec<Vec<u8>> {
    let mut states = Vec::new();
    let mut end = at;
    while end < at + data.len() {
        end = ((end / MIB + 1) * MIB).min(at + data.len());
        states.push(written(old, at, &data[..end - at]));
    }
    states
}

fn zeroed(old: &[u8], range: std::ops::Range<usize>) -> Vec<u8> {
    let mut new = old.to_vec();
    new[range].fill(0);
    new
}

const VERBS: [Verb; 12] = [
    Verb {
        name: "write",
        run: |_, object, data| Box::pin(object.write_at(5_000, &data[..9_000])),
        states: |old, data| vec![written(old, 5_000, &data[..9_000])],
    },
    Verb {
        name: "write over pieces",
        run: |_, object, data| Box::pin(object.write_at(MIB as u64 - 5_000, data)),
        states: |old, data| pieces(old, MIB - 5_000, data),
    },
    Verb {
        name: "read",
        run: |_, object, _| {
            Box::pin(async {
                let mut into = vec![0; LEN];
                object.read_at(0, &mut into).await.map(|_| ())
            })
        },
        states: |old, _| vec![old.to_vec()],
    },
    Verb {
        name: "shared read",
        run: |_, object, _| Box::pin(async { object.read(3_000..90_000).await.map(|_| ()) }),
        states: |old, _| vec![old.to_vec()],
    },
    Verb {
        name: "shrink",
        run: |_, object, _| Box::pin(object.truncate(7_000)),
        states: |old, _| vec![old[..7_000].to_vec()],
    },
    Verb {
        name: "grow",
        run: |_, object, _| Box::pin(object.truncate(LEN as u64 + 99_000)),
        states: |old, _| vec![written(old, LEN, &[0; 99_000])],
    },
    Verb {
        name: "punch",
        run: |_, object, _| Box::pin(object.punch(3_000..70_000)),
        // Whole blocks first, then one edge after the other.
        states: |old, _| {
            let whole = zeroed(old, BLOCK..17 * BLOCK);
            let first = zeroed(&whole, 3_000..BLOCK);
            vec![whole, first, zeroed(old, 3_000..70_000)]
        },
    },
    Verb {
        name: "preallocate",
        run: |_, object, _| Box::pin(object.preallocate(0..400_000)),
        states: |old, _| vec![old.to_vec()],
    },
    Verb {
        name: "zero",
        run: |_, object, _| Box::pin(object.zero(3_000..70_000)),
        states: |old, _| vec![zeroed(old, 3_000..70_000)],
    },
    Verb {
        name: "sync",
        run: |_, object, data| {
            Box::pin(async {
                object.write_at(0, &data[..30_000]).await?;
                object.sync().await
            })
        },
        states: |old, data| vec![written(old, 0, &data[..30_000])],
    },
    Verb {
        name: "sync of everything",
        run: |engine, object, data| {
            Box::pin(async {
                object.write_at(LEN as u64, &data[..30_000]).await?;
                engine.sync().await
            })
        },
        states: |old, data| vec![written(old, LEN, &data[..30_000])],
    },
    Verb {
        name: "commit",
        run: |engine, object, data| {
            Box::pin(async {
                let mut transaction = engine.transaction();
                transaction.write_at(object, 5_000, &data[..9_000])?;
                transaction.write_at(object, LEN as u64 + 50_000, &data[..500])?;
                transaction.commit().await?.durable().await
            })
        },
        states: |old, data| {
            let new = written(old, 5_000, &data[..9_000]);
            vec![written(&new, LEN + 50_000, &data[..500])]
        },
    },
];

/// One cut of one verb; whether it completed before.
async fn one(volume: &mut Volume, verb: &Verb, at: Cut, cold: bool, settle: bool) -> bool {
    let (object, old) = volume.stored(LEN, cold).await;
    let data = volume.bytes(2 * MIB + 10_000);
    let done = cut((verb.run)(&volume.engine, &object, &data), at).await;
    if let Some(outcome) = &done {
        assert!(outcome.is_ok(), "{outcome:?}");
    }
    if settle {
        tokio::time::sleep(Duration::from_secs(2)).await;
        let found = read_all(&object).await;
        let states = (verb.states)(&old, &data);
        let whole = states.last().unwrap() == &found;
        let sound = whole || old == found || states.contains(&found);
        assert!(sound, "{} cut at {at:?} left something in between", verb.name);
        assert!(whole || done.is_none(), "{} is done and not there", verb.name);
    }
    volume.goes_on(&object).await;
    done.is_some()
}

fn every_cut(verb: &Verb, settle: bool) {
    for cold in [false, true] {
        for by_ms in [false, true] {
            support::simulate(async {
                let mut volume = Volume::new(u64::from(cold)).await;
                let free = volume.engine.stats().free_bytes;
                for n in 1.. {
                    let at = if by_ms { Cut::Ms(n) } else { Cut::Waits(n as u32) };
                    if one(&mut volume, verb, at, cold, settle).await {
                        break;
                    }
                    assert!(n < 500, "{} never completes", verb.name);
                }
                volume.balances(free).await;
            });
        }
    }
}

fn every_verb(settle: bool) {
    let failed: Vec<_> = VERBS
        .iter()
        .filter(|verb| std::panic::catch_unwind(|| every_cut(verb, settle)).is_err())
        .map(|verb| verb.name)
        .collect();
    assert!(failed.is_empty(), "{failed:?}");
}

#[test]
fn a_dropped_verb_leaves_the_object_old_or_new() {
    every_verb(true);
}

#[test]
fn a_dropped_verb_does_not_come_after_a_later_write() {
    every_verb(false);
}

/// Names before and after one verb of the engine.
async fn one_of_names(volume: &mut Volume, which: u32, at: Cut) -> bool {
    let engine = volume.engine.clone();
    let _ = bounded("remove", engine.remove("new")).await;
    if engine.object("old").await.is_err() {
        let object = engine.create("old").await.unwrap();
        object.write_at(0, &[7; 100_000]).await.unwrap();
        object.sync().await.unwrap();
    }
    let done = match which {
        0 => cut(engine.create("new"), at).await.map(|outcome| outcome.map(|_| ())),
        1 => cut(engine.rename("old", "new"), at).await,
        _ => cut(engine.remove("old"), at).await,
    };
    if let Some(outcome) = &done {
        assert!(outcome.is_ok(), "{outcome:?}");
    }
    tokio::time::sleep(Duration::from_secs(2)).await;
    if is_even(at) {
        volume.reopen().await;
    }
    let names = volume.engine.list("", 10).await.unwrap();
    let names: Vec<_> = names.iter().map(|n| String::from_utf8_lossy(n).into_owned()).collect();
    let after: &[&str] = [&["new", "old"][..], &["new"][..], &[][..]][which as usize];
    assert!(names == after || (names == ["old"] && done.is_none()), "{which} at {at:?}: {names:?}");
    for name in names {
        let object = volume.engine.object(&name).await.unwrap();
        assert!([0, 100_000, LEN].contains(&(object.size() as usize)));
        volume.goes_on(&object).await;
    }
    done.is_some()
}

/// What a transaction over names and sizes may leave, by name.
type Names = std::collections::BTreeMap<String, Vec<u8>>;

/// The volume as it is before the transaction: two stored objects, one of them with blocks that are dirty.
async fn before_the_transaction(volume: &mut Volume) -> Names {
    for name in volume.engine.list("", 10).await.unwrap() {
        bounded("remove", volume.engine.remove(name)).await.unwrap();
    }
    let mut names = Names::new();
    for name in ["cut", "old"] {
        let mut bytes = volume.bytes(LEN);
        let object = volume.engine.create(name).await.unwrap();
        object.write_at(0, &bytes).await.unwrap();
        object.sync().await.unwrap();
        // More than the log takes whole.
        for block in 0..40 {
            object.write_at((block * BLOCK) as u64, &[9]).await.unwrap();
            bytes[block * BLOCK] = 9;
        }
        names.insert(name.into(), bytes);
    }
    names
}

/// Cuts, zeroes and writes one object, removes another, makes a third and gives it another name; `large`:
/// so much that the blocks must be stored first.
async fn change_names_and_sizes(engine: Engine, large: bool) -> foliant::Result<()> {
    let cut = engine.object("cut").await?;
    let mut transaction = engine.transaction();
    transaction.truncate(&cut, 30 * BLOCK as u64 + 77)?;
    transaction.zero(&cut, 5_000..9_000)?;
    for block in 0..if large { 30 } else { 2 } {
        transaction.write_at(&cut, block * BLOCK as u64 + 9, &[7; 5])?;
        let old = engine.object("old").await?;
        transaction.write_at(&old, block * BLOCK as u64 + 9, &[7; 5])?;
    }
    transaction.remove("old")?;
    let made = transaction.create("made")?;
    transaction.write_at(&made, 100, &[3; 5_000])?;
    transaction.rename("made", "new")?;
    transaction.commit().await?.durable().await
}

async fn one_transaction(volume: &mut Volume, large: bool, at: Cut) -> bool {
    let before = before_the_transaction(volume).await;
    let mut after = before.clone();
    after.remove("old");
    let bytes = after.get_mut("cut").unwrap();
    bytes.truncate(30 * BLOCK + 77);
    bytes[5_000..9_000].fill(0);
    for block in 0..if large { 30 } else { 2 } {
        bytes[block * BLOCK + 9..block * BLOCK + 14].fill(7);
    }
    after.insert("new".into(), [vec![0; 100], vec![3; 5_000]].concat());
    let done = cut(change_names_and_sizes(volume.engine.clone(), large), at).await;
    if let Some(outcome) = &done {
        assert!(outcome.is_ok(), "{outcome:?}");
    }
    tokio::time::sleep(Duration::from_secs(2)).await;
    if is_even(at) {
        volume.reopen().await;
    }
    let mut found = Names::new();
    for name in volume.engine.list("", 10).await.unwrap() {
        let object = volume.engine.object(&name).await.unwrap();
        found.insert(String::from_utf8(name).unwrap(), read_all(&object).await);
    }
    let (old, new) = (found == before, found == after);
    assert!(new || (old && done.is_none()), "cut at {at:?}: neither before nor behind it");
    for name in found.keys() {
        let object = volume.engine.object(name).await.unwrap();
        volume.goes_on(&object).await;
    }
    done.is_some()
}

#[test]
fn a_transaction_over_names_and_sizes() {
    every_cut_of_a_transaction();
}

#[test]
fn a_transaction_that_leaves_a_size_as_it_is_gets_noticed() {
    break_on_purpose(Some(Canary::LeaveCutSize));
    let outcome = std::panic::catch_unwind(every_cut_of_a_transaction);
    break_on_purpose(None);
    assert!(outcome.is_err());
}

fn every_cut_of_a_transaction() {
    for (large, by_ms) in [(false, false), (false, true), (true, false), (true, true)] {
        support::simulate(async {
            let mut volume = Volume::new(u64::from(large)).await;
            let free = volume.engine.stats().free_bytes;
            for n in 1.. {
                let at = if by_ms { Cut::Ms(n) } else { Cut::Waits(n as u32) };
                if one_transaction(&mut volume, large, at).await {
                    break;
                }
                assert!(n < 500, "it never completes");
            }
            volume.balances(free).await;
        });
    }
}

/// Every second cut is followed by closing and opening.
fn is_even(at: Cut) -> bool {
    match at {
        Cut::Waits(n) => n.is_multiple_of(2),
        Cut::Ms(n) => n.is_multiple_of(2),
    }
}

#[test]
fn create_rename_and_remove() {
    for which in 0..3 {
        for by_ms in [false, true] {
            support::simulate(async {
                let mut volume = Volume::new(u64::from(which)).await;
                let free = volume.engine.stats().free_bytes;
                for n in 1.. {
                    let at = if by_ms { Cut::Ms(n) } else { Cut::Waits(n as u32) };
                    if one_of_names(&mut volume, which, at).await {
                        break;
                    }
                    assert!(n < 500, "it never completes");
                }
                volume.balances(free).await;
            });
        }
    }
}

#[test]
fn many_operations_cut_at_random_keep_the_memory_in_balance() {
    for seed in 0..6 {
        support::simulate(async {
            let mut volume = Volume::new(seed).await;
            let free = volume.engine.stats().free_bytes;
            let (object, _) = volume.stored(LEN, false).await;
            for _ in 0..300 {
                let verb = &VERBS[volume.rng.below(VERBS.len() as u64) as usize];
                let data = volume.bytes(2 * MIB + 10_000);
                let at = match volume.rng.below(2) {
                    0 => Cut::Waits(volume.rng.below(12) as u32),
                    _ => Cut::Ms(volume.rng.below(12)),
                };
                let _ =
                    bounded(verb.name, cut((verb.run)(&volume.engine, &object, &data), at)).await;
            }
            volume.goes_on(&object).await;
            drop(object);
            volume.balances(free).await;
        });
    }
}

#[test]
fn closing_goes_on_when_nobody_waits_for_it() {
    for n in 1..40 {
        support::simulate(async {
            let mut volume = Volume::new(n).await;
            let (object, _) = volume.stored(LEN, false).await;
            let data = volume.bytes(LEN);
            object.write_at(0, &data).await.unwrap();
            drop(object);
            let _ = cut(volume.engine.clone().close(), Cut::Ms(n)).await;
            tokio::time::sleep(Duration::from_secs(5)).await;
            volume.engine = support::open(&volume.disk).await.unwrap();
            assert_eq!(volume.engine.recovery().transactions, 0, "it was not closed");
            let object = volume.engine.object("object").await.unwrap();
            assert!(read_all(&object).await == data, "accepted data is lost");
        });
    }
}
