//! What was asked of the disk, in the order of starts and ends.
//!
//! Guarantees that starts and ends are numbers of one sequence: `a.ended < Some(b.started)` means
//! that `a` was over when `b` was asked. Keeps the newest records only. Called by `platter`.

use std::collections::VecDeque;

use crate::contract::Persist;
use crate::error::Operation;

/// One request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// The how many-th request to the disk, from 1 on.
    pub request: u64,
    /// What was asked.
    pub operation: Operation,
    /// The first block; 0 for a flush.
    pub block: u64,
    /// The number of blocks; 0 for a flush.
    pub count: u64,
    /// What a write asked for.
    pub persist: Option<Persist>,
    /// When it was asked, in the sequence that starts and ends share.
    pub started: u64,
    /// When it was over; `None` while it is in flight.
    pub ended: Option<u64>,
    /// It ended with an error.
    pub failed: bool,
}

/// The newest records.
#[derive(Debug)]
pub(super) struct Trace {
    records: VecDeque<Record>,
    records_max: usize,
    moment: u64,
}

impl Trace {
    /// An empty trace that keeps `records_max` records.
    pub(super) fn new(records_max: usize) -> Self {
        Self { records: VecDeque::new(), records_max, moment: 0 }
    }

    fn next_moment(&mut self) -> u64 {
        self.moment += 1;
        self.moment
    }

    /// A request starts; its record's `started` is set here.
    pub(super) fn start(&mut self, mut record: Record) {
        record.started = self.next_moment();
        if self.records_max == 0 {
            return;
        }
        if self.records.len() == self.records_max {
            self.records.pop_front();
        }
        self.records.push_back(record);
    }

    /// A request ends.
    pub(super) fn end(&mut self, request: u64, failed: bool) {
        let moment = self.next_moment();
        let Some(first) = self.records.front().map(|r| r.request) else { return };
        let Some(index) = request.checked_sub(first) else { return };
        let record = &mut self.records[index as usize];
        assert_eq!(record.request, request, "every request has a record, in order");
        assert!(record.ended.is_none(), "a request ends once");
        record.ended = Some(moment);
        record.failed = failed;
    }

    /// Forgets what was recorded. Requests in flight will have no record.
    pub(super) fn clear(&mut self) {
        self.records.clear();
    }

    /// A copy of all records, oldest first.
    pub(super) fn records(&self) -> Vec<Record> {
        self.records.iter().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(request: u64) -> Record {
        Record {
            request,
            operation: Operation::Read,
            block: 0,
            count: 1,
            persist: None,
            started: 0,
            ended: None,
            failed: false,
        }
    }

    #[test]
    fn starts_and_ends_share_one_sequence_and_old_records_go() {
        let mut trace = Trace::new(2);
        trace.start(record(1));
        trace.start(record(2));
        trace.end(1, false);
        trace.start(record(3));
        trace.end(1, true);
        trace.end(3, true);
        let left = trace.records();
        let told: Vec<_> = left.iter().map(|r| (r.request, r.started, r.ended)).collect();
        assert_eq!(told, [(2, 2, None), (3, 4, Some(6))]);
        assert!(left[1].failed);
    }
}
