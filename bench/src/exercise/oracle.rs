//! What every object must hold: its bytes, and which of its blocks must and must not be stored.
//!
//! Guarantees to be simple: a vector of bytes and a vector of marks per object. Clones share what
//! they do not change, so that several outcomes can be held beside each other. Does not know the
//! engine. Used by `play`, `both` and `beside`.

use std::sync::Arc;

use super::content::Content;
use super::op::End;
use super::op::Fill;
use super::op::Op;
use super::op::Span;

/// Bytes in a block.
pub const BLOCK: u64 = foliant_device::BLOCK_SIZE as u64;

/// Whether a block has a place on the device once everything is synced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stored {
    /// It must not.
    Hole,
    /// It must.
    Yes,
    /// It may.
    Unknown,
}

/// One object.
#[derive(Debug, Clone, Default)]
pub struct Model {
    /// Its content.
    pub bytes: Content,
    /// By block; what is not listed is a hole.
    stored: Vec<Stored>,
    /// Sizes since the last sync, that one included: a transaction takes their blocks along.
    ends: Vec<u64>,
    /// Nothing changed since the last sync.
    pub synced: bool,
}

impl Model {
    /// What a read of `span` must find.
    pub fn read(&self, span: &Span) -> Vec<u8> {
        self.bytes.read(span.at..span.end())
    }

    /// Whether `block` is stored.
    pub fn stored(&self, block: u64) -> Stored {
        self.stored.get(block as usize).copied().unwrap_or(Stored::Hole)
    }

    /// Blocks about which something is known.
    pub fn blocks(&self) -> u64 {
        self.stored.len() as u64
    }

    /// Whether a byte of `block` is not zero.
    pub fn has_data(&self, block: u64) -> bool {
        !self.bytes.is_zero(block * BLOCK..(block + 1) * BLOCK)
    }

    fn mark(&mut self, from: u64, to: u64, what: Stored) {
        if from >= to {
            return;
        }
        if what == Stored::Hole {
            let to = (to as usize).min(self.stored.len());
            self.stored[(from as usize).min(to)..to].fill(what);
            return;
        }
        let len = self.stored.len().max(to as usize);
        self.stored.resize(len, Stored::Hole);
        self.stored[from as usize..to as usize].fill(what);
    }

    fn write(&mut self, fill: &Fill) {
        if fill.span.len == 0 {
            return;
        }
        self.resize(self.bytes.len().max(fill.span.end()));
        self.bytes.write(fill.span.at, &fill.bytes());
        self.mark(fill.span.at / BLOCK, fill.span.end().div_ceil(BLOCK), Stored::Yes);
    }

    fn resize(&mut self, size: u64) {
        if size != self.bytes.len() {
            self.ends.push(self.bytes.len());
            self.bytes.resize(size);
        }
        self.synced = false;
    }

    fn zero(&mut self, span: &Span) {
        self.bytes.zero(span.at..span.end());
        self.synced = false;
    }

    fn punch(&mut self, span: &Span) {
        self.zero(span);
        // A range that reaches to the size takes the last block whole.
        let to_end = span.len > 0 && span.end() >= self.bytes.len();
        let end = if to_end { span.end().div_ceil(BLOCK) } else { span.end() / BLOCK };
        self.mark(span.at.div_ceil(BLOCK), end, Stored::Hole);
    }

    fn allocate(&mut self, span: &Span) {
        self.synced = false;
        if span.len > 0 {
            self.mark(span.at / BLOCK, span.end().div_ceil(BLOCK), Stored::Yes);
        }
    }

    fn truncate(&mut self, size: u64) {
        if size < self.bytes.len() {
            self.mark(size.div_ceil(BLOCK), u64::MAX, Stored::Hole);
        }
        self.resize(size);
    }

    /// A transaction that reaches behind an end takes the block of that end along: the visible one,
    /// and the recorded one, which may be any since the last sync, or that of another transaction.
    fn commit(&mut self, fills: &[&Fill]) {
        let reach = fills.iter().map(|f| f.span.end()).max().unwrap_or(0);
        let mut ends = self.ends.clone();
        ends.push(self.bytes.len());
        for end in ends.iter().filter(|&&end| end < reach && !end.is_multiple_of(BLOCK)) {
            let block = end / BLOCK;
            if self.stored(block) == Stored::Hole {
                self.mark(block, block + 1, Stored::Unknown);
            }
        }
        // It records its own end, which may lie below the visible one.
        self.ends.push(reach);
        fills.iter().for_each(|fill| self.write(fill));
    }

    fn sync(&mut self) {
        self.ends = vec![self.bytes.len()];
        self.synced = true;
    }

    /// Keeps of the marks what both outcomes agree on.
    fn merge(&mut self, other: &Self) {
        for block in 0..self.blocks().max(other.blocks()) {
            if self.stored(block) != other.stored(block) {
                self.mark(block, block + 1, Stored::Unknown);
            }
        }
        self.ends.extend(&other.ends);
        self.synced &= other.synced;
    }
}

/// All objects.
#[derive(Debug, Clone, Default)]
pub struct Oracle {
    objects: Vec<Arc<Model>>,
}

impl Oracle {
    /// So many empty objects.
    pub fn new(objects: usize) -> Self {
        Self { objects: vec![Arc::default(); objects] }
    }

    /// How many objects there are.
    pub fn count(&self) -> usize {
        self.objects.len()
    }

    /// What object `at` must hold.
    pub fn object(&self, at: usize) -> &Model {
        &self.objects[at]
    }

    fn change(&mut self, at: usize) -> &mut Model {
        Arc::make_mut(&mut self.objects[at])
    }

    /// The same after `op`.
    pub fn after(&self, op: &Op) -> Self {
        let mut next = self.clone();
        next.apply(op);
        next
    }

    /// What `op` does.
    pub fn apply(&mut self, op: &Op) {
        match op {
            Op::Write(fill) | Op::WriteDirect(fill, _) => {
                self.change(fill.span.object).write(fill);
            }
            Op::Punch(span) => self.change(span.object).punch(span),
            Op::Zero(span) => self.change(span.object).zero(span),
            Op::Allocate(span) => self.change(span.object).allocate(span),
            Op::Truncate(object, size) => self.change(*object).truncate(*size),
            Op::Sync(object) => self.change(*object).sync(),
            Op::SyncAll | Op::Reopen => (0..self.count()).for_each(|at| self.change(at).sync()),
            Op::Recreate(object) => self.objects[*object] = Arc::default(),
            Op::Commit(End::Dropped, _) => {}
            Op::Commit(_, fills) => {
                for at in 0..self.count() {
                    let own: Vec<&Fill> = fills.iter().filter(|f| f.span.object == at).collect();
                    if !own.is_empty() {
                        self.change(at).commit(&own);
                    }
                }
            }
            Op::Both(a, b) => {
                self.apply(a);
                self.apply(b);
            }
            Op::Read(_) | Op::Share(_) | Op::ReadDirect(..) | Op::Extents(_) | Op::Seek(..) => {}
            Op::Evict | Op::Verify => {}
        }
    }

    /// Takes over what `other`, an outcome with the same bytes, leaves open about places.
    pub fn merge(&mut self, other: &Self) {
        for at in 0..self.count() {
            if !Arc::ptr_eq(&self.objects[at], &other.objects[at]) {
                self.change(at).merge(&other.objects[at]);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn oracle(log: &str) -> Oracle {
        let mut oracle = Oracle::new(1);
        super::super::op::parse_log(log).unwrap().iter().for_each(|op| oracle.apply(op));
        oracle
    }

    #[test]
    fn places_follow_the_operations() {
        let seen = oracle("write 0 0+20000 #1\npunch 0 100+12188\nallocate 0 40000+10\nsync 0");
        let marks: Vec<Stored> = (0..11).map(|b| seen.object(0).stored(b)).collect();
        use Stored::Hole;
        use Stored::Yes;
        assert_eq!(marks, [Yes, Hole, Hole, Yes, Yes, Hole, Hole, Hole, Hole, Yes, Hole]);
        assert!(seen.object(0).has_data(0) && !seen.object(0).has_data(1));
        assert_eq!(seen.object(0).bytes.len(), 20000);
    }

    #[test]
    fn what_a_shrink_cuts_off_reads_as_zero_later() {
        let seen = oracle("write 0 0+9000 #1\ntruncate 0 100\ntruncate 0 300");
        let bytes = seen.object(0).bytes.read(0..300);
        assert!(bytes[..100].iter().all(|&b| b != 0));
        assert_eq!(bytes[100..], [0; 200]);
    }
}
