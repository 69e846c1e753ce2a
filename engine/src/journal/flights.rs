//! Groups on their way: seals what gathered, writes it, and says in order what has arrived.
//!
//! A group is whatever gathered while earlier groups were on their way: no timer, no delay. It is one
//! contiguous, self-checksummed, durable write; up to four are in flight, and they are acknowledged in
//! order, so that a group counts only when everything before it does.
//!
//! Guarantees: `durable` moves only behind a completed durable write of everything below; after a failed
//! write nothing is acknowledged any more and every waiter hears the cause. The loop `run` is spawned by
//! `volume`; a commit only rings it, so that a commit that is dropped takes no write along.

use foliant_device::Persist;
use foliant_device::Segment;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::error::Error;
use crate::error::Result;
use crate::format::journal_header::GROUP_HEADER;
use crate::format::journal_header::GroupHeader;
use crate::journal::state::Boundary;
use crate::journal::state::Sealed;
use crate::journal::state::State;
use crate::journal::state::gather;
use crate::journal::writer::Journal;
use crate::kit::canary::Canary;
use crate::kit::canary::is_broken;
use crate::limits::JOURNAL_GROUPS_IN_FLIGHT;
use crate::units::BLOCK;
use crate::units::LogPosition;
use crate::units::Lsn;

impl Journal {
    /// The writing loop; returns when `stop` is cancelled and everything appended is written. While writes
    /// are stopped it waits.
    pub async fn run(self, stop: CancellationToken) {
        let mut flights = FuturesUnordered::new();
        loop {
            while let Some(sealed) = self.seal() {
                flights.push(self.write(sealed));
            }
            if flights.is_empty() && stop.is_cancelled() {
                return;
            }
            if flights.is_empty() && self.inner.poison.get().is_some() {
                tokio::select! {
                    biased;
                    () = stop.cancelled() => return,
                    () = self.inner.poison.cleared() => continue,
                }
            }
            tokio::select! {
                biased;
                Some((sealed, outcome)) = flights.next() => self.ended(sealed, outcome),
                () = self.inner.work.notified() => {}
                () = stop.cancelled(), if flights.is_empty() => {}
            }
        }
    }

    /// Gives the oldest pending transactions a place, as many as one group takes, if one more may fly.
    fn seal(&self) -> Option<Sealed> {
        let mut state = self.inner.state.lock();
        let full = state.flying == JOURNAL_GROUPS_IN_FLIGHT;
        if full || state.open.is_empty() || self.inner.poison.get().is_some() {
            return None;
        }
        let mut buffer = state.spare.pop()?;
        let room = (self.inner.ring.group_bytes_max() as usize).min(buffer.len());
        let bytes = buffer.get_mut().expect("a spare buffer has one owner");
        let (end, last, appended) = gather(&mut state, &mut bytes[..room]);
        let whole = (end as u64).div_ceil(BLOCK) * BLOCK;
        bytes[end..whole as usize].fill(0);
        let start = self.inner.ring.place(state.head, whole);
        let header = GroupHeader {
            epoch: self.inner.epoch,
            sequence: state.next_group,
            lsn: start,
            payload: (end - GROUP_HEADER) as u32,
            acknowledged: state.acknowledged_group,
        };
        header.encode(self.inner.volume, bytes);
        state.head = LogPosition(start.0 + whole);
        state.next_group += 1;
        state.sealed = last;
        let boundary = Boundary { end: state.head, next_group: state.next_group, last };
        state.boundaries.push_back(boundary);
        state.stats.groups += 1;
        state.stats.bytes += whole;
        state.flying += 1;
        let (group, bytes, since) = (header.sequence, whole as usize, Instant::now());
        Some(Sealed { start, group, last, buffer, bytes, since, appended })
    }

    fn write(&self, sealed: Sealed) -> impl Future<Output = (Sealed, Result<()>)> + Send + use<> {
        let segment: Segment = sealed.buffer.segment(0..sealed.bytes);
        let at = self.inner.ring.block(sealed.start);
        let request = self.inner.device.write(at.0, vec![segment], Persist::Durable);
        async move {
            let outcome = request.await;
            (sealed, outcome.map_err(Error::from))
        }
    }

    /// The write of a group has ended: settles it, and those behind it that ended before, once all earlier
    /// ones are settled.
    fn ended(&self, sealed: Sealed, outcome: Result<()>) {
        metrics::histogram!("foliant_log_group_seconds").record(sealed.since.elapsed());
        let mut state = self.inner.state.lock();
        let in_order = !is_broken(Canary::AcknowledgeOutOfOrder);
        // The groups that are not settled are the last `flying` ones.
        let mut first = state.next_group - state.flying as u64;
        if !in_order {
            first = sealed.group;
        }
        state.early.insert(sealed.group, (sealed, outcome));
        let mut reached = None;
        while let Some((sealed, outcome)) = state.early.remove(&first) {
            reached = self.settle(&mut state, sealed, outcome).or(reached);
            first += 1;
        }
        drop(state);
        // The canary may come to an earlier group behind a later one.
        if let Some(last) = reached.filter(|&last| in_order || last > self.inner.durable.get()) {
            self.inner.durable.advance(last);
        }
        self.inner.landed.notify_waiters();
    }

    /// The position up to which all is durable now, unless something before it failed.
    fn settle(&self, state: &mut State, sealed: Sealed, outcome: Result<()>) -> Option<Lsn> {
        if let Err(cause) = outcome {
            self.inner.poison.set(cause);
        }
        state.flying -= 1;
        // A group behind a failed one is on the device, but replay will not reach it.
        if !state.kept.is_empty() || self.inner.poison.get().is_some() {
            state.kept.push_back(sealed);
            return None;
        }
        for since in &sealed.appended {
            metrics::histogram!("foliant_commit_seconds").record(since.elapsed());
        }
        state.acknowledged_group = sealed.group;
        state.spare.push(sealed.buffer);
        Some(sealed.last)
    }
}
