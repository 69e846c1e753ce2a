//! CRC32C over bytes, in one place.
//!
//! Guarantees the Castagnoli polynomial, as computed by the processor where it can. Does not know
//! what is summed and is no protection against forgery. Called by `format` and by whoever checks
//! data blocks.

use crc_fast::CrcAlgorithm;
use crc_fast::Digest;

#[cfg(test)]
use crate::units::BLOCK_BYTES;

/// CRC32C of `bytes` (seed 0).
pub fn of(bytes: &[u8]) -> u32 {
    crc_fast::checksum(CrcAlgorithm::Crc32Iscsi, bytes) as u32
}

/// CRC32C of what `so_far` already covers, followed by `bytes`.
pub fn append(so_far: u32, bytes: &[u8]) -> u32 {
    // The running state of this polynomial is the complement of the sum so far.
    let state = u64::from(!so_far);
    let mut digest = Digest::new_with_init_state(CrcAlgorithm::Crc32Iscsi, state);
    digest.update(bytes);
    digest.finalize() as u32
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
        assert_eq!(append(0, b"123456789"), of(b"123456789"));
        // Long enough for every way in which it is computed.
        let bytes: Vec<u8> = (0..9000u32).map(|at| ((at * at) >> 3) as u8).collect();
        for cut in [0, 1, 63, 64, 127, 255, 256, 1023, 4096, 8999, 9000] {
            assert_eq!(append(of(&bytes[..cut]), &bytes[cut..]), of(&bytes), "cut at {cut}");
        }
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
