//! The record of an object: what is known about it apart from where its bytes lie.
//!
//! ```text
//! key    object u64 BE
//! value   0  version u16       8  size u64
//!         2  kind u16         16  attribute bytes u16
//!         4  flags u32        18  inline bytes u16
//!        20  zero u32
//!        24  attributes, then inline bytes
//! ```
//!
//! Version 1 has no inline bytes, version 2 has some: the first bytes of the object, in place of its
//! block 0. They end at or before the size; the rest of the block is zero.
//!
//! Guarantees that a decoded record is within limits. Does not interpret attributes. Called by
//! `object::records`.

use crate::error::Error;
use crate::error::ErrorKind;
use crate::error::Result;
use crate::limits::ATTRIBUTE_BYTES_MAX;
use crate::limits::INLINE_BYTES_MAX;
use crate::limits::OBJECT_BYTES_MAX;
use crate::limits::TREE_VALUE_BYTES_MAX;
use crate::units::ObjectId;

/// A record without inline bytes.
const VERSION: u16 = 1;
/// A record with inline bytes.
const VERSION_INLINE: u16 = 2;
const HEADER: usize = 24;

const _: () = assert!(HEADER + ATTRIBUTE_BYTES_MAX + INLINE_BYTES_MAX <= TREE_VALUE_BYTES_MAX);

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
    /// The first bytes of the object, if its block 0 is stored here: at most [`INLINE_BYTES_MAX`]
    /// and none behind `size`.
    pub inline: Vec<u8>,
}

fn inline_fits(inline: usize, size: u64) -> bool {
    inline <= INLINE_BYTES_MAX && inline as u64 <= size
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
    /// Errors: `InvalidInput` when attributes, size or inline bytes are over their limits.
    pub fn encode(&self) -> Result<Vec<u8>> {
        let (attributes, inline) = (self.attributes.len(), self.inline.len());
        if attributes > ATTRIBUTE_BYTES_MAX
            || self.size > OBJECT_BYTES_MAX
            || !inline_fits(inline, self.size)
        {
            return Err(Error::invalid(format!(
                "an object of {} bytes with {attributes} bytes of attributes and {inline} inline",
                self.size,
            )));
        }
        let version = if inline > 0 { VERSION_INLINE } else { VERSION };
        let mut value = Vec::with_capacity(HEADER + attributes + inline);
        value.extend(version.to_le_bytes());
        value.extend((self.kind as u16).to_le_bytes());
        value.extend(self.flags.to_le_bytes());
        value.extend(self.size.to_le_bytes());
        value.extend((attributes as u16).to_le_bytes());
        value.extend((inline as u16).to_le_bytes());
        value.extend([0; 4]);
        value.extend(&self.attributes);
        value.extend(&self.inline);
        Ok(value)
    }

    /// The record of `object` in `value`.
    ///
    /// Errors: `Incompatible` for an unknown version or kind, else `Corrupt`.
    pub fn decode(object: ObjectId, value: &[u8]) -> Result<Self> {
        let fail = |kind, why: &str| Err(Error::new(kind, format!("record of {object}: {why}")));
        let Some((header, rest)) = value.split_at_checked(HEADER) else {
            return fail(ErrorKind::Corrupt, "too short");
        };
        let half = |at: usize| u16::from_le_bytes([header[at], header[at + 1]]);
        let has_inline = match half(0) {
            VERSION => false,
            VERSION_INLINE => true,
            _ => return fail(ErrorKind::Incompatible, "unknown version"),
        };
        let kind = match half(2) {
            1 => ObjectKind::Plain,
            2 => ObjectKind::InPlace,
            _ => return fail(ErrorKind::Incompatible, "unknown kind"),
        };
        let (attributes, inline) = (usize::from(half(16)), usize::from(half(18)));
        if attributes + inline != rest.len()
            || attributes > ATTRIBUTE_BYTES_MAX
            || has_inline != (inline > 0)
        {
            return fail(ErrorKind::Corrupt, "its lengths do not add up");
        }
        if header[20..].iter().any(|&byte| byte != 0) {
            return fail(ErrorKind::Corrupt, "unused bytes are not zero");
        }
        let size = u64::from_le_bytes(header[8..16].try_into().expect("eight bytes"));
        if size > OBJECT_BYTES_MAX {
            return fail(ErrorKind::Corrupt, "impossible size");
        }
        if !inline_fits(inline, size) {
            return fail(ErrorKind::Corrupt, "impossible inline bytes");
        }
        let (attributes, inline) = rest.split_at(attributes);
        Ok(Self {
            kind,
            flags: u32::from_le_bytes(header[4..8].try_into().expect("four bytes")),
            size,
            attributes: attributes.to_vec(),
            inline: inline.to_vec(),
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
            inline: vec![9; INLINE_BYTES_MAX],
        }
    }

    #[test]
    fn what_was_encoded_is_decoded() {
        let plain = ObjectRecord { inline: Vec::new(), ..sample() };
        let small = ObjectRecord { size: 1, inline: vec![1], ..ObjectRecord::default() };
        for record in [sample(), plain, small, ObjectRecord::default()] {
            let value = record.encode().unwrap();
            assert_eq!(value[0], 1 + u8::from(!record.inline.is_empty()));
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
        for (size, inline) in [(OBJECT_BYTES_MAX, INLINE_BYTES_MAX + 1), (3, 4), (0, 1)] {
            let record = ObjectRecord { size, inline: vec![1; inline], ..sample() };
            assert_eq!(record.encode().unwrap_err().kind(), ErrorKind::InvalidInput);
        }
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

    #[test]
    fn impossible_inline_bytes_are_corruption() {
        let small = ObjectRecord { size: 100, inline: vec![5; 100], ..ObjectRecord::default() };
        let value = small.encode().unwrap();
        let kind = |change: &dyn Fn(&mut Vec<u8>)| {
            let mut damaged = value.clone();
            change(&mut damaged);
            ObjectRecord::decode(ObjectId(3), &damaged).unwrap_err().kind()
        };
        // Longer than the size; a length that does not match; version 1 with inline bytes; version 2
        // without; more than fits a record; attributes that eat the inline bytes.
        assert_eq!(kind(&|v| v[8] = 99), ErrorKind::Corrupt);
        assert_eq!(kind(&|v| v[18] = 99), ErrorKind::Corrupt);
        assert_eq!(kind(&|v| v[19] = 255), ErrorKind::Corrupt);
        assert_eq!(kind(&|v| v[0] = 1), ErrorKind::Corrupt);
        assert_eq!(kind(&|v| v.truncate(HEADER)), ErrorKind::Corrupt);
        let empty = |v: &mut Vec<u8>| {
            v.truncate(HEADER);
            v[18] = 0;
        };
        assert_eq!(kind(&empty), ErrorKind::Corrupt);
        let long = |v: &mut Vec<u8>| {
            v[8..16].copy_from_slice(&5000_u64.to_le_bytes());
            v[18..20].copy_from_slice(&449_u16.to_le_bytes());
            v.resize(HEADER + 449, 5);
        };
        assert_eq!(kind(&long), ErrorKind::Corrupt);
        let taken = |v: &mut Vec<u8>| (v[16], v[18]) = (100, 0);
        assert_eq!(kind(&taken), ErrorKind::Corrupt);
    }
}
