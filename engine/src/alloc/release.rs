//! Freed blocks on their way back: held until nothing can write into them behind our back.
//!
//! Guarantees: a span comes out only when its freeing transaction is durable (a crash could
//! otherwise bring its old owner back) and, when a replayable record names a block of it, the log's
//! tail has passed that transaction (replay would otherwise write old bytes over the new owner's).
//! Does not know groups. Called by `alloc::inner`.

use std::collections::VecDeque;

use crate::units::BlockNo;
use crate::units::DeviceSpan;
use crate::units::Lsn;

/// What space needs to know about the log. Answers are instant; they may only grow.
pub trait LogState: Send + Sync {
    /// Whether a record at or after the log's tail names `block`.
    fn is_logged(&self, block: BlockNo) -> bool;

    /// Transactions at or below this position survive a crash.
    fn durable(&self) -> Lsn;

    /// The log's tail: records of transactions at or below this position are never replayed.
    fn applied(&self) -> Lsn;
}

/// Held spans, in the order of their transactions.
#[derive(Debug, Default)]
pub struct Holds {
    unlogged: VecDeque<(Lsn, DeviceSpan)>,
    logged: VecDeque<(Lsn, DeviceSpan)>,
    blocks: u64,
}

impl Holds {
    /// Blocks held.
    pub fn blocks(&self) -> u64 {
        self.blocks
    }

    /// Holds `span`, freed by the transaction at `lsn`; `logged`: a replayable record names it.
    pub fn push(&mut self, lsn: Lsn, span: DeviceSpan, logged: bool) {
        let queue = if logged { &mut self.logged } else { &mut self.unlogged };
        // Tickets may be settled in another order than their transactions committed; holding one a
        // little longer keeps the queue sorted.
        let lsn = queue.back().map_or(lsn, |(last, _)| lsn.max(*last));
        queue.push_back((lsn, span));
        self.blocks += span.blocks;
    }

    /// Takes out what can be used again.
    pub fn pop(&mut self, durable: Lsn, applied: Lsn) -> Vec<DeviceSpan> {
        let mut free = Vec::new();
        let both = durable.min(applied);
        for (queue, reached) in [(&mut self.unlogged, durable), (&mut self.logged, both)] {
            while queue.front().is_some_and(|(lsn, _)| *lsn <= reached) {
                free.extend(queue.pop_front().map(|(_, span)| span));
            }
        }
        self.blocks -= free.iter().map(|span| span.blocks).sum::<u64>();
        free
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn span(start: u64) -> DeviceSpan {
        DeviceSpan::new(BlockNo(start), 2)
    }

    #[test]
    fn logged_blocks_wait_for_the_tail_and_others_for_durability() {
        let mut holds = Holds::default();
        holds.push(Lsn(10), span(1), false);
        holds.push(Lsn(10), span(5), true);
        holds.push(Lsn(20), span(9), false);
        assert_eq!(holds.pop(Lsn(9), Lsn(9)), []);
        assert_eq!(holds.pop(Lsn(10), Lsn(9)), [span(1)]);
        assert_eq!(holds.pop(Lsn(10), Lsn(10)), [span(5)]);
        assert_eq!(holds.blocks(), 2);
        // The tail never counts for more than what is durable.
        holds.push(Lsn(30), span(20), true);
        assert_eq!(holds.pop(Lsn(29), Lsn(30)), [span(9)]);
        assert_eq!(holds.pop(Lsn(30), Lsn(30)), [span(20)]);
        assert_eq!(holds.blocks(), 0);
    }

    #[test]
    fn a_late_hold_does_not_jump_the_queue() {
        let mut holds = Holds::default();
        holds.push(Lsn(20), span(1), false);
        holds.push(Lsn(10), span(5), false);
        assert_eq!(holds.pop(Lsn(19), Lsn(0)), []);
        assert_eq!(holds.pop(Lsn(20), Lsn(0)), [span(1), span(5)]);
    }
}
