//! Transactions that create, rename, remove, cut, zero and write, against a map of names and bytes: private
//! until the commit, whole behind it, and when a step cannot be taken, nothing of it has happened.

#![allow(clippy::unwrap_used)] // In helpers of tests as in tests: a failed unwrap is the failed test.

mod support;

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::panic::AssertUnwindSafe;
use std::panic::catch_unwind;
use std::time::Duration;

use foliant::Durability;
use foliant::Engine;
use foliant::ErrorKind;
use foliant::Object;
use foliant::Transaction;
use foliant::testing::Canary;

use foliant::testing::break_on_purpose;
use foliant::testing::stop;
use foliant::testing::stop::Stop;
use foliant_device::sim::Rng;
use support::BLOCK;
use support::fresh;

type Names = BTreeMap<String, Vec<u8>>;

async fn read_all(object: &Object) -> Vec<u8> {
    let mut bytes = vec![0; object.size() as usize];
    let read = object.read_at(0, &mut bytes).await.unwrap();
    assert_eq!(read, bytes.len());
    bytes
}

async fn check(engine: &Engine, expected: &Names, when: &str) {
    let names = engine.list("", 1_000).await.unwrap();
    let names: Vec<_> = names.into_iter().map(|name| String::from_utf8(name).unwrap()).collect();
    assert_eq!(names, expected.keys().cloned().collect::<Vec<_>>(), "{when}");
    for (name, bytes) in expected {
        let found = read_all(&engine.object(name).await.unwrap()).await;
        let differs = found.iter().zip(bytes).position(|(a, b)| a != b);
        assert_eq!((found.len(), differs), (bytes.len(), None), "{name} {when}");
    }
}

fn put(content: &mut Vec<u8>, at: usize, data: &[u8]) {
    content.resize(content.len().max(at + data.len()), 0);
    content[at..at + data.len()].copy_from_slice(data);
}

/// A transaction and what it makes of the volume, step by step.
struct Draft<'a> {
    engine: &'a Engine,
    transaction: Transaction,
    after: Names,
    handles: BTreeMap<String, Object>,
    /// Removed objects and taken-away names cannot be opened any more.
    gone: BTreeSet<String>,
}

impl Draft<'_> {
    async fn handle(&mut self, name: &str) -> Object {
        if !self.handles.contains_key(name) {
            let object = self.engine.object(name).await.unwrap();
            self.handles.insert(name.to_string(), object);
        }
        self.handles[name].clone()
    }

    /// One random step, as far as it fits.
    async fn step(&mut self, rng: &mut Rng) {
        let names: Vec<String> = self.after.keys().cloned().collect();
        let fresh = format!("name-{}", rng.below(12));
        let kind = if names.is_empty() { 0 } else { rng.below(12) };
        let name = names.get(rng.below(names.len().max(1) as u64) as usize).cloned();
        match (kind, name) {
            (0 | 1, _) if !self.after.contains_key(&fresh) => {
                let Ok(object) = self.transaction.create(&fresh) else { return };
                self.handles.insert(fresh.clone(), object);
                self.after.insert(fresh, Vec::new());
            }
            (2, Some(name)) if !self.after.contains_key(&fresh) => {
                let object = self.handle(&name).await;
                if self.transaction.rename(&name, &fresh).is_ok() {
                    let bytes = self.after.remove(&name).unwrap();
                    self.handles.remove(&name);
                    self.handles.insert(fresh.clone(), object);
                    self.after.insert(fresh, bytes);
                }
            }
            (3, Some(name)) => {
                self.handle(&name).await;
                if self.transaction.remove(&name).is_ok() {
                    self.after.remove(&name);
                    self.handles.remove(&name);
                    self.gone.insert(name);
                }
            }
            (_, Some(name)) => self.change(&name, kind, rng).await,
            _ => {}
        }
    }

    async fn change(&mut self, name: &str, kind: u64, rng: &mut Rng) {
        let object = self.handle(name).await;
        let content = self.after.get_mut(name).unwrap();
        let size = content.len() as u64;
        let span = if rng.chance(300) { 600 } else { 20 * BLOCK as u64 };
        let at = rng.below(span);
        match kind {
            4 | 5 => {
                let to = if rng.chance(300) { size.saturating_sub(rng.below(9_000)) } else { at };
                if self.transaction.truncate(&object, to).is_ok() {
                    content.resize(to as usize, 0);
                }
            }
            6 | 7 => {
                let end = at + rng.below(9_000);
                if self.transaction.zero(&object, at..end).is_ok() && at < size {
                    content[at as usize..end.min(size) as usize].fill(0);
                }
            }
            _ => {
                let len = if rng.chance(500) { rng.below(300) } else { rng.below(9_000) } as usize;
                let data = support::bytes(rng, len);
                if len > 0 && self.transaction.write_at(&object, at, &data).is_ok() {
                    put(content, at as usize, &data);
                }
            }
        }
        self.check_inside(name).await;
    }

    /// The transaction sees what it made, and nobody else does.
    async fn check_inside(&mut self, name: &str) {
        let object = self.handle(name).await;
        let expected = &self.after[name];
        assert_eq!(self.transaction.size(&object), expected.len() as u64);
        let mut found = vec![9; expected.len() + 10];
        let read = self.transaction.read_at(&object, 0, &mut found).await.unwrap();
        let differs = found.iter().zip(expected).position(|(a, b)| a != b);
        assert_eq!((read, differs), (expected.len(), None), "{name} inside");
    }
}

/// Plain writes that come before, so that blocks are dirty, unmapped or behind a recorded end.
async fn disturb(engine: &Engine, model: &mut Names, rng: &mut Rng) {
    for (name, bytes) in model.iter_mut() {
        let object = engine.object(name).await.unwrap();
        if rng.chance(400) {
            let (at, len) = (rng.below(20 * BLOCK as u64) as usize, rng.below(9_000) as usize + 1);
            let data = support::bytes(rng, len);
            object.write_at(at as u64, &data).await.unwrap();
            put(bytes, at, &data);
        }
        if rng.chance(200) {
            let size = rng.below(bytes.len() as u64 + 1);
            object.truncate(size).await.unwrap();
            bytes.truncate(size as usize);
        }
        if rng.chance(300) {
            object.sync().await.unwrap();
        }
    }
}

async fn random_transactions(seed: u64) {
    let (disk, mut engine) = fresh(seed).await;
    let free = engine.stats().free_bytes;
    let mut rng = Rng::new(seed);
    let mut model = Names::new();
    for round in 0..12 {
        disturb(&engine, &mut model, &mut rng).await;
        let mut draft = Draft {
            engine: &engine,
            transaction: engine.transaction(),
            after: model.clone(),
            handles: BTreeMap::new(),
            gone: BTreeSet::new(),
        };
        for _ in 0..rng.below(14) {
            draft.step(&mut rng).await;
        }
        check(&engine, &model, "before the commit").await;
        let Draft { transaction, after, .. } = draft;
        if rng.chance(150) {
            drop(transaction);
            check(&engine, &model, "behind a transaction that was dropped").await;
            continue;
        }
        let durability = if rng.chance(500) { Durability::Durable } else { Durability::Buffered };
        transaction.commit_with(durability).await.unwrap();
        model = after;
        check(&engine, &model, "behind the commit").await;
        if round % 4 == 3 {
            engine.sync().await.unwrap();
            disk.power_cut();
            engine = support::open(&disk).await.unwrap();
            check(&engine, &model, "behind the cut").await;
        }
    }
    for name in model.keys() {
        engine.remove(name).await.unwrap();
    }
    engine.close().await.unwrap();
    let engine = support::open(&disk).await.unwrap();
    let left = engine.stats().free_bytes;
    assert!(left + 2 * BLOCK as u64 >= free, "{left} of {free} bytes are free");
}

#[test]
fn random_transactions_are_whole_and_private() {
    support::for_seeds(0..60, |seed| support::simulate(random_transactions(seed)));
}

/// A step that cannot be taken leaves everything as it was, and the other steps with it.
#[test]
fn a_conflict_at_the_commit_changes_nothing() {
    support::simulate(async {
        let (_disk, engine) = fresh(1).await;
        let a = engine.create("a").await.unwrap();
        a.write_at(0, &[1; 5_000]).await.unwrap();
        let before: Names = [("a".into(), vec![1; 5_000])].into();
        for case in 0..4 {
            let mut transaction = engine.transaction();
            transaction.write_at(&a, 0, &[2; 9_000]).unwrap();
            transaction.truncate(&a, 10).unwrap();
            let made = transaction.create("made").unwrap();
            transaction.write_at(&made, 7, b"bytes").unwrap();
            let kind = match case {
                0 => {
                    transaction.create("a").unwrap();
                    ErrorKind::AlreadyExists
                }
                1 => {
                    transaction.rename("a", "made").unwrap();
                    ErrorKind::AlreadyExists
                }
                2 => {
                    transaction.remove("nobody").unwrap();
                    ErrorKind::NotFound
                }
                _ => {
                    transaction.remove("a").unwrap();
                    transaction.rename("a", "b").unwrap();
                    ErrorKind::NotFound
                }
            };
            assert_eq!(transaction.commit().await.unwrap_err().kind(), kind, "case {case}");
            check(&engine, &before, "behind a refused commit").await;
            assert_eq!(made.read_at(0, &mut [0; 9]).await.unwrap_err().kind(), ErrorKind::Closed);
        }
    });
}

#[test]
fn a_made_object_is_nobodys_before_the_commit_and_its_own_behind_it() {
    support::simulate(async {
        let (_disk, engine) = fresh(1).await;
        let mut transaction = engine.transaction();
        let made = transaction.create("made").unwrap();
        let refused = |kind: foliant::Result<()>| kind.unwrap_err().kind();
        assert_eq!(refused(made.write_at(0, b"x").await), ErrorKind::NotFound);
        assert_eq!(refused(made.truncate(9).await), ErrorKind::NotFound);
        assert_eq!(refused(made.sync().await), ErrorKind::NotFound);
        assert_eq!(refused(made.preallocate(0..9).await), ErrorKind::NotFound);
        assert_eq!(refused(made.punch(0..9).await), ErrorKind::NotFound);
        assert_eq!(refused(made.zero(0..9).await), ErrorKind::NotFound);
        assert_eq!(refused(made.read(0..9).await.map(|_| ())), ErrorKind::NotFound);
        let mut other = engine.transaction();
        assert_eq!(refused(other.write_at(&made, 0, b"x")), ErrorKind::InvalidInput);
        transaction.write_at(&made, 3, b"abc").unwrap();
        // Somebody else makes objects meanwhile.
        engine.create("beside").await.unwrap();
        assert_eq!(engine.object("made").await.unwrap_err().kind(), ErrorKind::NotFound);
        transaction.commit_with(Durability::Durable).await.unwrap();
        assert_eq!(read_all(&made).await, b"\0\0\0abc");
        made.write_at(1, b"Z").await.unwrap();
        made.sync().await.unwrap();
        assert_eq!(read_all(&engine.object("made").await.unwrap()).await, b"\0Z\0abc");
        // An object that is replaced keeps nothing of the old one, and its handle is closed.
        let mut transaction = engine.transaction();
        transaction.remove("made").unwrap();
        let new = transaction.create("made").unwrap();
        transaction.write_at(&new, 0, b"new").unwrap();
        transaction.commit().await.unwrap();
        assert_eq!(refused(made.write_at(0, b"x").await), ErrorKind::Closed);
        assert_eq!(read_all(&engine.object("made").await.unwrap()).await, b"new");
    });
}

/// A batch is on the device and not mapped when a transaction cuts the object at a whole block: the batch
/// must not map blocks behind the new end, nor record the old size.
fn cut_beside_a_batch() {
    support::simulate(async {
        let (disk, engine) = fresh(1).await;
        let object = engine.create("object").await.unwrap();
        let bytes = support::bytes(&mut Rng::new(1), 30 * BLOCK);
        object.write_at(0, &bytes[..20 * BLOCK]).await.unwrap();
        object.sync().await.unwrap();
        object.write_at(10 * BLOCK as u64, &bytes[10 * BLOCK..]).await.unwrap();
        let before = stop::hits(Stop::BeforeCompletion);
        stop::close(Stop::BeforeCompletion, true);
        let syncing = tokio::spawn({
            let object = object.clone();
            async move { object.sync().await }
        });
        while stop::hits(Stop::BeforeCompletion) == before {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let mut transaction = engine.transaction();
        transaction.truncate(&object, 5 * BLOCK as u64).unwrap();
        let committing = tokio::spawn(transaction.commit_with(Durability::Durable));
        tokio::time::sleep(Duration::from_secs(1)).await;
        stop::close(Stop::BeforeCompletion, false);
        committing.await.unwrap().unwrap();
        syncing.await.unwrap().unwrap();
        let expected: Names = [("object".into(), bytes[..5 * BLOCK].to_vec())].into();
        check(&engine, &expected, "behind the commit").await;
        disk.power_cut();
        let engine = support::open(&disk).await.unwrap();
        check(&engine, &expected, "behind the cut").await;
    });
}

#[test]
fn a_cut_waits_for_the_batch_that_is_on_its_way() {
    cut_beside_a_batch();
}

#[test]
fn a_cut_that_does_not_wait_is_noticed() {
    break_on_purpose(Some(Canary::CutBesideWriteback));
    let outcome = catch_unwind(AssertUnwindSafe(cut_beside_a_batch));
    break_on_purpose(None);
    stop::close(Stop::BeforeCompletion, false);
    assert!(outcome.is_err());
}

/// Transactions that touch the same two objects in either order, with cuts, end and leave one order.
#[test]
fn transactions_over_the_same_objects_end_in_some_order() {
    support::for_seeds(0..10, |seed| {
        support::simulate(async {
            let (_disk, engine) = fresh(seed).await;
            let objects = [engine.create("a").await.unwrap(), engine.create("b").await.unwrap()];
            let mut tasks = Vec::new();
            for n in 0..12_u8 {
                let (first, second) = (usize::from(n % 2), usize::from(1 - n % 2));
                let mut transaction = engine.transaction();
                for which in [first, second] {
                    transaction.truncate(&objects[which], 0).unwrap();
                    let bytes = vec![n + 1; 3_000 * (usize::from(n % 3) + 1)];
                    transaction.write_at(&objects[which], 0, &bytes).unwrap();
                }
                tasks.push(tokio::spawn(transaction.commit_with(Durability::Durable)));
            }
            for task in tasks {
                let limit = Duration::from_secs(60);
                let done = tokio::time::timeout(limit, task).await;
                done.expect("two commits wait for each other").unwrap().unwrap();
            }
            let (a, b) = (read_all(&objects[0]).await, read_all(&objects[1]).await);
            assert!(a == b && a.iter().all(|&byte| byte == a[0]), "two commits are mixed");
        });
    });
}
