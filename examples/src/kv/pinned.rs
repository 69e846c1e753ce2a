//! A large value in the hands of a reader.
//!
//! Guarantees that what is read is the value as it was when it was pinned, however long ago: bytes that
//! were replaced since lie here, and the object is not removed. Does not open and does not register;
//! `shelf` does, where the rules of it stand. Called by `shelf`, `resp` and who sends values.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use foliant::Object;
use parking_lot::Mutex;

use crate::kv::error::Error;
use crate::kv::error::Result;
use crate::kv::limits::PIECE_BYTES;
use crate::kv::units::LargeId;
use crate::kv::view::Old;

/// What was replaced since somebody began to read.
#[derive(Debug)]
pub struct Slot {
    id: LargeId,
    /// Held for a push or to copy over what was read, never over an await.
    replaced: Mutex<Replaced>,
}

#[derive(Debug)]
struct Replaced {
    /// The oldest first: of two that overlap the first one counts.
    old: Vec<Old>,
    /// So many of the next commit's are part of what is read.
    skip: usize,
}

impl Slot {
    /// Of `id`, with what was replaced before; `skip` of the next commit's replacements count as done.
    pub fn new(id: LargeId, old: Vec<Old>, skip: usize) -> Self {
        Self { id, replaced: Mutex::new(Replaced { old, skip }) }
    }

    /// Of which value.
    pub fn id(&self) -> LargeId {
        self.id
    }

    /// A commit replaces these.
    pub fn replace(&self, all: &[Old]) {
        let mut replaced = self.replaced.lock();
        // Asked once for each replacement of a commit; a second time adds nothing.
        let skip = std::mem::replace(&mut replaced.skip, usize::MAX).min(all.len());
        replaced.old.extend(all[skip..].iter().filter(|old| old.id == self.id).cloned());
    }

    /// The next commit is another one.
    pub fn settle(&self) {
        self.replaced.lock().skip = 0;
    }

    /// Puts old bytes over `bytes`, which were read from `at` on.
    fn restore(&self, at: usize, bytes: &mut [u8]) {
        for old in self.replaced.lock().old.iter().rev() {
            overlay(bytes, at, old.at, &old.bytes);
        }
    }
}

/// Copies `from`, which lies at `from_at`, over the part of `to` that lies there; `to` begins at `to_at`.
pub fn overlay(to: &mut [u8], to_at: usize, from_at: usize, from: &[u8]) {
    let start = to_at.max(from_at);
    let end = (to_at + to.len()).min(from_at + from.len());
    if start < end {
        to[start - to_at..end - to_at].copy_from_slice(&from[start - from_at..end - from_at]);
    }
}

/// Keeps the reader registered.
pub trait Registered: std::fmt::Debug + Send + Sync {
    /// What was replaced meanwhile.
    fn slot(&self) -> &Slot;
}

/// A large value, or a part of it, as it was when it was pinned. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Pinned {
    held: Arc<Held>,
    part: Range<usize>,
}

#[derive(Debug)]
struct Held {
    registered: Box<dyn Registered>,
    object: Object,
}

impl PartialEq for Pinned {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.held, &other.held) && self.part == other.part
    }
}

impl Eq for Pinned {}

impl Pinned {
    /// A value of `bytes` bytes.
    pub fn new(registered: impl Registered + 'static, object: Object, bytes: usize) -> Self {
        let registered = Box::new(registered);
        Self { held: Arc::new(Held { registered, object }), part: 0..bytes }
    }

    /// Its bytes.
    pub fn len(&self) -> usize {
        self.part.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.part.is_empty()
    }

    /// The part `range`, which lies in it.
    pub fn slice(&self, range: Range<usize>) -> Self {
        assert!(range.start <= range.end && range.end <= self.len(), "{range:?} of {}", self.len());
        let part = self.part.start + range.start..self.part.start + range.end;
        Self { held: self.held.clone(), part }
    }

    /// Reads from `at` on; there are as many bytes.
    ///
    /// Errors: `LargeMissing` (it is shorter than the tree says), `Engine`.
    pub async fn read(&self, at: usize, bytes: &mut [u8]) -> Result<()> {
        assert!(at + bytes.len() <= self.len(), "{} bytes at {at} of {}", bytes.len(), self.len());
        let at = self.part.start + at;
        let slot = self.held.registered.slot();
        if self.held.object.read_at(at as u64, bytes).await? < bytes.len() {
            return Err(Error::LargeMissing { id: slot.id() });
        }
        // Afterwards: what a commit replaces was put here before it began.
        slot.restore(at, bytes);
        Ok(())
    }

    /// All of it, at once in memory.
    ///
    /// Errors: as `read`.
    pub async fn to_bytes(&self) -> Result<Bytes> {
        let mut all = vec![0; self.len()];
        for (index, piece) in all.chunks_mut(PIECE_BYTES).enumerate() {
            self.read(index * PIECE_BYTES, piece).await?;
        }
        Ok(all.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn old(id: LargeId, at: usize, text: &'static str) -> Old {
        Old { id, at, bytes: Bytes::from_static(text.as_bytes()) }
    }

    #[test]
    fn of_what_was_replaced_twice_the_first_counts() {
        // "abcdef" became "aXYdef", then "aXZZef", then "QXZZef".
        let slot = Slot::new(1, vec![old(1, 1, "bc")], 0);
        let next = [old(2, 0, "nothing"), old(1, 2, "Yd")];
        slot.replace(&next);
        slot.replace(&next);
        slot.settle();
        slot.replace(&[old(1, 0, "a")]);
        let mut read = *b"QXZZef";
        slot.restore(0, &mut read);
        assert_eq!(&read, b"abcdef");
        let mut read = *b"ZZe";
        slot.restore(2, &mut read);
        assert_eq!(&read, b"cde");
    }

    #[test]
    fn a_planned_value_has_what_its_own_commit_did_before() {
        // "abc" became "Xbc"; read then; "XYc" in the same commit.
        let slot = Slot::new(1, Vec::new(), 1);
        slot.replace(&[old(1, 0, "a"), old(1, 1, "b")]);
        let mut read = *b"XYc";
        slot.restore(0, &mut read);
        assert_eq!(&read, b"Xbc");
    }
}
