//! The bytes of a page: header, slots and cells of a tree node, read side.
//!
//! ```text
//!  0 kind  1 zero  2 count  4 start  6 garbage  8 link  12 own number
//! 16 slot 0, slot 1, ...   ->      free      <-   cells, newest lowest   4096
//! cell: key length u16, word u32, key, payload
//!   leaf:  word = value length; payload = the value. With the top bit set the value lies in
//!          overflow runs, and the payload is the first run's page and length; if then its length is
//!          zero, the value is an object, and the payload is its number u64, its length u32, and zeroes.
//!          With the bit below it set the payload starts with the time at which the entry ends, u64
//!          milliseconds.
//!   inner: word = the child with keys >= key; no payload. `link` is the child before all keys.
//! ```
//! Slots are sorted by key, cells are not, so an insert changes one cell, a few slots and the header:
//! that is what the log has to carry.
//!
//! Guarantees: nothing here panics or walks outside the page, whatever the bytes are; a wrong page
//! is `Damaged`. Does not checksum (the engine does) and does no I/O. Called by `node`, `tree`,
//! `snapshot` and `cursor`.

use crate::kv::error::Result;
use crate::kv::error::damaged;
use crate::kv::limits::CELL_BYTES_MAX;
use crate::kv::limits::KEY_BYTES_MAX;
use crate::kv::limits::PAGE_BYTES;
use crate::kv::limits::VALUE_BYTES_MAX;
use crate::kv::units::LargeId;
use crate::kv::units::Millis;
use crate::kv::units::Page;
use crate::kv::units::PageNo;

pub(super) const HEADER: usize = 16;
pub(super) const CELL_HEADER: usize = 6;
const OVERFLOW: u32 = 1 << 31;
const EXPIRES: u32 = 1 << 30;
const FLAGS: u32 = OVERFLOW | EXPIRES;
/// Bytes of the reference to overflow runs, and of the one to an object.
const RUN_BYTES: usize = 8;
const LARGE_BYTES: usize = 16;
/// Bytes of the time at which an entry ends.
const TIME_BYTES: usize = 8;

/// What a page is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// Keys and values.
    Leaf = 1,
    /// Keys and children.
    Inner = 2,
    /// Numbers of free pages.
    Trunk = 3,
    /// The start of an overflow run.
    Run = 4,
}

/// An empty page.
pub fn blank() -> Box<Page> {
    Box::new([0; PAGE_BYTES])
}

/// Whether it looks like a sound node with children.
pub fn is_inner(no: PageNo, page: &Page) -> bool {
    Node::open(no, page).is_ok_and(|node| !node.is_leaf())
}

/// Two bytes at `at`.
pub fn u16_at(page: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([page[at], page[at + 1]])
}

/// Four bytes at `at`.
pub fn u32_at(page: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([page[at], page[at + 1], page[at + 2], page[at + 3]])
}

/// Stores two bytes.
pub fn put_u16(page: &mut [u8], at: usize, value: usize) {
    assert!(value <= PAGE_BYTES, "offsets and counts stay within a page");
    page[at..at + 2].copy_from_slice(&(value as u16).to_le_bytes());
}

/// Stores four bytes.
pub fn put_u32(page: &mut [u8], at: usize, value: u32) {
    page[at..at + 4].copy_from_slice(&value.to_le_bytes());
}

/// Checks kind and number, which every page carries at the same place.
pub fn check_kind(no: PageNo, page: &Page, kind: Kind) -> Result<()> {
    if page[0] != kind as u8 {
        return damaged(no, "another kind of page was expected here");
    }
    if u32_at(page, 12) != no {
        return damaged(no, "it carries the number of another page");
    }
    Ok(())
}

/// Where a value is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stored<'a> {
    /// In its cell.
    Inline(&'a [u8]),
    /// In overflow runs.
    Overflow(RunRef),
    /// In an object of its own.
    Large(LargeRef),
}

/// A value that is an object of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LargeRef {
    /// Which.
    pub id: LargeId,
    /// Bytes of the value. The object may be longer, by what was never committed.
    pub bytes: u32,
}

/// A value in overflow runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RunRef {
    /// First page of the first run.
    pub first: PageNo,
    /// Pages of the first run.
    pub pages: u32,
    /// Bytes of the value.
    pub bytes: u32,
}

/// One cell of a node.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cell<'a> {
    pub key: &'a [u8],
    pub word: u32,
    pub payload: &'a [u8],
    /// All of it, to be copied elsewhere.
    pub bytes: &'a [u8],
}

/// A tree node, for reading.
#[derive(Clone, Copy)]
pub struct Node<'a> {
    no: PageNo,
    page: &'a Page,
}

impl<'a> Node<'a> {
    /// Checks the header.
    pub fn open(no: PageNo, page: &'a Page) -> Result<Self> {
        let kind = if page[0] == Kind::Leaf as u8 { Kind::Leaf } else { Kind::Inner };
        check_kind(no, page, kind)?;
        let node = Self { no, page };
        let (slots_end, start) = (HEADER + 2 * node.len(), node.start());
        if slots_end > start || start > PAGE_BYTES || node.garbage() > PAGE_BYTES - start {
            return damaged(no, "its header contradicts itself");
        }
        Ok(node)
    }

    /// Whether it holds values.
    pub fn is_leaf(self) -> bool {
        self.page[0] == Kind::Leaf as u8
    }

    /// An error unless it is a leaf exactly at level 0.
    pub fn check_level(self, level: u8) -> Result<()> {
        match self.is_leaf() == (level == 0) {
            true => Ok(()),
            false => damaged(self.no, "a node has another level than its place"),
        }
    }

    /// Number of keys.
    pub fn len(self) -> usize {
        u16_at(self.page, 2) as usize
    }

    /// Whether there is no key.
    pub fn is_empty(self) -> bool {
        self.len() == 0
    }

    pub(super) fn start(self) -> usize {
        u16_at(self.page, 4) as usize
    }

    pub(super) fn garbage(self) -> usize {
        u16_at(self.page, 6) as usize
    }

    /// Bytes that slots and live cells take.
    pub fn used(self) -> usize {
        let slots = 2 * self.len();
        (slots + PAGE_BYTES - self.start()).saturating_sub(self.garbage())
    }

    pub(super) fn slot(self, index: usize) -> usize {
        assert!(index < self.len(), "slot {index} of {}", self.len());
        u16_at(self.page, HEADER + 2 * index) as usize
    }

    pub(super) fn cell(self, index: usize) -> Result<Cell<'a>> {
        let at = self.slot(index);
        if at < self.start() || at + CELL_HEADER > PAGE_BYTES {
            return damaged(self.no, "a slot points outside the cells");
        }
        let key_len = u16_at(self.page, at) as usize;
        let word = u32_at(self.page, at + 2);
        let payload_len = self.payload_len(word);
        let len = CELL_HEADER + key_len + payload_len;
        if key_len == 0 || key_len > KEY_BYTES_MAX || len > CELL_BYTES_MAX {
            return damaged(self.no, "a cell has an impossible length");
        }
        if at + len > PAGE_BYTES {
            return damaged(self.no, "a cell reaches over the end");
        }
        let bytes = &self.page[at..at + len];
        let (key, payload) = bytes[CELL_HEADER..].split_at(key_len);
        Ok(Cell { key, word, payload, bytes })
    }

    fn payload_len(self, word: u32) -> usize {
        if !self.is_leaf() {
            return 0;
        }
        let time = if word & EXPIRES != 0 { TIME_BYTES } else { 0 };
        time + match (word & OVERFLOW != 0, (word & !FLAGS) as usize) {
            (true, 0) => LARGE_BYTES,
            (true, _) => RUN_BYTES,
            (false, bytes) => bytes,
        }
    }

    /// The key at `index`.
    pub fn key(self, index: usize) -> Result<&'a [u8]> {
        Ok(self.cell(index)?.key)
    }

    /// The value at `index` of a leaf.
    pub fn value(self, index: usize) -> Result<Stored<'a>> {
        if !self.is_leaf() {
            return damaged(self.no, "a value is looked for in a node that leads further down");
        }
        let cell = self.cell(index)?;
        let skip = if cell.word & EXPIRES != 0 { TIME_BYTES } else { 0 };
        let payload = &cell.payload[skip..];
        if cell.word & OVERFLOW == 0 {
            return Ok(Stored::Inline(payload));
        }
        if cell.word & !FLAGS == 0 {
            let (low, high) = (u32_at(payload, 0), u32_at(payload, 4));
            let id = u64::from(low) | u64::from(high) << 32;
            let bytes = u32_at(payload, 8);
            if bytes as usize > VALUE_BYTES_MAX {
                return damaged(self.no, "a large value has an impossible length");
            }
            return Ok(Stored::Large(LargeRef { id, bytes }));
        }
        let (first, pages) = (u32_at(payload, 0), u32_at(payload, 4));
        Ok(Stored::Overflow(RunRef { first, pages, bytes: cell.word & !FLAGS }))
    }

    /// When the entry at `index` of a leaf ends, if it does.
    pub fn expires(self, index: usize) -> Result<Option<Millis>> {
        let cell = self.cell(index)?;
        if !self.is_leaf() || cell.word & EXPIRES == 0 {
            return Ok(None);
        }
        let (low, high) = (u32_at(cell.payload, 0), u32_at(cell.payload, 4));
        Ok(Some(u64::from(low) | u64::from(high) << 32))
    }

    /// The child at `position`: 0 is the one before all keys, n the one behind key n - 1.
    pub fn child(self, position: usize) -> Result<PageNo> {
        match position {
            0 => Ok(u32_at(self.page, 8)),
            _ => Ok(self.cell(position - 1)?.word),
        }
    }

    /// The index of `key`, or the one where it belongs.
    pub fn search(self, key: &[u8]) -> Result<std::result::Result<usize, usize>> {
        let (mut low, mut high) = (0, self.len());
        while low < high {
            let middle = (low + high) / 2;
            match self.key(middle)?.cmp(key) {
                std::cmp::Ordering::Less => low = middle + 1,
                std::cmp::Ordering::Greater => high = middle,
                std::cmp::Ordering::Equal => return Ok(Ok(middle)),
            }
        }
        Ok(Err(low))
    }

    /// The position of the child under which `key` belongs.
    pub fn position(self, key: &[u8]) -> Result<usize> {
        Ok(match self.search(key)? {
            Ok(index) => index + 1,
            Err(index) => index,
        })
    }
}

/// The cell of a leaf.
pub fn leaf_cell(key: &[u8], value: Stored<'_>, expires: Option<Millis>) -> Vec<u8> {
    let (flag, time) = match expires {
        Some(time) => (EXPIRES, &time.to_le_bytes()[..]),
        None => (0, &[][..]),
    };
    match value {
        Stored::Inline(value) => cell(key, value.len() as u32 | flag, time, value),
        Stored::Overflow(run) => {
            let mut payload = [0; RUN_BYTES];
            put_u32(&mut payload, 0, run.first);
            put_u32(&mut payload, 4, run.pages);
            cell(key, run.bytes | OVERFLOW | flag, time, &payload)
        }
        Stored::Large(large) => {
            let mut payload = [0; LARGE_BYTES];
            payload[..8].copy_from_slice(&large.id.to_le_bytes());
            put_u32(&mut payload, 8, large.bytes);
            cell(key, OVERFLOW | flag, time, &payload)
        }
    }
}

/// The cell of an inner node.
pub fn inner_cell(key: &[u8], child: PageNo) -> Vec<u8> {
    cell(key, child, &[], &[])
}

/// Whether key, value and time fit one cell together.
pub fn fits_inline(key: &[u8], value: &[u8], expires: Option<Millis>) -> bool {
    let time = expires.map_or(0, |_| TIME_BYTES);
    CELL_HEADER + key.len() + time + value.len() <= CELL_BYTES_MAX
}

fn cell(key: &[u8], word: u32, time: &[u8], payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(CELL_HEADER + key.len() + time.len() + payload.len());
    bytes.extend_from_slice(&(key.len() as u16).to_le_bytes());
    bytes.extend_from_slice(&word.to_le_bytes());
    bytes.extend_from_slice(key);
    bytes.extend_from_slice(time);
    bytes.extend_from_slice(payload);
    assert!(bytes.len() <= CELL_BYTES_MAX, "the caller chose overflow for what does not fit");
    bytes
}
