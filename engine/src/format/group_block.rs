//! The group block: which blocks of an allocation group are in use.
//!
//! ```text
//! body   0  free u32           clear bits
//!        4  checksums u32      bit i: checksum block i has been written
//!        8  zero [32]
//!       40  bitmap [4032]      bit i of the group: set = used; bits behind the group's end are set
//! ```
//!
//! Guarantees: a decoded block's count agrees with its bitmap and its head is in use; setting a
//! used bit or clearing a free one is an error and changes nothing. Does not know claims. Called
//! by `alloc`.

use std::ops::Range;

use crate::error::Error;
use crate::error::Result;
use crate::format::block::BODY;
use crate::format::layout::GROUP_HEAD_BLOCKS;
use crate::kit::bitset::BitSet;
use crate::limits::GROUP_BLOCKS;
use crate::limits::GROUP_CHECKSUM_BLOCKS;
use crate::units::BLOCK_BYTES;
use crate::units::BlockNo;

const BITMAP: usize = 40;
const BITMAP_BYTES: usize = GROUP_BLOCKS as usize / 8;

const _: () = assert!(GROUP_BLOCKS.is_multiple_of(8));
const _: () = assert!(BODY + BITMAP + BITMAP_BYTES <= BLOCK_BYTES);
const _: () = assert!(GROUP_CHECKSUM_BLOCKS <= u32::BITS as u64);

/// Makes `body` the block of a group of `blocks` blocks whose head alone is in use.
pub fn format(body: &mut [u8], blocks: u64) {
    assert!(GROUP_HEAD_BLOCKS < blocks && blocks <= GROUP_BLOCKS, "group of {blocks} blocks");
    body.fill(0);
    put_u32(body, 0, (blocks - GROUP_HEAD_BLOCKS) as u32);
    flip(bitmap_mut(body), 0..GROUP_HEAD_BLOCKS as usize);
    flip(bitmap_mut(body), blocks as usize..GROUP_BLOCKS as usize);
}

/// The bitmap of the group block at `at`, for a group of `blocks` blocks.
///
/// Errors: `Corrupt`.
pub fn decode(body: &[u8], at: BlockNo, blocks: u64) -> Result<BitSet> {
    let used = BitSet::from_bytes(blocks as usize, bitmap(body));
    let damaged = |why| Err(Error::corrupt("group block", at, why));
    if used.next_clear(0).is_some_and(|first| (first as u64) < GROUP_HEAD_BLOCKS) {
        return damaged("the head of the group is not in use");
    }
    if used.len() - used.count() != free(body) as usize {
        return damaged("the count of free blocks is not that of the bitmap");
    }
    Ok(used)
}

/// Free blocks, as counted in the block.
pub fn free(body: &[u8]) -> u32 {
    get_u32(body, 0)
}

/// Marks the clear bits of `range` used.
///
/// Errors: `Corrupt` when one is in use already; nothing has changed.
pub fn take(body: &mut [u8], at: BlockNo, range: Range<usize>) -> Result<()> {
    let blocks = range.len() as u32;
    match free(body).checked_sub(blocks) {
        Some(left) if ones(bitmap(body), range.clone()) == 0 => {
            put_u32(body, 0, left);
            flip(bitmap_mut(body), range);
            Ok(())
        }
        _ => Err(Error::corrupt("group block", at, format!("blocks {range:?} are in use twice"))),
    }
}

/// Marks the used bits of `range` free.
///
/// Errors: `Corrupt` when one is free already; nothing has changed.
pub fn give(body: &mut [u8], at: BlockNo, range: Range<usize>) -> Result<()> {
    if ones(bitmap(body), range.clone()) != range.len() {
        return Err(Error::corrupt("group block", at, format!("blocks {range:?} are freed twice")));
    }
    let sum = free(body).checked_add(range.len() as u32);
    let Some(sum) = sum.filter(|&sum| u64::from(sum) <= GROUP_BLOCKS - GROUP_HEAD_BLOCKS) else {
        return Err(Error::corrupt("group block", at, "it counts more free blocks than it has"));
    };
    put_u32(body, 0, sum);
    flip(bitmap_mut(body), range);
    Ok(())
}

/// Whether checksum block `index` has been written.
pub fn has_checksums(body: &[u8], index: u64) -> bool {
    assert!(index < GROUP_CHECKSUM_BLOCKS, "checksum block {index}");
    get_u32(body, 4) >> index & 1 == 1
}

/// Notes that checksum block `index` is being written for the first time.
pub fn set_has_checksums(body: &mut [u8], index: u64) {
    assert!(!has_checksums(body, index), "checksum block {index} is there already");
    let ready = get_u32(body, 4) | 1 << index;
    put_u32(body, 4, ready);
}

fn bitmap(body: &[u8]) -> &[u8] {
    &body[BITMAP..BITMAP + BITMAP_BYTES]
}

fn bitmap_mut(body: &mut [u8]) -> &mut [u8] {
    &mut body[BITMAP..BITMAP + BITMAP_BYTES]
}

/// The bytes that `range` touches, each with the mask of its bits.
fn masks(range: Range<usize>) -> impl Iterator<Item = (usize, u8)> {
    let bytes = if range.is_empty() { 0..0 } else { range.start / 8..range.end.div_ceil(8) };
    bytes.map(move |byte| {
        let first = range.start.max(byte * 8) - byte * 8;
        let last = range.end.min(byte * 8 + 8) - 1 - byte * 8;
        (byte, (0xff << first) & (0xff >> (7 - last)))
    })
}

fn ones(bitmap: &[u8], range: Range<usize>) -> usize {
    let count = |(byte, mask): (usize, u8)| (bitmap[byte] & mask).count_ones() as usize;
    masks(range).map(count).sum()
}

fn flip(bitmap: &mut [u8], range: Range<usize>) {
    for (byte, mask) in masks(range) {
        bitmap[byte] ^= mask;
    }
}

fn get_u32(body: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(body[at..at + 4].try_into().expect("four bytes"))
}

fn put_u32(body: &mut [u8], at: usize, value: u32) {
    body[at..at + 4].copy_from_slice(&value.to_le_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT: BlockNo = BlockNo(4);

    fn fresh(blocks: u64) -> Vec<u8> {
        let mut body = vec![9; BLOCK_BYTES - BODY];
        format(&mut body, blocks);
        body
    }

    #[test]
    fn a_fresh_group_uses_its_head_and_nothing_else() {
        for blocks in [66, 1000, GROUP_BLOCKS] {
            let body = fresh(blocks);
            let used = decode(&body, AT, blocks).unwrap();
            assert_eq!(used.next_clear(0), Some(33));
            assert_eq!(used.next_set(33), None);
            assert_eq!(u64::from(free(&body)), blocks - 33);
            // Seen as a full-size group, the rest is in use.
            assert_eq!(
                decode(&body, AT, GROUP_BLOCKS).unwrap().next_set(33).is_some(),
                blocks < GROUP_BLOCKS
            );
        }
    }

    #[test]
    fn taking_and_giving_is_what_a_bitset_does() {
        let mut body = fresh(1000);
        let mut model = decode(&body, AT, 1000).unwrap();
        let mut seed = 1u64;
        let mut refused = 0;
        for _ in 0..4000 {
            seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            let start = 33 + (seed >> 33) as usize % 960;
            let range = start..(start + 1 + (seed >> 20) as usize % 20).min(1000);
            let before = body.clone();
            let mut with = model.clone();
            let (result, changed) = match seed >> 60 & 1 {
                0 => (take(&mut body, AT, range.clone()), with.set(range.clone())),
                _ => (give(&mut body, AT, range.clone()), with.clear(range.clone())),
            };
            assert_eq!(result.is_ok(), changed == range.len());
            match result {
                Ok(()) => model = with,
                Err(error) => {
                    assert!(error.is_corruption());
                    assert_eq!(body, before);
                    refused += 1;
                }
            }
            assert_eq!(decode(&body, AT, 1000).unwrap(), model);
        }
        assert!(refused > 100);
    }

    #[test]
    fn counts_and_heads_that_do_not_agree_are_corruption() {
        let mut body = fresh(1000);
        put_u32(&mut body, 0, 5);
        assert!(decode(&body, AT, 1000).unwrap_err().is_corruption());
        let mut body = fresh(1000);
        body[BITMAP] = 0xfe;
        put_u32(&mut body, 0, 968);
        assert!(decode(&body, AT, 1000).unwrap_err().is_corruption());
        let mut body = fresh(1000);
        take(&mut body, AT, 40..50).unwrap();
        put_u32(&mut body, 0, u32::MAX);
        assert!(give(&mut body, AT, 40..50).unwrap_err().is_corruption());
    }

    #[test]
    fn checksum_blocks_are_noted_one_by_one() {
        let mut body = fresh(1000);
        set_has_checksums(&mut body, 31);
        set_has_checksums(&mut body, 0);
        let ready: Vec<u64> = (0..32).filter(|&i| has_checksums(&body, i)).collect();
        assert_eq!(ready, [0, 31]);
    }
}
