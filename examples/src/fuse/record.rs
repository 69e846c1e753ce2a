//! What the attributes of an object say: the inode that it is, or the inode to which it is a further name.
//!
//! An inode with one name *is* the entry of its directory: one object, under the name that
//! [`keys`](crate::fuse::keys) makes of directory and name, so that creating, renaming and removing it is one
//! step. An inode with several names lies under its number, and each name is a small object that points to it.
//!
//! ```text
//! all        version 1 | tag 1 | kind 1 | ino 8 | parent 8 | probe 1 | name length 1 | name
//! inode also flags 1 | mode 4 | uid 4 | gid 4 | nlink 4 | rdev 4 | atime, mtime, ctime, btime 12 each
//! ```
//!
//! Little-endian. The checksum is the engine's, over the whole record of the object. The parent is 0 where the
//! object lies under no name. Guarantees that what is decoded is sound in itself, or refused. Called by `store`.

use crate::fuse::limits::NAME_BYTES_MAX;
use crate::fuse::time::Time;

/// The version of this layout.
const VERSION: u8 = 1;
const INODE: u8 = 1;
const LINK: u8 = 2;
const HAS_XATTRS: u8 = 1;

/// The permission bits, with set-user-ID, set-group-ID and sticky.
pub const PERMISSIONS: u32 = 0o7777;

/// What an inode is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// Bytes.
    File = 1,
    /// Names.
    Directory = 2,
    /// A path, in the object's bytes.
    Symlink = 3,
    /// A FIFO.
    Pipe = 4,
    /// A socket.
    Socket = 5,
    /// A character device.
    Char = 6,
    /// A block device.
    Block = 7,
}

/// Where an entry stands: in which directory, under which name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Home {
    /// The inode number of the directory.
    pub parent: u64,
    /// Which of the names with the same hash.
    pub probe: u8,
    /// The name.
    pub name: Vec<u8>,
}

/// An inode.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inode {
    /// Its number, never given twice.
    pub ino: u64,
    /// What it is.
    pub kind: Kind,
    /// Its permission bits.
    pub mode: u32,
    /// Whose it is.
    pub uid: u32,
    /// Whose group's.
    pub gid: u32,
    /// How many names it has; a directory one more, and one for each directory in it.
    pub nlink: u32,
    /// Which device.
    pub rdev: u32,
    /// Whether there is an object with extended attributes.
    pub has_xattrs: bool,
    /// Last access; set at the making and by who asks for it.
    pub atime: Time,
    /// Last change of the content.
    pub mtime: Time,
    /// Last change of anything.
    pub ctime: Time,
    /// When it was made.
    pub btime: Time,
    /// Its name, if it has one only. None for the root, for what has several, and for what has none any more.
    pub home: Option<Home>,
}

/// A further name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// The inode that it names.
    pub ino: u64,
    /// What that is.
    pub kind: Kind,
    /// Where the name stands.
    pub home: Home,
}

/// What the attributes of an object say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Record {
    /// It is an inode.
    Inode(Inode),
    /// It is a further name of one.
    Link(Link),
}

impl Kind {
    fn of(byte: u8) -> Option<Self> {
        let all = [
            Self::File,
            Self::Directory,
            Self::Symlink,
            Self::Pipe,
            Self::Socket,
            Self::Char,
            Self::Block,
        ];
        all.into_iter().find(|&kind| kind as u8 == byte)
    }
}

impl Inode {
    /// One that is made now, without content; `owner` is user and group.
    pub fn new(ino: u64, kind: Kind, mode: u32, owner: (u32, u32), now: Time) -> Self {
        Self {
            ino,
            kind,
            mode,
            uid: owner.0,
            gid: owner.1,
            nlink: if kind == Kind::Directory { 2 } else { 1 },
            rdev: 0,
            has_xattrs: false,
            atime: now,
            mtime: now,
            ctime: now,
            btime: now,
            home: None,
        }
    }

    /// As the attributes of its object.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = head(INODE, self.ino, self.kind, self.home.as_ref());
        bytes.push(if self.has_xattrs { HAS_XATTRS } else { 0 });
        for number in [self.mode, self.uid, self.gid, self.nlink, self.rdev] {
            bytes.extend(number.to_le_bytes());
        }
        for time in [self.atime, self.mtime, self.ctime, self.btime] {
            bytes.extend(time.seconds.to_le_bytes());
            bytes.extend(time.nanos.to_le_bytes());
        }
        bytes
    }

    /// Whether it is a directory.
    pub fn is_directory(&self) -> bool {
        self.kind == Kind::Directory
    }
}

impl Link {
    /// As the attributes of its object.
    pub fn encode(&self) -> Vec<u8> {
        head(LINK, self.ino, self.kind, Some(&self.home))
    }
}

impl Record {
    /// Reads attributes; `None` when they are not sound.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let mut input = Input(bytes);
        let [version, tag, kind] = input.take::<3>()?;
        let kind = Kind::of(kind).filter(|_| version == VERSION)?;
        let (ino, home) = (input.u64()?, input.home()?);
        let record = match tag {
            LINK => Self::Link(Link { ino, kind, home: home? }),
            INODE => {
                let has_xattrs = input.take::<1>()? == [HAS_XATTRS];
                let (mode, uid, gid) = (input.u32()?, input.u32()?, input.u32()?);
                let (nlink, rdev) = (input.u32()?, input.u32()?);
                let (atime, mtime) = (input.time()?, input.time()?);
                let (ctime, btime) = (input.time()?, input.time()?);
                Self::Inode(Inode {
                    ino,
                    kind,
                    mode,
                    uid,
                    gid,
                    nlink,
                    rdev,
                    has_xattrs,
                    atime,
                    mtime,
                    ctime,
                    btime,
                    home,
                })
            }
            _ => return None,
        };
        (ino != 0 && input.0.is_empty()).then_some(record)
    }

    /// The inode that it is, or names.
    pub fn ino(&self) -> u64 {
        match self {
            Self::Inode(inode) => inode.ino,
            Self::Link(link) => link.ino,
        }
    }

    /// What that is.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Inode(inode) => inode.kind,
            Self::Link(link) => link.kind,
        }
    }

    /// Where the name stands.
    pub fn home(&self) -> Option<&Home> {
        match self {
            Self::Inode(inode) => inode.home.as_ref(),
            Self::Link(link) => Some(&link.home),
        }
    }
}

fn head(tag: u8, ino: u64, kind: Kind, home: Option<&Home>) -> Vec<u8> {
    let mut bytes = vec![VERSION, tag, kind as u8];
    bytes.extend(ino.to_le_bytes());
    bytes.extend(home.map_or(0, |home| home.parent).to_le_bytes());
    bytes.push(home.map_or(0, |home| home.probe));
    let name = home.map_or(&[][..], |home| &home.name);
    assert!(name.len() <= NAME_BYTES_MAX, "names are checked where they come in");
    bytes.push(name.len() as u8);
    bytes.extend(name);
    bytes
}

/// Bytes that are left to read.
struct Input<'a>(&'a [u8]);

impl Input<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*head)
    }

    fn u32(&mut self) -> Option<u32> {
        self.take().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.take().map(u64::from_le_bytes)
    }

    fn time(&mut self) -> Option<Time> {
        let seconds = i64::from_le_bytes(self.take()?);
        let nanos = self.u32().filter(|&nanos| nanos < 1_000_000_000)?;
        Some(Time { seconds, nanos })
    }

    /// None at all if the bytes are not sound; within, none if there is no name.
    fn home(&mut self) -> Option<Option<Home>> {
        let parent = self.u64()?;
        let [probe, len] = self.take::<2>()?;
        let (name, rest) = self.0.split_at_checked(len.into())?;
        self.0 = rest;
        let is_sound = (parent == 0) == name.is_empty();
        is_sound.then(|| (parent != 0).then(|| Home { parent, probe, name: name.to_vec() }))
    }
}

#[cfg(test)]
mod tests {
    use foliant::limits::ATTRIBUTE_BYTES_MAX;

    use super::*;

    fn inode(name: Option<&[u8]>) -> Inode {
        let time = |seconds| Time { seconds, nanos: 5 };
        Inode {
            ino: 77,
            kind: Kind::Symlink,
            mode: 0o4711,
            uid: 1,
            gid: 2,
            nlink: 3,
            rdev: 4,
            has_xattrs: true,
            atime: time(-1),
            mtime: time(2),
            ctime: time(3),
            btime: time(i64::MAX),
            home: name.map(|name| Home { parent: 1, probe: 255, name: name.to_vec() }),
        }
    }

    #[test]
    fn records_come_back_and_fit_the_attributes() {
        for name in [None, Some(&b"\xff \n"[..]), Some(&[b'n'; 255][..])] {
            let inode = inode(name);
            let bytes = inode.encode();
            assert!(bytes.len() <= ATTRIBUTE_BYTES_MAX);
            assert_eq!(Record::decode(&bytes), Some(Record::Inode(inode.clone())));
            if let Some(home) = inode.home {
                let link = Link { ino: 9, kind: Kind::File, home };
                assert_eq!(Record::decode(&link.encode()), Some(Record::Link(link)));
            }
        }
    }

    #[test]
    fn what_is_not_sound_is_refused() {
        let bytes = inode(Some(b"name")).encode();
        for len in 0..bytes.len() {
            assert_eq!(Record::decode(&bytes[..len]), None, "{len} bytes");
        }
        assert_eq!(Record::decode(&[&bytes[..], &[0]].concat()), None);
        for (at, value) in [(0, 9), (1, 9), (2, 0), (2, 8), (20, 0)] {
            let mut bad = bytes.clone();
            bad[at] = value;
            assert_eq!(Record::decode(&bad), None, "byte {at}");
        }
    }
}
