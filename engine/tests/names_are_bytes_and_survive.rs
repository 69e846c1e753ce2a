//! Names of any bytes against a sorted map: created, renamed, removed and listed, many at once, with
//! reopening and power cuts in between.
//!
//! What was answered is durable: after a cut exactly those names are there, and each of the calls that
//! the cut interrupted has happened or not. What a name leads to goes with it, through any number of
//! renames.

#![allow(clippy::unwrap_used)] // In helpers of tests as in tests: a failed unwrap is the failed test.

mod support;

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::ops::Bound;

use foliant::Engine;
use foliant::ErrorKind;
use foliant::Object;
use foliant::Result;
use foliant_device::sim::Rng;
use foliant_device::sim::SimDisk;
use foliant_device::sim::SimOptions;
use futures_util::future::join_all;

const NAME_BYTES_MAX: usize = 255;
/// Calls in flight at once.
const BATCH: u64 = 24;

type Name = Vec<u8>;

#[derive(Clone, Debug)]
enum Call {
    Create(Name),
    Rename(Name, Name),
    Remove(Name),
    /// The object gets its content, a number, if it has none yet.
    Fill(Name, u64),
}

/// What a call must answer; the model decides before it is made.
type Answer = std::result::Result<(), ErrorKind>;

struct Volume {
    disk: SimDisk,
    engine: Engine,
    rng: Rng,
    /// Names and the numbers in their objects.
    model: BTreeMap<Name, Option<u64>>,
    filled: u64,
}

fn random_bytes(rng: &mut Rng, len: u64) -> Vec<u8> {
    (0..len).map(|_| rng.next_u64() as u8).collect()
}

/// Names that are prefixes and neighbours of each other, with zeroes, broken UTF-8 and every length.
fn random_name(rng: &mut Rng, near: Option<&Name>) -> Name {
    let mut name = match (rng.below(6), near) {
        (0, _) => {
            let len = rng.below(4) + 1;
            (0..len).map(|_| [0, 1, 0x7F, 0xFF][rng.below(4) as usize]).collect()
        }
        (1, _) => {
            let mut name = vec![b'p'; NAME_BYTES_MAX - 8];
            let len = rng.below(9);
            name.extend(random_bytes(rng, len));
            name
        }
        (2, Some(near)) => [near.as_slice(), &[0]].concat(),
        (3, Some(near)) => near[..near.len() - 1].to_vec(),
        (4, Some(near)) => {
            let mut name = near.clone();
            let last = name.last_mut().unwrap();
            *last = last.wrapping_add(1);
            name
        }
        _ => {
            let len = rng.below(NAME_BYTES_MAX as u64) + 1;
            random_bytes(rng, len)
        }
    };
    name.truncate(NAME_BYTES_MAX);
    if name.is_empty() { vec![0] } else { name }
}

async fn fill(object: &Object, number: u64) -> Result<()> {
    object.write_at(0, &number.to_le_bytes()).await?;
    object.sync().await
}

async fn number_in(object: &Object) -> Option<u64> {
    let mut bytes = [0; 9];
    match object.read_at(0, &mut bytes).await.expect("every object can be read") {
        0 => None,
        8 => Some(u64::from_le_bytes(bytes[..8].try_into().unwrap())),
        read => panic!("an object of {read} bytes"),
    }
}

async fn make(engine: &Engine, call: &Call) -> Result<()> {
    match call {
        Call::Create(name) => engine.create(name).await.map(|_| ()),
        Call::Rename(from, to) => engine.rename(from, to).await,
        Call::Remove(name) => engine.remove(name).await,
        Call::Fill(name, number) => fill(&engine.object(name).await?, *number).await,
    }
}

impl Volume {
    async fn new(seed: u64) -> Self {
        let options = SimOptions { seed, ..SimOptions::default() };
        let disk = SimDisk::new(support::DEVICE_BLOCKS, options);
        support::format(&disk).await;
        let engine = support::open(&disk).await.unwrap();
        Self { disk, engine, rng: Rng::new(seed), model: BTreeMap::new(), filled: 0 }
    }

    async fn reopen(&mut self) {
        self.engine.clone().close().await.expect("close");
        self.engine = support::open(&self.disk).await.expect("open");
    }

    /// A name that is there, at random by where it stands.
    fn known(&mut self) -> Option<Name> {
        let at = random_name(&mut self.rng, None);
        let behind = self.model.range(at..).next();
        behind.or_else(|| self.model.iter().next()).map(|(name, _)| name.clone())
    }

    /// Mostly a name that is there.
    fn likely(&mut self) -> Name {
        match self.known() {
            Some(known) if self.rng.below(8) > 0 => known,
            near => random_name(&mut self.rng, near.as_ref()),
        }
    }

    fn fresh(&mut self) -> Name {
        let near = self.known();
        random_name(&mut self.rng, near.as_ref())
    }

    fn random_call(&mut self) -> Call {
        match self.rng.below(10) {
            0..=3 => Call::Create(self.fresh()),
            4..=5 => {
                let to = if self.rng.below(5) == 0 { self.likely() } else { self.fresh() };
                Call::Rename(self.likely(), to)
            }
            6..=7 => Call::Remove(self.likely()),
            _ => {
                self.filled += 1;
                Call::Fill(self.likely(), self.filled)
            }
        }
    }

    fn answer(&self, call: &Call) -> Answer {
        let there = |name: &Name| self.model.contains_key(name);
        match call {
            Call::Create(name) if there(name) => Err(ErrorKind::AlreadyExists),
            Call::Rename(from, _) if !there(from) => Err(ErrorKind::NotFound),
            Call::Rename(_, to) if there(to) => Err(ErrorKind::AlreadyExists),
            Call::Remove(name) | Call::Fill(name, _) if !there(name) => Err(ErrorKind::NotFound),
            _ => Ok(()),
        }
    }

    /// Calls that have no name in common, so that their order is of no matter.
    fn random_batch(&mut self, count: u64) -> Vec<(Call, Answer)> {
        let mut used = BTreeSet::new();
        let mut batch = Vec::new();
        for _ in 0..count {
            let call = self.random_call();
            let names = match &call {
                Call::Rename(from, to) => vec![from.clone(), to.clone()],
                Call::Create(name) | Call::Remove(name) | Call::Fill(name, _) => {
                    vec![name.clone()]
                }
            };
            if names.iter().any(|name| used.contains(name)) {
                continue;
            }
            used.extend(names);
            let answer = self.answer(&call);
            batch.push((call, answer));
        }
        batch
    }

    fn apply(&mut self, call: &Call) {
        match call {
            Call::Create(name) => {
                self.model.insert(name.clone(), None);
            }
            Call::Rename(from, to) => {
                let number = self.model.remove(from).unwrap();
                self.model.insert(to.clone(), number);
            }
            Call::Remove(name) => {
                self.model.remove(name).unwrap();
            }
            Call::Fill(name, number) => {
                self.model.insert(name.clone(), Some(*number));
            }
        }
    }

    /// Makes the calls at once; those that were interrupted come back.
    async fn run(&mut self, batch: Vec<(Call, Answer)>) -> Vec<Call> {
        let outcomes = join_all(batch.iter().map(|(call, _)| make(&self.engine, call))).await;
        let mut interrupted = Vec::new();
        for ((call, expected), outcome) in batch.into_iter().zip(outcomes) {
            match (outcome.map_err(|cause| cause.kind()), expected) {
                (Ok(()), Ok(())) => self.apply(&call),
                (Err(kind), Err(expected)) if kind == expected => {}
                (Err(kind), expected) => {
                    let powered = self.disk.is_powered();
                    assert!(!powered, "{call:?} answers {kind:?} and not {expected:?}");
                    interrupted.extend(expected.is_ok().then_some(call));
                }
                (Ok(()), expected) => panic!("{call:?} succeeds and should be {expected:?}"),
            }
        }
        interrupted
    }

    async fn listed(&self, page: usize) -> Vec<Name> {
        let mut names: Vec<Name> = Vec::new();
        loop {
            let after = names.last().cloned().unwrap_or_default();
            let more = self.engine.list(&after, page).await.expect("list");
            assert!(more.len() <= page, "{} names on a page of {page}", more.len());
            if more.is_empty() {
                return names;
            }
            names.extend(more);
        }
    }

    /// Looks which of the interrupted calls have happened.
    async fn settle(&mut self, interrupted: Vec<Call>) {
        let found: BTreeSet<Name> = self.listed(1_000).await.into_iter().collect();
        for call in interrupted {
            let happened = match &call {
                Call::Create(name) => found.contains(name),
                Call::Remove(name) => !found.contains(name),
                Call::Rename(from, to) => {
                    let (old, new) = (found.contains(from), found.contains(to));
                    assert!(old != new, "{call:?} left {old} of the old and {new} of the new name");
                    new
                }
                Call::Fill(name, number) => {
                    let now = number_in(&self.engine.object(name).await.unwrap()).await;
                    let old = self.model[name];
                    assert!(now == old || now == Some(*number), "{call:?} left {now:?}");
                    now != old
                }
            };
            if happened {
                self.apply(&call);
            }
        }
    }

    /// Every name and no other, and behind each its number.
    async fn check(&mut self) {
        let page = [1_000, 7, 64, usize::MAX][self.rng.below(4) as usize];
        let names = self.listed(page).await;
        assert!(names.iter().eq(self.model.keys()), "the names differ, in pages of {page}");
        for (name, number) in &self.model {
            let object = self.engine.object(name).await.unwrap();
            assert_eq!(number_in(&object).await, *number, "behind {:?}", name.escape_ascii());
        }
    }

    /// A page behind a name that may or may not exist.
    async fn check_page(&self, after: &[u8], limit: usize) {
        let bounds = (Bound::Excluded(after.to_vec()), Bound::Unbounded);
        // No name is empty, so that nothing is excluded by starting with one.
        let expected: Vec<&Name> = self.model.range(bounds).take(limit).map(|(n, _)| n).collect();
        let found = self.engine.list(after, limit).await.unwrap();
        assert!(found.iter().eq(expected), "{limit} names behind {:?}", after.escape_ascii());
    }

    async fn check_pages(&mut self, count: u64) {
        for _ in 0..count {
            let mut after = self.fresh();
            if self.rng.below(20) == 0 {
                after.extend([0xFF; NAME_BYTES_MAX]);
            }
            let limit = [0, 1, 2, 50, 10_000][self.rng.below(5) as usize];
            self.check_page(&after, limit).await;
        }
        self.check_page(b"", 3).await;
        self.check_page(&[0xFF; 300], 3).await;
    }

    /// Creates names, many at once, until there are `count`.
    async fn grow(&mut self, count: usize) {
        while self.model.len() < count {
            let mut fresh = BTreeSet::new();
            for _ in 0..200 {
                fresh.insert(self.fresh());
            }
            fresh.retain(|name| !self.model.contains_key(name));
            let batch = fresh.into_iter().map(|name| (Call::Create(name), Ok(())));
            assert!(self.run(batch.collect()).await.is_empty());
        }
    }
}

/// Batches of calls with reopenings, then one that the power cut interrupts; a few times.
async fn through_cuts(seed: u64) {
    let mut volume = Volume::new(seed).await;
    volume.grow(100).await;
    for _ in 0..3 {
        for _ in 0..volume.rng.below(6) + 2 {
            let batch = volume.random_batch(BATCH);
            assert!(volume.run(batch).await.is_empty());
            volume.check_pages(4).await;
            if volume.rng.below(4) == 0 {
                volume.reopen().await;
                volume.check().await;
            }
        }
        let after = volume.rng.below(60) + 1;
        volume.disk.crash_after_requests(after);
        let mut interrupted = Vec::new();
        let size = [1, 3, BATCH][volume.rng.below(3) as usize];
        while interrupted.is_empty() && volume.disk.is_powered() {
            let batch = volume.random_batch(size);
            interrupted = volume.run(batch).await;
        }
        volume.disk.power_cut();
        support::is_sound(&volume.disk, true).await;
        volume.engine = support::open(&volume.disk).await.expect("a cut volume opens");
        volume.settle(interrupted).await;
        volume.check().await;
    }
    volume.reopen().await;
    volume.check().await;
}

#[test]
fn many_calls_at_once_behave_like_a_sorted_map_through_cuts() {
    support::for_seeds(0..60, |seed| support::simulate(through_cuts(seed)));
}

/// One call, cut at each request that it makes, answered or not.
async fn one_call_cut(seed: u64, call: Call, requests: u64) {
    let mut volume = Volume::new(seed).await;
    for (number, name) in [b"a", b"b"].into_iter().enumerate() {
        let batch = vec![(Call::Create(name.to_vec()), Ok(()))];
        assert!(volume.run(batch).await.is_empty());
        let batch = vec![(Call::Fill(name.to_vec(), number as u64 + 1), Ok(()))];
        assert!(volume.run(batch).await.is_empty());
    }
    volume.disk.crash_after_requests(requests);
    let expected = volume.answer(&call);
    let interrupted = volume.run(vec![(call, expected)]).await;
    volume.disk.power_cut();
    support::is_sound(&volume.disk, true).await;
    volume.engine = support::open(&volume.disk).await.expect("a cut volume opens");
    volume.settle(interrupted).await;
    volume.check().await;
}

#[test]
fn a_call_that_is_cut_is_old_or_new_and_an_answered_one_is_new() {
    support::for_seeds(0..40, |seed| {
        let calls = [
            Call::Create(vec![0]),
            Call::Rename(b"a".to_vec(), vec![0xFF; NAME_BYTES_MAX]),
            Call::Remove(b"b".to_vec()),
        ];
        for call in calls {
            support::simulate(one_call_cut(seed, call, seed / 4 + 1));
        }
    });
}

#[test]
fn thousands_of_names_are_listed_in_pages_and_renamed_all_at_once() {
    support::simulate(async {
        let mut volume = Volume::new(1).await;
        volume.grow(3_000).await;
        volume.reopen().await;
        for page in [1, 7, 100, 5_000, usize::MAX] {
            let names = volume.listed(page).await;
            assert!(names.iter().eq(volume.model.keys()), "pages of {page}");
        }
        volume.check_pages(300).await;
        let names: Vec<Name> = volume.model.keys().cloned().collect();
        for (at, some) in names.chunks(250).enumerate() {
            let renamed = |(i, name): (usize, &Name)| {
                let to = [&[0x80][..], &(at * 250 + i).to_be_bytes()].concat();
                (Call::Rename(name.clone(), to), Ok(()))
            };
            let batch = some.iter().enumerate().map(renamed).collect();
            assert!(volume.run(batch).await.is_empty());
        }
        volume.disk.power_cut();
        support::is_sound(&volume.disk, true).await;
        volume.engine = support::open(&volume.disk).await.unwrap();
        volume.check().await;
        let all: Vec<Name> = volume.model.keys().cloned().collect();
        for some in all.chunks(250) {
            let batch = some.iter().map(|name| (Call::Remove(name.clone()), Ok(())));
            assert!(volume.run(batch.collect()).await.is_empty());
        }
        volume.disk.power_cut();
        support::is_sound(&volume.disk, true).await;
        volume.engine = support::open(&volume.disk).await.unwrap();
        assert!(volume.engine.list("", 1).await.unwrap().is_empty());
    });
}

/// Answers of calls that want the same name: one of them gets it.
#[test]
fn one_of_many_gets_the_name() {
    for seed in 0..10 {
        support::simulate(async {
            let volume = Volume::new(seed).await;
            let engine = &volume.engine;
            let made = join_all((0..9).map(|_| engine.create("x"))).await;
            assert_eq!(made.iter().filter(|made| made.is_ok()).count(), 1);
            let refused = |made: &&Result<Object>| {
                made.as_ref().is_err_and(|cause| cause.kind() == ErrorKind::AlreadyExists)
            };
            assert_eq!(made.iter().filter(refused).count(), 8);
            let sources: Vec<String> = (0..9).map(|i| format!("from-{i}")).collect();
            for source in &sources {
                engine.create(source).await.unwrap();
            }
            let moved = join_all(sources.iter().map(|from| engine.rename(from, "y"))).await;
            assert_eq!(moved.iter().filter(|moved| moved.is_ok()).count(), 1);
            let removed = join_all((0..9).map(|_| engine.remove("y"))).await;
            assert_eq!(removed.iter().filter(|removed| removed.is_ok()).count(), 1);
            assert_eq!(engine.list("", 100).await.unwrap().len(), 9);
        });
    }
}

#[test]
fn a_name_in_the_way_stops_a_rename_and_changes_nothing() {
    support::simulate(async {
        let mut volume = Volume::new(3).await;
        let engine = &volume.engine;
        let (a, b) = (engine.create("a").await.unwrap(), engine.create("b").await.unwrap());
        fill(&a, 1).await.unwrap();
        fill(&b, 2).await.unwrap();
        for (from, to) in [("a", "b"), ("b", "a"), ("a", "a")] {
            let kind = engine.rename(from, to).await.unwrap_err().kind();
            assert_eq!(kind, ErrorKind::AlreadyExists, "{from} to {to}");
        }
        for to in ["a", "c", "missing"] {
            let kind = engine.rename("missing", to).await.unwrap_err().kind();
            assert_eq!(kind, ErrorKind::NotFound, "missing to {to}");
        }
        for name in [&[][..], &[b'n'; 256]] {
            let outcomes = [
                engine.create(name).await.map(|_| ()),
                engine.object(name).await.map(|_| ()),
                engine.rename("a", name).await,
                engine.rename(name, "c").await,
                engine.remove(name).await,
            ];
            for outcome in outcomes {
                assert_eq!(outcome.unwrap_err().kind(), ErrorKind::InvalidInput);
            }
        }
        volume.model = [(b"a".to_vec(), Some(1)), (b"b".to_vec(), Some(2))].into();
        volume.check().await;
        volume.reopen().await;
        volume.check().await;
    });
}

#[test]
fn a_handle_goes_with_its_object_through_renames() {
    support::simulate(async {
        let mut volume = Volume::new(4).await;
        let engine = volume.engine.clone();
        let object = engine.create("a").await.unwrap();
        object.write_at(0, b"before, unsynced").await.unwrap();
        engine.rename("a", "b").await.unwrap();
        let other = engine.create("a").await.unwrap();
        other.write_at(0, b"another").await.unwrap();
        object.write_at(0, b"behind").await.unwrap();
        engine.rename("b", "c").await.unwrap();
        engine.rename("a", "b").await.unwrap();
        drop((object, other));
        engine.sync().await.unwrap();
        drop(engine);
        for _ in 0..2 {
            let mut bytes = [0; 20];
            let c = volume.engine.object("c").await.unwrap();
            assert_eq!(c.read_at(0, &mut bytes).await.unwrap(), 16);
            assert_eq!(&bytes[..16], b"behind, unsynced");
            let b = volume.engine.object("b").await.unwrap();
            assert_eq!(b.read_at(0, &mut bytes).await.unwrap(), 7);
            assert_eq!(&bytes[..7], b"another");
            let gone = volume.engine.object("a").await.unwrap_err();
            assert_eq!(gone.kind(), ErrorKind::NotFound);
            volume.disk.power_cut();
            support::is_sound(&volume.disk, true).await;
            volume.engine = support::open(&volume.disk).await.unwrap();
        }
    });
}
