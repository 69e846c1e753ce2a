//! The names that objects of a file system have in the store.
//!
//! | first byte | then | what it is |
//! |---|---|---|
//! | `s` | | the superblock |
//! | `r` | | the root directory |
//! | `e` | | room that is kept for names |
//! | `d` | directory 8, place 8: hash 7, probe 1 | an entry: an inode with this one name, or a further name |
//! | `i` | ino 8 | an inode that has several names, or had |
//! | `o` | ino 8 | an orphan: open, and without a name |
//! | `t` | ino 8 | on its way from one entry to another, within one transaction |
//! | `x` | ino 8 | the extended attributes of an inode |
//!
//! Big-endian, so that a directory is a range of names. The hash has 54 bits and a key of the store's own
//! (SipHash): nobody can choose names that collide, and 256 that do have room. A place in a directory is hash
//! and probe together: what `telldir` gives means the same entry as long as that exists, whatever else comes
//! and goes.
//!
//! Called by `store` and `check`.

use std::hash::Hasher;

use siphasher::sip::SipHasher24;

/// The inode number of the root directory: the kernel's.
pub const ROOT_INO: u64 = 1;
/// The superblock.
pub const SUPERBLOCK: &[u8] = b"s";
/// The root directory.
pub const ROOT: &[u8] = b"r";
/// Room that is kept for names.
pub const RESERVE: &[u8] = b"e";

const HASH_BITS: u32 = 54;
const ENTRY_BYTES: usize = 17;

/// How names become keys in one store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seed(pub u64, pub u64);

/// Hash and probe of an entry: its place in the order of its directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place(u64);

impl Seed {
    /// The first place for a name.
    pub fn place(self, name: &[u8]) -> Place {
        let mut hasher = SipHasher24::new_with_keys(self.0, self.1);
        hasher.write(name);
        Place((hasher.finish() >> (64 - HASH_BITS)) << 8)
    }
}

impl Place {
    /// Another place for the same hash.
    pub fn probe(self, probe: u8) -> Self {
        Self(self.0 & !0xFF | u64::from(probe))
    }

    /// Which of those it is.
    pub fn probe_of(self) -> u8 {
        self.0 as u8
    }

    /// As a number below 2^62.
    pub fn number(self) -> u64 {
        self.0
    }

    /// The place of this number; there may be nothing.
    pub fn at(number: u64) -> Self {
        Self(number & ((1 << (HASH_BITS + 8)) - 1))
    }

    /// Whether both have the same hash.
    pub fn is_beside(self, other: Self) -> bool {
        self.0 >> 8 == other.0 >> 8
    }
}

/// The name of an entry's object.
pub fn entry(directory: u64, place: Place) -> Vec<u8> {
    let mut key = directory_start(directory);
    key.extend(place.0.to_be_bytes());
    key
}

/// All entries of a directory lie behind this name, and begin with it.
pub fn directory_start(directory: u64) -> Vec<u8> {
    let mut key = vec![b'd'];
    key.extend(directory.to_be_bytes());
    key
}

/// Which entry has this name, if it is one.
pub fn parse_entry(key: &[u8]) -> Option<(u64, Place)> {
    let key: &[u8; ENTRY_BYTES] = key.try_into().ok().filter(|key: &&[u8; _]| key[0] == b'd')?;
    let (directory, place) = key[1..].split_first_chunk::<8>()?;
    let place = place.try_into().map(u64::from_be_bytes).ok()?;
    Some((u64::from_be_bytes(*directory), Place(place)))
}

/// The name of the object of this tag and inode.
fn numbered(tag: u8, ino: u64) -> Vec<u8> {
    let mut key = vec![tag];
    key.extend(ino.to_be_bytes());
    key
}

/// An inode with several names.
pub fn alone(ino: u64) -> Vec<u8> {
    numbered(b'i', ino)
}

/// An inode without a name.
pub fn orphan(ino: u64) -> Vec<u8> {
    numbered(b'o', ino)
}

/// All orphans lie behind this name, and begin with it.
pub const ORPHANS: &[u8] = b"o";

/// An inode between two names.
pub fn between(ino: u64) -> Vec<u8> {
    numbered(b't', ino)
}

/// The extended attributes of an inode.
pub fn xattrs(ino: u64) -> Vec<u8> {
    numbered(b'x', ino)
}

/// The tag and inode number of a name of that kind.
pub fn parse_numbered(key: &[u8]) -> Option<(u8, u64)> {
    let (&tag, ino) = key.split_first()?;
    Some((tag, u64::from_be_bytes(ino.try_into().ok()?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_read_back_and_lie_in_their_directory() {
        let seed = Seed(1, 2);
        for name in [&b"a"[..], b"\xff\xff", &[b'x'; 255]] {
            let place = seed.place(name).probe(7);
            let key = entry(u64::MAX - 1, place);
            assert_eq!(parse_entry(&key), Some((u64::MAX - 1, place)));
            assert!(key.starts_with(&directory_start(u64::MAX - 1)));
            assert!(place.number() < 1 << 62 && Place::at(place.number()) == place);
            assert!(place.is_beside(seed.place(name)) && place.probe_of() == 7);
        }
        assert_ne!(seed.place(b"a"), Seed(1, 3).place(b"a"));
        assert_eq!(parse_entry(b"r"), None);
        assert_eq!(parse_numbered(&orphan(5)), Some((b'o', 5)));
    }
}
