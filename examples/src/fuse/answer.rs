//! Outcomes as replies, and what the kernel's numbers mean.
//!
//! Guarantees that each reply is sent once. Called by `filesystem`.

use bytes::Bytes;
use fuser::Errno;
use fuser::FileAttr;
use fuser::Generation;
use fuser::ReplyAttr;
use fuser::ReplyData;
use fuser::ReplyEmpty;
use fuser::ReplyEntry;
use fuser::ReplyXattr;
use fuser::TimeOrNow;

use crate::fuse::fault::Fault;
use crate::fuse::fault::Outcome;
use crate::fuse::limits::TTL;
use crate::fuse::record::Kind;
use crate::fuse::time::Time;

/// Inode numbers are never given twice, so their generation never changes.
pub const NONE: Generation = Generation(0);
/// The type in a mode.
const TYPE: u32 = 0o170_000;

/// An inode that the kernel holds now.
pub fn entry(reply: ReplyEntry, done: Outcome<FileAttr>) {
    match done {
        Ok(attr) => reply.entry(&TTL, &attr, NONE),
        Err(Fault(errno)) => reply.error(errno),
    }
}

/// Nothing but that it is done.
pub fn empty(reply: ReplyEmpty, done: Outcome<()>) {
    match done {
        Ok(()) => reply.ok(),
        Err(Fault(errno)) => reply.error(errno),
    }
}

/// A value or its size, as `getxattr(2)` and `listxattr(2)` want it.
pub fn value(reply: ReplyXattr, size: u32, found: Outcome<Vec<u8>>) {
    match found {
        Ok(value) if size == 0 => reply.size(value.len() as u32),
        Ok(value) if value.len() > size as usize => reply.error(Errno::ERANGE),
        Ok(value) => reply.data(&value),
        Err(Fault(errno)) => reply.error(errno),
    }
}

/// What a mode of `mknod(2)` asks for.
pub fn kind_of(mode: u32) -> Option<Kind> {
    match mode & TYPE {
        0o010_000 => Some(Kind::Pipe),
        0o020_000 => Some(Kind::Char),
        0o060_000 => Some(Kind::Block),
        0o100_000 | 0 => Some(Kind::File),
        0o140_000 => Some(Kind::Socket),
        _ => None,
    }
}

/// A time that was asked for.
pub fn point(time: TimeOrNow) -> Time {
    match time {
        TimeOrNow::SpecificTime(time) => Time::of_kernel(time),
        TimeOrNow::Now => Time::now(),
    }
}

/// What `stat` says.
pub fn attr(reply: ReplyAttr, found: Outcome<FileAttr>) {
    match found {
        Ok(attr) => reply.attr(&TTL, &attr),
        Err(Fault(errno)) => reply.error(errno),
    }
}

/// Bytes.
pub fn data(reply: ReplyData, found: Outcome<Bytes>) {
    match found {
        Ok(bytes) => reply.data(&bytes),
        Err(Fault(errno)) => reply.error(errno),
    }
}
