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

/// Adds the record of a block that changed from `before` (or from zeroes) to `after`.
///
/// For metadata the first four bytes are the checksum itself and not logged as a range. Returns how many
/// ranges there are: with none, nothing has changed but perhaps the checksum.
pub fn encode(
    payload: &mut Vec<u8>,
    block: BlockNo,
    data: bool,
    before: Option<&[u8]>,
    after: &[u8],
    crc: u32,
) -> u16 {
    assert_eq!(after.len(), BLOCK_BYTES, "a record is about one block");
    let start = payload.len();
    let flags = u16::from(data) * DATA + u16::from(before.is_none()) * INIT;
    payload.extend(flags.to_le_bytes());
    payload.extend([0; 2]);
    payload.extend(crc.to_le_bytes());
    payload.extend(block.0.to_le_bytes());
    let zeroes = [0; BLOCK_BYTES];
    let from = if data { 0 } else { 4 };
    let mut count: u16 = 0;
    for range in differences(before.unwrap_or(&zeroes), after, from) {
        payload.extend((range.start as u16).to_le_bytes());
        payload.extend((range.len() as u16).to_le_bytes());
        payload.extend(&after[range]);
        count += 1;
    }
    payload[start + 2..start + 4].copy_from_slice(&count.to_le_bytes());
    count
}

/// Bytes that are compared at once where nothing differs.
const STRIDE: usize = 128;

/// The ranges behind `from` in which two blocks differ, small gaps joined.
fn differences(before: &[u8], after: &[u8], from: usize) -> Vec<Range<usize>> {
    assert_eq!(before.len(), after.len(), "images of one block");
    let mut found: Vec<Range<usize>> = Vec::new();
    let mut at = from;
    while at < after.len() {
        // Most of a block is the same: long strides first, then words.
        if at + STRIDE <= after.len() && before[at..at + STRIDE] == after[at..at + STRIDE] {
            at += STRIDE;
            continue;
        }
        let step = if at.is_multiple_of(8) { 8 } else { 8 - at % 8 };
        let end = (at + step).min(after.len());
        if before[at..end] == after[at..end] {
            at = end;
            continue;
        }
        let first = (at..end).find(|&i| before[i] != after[i]).expect("the slices differ");
        let last = (at..end).rfind(|&i| before[i] != after[i]).expect("the slices differ");
        match found.last_mut() {
            Some(range) if first - range.end < GAP => range.end = last + 1,
            _ => found.push(first..last + 1),
        }
        at = end;
    }
    found
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

/// Puts a header in front of `records`.
pub fn transaction(records: &[u8], count: u32) -> [u8; TRANSACTION_HEADER] {
    let mut header = [0; TRANSACTION_HEADER];
    let bytes = u32::try_from(records.len()).expect("a transaction is far below 4 GiB");
    header[0..4].copy_from_slice(&bytes.to_le_bytes());
    header[4..8].copy_from_slice(&count.to_le_bytes());
    header
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
            let base = (!init).then_some(&before[..]);
            encode(&mut payload, BlockNo(3), true, base, &after, 17);
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
            encode(&mut payload, BlockNo(3), true, Some(&before), &after, 0);
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

    #[test]
    fn a_small_change_costs_little() {
        let before = image(&[]);
        let mut after = before.clone();
        after[1000..1150].fill(7);
        let mut payload = Vec::new();
        encode(&mut payload, BlockNo(3), false, Some(&before), &after, 0);
        assert_eq!(payload.len(), RECORD_HEADER + RANGE_HEADER + 150);
    }
}
