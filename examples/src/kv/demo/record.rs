//! Keys and values that can be checked: a value names its key and its version, fills the rest from
//! both, and carries a checksum over all of it.
//!
//! Guarantees that a value made of parts of two others does not pass. The store's own checksums are
//! another matter: this one checks the store. Called by `load` and `crash`.

/// Bytes of a key: as in common benchmarks.
pub const KEY_BYTES: usize = 24;
/// Bytes of a value.
pub const VALUE_BYTES: usize = 150;

const CHECKED: usize = VALUE_BYTES - 8;

/// The key of a number; keys have the order of their numbers.
pub fn key(id: u64) -> [u8; KEY_BYTES] {
    let mut key = [0; KEY_BYTES];
    key.copy_from_slice(format!("user{id:020}").as_bytes());
    key
}

/// The value of a key's version.
pub fn value(id: u64, version: u64) -> Vec<u8> {
    let mut value = Vec::with_capacity(VALUE_BYTES);
    value.extend_from_slice(&id.to_le_bytes());
    value.extend_from_slice(&version.to_le_bytes());
    let mut word = mix(id ^ version.rotate_left(32));
    while value.len() < CHECKED {
        let part = word.to_le_bytes();
        value.extend_from_slice(&part[..part.len().min(CHECKED - value.len())]);
        word = mix(word);
    }
    value.extend_from_slice(&sum(&value).to_le_bytes());
    value
}

/// Number and version of a sound value.
pub fn read(value: &[u8]) -> Option<(u64, u64)> {
    let (checked, checksum) = value.split_at_checked(CHECKED)?;
    if checksum != sum(checked).to_le_bytes() {
        return None;
    }
    let (id, rest) = checked.split_first_chunk()?;
    let (version, _) = rest.split_first_chunk()?;
    Some((u64::from_le_bytes(*id), u64::from_le_bytes(*version)))
}

/// FNV-1a: any difference shows, and nobody is trying to forge one.
fn sum(bytes: &[u8]) -> u64 {
    let step = |sum: u64, byte: &u8| (sum ^ u64::from(*byte)).wrapping_mul(0x100_0000_01B3);
    bytes.iter().fold(0xCBF2_9CE4_8422_2325, step)
}

/// The mixing of SplitMix64: a bijection that looks random.
pub fn mix(word: u64) -> u64 {
    let word = word.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let word = (word ^ (word >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let word = (word ^ (word >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    word ^ (word >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_comes_back_and_a_torn_one_does_not() {
        let (old, new) = (value(7, 1), value(7, 2));
        assert_eq!(read(&old), Some((7, 1)));
        for at in 1..VALUE_BYTES {
            let torn = [&new[..at], &old[at..]].concat();
            assert!(torn == new || torn == old || read(&torn).is_none(), "torn at {at}");
        }
        assert_eq!(read(b"short"), None);
        assert_ne!(key(1), key(2));
    }
}
