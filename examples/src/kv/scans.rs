//! SCAN cursors: numbers that stand for the key where a scan goes on.
//!
//! A cursor must be a number of 64 bits, a position in the tree is a key of up to 512 bytes, so a
//! bounded table keeps the keys, the oldest of which is forgotten first. Any client may use a cursor,
//! again and over another connection.
//!
//! Guarantees that a number never stands for another scan's key: the numbers of one server are not
//! reused, and they start at random so that those of an earlier server are unknown. Called by
//! `execute`.

use std::collections::VecDeque;
use std::hash::BuildHasher;
use std::hash::RandomState;

use bytes::Bytes;
use parking_lot::Mutex;

use crate::kv::limits::SCAN_CURSORS_MAX;

/// The cursors that are remembered.
#[derive(Debug)]
pub struct Scans {
    /// Held for one push or look-up, never over an await.
    known: Mutex<Known>,
}

#[derive(Debug)]
struct Known {
    /// The cursor of the first key; the following ones count up.
    first: u64,
    keys: VecDeque<Bytes>,
}

impl Scans {
    /// No cursor yet.
    pub fn new() -> Self {
        // Half of the range is left to count up; 0 means the start.
        let first = RandomState::new().hash_one(0) >> 1 | 1;
        Self { known: Mutex::new(Known { first, keys: VecDeque::new() }) }
    }

    /// A cursor for the keys from `key` on.
    pub fn remember(&self, key: Bytes) -> u64 {
        let mut known = self.known.lock();
        if known.keys.len() == SCAN_CURSORS_MAX {
            known.keys.pop_front();
            known.first += 1;
        }
        known.keys.push_back(key);
        known.first + known.keys.len() as u64 - 1
    }

    /// The key of a cursor; none if it is not known (any more).
    pub fn find(&self, cursor: u64) -> Option<Bytes> {
        if cursor == 0 {
            return Some(Bytes::new());
        }
        let known = self.known.lock();
        let index = cursor.checked_sub(known.first)?;
        known.keys.get(index as usize).cloned()
    }
}

impl Default for Scans {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cursors_are_remembered_up_to_the_bound() {
        let scans = Scans::new();
        assert_eq!(scans.find(0), Some(Bytes::new()));
        assert_eq!(scans.find(7), None);
        let first = scans.remember("a".into());
        let second = scans.remember("b".into());
        assert_eq!(scans.find(first).unwrap(), "a");
        assert_eq!(scans.find(second).unwrap(), "b");
        for _ in 0..SCAN_CURSORS_MAX {
            scans.remember("c".into());
        }
        assert_eq!(scans.find(second), None);
    }
}
