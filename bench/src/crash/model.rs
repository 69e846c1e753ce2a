//! What the objects of a run may be after a cut.
//!
//! Guarantees that nothing is allowed that no order of the operations explains, except that a block is
//! compared on its own: plain writes promise no more. Does not know the engine. Fed by `commit`, `change`
//! and `squall`, asked by `check`.

use std::collections::BTreeMap;

use super::ground::BLOCK;

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
    /// Transactions may record a size before plain bytes below it are written back.
    pub(super) mixed: bool,
}

impl Loose {
    pub(super) fn new(mixed: bool) -> Self {
        Self { sizes: vec![0], mixed, ..Self::default() }
    }

    pub(super) fn block(&self, at: u64) -> Version {
        let start = (at as usize * BLOCK).min(self.bytes.len());
        let end = (start + BLOCK).min(self.bytes.len());
        let mut bytes = self.bytes[start..end].to_vec();
        bytes.resize(BLOCK, 0);
        Version { bytes, end: end - start }
    }

    pub(super) fn blocks(&self) -> u64 {
        self.bytes.len().div_ceil(BLOCK) as u64
    }

    pub(super) fn change(&mut self, change: impl FnOnce(&mut Vec<u8>)) {
        let before = self.clone();
        change(&mut self.bytes);
        for at in 0..before.blocks().max(self.blocks()) {
            let (old, new) = (before.block(at), self.block(at));
            if new != old {
                self.versions.entry(at).or_insert_with(|| vec![old]).push(new);
            }
        }
        self.sizes.push(self.bytes.len() as u64);
    }

    /// Changes that ran side by side, each of a range of its own: a block may show any of them without the
    /// others.
    pub(super) fn change_beside(&mut self, changes: &[&dyn Fn(&mut Vec<u8>)]) {
        let before = self.clone();
        for some in 0..1_u64 << changes.len() {
            let mut next = before.clone();
            for (_, change) in (0..).zip(changes).filter(|(i, _)| some >> i & 1 == 1) {
                change(&mut next.bytes);
            }
            for at in 0..before.blocks().max(next.blocks()) {
                let (old, new) = (before.block(at), next.block(at));
                let known = self.versions.get(&at).is_some_and(|v| v.contains(&new));
                if new != old && !known {
                    self.versions.entry(at).or_insert_with(|| vec![old]).push(new);
                }
            }
            self.sizes.push(next.bytes.len() as u64);
            self.bytes = next.bytes;
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
        self.versions.clear();
        self.sizes = vec![self.bytes.len() as u64];
    }

    pub(super) fn check(&self, name: &str, found: &[u8]) {
        let (low, high) = (self.sizes.iter().min(), self.sizes.iter().max());
        let size = found.len() as u64;
        let fits = low.is_some_and(|&low| low <= size) && high.is_some_and(|&high| size <= high);
        assert!(fits, "{name} has {size} bytes, allowed are {low:?} to {high:?}");
        for (at, block) in found.chunks(BLOCK).enumerate() {
            let now = [self.block(at as u64)];
            let allowed = self.versions.get(&(at as u64)).map_or(&now[..], |v| &v[..]);
            let is = |version: &&Version| {
                version.bytes[..block.len()] == *block && (self.mixed || version.end >= block.len())
            };
            let whole = allowed.iter().any(|version| is(&version));
            let count = allowed.len();
            assert!(whole, "{name} block {at} of {size} bytes is none of {count} contents it had");
        }
    }
}
