//! Where log positions lie in the ring: pure arithmetic.
//!
//! Guarantees: a group never wraps and never overlaps what lies between tail and head, when its room
//! was checked here. Does no I/O. Called by `journal::writer` and `meta::recover`.

use crate::units::BLOCK;
use crate::units::BlockNo;
use crate::units::DeviceSpan;
use crate::units::LogPosition;

/// The ring of one volume.
#[derive(Debug, Clone, Copy)]
pub struct Ring {
    span: DeviceSpan,
}

impl Ring {
    /// The ring on the blocks `span`.
    pub fn new(span: DeviceSpan) -> Self {
        assert!(span.blocks > 0, "a ring without blocks");
        Self { span }
    }

    /// Bytes of the ring.
    pub fn bytes(&self) -> u64 {
        self.span.blocks * BLOCK
    }

    /// The most bytes of a group, header included: an eighth, so that several fit, at most 1 MiB and
    /// a block.
    pub fn group_bytes_max(&self) -> u64 {
        (self.bytes() / 8).min((1 << 20) + BLOCK) / BLOCK * BLOCK
    }

    /// Where a group of `bytes` that follows `head` starts: at `head`, or at the ring's start when it
    /// does not fit before the end.
    pub fn place(&self, head: LogPosition, bytes: u64) -> LogPosition {
        assert!(bytes <= self.bytes() && bytes.is_multiple_of(BLOCK), "group of {bytes} bytes");
        let offset = head.0 % self.bytes();
        match offset + bytes <= self.bytes() {
            true => head,
            false => LogPosition(head.0 + self.bytes() - offset),
        }
    }

    /// The device block of a position, which is a block boundary.
    pub fn block(&self, at: LogPosition) -> BlockNo {
        assert!(at.0.is_multiple_of(BLOCK), "a group starts at a block");
        self.span.start.plus(at.0 % self.bytes() / BLOCK)
    }

    /// Whether `pending` more bytes can follow `head` while the log starts at `tail`, whatever is
    /// skipped at the ring's end.
    pub fn has_room(&self, tail: LogPosition, head: LogPosition, pending: u64) -> bool {
        head.0 - tail.0 + pending + self.group_bytes_max() <= self.bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_never_wrap_and_never_meet_the_tail() {
        let ring = Ring::new(DeviceSpan::new(BlockNo(32), 64));
        let (mut tail, mut head) = (LogPosition(0), LogPosition(0));
        let mut sizes = (0..10_000_u64).map(|i| (i * 7919 % 8 + 1) * BLOCK);
        let mut live = std::collections::VecDeque::new();
        for _ in 0..10_000 {
            let bytes = sizes.next().expect("as many as steps");
            while !ring.has_room(tail, head, bytes) {
                tail = live.pop_front().expect("an empty ring has room");
            }
            let start = ring.place(head, bytes);
            assert!(start >= head && start.0 % ring.bytes() + bytes <= ring.bytes());
            head = LogPosition(start.0 + bytes);
            assert!(head.0 - tail.0 <= ring.bytes(), "the head ran into the tail");
            live.push_back(head);
        }
    }
}
