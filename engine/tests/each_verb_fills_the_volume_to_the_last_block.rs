//! A volume that is filled to the last block by each writing verb alone: refused with a type and without a trace,
//! read back, worked on while it is full, opened again, emptied, and filled again with exactly as much.
//!
//! On the simulated disk, and once on a file.

#![allow(clippy::unwrap_used)] // In helpers of tests as in tests: a failed unwrap is the failed test.

mod support;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use foliant::Engine;
use foliant::Object;
use foliant::Result;
use foliant::check;
use foliant_device::Device;
use foliant_device::sim::SimDisk;
use foliant_device::sim::SimOptions;
use support::BLOCK;
use support::put;
use support::read_all;

/// Room for 600 blocks.
const BLOCKS: u64 = 32 + 1024 + 33 + 600;
/// Objects that take turns, so that something can go and the rest must stay.
const OBJECTS: u64 = 3;
/// What a change of names promises.
const NAMES_WANT: u64 = 24;
/// No step waits longer; virtual on the simulated disk.
const BOUND: Duration = Duration::from_secs(120);

/// The verb that fills.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// Whole blocks through the cache.
    Write,
    /// A byte in every second block, over holes.
    WriteBytes,
    /// Whole blocks past the cache.
    Direct,
    /// A direct write with parts of blocks at its edges.
    DirectEdges,
    /// Unwritten space; then it is written.
    Preallocate,
    /// A growing truncate, and a write across the old end.
    Truncate,
    /// A transaction with a write of a block.
    Commit,
    /// A transaction that makes an object of two blocks.
    CommitNames,
    /// Objects that live in their records.
    Inline,
    /// Empty objects with the longest names.
    Names,
}

const WAYS: [Way; 10] = [
    Way::Write,
    Way::WriteBytes,
    Way::Direct,
    Way::DirectEdges,
    Way::Preallocate,
    Way::Truncate,
    Way::Commit,
    Way::CommitNames,
    Way::Inline,
    Way::Names,
];

impl Way {
    /// Blocks that a step needs at most: as many may be left when it is refused.
    fn wants(self) -> u64 {
        match self {
            Self::Write | Self::WriteBytes | Self::Direct | Self::Preallocate | Self::Commit => 1,
            Self::DirectEdges | Self::Truncate => 3,
            Self::CommitNames => NAMES_WANT + 4,
            Self::Inline | Self::Names => NAMES_WANT,
        }
    }

    /// Whether every step makes an object.
    fn makes_names(self) -> bool {
        matches!(self, Self::CommitNames | Self::Inline | Self::Names)
    }
}

/// What the volume lies on.
enum Ground {
    Sim(SimDisk),
    File(PathBuf),
}

impl Ground {
    async fn format(&self) {
        match self {
            Self::Sim(disk) => support::format(disk).await,
            Self::File(path) => {
                let format = Engine::format(path).size_bytes(BLOCKS * BLOCK as u64);
                format.journal_bytes(support::JOURNAL_BYTES).force(true).run().await.unwrap();
            }
        }
    }

    async fn open(&self) -> Engine {
        match self {
            Self::Sim(disk) => support::open(disk).await.unwrap(),
            Self::File(path) => {
                Engine::open(path).memory_bytes(support::MEMORY_BYTES).run().await.unwrap()
            }
        }
    }

    async fn is_sound(&self) {
        match self {
            Self::Sim(disk) => support::is_sound(disk, true).await,
            Self::File(path) => {
                let device: Device = check::open(path).await.unwrap();
                let report = check::check(&device, &check::Options::default()).await.unwrap();
                device.close().await.unwrap();
                assert!(report.is_sound(), "{report}");
            }
        }
    }
}

impl Drop for Ground {
    fn drop(&mut self) {
        if let Self::File(path) = self {
            let _ = std::fs::remove_file(path);
        }
    }
}

struct Volume {
    ground: Ground,
    engine: Engine,
    way: Way,
    fresh: u64,
    /// What every object holds, as far as it was accepted.
    model: BTreeMap<Vec<u8>, Vec<u8>>,
}

/// The bytes of one step.
fn text(step: u64, len: usize) -> Vec<u8> {
    (0..len as u64).map(|i| (step * 31 + i / 7 + i) as u8 | 1).collect()
}

fn turn(step: u64) -> (Vec<u8>, u64) {
    (format!("object-{}", step % OBJECTS).into_bytes(), step / OBJECTS)
}

fn long_name(step: u64) -> Vec<u8> {
    // Scattered, so that leaves are split in their middle, too.
    let mixed = step.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    format!("{mixed:020}{}", "n".repeat(235)).into_bytes()
}

async fn bounded<T>(what: &str, work: impl Future<Output = T>) -> T {
    let done = tokio::time::timeout(BOUND, work).await;
    done.unwrap_or_else(|_| panic!("{what} hangs"))
}

impl Volume {
    async fn new(ground: Ground, way: Way) -> Self {
        ground.format().await;
        let engine = ground.open().await;
        let fresh = engine.stats().free_bytes;
        Self { ground, engine, way, fresh, model: BTreeMap::new() }
    }

    async fn reopen(&mut self) {
        bounded("close", self.engine.clone().close()).await.expect("a full volume closes");
        self.ground.is_sound().await;
        self.engine = self.ground.open().await;
    }

    async fn objects(&mut self) {
        if self.way.makes_names() {
            return;
        }
        for n in 0..OBJECTS {
            let (name, _) = turn(n);
            self.engine.create(&name).await.expect("the volume is empty");
            self.model.insert(name, Vec::new());
        }
    }

    /// One after the other: where trees are split would depend on the order in which batches end.
    async fn stored(&self, object: &Object) {
        bounded("sync", object.sync()).await.expect("what was accepted finds its room");
    }

    async fn direct(&self, object: &Object, at: u64, data: &[u8]) -> Result<()> {
        let start = at as usize % BLOCK;
        let mut buffer = self.engine.direct_buffer(start + data.len()).await?;
        buffer[start..start + data.len()].copy_from_slice(data);
        object.write_direct(at, buffer, start..start + data.len()).await.1
    }

    /// One step; the model follows it only when it was taken.
    async fn step(&mut self, n: u64) -> Result<()> {
        if self.way.makes_names() {
            return self.step_of_names(n).await;
        }
        let (name, round) = turn(n);
        let object = self.engine.object(&name).await?;
        let (at, data) = match self.way {
            Way::WriteBytes => (round * 2 * BLOCK as u64 + 99, text(n, 1)),
            Way::DirectEdges => (round * 3 * BLOCK as u64 + 4_000, text(n, 2 * BLOCK - 800)),
            Way::Truncate => (round * 2 * BLOCK as u64 + 4_000, text(n, 200)),
            _ => (round * BLOCK as u64, text(n, BLOCK)),
        };
        match self.way {
            Way::Write => object.write_at(at, &data).await?,
            Way::WriteBytes => {
                object.write_at(at, &data).await?;
                self.stored(&object).await;
            }
            Way::Direct | Way::DirectEdges => {
                let before = self.model[&name].clone();
                if let Err(cause) = self.direct(&object, at, &data).await {
                    // What was written before stays: the part of a block in front, then the whole ones.
                    let found = read_all(&object).await;
                    let head = at.next_multiple_of(BLOCK as u64) - at;
                    let whole = (at + data.len() as u64) / BLOCK as u64 * BLOCK as u64 - at;
                    let with = |len: u64| {
                        let mut bytes = before.clone();
                        put(&mut bytes, at as usize, &data[..len as usize]);
                        bytes
                    };
                    let steps = [before.clone(), with(head), with(whole)];
                    assert!(steps.contains(&found), "something of a refused direct write");
                    self.model.insert(name, found);
                    return Err(cause);
                }
                if self.way == Way::DirectEdges {
                    // Parts of blocks are written back in the background: how nodes split depends on when.
                    self.stored(&object).await;
                }
            }
            Way::Preallocate => {
                return object.preallocate(at..at + BLOCK as u64).await;
            }
            Way::Truncate => {
                let size = at + 100;
                object.truncate(size).await?;
                self.model.get_mut(&name).unwrap().resize(size as usize, 0);
                object.write_at(at, &data).await?;
            }
            Way::Commit => {
                let mut transaction = self.engine.transaction();
                transaction.write_at(&object, at, &data)?;
                transaction.commit().await?.durable().await?;
            }
            Way::CommitNames | Way::Inline | Way::Names => unreachable!("steps of their own"),
        }
        put(self.model.get_mut(&name).unwrap(), at as usize, &data);
        Ok(())
    }

    async fn step_of_names(&mut self, n: u64) -> Result<()> {
        match self.way {
            Way::CommitNames => {
                let name = format!("made-{n:05}").into_bytes();
                let mut transaction = self.engine.transaction();
                let made = transaction.create(&name)?;
                let data = text(n, 2 * BLOCK);
                transaction.write_at(&made, 0, &data)?;
                transaction.commit().await?.durable().await?;
                self.model.insert(name, data);
            }
            Way::Inline => {
                let name = format!("small-{n:05}").into_bytes();
                let object = self.engine.create(&name).await?;
                self.model.insert(name.clone(), Vec::new());
                let data = text(n, 400);
                object.write_at(0, &data).await?;
                self.model.insert(name, data);
                self.stored(&object).await;
            }
            _ => {
                let name = long_name(n);
                self.engine.create(&name).await?;
                self.model.insert(name, Vec::new());
            }
        }
        Ok(())
    }

    /// Until a step is refused although all is written back; how many were taken.
    async fn fill(&mut self) -> u64 {
        self.objects().await;
        let mut taken = 0;
        loop {
            let before = taken;
            let cause = loop {
                match bounded("a step", self.step(taken)).await {
                    Ok(()) => taken += 1,
                    Err(cause) => break cause,
                }
            };
            assert!(cause.is_no_space(), "{:?}: step {taken} is refused with {cause:?}", self.way);
            bounded("sync", self.engine.sync()).await.expect("what was accepted finds its room");
            if taken == before {
                break;
            }
        }
        let left = self.engine.stats().free_bytes / BLOCK as u64;
        assert!(left <= self.way.wants(), "{:?} is refused with {left} blocks left", self.way);
        taken
    }

    async fn is_as_told(&self) {
        let names = self.engine.list("", usize::MAX).await.unwrap();
        assert!(names.iter().eq(self.model.keys()), "{:?}: names", self.way);
        for (name, bytes) in &self.model {
            let object = self.engine.object(name).await.unwrap();
            let found = read_all(&object).await;
            assert!(found == *bytes, "{:?}: content of {}", self.way, name.escape_ascii());
        }
    }

    /// What must work on a full volume.
    async fn work_while_full(&mut self) {
        let names: Vec<Vec<u8>> = self.model.keys().cloned().collect();
        let (first, last) = (&names[0], &names[names.len() - 1]);
        let mut removal = self.engine.transaction();
        removal.remove(last).unwrap();
        let removed = bounded("commit", removal.commit()).await.expect("a removal is committed");
        removed.durable().await.unwrap();
        self.model.remove(last);
        if self.way == Way::Preallocate {
            self.write_what_was_allocated().await;
        }
        let object = self.engine.object(first).await.unwrap();
        let bytes = self.model.get_mut(first).unwrap();
        let size = bytes.len() * 3 / 4;
        object.truncate(size as u64).await.expect("truncate on a full volume");
        bytes.truncate(size);
        let blocks = size / BLOCK / 2;
        object.punch(0..(blocks * BLOCK) as u64).await.expect("punch on a full volume");
        bytes[..blocks * BLOCK].fill(0);
        // A few removals more give room for one commit to those who have small objects alone.
        for name in
            names.iter().skip(1).rev().skip(1).take(if self.way.makes_names() { 300 } else { 0 })
        {
            self.engine.remove(name).await.expect("remove on a full volume");
            self.model.remove(name);
        }
        let mut transaction = self.engine.transaction();
        transaction.write_at(&object, 10, &[7; 5]).unwrap();
        let commit = transaction.commit().await.expect("a commit into what became free");
        commit.durable().await.unwrap();
        put(self.model.get_mut(first).unwrap(), 10, &[7; 5]);
    }

    /// All of it, with room for what is only in memory alone; no room is lost by it.
    async fn write_what_was_allocated(&mut self) {
        let (mut written, free) = (0, self.free_at_rest().await);
        for name in self.model.keys().cloned().collect::<Vec<_>>() {
            let object = self.engine.object(&name).await.unwrap();
            let extents = object.extents(0..i64::MAX as u64, 4_096).await.unwrap();
            for at in extents.into_iter().flat_map(|extent| extent.range.step_by(BLOCK)) {
                let data = text(at, BLOCK);
                let wrote = bounded("a write", object.write_at(at, &data)).await;
                wrote.expect("what was allocated can be written");
                put(self.model.get_mut(&name).unwrap(), at as usize, &data);
                written += 1;
            }
        }
        self.engine.sync().await.expect("sync");
        assert!(written > 300, "only {written} blocks were allocated");
        let (left, nodes) = (self.free_at_rest().await, 4 * BLOCK as u64);
        assert!(
            left + nodes > free,
            "{left} of {free} bytes are free behind writes into allocated room"
        );
    }

    /// Free bytes once nothing waits for the log.
    async fn free_at_rest(&mut self) -> u64 {
        self.reopen().await;
        self.engine.stats().free_bytes
    }

    async fn empty(&mut self) {
        for name in std::mem::take(&mut self.model).into_keys() {
            bounded("remove", self.engine.remove(name)).await.expect("remove");
        }
        self.reopen().await;
        let free = self.engine.stats().free_bytes;
        assert_eq!(free, self.fresh, "{:?}: free bytes of the emptied volume", self.way);
    }
}

async fn fill_twice(ground: Ground, way: Way) {
    let mut volume = Volume::new(ground, way).await;
    let mut taken = Vec::new();
    for _ in 0..2 {
        taken.push(volume.fill().await);
        volume.is_as_told().await;
        volume.reopen().await;
        volume.is_as_told().await;
        volume.work_while_full().await;
        volume.is_as_told().await;
        volume.reopen().await;
        volume.is_as_told().await;
        volume.empty().await;
    }
    println!("{way:?}: {taken:?} steps");
    assert_eq!(taken[0], taken[1], "{way:?}: the second time another number of steps was taken");
    bounded("close", volume.engine.clone().close()).await.unwrap();
}

#[test]
fn as_much_fits_the_second_time_by_whatever_verb() {
    let mut failed = Vec::new();
    for way in WAYS {
        for seed in 0..2 {
            let options = SimOptions { seed, ..SimOptions::default() };
            let disk = SimDisk::new(BLOCKS, options);
            let run = || support::simulate(fill_twice(Ground::Sim(disk), way));
            if std::panic::catch_unwind(std::panic::AssertUnwindSafe(run)).is_err() {
                failed.push((way, seed));
            }
        }
    }
    assert!(failed.is_empty(), "{failed:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn as_much_fits_the_second_time_in_a_file() {
    for way in [Way::Write, Way::Direct] {
        let name = format!("foliant-full-{}-{way:?}", std::process::id());
        fill_twice(Ground::File(std::env::temp_dir().join(name)), way).await;
    }
}

#[test]
fn room_that_does_not_come_back_is_noticed() {
    foliant::testing::break_on_purpose(Some(foliant::testing::Canary::LoseSpace));
    let disk = SimDisk::new(BLOCKS, SimOptions::default());
    let run = || support::simulate(fill_twice(Ground::Sim(disk), Way::Commit));
    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(run));
    foliant::testing::break_on_purpose(None);
    assert!(outcome.is_err(), "nobody noticed");
}
