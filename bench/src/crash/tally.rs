//! What happened in runs, counted by name.
//!
//! Guarantees that two runs of one seed have equal tallies. Made by the runs, added up by `soak`.

use std::collections::BTreeMap;

/// Numbers by name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tally {
    counts: BTreeMap<&'static str, u64>,
}

impl Tally {
    /// It happened `n` times more.
    pub fn add(&mut self, what: &'static str, n: u64) {
        if n > 0 {
            *self.counts.entry(what).or_default() += n;
        }
    }

    /// How often it happened.
    pub fn get(&self, what: &str) -> u64 {
        self.counts.get(what).copied().unwrap_or(0)
    }

    /// Adds another one.
    pub fn merge(&mut self, other: &Self) {
        other.counts.iter().for_each(|(what, n)| self.add(what, *n));
    }

    /// All names and numbers, by name.
    pub fn counts(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        self.counts.iter().map(|(what, n)| (*what, *n))
    }
}
