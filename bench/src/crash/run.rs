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
//! others come by. Some volumes are so small that freed blocks are used again at once, and that there is
//! no space at times; an operation that is refused must leave what a read then shows. At times memory is
//! so short that reclaim takes all it may (`squeeze`), and several tasks work on one object (`squall`).
//!
//! In a third of the runs blocks are moved all the time, by `clean` and `defragment`.
//!
//! Between cuts the disk fails at times, once or for ever, with an error or by being slow; recovery is
//! cut up to three times. One seed replays one run. Called by tests and by `soak`.

use foliant::Engine;
use foliant::Error;
use foliant::ErrorKind;
use foliant::Object;
use foliant::Result;
use foliant_device::error::DeviceErrorKind;
use foliant_device::error::Operation;
use foliant_device::sim::Fault;
use foliant_device::sim::FaultRule;
use foliant_device::sim::Rng;
use foliant_device::sim::RuleId;
use foliant_device::sim::SimDisk;
use foliant_device::sim::SimOptions;

use super::ground::BLOCK;
use super::ground::DEVICE_BLOCKS;
use super::ground::DEVICE_BLOCKS_TIGHT;
use super::ground::JOURNAL_BYTES;
use super::ground::MEMORY_BYTES;
use super::ground::format;
use super::ground::is_sound;
use super::ground::open;
use super::ground::simulate;
use super::model::Commits;
use super::model::Loose;
use super::moves::Mover;
use super::tally::Tally;

pub(super) const LOGGED: usize = 3;
pub(super) const PLAIN: usize = 3;
pub(super) const MIXED: usize = 2;
pub(super) const BYTES_MAX: u64 = 160 * 1024;
/// Names that transactions make and take away, at most.
pub(super) const MADE: u64 = 4;
/// Of what a round is made: all kinds of steps, or those alone that take little time.
const KINDS_ALL: u64 = 17;
const KINDS_CALM: u64 = 12;
/// Kinds with which a failing device may end a verb.
const FAILURES: [ErrorKind; 3] = [ErrorKind::Device, ErrorKind::WritesStopped, ErrorKind::NoSpace];
/// Bytes of the largest piece of memory.
const PIECE_BYTES: usize = 512 * BLOCK;

/// What the feature `testing` of the engine adds to a run.
#[derive(Debug, Clone, Copy)]
pub struct Hooks {
    /// Delays some of those who pass a named place, as the seed says, or nobody.
    pub sway: fn(Option<u64>),
    /// Cuts the power of the disk at a named place that the number chooses, or nowhere.
    pub cut: fn(Option<(SimDisk, u64)>),
}

/// How to run.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Decides everything.
    pub seed: u64,
    /// Half of the plain writes go past the cache.
    pub direct: bool,
    /// After each cut the whole store is looked at; else the model alone notices.
    pub looks: bool,
    /// The disk fails at times.
    pub fails: bool,
    /// Delays and cuts at named places.
    pub hooks: Option<Hooks>,
}

impl Plan {
    /// All but direct requests and hooks.
    pub fn new(seed: u64) -> Self {
        Self { seed, direct: false, looks: true, fails: true, hooks: None }
    }
}

#[derive(Clone)]
pub(super) struct Run {
    /// As in the plan.
    pub(super) seed: u64,
    pub(super) rng: Rng,
    pub(super) disk: SimDisk,
    pub(super) commits: Commits,
    pub(super) loose: [Loose; PLAIN + MIXED],
    pub(super) tally: Tally,
    pub(super) direct: bool,
    /// Nothing is forgotten: what it ever was is allowed.
    pub(super) keeps: bool,
    /// The rule by which the disk fails now, and its name.
    pub(super) fault: Option<(RuleId, &'static str)>,
}

pub(super) struct Handles {
    pub(super) logged: Vec<Object>,
    pub(super) loose: Vec<Object>,
}

pub(super) fn logged_name(i: usize) -> String {
    format!("logged-{i}")
}

pub(super) fn loose_name(i: usize) -> String {
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

/// Takes so much memory that reclaim has to give back what it may, and lets go of it again.
pub(super) async fn squeeze(engine: &Engine) {
    let mut taken = Vec::new();
    let mut len = PIECE_BYTES;
    let mut used = 0;
    while len >= BLOCK && used + len <= MEMORY_BYTES as usize {
        // Who lacks memory waits for half a minute; here the next smaller piece does.
        let patience = std::time::Duration::from_millis(20);
        match tokio::time::timeout(patience, engine.direct_buffer(len)).await {
            Ok(Ok(buffer)) => {
                taken.push(buffer);
                used += len;
            }
            _ => len /= 8,
        }
    }
}

impl Run {
    pub(super) async fn new(plan: &Plan) -> Self {
        let seed = plan.seed;
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
        Self {
            seed,
            rng: Rng::new(seed ^ 0x5EED),
            disk,
            commits: Commits { states: vec![names] },
            loose: std::array::from_fn(|i| Loose::new(i >= PLAIN)),
            tally: Tally::default(),
            direct: plan.direct,
            keeps: false,
            fault: None,
        }
    }

    pub(super) async fn handles(&self, engine: &Engine) -> Result<Handles> {
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
    pub(super) async fn work(&mut self, engine: &Engine) -> Result<()> {
        let handles = self.handles(engine).await?;
        let mover = Mover::start(self.seed, engine, &handles.loose);
        let done = self.steps(engine, &handles).await;
        self.tally.add("moved blocks", engine.stats().moved_bytes / BLOCK as u64);
        mover.stop().await;
        done
    }

    async fn steps(&mut self, engine: &Engine, handles: &Handles) -> Result<()> {
        // Squalls and squeezes take time in which the log is worked off: some rounds are without them, so
        // that it is full when the power goes.
        let kinds = if self.rng.below(2) == 0 { KINDS_CALM } else { KINDS_ALL };
        for _ in 0..self.rng.below(80) + 5 {
            match self.rng.below(kinds) {
                0..=2 => self.commit(engine, handles, false).await?,
                3 => {
                    for _ in 0..self.rng.below(4) + 2 {
                        self.commit(engine, handles, true).await?;
                    }
                }
                4 => self.sync(&handles.loose).await?,
                5..=11 => self.change(engine, &handles.loose).await?,
                12 => {
                    squeeze(engine).await;
                    self.tally.add("squeezes", 1);
                }
                13 | 14 => self.look(engine).await?,
                _ => self.squall(engine, handles).await?,
            }
        }
        Ok(())
    }

    /// Much at once, and a cut while it is on its way home.
    pub(super) async fn burst(&mut self, engine: &Engine) -> Result<()> {
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

    /// Plans a failure of the disk for the round that begins.
    fn begin_to_fail(&mut self) {
        let kind = self.rng.below(6);
        let nth = self.rng.below([150, 150, 20, 12, 150, 200][kind as usize]);
        let often = [1, 2, u64::MAX][self.rng.below(3) as usize];
        let slow_ms = self.rng.below(10_000);
        let (io, full) = (DeviceErrorKind::Io, DeviceErrorKind::NoSpace);
        let (name, rule) = match kind {
            0 => ("write EIO", FaultRule::fail(io).on(Operation::Write)),
            1 => ("write ENOSPC", FaultRule::fail(full).on(Operation::Write)),
            2 => ("flush EIO", FaultRule::fail(io).on(Operation::Flush)),
            3 => ("read EIO", FaultRule::fail(io).on(Operation::Read)),
            4 => ("slow", FaultRule::new(Fault::Delay { ms: slow_ms })),
            _ => ("any EIO", FaultRule::fail(io)),
        };
        let rule = self.disk.inject(rule.after(nth).times(often));
        self.fault = Some((rule, name));
    }

    /// Whether an error of the device explains what happens now.
    pub(super) fn failing(&self) -> bool {
        self.fault.is_some_and(|(rule, name)| name != "slow" && self.disk.struck(rule) > 0)
    }

    /// A verb was refused: the power is gone, or the disk failed.
    fn explained(&mut self, cause: &Error) {
        if self.disk.is_powered() {
            assert!(self.failing(), "refused with the power on: {cause}");
            assert!(FAILURES.contains(&cause.kind()), "a failing disk is told so: {cause:?}");
            self.tally.add("verbs that a failing disk ended", 1);
        }
    }

    fn stop_failing(&mut self) {
        if let Some((rule, name)) = self.fault.take() {
            self.tally.add(name, self.disk.struck(rule));
            self.disk.withdraw(rule);
        }
    }

    fn cut(&mut self) {
        self.disk.power_cut();
        self.tally.add("power cuts", 1);
    }

    /// Recovers, and is cut off in it, again and again.
    async fn cut_recoveries(&mut self) {
        for _ in 0..self.rng.below(4) {
            let after = self.rng.below(40) + 1;
            self.disk.crash_after_requests(after);
            let opened = open(&self.disk).await;
            if let Err(cause) = &opened {
                self.explained(cause);
                self.tally.add("cuts inside recovery", 1);
            }
            self.cut();
        }
    }

    /// Work, a cut, recovery, a look.
    async fn round(&mut self, plan: &Plan) {
        if plan.fails && self.rng.below(3) == 0 {
            self.begin_to_fail();
        }
        match (self.rng.below(4), plan.hooks) {
            (0, Some(hooks)) => {
                (hooks.cut)(Some((self.disk.clone(), self.rng.next_u64())));
            }
            (0 | 1, _) => {}
            _ => {
                let after = self.rng.below(400) + 1;
                self.disk.crash_after_requests(after);
            }
        }
        // Opening may already meet the crash: recovery is cut as well.
        match open(&self.disk).await {
            Ok(engine) => {
                if let Err(cause) = self.work(&engine).await {
                    self.explained(&cause);
                }
                self.cut();
                drop(engine);
            }
            Err(cause) => {
                self.explained(&cause);
                self.cut();
                self.tally.add("cuts inside recovery", 1);
            }
        }
        if let Some(hooks) = plan.hooks {
            (hooks.cut)(None);
        }
        self.stop_failing();
        self.cut_recoveries().await;
        if plan.looks {
            is_sound(&self.disk, true).await;
        }
        let engine = open(&self.disk).await.expect("a cut volume opens");
        self.check(&engine).await;
        engine.close().await.expect("close");
    }
}

/// One run: work, cut, reopen, check; several times over the same volume.
pub fn run(plan: &Plan) -> Tally {
    if let Some(hooks) = plan.hooks {
        (hooks.cut)(None);
        (hooks.sway)((plan.seed % 4 < 2).then_some(plan.seed));
    }
    let tally = simulate(async {
        let mut run = Run::new(plan).await;
        for _ in 0..=run.rng.below(4) {
            run.round(plan).await;
        }
        run.tally.add("requests of the disk", run.disk.requests());
        run.tally
    });
    if let Some(hooks) = plan.hooks {
        (hooks.sway)(None);
    }
    tally
}

/// One run as it should be.
pub fn crash(seed: u64) -> Tally {
    run(&Plan::new(seed))
}

/// The same without a look at the whole store: what the model alone notices.
pub fn crash_seen_by_the_model(seed: u64) -> Tally {
    run(&Plan { looks: false, ..Plan::new(seed) })
}

/// The same, with half of the plain writes past the cache.
pub fn crash_past_the_cache(seed: u64) -> Tally {
    run(&Plan { direct: true, ..Plan::new(seed) })
}
