//! What readers of cached data look at: one line of a block, and the number in its head.
//!
//! Guarantees that all sides of a contest choose and touch alike. Called by `cached.rs`, `pread.rs`
//! and `writers.rs`.

use foliant_device::BLOCK_SIZE;

use crate::data::Random;

/// Bytes that a reader without a copy touches.
pub const LINE: usize = 64;
/// Lines of a block.
pub const LINES: u64 = (BLOCK_SIZE / LINE) as u64;
/// Reads between two looks at the clock.
pub const ROUND: u64 = 256;

/// Whether the head of a block names it.
pub fn says_block(bytes: &[u8], block: u64) -> bool {
    bytes.first_chunk().is_some_and(|head| u64::from_le_bytes(*head) == block)
}

/// Reads every word of a line.
pub fn touch(line: &[u8]) -> u64 {
    let words = line.chunks_exact(8).filter_map(|word| word.first_chunk());
    words.fold(0, |all, word| all ^ u64::from_le_bytes(*word))
}

/// A choice that waits for what was read last, as that of a program does which works with what it
/// reads. Without it the processor would run many loads of plain memory at once.
pub fn choose(random: &mut Random, last: u64, bound: u64) -> u64 {
    ((u128::from(random.next() ^ last) * u128::from(bound)) >> 64) as u64
}
