//! Makes streams of operations from a seed, aimed at where mistakes live.
//!
//! Guarantees that one seed makes one stream. Offsets lie at and beside the edges of sectors, blocks
//! and folios and at the ends of objects; stale bytes behind an end that grows again are frequent.
//! Does not run anything. Used by the program and the tests.

use std::collections::VecDeque;

use foliant_device::sim::Rng;

use super::op::End;
use super::op::Fill;
use super::op::Op;
use super::op::Span;
use super::oracle::BLOCK;

/// Objects of a stream.
pub const OBJECTS: usize = 3;
/// No object is longer.
pub const OBJECT_BYTES_MAX: u64 = 8 << 20;
/// Largest operation, if nothing else is said.
pub const LEN_MAX: u64 = 3 << 20;
/// Largest half of two operations at once: at most two pieces of a write.
const HALF_LEN_MAX: u64 = 256 << 10;
/// Bytes of one transaction: with their blocks they fit the half of a record of the smallest journal.
const COMMIT_BYTES_MAX: u64 = 40_000;
/// Largest read without a copy: one region of memory, of which the smallest budget has seven.
const SHARE_LEN_MAX: u64 = 1 << 20;
/// Largest direct request: with any place of its first byte in a block, its buffer is such a region.
const DIRECT_LEN_MAX: u64 = SHARE_LEN_MAX - BLOCK;
/// How far a stream reaches, by seed: small ones meet the same blocks again and again.
const REACHES: [u64; 4] = [40 << 10, 200 << 10, 1300 << 10, 5 << 20];
/// Edges: sectors, half blocks, blocks, folios.
const EDGES: [u64; 7] = [512, 1024, BLOCK, BLOCK, 16 << 10, 64 << 10, 2 << 20];
/// Offsets remembered, to be met again.
const RECENT_MAX: usize = 8;

/// An endless stream.
#[derive(Debug)]
pub struct Generator {
    rng: Rng,
    reach: u64,
    len_max: u64,
    sizes: [u64; OBJECTS],
    recent: VecDeque<u64>,
    planned: VecDeque<Op>,
    tag: u32,
}

impl Generator {
    /// The stream of `seed`, with no range longer than `len_max`, except around an end.
    pub fn new(seed: u64, len_max: u64) -> Self {
        let mut rng = Rng::new(seed ^ 0x6673_7800);
        let reach = REACHES[rng.below(REACHES.len() as u64) as usize];
        let (recent, planned) = (VecDeque::new(), VecDeque::new());
        Self { rng, reach, len_max, sizes: [0; OBJECTS], recent, planned, tag: 0 }
    }

    fn object(&mut self) -> usize {
        self.rng.below(OBJECTS as u64) as usize
    }

    fn offset(&mut self, object: usize) -> u64 {
        let any = self.rng.below(self.reach);
        let at = match self.rng.below(12) {
            0 => any,
            1..=6 => {
                let edge = EDGES[self.rng.below(EDGES.len() as u64) as usize];
                any / edge * edge
            }
            7 | 8 => self.sizes[object],
            _ if self.recent.is_empty() => any,
            _ => self.recent[self.rng.below(self.recent.len() as u64) as usize],
        };
        let at = match self.rng.below(4) {
            0 => at.saturating_sub(1),
            1 => at + 1,
            _ => at,
        };
        let at = at.min(OBJECT_BYTES_MAX - 1);
        if self.recent.len() == RECENT_MAX {
            self.recent.pop_front();
        }
        self.recent.push_back(at);
        at
    }

    fn len(&mut self) -> u64 {
        let len = match self.rng.below(200) {
            0..=49 => 1 + self.rng.below(16),
            50..=99 => {
                let edge = EDGES[self.rng.below(5) as usize];
                edge - 1 + self.rng.below(3)
            }
            100..=169 => 1 + self.rng.below(6 * BLOCK),
            170..=194 => 1 + self.rng.below(80_000),
            195..=198 => 1 + self.rng.below(300_000.min(2 * self.reach)),
            _ => 1 + self.rng.below(LEN_MAX.min(2 * self.reach)),
        };
        len.min(self.len_max)
    }

    fn span_of(&mut self, object: usize) -> Span {
        let at = self.offset(object);
        let mut end = at + self.len();
        // Some ranges stop at an edge, or at the end of the object.
        match self.rng.below(8) {
            0 => end = end.div_ceil(BLOCK) * BLOCK,
            1 if self.sizes[object] > at && self.sizes[object] - at < 300_000.min(self.len_max) => {
                end = self.sizes[object];
            }
            _ => {}
        }
        self.recent.push_back(end.min(OBJECT_BYTES_MAX));
        if self.recent.len() > RECENT_MAX {
            self.recent.pop_front();
        }
        Span { object, at, len: end.min(OBJECT_BYTES_MAX) - at }
    }

    fn span(&mut self) -> Span {
        let object = self.object();
        self.span_of(object)
    }

    fn fill(&mut self, span: Span) -> Fill {
        self.tag += 1;
        Fill { span, tag: self.tag }
    }

    fn write(&mut self) -> Op {
        let span = self.span();
        Op::Write(self.fill(span))
    }

    /// Half of the places in a buffer fit those in the object.
    fn skew(&mut self, at: u64) -> u64 {
        if self.rng.chance(500) { at % BLOCK } else { self.rng.below(BLOCK) }
    }

    fn read_direct(&mut self) -> Op {
        let mut span = self.span();
        span.len = span.len.min(DIRECT_LEN_MAX);
        Op::ReadDirect(span, self.skew(span.at))
    }

    fn write_direct(&mut self) -> Op {
        let mut span = self.span();
        span.len = span.len.min(DIRECT_LEN_MAX);
        let fill = self.fill(span);
        Op::WriteDirect(fill, self.skew(span.at))
    }

    fn commit(&mut self) -> Op {
        let mut fills = Vec::new();
        let object = self.object();
        let count = 1 + self.rng.below(4);
        for _ in 0..count {
            let object = if self.rng.chance(500) { object } else { self.object() };
            let mut span = self.span_of(object);
            span.len = span.len.min(COMMIT_BYTES_MAX / count);
            fills.push(self.fill(span));
        }
        let end = match self.rng.below(10) {
            0..=5 => End::Durable,
            6 | 7 => End::Seen,
            _ => End::Dropped,
        };
        Op::Commit(end, fills)
    }

    fn truncate(&mut self) -> Op {
        let object = self.object();
        Op::Truncate(object, self.offset(object))
    }

    /// Stale bytes behind an end, and then growth over them.
    fn pollute(&mut self) {
        let object = self.object();
        let mut span = self.span_of(object);
        span.len = (span.len.min(5 * BLOCK) + BLOCK / 2).min(OBJECT_BYTES_MAX - span.at);
        let fill = self.fill(span);
        let cut = span.at + self.rng.below(span.len);
        let mut plan = vec![Op::Write(fill)];
        plan.extend(self.rng.chance(500).then_some(Op::Sync(object)));
        plan.push(Op::Truncate(object, cut));
        match self.rng.below(8) {
            0..=3 => plan.push(Op::Sync(object)),
            4 => plan.extend([Op::SyncAll, Op::Evict]),
            5 if self.rng.chance(200) => plan.push(Op::Reopen),
            _ => {}
        }
        let near = cut + 1 + self.rng.below(BLOCK);
        let far = cut + BLOCK + self.rng.below(20 * BLOCK);
        let to = if self.rng.chance(500) { near } else { far }.min(OBJECT_BYTES_MAX - 20);
        let grown = Span { object, at: to, len: 1 + self.rng.below(20) };
        plan.push(match self.rng.below(3) {
            0 => Op::Truncate(object, to),
            1 => Op::Write(self.fill(grown)),
            _ => Op::Commit(End::Durable, vec![self.fill(grown)]),
        });
        let seen = Span { object, at: cut.saturating_sub(10), len: grown.end() - cut + 30 };
        plan.push(Op::Read(seen));
        if self.rng.chance(300) {
            plan.extend([Op::Sync(object), Op::Evict, Op::Read(seen)]);
        }
        self.planned.extend(plan);
    }

    fn half(&mut self) -> Op {
        let mut op = match self.rng.below(100) {
            0..=26 => self.write(),
            27..=34 => self.write_direct(),
            35..=46 => Op::Read(self.span()),
            47..=54 => self.read_direct(),
            55..=62 => Op::Share(self.span()),
            63..=70 => Op::Punch(self.span()),
            71..=78 => Op::Zero(self.span()),
            79..=84 => self.truncate(),
            85..=92 => self.commit(),
            93..=96 => Op::Sync(self.object()),
            _ => Op::Allocate(self.span()),
        };
        op.spans().into_iter().for_each(|span| span.len = span.len.min(HALF_LEN_MAX));
        op
    }

    /// Two at once: anywhere, or on the same bytes.
    fn both(&mut self) -> Op {
        let (mut a, mut b) = (self.half(), self.half());
        if self.rng.chance(600)
            && let Some(span) = a.spans().first().map(|span| **span)
        {
            let shift = self.rng.below(span.len + 1);
            for other in b.spans() {
                other.object = span.object;
                other.at = (span.at + shift).min(OBJECT_BYTES_MAX - other.len);
            }
            if let Op::Truncate(object, size) = &mut b {
                (*object, *size) = (span.object, span.at + shift);
            }
        }
        Op::Both(Box::new(a), Box::new(b))
    }

    fn choose(&mut self) -> Op {
        match self.rng.below(1000) {
            0..=209 => self.write(),
            210..=259 => self.write_direct(),
            260..=369 => Op::Read(self.span()),
            370..=409 => self.read_direct(),
            410..=429 => {
                let object = self.object();
                Op::Seek(object, self.offset(object))
            }
            430..=489 => {
                let mut span = self.span();
                span.len = span.len.min(SHARE_LEN_MAX);
                Op::Share(span)
            }
            490..=579 => self.commit(),
            580..=639 => self.truncate(),
            640..=699 => Op::Punch(self.span()),
            700..=749 => Op::Zero(self.span()),
            750..=779 => Op::Allocate(self.span()),
            780..=814 => Op::Sync(self.object()),
            815..=822 => Op::SyncAll,
            823..=842 => Op::Extents(self.object()),
            843..=847 => Op::Evict,
            848..=851 => Op::Recreate(self.object()),
            852 => Op::Reopen,
            853..=912 => self.both(),
            913..=919 => {
                self.planned.extend([Op::SyncAll, Op::Evict]);
                Op::SyncAll
            }
            _ => {
                self.pollute();
                Op::Extents(self.object())
            }
        }
    }

    /// The sizes after `op`, as far as they steer what follows; behind two at once they are a guess.
    fn note(&mut self, op: &Op) {
        let mut grow = |span: &Span| {
            let size = &mut self.sizes[span.object];
            *size = span.end().max(*size);
        };
        match op {
            Op::Write(fill) | Op::WriteDirect(fill, _) => grow(&fill.span),
            Op::Commit(End::Durable | End::Seen, fills) => fills.iter().for_each(|f| grow(&f.span)),
            Op::Truncate(object, size) => self.sizes[*object] = *size,
            Op::Recreate(object) => self.sizes[*object] = 0,
            Op::Both(a, b) => {
                self.note(a);
                self.note(b);
            }
            _ => {}
        }
    }
}

impl Iterator for Generator {
    type Item = Op;

    fn next(&mut self) -> Option<Op> {
        let op = match self.planned.pop_front() {
            Some(op) => op,
            None => self.choose(),
        };
        self.note(&op);
        Some(op)
    }
}

/// The same as [`stream_up_to`] with [`LEN_MAX`].
pub fn stream(seed: u64, count: usize, every: usize) -> Vec<Op> {
    stream_up_to(LEN_MAX, seed, count, every)
}

/// The first `count` operations of `seed`, with ranges up to `len_max` and a comparison of everything after every `every`.
pub fn stream_up_to(len_max: u64, seed: u64, count: usize, every: usize) -> Vec<Op> {
    let mut ops: Vec<Op> = Generator::new(seed, len_max).take(count).collect();
    for at in (every..count).step_by(every.max(1)) {
        ops[at] = Op::Verify;
    }
    ops
}

#[cfg(test)]
mod tests {
    use super::super::op::parse_log;
    use super::super::op::show_log;
    use super::*;

    #[test]
    fn a_stream_is_fixed_by_its_seed_and_its_text_reads_back() {
        for seed in 0..20 {
            let ops = stream(seed, 3000, 500);
            assert_eq!(ops, stream(seed, 3000, 500));
            assert_ne!(ops, stream(seed + 1, 3000, 500));
            assert_eq!(parse_log(&show_log(&ops)).unwrap(), ops);
        }
    }

    #[test]
    fn no_range_is_longer_than_asked_for() {
        for mut op in Generator::new(3, 9_000).take(20_000) {
            // What cuts an end off and grows over it has lengths of its own.
            let around = 22 * BLOCK;
            for span in op.spans() {
                assert!(span.len <= 9_000 + around, "{span}");
            }
        }
    }

    #[test]
    fn every_operation_occurs_and_stays_in_its_object() {
        let mut names = std::collections::BTreeSet::new();
        for mut op in Generator::new(3, LEN_MAX).take(20_000) {
            names.insert(op.name());
            for span in op.spans() {
                assert!(span.end() <= OBJECT_BYTES_MAX && span.object < OBJECTS, "{span}");
            }
        }
        // Comparisons are put in by `stream`.
        assert_eq!(names.len(), 18, "{names:?}");
    }
}
