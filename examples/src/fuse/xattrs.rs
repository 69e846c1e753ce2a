//! The extended attributes of an inode as bytes: what one object holds.
//!
//! ```text
//! version 1 | each: name length 1 | value length 4 | name | value
//! ```
//!
//! Guarantees that what is decoded is sound in itself, or refused. Called by `extended` and `check`.

use std::collections::BTreeMap;

use crate::fuse::limits::NAME_BYTES_MAX;
use crate::fuse::limits::XATTRS_BYTES_MAX;

const VERSION: u8 = 1;

/// Values by their names.
pub type Xattrs = BTreeMap<Vec<u8>, Vec<u8>>;

/// As the bytes of the object; `None` when they are more than an inode may have.
pub fn encode(all: &Xattrs) -> Option<Vec<u8>> {
    let mut bytes = vec![VERSION];
    for (name, value) in all {
        assert!(name.len() <= NAME_BYTES_MAX, "names are checked where they come in");
        bytes.push(name.len() as u8);
        bytes.extend((value.len() as u32).to_le_bytes());
        bytes.extend(name);
        bytes.extend(value);
    }
    (bytes.len() <= XATTRS_BYTES_MAX).then_some(bytes)
}

/// Reads the bytes of the object; `None` when they are not sound.
pub fn decode(bytes: &[u8]) -> Option<Xattrs> {
    let mut left = bytes.strip_prefix(&[VERSION])?;
    let mut all = Xattrs::new();
    while let Some((&name_len, rest)) = left.split_first() {
        let (value_len, rest) = rest.split_first_chunk::<4>()?;
        let (name, rest) = rest.split_at_checked(name_len.into())?;
        let (value, rest) = rest.split_at_checked(u32::from_le_bytes(*value_len) as usize)?;
        all.insert(name.to_vec(), value.to_vec()).is_none().then_some(())?;
        left = rest;
    }
    Some(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_come_back_within_bounds() {
        let mut all = Xattrs::new();
        assert_eq!(decode(&encode(&all).unwrap()), Some(all.clone()));
        all.insert(b"user.a".to_vec(), vec![]);
        all.insert(vec![b'n'; 255], vec![7; 64 << 10]);
        let bytes = encode(&all).unwrap();
        assert_eq!(decode(&bytes), Some(all.clone()));
        for len in (0..bytes.len()).filter(|len| *len != 1 && *len != 1 + 255 + 5 + (64 << 10)) {
            assert_eq!(decode(&bytes[..len]), None, "{len} bytes");
        }
        all.insert(b"user.b".to_vec(), vec![7; 64 << 10]);
        assert_eq!(encode(&all), None);
    }
}
