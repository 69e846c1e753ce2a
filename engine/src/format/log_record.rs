//! Journal records: what changed in one block, and what its checksum is afterwards.
//!
//! ```text
//! transaction  0  bytes u32      of all its records, this header not counted
//!              4  records u32
//! record       0  flags u16      bit 0: data (no header, its sum is only checked); bit 1: init
//!              2  ranges u16
//!              4  crc u32        of the whole block afterwards; for metadata it goes to bytes 0..4
//!              8  block u64
//!             16  ranges: offset u16, length u16, bytes
//! ```
//!
//! Guarantees: what was encoded decodes to the same; any bytes decode or give `Corrupt`, and nothing
//! is allocated by what they claim. Does not know where a record lies. Called by `meta::txn` and
//! `meta::recover`.

use std::ops::Range;

use crate::error::Error;
use crate::error::ErrorKind;
use crate::error::Result;
use crate::units::BLOCK_BYTES;
use crate::units::BlockNo;

/// Bytes in front of a transaction's records.
pub const TRANSACTION_HEADER: usize = 8;
const RECORD_HEADER: usize = 16;
const RANGE_HEADER: usize = 4;
const DATA: u16 = 1;
const INIT: u16 = 2;
/// Equal bytes between two changes that are cheaper to log than to leave out.
const GAP: usize = 16;

/// One decoded record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record<'a> {
    /// Which block.
    pub block: BlockNo,
    /// A data block: no header, checksum of all bytes.
    pub data: bool,
    /// The block starts from zeroes.
    pub init: bool,
    /// CRC of the whole block afterwards.
    pub crc: u32,
    ranges: &'a [u8],
}

/// Which bytes of a block a record names: made without the log at hand, so that the comparison of two images
/// is nobody's wait.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delta {
    ranges: Vec<Range<usize>>,
    data: bool,
    init: bool,
}

impl Delta {
    /// What changes a block from `before` (or from zeroes) to `after`.
    ///
    /// For metadata the first four bytes are the checksum itself and not logged as a range.
    pub fn between(before: Option<&[u8]>, after: &[u8], data: bool) -> Self {
        assert_eq!(after.len(), BLOCK_BYTES, "a record is about one block");
        let from = if data { 0 } else { 4 };
        let ranges = differences(before.unwrap_or(&ZEROES), after, from);
        Self { ranges, data, init: before.is_none() }
    }

    /// Whether the block stays as it was.
    pub fn is_nothing(&self) -> bool {
        self.ranges.is_empty() && !self.init
    }

    /// Bytes of the record.
    pub fn record_bytes(&self) -> usize {
        let range = |range: &Range<usize>| RANGE_HEADER + range.len();
        RECORD_HEADER + self.ranges.iter().map(range).sum::<usize>()
    }

    /// Adds the record of `block`, which is `after` with this checksum afterwards.
    pub fn encode(&self, payload: &mut Vec<u8>, block: BlockNo, after: &[u8], crc: u32) {
        let flags = u16::from(self.data) * DATA + u16::from(self.init) * INIT;
        payload.extend(flags.to_le_bytes());
        payload.extend((self.ranges.len() as u16).to_le_bytes());
        payload.extend(crc.to_le_bytes());
        payload.extend(block.0.to_le_bytes());
        for range in &self.ranges {
            payload.extend((range.start as u16).to_le_bytes());
            payload.extend((range.len() as u16).to_le_bytes());
            payload.extend(&after[range.clone()]);
        }
    }
}

/// What a block holds before its first record.
static ZEROES: [u8; BLOCK_BYTES] = [0; BLOCK_BYTES];

/// Bytes that are compared at once where nothing differs.
const STRIDE: usize = 128;
/// Bytes that are compared at once where something does.
const WORD: usize = 8;

/// The ranges behind `from` in which two blocks differ, small gaps joined.
fn differences(before: &[u8], after: &[u8], from: usize) -> Vec<Range<usize>> {
    assert_eq!(before.len(), after.len(), "images of one block");
    let mut found: Vec<Range<usize>> = Vec::new();
    let mut at = from;
    while at < after.len() {
        // Most of a block is the same, or all of it is another: long strides first, then words.
        if at.is_multiple_of(STRIDE) {
            let stride = at..at + STRIDE;
            if before[stride.clone()] == after[stride.clone()] {
                at = stride.end;
                continue;
            }
            if every_word_differs(&before[stride.clone()], &after[stride.clone()]) {
                // What is equal between the ends of two words is no gap.
                let first = word_difference(before, after, at..at + WORD);
                let last = word_difference(before, after, stride.end - WORD..stride.end);
                let ends = first.zip(last).map(|(first, last)| first.start..last.end);
                add(&mut found, ends);
                at = stride.end;
                continue;
            }
        }
        let end = (at / WORD + 1) * WORD;
        add(&mut found, word_difference(before, after, at..end));
        at = end;
    }
    found
}

/// Adds a difference that lies behind the others.
fn add(found: &mut Vec<Range<usize>>, range: Option<Range<usize>>) {
    let Some(range) = range else { return };
    match found.last_mut() {
        Some(last) if range.start - last.end < GAP => last.end = range.end,
        _ => found.push(range),
    }
}

/// Without a branch for each word, so that the compiler compares many at once.
fn every_word_differs(before: &[u8], after: &[u8]) -> bool {
    let words = |bytes: &[u8]| -> [u64; STRIDE / WORD] {
        std::array::from_fn(|at| {
            let eight = &bytes[at * WORD..(at + 1) * WORD];
            u64::from_le_bytes(eight.try_into().expect("eight bytes"))
        })
    };
    let equal = words(before).iter().zip(words(after)).filter(|(a, b)| **a == *b).count();
    equal == 0
}

/// From the first to the last byte of a word in which two blocks differ; the word may lack its head.
fn word_difference(before: &[u8], after: &[u8], bytes: Range<usize>) -> Option<Range<usize>> {
    let word = |of: &[u8]| -> u64 {
        let start = bytes.end - WORD;
        u64::from_le_bytes(of[start..bytes.end].try_into().expect("eight bytes"))
    };
    let skipped = (WORD - bytes.len()) as u32 * 8;
    let differ = (word(before) ^ word(after)) >> skipped;
    let first = bytes.start + (differ.trailing_zeros() / 8) as usize;
    let last = bytes.end - (differ << skipped).leading_zeros() as usize / 8;
    (differ != 0).then_some(first..last)
}

fn damaged(why: &str) -> Error {
    Error::new(ErrorKind::Corrupt, format!("journal record: {why}"))
}

fn take<'a>(bytes: &mut &'a [u8], count: usize) -> Result<&'a [u8]> {
    let (head, tail) =
        bytes.split_at_checked(count).ok_or_else(|| damaged("it ends in the middle"))?;
    *bytes = tail;
    Ok(head)
}

fn half(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

/// Begins a transaction: room for its header, and for `bytes` of records.
pub fn begin_transaction(bytes: usize) -> Vec<u8> {
    let mut payload = Vec::with_capacity(TRANSACTION_HEADER + bytes);
    payload.extend([0; TRANSACTION_HEADER]);
    payload
}

/// Fills in the header of a transaction whose `count` records follow it.
pub fn end_transaction(payload: &mut [u8], count: u32) {
    let records = payload.len() - TRANSACTION_HEADER;
    let bytes = u32::try_from(records).expect("a transaction is far below 4 GiB");
    payload[0..4].copy_from_slice(&bytes.to_le_bytes());
    payload[4..8].copy_from_slice(&count.to_le_bytes());
}

/// Takes the next transaction off `payload`: its number of records and their bytes. Errors: `Corrupt`.
pub fn next_transaction<'a>(payload: &mut &'a [u8]) -> Result<(u32, &'a [u8])> {
    let header = take(payload, TRANSACTION_HEADER)?;
    let records = take(payload, word(header, 0) as usize)?;
    Ok((word(header, 4), records))
}

/// Takes the next record off `records`. Errors: `Corrupt`.
pub fn next_record<'a>(records: &mut &'a [u8]) -> Result<Record<'a>> {
    let header = take(records, RECORD_HEADER)?;
    let flags = half(header, 0);
    if flags & !(DATA | INIT) != 0 {
        return Err(damaged("unknown flags"));
    }
    let block = u64::from_le_bytes(header[8..16].try_into().expect("eight bytes"));
    let start = *records;
    for _ in 0..half(header, 2) {
        let range = take(records, RANGE_HEADER)?;
        let (offset, len) = (usize::from(half(range, 0)), usize::from(half(range, 2)));
        if offset + len > BLOCK_BYTES {
            return Err(damaged("a range behind the end of the block"));
        }
        take(records, len)?;
    }
    let ranges = &start[..start.len() - records.len()];
    Ok(Record {
        block: BlockNo(block),
        data: flags & DATA != 0,
        init: flags & INIT != 0,
        crc: word(header, 4),
        ranges,
    })
}

impl Record<'_> {
    /// Brings `image` to the state after the record, whatever it was before.
    ///
    /// Metadata gets its checksum from the record; the caller verifies the result.
    pub fn apply(&self, image: &mut [u8]) {
        assert_eq!(image.len(), BLOCK_BYTES, "a record is about one block");
        if self.init {
            image.fill(0);
        }
        let mut rest = self.ranges;
        while !rest.is_empty() {
            let (offset, len) = (usize::from(half(rest, 0)), usize::from(half(rest, 2)));
            let bytes = &rest[RANGE_HEADER..RANGE_HEADER + len];
            image[offset..offset + len].copy_from_slice(bytes);
            rest = &rest[RANGE_HEADER + len..];
        }
        if !self.data {
            image[0..4].copy_from_slice(&self.crc.to_le_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn image(changes: &[(u16, u8)]) -> Vec<u8> {
        let mut image = vec![0; BLOCK_BYTES];
        for &(at, byte) in changes {
            image[usize::from(at) % BLOCK_BYTES] = byte;
        }
        image
    }

    proptest! {
        #[test]
        fn a_record_leads_from_before_to_after(
            before in proptest::collection::vec((any::<u16>(), any::<u8>()), 0..60),
            after in proptest::collection::vec((any::<u16>(), any::<u8>()), 0..60),
            init in any::<bool>(),
        ) {
            let (before, after) = (image(&before), image(&after));
            let mut payload = Vec::new();
            let delta = Delta::between((!init).then_some(&before[..]), &after, true);
            delta.encode(&mut payload, BlockNo(3), &after, 17);
            prop_assert_eq!(payload.len(), delta.record_bytes());
            let mut rest = &payload[..];
            let record = next_record(&mut rest).unwrap();
            prop_assert!(rest.is_empty());
            prop_assert_eq!((record.block, record.crc, record.init), (BlockNo(3), 17, init));
            let mut found = before.clone();
            record.apply(&mut found);
            prop_assert!(found == after);
        }

        #[test]
        fn a_torn_base_is_healed(
            before in proptest::collection::vec((any::<u16>(), any::<u8>()), 0..60),
            after in proptest::collection::vec((any::<u16>(), any::<u8>()), 0..60),
            sector in 0_usize..8,
        ) {
            let (before, after) = (image(&before), image(&after));
            let mut payload = Vec::new();
            Delta::between(Some(&before), &after, true).encode(&mut payload, BlockNo(3), &after, 0);
            let mut torn = before;
            torn[sector * 512..(sector + 1) * 512]
                .copy_from_slice(&after[sector * 512..(sector + 1) * 512]);
            next_record(&mut &payload[..]).unwrap().apply(&mut torn);
            prop_assert!(torn == after);
        }

        #[test]
        fn any_bytes_decode_or_fail(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let mut payload = &bytes[..];
            while let Ok((_, mut records)) = next_transaction(&mut payload) {
                while let Ok(record) = next_record(&mut records) {
                    record.apply(&mut vec![0; BLOCK_BYTES]);
                }
            }
            let mut records = &bytes[..];
            while next_record(&mut records).is_ok() {}
        }
    }

    /// Byte by byte.
    fn plain_differences(before: &[u8], after: &[u8], from: usize) -> Vec<Range<usize>> {
        let mut found = Vec::new();
        for at in (from..before.len()).filter(|&at| before[at] != after[at]) {
            add(&mut found, Some(at..at + 1));
        }
        found
    }

    proptest! {
        #[test]
        fn differences_are_those_of_the_bytes(
            places in proptest::collection::vec((0_usize..4096, 1_usize..600, any::<u8>()), 0..12),
            data in any::<bool>(),
        ) {
            let (before, mut after) = (image(&[]), image(&[]));
            for (start, len, byte) in places {
                after[start..(start + len).min(BLOCK_BYTES)].fill(byte % 3);
            }
            let from = if data { 0 } else { 4 };
            prop_assert_eq!(differences(&before, &after, from), plain_differences(&before, &after, from));
        }
    }

    #[test]
    fn differences_begin_and_end_at_bytes_that_differ() {
        for from in [0, 4] {
            for (first, last) in
                (0..40).flat_map(|first| (first..40).map(move |last| (first, last)))
            {
                let (before, mut after) = (image(&[]), image(&[]));
                (after[first], after[last]) = (1, 128);
                let seen: Vec<usize> = [first, last].into_iter().filter(|&at| at >= from).collect();
                let found = differences(&before, &after, from);
                let ends = found.first().map(|r| r.start).zip(found.last().map(|r| r.end));
                let expected = seen.first().copied().zip(seen.last().map(|at| at + 1));
                assert_eq!(ends, expected, "bytes {first} and {last}, from {from}");
                assert_eq!(
                    found.len(),
                    1 + usize::from(seen.len() == 2 && last - first > GAP)
                        - usize::from(seen.is_empty())
                );
            }
        }
    }

    #[test]
    fn a_small_change_costs_little() {
        let before = image(&[]);
        let mut after = before.clone();
        after[1000..1150].fill(7);
        let mut payload = Vec::new();
        Delta::between(Some(&before), &after, false).encode(&mut payload, BlockNo(3), &after, 0);
        assert_eq!(payload.len(), RECORD_HEADER + RANGE_HEADER + 150);
    }
}
