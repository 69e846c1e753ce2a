//! The whole engine on the simulated disk, cut off at a random moment, reopened, and compared with an
//! exact model.
//!
//! Two kinds of objects, because they promise different things:
//!
//! * *logged* objects are changed by transactions only. After a crash they must be what some prefix of
//!   the commits makes of them, at least up to the last acknowledged one, all of them at the same commit.
//! * *plain* objects are changed by writes, truncates and punches. After a crash each block must be one of
//!   the contents it had since the last completed sync, and bytes behind the end are zero.
//!
//! One seed replays one run. A failing seed is printed.

mod support;

use std::collections::BTreeMap;

use foliant::Engine;
use foliant::Object;
use foliant_device::sim::Rng;
use foliant_device::sim::SimDisk;
use foliant_device::sim::SimOptions;
use support::BLOCK;
use support::DEVICE_BLOCKS;

const SEEDS: std::ops::Range<u64> = 0..2_000;
const LOGGED: usize = 3;
const PLAIN: usize = 3;
const BYTES_MAX: u64 = 160 * 1024;

/// What a logged object may be: its content after each commit that is not known to be durable yet.
#[derive(Default)]
struct Commits {
    /// `states[0]` is durable for sure; each later one is one commit further.
    states: Vec<[Vec<u8>; LOGGED]>,
}

/// What a plain object may be.
#[derive(Default, Clone)]
struct Plain {
    bytes: Vec<u8>,
    /// Contents of each block since the last sync, oldest first, as whole blocks.
    versions: BTreeMap<u64, Vec<Vec<u8>>>,
    sizes: Vec<u64>,
}

impl Plain {
    fn block(&self, at: u64) -> Vec<u8> {
        let start = (at as usize * BLOCK).min(self.bytes.len());
        let end = (start + BLOCK).min(self.bytes.len());
        let mut block = self.bytes[start..end].to_vec();
        block.resize(BLOCK, 0);
        block
    }

    fn change(&mut self, change: impl FnOnce(&mut Vec<u8>)) {
        let before = self.clone_blocks();
        change(&mut self.bytes);
        let blocks = before.len().max(self.bytes.len().div_ceil(BLOCK));
        for at in 0..blocks as u64 {
            let new = self.block(at);
            let old = before.get(at as usize).cloned().unwrap_or_else(|| vec![0; BLOCK]);
            if new != old {
                self.versions.entry(at).or_insert_with(|| vec![old]).push(new);
            }
        }
        self.sizes.push(self.bytes.len() as u64);
    }

    fn clone_blocks(&self) -> Vec<Vec<u8>> {
        (0..self.bytes.len().div_ceil(BLOCK) as u64).map(|at| self.block(at)).collect()
    }

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
            let whole = allowed.iter().any(|version| version[..block.len()] == *block);
            assert!(whole, "{name} block {at} is none of the {} contents it had", allowed.len());
        }
    }
}

struct Run {
    rng: Rng,
    disk: SimDisk,
    commits: Commits,
    plain: [Plain; PLAIN],
    acknowledged: u64,
}

fn logged_name(i: usize) -> String {
    format!("logged-{i}")
}

fn plain_name(i: usize) -> String {
    format!("plain-{i}")
}

impl Run {
    async fn new(seed: u64) -> Self {
        let disk = SimDisk::new(DEVICE_BLOCKS, SimOptions { seed, ..SimOptions::default() });
        support::format(&disk).await;
        let engine = support::open(&disk).await.expect("a fresh volume opens");
        for i in 0..LOGGED {
            engine.create(logged_name(i)).await.expect("create");
        }
        for i in 0..PLAIN {
            engine.create(plain_name(i)).await.expect("create");
        }
        engine.close().await.expect("close");
        let commits = Commits { states: vec![Default::default()] };
        let plain = std::array::from_fn(|_| Plain { sizes: vec![0], ..Plain::default() });
        Self { rng: Rng::new(seed ^ 0x5EED), disk, commits, plain, acknowledged: 0 }
    }

    /// Runs operations until the disk is gone or enough were done.
    async fn work(&mut self, engine: &Engine) -> foliant::Result<()> {
        let mut logged = Vec::new();
        for i in 0..LOGGED {
            logged.push(engine.object(logged_name(i)).await?);
        }
        let mut plain = Vec::new();
        for i in 0..PLAIN {
            plain.push(engine.object(plain_name(i)).await?);
        }
        for _ in 0..self.rng.below(60) + 5 {
            match self.rng.below(10) {
                0..=3 => self.commit(engine, &logged).await?,
                4 => self.sync(&plain).await?,
                _ => self.change(&plain).await?,
            }
        }
        Ok(())
    }

    async fn commit(&mut self, engine: &Engine, objects: &[Object]) -> foliant::Result<()> {
        let mut next = self.commits.states.last().expect("never empty").clone();
        let mut transaction = engine.transaction();
        for _ in 0..=self.rng.below(4) {
            let which = self.rng.below(LOGGED as u64) as usize;
            let len = self.length();
            let at = self.rng.below(BYTES_MAX / 2) as usize;
            let data = support::bytes(&mut self.rng, len);
            if transaction.write_at(&objects[which], at as u64, &data).is_err() {
                continue;
            }
            let end = next[which].len().max(at + len);
            next[which].resize(end, 0);
            next[which][at..at + len].copy_from_slice(&data);
        }
        self.commits.states.push(next);
        let commit = transaction.commit().await?;
        if self.rng.below(3) > 0 {
            commit.durable().await?;
            let last = self.commits.states.len() - 1;
            self.commits.states.drain(..last);
            self.acknowledged += 1;
        }
        Ok(())
    }

    fn length(&mut self) -> usize {
        match self.rng.below(4) {
            0 => self.rng.below(200) as usize + 1,
            1 => BLOCK,
            2 => self.rng.below(3 * BLOCK as u64) as usize + 1,
            _ => self.rng.below(30_000) as usize + 1,
        }
    }

    async fn change(&mut self, objects: &[Object]) -> foliant::Result<()> {
        let which = self.rng.below(PLAIN as u64) as usize;
        let size = self.plain[which].bytes.len() as u64;
        let (model, object) = (&mut self.plain[which], &objects[which]);
        match self.rng.below(10) {
            0 => {
                let to = self.rng.below(BYTES_MAX);
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
            _ => self.write(which, object).await,
        }
    }

    async fn write(&mut self, which: usize, object: &Object) -> foliant::Result<()> {
        let len = self.length();
        let at = self.rng.below(BYTES_MAX / 2) as usize;
        let data = support::bytes(&mut self.rng, len);
        self.plain[which].change(|b| {
            b.resize(b.len().max(at + len), 0);
            b[at..at + len].copy_from_slice(&data);
        });
        object.write_at(at as u64, &data).await
    }

    async fn sync(&mut self, objects: &[Object]) -> foliant::Result<()> {
        let which = self.rng.below(PLAIN as u64) as usize;
        objects[which].sync().await?;
        self.plain[which].synced();
        Ok(())
    }

    /// Compares the reopened volume with the model, and makes what was found the model.
    async fn check(&mut self, engine: &Engine) {
        let mut found: [Vec<u8>; LOGGED] = Default::default();
        for (i, bytes) in found.iter_mut().enumerate() {
            *bytes = read_all(engine, &logged_name(i)).await;
        }
        let known = self.commits.states.iter().rposition(|state| *state == found);
        let known = known.unwrap_or_else(|| self.explain(&found));
        self.commits.states = vec![self.commits.states.swap_remove(known)];
        for i in 0..PLAIN {
            let found = read_all(engine, &plain_name(i)).await;
            self.plain[i].check(&plain_name(i), &found);
            self.plain[i].bytes = found;
            self.plain[i].synced();
        }
    }

    fn explain(&self, found: &[Vec<u8>; LOGGED]) -> usize {
        for (n, state) in self.commits.states.iter().enumerate() {
            for (i, (want, got)) in state.iter().zip(found).enumerate() {
                let differ = want.iter().zip(got).position(|(a, b)| a != b);
                let sizes = (want.len(), got.len());
                eprintln!(
                    "after commit {n}: object {i} sizes {sizes:?}, first difference {differ:?}"
                );
            }
        }
        panic!("the logged objects are at no commit since the last acknowledged one");
    }
}

async fn read_all(engine: &Engine, name: &str) -> Vec<u8> {
    let object = engine.object(name).await.expect("the object exists");
    let mut bytes = vec![0; object.size() as usize];
    let read = object.read_at(0, &mut bytes).await.expect("every block can be read");
    assert_eq!(read, bytes.len(), "short read of {name}");
    bytes
}

/// One run: work, cut, reopen, check; several times over the same volume.
fn crash(seed: u64) -> u64 {
    support::simulate(async {
        let mut run = Run::new(seed).await;
        for _ in 0..=run.rng.below(3) {
            if run.rng.below(4) > 0 {
                let after = run.rng.below(400) + 1;
                run.disk.crash_after_requests(after);
            }
            // Opening may already meet the crash: recovery is cut as well.
            if let Ok(engine) = support::open(&run.disk).await {
                let _ = run.work(&engine).await;
                run.disk.power_cut();
                drop(engine);
            } else {
                run.disk.power_cut();
            }
            let engine = support::open(&run.disk).await.expect("a cut volume opens");
            run.check(&engine).await;
            engine.close().await.expect("close");
        }
        run.acknowledged
    })
}

#[test]
fn two_thousand_power_cuts_lose_nothing_acknowledged() {
    let acknowledged = std::sync::atomic::AtomicU64::new(0);
    support::for_seeds(SEEDS, |seed| {
        acknowledged.fetch_add(crash(seed), std::sync::atomic::Ordering::Relaxed);
    });
    let acknowledged = acknowledged.into_inner();
    println!("{} seeds, {acknowledged} acknowledged commits", SEEDS.end - SEEDS.start);
    assert!(acknowledged > 1_000, "the runs hardly committed anything");
}

#[test]
fn one_seed_replays_one_run() {
    assert_eq!(crash(42), crash(42));
}
