//! A run of the whole engine on the simulated disk, cut off at random moments, reopened, and
//! compared with an exact model.
//!
//! Three kinds of objects, because they promise different things:
//!
//! * *logged* objects are changed by transactions only, which also make, rename, remove, cut and zero
//!   some of them. After a crash they must be what some prefix of the commits makes of them, names
//!   included, at least up to the last acknowledged one, all of them at the same commit.
//! * *plain* objects are changed by writes, truncates and punches. After a crash each block must be
//!   one of the contents it had since the last completed sync, and the size must not be ahead of
//!   the bytes below it.
//! * *mixed* objects are changed by both. Each block must be one of the contents it had since the last
//!   sync, or since the last acknowledged commit that touched it.
//!
//! The last logged object stays around the size up to which an object lives in its record, and the
//! others come by.
//!
//! Some volumes are so small that freed blocks are used again at once, and that there is no space
//! at times; an operation that is refused must leave what a read then shows.
//!
//! One seed replays one run.

use std::collections::BTreeMap;
use std::collections::BTreeSet;

use foliant::Engine;
use foliant::Object;
use foliant::Result;
use foliant::Transaction;
use foliant_device::error::Operation;
use foliant_device::sim::Fault;
use foliant_device::sim::FaultRule;
use foliant_device::sim::Rng;
use foliant_device::sim::SimDisk;
use foliant_device::sim::SimOptions;

use super::BLOCK;
use super::DEVICE_BLOCKS;
use super::DEVICE_BLOCKS_TIGHT;
use super::JOURNAL_BYTES;
use super::bytes;
use super::format;
use super::is_sound;
use super::open;
use super::simulate;

const LOGGED: usize = 3;
const PLAIN: usize = 3;
const MIXED: usize = 2;
const BYTES_MAX: u64 = 160 * 1024;

/// Names that transactions make and take away, at most.
const MADE: u64 = 4;

/// The logged objects by their names.
type Names = BTreeMap<String, Vec<u8>>;

/// What the logged objects may be: their contents after each commit that is not known to be durable yet.
#[derive(Default, Clone)]
struct Commits {
    /// `states[0]` is durable for sure; each later one is one commit further.
    states: Vec<Names>,
}

/// A content that a block had, and how many of its bytes were below the size then.
#[derive(Clone, PartialEq)]
struct Version {
    bytes: Vec<u8>,
    end: usize,
}

/// What a plain or mixed object may be.
#[derive(Default, Clone)]
struct Loose {
    bytes: Vec<u8>,
    /// Contents of each block since its floor, oldest first.
    versions: BTreeMap<u64, Vec<Version>>,
    sizes: Vec<u64>,
    /// Transactions may record a size before plain bytes below it are written back.
    mixed: bool,
}

impl Loose {
    fn new(mixed: bool) -> Self {
        Self { sizes: vec![0], mixed, ..Self::default() }
    }

    fn block(&self, at: u64) -> Version {
        let start = (at as usize * BLOCK).min(self.bytes.len());
        let end = (start + BLOCK).min(self.bytes.len());
        let mut bytes = self.bytes[start..end].to_vec();
        bytes.resize(BLOCK, 0);
        Version { bytes, end: end - start }
    }

    fn blocks(&self) -> u64 {
        self.bytes.len().div_ceil(BLOCK) as u64
    }

    fn change(&mut self, change: impl FnOnce(&mut Vec<u8>)) {
        let before = self.clone();
        change(&mut self.bytes);
        for at in 0..before.blocks().max(self.blocks()) {
            let (old, new) = (before.block(at), self.block(at));
            if new != old {
                self.versions.entry(at).or_insert_with(|| vec![old]).push(new);
            }
        }
        self.sizes.push(self.bytes.len() as u64);
    }

    fn write(&mut self, at: usize, data: &[u8]) {
        self.change(|bytes| {
            bytes.resize(bytes.len().max(at + data.len()), 0);
            bytes[at..at + data.len()].copy_from_slice(data);
        });
    }

    /// Everything is on the device.
    fn synced(&mut self) {
        self.versions.clear();
        self.sizes = vec![self.bytes.len() as u64];
    }

    fn check(&self, name: &str, found: &[u8]) {
        let (low, high) = (self.sizes.iter().min(), self.sizes.iter().max());
        let size = found.len() as u64;
        let fits = low.is_some_and(|&low| low <= size) && high.is_some_and(|&high| size <= high);
        assert!(fits, "{name} has {size} bytes, allowed are {low:?} to {high:?}");
        for (at, block) in found.chunks(BLOCK).enumerate() {
            let now = [self.block(at as u64)];
            let allowed = self.versions.get(&(at as u64)).map_or(&now[..], |v| &v[..]);
            let is = |version: &&Version| {
                version.bytes[..block.len()] == *block && (self.mixed || version.end >= block.len())
            };
            let whole = allowed.iter().find(is).is_some();
            let count = allowed.len();
            assert!(whole, "{name} block {at} of {size} bytes is none of {count} contents it had");
        }
    }
}

#[derive(Clone)]
struct Run {
    rng: Rng,
    disk: SimDisk,
    commits: Commits,
    loose: [Loose; PLAIN + MIXED],
    acknowledged: u64,
    /// Whether some plain writes go past the cache.
    direct: bool,
}

struct Handles {
    logged: Vec<Object>,
    loose: Vec<Object>,
}

fn logged_name(i: usize) -> String {
    format!("logged-{i}")
}

fn loose_name(i: usize) -> String {
    if i < PLAIN { format!("plain-{i}") } else { format!("mixed-{i}") }
}

/// Slows the log down on some disks and everything behind it on others, so that what has no order
/// comes in either one.
fn slow_part(seed: u64, disk: &SimDisk) {
    let log_end = 32 + (JOURNAL_BYTES / BLOCK as u64);
    let slow = match seed % 3 {
        0 => 0..log_end,
        1 => log_end..disk.blocks(),
        _ => return,
    };
    let rule = FaultRule::new(Fault::Delay { ms: seed % 40 });
    disk.inject(rule.on(Operation::Write).blocks(slow).always());
}

impl Run {
    async fn new(seed: u64) -> Self {
        let blocks = if seed.is_multiple_of(2) { DEVICE_BLOCKS } else { DEVICE_BLOCKS_TIGHT };
        let options = SimOptions { seed, keeps_cuts: true, ..SimOptions::default() };
        let disk = SimDisk::new(blocks, options);
        format(&disk).await;
        let engine = open(&disk).await.expect("a fresh volume opens");
        for i in 0..LOGGED {
            engine.create(logged_name(i)).await.expect("create");
        }
        for i in 0..PLAIN + MIXED {
            engine.create(loose_name(i)).await.expect("create");
        }
        engine.close().await.expect("close");
        slow_part(seed, &disk);
        let names = (0..LOGGED).map(|i| (logged_name(i), Vec::new())).collect();
        let commits = Commits { states: vec![names] };
        let loose = std::array::from_fn(|i| Loose::new(i >= PLAIN));
        Self { rng: Rng::new(seed ^ 0x5EED), disk, commits, loose, acknowledged: 0, direct: false }
    }

    async fn handles(&self, engine: &Engine) -> Result<Handles> {
        let mut handles = Handles { logged: Vec::new(), loose: Vec::new() };
        for i in 0..LOGGED {
            handles.logged.push(engine.object(logged_name(i)).await?);
        }
        for i in 0..PLAIN + MIXED {
            handles.loose.push(engine.object(loose_name(i)).await?);
        }
        Ok(handles)
    }

    /// Runs operations until the disk is gone or enough were done.
    async fn work(&mut self, engine: &Engine) -> Result<()> {
        let handles = self.handles(engine).await?;
        for _ in 0..self.rng.below(80) + 5 {
            match self.rng.below(12) {
                0..=2 => self.commit(engine, &handles, false).await?,
                3 => {
                    for _ in 0..self.rng.below(4) + 2 {
                        self.commit(engine, &handles, true).await?;
                    }
                }
                4 => self.sync(&handles.loose).await?,
                _ => self.change(engine, &handles.loose).await?,
            }
        }
        Ok(())
    }

    /// Much at once, and a cut while it is on its way home.
    async fn burst(&mut self, engine: &Engine) -> Result<()> {
        let handles = self.handles(engine).await?;
        for _ in 0..self.rng.below(24) + 6 {
            match self.rng.below(4) {
                0 => self.commit(engine, &handles, true).await?,
                _ => self.change(engine, &handles.loose).await?,
            }
        }
        let after = self.rng.below(40) + 1;
        self.disk.crash_after_requests(after);
        let syncs = handles.loose.iter().map(Object::sync);
        let outcomes = futures_util::future::join_all(syncs).await;
        for (model, outcome) in self.loose.iter_mut().zip(outcomes) {
            if outcome.is_ok() {
                model.synced();
            }
        }
        drop(handles);
        engine.clone().close().await
    }

    /// One transaction; a tiny one changes a few bytes, and nobody waits for it.
    async fn commit(&mut self, engine: &Engine, handles: &Handles, tiny: bool) -> Result<()> {
        let mut next = self.commits.states.last().expect("never empty").clone();
        let mut loose: BTreeMap<usize, Vec<(usize, Vec<u8>)>> = BTreeMap::new();
        let mut transaction = engine.transaction();
        for _ in 0..=self.rng.below(if tiny { 1 } else { 4 }) {
            let mut len = if tiny { self.rng.below(40) as usize + 1 } else { self.length() };
            let mut at = self.spot();
            let which = self.rng.below((LOGGED + MIXED) as u64) as usize;
            if which == LOGGED - 1 {
                (at, len) = (at % 380, len % 100 + 1);
            }
            let data = bytes(&mut self.rng, len);
            let object = match which {
                0..LOGGED => &handles.logged[which],
                _ => &handles.loose[PLAIN + which - LOGGED],
            };
            if transaction.write_at(object, at as u64, &data).is_err() {
                continue;
            }
            if which < LOGGED {
                put(next.get_mut(&logged_name(which)).expect("never removed"), at, &data);
            } else {
                loose.entry(PLAIN + which - LOGGED).or_default().push((at, data));
            }
        }
        if !tiny && self.rng.below(3) == 0 {
            self.change_names(engine, &mut transaction, &mut next).await?;
        }
        self.commits.states.push(next);
        let before = self.loose.clone();
        for (&which, writes) in &loose {
            writes.iter().for_each(|(at, data)| self.loose[which].write(*at, data));
        }
        let commit = match transaction.commit().await {
            Err(cause) if cause.is_no_space() => {
                self.commits.states.pop();
                self.loose = before;
                return Ok(());
            }
            outcome => outcome?,
        };
        if !tiny && self.rng.below(3) > 0 {
            commit.durable().await?;
            let last = self.commits.states.len() - 1;
            self.commits.states.drain(..last);
            self.commit_is_durable(&loose);
            self.acknowledged += 1;
        }
        Ok(())
    }

    /// A few more steps of a transaction, on names and sizes.
    async fn change_names(
        &mut self,
        engine: &Engine,
        transaction: &mut Transaction,
        next: &mut Names,
    ) -> Result<()> {
        let mut made: BTreeMap<String, Object> = BTreeMap::new();
        // The transaction knows an object by the name that it has outside.
        let mut outside: BTreeMap<String, String> =
            next.keys().map(|n| (n.clone(), n.clone())).collect();
        for _ in 0..=self.rng.below(4) {
            let fresh = format!("made-{}", self.rng.below(MADE));
            let names: Vec<String> = next.keys().cloned().collect();
            let name = names[self.rng.below(names.len() as u64) as usize].clone();
            let movable = name.starts_with("made");
            match self.rng.below(6) {
                0 | 1 if !next.contains_key(&fresh) => {
                    if let Ok(object) = transaction.create(&fresh) {
                        made.insert(fresh.clone(), object);
                        next.insert(fresh, Vec::new());
                    }
                }
                2 if movable && !next.contains_key(&fresh) => {
                    if transaction.rename(&name, &fresh).is_ok() {
                        let bytes = next.remove(&name).expect("it is there");
                        next.insert(fresh.clone(), bytes);
                        made.remove(&name).map(|object| made.insert(fresh.clone(), object));
                        outside.remove(&name).map(|old| outside.insert(fresh, old));
                    }
                }
                3 if movable => {
                    if transaction.remove(&name).is_ok() {
                        next.remove(&name);
                        made.remove(&name);
                        outside.remove(&name);
                    }
                }
                kind => {
                    let object = match made.get(&name) {
                        Some(object) => object.clone(),
                        None => engine.object(&outside[&name]).await?,
                    };
                    let bytes = next.get_mut(&name).expect("it is there");
                    self.change_logged(transaction, &object, bytes, kind);
                }
            }
        }
        Ok(())
    }

    fn change_logged(
        &mut self,
        transaction: &mut Transaction,
        object: &Object,
        bytes: &mut Vec<u8>,
        kind: u64,
    ) {
        let (at, len) = (self.spot(), self.length().min(9_000));
        match kind {
            4 => {
                let to = if self.rng.below(2) == 0 { at } else { bytes.len() / 2 };
                if transaction.truncate(object, to as u64).is_ok() {
                    bytes.resize(to, 0);
                }
            }
            5 => {
                let end = (at + len).min(bytes.len());
                let range = at as u64..(at + len) as u64;
                if transaction.zero(object, range).is_ok() && at < end {
                    bytes[at..end].fill(0);
                }
            }
            _ => {
                let data = super::bytes(&mut self.rng, len);
                if transaction.write_at(object, at as u64, &data).is_ok() {
                    put(bytes, at, &data);
                }
            }
        }
    }

    /// What the commit touched cannot fall behind it any more.
    fn commit_is_durable(&mut self, loose: &BTreeMap<usize, Vec<(usize, Vec<u8>)>>) {
        for (&which, writes) in loose {
            let mut touched = BTreeSet::new();
            for (at, data) in writes {
                touched.extend((at / BLOCK) as u64..((at + data.len()).div_ceil(BLOCK)) as u64);
            }
            for at in touched {
                self.loose[which].versions.remove(&at);
            }
        }
    }

    /// Where to write: anywhere, or where small objects have their bytes.
    fn spot(&mut self) -> usize {
        match self.rng.below(5) {
            0 => self.rng.below(300) as usize,
            _ => self.rng.below(BYTES_MAX / 2) as usize,
        }
    }

    fn length(&mut self) -> usize {
        match self.rng.below(4) {
            0 => self.rng.below(200) as usize + 1,
            1 => BLOCK,
            2 => self.rng.below(3 * BLOCK as u64) as usize + 1,
            _ => self.rng.below(30_000) as usize + 1,
        }
    }

    async fn change(&mut self, engine: &Engine, objects: &[Object]) -> Result<()> {
        let which = self.rng.below((PLAIN + MIXED) as u64) as usize;
        let object = &objects[which];
        let outcome = self.change_one(engine, which, object).await;
        match outcome {
            Err(cause) if cause.is_no_space() => self.look_again(which, object).await,
            outcome => outcome,
        }
    }

    async fn change_one(&mut self, engine: &Engine, which: usize, object: &Object) -> Result<()> {
        let size = self.loose[which].bytes.len() as u64;
        let model = &mut self.loose[which];
        match self.rng.below(10) {
            0 => {
                let small = self.rng.below(2) == 0;
                let to = self.rng.below(if small { 600 } else { BYTES_MAX });
                model.change(|b| b.resize(to as usize, 0));
                object.truncate(to).await
            }
            1 if size > 1 => {
                let from = self.rng.below(size);
                let to = from + self.rng.below(size - from) + 1;
                model.change(|b| b[from as usize..to as usize].fill(0));
                object.punch(from..to).await
            }
            2 => {
                let from = self.rng.below(BYTES_MAX / 2);
                let len = self.rng.below(BYTES_MAX / 4) + 1;
                object.preallocate(from..from + len).await
            }
            _ => {
                let len = self.length();
                let at = self.spot();
                let data = bytes(&mut self.rng, len);
                self.loose[which].write(at, &data);
                if self.direct && self.rng.below(2) == 0 {
                    return write_past_the_cache(engine, object, at, &data).await;
                }
                object.write_at(at as u64, &data).await
            }
        }
    }

    /// A refused operation did all, nothing or a part; what a read shows now is what there is.
    async fn look_again(&mut self, which: usize, object: &Object) -> Result<()> {
        let mut found = vec![0; object.size() as usize];
        let read = object.read_at(0, &mut found).await?;
        found.truncate(read);
        self.loose[which].change(|bytes| *bytes = found);
        Ok(())
    }

    async fn sync(&mut self, objects: &[Object]) -> Result<()> {
        let which = self.rng.below((PLAIN + MIXED) as u64) as usize;
        objects[which].sync().await?;
        self.loose[which].synced();
        Ok(())
    }

    /// Compares the reopened volume with the model, and makes what was found the model.
    async fn check(&mut self, engine: &Engine) {
        let mut found = Names::new();
        for name in engine.list("", 100).await.expect("names can be listed") {
            let name = String::from_utf8(name).expect("names of ours");
            if !(0..PLAIN + MIXED).any(|i| loose_name(i) == name) {
                let bytes = read_all(engine, &name).await;
                found.insert(name, bytes);
            }
        }
        let known = self.commits.states.iter().rposition(|state| *state == found);
        let known = known.unwrap_or_else(|| self.explain(&found));
        self.commits.states = vec![self.commits.states.swap_remove(known)];
        for i in 0..PLAIN + MIXED {
            let found = read_all(engine, &loose_name(i)).await;
            self.loose[i].check(&loose_name(i), &found);
            self.loose[i].bytes = found;
            self.loose[i].synced();
        }
        assert_eq!(self.disk.overlaps(), 0, "requests in flight overlapped");
    }

    fn explain(&self, found: &Names) -> usize {
        for (n, state) in self.commits.states.iter().enumerate() {
            let names = (state.keys().collect::<Vec<_>>(), found.keys().collect::<Vec<_>>());
            eprintln!("after commit {n}: names {names:?}");
            for (name, want) in state {
                let Some(got) = found.get(name) else { continue };
                let differ = want.iter().zip(got).position(|(a, b)| a != b);
                let sizes = (want.len(), got.len());
                eprintln!("    {name}: sizes {sizes:?}, first difference {differ:?}");
            }
        }
        panic!("the logged objects are at no commit since the last acknowledged one");
    }
}

fn put(content: &mut Vec<u8>, at: usize, data: &[u8]) {
    content.resize(content.len().max(at + data.len()), 0);
    content[at..at + data.len()].copy_from_slice(data);
}

async fn write_past_the_cache(
    engine: &Engine,
    object: &Object,
    at: usize,
    data: &[u8],
) -> Result<()> {
    let within = at % BLOCK..at % BLOCK + data.len();
    let mut buffer = engine.direct_buffer(within.end).await?;
    buffer[within.clone()].copy_from_slice(data);
    object.write_direct(at as u64, buffer, within).await.1
}

async fn read_all(engine: &Engine, name: &str) -> Vec<u8> {
    let object = engine.object(name).await.expect("the object exists");
    let mut bytes = vec![0; object.size() as usize];
    let read = object.read_at(0, &mut bytes).await.expect("every block can be read");
    assert_eq!(read, bytes.len(), "short read of {name}");
    bytes
}

/// One run: work, cut, reopen, check; several times over the same volume. The answer is how many
/// commits were acknowledged.
pub fn crash(seed: u64) -> u64 {
    crash_run(seed, false, true)
}

/// The same without a look at the whole store: what the model alone notices.
pub fn crash_seen_by_the_model(seed: u64) -> u64 {
    crash_run(seed, false, false)
}

/// The same, with half of the plain writes past the cache.
pub fn crash_past_the_cache(seed: u64) -> u64 {
    crash_run(seed, true, true)
}

fn crash_run(seed: u64, direct: bool, looks: bool) -> u64 {
    simulate(async {
        let mut run = Run::new(seed).await;
        run.direct = direct;
        for _ in 0..=run.rng.below(4) {
            if run.rng.below(4) > 0 {
                let after = run.rng.below(400) + 1;
                run.disk.crash_after_requests(after);
            }
            // Opening may already meet the crash: recovery is cut as well.
            if let Ok(engine) = open(&run.disk).await {
                if let Err(cause) = run.work(&engine).await {
                    assert!(!run.disk.is_powered(), "refused with the power on: {cause}");
                }
                run.disk.power_cut();
                drop(engine);
            } else {
                run.disk.power_cut();
            }
            if looks {
                is_sound(&run.disk, true).await;
            }
            let engine = open(&run.disk).await.expect("a cut volume opens");
            run.check(&engine).await;
            engine.close().await.expect("close");
        }
        run.acknowledged
    })
}

/// Writes that a cut may leave in any subset, at most: 2^12 disks are opened.
const UNDOABLE_MAX: usize = 12;

/// One run that ends in a cut, and then every disk that this cut could have left. The answer is how many
/// writes it could undo and how many disks were opened; none when there would have been too many.
pub fn every_outcome(seed: u64) -> (usize, u64) {
    simulate(async {
        let mut run = Run::new(seed).await;
        let engine = open(&run.disk).await.expect("a fresh volume opens");
        if let Err(cause) = run.burst(&engine).await {
            assert!(!run.disk.is_powered(), "refused with the power on: {cause}");
        }
        run.disk.power_cut();
        drop(engine);
        let cut = run.disk.last_cut().expect("the disk keeps its cuts");
        if cut.writes() > UNDOABLE_MAX {
            return (cut.writes(), 0);
        }
        for survivors in 0..1_u64 << cut.writes() {
            let mut run = Run { disk: SimDisk::after(&cut, survivors), ..run.clone() };
            is_sound(&run.disk, true).await;
            let engine = open(&run.disk).await.expect("a cut volume opens");
            run.check(&engine).await;
        }
        (cut.writes(), 1 << cut.writes())
    })
}
