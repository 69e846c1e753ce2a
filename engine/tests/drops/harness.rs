//! One drop of one verb: a volume on the simulated disk, a load beside the verb, and what must hold afterwards.
//!
//! Guarantees: one seed is one run. What is checked behind each drop: other verbs on the same range end under a
//! bound, contents are those before or behind the verb (or a step on the way, where the verb has steps), the
//! engine at rest holds nothing, a closed one no memory, and after reopening the look finds nothing wrong, the
//! contents are the same, and an emptied volume has all of its room again.
//!
//! Does not know the verbs: `verbs` does.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use foliant::Engine;
use foliant::Object;
use foliant::testing::holdings::Budget;
use foliant::testing::holdings::Holdings;
use foliant::testing::holdings::forget_metadata;
use foliant_device::sim::Rng;
use foliant_device::sim::SimDisk;
use foliant_device::sim::SimOptions;

use crate::load::Load;
use crate::load::Loaded;
use crate::support;
use crate::support::BLOCK;
use crate::support::DEVICE_BLOCKS;

/// The bytes of the object that is worked on.
pub const LEN: usize = 60 * BLOCK + 1_000;
/// Of which the first ones belong to the load.
pub const LOADED: usize = 12 * BLOCK;
/// The bytes of another object that is renamed or removed.
pub const OLD: usize = 100_000;
/// No verb waits longer.
const BOUND: Duration = Duration::from_secs(120);
/// A request takes up to this long: slow, so that there are many places to wait.
const LATENCY_MS: u64 = 9;

/// What is in the volume, by name; without what belongs to the load.
pub type State = BTreeMap<Vec<u8>, Vec<u8>>;

/// A verb on its way.
pub type Work = Pin<Box<dyn Future<Output = foliant::Result<()>>>>;

/// Where a future is dropped.
#[derive(Clone, Copy, Debug)]
pub enum Cut {
    /// When it was polled so often and is not done.
    Polls(u64),
    /// After this much of the disk's time.
    Ms(u64),
}

/// What comes behind the drop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Behind {
    /// Time passes, and the contents are looked at.
    Look,
    /// The same range is written at once: what was dropped must not come behind that.
    Write,
    /// The power goes at once.
    PowerCut,
}

/// What runs beside the verb.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Beside {
    /// Writers, readers, commits, syncs, names.
    All,
    /// These, and somebody who needs more memory than there is and dirties as much as he may.
    Hog,
    /// Nobody.
    Nobody,
}

/// The volume as the verb finds it, by seed.
#[derive(Clone, Copy, Debug)]
struct Situation {
    /// Nothing of what is stored is cached, also of the metadata.
    cold: bool,
    /// Who passes a named place of the data wing is delayed there at times.
    sway: bool,
    beside: Beside,
}

impl Situation {
    fn of(seed: u64) -> Self {
        let (cold, sway, beside) = match seed % SITUATIONS {
            0 => (true, false, Beside::All),
            1 => (false, true, Beside::All),
            2 => (true, true, Beside::Nobody),
            3 => (false, true, Beside::Hog),
            _ => (true, false, Beside::Hog),
        };
        Self { cold, sway, beside }
    }
}

/// How many there are.
pub const SITUATIONS: u64 = 5;

/// What a verb may work with.
#[derive(Clone)]
pub struct Hands {
    pub engine: Engine,
    /// Holds `LEN` bytes.
    pub target: Object,
    pub disk: SimDisk,
    /// More than 2 MiB.
    pub data: Arc<Vec<u8>>,
}

/// What a power cut may make of a verb that was not acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Crash {
    /// All or nothing.
    Atomic,
    /// Each block is old or new.
    Blocks,
}

/// A verb in one situation.
pub struct Verb {
    /// `Type::verb`, as the sources have it.
    pub name: &'static str,
    /// The situation.
    pub case: &'static str,
    /// Makes it so.
    pub prepare: fn(Hands) -> Work,
    pub run: fn(Hands) -> Work,
    /// Each content on the way; the last one is the whole change.
    pub states: fn(&State, &[u8]) -> Vec<State>,
    /// The bytes of the target that are changed in order: where memory is scarce, a prefix of whole blocks is a
    /// step on the way, too.
    pub in_order: Option<(usize, usize)>,
    /// Whether it goes on when it was polled once and dropped.
    pub goes_on: bool,
    /// Whether its answer says that it is durable.
    pub durable: bool,
    pub crash: Crash,
    pub beside: Beside,
}

/// Nothing to be done before.
pub fn nothing(_: Hands) -> Work {
    Box::pin(async { Ok(()) })
}

/// Nothing changes.
pub fn same(old: &State, _: &[u8]) -> Vec<State> {
    vec![old.clone()]
}

/// A verb that changes nothing, on a volume as it is.
pub fn reads(name: &'static str, case: &'static str, run: fn(Hands) -> Work) -> Verb {
    Verb {
        name,
        case,
        prepare: nothing,
        run,
        states: same,
        in_order: None,
        goes_on: false,
        durable: false,
        crash: Crash::Blocks,
        beside: Beside::All,
    }
}

/// Runs `work` up to the cut; its answer if it came before.
pub async fn cut<T>(work: impl Future<Output = T>, at: Cut) -> Option<T> {
    let mut work = pin!(work);
    match at {
        Cut::Ms(ms) => {
            tokio::select! {
                biased;
                done = &mut work => Some(done),
                () = tokio::time::sleep(Duration::from_millis(ms)) => None,
            }
        }
        Cut::Polls(polls) => {
            let mut left = polls;
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

pub async fn bounded<T>(what: &str, work: impl Future<Output = T>) -> T {
    let done = tokio::time::timeout(BOUND, work).await;
    done.unwrap_or_else(|_| panic!("{what} hangs"))
}

pub async fn rest(ms: u64) {
    tokio::time::sleep(Duration::from_millis(ms)).await;
}

/// What is in the volume, and what of it belongs to the load.
pub async fn look(engine: &Engine) -> (State, Loaded) {
    let mut found = State::new();
    let mut loaded = Loaded::default();
    for name in bounded("list", engine.list("", 10_000)).await.unwrap() {
        let object = bounded("open", engine.object(&name)).await.unwrap();
        let mut bytes = vec![0; object.size() as usize];
        let read = bounded("read", object.read_at(0, &mut bytes)).await.unwrap();
        assert_eq!(read, bytes.len());
        let attributes = bounded("attributes", object.attributes()).await.unwrap();
        if !attributes.is_empty() {
            found.insert([&name[..], b" attributes"].concat(), attributes.to_vec());
        }
        if name.starts_with(b"load") {
            loaded.names.insert(name, bytes);
            continue;
        }
        if name == b"target" {
            loaded.region = bytes[..LOADED].to_vec();
            bytes[..LOADED].fill(0);
        }
        found.insert(name, bytes);
    }
    (found, loaded)
}

/// A volume with its contents.
pub struct World {
    pub disk: SimDisk,
    pub engine: Engine,
    pub rng: Rng,
    /// Free bytes of the empty volume.
    free: u64,
    /// Tasks of an engine without work.
    tasks: usize,
}

impl World {
    /// With `cold`: nothing of what is stored is cached. With `dirty`: some of it was written again.
    pub async fn new(seed: u64, cold: bool, dirty: bool) -> (Self, State) {
        let options = SimOptions { seed, latency_ms_max: LATENCY_MS, ..SimOptions::default() };
        let disk = SimDisk::new(DEVICE_BLOCKS, options);
        support::format(&disk).await;
        let engine = support::open(&disk).await.unwrap();
        let (free, tasks) = (engine.stats().free_bytes, Holdings::tasks(&engine));
        let mut world = Self { disk, engine, rng: Rng::new(seed), free, tasks };
        let mut state = State::new();
        for (name, len) in [("target", LEN), ("old", OLD), ("small", 100)] {
            let object = world.engine.create(name).await.unwrap();
            let mut bytes = support::bytes(&mut world.rng, len);
            object.write_at(0, &bytes).await.unwrap();
            object.sync().await.unwrap();
            if name == "target" {
                bytes[..LOADED].fill(0);
                object.write_at(0, &bytes[..LOADED]).await.unwrap();
                object.sync().await.unwrap();
            }
            state.insert(name.into(), bytes);
        }
        if cold {
            world.reopen().await;
        }
        if dirty {
            let target = world.engine.object("target").await.unwrap();
            let bytes = state.get_mut(&b"target"[..]).unwrap();
            for (block, count) in [(14, 1), (30, 3), (50, 2)] {
                let fresh = support::bytes(&mut world.rng, count * BLOCK);
                target.write_at((block * BLOCK) as u64, &fresh).await.unwrap();
                bytes[block * BLOCK..(block + count) * BLOCK].copy_from_slice(&fresh);
            }
        }
        (world, state)
    }

    pub async fn hands(&mut self) -> Hands {
        let data = Arc::new(support::bytes(&mut self.rng, (2 << 20) + 10_000));
        let target = self.engine.object("target").await.unwrap();
        Hands { engine: self.engine.clone(), target, disk: self.disk.clone(), data }
    }

    /// Waits until nobody works any more, and demands that nothing is held then.
    pub async fn holds_nothing(&self) {
        let verbs = async {
            while Holdings::of(&self.engine).verbs > 0 {
                rest(5).await;
            }
        };
        bounded("what goes on behind a dropped verb", verbs).await;
        bounded("sync", self.engine.sync()).await.unwrap();
        let mut held = Holdings::of(&self.engine);
        for _ in 0..100 {
            if held == Holdings::default() && Holdings::tasks(&self.engine) == self.tasks {
                return;
            }
            rest(100).await;
            held = Holdings::of(&self.engine);
        }
        let tasks = Holdings::tasks(&self.engine);
        panic!("{tasks} tasks instead of {}, and an engine at rest holds {held:?}", self.tasks);
    }

    /// Closes; then nobody holds memory.
    pub async fn reopen(&mut self) {
        let budget = Budget::of(&self.engine);
        bounded("close", self.engine.clone().close()).await.unwrap();
        self.open_again(budget).await;
    }

    /// Opens what is closed.
    pub async fn open_again(&mut self, budget: Budget) {
        self.engine = support::open(&self.disk).await.unwrap();
        assert_eq!(budget.used_blocks(), 0, "a closed engine holds blocks of memory");
    }

    /// An emptied volume is as large as a new one.
    pub async fn balances(mut self) {
        for name in self.engine.list("", 10_000).await.unwrap() {
            bounded("remove", self.engine.remove(name)).await.unwrap();
        }
        self.reopen().await;
        assert_eq!(self.engine.stats().free_bytes, self.free, "free bytes of an emptied volume");
        bounded("close", self.engine.close()).await.unwrap();
    }

    /// Writes everything of the target behind the load's part at once, which must stay.
    async fn write_over(&mut self, target: &Object) -> Vec<u8> {
        let fresh = support::bytes(&mut self.rng, LEN - LOADED);
        bounded("write", target.write_at(LOADED as u64, &fresh)).await.unwrap();
        let mut found = vec![0; fresh.len()];
        bounded("read", target.read_at(LOADED as u64, &mut found)).await.unwrap();
        assert!(found == fresh, "a write behind a dropped verb is not there");
        fresh
    }
}

/// One cut of one verb; whether it completed before.
pub async fn one(verb: &Verb, seed: u64, at: Cut, behind: Behind) -> bool {
    let what = format!("{} {} seed {seed} {at:?} {behind:?}", verb.name, verb.case);
    let Situation { cold, sway, beside } = Situation::of(seed);
    let (mut world, before) = World::new(seed, cold, behind != Behind::PowerCut).await;
    let hands = world.hands().await;
    bounded("prepare", (verb.prepare)(hands.clone())).await.unwrap();
    let beside = if verb.beside == Beside::Nobody { Beside::Nobody } else { beside };
    let load = Load::start(&world.engine, beside, seed).await;
    foliant::testing::sway(sway.then_some(seed));
    // Who needs much memory takes a while to have it.
    rest(if beside == Beside::Hog { 40 + seed % 7 } else { seed % 7 }).await;
    if cold {
        forget_metadata(&world.engine);
    }
    let states = (verb.states)(&before, &hands.data);
    let target = hands.target.clone();
    let done = cut((verb.run)(hands), at).await;
    if let Some(outcome) = &done {
        assert!(outcome.is_ok(), "{what}: {outcome:?}");
    }
    let whole = done.is_some() || verb.goes_on;
    match behind {
        Behind::PowerCut => {
            drop(target);
            let acknowledged = done.is_some() && verb.durable;
            after_a_cut(world, load, verb, (&before, &states, acknowledged), &what).await;
        }
        Behind::Write => {
            let fresh = world.write_over(&target).await;
            drop(target);
            let loaded = load.stop().await;
            world.holds_nothing().await;
            let check = |found: &State| {
                let bytes = &found[&b"target"[..]];
                assert!(bytes[LOADED..].starts_with(&fresh), "{what}: it came behind a write");
            };
            finish(world, loaded, &what, check).await;
        }
        Behind::Look => {
            drop(target);
            rest(300).await;
            let loaded = load.stop().await;
            world.holds_nothing().await;
            let check = |found: &State| {
                let is_whole = states.last() == Some(found);
                let on_the_way = || is_a_prefix(verb, found, &before, states.last().unwrap());
                let sound = is_whole || states.contains(found) || before == *found || on_the_way();
                assert!(sound, "{what}: something in between: {}", told(found, &before, &states));
                assert!(is_whole || !whole, "{what}: it is not there");
            };
            finish(world, loaded, &what, check).await;
        }
    }
    done.is_some()
}

/// Whether the blocks of the target up to some place are those of `whole`, and the rest of it is as before.
fn is_a_prefix(verb: &Verb, found: &State, before: &State, whole: &State) -> bool {
    let Some((at, end)) = verb.in_order else { return false };
    let name = &b"target"[..];
    let (bytes, new) = (&found[name], &whole[name]);
    let until = end.min(bytes.len());
    let equal = bytes[at..until].iter().zip(&new[at..until]).take_while(|(a, b)| a == b).count();
    let edge = (at + equal) / BLOCK * BLOCK;
    let mut step = before.clone();
    support::put(step.get_mut(name).unwrap(), at, &new[at..edge.max(at)]);
    step == *found
}

/// What is different, in words.
fn told(found: &State, before: &State, states: &[State]) -> String {
    let mut words = Vec::new();
    for (title, state) in
        std::iter::once(("before", before)).chain(states.iter().map(|s| ("a state", s)))
    {
        let names = found.keys().eq(state.keys());
        words.push(format!("[{title}: names are {}]", if names { "equal" } else { "not" }));
        for (name, bytes) in found {
            let Some(other) = state.get(name) else { continue };
            let at = bytes.iter().zip(other).position(|(a, b)| a != b);
            let name = name.escape_ascii();
            words.push(format!(
                "[{name}: {} of {} bytes, differs at {at:?}]",
                bytes.len(),
                other.len()
            ));
        }
    }
    words.join(" ")
}

async fn finish(mut world: World, loaded: Loaded, what: &str, check: impl Fn(&State)) {
    let (found, own) = look(&world.engine).await;
    check(&found);
    loaded.assert_is(&own, what);
    world.reopen().await;
    support::is_sound(&world.disk, true).await;
    let (again, own) = look(&world.engine).await;
    assert!(again == found, "{what}: other contents after reopening");
    loaded.assert_is(&own, what);
    world.balances().await;
}

/// The power went at the drop: each verb is there as far as it must be.
async fn after_a_cut(
    mut world: World,
    load: Load,
    verb: &Verb,
    (before, states, acknowledged): (&State, &[State], bool),
    what: &str,
) {
    world.disk.power_cut();
    load.give_up();
    support::is_sound(&world.disk, true).await;
    world.engine = support::open(&world.disk).await.unwrap();
    let (found, _) = look(&world.engine).await;
    let whole = states.last().unwrap();
    if acknowledged {
        assert!(found == *whole, "{what}: acknowledged, and not there");
    } else if verb.crash == Crash::Atomic {
        assert!(found == *before || found == *whole, "{what}: in between after a cut");
    } else {
        let names = |state: &State| state.keys().eq(found.keys());
        assert!(names(before) || names(whole), "{what}: names in between after a cut");
        for (name, bytes) in &found {
            blocks_are_old_or_new(name, bytes, before, states, what);
        }
    }
    bounded("close", world.engine.close()).await.unwrap();
}

fn blocks_are_old_or_new(name: &[u8], found: &[u8], before: &State, states: &[State], what: &str) {
    let known: Vec<&Vec<u8>> =
        std::iter::once(before).chain(states).filter_map(|state| state.get(name)).collect();
    let sizes = known.iter().map(|bytes| bytes.len());
    let (least, most) = (sizes.clone().min().unwrap(), sizes.max().unwrap());
    assert!((least..=most).contains(&found.len()), "{what}: a size of {}", found.len());
    for (index, block) in found.chunks(BLOCK).enumerate() {
        let is = |bytes: &&Vec<u8>| {
            let at = index * BLOCK;
            let end = (at + block.len()).min(bytes.len());
            let old = if at < end { &bytes[at..end] } else { &[][..] };
            block.starts_with(old) && block[old.len()..].iter().all(|&byte| byte == 0)
        };
        assert!(known.iter().any(is), "{what}: block {index} is of nobody");
    }
}

/// Every cut of one verb, each in a run of its own; how many there were. Each of the first places where it
/// waits, or milliseconds, has one; behind them they lie further and further apart, for verbs that do the same again
/// and again.
pub fn every_cut(verb: &Verb, seed: u64, behind: Behind, by_ms: bool) -> u64 {
    let (mut n, mut cuts) = (1, 0);
    loop {
        let at = if by_ms { Cut::Ms(n - 1) } else { Cut::Polls(n) };
        if support::simulate(one(verb, seed, at, behind)) {
            return cuts;
        }
        n += 1 + n / if by_ms { 8 } else { 16 };
        cuts += 1;
        assert!(cuts < 300, "{} {} never completes", verb.name, verb.case);
    }
}
