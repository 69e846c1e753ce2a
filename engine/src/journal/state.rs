//! What the log knows of itself: what waits for a group, what is in one, where groups end.
//!
//! Guarantees nothing of its own; `writer` and `flights` change it with its lock held. Does no I/O. Called by
//! these two.

use std::collections::BTreeMap;
use std::collections::VecDeque;

use foliant_device::Buffer;
use tokio::time::Instant;

use crate::error::Result;
use crate::format::journal_header::GROUP_HEADER;
use crate::units::BLOCK;
use crate::units::LogPosition;
use crate::units::Lsn;

#[derive(Debug)]
pub(super) struct State {
    /// Transactions that are not in a group yet, oldest first.
    pub(super) open: Vec<Pending>,
    /// Upper bound of the ring bytes that `open` will take.
    pub(super) open_bytes: u64,
    /// Behind the last sealed group.
    pub(super) head: LogPosition,
    pub(super) tail: LogPosition,
    /// The number given to the last transaction, to the last one in a sealed group, and to the last
    /// one below the tail.
    pub(super) last: Lsn,
    pub(super) sealed: Lsn,
    pub(super) applied: Lsn,
    pub(super) next_group: u64,
    /// Every group up to this number is durable.
    pub(super) acknowledged_group: u64,
    pub(super) slot_sequence: u64,
    /// Where sealed groups behind the tail end, oldest first.
    pub(super) boundaries: VecDeque<Boundary>,
    pub(super) spare: Vec<Buffer>,
    /// Groups that were sealed and whose fate is not settled, because their write or that of an earlier one
    /// is on its way.
    pub(super) flying: usize,
    /// Groups whose write has ended before that of an earlier one.
    pub(super) early: BTreeMap<u64, (Sealed, Result<()>)>,
    /// Groups that have a place and are not known to be durable, oldest first: the first one failed, or
    /// writes were stopped. At most as many as fly at once. Written again by `Journal::rewrite`.
    pub(super) kept: VecDeque<Sealed>,
    pub(super) stats: JournalStats,
}

#[derive(Debug)]
pub(super) struct Pending {
    pub(super) lsn: Lsn,
    pub(super) payload: Vec<u8>,
    pub(super) since: Instant,
}

/// The end of a sealed group: a place where the tail can stand.
#[derive(Debug, Clone, Copy)]
pub(super) struct Boundary {
    pub(super) end: LogPosition,
    pub(super) next_group: u64,
    pub(super) last: Lsn,
}

/// What the journal did since open.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct JournalStats {
    /// Transactions appended.
    pub transactions: u64,
    /// Groups written.
    pub groups: u64,
    /// Bytes of groups.
    pub bytes: u64,
    /// Moves of the tail.
    pub tail_moves: u64,
}

/// A group that has a place.
#[derive(Debug)]
pub(super) struct Sealed {
    pub(super) start: LogPosition,
    pub(super) group: u64,
    pub(super) last: Lsn,
    pub(super) buffer: Buffer,
    pub(super) bytes: usize,
    /// When it was sealed, and when each of its transactions was appended.
    pub(super) since: Instant,
    pub(super) appended: Vec<Instant>,
}

/// Ring bytes that a payload takes at most: alone in its group.
pub(super) fn footprint(payload: usize) -> u64 {
    (GROUP_HEADER as u64 + payload as u64).div_ceil(BLOCK) * BLOCK
}

/// Moves the oldest pending payloads into `group`, as many as fit: where they end, the last one's number,
/// and when each came.
pub(super) fn gather(state: &mut State, group: &mut [u8]) -> (usize, Lsn, Vec<Instant>) {
    let mut end = GROUP_HEADER;
    let mut taken = 0;
    for pending in &state.open {
        let next = end + pending.payload.len();
        if next > group.len() {
            break;
        }
        group[end..next].copy_from_slice(&pending.payload);
        end = next;
        taken += 1;
    }
    assert!(taken > 0, "a payload larger than a group was let in");
    let last = state.open[taken - 1].lsn;
    let mut appended = Vec::with_capacity(taken);
    for pending in state.open.drain(..taken) {
        state.open_bytes -= footprint(pending.payload.len());
        appended.push(pending.since);
    }
    (end, last, appended)
}
