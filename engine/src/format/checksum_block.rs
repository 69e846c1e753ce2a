//! The checksum block: CRC32C of [`CHECKSUMS_PER_BLOCK`] blocks of a group, four bytes each.
//!
//! Guarantees nothing about entries of blocks that hold no checked data: they are whatever was
//! last put there. Does not compute sums. Called by `alloc`.

use crate::format::block::BODY;
use crate::limits::CHECKSUMS_PER_BLOCK;
use crate::units::BLOCK_BYTES;

const _: () = assert!(CHECKSUMS_PER_BLOCK as usize * 4 + BODY <= BLOCK_BYTES);

/// The checksums from place `first` on, `count` of them.
///
/// # Panics
/// If they are not all in this block.
pub fn get(body: &[u8], first: usize, count: usize) -> impl Iterator<Item = u32> + '_ {
    check(first, count);
    body[first * 4..(first + count) * 4]
        .chunks_exact(4)
        .map(|four| u32::from_le_bytes(four.try_into().expect("four bytes")))
}

/// Replaces the checksums from place `first` on.
///
/// # Panics
/// If they are not all in this block.
pub fn put(body: &mut [u8], first: usize, sums: &[u32]) {
    check(first, sums.len());
    for (at, sum) in sums.iter().enumerate() {
        let byte = (first + at) * 4;
        body[byte..byte + 4].copy_from_slice(&sum.to_le_bytes());
    }
}

fn check(first: usize, count: usize) {
    let end = first.checked_add(count);
    assert!(
        end.is_some_and(|end| end <= CHECKSUMS_PER_BLOCK as usize),
        "{count} checksums from {first} on are not in one block"
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_put_is_got_and_nothing_else_changes() {
        let mut body = vec![0; BLOCK_BYTES - BODY];
        put(&mut body, 1013, &[1, u32::MAX, 3]);
        put(&mut body, 0, &[9]);
        let all: Vec<u32> = get(&body, 0, 1016).collect();
        assert_eq!(all[0], 9);
        assert_eq!(all[1013..], [1, u32::MAX, 3]);
        assert!(all[1..1013].iter().all(|&sum| sum == 0));
    }

    #[test]
    #[should_panic(expected = "not in one block")]
    fn sums_beyond_the_block_are_our_mistake() {
        put(&mut vec![0; BLOCK_BYTES - BODY], 1015, &[1, 2]);
    }
}
