//! What the objects of a run may be after a cut.
//!
//! Guarantees that nothing is allowed that no order of the operations explains, except that a block is
//! compared on its own: plain writes promise no more. Does not know the engine. Fed by `commit`, `change`
//! and `squall`, asked by `check`.

use std::collections::BTreeMap;
use std::ops::Range;

use super::ground::BLOCK;

/// The attributes of an object whose transactions say in them what it holds: in length and content.
pub(super) fn note(bytes: &[u8]) -> Vec<u8> {
    let sum = bytes.iter().fold(0_u64, |sum, &byte| sum.rotate_left(5) ^ u64::from(byte));
    [bytes.len() as u64, sum].map(u64::to_le_bytes).concat()
}

/// The logged objects by their names.
pub(super) type Names = BTreeMap<String, Vec<u8>>;

/// What the logged objects may be: their contents after each commit that is not known to be durable yet.
#[derive(Default, Clone)]
pub(super) struct Commits {
    /// `states[0]` is durable for sure; each later one is one commit further.
    pub(super) states: Vec<Names>,
}

/// A content that a block had, and how many of its bytes were below the size then.
#[derive(Clone, PartialEq)]
pub(super) struct Version {
    pub(super) bytes: Vec<u8>,
    pub(super) end: usize,
}

/// What a plain or mixed object may be.
#[derive(Default, Clone)]
pub(super) struct Loose {
    pub(super) bytes: Vec<u8>,
    /// Contents of each block since its floor, oldest first.
    pub(super) versions: BTreeMap<u64, Vec<Version>>,
    pub(super) sizes: Vec<u64>,
    /// Nothing is forgotten, so that everything it ever was is allowed.
    pub(super) keeps: bool,
    /// Transactions may record a size before plain bytes below it are written back.
    pub(super) mixed: bool,
}

impl Loose {
    pub(super) fn new(mixed: bool) -> Self {
        Self { sizes: vec![0], mixed, ..Self::default() }
    }

    pub(super) fn block(&self, at: u64) -> Version {
        whole(block(&self.bytes, at))
    }

    pub(super) fn change(&mut self, change: impl FnOnce(&mut Vec<u8>)) {
        let before = self.bytes.clone();
        change(&mut self.bytes);
        for at in 0..before.len().max(self.bytes.len()).div_ceil(BLOCK) as u64 {
            let (old, new) = (block(&before, at), block(&self.bytes, at));
            if old != new {
                let versions = self.versions.entry(at).or_insert_with(|| vec![whole(old)]);
                versions.push(whole(new));
            }
        }
        self.sizes.push(self.bytes.len() as u64);
    }

    /// Changes that ran side by side, each of a range of its own: a block may show any of them without the
    /// others.
    pub(super) fn change_beside(&mut self, changes: &[&dyn Fn(&mut Vec<u8>)]) {
        let before = std::mem::take(&mut self.bytes);
        for some in 0..1_u64 << changes.len() {
            self.bytes.clone_from(&before);
            for (_, change) in (0..).zip(changes).filter(|(i, _)| some >> i & 1 == 1) {
                change(&mut self.bytes);
            }
            self.sizes.push(self.bytes.len() as u64);
            for at in 0..before.len().max(self.bytes.len()).div_ceil(BLOCK) as u64 {
                let (old, new) = (block(&before, at), block(&self.bytes, at));
                if old != new {
                    let versions = self.versions.entry(at).or_insert_with(|| vec![whole(old)]);
                    let new = whole(new);
                    if !versions.contains(&new) {
                        versions.push(new);
                    }
                }
            }
        }
    }

    pub(super) fn write(&mut self, at: usize, data: &[u8]) {
        self.change(|bytes| {
            bytes.resize(bytes.len().max(at + data.len()), 0);
            bytes[at..at + data.len()].copy_from_slice(data);
        });
    }

    /// Everything is on the device.
    pub(super) fn synced(&mut self) {
        if self.keeps {
            return;
        }
        self.versions.clear();
        self.sizes = vec![self.bytes.len() as u64];
    }

    /// An acknowledged commit wrote `range` last: neither its blocks nor the size can fall behind it.
    pub(super) fn committed(&mut self, range: Range<usize>) {
        if self.keeps {
            return;
        }
        let touched = (range.start / BLOCK) as u64..range.end.div_ceil(BLOCK) as u64;
        self.versions.retain(|at, _| !touched.contains(at));
        // Plain growth behind it may still be lost, so what was smaller becomes this end.
        self.sizes.iter_mut().for_each(|size| *size = (*size).max(range.end as u64));
    }

    pub(super) fn check(&self, name: &str, found: &[u8]) {
        let size = found.len();
        self.check_size(name, size);
        for (at, block) in found.chunks(BLOCK).enumerate() {
            self.check_block(name, at as u64, block);
        }
    }

    pub(super) fn check_size(&self, name: &str, size: usize) {
        let (low, high) = (self.sizes.iter().min(), self.sizes.iter().max());
        let size = size as u64;
        let fits = low.is_some_and(|&low| low <= size) && high.is_some_and(|&high| size <= high);
        assert!(fits, "{name} has {size} bytes, allowed are {low:?} to {high:?}");
    }

    /// `block` is what is below the size.
    pub(super) fn check_block(&self, name: &str, at: u64, block: &[u8]) {
        let now = [self.block(at)];
        let allowed = self.versions.get(&at).map_or(&now[..], |v| &v[..]);
        let is = |version: &Version| {
            version.bytes[..block.len()] == *block && (self.mixed || version.end >= block.len())
        };
        let count = allowed.len();
        assert!(allowed.iter().any(is), "{name} block {at} is none of {count} contents it had");
    }
}

/// What of a content lies in a block.
fn block(bytes: &[u8], at: u64) -> &[u8] {
    let start = (at as usize * BLOCK).min(bytes.len());
    &bytes[start..(start + BLOCK).min(bytes.len())]
}

fn whole(part: &[u8]) -> Version {
    let mut bytes = part.to_vec();
    bytes.resize(BLOCK, 0);
    Version { bytes, end: part.len() }
}
