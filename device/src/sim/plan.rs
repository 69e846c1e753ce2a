//! Which request meets which fault.
//!
//! Rules are matched in the order in which they were made, when a request starts; the first that
//! strikes decides. Guarantees that matching draws no random number, so that adding a rule changes
//! nothing about requests that it does not strike. Does not act: `platter` does. Made by tests.

use std::ops::Range;

use crate::error::DeviceErrorKind;
use crate::error::Operation;

/// What goes wrong with a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// It ends with an error of this kind. A write that fails with `Io` may have landed wholly, in
    /// part or not at all; one that fails otherwise has not. A flush that fails leaves the writes
    /// before it unstable for ever: no later flush covers them.
    Fail(DeviceErrorKind),
    /// It is acknowledged, and never happened. A read gives whatever its buffers held.
    Lose,
    /// It happens at another place, and is acknowledged.
    Misdirect {
        /// The first block of that place.
        to: u64,
    },
    /// One bit arrives changed: in the buffers of a read, on the medium for a write. It is acknowledged.
    Flip {
        /// Which bit of all that the request moves, counted round.
        bit: u64,
    },
    /// It takes longer by this much virtual time.
    Delay {
        /// Milliseconds on top.
        ms: u64,
    },
    /// It does not end, and has no effect, before [`super::SimDisk::release`].
    Hang,
}

/// Which requests meet a fault: by default the next request of any kind, once.
#[derive(Debug, Clone)]
pub struct FaultRule {
    fault: Fault,
    operation: Option<Operation>,
    blocks: Option<Range<u64>>,
    skip: u64,
    times_max: u64,
}

impl FaultRule {
    /// A rule for the next request, whatever it is.
    pub fn new(fault: Fault) -> Self {
        Self { fault, operation: None, blocks: None, skip: 0, times_max: 1 }
    }

    /// Shorthand: fails with `kind`.
    pub fn fail(kind: DeviceErrorKind) -> Self {
        Self::new(Fault::Fail(kind))
    }

    /// Only requests of this kind.
    pub fn on(mut self, operation: Operation) -> Self {
        self.operation = Some(operation);
        self
    }

    /// Only requests that touch one of these blocks. A flush touches none.
    pub fn blocks(mut self, blocks: Range<u64>) -> Self {
        self.blocks = Some(blocks);
        self
    }

    /// Lets this many matching requests pass first.
    pub fn after(mut self, matches: u64) -> Self {
        self.skip = matches;
        self
    }

    /// Strikes at most this often.
    pub fn times(mut self, times_max: u64) -> Self {
        self.times_max = times_max;
        self
    }

    /// Strikes until it is withdrawn.
    pub fn always(self) -> Self {
        self.times(u64::MAX)
    }

    fn matches(&self, operation: Operation, block: u64, count: u64) -> bool {
        let touches =
            |range: &Range<u64>| block < range.end && range.start < block.saturating_add(count);
        self.operation.is_none_or(|wanted| wanted == operation)
            && self.blocks.as_ref().is_none_or(touches)
    }
}

/// Names a rule that is in force.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RuleId(usize);

#[derive(Debug)]
struct Entry {
    rule: FaultRule,
    struck: u64,
    withdrawn: bool,
}

/// All rules ever made for one disk.
#[derive(Debug, Default)]
pub(super) struct Plan {
    entries: Vec<Entry>,
}

impl Plan {
    /// Puts a rule in force.
    pub(super) fn add(&mut self, rule: FaultRule) -> RuleId {
        self.entries.push(Entry { rule, struck: 0, withdrawn: false });
        RuleId(self.entries.len() - 1)
    }

    /// Ends a rule.
    pub(super) fn withdraw(&mut self, id: RuleId) {
        self.entries[id.0].withdrawn = true;
    }

    /// Ends every rule.
    pub(super) fn withdraw_all(&mut self) {
        self.entries.iter_mut().for_each(|entry| entry.withdrawn = true);
    }

    /// How many requests a rule has struck.
    pub(super) fn struck(&self, id: RuleId) -> u64 {
        self.entries[id.0].struck
    }

    /// The fault that a request which starts now meets.
    pub(super) fn strike(&mut self, operation: Operation, block: u64, count: u64) -> Option<Fault> {
        let mut fault = None;
        for entry in &mut self.entries {
            let spent = entry.withdrawn || entry.struck >= entry.rule.times_max;
            if spent || !entry.rule.matches(operation, block, count) {
                continue;
            }
            if entry.rule.skip > 0 {
                entry.rule.skip -= 1;
            } else if fault.is_none() {
                entry.struck += 1;
                fault = Some(entry.rule.fault);
            }
        }
        fault
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_counts_its_own_matches_only() {
        let mut plan = Plan::default();
        let rule = FaultRule::fail(DeviceErrorKind::Io).on(Operation::Write).blocks(10..20);
        let id = plan.add(rule.after(1).times(2));
        let mut strike = |op, block, count| plan.strike(op, block, count).is_some();
        assert!(!strike(Operation::Read, 10, 1));
        assert!(!strike(Operation::Write, 0, 10));
        assert!(!strike(Operation::Write, 20, 1));
        assert!(!strike(Operation::Write, 5, 6), "the first match passes");
        assert!(strike(Operation::Write, 19, 100));
        assert!(!strike(Operation::Flush, 0, 0));
        assert!(strike(Operation::Write, 12, 1));
        assert!(!strike(Operation::Write, 12, 1));
        assert_eq!(plan.struck(id), 2);
    }

    #[test]
    fn the_older_rule_wins_and_a_withdrawn_one_is_quiet() {
        let mut plan = Plan::default();
        let first = plan.add(FaultRule::new(Fault::Lose).always());
        plan.add(FaultRule::new(Fault::Hang).always());
        assert_eq!(plan.strike(Operation::Flush, 0, 0), Some(Fault::Lose));
        plan.withdraw(first);
        assert_eq!(plan.strike(Operation::Flush, 0, 0), Some(Fault::Hang));
        plan.withdraw_all();
        assert_eq!(plan.strike(Operation::Flush, 0, 0), None);
    }
}
