//! The log's writing side: takes transactions, gives them positions and room, says what is durable.
//!
//! Guarantees: positions are given in the order of appends; log room is waited for before, so that an append
//! never fails; who waits for a position hears of it or of the cause that writes are stopped.
//!
//! Room is first come, first served, without a queue of its own: who waits for it has the metadata lock, which is
//! fair, and nobody else appends meanwhile. So a large transaction waits for the tail alone, never for small ones
//! that came behind it, and what it waited for is still there when it appends.
//!
//! Does not write groups (`flights` does), does not know what a payload means, and does not decide when the
//! tail moves. Called by `meta`.

use std::collections::BTreeMap;
use std::collections::VecDeque;
use std::sync::Arc;

use foliant_device::Device;
use foliant_device::Persist;
use foliant_device::Segment;
use futures_util::StreamExt;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::error::Error;
use crate::error::ErrorKind;
use crate::error::Result;
use crate::format::journal_header::Slot;
use crate::format::layout::Layout;
use crate::journal::ring::Ring;
use crate::journal::slots;
use crate::journal::state::JournalStats;
use crate::journal::state::Pending;
use crate::journal::state::State;
use crate::journal::state::footprint;
use crate::kit::canary::Canary;
use crate::kit::canary::is_broken;
use crate::kit::memory::Memory;
use crate::kit::memory::Purpose;
use crate::kit::poison::Poison;
use crate::kit::watermark::Watermark;
use crate::limits::JOURNAL_GROUPS_IN_FLIGHT;
use crate::limits::LOG_ROOM_WAIT;
use crate::units::BLOCK;
use crate::units::LogPosition;
use crate::units::Lsn;

/// Blocks in one write while the region is formatted (256 KiB).
const FORMAT_ORDER: u8 = 6;
/// Such writes in flight at once.
const FORMAT_WRITES: usize = 4;

/// The journal of an open volume; clones share it.
#[derive(Debug, Clone)]
pub struct Journal {
    pub(super) inner: Arc<Inner>,
}

#[derive(Debug)]
pub(super) struct Inner {
    pub(super) device: Device,
    pub(super) memory: Memory,
    pub(super) ring: Ring,
    pub(super) volume: u32,
    pub(super) epoch: u64,
    /// Bytes of each group buffer.
    pub(super) buffer_bytes: u64,
    pub(super) poison: Poison,
    /// Short sections (copy of a payload, counters); never across an await.
    pub(super) state: Mutex<State>,
    pub(super) durable: Watermark,
    /// Rung when there is something to write.
    pub(super) work: Notify,
    /// Rung when the tail moved.
    pub(super) room: Notify,
    /// Rung when the write of a group has ended.
    pub(super) landed: Notify,
}

/// The order of a group buffer: as large as a group can be, but all buffers together take no more
/// than an eighth of the memory.
fn group_order(ring: &Ring, memory: &Memory) -> u8 {
    let wanted = (ring.group_bytes_max() / BLOCK).next_power_of_two().ilog2().min(8);
    let share = memory.capacity_blocks() / 8 / (JOURNAL_GROUPS_IN_FLIGHT + 1);
    wanted.min(share.ilog2()) as u8
}

impl Journal {
    /// Writes the whole region and the first header. Not durable before the caller's flush.
    ///
    /// Errors: `Device`, `OutOfMemory`.
    pub async fn format(
        device: &Device,
        memory: &Memory,
        layout: &Layout,
        volume: u32,
    ) -> Result<()> {
        let mut zeroes = memory.allocate(FORMAT_ORDER, Purpose::Reserved).await?;
        zeroes.get_mut().expect("a fresh buffer has one owner").fill(0);
        let step = zeroes.blocks() as u64;
        let (start, end) = (layout.journal.start.0, layout.journal.end().0);
        let writes = (start..end).step_by(step as usize).map(|at| {
            let bytes = (step.min(end - at) * BLOCK) as usize;
            device.write(at, vec![zeroes.segment(0..bytes)], Persist::Cached)
        });
        let mut writes = futures_util::stream::iter(writes).buffer_unordered(FORMAT_WRITES);
        while let Some(outcome) = writes.next().await {
            outcome?;
        }
        let before = Slot { sequence: 0, epoch: 1, tail: LogPosition(0), next_group: 1 };
        slots::write_both(device, memory, volume, before).await?;
        Ok(())
    }

    /// The journal as it goes on from `slot`, which recovery has just written.
    ///
    /// Errors: `OutOfMemory`: its group buffers are taken here, so that a commit never waits for memory.
    pub async fn open(
        device: &Device,
        memory: &Memory,
        poison: &Poison,
        layout: &Layout,
        volume: u32,
        slot: Slot,
    ) -> Result<Self> {
        let ring = Ring::new(layout.journal);
        let order = group_order(&ring, memory);
        let mut spare = Vec::new();
        for _ in 0..=JOURNAL_GROUPS_IN_FLIGHT {
            spare.push(memory.allocate(order, Purpose::Reserved).await?);
        }
        let state = State {
            open: Vec::new(),
            open_bytes: 0,
            head: slot.tail,
            tail: slot.tail,
            last: Lsn(0),
            sealed: Lsn(0),
            applied: Lsn(0),
            next_group: slot.next_group,
            acknowledged_group: slot.next_group.saturating_sub(1),
            slot_sequence: slot.sequence,
            boundaries: VecDeque::new(),
            spare,
            flying: 0,
            early: BTreeMap::new(),
            kept: VecDeque::new(),
            stats: JournalStats::default(),
        };
        let inner = Inner {
            device: device.clone(),
            memory: memory.clone(),
            ring,
            volume,
            epoch: slot.epoch,
            buffer_bytes: BLOCK << order,
            poison: poison.clone(),
            state: Mutex::new(state),
            durable: Watermark::new(Lsn(0), poison.clone()),
            work: Notify::new(),
            room: Notify::new(),
            landed: Notify::new(),
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// The largest payload of one transaction in bytes.
    pub fn payload_max(&self) -> u64 {
        self.inner.ring.group_bytes_max().min(self.inner.buffer_bytes) - BLOCK
    }

    /// Whether the ring is at least half full: time to bring blocks home.
    pub fn is_half_full(&self) -> bool {
        let state = self.inner.state.lock();
        (state.head.0 - state.tail.0 + state.open_bytes) * 2 > self.inner.ring.bytes()
    }

    /// Waits until a payload of this size fits. The caller is alone (metadata lock), so that what it
    /// waited for is still there when it appends.
    ///
    /// Errors: `TooLarge`, `TimedOut` ("log room"), `WritesStopped`. Dropping has no effect.
    pub async fn wait_for_room(&self, payload: usize) -> Result<()> {
        if payload as u64 > self.payload_max() {
            let most = self.payload_max();
            let why = format!("a transaction of {payload} bytes; the journal takes {most}");
            return Err(Error::new(ErrorKind::TooLarge, why));
        }
        if self.has_room(payload) {
            metrics::histogram!("foliant_log_room_wait_seconds").record(0.0);
            return self.inner.poison.check();
        }
        let since = Instant::now();
        let waiting = async {
            loop {
                let moved = self.inner.room.notified();
                tokio::pin!(moved);
                moved.as_mut().enable();
                if self.has_room(payload) {
                    metrics::histogram!("foliant_log_room_wait_seconds").record(since.elapsed());
                    return;
                }
                metrics::counter!("foliant_log_room_waits_total").increment(1);
                moved.await;
            }
        };
        tokio::select! {
            biased;
            done = tokio::time::timeout(LOG_ROOM_WAIT, waiting) => done.map_err(|_| {
                Error::new(ErrorKind::TimedOut, "waited too long for log room")
            }),
            cause = self.inner.poison.tripped() => Err(cause),
        }
    }

    /// Whether a payload of this size fits now.
    pub fn has_room(&self, payload: usize) -> bool {
        let state = self.inner.state.lock();
        let pending = state.open_bytes + footprint(payload);
        self.inner.ring.has_room(state.tail, state.head, pending)
    }

    /// Adds a transaction behind all earlier ones; its number. Room was waited for.
    pub fn append(&self, payload: Vec<u8>) -> Lsn {
        let mut state = self.inner.state.lock();
        let pending = state.open_bytes + footprint(payload.len());
        assert!(
            self.inner.ring.has_room(state.tail, state.head, pending),
            "no room was waited for"
        );
        state.open_bytes = pending;
        state.last = Lsn(state.last.0 + 1);
        state.stats.transactions += 1;
        let lsn = state.last;
        state.open.push(Pending { lsn, payload, since: Instant::now() });
        // With as many on their way as may be, the loop seals the next one when the first of them lands.
        let waits = state.flying < JOURNAL_GROUPS_IN_FLIGHT;
        drop(state);
        if waits {
            self.inner.work.notify_one();
        }
        lsn
    }

    /// The position of the newest transaction.
    pub fn last(&self) -> Lsn {
        self.inner.state.lock().last
    }

    /// Everything at or below is durable.
    pub fn durable_now(&self) -> Lsn {
        self.inner.durable.get()
    }

    /// Waits until `lsn` is durable. Errors: `WritesStopped`. Dropping has no effect.
    pub async fn durable(&self, lsn: Lsn) -> Result<()> {
        if is_broken(Canary::AcknowledgeAtOnce) {
            return Ok(());
        }
        self.inner.durable.reached(lsn).await
    }

    /// Every transaction up to this one is home: the tail has passed it.
    pub fn applied(&self) -> Lsn {
        self.inner.state.lock().applied
    }

    /// The last transaction that has a place: what is appended later lies in later groups.
    pub fn sealed(&self) -> Lsn {
        self.inner.state.lock().sealed
    }

    /// What it did since open.
    pub fn stats(&self) -> JournalStats {
        self.inner.state.lock().stats
    }

    /// Moves the tail behind the group whose last transaction is `to`, which [`Journal::sealed`] gave;
    /// durable on return.
    ///
    /// The caller has brought home and flushed everything up to it. Errors: `Device`; the tail stays.
    pub async fn advance_tail(&self, to: Lsn) -> Result<()> {
        let (slot, boundary) = {
            let state = self.inner.state.lock();
            if to <= state.applied {
                return Ok(());
            }
            let found = state.boundaries.iter().find(|b| b.last == to).copied();
            let boundary = found.expect("a tail is the end of a sealed group");
            let (sequence, epoch) = (state.slot_sequence, self.inner.epoch);
            let (tail, next_group) = (boundary.end, boundary.next_group);
            (Slot { sequence, epoch, tail, next_group }, boundary)
        };
        let Inner { device, memory, volume, .. } = &*self.inner;
        let (slot, outcome) = slots::try_both(device, memory, *volume, slot).await;
        let mut state = self.inner.state.lock();
        state.slot_sequence = slot.sequence;
        outcome?;
        state.tail = boundary.end;
        state.applied = to;
        state.stats.tail_moves += 1;
        state.boundaries.retain(|b| b.last > to);
        drop(state);
        self.inner.room.notify_waiters();
        Ok(())
    }

    /// Waits until no group is on its way. The caller knows that writes are stopped, so that none starts.
    ///
    /// Errors: `TimedOut` after [`LOG_ROOM_WAIT`]. Dropping has no effect.
    pub async fn at_rest(&self) -> Result<()> {
        let waiting = async {
            loop {
                let landed = self.inner.landed.notified();
                tokio::pin!(landed);
                landed.as_mut().enable();
                if self.inner.state.lock().flying == 0 {
                    return;
                }
                landed.await;
            }
        };
        tokio::time::timeout(LOG_ROOM_WAIT, waiting).await.map_err(|_| {
            Error::new(ErrorKind::TimedOut, "waited too long for a write of the log to end")
        })
    }

    /// Errors: `Corrupt` when the log on the device is not the one that this journal wrote last: somebody
    /// else has opened the store, or it is an older copy. `Device`, `OutOfMemory`. No tail is being moved.
    pub async fn check_identity(&self) -> Result<()> {
        let Inner { device, memory, volume, epoch, .. } = &*self.inner;
        let found = slots::read(device, memory, *volume).await?;
        let own = self.inner.state.lock().slot_sequence;
        // A header whose write failed may be there all the same; and where the newest one cannot be read, the
        // one before it answers, which was written in the same move.
        let known = own.saturating_sub(1)..=own + 1;
        if found.epoch != *epoch || !known.contains(&found.sequence) {
            let why = "the log on the device is of another time than this engine's";
            return Err(Error::new(ErrorKind::Corrupt, why));
        }
        Ok(())
    }

    /// Writes every group again that is not known to be durable, the same bytes at the same places, in
    /// order; how many. The caller knows that writes are stopped and that the journal is at rest.
    ///
    /// Errors: `Device`; the rest stays to be written. To be driven to its end by a task of the engine: a
    /// write that was dropped goes on, and would meet the next one on the same blocks.
    pub async fn rewrite(&self) -> Result<u64> {
        let mut count = 0;
        loop {
            let place = {
                let state = self.inner.state.lock();
                let Some(sealed) = state.kept.front() else { return Ok(count) };
                (self.inner.ring.block(sealed.start), sealed.buffer.segment(0..sealed.bytes))
            };
            let (at, segment): (_, Segment) = place;
            if !is_broken(Canary::ForgetKeptGroups) {
                self.inner.device.write(at.0, vec![segment], Persist::Durable).await?;
            }
            let mut state = self.inner.state.lock();
            let sealed = state.kept.pop_front().expect("nobody else takes it");
            state.acknowledged_group = sealed.group;
            state.spare.push(sealed.buffer);
            drop(state);
            self.inner.durable.advance(sealed.last);
            count += 1;
        }
    }
}
