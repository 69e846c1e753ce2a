//! Tree nodes: sorted entries of key and value in the body of one block.
//!
//! ```text
//!  0      level u8 (0 = leaf), 0 u8
//!  2      count u16         entries
//!  4      heap u16          lowest byte in use by cells; cells grow downwards from the end
//!  6      dead u16          bytes between `heap` and the end that no cell uses
//!  8      zero [8]
//! 16      slots [count] u16 where each entry's cell starts, in key order
//! cell    key length u16, value length u16, key, value
//! ```
//!
//! In an interior node the value is the child's block (u64) and entry `i` leads to the keys from
//! its own key up to the next entry's; the key of entry 0 is empty, because the parent's separator
//! is its bound. So an insert changes a few slots and one cell, and the logged difference is small;
//! cells move only when holes must be joined to make room.
//!
//! Guarantees: any bytes either open or give `Corrupt`; reading checks each cell before it is
//! used, and changing checks the whole node first. Does not read blocks. Called by `meta::tree`.

use crate::error::Error;
use crate::error::Result;
use crate::format::block::BODY;
use crate::limits::TREE_HEIGHT_MAX;
use crate::limits::TREE_KEY_BYTES_MAX;
use crate::limits::TREE_VALUE_BYTES_MAX;
use crate::units::BLOCK_BYTES;
use crate::units::BlockNo;

/// Bytes of a node: the body of a block.
pub const NODE_BYTES: usize = BLOCK_BYTES - BODY;
const SLOTS: usize = 16;
/// Bytes that slots and cells can use.
pub const NODE_ROOM: usize = NODE_BYTES - SLOTS;
const CELL_HEADER: usize = 4;
const CHILD_BYTES: usize = 8;

const _: () = assert!(NODE_BYTES <= u16::MAX as usize);
const _: () = assert!(cost(TREE_KEY_BYTES_MAX, TREE_VALUE_BYTES_MAX) * 3 <= NODE_ROOM);

/// Bytes of a node that an entry takes, its slot included.
const fn cost(key: usize, value: usize) -> usize {
    2 + CELL_HEADER + key + value
}

fn get_u16(body: &[u8], at: usize) -> usize {
    usize::from(u16::from_le_bytes([body[at], body[at + 1]]))
}

fn put_u16(body: &mut [u8], at: usize, value: usize) {
    let value = u16::try_from(value).expect("offsets in a node fit 16 bits");
    body[at..at + 2].copy_from_slice(&value.to_le_bytes());
}

/// A node to read.
#[derive(Debug, Clone, Copy)]
pub struct Node<'a> {
    at: BlockNo,
    body: &'a [u8],
    count: usize,
    heap: usize,
}

impl<'a> Node<'a> {
    /// The node in `body`, which lies in block `at` (for messages). Costs the same for any node.
    ///
    /// Errors: `Corrupt`.
    ///
    /// # Panics
    /// If `body` is not the body of a block.
    pub fn open(at: BlockNo, body: &'a [u8]) -> Result<Self> {
        assert_eq!(body.len(), NODE_BYTES, "a node is the body of a block");
        let node = Self { at, body, count: get_u16(body, 2), heap: get_u16(body, 4) };
        let slots_end = SLOTS + node.count * 2;
        if node.level() >= TREE_HEIGHT_MAX {
            return Err(node.damaged("its level is too high"));
        }
        if node.count == 0 {
            return Err(node.damaged("it has no entries"));
        }
        if slots_end > node.heap || node.heap > NODE_BYTES {
            return Err(node.damaged("slots and cells overlap"));
        }
        Ok(node)
    }

    /// Distance from the leaves.
    pub fn level(&self) -> u8 {
        self.body[0]
    }

    /// Entries; at least 1.
    pub fn count(&self) -> usize {
        self.count
    }

    /// Key and value of entry `i`.
    ///
    /// Errors: `Corrupt` when the cell is not inside the node.
    ///
    /// # Panics
    /// If there is no entry `i`.
    pub fn entry(&self, i: usize) -> Result<(&'a [u8], &'a [u8])> {
        assert!(i < self.count, "entry {i} of {}", self.count);
        let cell = get_u16(self.body, SLOTS + i * 2);
        if cell < self.heap || cell + CELL_HEADER > NODE_BYTES {
            return Err(self.damaged("a slot points outside the cells"));
        }
        let key = cell + CELL_HEADER;
        let value = key + get_u16(self.body, cell);
        let end = value + get_u16(self.body, cell + 2);
        if end > NODE_BYTES
            || value - key > TREE_KEY_BYTES_MAX
            || end - value > TREE_VALUE_BYTES_MAX
        {
            return Err(self.damaged("a cell is too long"));
        }
        Ok((&self.body[key..value], &self.body[value..end]))
    }

    /// The child that entry `i` of an interior node leads to.
    ///
    /// Errors: `Corrupt`.
    pub fn child(&self, i: usize) -> Result<BlockNo> {
        assert!(self.level() > 0, "a leaf has no children");
        match <[u8; CHILD_BYTES]>::try_from(self.entry(i)?.1) {
            Ok(child) => Ok(BlockNo(u64::from_le_bytes(child))),
            Err(_) => Err(self.damaged("a child pointer has the wrong length")),
        }
    }

    /// `Ok(i)` when entry `i` has this key, else `Err(i)` with the place where it belongs.
    ///
    /// Errors: `Corrupt`.
    pub fn search(&self, key: &[u8]) -> Result<std::result::Result<usize, usize>> {
        let (mut low, mut high) = (0, self.count);
        while low < high {
            let middle = low + (high - low) / 2;
            match self.entry(middle)?.0.cmp(key) {
                std::cmp::Ordering::Less => low = middle + 1,
                std::cmp::Ordering::Equal => return Ok(Ok(middle)),
                std::cmp::Ordering::Greater => high = middle,
            }
        }
        Ok(Err(low))
    }

    /// The entry of an interior node whose subtree holds `key`, if any does.
    ///
    /// Errors: `Corrupt`.
    pub fn child_index(&self, key: &[u8]) -> Result<usize> {
        match self.search(key)? {
            Ok(i) => Ok(i),
            Err(0) => Err(self.damaged("its first key is not the lowest")),
            Err(i) => Ok(i - 1),
        }
    }

    /// Bytes that slots and cells use, of [`NODE_ROOM`].
    ///
    /// Errors: `Corrupt`.
    pub fn used(&self) -> Result<usize> {
        let cells = (NODE_BYTES - self.heap).checked_sub(get_u16(self.body, 6));
        match cells {
            Some(cells) => Ok(cells + self.count * 2),
            None => Err(self.damaged("more bytes are dead than there are")),
        }
    }

    /// Checks every entry: bounds, order, lengths, that no cells overlap and that they add up.
    ///
    /// Errors: `Corrupt`.
    pub fn check(&self) -> Result<()> {
        let mut sum = 0;
        let mut before: Option<&[u8]> = None;
        let mut taken = [0u64; NODE_BYTES.div_ceil(64)];
        for i in 0..self.count {
            let (key, value) = self.entry(i)?;
            let cell = get_u16(self.body, SLOTS + i * 2);
            if !mark(&mut taken, cell, CELL_HEADER + key.len() + value.len()) {
                return Err(self.damaged("two cells overlap"));
            }
            if self.level() > 0 && value.len() != CHILD_BYTES {
                return Err(self.damaged("a child pointer has the wrong length"));
            }
            if key.is_empty() != (self.level() > 0 && i == 0) {
                return Err(self.damaged("a key is empty, or the first separator is not"));
            }
            if before.is_some_and(|before| before >= key) {
                return Err(self.damaged("its keys are not in order"));
            }
            before = Some(key);
            sum += cost(key.len(), value.len());
        }
        if sum != self.used()? {
            return Err(self.damaged("its cells do not add up"));
        }
        Ok(())
    }

    fn damaged(&self, why: &str) -> Error {
        Error::corrupt("tree node", self.at, why)
    }
}

/// Marks `len` bytes from `start` on; `false` when one of them was marked before.
fn mark(taken: &mut [u64], start: usize, len: usize) -> bool {
    let (mut at, end) = (start, start + len);
    let mut fresh = true;
    while at < end {
        let bits = (64 - at % 64).min(end - at);
        let mask = (u64::MAX >> (64 - bits)) << (at % 64);
        fresh &= taken[at / 64] & mask == 0;
        taken[at / 64] |= mask;
        at += bits;
    }
    fresh
}

/// What did not fit any more: the new right neighbour of a node that was split.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Split {
    /// The body of the new node.
    pub right: Vec<u8>,
    /// The lowest key that belongs to it.
    pub separator: Vec<u8>,
    /// Whether the old node stayed as full as it was because entries arrive in ascending order.
    pub append: bool,
}

/// A node to change.
#[derive(Debug)]
pub struct NodeMut<'a> {
    at: BlockNo,
    body: &'a mut [u8],
}

impl<'a> NodeMut<'a> {
    /// Makes `body` (of block `at`) a node without entries; it must get one before it is read.
    pub fn format(at: BlockNo, body: &'a mut [u8], level: u8) -> Self {
        assert_eq!(body.len(), NODE_BYTES, "a node is the body of a block");
        assert!(level < TREE_HEIGHT_MAX, "level {level} is too high");
        body[..SLOTS].fill(0);
        body[0] = level;
        put_u16(body, 4, NODE_BYTES);
        Self { at, body }
    }

    /// The node in `body`, which lies in block `at`, after a check of all of it.
    ///
    /// Errors: `Corrupt`.
    pub fn open(at: BlockNo, body: &'a mut [u8]) -> Result<Self> {
        Node::open(at, body)?.check()?;
        Ok(Self { at, body })
    }

    /// The same node, to read.
    pub fn view(&self) -> Node<'_> {
        Node { at: self.at, body: self.body, count: self.count(), heap: self.heap() }
    }

    fn count(&self) -> usize {
        get_u16(self.body, 2)
    }

    fn heap(&self) -> usize {
        get_u16(self.body, 4)
    }

    fn dead(&self) -> usize {
        get_u16(self.body, 6)
    }

    /// Free bytes, holes included.
    fn room(&self) -> usize {
        self.heap() + self.dead() - SLOTS - self.count() * 2
    }

    fn entry(&self, i: usize) -> (&[u8], &[u8]) {
        self.view().entry(i).expect("the node was checked when it was opened")
    }

    /// Puts an entry at place `i`; `false` and no change when there is no room.
    ///
    /// # Panics
    /// If key or value are over their limits.
    pub fn insert(&mut self, i: usize, key: &[u8], value: &[u8]) -> bool {
        assert!(key.len() <= TREE_KEY_BYTES_MAX, "key of {} bytes", key.len());
        assert!(value.len() <= TREE_VALUE_BYTES_MAX, "value of {} bytes", value.len());
        let count = self.count();
        assert!(i <= count, "place {i} of {count}");
        let need = cost(key.len(), value.len());
        if need > self.room() {
            return false;
        }
        let slots_end = SLOTS + count * 2;
        if need > self.heap() - slots_end {
            self.compact();
        }
        let cell = self.heap() - (need - 2);
        self.body.copy_within(SLOTS + i * 2..slots_end, SLOTS + i * 2 + 2);
        put_u16(self.body, SLOTS + i * 2, cell);
        put_u16(self.body, cell, key.len());
        put_u16(self.body, cell + 2, value.len());
        let middle = cell + CELL_HEADER + key.len();
        self.body[cell + CELL_HEADER..middle].copy_from_slice(key);
        self.body[middle..middle + value.len()].copy_from_slice(value);
        put_u16(self.body, 4, cell);
        put_u16(self.body, 2, count + 1);
        true
    }

    /// Takes entry `i` out.
    pub fn remove(&mut self, i: usize) {
        let (key, value) = self.entry(i);
        let bytes = cost(key.len(), value.len()) - 2;
        let (count, cell) = (self.count(), get_u16(self.body, SLOTS + i * 2));
        self.body.copy_within(SLOTS + i * 2 + 2..SLOTS + count * 2, SLOTS + i * 2);
        put_u16(self.body, 2, count - 1);
        if cell == self.heap() {
            put_u16(self.body, 4, cell + bytes);
        } else {
            put_u16(self.body, 6, self.dead() + bytes);
        }
    }

    /// Gives entry `i` another value; `false` and no change when there is no room.
    pub fn replace(&mut self, i: usize, value: &[u8]) -> bool {
        assert!(value.len() <= TREE_VALUE_BYTES_MAX, "value of {} bytes", value.len());
        let (key, old) = self.entry(i);
        let (key_bytes, old_bytes) = (key.len(), old.len());
        if value.len() > old_bytes {
            if value.len() - old_bytes > self.room() {
                return false;
            }
            let key = key.to_vec();
            self.remove(i);
            assert!(self.insert(i, &key, value), "room was counted before");
            return true;
        }
        let cell = get_u16(self.body, SLOTS + i * 2);
        let start = cell + CELL_HEADER + key_bytes;
        self.body[start..start + value.len()].copy_from_slice(value);
        put_u16(self.body, cell + 2, value.len());
        put_u16(self.body, 6, self.dead() + old_bytes - value.len());
        true
    }

    /// Takes entry `i` of an interior node out; the next one inherits the place at the low end.
    pub fn remove_child(&mut self, i: usize) {
        self.remove(i);
        if i == 0 && self.count() > 0 {
            let child = self.entry(0).1.to_vec();
            self.remove(0);
            assert!(self.insert(0, &[], &child), "an empty key takes less room");
        }
    }

    /// Puts an entry at place `i` of a node that has no room for it, by moving the upper part to a
    /// new node: about half of the bytes, or only the new entry when it comes last and `append`.
    pub fn insert_and_split(&mut self, i: usize, key: &[u8], value: &[u8], append: bool) -> Split {
        let count = self.count();
        let append = append && i == count;
        let cut = if append { count } else { self.halfway(i, cost(key.len(), value.len())) };
        let entry = |v: usize| match v.cmp(&i) {
            std::cmp::Ordering::Less => self.entry(v),
            std::cmp::Ordering::Equal => (key, value),
            std::cmp::Ordering::Greater => self.entry(v - 1),
        };
        let interior = self.view().level() > 0;
        let (below, first) = (entry(cut - 1).0, entry(cut).0);
        let separator = if interior { first.to_vec() } else { between(below, first, append) };
        let mut right = vec![0; NODE_BYTES];
        let mut node = NodeMut::format(self.at, &mut right, self.view().level());
        for v in cut..=count {
            let (key, value) = entry(v);
            let key = if interior && v == cut { &[] } else { key };
            assert!(node.insert(v - cut, key, value), "half of a node fits a node");
        }
        let stay = if i < cut { cut - 1 } else { cut };
        self.truncate(stay);
        if i < cut {
            assert!(self.insert(i, key, value), "half of a node fits a node");
        }
        Split { right, separator, append }
    }

    /// Of the entries with a new one of `bytes` at `i`: the first that goes to the right when both
    /// sides shall be as equal as they can be.
    fn halfway(&self, i: usize, bytes: usize) -> usize {
        let count = self.count();
        let size = |v: usize| {
            if v == i {
                return bytes;
            }
            let (key, value) = self.entry(if v < i { v } else { v - 1 });
            cost(key.len(), value.len())
        };
        let total: usize = (0..=count).map(size).sum();
        let mut left = 0;
        for v in 0..count {
            let before = left;
            left += size(v);
            if left * 2 >= total {
                // Cut before or behind `v`, whichever leaves less of a difference.
                let behind = left * 2 - total;
                let in_front = total - before * 2;
                return if v > 0 && in_front < behind { v } else { v + 1 };
            }
        }
        count
    }

    /// Keeps the first `count` entries.
    fn truncate(&mut self, count: usize) {
        for i in (count..self.count()).rev() {
            self.remove(i);
        }
    }

    /// Whether the entries of `right` fit too, with a quarter of the node left free.
    ///
    /// Errors: `Corrupt`.
    pub fn can_absorb(left: &Node<'_>, right: &Node<'_>, separator: &[u8]) -> Result<bool> {
        let sum = left.used()? + right.used()? + separator.len();
        Ok(sum <= NODE_ROOM / 4 * 3)
    }

    /// Appends the entries of the right neighbour, whose lowest key is `separator`.
    ///
    /// # Panics
    /// If they do not fit.
    pub fn absorb(&mut self, right: &Node<'_>, separator: &[u8]) -> Result<()> {
        right.check()?;
        for i in 0..right.count() {
            let (key, value) = right.entry(i)?;
            let key = if right.level() > 0 && i == 0 { separator } else { key };
            assert!(self.insert(self.count(), key, value), "asked can_absorb before");
        }
        Ok(())
    }

    /// Joins all holes: the cells move to the end, in key order.
    fn compact(&mut self) {
        let old = self.body.to_vec();
        let old = Node { at: self.at, body: &old, count: self.count(), heap: self.heap() };
        let mut cell = NODE_BYTES;
        for i in 0..old.count {
            let (key, value) = old.entry(i).expect("the node was checked when it was opened");
            let bytes = CELL_HEADER + key.len() + value.len();
            let from = get_u16(old.body, SLOTS + i * 2);
            cell -= bytes;
            self.body[cell..cell + bytes].copy_from_slice(&old.body[from..from + bytes]);
            put_u16(self.body, SLOTS + i * 2, cell);
        }
        put_u16(self.body, 4, cell);
        put_u16(self.body, 6, 0);
    }
}

/// A short key above `below` and not above `first`. When entries arrive in order, the lowest such
/// key: so the full left node never again gets an entry at its end, and entries that arrive in
/// descending order behind it do not make one node each.
fn between(below: &[u8], first: &[u8], append: bool) -> Vec<u8> {
    if append && below.len() < TREE_KEY_BYTES_MAX {
        let mut lowest = below.to_vec();
        lowest.push(0);
        return lowest;
    }
    let same = below.iter().zip(first).take_while(|(a, b)| a == b).count();
    first[..(same + 1).min(first.len())].to_vec()
}

#[cfg(test)]
mod tests;
