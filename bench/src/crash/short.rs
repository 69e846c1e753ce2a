//! Short sequences of operations over a few objects, cut at each flush and each durable write.
//!
//! Cuts in an operation that is not the last one are those of a shorter sequence, so each sequence is cut
//! in its last operation and in the sync behind it only. Guarantees that a sequence and a cut name one
//! run. Called by a test that tries all sequences of up to three, and by `soak` with longer ones.

use foliant::Engine;
use foliant::Object;
use foliant::Result;
use foliant_device::Persist;
use foliant_device::error::Operation;
use foliant_device::sim::Cut;
use foliant_device::sim::Rng;
use foliant_device::sim::SimDisk;
use foliant_device::sim::SimOptions;

use super::ground::BLOCK;
use super::ground::DEVICE_BLOCKS_TIGHT;
use super::ground::format;
use super::ground::is_sound;
use super::ground::open;
use super::ground::read_all;
use super::ground::simulate;
use super::model::Loose;

/// One operation; what it is about may be gone, and then it does nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// 100 bytes over the edge of two blocks of the first object.
    WriteSmall,
    /// Three blocks and a bit.
    WriteLarge,
    /// Behind the end of the first object.
    AppendFirst,
    /// Behind the end of the second, which begins in its record.
    AppendSecond,
    /// A transaction over both.
    Commit,
    /// To a size in the middle.
    TruncateDown,
    /// To a size behind the end.
    TruncateUp,
    /// Over the edges of two blocks.
    Punch,
    /// The first object.
    SyncFirst,
    /// Of the second, there and back.
    Rename,
    /// A third object.
    Create,
    /// The second.
    Remove,
    /// The second object.
    SyncSecond,
    /// A transaction that cuts the first and renames the second.
    CommitNames,
    /// A transaction that zeroes over an edge of the first.
    CommitZero,
    /// The second, to nothing.
    Empty,
    /// Room behind the end of the first.
    Preallocate,
    /// The first goes past the cache.
    WriteDirect,
}

/// What the test tries all sequences of.
pub const STEPS: [Step; 12] = [
    Step::WriteSmall,
    Step::WriteLarge,
    Step::AppendFirst,
    Step::AppendSecond,
    Step::Commit,
    Step::TruncateDown,
    Step::TruncateUp,
    Step::Punch,
    Step::SyncFirst,
    Step::Rename,
    Step::Create,
    Step::Remove,
];

/// What longer sequences are drawn from, beside these.
pub const MORE_STEPS: [Step; 6] = [
    Step::SyncSecond,
    Step::CommitNames,
    Step::CommitZero,
    Step::Empty,
    Step::Preallocate,
    Step::WriteDirect,
];

/// Which names there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Names {
    second: Option<&'static str>,
    third: bool,
}

impl Names {
    fn list(self) -> Vec<Vec<u8>> {
        let mut all = vec!["first"];
        all.extend(self.second);
        all.extend(self.third.then_some("third"));
        let mut all: Vec<Vec<u8>> = all.into_iter().map(|n| n.as_bytes().to_vec()).collect();
        all.sort();
        all
    }
}

/// What a transaction over both objects writes.
#[derive(Clone)]
struct Pair {
    first: Vec<u8>,
    second: Vec<u8>,
}

/// The model: the names before and after the operation under way, and the contents.
#[derive(Clone)]
struct World {
    before: Names,
    names: Names,
    first: Loose,
    second: Loose,
    /// Both or none of them is there.
    pair: Option<Pair>,
    step: u64,
}

const FIRST_BYTES: usize = 2 * BLOCK + 900;
const SECOND_BYTES: usize = 200;
const PAIR_AT: u64 = 10;

fn pattern(step: u64, len: usize) -> Vec<u8> {
    super::ground::bytes(&mut Rng::new(step + 77), len)
}

fn known(bytes: Vec<u8>) -> Loose {
    let mut loose = Loose { bytes, ..Loose::new(true) };
    loose.synced();
    loose
}

/// A volume with two objects, closed.
pub struct Start {
    cut: Cut,
}

impl Start {
    /// Made once for many sequences.
    pub fn new(seed: u64) -> Self {
        let options = SimOptions { seed, keeps_cuts: true, ..SimOptions::default() };
        let cut = simulate(async {
            let disk = SimDisk::new(DEVICE_BLOCKS_TIGHT, options);
            format(&disk).await;
            let engine = open(&disk).await.expect("a fresh volume opens");
            for (name, len) in [("first", FIRST_BYTES), ("second", SECOND_BYTES)] {
                let object = engine.create(name).await.expect("create");
                object.write_at(0, &pattern(0, len)).await.expect("write");
            }
            engine.close().await.expect("close");
            disk.power_cut();
            disk.last_cut().expect("the disk keeps its cuts")
        });
        assert_eq!(cut.writes(), 0, "a closed volume is stable");
        Self { cut }
    }

    fn world() -> World {
        let names = Names { second: Some("second"), third: false };
        World {
            before: names,
            names,
            first: known(pattern(0, FIRST_BYTES)),
            second: known(pattern(0, SECOND_BYTES)),
            pair: None,
            step: 0,
        }
    }

    /// Plays `steps` and cuts the power at the `at`-th request of the last one and of a sync behind it; with
    /// `None`, behind both. Compares, and tells the requests that make something durable.
    fn play(&self, steps: &[Step], at: Option<u64>) -> Vec<u64> {
        simulate(async {
            let disk = SimDisk::after(&self.cut, 0);
            let engine = open(&disk).await.expect("a closed volume opens");
            let mut world = Self::world();
            let (last, early) = steps.split_last().expect("at least one step");
            for step in early {
                world.play(&engine, *step).await.expect("nothing fails yet");
            }
            disk.clear_trace();
            let start = disk.requests();
            at.into_iter().for_each(|at| disk.crash_after_requests(at));
            let outcome = match world.play(&engine, *last).await {
                Ok(()) => engine.sync().await,
                failed => failed,
            };
            match (&outcome, at) {
                (Ok(()), _) => world.synced(),
                (Err(cause), None) => panic!("{steps:?}: {cause}"),
                (Err(cause), Some(_)) => assert!(!disk.is_powered(), "{steps:?}: {cause}"),
            }
            let ordered = |op, persist| op == Operation::Flush || persist == Some(Persist::Durable);
            let trace = disk.trace();
            let points = trace.iter().filter(|r| ordered(r.operation, r.persist));
            let points = points.map(|r| r.request - start).collect();
            disk.power_cut();
            drop(engine);
            is_sound(&disk, true).await;
            world.check(&open(&disk).await.expect("a cut volume opens")).await;
            points
        })
    }

    /// One sequence with all its cuts; how many there were.
    ///
    /// # Panics
    /// With the sequence and the cut, if something is wrong.
    pub fn every_cut(&self, steps: &[Step]) -> u64 {
        let points = self.play(steps, None);
        for &at in &points {
            let play = std::panic::AssertUnwindSafe(|| self.play(steps, Some(at)));
            if let Err(cause) = std::panic::catch_unwind(play) {
                eprintln!("{steps:?}, cut at request {at} of the last step, fails");
                std::panic::resume_unwind(cause);
            }
        }
        points.len() as u64
    }
}

impl World {
    /// Everything is durable.
    fn synced(&mut self) {
        self.first.synced();
        self.second.synced();
        self.before = self.names;
        self.pair = None;
    }

    async fn play(&mut self, engine: &Engine, step: Step) -> Result<()> {
        self.before = self.names;
        self.pair = None;
        self.step += 1;
        let first = engine.object("first").await?;
        let outcome = match step {
            Step::AppendSecond
            | Step::Rename
            | Step::Remove
            | Step::SyncSecond
            | Step::Empty
            | Step::Commit
            | Step::CommitNames => match self.names.second {
                Some(name) => self.play_second(engine, &first, name, step).await,
                None => Ok(()),
            },
            Step::Create if self.names.third => Ok(()),
            Step::Create => {
                self.names.third = true;
                engine.create("third").await.map(drop)
            }
            _ => self.play_first(engine, &first, step).await,
        };
        if outcome.is_ok() {
            // Verbs on names are durable on return, and so are the transactions here.
            self.before = self.names;
            self.pair = None;
        }
        outcome
    }

    async fn write_first(&mut self, object: &Object, at: usize, len: usize) -> Result<()> {
        let data = pattern(self.step, len);
        self.first.write(at, &data);
        object.write_at(at as u64, &data).await
    }

    async fn play_first(&mut self, engine: &Engine, object: &Object, step: Step) -> Result<()> {
        let end = self.first.bytes.len();
        match step {
            Step::WriteSmall => self.write_first(object, BLOCK - 50, 100).await,
            Step::WriteLarge => self.write_first(object, BLOCK + 10, 3 * BLOCK + 7).await,
            Step::AppendFirst => self.write_first(object, end, 700).await,
            Step::TruncateDown | Step::TruncateUp => {
                let to = if step == Step::TruncateUp { 20_000 } else { 5_000 };
                self.first.change(|b| b.resize(to, 0));
                object.truncate(to as u64).await
            }
            Step::Punch => {
                let range = 1_000.min(end)..9_000.min(end);
                self.first.change(|b| b[range].fill(0));
                object.punch(1_000..9_000).await
            }
            Step::SyncFirst => {
                object.sync().await?;
                self.first.synced();
                Ok(())
            }
            Step::CommitZero => {
                let range = 3_000.min(end)..4_500.min(end);
                self.first.change(|b| b[range].fill(0));
                let mut transaction = engine.transaction();
                transaction.zero(object, 3_000..4_500)?;
                transaction.commit().await?.durable().await
            }
            Step::Preallocate => object.preallocate(BLOCK as u64..6 * BLOCK as u64).await,
            _ => {
                let data = pattern(self.step, BLOCK + 100);
                self.first.write(BLOCK / 2, &data);
                let mut buffer = engine.direct_buffer(2 * BLOCK).await?;
                let within = BLOCK / 2..BLOCK / 2 + data.len();
                buffer[within.clone()].copy_from_slice(&data);
                object.write_direct(BLOCK as u64 / 2, buffer, within).await.1
            }
        }
    }

    async fn play_second(
        &mut self,
        engine: &Engine,
        first: &Object,
        name: &'static str,
        step: Step,
    ) -> Result<()> {
        let object = engine.object(name).await?;
        let other = if name == "second" { "renamed" } else { "second" };
        match step {
            Step::AppendSecond => {
                let (at, data) = (self.second.bytes.len(), pattern(self.step, 5_000));
                self.second.write(at, &data);
                object.write_at(at as u64, &data).await
            }
            Step::Rename => {
                self.names.second = Some(other);
                engine.rename(name, other).await
            }
            Step::Remove => {
                self.names.second = None;
                drop(object);
                engine.remove(name).await
            }
            Step::SyncSecond => {
                object.sync().await?;
                self.second.synced();
                Ok(())
            }
            Step::Empty => {
                self.second.change(|b| b.clear());
                object.truncate(0).await
            }
            Step::CommitNames => {
                self.names.second = Some(other);
                self.first.change(|b| b.resize(3_333, 0));
                let mut transaction = engine.transaction();
                transaction.truncate(first, 3_333)?;
                transaction.rename(name, other)?;
                transaction.commit().await?.durable().await
            }
            _ => self.commit_pair(engine, first, &object).await,
        }
    }

    async fn commit_pair(
        &mut self,
        engine: &Engine,
        first: &Object,
        second: &Object,
    ) -> Result<()> {
        let pair = Pair { first: pattern(self.step, 200), second: pattern(self.step + 50, 5_000) };
        self.first.write(PAIR_AT as usize, &pair.first);
        self.second.write(0, &pair.second);
        self.pair = Some(pair.clone());
        let mut transaction = engine.transaction();
        transaction.write_at(first, PAIR_AT, &pair.first)?;
        transaction.write_at(second, 0, &pair.second)?;
        transaction.commit().await?.durable().await?;
        // What it touched cannot fall behind it.
        self.first.committed(PAIR_AT as usize..PAIR_AT as usize + pair.first.len());
        self.second.committed(0..pair.second.len());
        Ok(())
    }

    async fn check(&self, engine: &Engine) {
        let found = engine.list("", 10).await.expect("names can be listed");
        let known = [self.before, self.names].into_iter().find(|names| names.list() == found);
        let found: Vec<String> = found.iter().map(|n| n.escape_ascii().to_string()).collect();
        let names = known.unwrap_or_else(|| panic!("{found:?} is neither of both"));
        let first = read(engine, "first").await;
        self.first.check("first", &first);
        if names.third {
            assert!(read(engine, "third").await.is_empty());
        }
        let Some(name) = names.second else { return };
        let second = read(engine, name).await;
        self.second.check("second", &second);
        if let Some(pair) = &self.pair {
            let one = first[PAIR_AT as usize..].starts_with(&pair.first);
            assert_eq!(one, second.starts_with(&pair.second), "half of a transaction");
        }
    }
}

async fn read(engine: &Engine, name: &str) -> Vec<u8> {
    read_all(&engine.object(name).await.expect("the object exists")).await
}

/// Every sequence of `len` of the steps.
pub fn sequences(len: u32) -> impl Iterator<Item = Vec<Step>> {
    let base = STEPS.len();
    (0..base.pow(len))
        .map(move |n| (0..len).map(|place| STEPS[n / base.pow(place) % base]).collect())
}

/// A sequence of three to six of all steps that the seed draws, with all its cuts; how many there were.
pub fn drawn(seed: u64) -> u64 {
    let mut rng = Rng::new(seed);
    let all: Vec<Step> = STEPS.into_iter().chain(MORE_STEPS).collect();
    let len = rng.below(4) + 3;
    let steps: Vec<Step> = (0..len).map(|_| all[rng.below(all.len() as u64) as usize]).collect();
    Start::new(seed).every_cut(&steps)
}
