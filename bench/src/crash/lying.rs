//! A disk that lies: it loses writes that it acknowledged and flushed, puts them or looks for them elsewhere,
//! and changes bits, on the way and at rest, in each zone.
//!
//! A single machine cannot repair what such a disk does; the promise is detection: what a read returns
//! is what the model allows, or the read fails with a type; so does opening; a look at the store ends in a report.
//! Where the last groups of the log are damaged, what they held is lost without anybody knowing: then blocks and
//! commits may be older (`engine::doc::faults`). Guarantees that a seed replays a run. Called by a test and by `soak`.

use std::ops::Range;
use std::time::Duration;

use foliant::Engine;
use foliant::Error;
use foliant::ErrorKind;
use foliant::check::Fault;
use foliant::check::Options;
use foliant::check::check;
use foliant_device::Device;
use foliant_device::error::Operation;
use foliant_device::sim::Fault as Lies;
use foliant_device::sim::FaultRule;
use foliant_device::sim::SimDisk;

use super::ground::BLOCK;
use super::ground::JOURNAL_BYTES;
use super::ground::open;
use super::ground::simulate;
use super::run::MIXED;
use super::run::PLAIN;
use super::run::Plan;
use super::run::Run;
use super::run::loose_name;
use super::tally::Tally;

/// Where a lie is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Zone {
    /// Both copies of the superblock: one of them at a time.
    Superblock,
    /// The ring and its headers.
    Journal,
    /// The root block, the group block and the blocks of checksums.
    Metadata,
    /// Data, and nodes of trees.
    Home,
    /// Places that one object has for its data.
    Data,
}

/// What a lie is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lie {
    /// A write is acknowledged, and never there.
    LostWrite,
    /// A write goes elsewhere in its zone.
    MisdirectedWrite,
    /// A read comes from elsewhere in its zone.
    MisdirectedRead,
    /// A bit changes on the way to the medium.
    FlippedWrite,
    /// A bit changes on the way back.
    FlippedRead,
    /// A bit changes at rest.
    Rot,
}

/// Most lies are told where most blocks are.
const ZONES: [Zone; 8] = [
    Zone::Superblock,
    Zone::Journal,
    Zone::Journal,
    Zone::Metadata,
    Zone::Metadata,
    Zone::Home,
    Zone::Home,
    Zone::Data,
];
const LIES: [Lie; 6] = [
    Lie::LostWrite,
    Lie::MisdirectedWrite,
    Lie::MisdirectedRead,
    Lie::FlippedWrite,
    Lie::FlippedRead,
    Lie::Rot,
];
const RING: u64 = 32;
const GROUP: u64 = RING + JOURNAL_BYTES / BLOCK as u64;
const HOME: u64 = GROUP + 33;
/// Nothing of a run waits longer, in virtual time.
const BOUND: Duration = Duration::from_secs(24 * 3_600);
/// How what a lying disk did may be told.
const KINDS: [ErrorKind; 4] =
    [ErrorKind::Corrupt, ErrorKind::WritesStopped, ErrorKind::NotAStore, ErrorKind::Incompatible];
/// And where it left blocks as they were before: a name without its object, space that is not free.
const KINDS_OF_OLD: [ErrorKind; 3] =
    [ErrorKind::NotFound, ErrorKind::AlreadyExists, ErrorKind::NoSpace];

impl Zone {
    fn blocks(self, disk: &SimDisk, pick: u64) -> Range<u64> {
        match self {
            Self::Superblock if pick.is_multiple_of(2) => 0..1,
            Self::Superblock => 16..17,
            Self::Journal if pick.is_multiple_of(4) => 8..10,
            Self::Journal => RING..GROUP,
            Self::Metadata if pick.is_multiple_of(4) => 24..25,
            Self::Metadata => GROUP..GROUP + 4,
            Self::Home | Self::Data => HOME..disk.blocks().min(HOME + 260),
        }
    }
}

/// A reader may find it damaged; nothing else.
#[track_caller]
fn is_typed(what: &str, cause: &Error, old: bool) {
    let kind = cause.kind();
    let told = KINDS.contains(&kind) || (old && KINDS_OF_OLD.contains(&kind));
    assert!(told, "{what}: {cause:?}");
}

struct Liar {
    run: Run,
    zone: Zone,
    lie: Lie,
    data: Option<Range<u64>>,
}

impl Drop for Liar {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the lie: {:?} in {:?}", self.lie, self.zone);
        }
    }
}

impl Liar {
    async fn new(plan: &Plan) -> Self {
        let mut run = Run::new(plan).await;
        let zone = ZONES[run.rng.below(ZONES.len() as u64) as usize];
        let lie = LIES[run.rng.below(6) as usize];
        // Where the last groups of the log are damaged, nobody can know that there was more.
        run.keeps = zone == Zone::Journal;
        let keeps = run.keeps;
        run.loose.iter_mut().for_each(|loose| loose.keeps = keeps);
        Self { run, zone, lie, data: None }
    }

    /// Gives an object places of its own, so that what is written there is data.
    async fn settle(&mut self, engine: &Engine) {
        let object = engine.object(loose_name(0)).await.expect("the object exists");
        let whole = 0..40 * BLOCK as u64;
        if let Err(cause) = object.preallocate(whole.clone()).await {
            assert!(cause.is_no_space(), "the disk is sound yet: {cause}");
        }
        object.sync().await.expect("the disk is sound yet");
        self.run.loose[0].synced();
        let extents = object.extents(whole, 100).await.expect("the disk is sound yet");
        self.data = extents.iter().find_map(|extent| {
            let start = extent.device_offset? / BLOCK as u64;
            Some(start..start + (extent.range.end - extent.range.start).div_ceil(BLOCK as u64))
        });
    }

    fn blocks(&mut self) -> Range<u64> {
        let pick = self.run.rng.next_u64();
        let all = self.zone.blocks(&self.run.disk, pick);
        match (self.zone, &self.data) {
            (Zone::Data, Some(data)) => data.clone(),
            _ => all,
        }
    }

    fn begin(&mut self) {
        let blocks = self.blocks();
        let rng = &mut self.run.rng;
        let to = blocks.start + rng.below(blocks.end - blocks.start);
        let bit = rng.below(8 * 64 * BLOCK as u64);
        let (operation, fault, nth) = match self.lie {
            Lie::LostWrite => (Operation::Write, Lies::Lose, rng.below(20)),
            Lie::MisdirectedWrite => (Operation::Write, Lies::Misdirect { to }, rng.below(20)),
            Lie::MisdirectedRead => (Operation::Read, Lies::Misdirect { to }, rng.below(12)),
            Lie::FlippedWrite => (Operation::Write, Lies::Flip { bit }, rng.below(20)),
            Lie::FlippedRead => (Operation::Read, Lies::Flip { bit }, rng.below(12)),
            Lie::Rot => return,
        };
        let times = [1, 2, 10][rng.below(3) as usize];
        let rule = FaultRule::new(fault).on(operation).blocks(blocks);
        let rule = self.run.disk.inject(rule.after(nth).times(times));
        self.run.fault = Some((rule, self.name()));
    }

    fn name(&self) -> &'static str {
        match self.lie {
            Lie::LostWrite => "lost writes",
            Lie::MisdirectedWrite => "misdirected writes",
            Lie::MisdirectedRead => "misdirected reads",
            Lie::FlippedWrite => "bits flipped in writes",
            Lie::FlippedRead => "bits flipped in reads",
            Lie::Rot => "bits flipped at rest",
        }
    }

    /// Bits of blocks that hold something change at rest.
    fn rot(&mut self) {
        let blocks = self.blocks();
        let run = &mut self.run;
        let used = blocks.filter(|&at| run.disk.peek(at).iter().any(|&b| b != 0));
        let used: Vec<u64> = used.collect();
        if used.is_empty() {
            return;
        }
        for _ in 0..=run.rng.below(3) {
            let at = used[run.rng.below(used.len() as u64) as usize];
            let (byte, bit) = (run.rng.below(BLOCK as u64), run.rng.below(8));
            run.disk.flip(at, byte as usize, bit as u8);
            run.tally.add("bits flipped at rest", 1);
        }
    }

    /// Works while the disk lies, and reads all of it again behind a cut or a close.
    async fn live(&mut self) {
        let engine = match open(&self.run.disk).await {
            Ok(engine) => engine,
            Err(cause) => return self.detected("open", &cause),
        };
        let worked = self.run.work(&engine).await;
        // A tight disk is full at times; whether the lie lost space, a look tells.
        if let Err(cause) = &worked
            && !cause.is_no_space()
        {
            self.detected("a verb", cause);
        }
        if self.run.rng.below(2) == 0 {
            if let Err(cause) = engine.sync().await {
                self.detected("a sync", &cause);
            } else if worked.is_ok() {
                // A verb that failed may have been done or not; then so may what is durable.
                self.run.loose.iter_mut().for_each(|loose| loose.synced());
            }
        }
        if self.run.rng.below(2) == 0
            && let Err(cause) = engine.close().await
        {
            self.detected("close", &cause);
        }
        self.run.disk.power_cut();
        self.run.tally.add("power cuts", 1);
    }

    fn detected(&mut self, what: &str, cause: &Error) {
        is_typed(what, cause, self.run.keeps);
        self.run.tally.add("lies that were detected", 1);
    }

    /// What can be read now is right.
    async fn judge(&mut self) {
        let device = Device::new(self.run.disk.attach());
        let options = Options { memory_bytes: 2 << 20, ..Options::default() };
        match check(&device, &options).await {
            Ok(report) if !report.is_sound() => {
                let lost = self.lie == Lie::LostWrite && self.zone != Zone::Journal;
                let data = report.count(Fault::Data) + report.count(Fault::Superblock);
                assert!(!lost || data == report.total(), "structures lost a write:\n{report}");
                self.run.tally.add("stores found damaged", 1);
            }
            Ok(_) => {}
            Err(cause) => self.detected("check", &cause),
        }
        let engine = match open(&self.run.disk).await {
            Ok(engine) => engine,
            Err(cause) => return self.detected("open", &cause),
        };
        let names = match engine.list("", 100).await {
            Ok(names) => names,
            Err(cause) => return self.detected("list", &cause),
        };
        let mut logged = Vec::new();
        for name in names {
            let name = String::from_utf8(name).expect("names of ours");
            let Some((size, blocks)) = self.read(&engine, &name).await else { continue };
            match (0..PLAIN + MIXED).find(|&i| loose_name(i) == name) {
                Some(i) => {
                    let loose = &self.run.loose[i];
                    loose.check_size(&name, size);
                    blocks.iter().for_each(|(at, block)| loose.check_block(&name, *at, block));
                }
                None => logged.push((name, size, blocks)),
            }
        }
        self.judge_logged(&logged);
    }

    /// Some commit explains all of them at once; behind a damaged log, some commit explains each block.
    fn judge_logged(&self, logged: &[(String, usize, Blocks)]) {
        let states = &self.run.commits.states;
        let fits = |state: &super::model::Names, name: &String, size: usize, blocks: &[_]| {
            let same = |content: &Vec<u8>, (at, block): &(u64, Vec<u8>)| {
                content.chunks(BLOCK).nth(*at as usize) == Some(&block[..])
            };
            state.get(name).is_some_and(|content| {
                content.len() == size && blocks.iter().all(|block| same(content, block))
            })
        };
        if !self.run.keeps {
            let all = |state| logged.iter().all(|(n, size, blocks)| fits(state, n, *size, blocks));
            assert!(states.iter().any(all), "no commit explains the logged objects");
        }
        for (name, size, blocks) in logged {
            for block in blocks {
                let one = std::slice::from_ref(block);
                let is = |state: &super::model::Names| {
                    state.get(name).is_some_and(|content| {
                        fits(state, name, content.len(), one)
                            || content.chunks(BLOCK).nth(block.0 as usize).is_some_and(|c| {
                                let len = c.len().min(block.1.len());
                                c[..len] == block.1[..len]
                            })
                    })
                };
                let known = states.iter().any(is) || block.1.iter().all(|&b| b == 0);
                assert!(known, "{name} of {size} bytes: block {} never was so", block.0);
            }
        }
    }

    /// What of an object can be read, block by block.
    async fn read(&mut self, engine: &Engine, name: &str) -> Option<(usize, Blocks)> {
        let object = match engine.object(name).await {
            Ok(object) => object,
            Err(cause) => {
                self.detected("open an object", &cause);
                return None;
            }
        };
        let size = object.size() as usize;
        let mut blocks = Vec::new();
        for at in 0..size.div_ceil(BLOCK) {
            let mut block = vec![0; BLOCK.min(size - at * BLOCK)];
            match object.read_at((at * BLOCK) as u64, &mut block).await {
                Ok(read) => {
                    assert_eq!(read, block.len(), "short read of {name}");
                    blocks.push((at as u64, block));
                }
                Err(cause) => self.detected("a read", &cause),
            }
        }
        Some((size, blocks))
    }
}

type Blocks = Vec<(u64, Vec<u8>)>;

/// One run: work on a sound disk, work on a lying one, and a look at what is left.
///
/// # Panics
/// If something wrong was returned, or something did not end.
pub fn lying(seed: u64) -> Tally {
    let plan = Plan { fails: false, ..Plan::new(seed) };
    simulate(async {
        let work = async {
            let mut liar = Liar::new(&plan).await;
            let engine = open(&liar.run.disk).await.expect("a fresh volume opens");
            liar.run.work(&engine).await.expect("the disk is sound yet");
            if liar.zone == Zone::Data {
                liar.settle(&engine).await;
            }
            engine.close().await.expect("close");
            liar.begin();
            liar.live().await;
            if liar.lie == Lie::Rot {
                liar.rot();
            }
            liar.judge().await;
            if let Some((rule, name)) = liar.run.fault {
                liar.run.tally.add(name, liar.run.disk.struck(rule));
            }
            liar.run.tally.clone()
        };
        tokio::time::timeout(BOUND, work).await.expect("something hangs")
    })
}
