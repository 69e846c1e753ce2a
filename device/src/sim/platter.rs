//! Requests between their start and their end, on virtual time.
//!
//! A request is decided when it starts: its fault, when it takes effect, when it ends. Nothing runs
//! in the background; whoever comes next (a call, or a poll that is due) brings the platter up to
//! date. Guarantees: effects and ends happen in the order of their times, and of their numbers where
//! times are equal; at a cut every request in flight is unfinished. Random numbers are drawn in that
//! order only. Called by `disk` (controls) and `device` (requests).

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::collections::VecDeque;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::runtime;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::buffer::Buffer;
use crate::buffer::Segment;
use crate::contract::Persist;
use crate::error::DeviceError;
use crate::error::DeviceErrorKind;
use crate::error::Operation;
use crate::error::Result;
use crate::geometry::BLOCK_SIZE;
use crate::sim::image::Change;
use crate::sim::image::Image;
use crate::sim::options::SimOptions;
use crate::sim::plan::Fault;
use crate::sim::plan::Plan;
use crate::sim::request::Asked;
use crate::sim::request::Handle;
use crate::sim::request::Pending;
use crate::sim::request::Standing;
use crate::sim::request::Step;
use crate::sim::request::Work;
use crate::sim::rng::Rng;
use crate::sim::trace::Record;
use crate::sim::trace::Trace;

/// The medium and what is on its way to it; shared by all handles.
#[derive(Debug)]
pub(super) struct Platter {
    /// Held for the time of a copy, never across an await.
    state: Mutex<State>,
    /// Hanging requests go on, or will never.
    pub(super) changed: Notify,
}

impl Platter {
    pub(super) fn new(blocks: u64, options: SimOptions) -> Self {
        Self { state: Mutex::new(State::new(blocks, options)), changed: Notify::new() }
    }

    /// The same with a content.
    pub(super) fn with_image(blocks: u64, options: SimOptions, image: Image) -> Self {
        let state = State { image, ..State::new(blocks, options) };
        Self { state: Mutex::new(state), changed: Notify::new() }
    }

    /// Runs `work` on the state of now. Memory that it lets go is freed after the lock, because
    /// that wakes whoever waits for memory.
    pub(super) fn with<T>(&self, work: impl FnOnce(&mut State) -> T) -> T {
        let mut state = self.state.lock();
        // Outside of a runtime there is no virtual time, and the real one must not decide anything.
        if runtime::Handle::try_current().is_ok() {
            state.advance(Instant::now());
        }
        let result = work(&mut state);
        let litter = std::mem::take(&mut state.litter);
        drop(state);
        drop(litter);
        result
    }
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) options: SimOptions,
    pub(super) blocks: u64,
    pub(super) image: Image,
    pub(super) plan: Plan,
    pub(super) trace: Trace,
    pub(super) requests: u64,
    /// Requests that broke the caller's side of the treaty: started while one that overlaps was in
    /// flight, and at least one of the two changes something.
    pub(super) overlaps: u64,
    /// The disk as the last cut found it, with all that was on its way, if it is asked to keep that.
    pub(super) last_cut: Option<Image>,
    /// The power goes at the request with this number.
    pub(super) crash_at: Option<u64>,
    powered: bool,
    life: u64,
    handles: u64,
    rng: Rng,
    pending: BTreeMap<u64, Pending>,
    agenda: BTreeSet<(Instant, u64, Step)>,
    /// Writes that completed and that no flush has covered, in order of completion.
    completed: VecDeque<u64>,
    /// How many left `completed`, so that a flush can name its end.
    covered: u64,
    litter: Vec<(Vec<Buffer>, Vec<Segment>)>,
}

impl State {
    fn new(blocks: u64, options: SimOptions) -> Self {
        Self {
            rng: Rng::new(options.seed),
            trace: Trace::new(options.trace_records_max),
            options,
            blocks,
            image: Image::default(),
            plan: Plan::default(),
            requests: 0,
            overlaps: 0,
            last_cut: None,
            crash_at: None,
            powered: true,
            life: 0,
            handles: 0,
            pending: BTreeMap::new(),
            agenda: BTreeSet::new(),
            completed: VecDeque::new(),
            covered: 0,
            litter: Vec::new(),
        }
    }

    /// A new handle. While the power is off it is dead for ever.
    pub(super) fn plug(&mut self) -> Handle {
        self.handles += 1;
        let life = if self.powered { self.life } else { u64::MAX };
        Handle { number: self.handles, life }
    }

    pub(super) fn is_powered(&self) -> bool {
        self.powered
    }

    /// Requests that have not ended.
    pub(super) fn in_flight(&self) -> usize {
        self.pending.values().filter(|p| p.outcome.is_none()).count()
    }

    /// Starts a request. A dead handle gets it back with the error.
    pub(super) fn start(&mut self, asked: Asked) -> std::result::Result<u64, (Work, DeviceError)> {
        if !self.powered || asked.handle.life != self.life {
            let error = asked.error(DeviceErrorKind::Gone, "the power went while it was attached");
            return Err((asked.work, error));
        }
        self.requests += 1;
        let id = self.requests;
        self.record(&asked);
        self.overlaps += u64::from(self.pending.values().any(|p| p.collides_with(&asked)));
        let fault = self.plan.strike(asked.operation, asked.block, asked.count);
        let slower = if let Some(Fault::Delay { ms }) = fault { ms } else { 0 };
        let latency_ms = self.rng.below(self.options.latency_ms_max + 1);
        let effect_ms = self.rng.below(latency_ms + 1);
        let pending = Pending {
            asked,
            fault,
            took_effect: false,
            end_at: None,
            effect_ms: effect_ms + slower,
            end_ms: latency_ms + slower,
            covers: self.covered + self.completed.len() as u64,
            outcome: None,
            orphaned: false,
        };
        self.pending.insert(id, pending);
        if self.crash_at == Some(id) {
            self.cut();
        } else if fault != Some(Fault::Hang) {
            let now = Instant::now();
            self.schedule(id, now);
            self.advance(now);
        }
        Ok(id)
    }

    fn record(&mut self, asked: &Asked) {
        let persist = match asked.work {
            Work::Change { persist, .. } if asked.operation == Operation::Write => Some(persist),
            _ => None,
        };
        self.trace.start(Record {
            request: self.requests,
            operation: asked.operation,
            block: asked.block,
            count: asked.count,
            persist,
            started: 0,
            ended: None,
            failed: false,
        });
    }

    fn schedule(&mut self, id: u64, now: Instant) {
        let pending = self.pending.get_mut(&id).expect("it is in flight");
        let end = now + Duration::from_millis(pending.end_ms);
        pending.end_at = Some(end);
        self.agenda.insert((now + Duration::from_millis(pending.effect_ms), id, Step::Effect));
        self.agenda.insert((end, id, Step::End));
    }

    /// Lets everything happen whose time has come.
    fn advance(&mut self, now: Instant) {
        while let Some(&(at, id, step)) = self.agenda.first() {
            if at > now {
                return;
            }
            self.agenda.pop_first();
            match step {
                Step::Effect => self.take_effect(id),
                Step::End => self.end(id),
            }
        }
    }

    fn take_effect(&mut self, id: u64) {
        let pending = self.pending.get_mut(&id).expect("it is in flight");
        pending.took_effect = true;
        let block = match pending.fault {
            Some(Fault::Misdirect { to }) => to,
            _ => pending.asked.block,
        };
        let partly = match pending.fault {
            Some(Fault::Lose) => return,
            Some(Fault::Fail(DeviceErrorKind::Io)) => true,
            Some(Fault::Fail(_)) => return,
            _ => false,
        };
        let flipped = match pending.fault {
            Some(Fault::Flip { bit }) => Some(bit),
            _ => None,
        };
        match &mut pending.asked.work {
            Work::Read(_) if partly => {}
            Work::Read(into) => {
                fill(&self.image, block, into);
                flipped.into_iter().for_each(|bit| flip(into, bit));
            }
            Work::Change { change, .. } if partly => {
                let change = self.image.torn(block, change, &mut self.rng);
                self.image.apply(id, block, &change);
            }
            Work::Change { change, .. } => {
                flipped.into_iter().for_each(|bit| change.flip(bit));
                self.image.apply(id, block, change);
            }
            Work::Flush => {}
        }
    }

    fn end(&mut self, id: u64) {
        let pending = &self.pending[&id];
        let asked = &pending.asked;
        let outcome = match pending.fault {
            Some(Fault::Fail(kind)) => Err(asked.error(kind, "as the fault plan says")),
            _ => Ok(()),
        };
        let lost = pending.fault == Some(Fault::Lose);
        match (&asked.work, &outcome) {
            (Work::Change { persist: Persist::Durable, .. }, Ok(())) => self.image.stabilize(id),
            (Work::Change { .. }, Ok(())) if self.options.volatile_cache => {
                self.completed.push_back(id);
            }
            (Work::Change { .. }, Ok(())) => self.image.stabilize(id),
            (Work::Flush, _) if lost || self.options.flush_lies => {}
            (Work::Flush, outcome) => self.cover(pending.covers, outcome.is_ok()),
            _ => {}
        }
        self.conclude(id, outcome);
    }

    /// A flush ended: the writes that completed before it are stable, or will never be.
    fn cover(&mut self, covers: u64, stable: bool) {
        while self.covered < covers {
            let Some(write) = self.completed.pop_front() else { break };
            self.covered += 1;
            if stable {
                self.image.stabilize(write);
            }
        }
    }

    fn conclude(&mut self, id: u64, outcome: Result<()>) {
        self.trace.end(id, outcome.is_err());
        let pending = self.pending.get_mut(&id).expect("it is in flight");
        pending.outcome = Some(outcome);
        if pending.orphaned {
            self.litter.push(pending.asked.work.take_memory());
            self.pending.remove(&id);
        }
    }

    /// Takes the power away: nothing in flight finishes, and every handle is dead.
    fn cut(&mut self) {
        self.agenda.clear();
        self.completed.clear();
        self.covered = 0;
        let unfinished: Vec<u64> =
            self.pending.iter().filter(|(_, p)| p.outcome.is_none()).map(|(&id, _)| id).collect();
        for &id in &unfinished {
            // What has not taken effect is as likely to arrive as what is cached.
            if !self.pending[&id].took_effect {
                self.take_effect_in_part(id);
            }
        }
        if self.options.keeps_cuts {
            self.last_cut = Some(self.image.clone());
        }
        self.image.cut(&mut self.rng);
        for id in unfinished {
            let gone = self.pending[&id].asked.error(DeviceErrorKind::Gone, "the power went");
            self.conclude(id, Err(gone));
        }
        self.powered = false;
        self.life += 1;
        self.crash_at = None;
    }

    fn take_effect_in_part(&mut self, id: u64) {
        let pending = &self.pending[&id];
        if let (Work::Change { change, .. }, None | Some(Fault::Delay { .. } | Fault::Hang)) =
            (&pending.asked.work, pending.fault)
        {
            self.image.apply(id, pending.asked.block, change);
        }
    }

    /// Cuts the power unless it is off already.
    pub(super) fn power_off(&mut self) {
        if self.powered {
            self.cut();
        }
    }

    /// Cuts the power unless it is off already, and gives it back.
    pub(super) fn power_cut(&mut self) {
        self.power_off();
        self.crash_at = None;
        self.powered = true;
    }

    /// Lets hanging requests go on from now.
    pub(super) fn release(&mut self) {
        let hangs = |p: &Pending| p.outcome.is_none() && p.end_at.is_none();
        let hanging: Vec<u64> =
            self.pending.iter().filter(|(_, p)| hangs(p)).map(|(&id, _)| id).collect();
        let now = Instant::now();
        for id in hanging {
            self.schedule(id, now);
            if self.pending[&id].orphaned {
                self.orphan(id);
            }
        }
        self.advance(now);
    }

    /// Takes a request that is over, or says when to ask again.
    pub(super) fn take(&mut self, id: u64) -> Standing {
        let pending = self.pending.get(&id).expect("a future takes its request once");
        if pending.outcome.is_none() {
            return pending.end_at.map_or(Standing::Hangs, Standing::Until);
        }
        let pending = self.pending.remove(&id).expect("just looked");
        Standing::Over(pending.asked.work, pending.outcome.expect("just looked"))
    }

    /// Nobody waits for it any more. It goes on without its memory, for which nobody would come back:
    /// nothing here runs by itself. One that hangs keeps it until it is released.
    pub(super) fn orphan(&mut self, id: u64) {
        let pending = self.pending.get_mut(&id).expect("a future takes its request once");
        pending.orphaned = true;
        if pending.outcome.is_some() || pending.end_at.is_some() {
            self.litter.push(pending.asked.work.take_memory());
        }
        if pending.outcome.is_some() {
            self.pending.remove(&id);
        }
    }

    /// When the last request of a handle that is in flight ends.
    pub(super) fn busy(&self, handle: Handle) -> Option<Standing> {
        let mut last = None;
        let own = |p: &&Pending| p.asked.handle == handle && p.outcome.is_none();
        for pending in self.pending.values().filter(own) {
            let Some(end_at) = pending.end_at else { return Some(Standing::Hangs) };
            last = last.max(Some(end_at));
        }
        last.map(Standing::Until)
    }

    /// A discard leaves the old bytes, zeroes, or rubbish: the caller must not care.
    pub(super) fn discarded(&mut self, count: u64) -> Change {
        const RUBBISH_BLOCKS_MAX: u64 = 64;
        match self.rng.below(3) {
            0 => Change::Pages(Vec::new()),
            1 => Change::Zero(count),
            _ => {
                let rubbish = crate::sim::image::page(&[0xDC; BLOCK_SIZE]);
                let blocks = count.min(RUBBISH_BLOCKS_MAX);
                Change::Pages(vec![rubbish; blocks as usize])
            }
        }
    }
}

/// Changes one bit of what was read.
fn flip(into: &mut [Buffer], bit: u64) {
    let bytes = into.iter().map(|buffer| buffer.len() as u64).sum::<u64>().max(1);
    let mut at = bit / 8 % bytes;
    for buffer in into {
        let len = buffer.len() as u64;
        if at < len {
            let bytes = buffer.get_mut().expect("the handle checked that read buffers are unique");
            bytes[at as usize] ^= 1 << (bit % 8);
            return;
        }
        at -= len;
    }
}

fn fill(image: &Image, mut block: u64, into: &mut [Buffer]) {
    for buffer in into {
        let bytes = buffer.get_mut().expect("the handle checked that read buffers are unique");
        for chunk in bytes.chunks_exact_mut(BLOCK_SIZE) {
            match image.read(block) {
                Some(page) => chunk.copy_from_slice(&page[..]),
                None => chunk.fill(0),
            }
            block += 1;
        }
    }
}
