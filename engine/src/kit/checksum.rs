//! CRC32C over bytes, in one place.
//!
//! Guarantees the Castagnoli polynomial, as computed by the processor where it can. Does not know
//! what is summed and is no protection against forgery. Called by `format` and by whoever checks
//! data blocks.

#[cfg(test)]
use crate::units::BLOCK_BYTES;

/// CRC32C of `bytes` (seed 0).
pub fn of(bytes: &[u8]) -> u32 {
    crc32c::crc32c(bytes)
}

/// CRC32C of what `so_far` already covers, followed by `bytes`.
pub fn append(so_far: u32, bytes: &[u8]) -> u32 {
    crc32c::crc32c_append(so_far, bytes)
}

#[cfg(test)]
/// One checksum per block of `bytes`.
///
/// # Panics
/// If `bytes` is not whole blocks.
pub fn of_blocks(bytes: &[u8]) -> impl Iterator<Item = u32> + '_ {
    assert!(bytes.len().is_multiple_of(BLOCK_BYTES), "checksums are kept for whole blocks");
    bytes.chunks_exact(BLOCK_BYTES).map(of)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_check_value_of_the_castagnoli_polynomial() {
        assert_eq!(of(b"123456789"), 0xE306_9283);
    }

    #[test]
    fn appending_equals_summing_the_whole() {
        assert_eq!(append(of(b"1234"), b"56789"), of(b"123456789"));
    }

    #[test]
    fn each_block_has_its_own_sum() {
        let mut bytes = vec![0u8; 2 * BLOCK_BYTES];
        bytes[BLOCK_BYTES] = 1;
        let sums: Vec<u32> = of_blocks(&bytes).collect();
        assert_eq!(sums.len(), 2);
        assert_ne!(sums[0], sums[1]);
        assert_eq!(sums[0], of(&bytes[..BLOCK_BYTES]));
    }
}
