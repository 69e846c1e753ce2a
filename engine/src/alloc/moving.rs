//! What space knows of blocks that are about to move: windows that are being emptied, the place where moved
//! blocks are packed, and places whose content is being copied.
//!
//! Guarantees: as long as anything else is there, nobody is given blocks of a window that is being emptied, and
//! only movers get those behind the last moved block. Both are wishes: who finds nothing else takes them away
//! ([`Moving::open_up`]), so that no promise of room depends on them. A watched place is forgotten as soon as it is
//! given back: a mapping that names a place that is still watched is the one that was looked at, and not a
//! later one with the same address.
//!
//! Does not choose or move anything. Called by `alloc::{inner, search, space}`.

use crate::alloc::spans::SpanSet;
use crate::units::DeviceSpan;

/// Blocks behind the last moved one that are kept for more of them (1 MiB).
const ZONE_BLOCKS: u64 = 256;

/// The state of moves.
#[derive(Debug, Default)]
pub struct Moving {
    /// Windows that are being emptied, ascending and disjoint.
    victims: Vec<DeviceSpan>,
    /// Where moved blocks are being packed.
    zone: Option<DeviceSpan>,
    /// Places whose content is being copied.
    pub watched: SpanSet,
    /// They are being read, without a lock: what is freed meanwhile is handed out afterwards, or a write of its new
    /// owner would meet the read in the device.
    pub reading: bool,
    /// Promises of movers, which they give back soon.
    pub lent: u64,
}

impl Moving {
    /// Nobody shall be given blocks of `windows` (ascending and disjoint); replaces what was said before.
    pub fn close(&mut self, windows: Vec<DeviceSpan>) {
        assert!(windows.windows(2).all(|pair| pair[0].end() <= pair[1].start), "out of order");
        self.victims = windows;
    }

    /// The run behind a moved block, which ends at `run_end`.
    pub fn pack_at(&mut self, behind: DeviceSpan) {
        let blocks = behind.blocks.min(ZONE_BLOCKS);
        self.zone = (blocks > 0).then_some(DeviceSpan::new(behind.start, blocks));
    }

    /// Takes all wishes away; whether there were any.
    pub fn open_up(&mut self) -> bool {
        let had = !self.victims.is_empty() || self.zone.is_some();
        self.victims.clear();
        self.zone = None;
        had
    }

    /// The first part of `span` that a search must not take now.
    pub fn hidden(&self, span: DeviceSpan, for_move: bool) -> Option<DeviceSpan> {
        let overlaps = |other: &DeviceSpan| other.start < span.end() && span.start < other.end();
        let first = self.victims.partition_point(|victim| victim.end() <= span.start);
        let victim = self.victims.get(first).copied().filter(overlaps);
        let zone = self.zone.filter(|zone| !for_move && overlaps(zone));
        match (victim, zone) {
            (Some(victim), Some(zone)) => Some(victim.min(zone)),
            (victim, zone) => victim.or(zone),
        }
    }

    /// `span` is usable again: what was copied of it is not what it will hold.
    pub fn given(&mut self, span: DeviceSpan) {
        if self.watched.blocks() > 0 {
            self.watched.cut(span);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::BlockNo;

    fn span(start: u64, blocks: u64) -> DeviceSpan {
        DeviceSpan::new(BlockNo(start), blocks)
    }

    #[test]
    fn what_is_hidden_comes_in_order_and_movers_see_their_zone() {
        let mut moving = Moving::default();
        moving.close(vec![span(100, 64), span(300, 64)]);
        moving.pack_at(span(200, 1000));
        assert_eq!(moving.hidden(span(0, 100), false), None);
        assert_eq!(moving.hidden(span(0, 101), false), Some(span(100, 64)));
        assert_eq!(moving.hidden(span(164, 500), false), Some(span(200, ZONE_BLOCKS)));
        assert_eq!(moving.hidden(span(164, 500), true), Some(span(300, 64)));
        assert!(moving.open_up());
        assert_eq!(moving.hidden(span(0, 1000), false), None);
        assert!(!moving.open_up());
    }

    #[test]
    fn a_place_that_was_given_back_is_not_watched_any_more() {
        let mut moving = Moving::default();
        assert!(moving.watched.insert(span(10, 4)));
        moving.given(span(12, 100));
        assert!(moving.watched.contains(BlockNo(11)) && !moving.watched.contains(BlockNo(12)));
    }
}
