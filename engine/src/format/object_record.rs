//! The record of an object: what is known about it apart from where its bytes lie.
//!
//! ```text
//! key    object u64 BE
//! value   0  version u16       8  size u64
//!         2  kind u16         16  attribute bytes u16
//!         4  flags u32        18  inline bytes u16     (room for small objects; 0 in version 1)
//!        20  zero u32
//!        24  attributes, then inline bytes
//! ```
//!
//! Guarantees that a decoded record is within limits. Does not interpret attributes. Called by
//! `object::records`.

use crate::error::Error;
use crate::error::ErrorKind;
use crate::error::Result;
use crate::limits::OBJECT_BYTES_MAX;
use crate::limits::TREE_VALUE_BYTES_MAX;
use crate::units::ObjectId;

/// Longest attributes in bytes.
pub const ATTRIBUTE_BYTES_MAX: usize = 512;
const VERSION: u16 = 1;
const HEADER: usize = 24;

const _: () = assert!(HEADER + ATTRIBUTE_BYTES_MAX <= TREE_VALUE_BYTES_MAX);

/// What kind of object it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[repr(u16)]
pub enum ObjectKind {
    /// Overwrites go out of place or through the journal; every block has a checksum.
    #[default]
    Plain = 1,
    /// Overwrites go in place; its blocks have no checksums.
    InPlace = 2,
}

/// Everything about an object but its extents.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ObjectRecord {
    /// What kind of object it is.
    pub kind: ObjectKind,
    /// Kept for callers above; the store gives them no meaning.
    pub flags: u32,
    /// Size in bytes, at most [`OBJECT_BYTES_MAX`].
    pub size: u64,
    /// The user's own bytes, at most [`ATTRIBUTE_BYTES_MAX`].
    pub attributes: Vec<u8>,
}

/// The key of an object's record.
pub fn key(object: ObjectId) -> [u8; 8] {
    object.0.to_be_bytes()
}

#[cfg(test)]
/// The object of a key.
///
/// Errors: `Corrupt`.
pub fn decode_key(key: &[u8]) -> Result<ObjectId> {
    match <[u8; 8]>::try_from(key) {
        Ok(id) => Ok(ObjectId(u64::from_be_bytes(id))),
        Err(_) => {
            Err(Error::new(ErrorKind::Corrupt, format!("an object's key has {} bytes", key.len())))
        }
    }
}

impl ObjectRecord {
    /// The stored form.
    ///
    /// Errors: `InvalidInput` when attributes or size are over their limits.
    pub fn encode(&self) -> Result<Vec<u8>> {
        if self.attributes.len() > ATTRIBUTE_BYTES_MAX || self.size > OBJECT_BYTES_MAX {
            return Err(Error::invalid(format!(
                "an object of {} bytes with {} bytes of attributes",
                self.size,
                self.attributes.len()
            )));
        }
        let mut value = Vec::with_capacity(HEADER + self.attributes.len());
        value.extend(VERSION.to_le_bytes());
        value.extend((self.kind as u16).to_le_bytes());
        value.extend(self.flags.to_le_bytes());
        value.extend(self.size.to_le_bytes());
        value.extend((self.attributes.len() as u16).to_le_bytes());
        value.extend([0; 6]);
        value.extend(&self.attributes);
        Ok(value)
    }

    /// The record of `object` in `value`.
    ///
    /// Errors: `Incompatible` for an unknown version or kind, else `Corrupt`.
    pub fn decode(object: ObjectId, value: &[u8]) -> Result<Self> {
        let fail = |kind, why: &str| Err(Error::new(kind, format!("record of {object}: {why}")));
        let Some((header, attributes)) = value.split_at_checked(HEADER) else {
            return fail(ErrorKind::Corrupt, "too short");
        };
        let half = |at: usize| u16::from_le_bytes([header[at], header[at + 1]]);
        if half(0) != VERSION {
            return fail(ErrorKind::Incompatible, "unknown version");
        }
        let kind = match half(2) {
            1 => ObjectKind::Plain,
            2 => ObjectKind::InPlace,
            _ => return fail(ErrorKind::Incompatible, "unknown kind"),
        };
        if usize::from(half(16)) != attributes.len() || attributes.len() > ATTRIBUTE_BYTES_MAX {
            return fail(ErrorKind::Corrupt, "its lengths do not add up");
        }
        if header[18..].iter().any(|&byte| byte != 0) {
            return fail(ErrorKind::Corrupt, "unused bytes are not zero");
        }
        let size = u64::from_le_bytes(header[8..16].try_into().expect("eight bytes"));
        if size > OBJECT_BYTES_MAX {
            return fail(ErrorKind::Corrupt, "impossible size");
        }
        Ok(Self {
            kind,
            flags: u32::from_le_bytes(header[4..8].try_into().expect("four bytes")),
            size,
            attributes: attributes.to_vec(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> ObjectRecord {
        ObjectRecord {
            kind: ObjectKind::InPlace,
            flags: 0x0102_0304,
            size: OBJECT_BYTES_MAX,
            attributes: vec![7; ATTRIBUTE_BYTES_MAX],
        }
    }

    #[test]
    fn what_was_encoded_is_decoded() {
        for record in [sample(), ObjectRecord::default()] {
            let value = record.encode().unwrap();
            assert_eq!(ObjectRecord::decode(ObjectId(3), &value).unwrap(), record);
        }
        assert_eq!(decode_key(&key(ObjectId(3))).unwrap(), ObjectId(3));
        assert!(decode_key(&[1]).unwrap_err().is_corruption());
    }

    #[test]
    fn records_over_their_limits_are_refused() {
        let mut long = sample();
        long.attributes.push(1);
        assert_eq!(long.encode().unwrap_err().kind(), ErrorKind::InvalidInput);
        let mut large = sample();
        large.size += 1;
        assert_eq!(large.encode().unwrap_err().kind(), ErrorKind::InvalidInput);
    }

    #[test]
    fn any_damage_is_an_error_and_never_a_panic() {
        let value = sample().encode().unwrap();
        for len in 0..value.len() {
            assert!(ObjectRecord::decode(ObjectId(3), &value[..len]).is_err());
        }
        // Flags, size and attributes may be anything within limits; the rest may not.
        for at in (0..4).chain([15]).chain(16..HEADER) {
            let mut damaged = value.clone();
            damaged[at] ^= 0x81;
            assert!(ObjectRecord::decode(ObjectId(3), &damaged).is_err(), "byte {at}");
        }
    }
}
