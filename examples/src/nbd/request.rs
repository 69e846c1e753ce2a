//! Requests: 28 bytes to a command, or to the error that its client hears. Pure.
//!
//! Guarantees that any bytes decode or fail, that a checked command lies inside the export, and
//! that nothing here allocates by what a client claims. Does not read sockets, nor the bytes that
//! follow a write: how many they are, [`Header::payload_bytes`] says, for refused ones as well, so
//! that the connection stays in step. Called by `session`.

use std::ops::Range;

use bytes::Buf;

use crate::nbd::errno::Errno;
use crate::nbd::errno::Refusal;
use crate::nbd::limits::PAYLOAD_BYTES_MAX;
use crate::nbd::wire;

/// Bytes of a request without its payload.
pub const HEADER_BYTES: usize = 28;

/// A request as it came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// `CMD_FLAG_*`.
    pub flags: u16,
    /// `CMD_*`.
    pub kind: u16,
    /// The client's name for the request; the reply carries it.
    pub cookie: u64,
    /// First byte.
    pub offset: u64,
    /// How many.
    pub len: u32,
}

/// The bytes are no request: what follows cannot be understood either.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a request begins with {found:#010x}")]
pub struct BadMagic {
    /// What stood there.
    pub found: u32,
}

/// What was agreed on with this client.
#[derive(Debug, Clone, Copy)]
pub struct Terms {
    /// Bytes of the export.
    pub size: u64,
    /// Whether changes are refused.
    pub read_only: bool,
    /// Whether replies come in chunks.
    pub structured: bool,
    /// Whether the client may ask for block status.
    pub status: bool,
}

/// What is asked for; every range lies in the export and is not empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Bytes of the export.
    Read(Range<u64>),
    /// The payload goes there.
    Write(Range<u64>),
    /// No reply, and no further request.
    Disconnect,
    /// Everything that was answered becomes durable.
    Flush,
    /// The bytes are not needed any more.
    Trim(Range<u64>),
    /// The bytes will be read soon.
    Cache(Range<u64>),
    /// The bytes become zero.
    Zero {
        /// Which.
        range: Range<u64>,
        /// Whether the room for them is kept.
        keep_room: bool,
        /// Whether to fail rather than to be slow.
        fast: bool,
    },
    /// What is stored there.
    Status {
        /// Where.
        range: Range<u64>,
        /// Whether the first run is enough.
        one: bool,
    },
}

impl Header {
    /// Takes a header apart.
    pub fn parse(bytes: &[u8; HEADER_BYTES]) -> Result<Self, BadMagic> {
        let mut bytes: &[u8] = bytes;
        let found = bytes.get_u32();
        if found != wire::REQUEST_MAGIC {
            return Err(BadMagic { found });
        }
        let (flags, kind) = (bytes.get_u16(), bytes.get_u16());
        let (cookie, offset) = (bytes.get_u64(), bytes.get_u64());
        Ok(Self { flags, kind, cookie, offset, len: bytes.get_u32() })
    }

    /// How many bytes follow the header, whether or not it makes sense.
    pub fn payload_bytes(&self) -> u32 {
        if self.kind == wire::CMD_WRITE { self.len } else { 0 }
    }

    /// Whether the reply has to wait for the device. Clients may set the flag everywhere.
    pub fn is_fua(&self) -> bool {
        self.flags & wire::CMD_FLAG_FUA != 0
    }

    /// What is asked for. Errors: what the client hears.
    pub fn check(&self, terms: &Terms) -> Result<Command, Refusal> {
        let known = match self.kind {
            wire::CMD_READ if terms.structured => wire::CMD_FLAG_DF,
            wire::CMD_WRITE_ZEROES => wire::CMD_FLAG_NO_HOLE | wire::CMD_FLAG_FAST_ZERO,
            wire::CMD_BLOCK_STATUS => wire::CMD_FLAG_REQ_ONE,
            _ => 0,
        };
        if self.flags & !(known | wire::CMD_FLAG_FUA) != 0 {
            return invalid(format!("flags {:#x} of command {}", self.flags, self.kind));
        }
        match self.kind {
            wire::CMD_DISC => Ok(Command::Disconnect),
            wire::CMD_FLUSH => Ok(Command::Flush),
            wire::CMD_READ => Ok(Command::Read(self.payload_range(terms, Errno::Invalid)?)),
            wire::CMD_WRITE => {
                check_writable(terms)?;
                Ok(Command::Write(self.payload_range(terms, Errno::NoSpace)?))
            }
            wire::CMD_TRIM => {
                check_writable(terms)?;
                Ok(Command::Trim(self.range(terms, Errno::Invalid)?))
            }
            wire::CMD_WRITE_ZEROES => {
                check_writable(terms)?;
                let range = self.range(terms, Errno::NoSpace)?;
                let has = |flag| self.flags & flag != 0;
                let keep_room = has(wire::CMD_FLAG_NO_HOLE);
                Ok(Command::Zero { range, keep_room, fast: has(wire::CMD_FLAG_FAST_ZERO) })
            }
            wire::CMD_CACHE => Ok(Command::Cache(self.range(terms, Errno::Invalid)?)),
            wire::CMD_BLOCK_STATUS if !terms.status => {
                invalid(format!("{} was not negotiated", wire::ALLOCATION))
            }
            wire::CMD_BLOCK_STATUS => {
                let range = self.range(terms, Errno::Invalid)?;
                Ok(Command::Status { range, one: self.flags & wire::CMD_FLAG_REQ_ONE != 0 })
            }
            other => invalid(format!("command {other} is not known")),
        }
    }

    fn payload_range(&self, terms: &Terms, behind: Errno) -> Result<Range<u64>, Refusal> {
        if self.len > PAYLOAD_BYTES_MAX {
            let why = format!("{} bytes at once, at most {PAYLOAD_BYTES_MAX}", self.len);
            return Err(Refusal::new(Errno::Overflow, why));
        }
        self.range(terms, behind)
    }

    /// The bytes meant. The protocol wants `behind` for those that lie outside: a disk has no room
    /// there for a write, and a read of them makes no sense.
    fn range(&self, terms: &Terms, behind: Errno) -> Result<Range<u64>, Refusal> {
        if self.len == 0 {
            return invalid(format!("command {} of no bytes", self.kind));
        }
        let end = self.offset.checked_add(u64::from(self.len)).filter(|&end| end <= terms.size);
        let Some(end) = end else {
            let (len, at, size) = (self.len, self.offset, terms.size);
            let why = format!("{len} bytes at {at} of an export of {size}");
            return Err(Refusal::new(behind, why));
        };
        Ok(self.offset..end)
    }
}

fn check_writable(terms: &Terms) -> Result<(), Refusal> {
    match terms.read_only {
        true => Err(Refusal::new(Errno::Perm, "the export is read-only")),
        false => Ok(()),
    }
}

fn invalid<T>(why: String) -> Result<T, Refusal> {
    Err(Refusal::new(Errno::Invalid, why))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TERMS: Terms = Terms { size: 10_000, read_only: false, structured: true, status: true };

    fn header(kind: u16, flags: u16, offset: u64, len: u32) -> Header {
        Header { flags, kind, cookie: 7, offset, len }
    }

    fn errno(header: Header, terms: &Terms) -> Errno {
        header.check(terms).unwrap_err().errno
    }

    #[test]
    fn the_end_of_the_export_is_the_last_byte_that_can_be_meant() {
        let at_end = header(wire::CMD_WRITE, 0, 9_000, 1_000);
        assert_eq!(at_end.check(&TERMS), Ok(Command::Write(9_000..10_000)));
        for (kind, expected) in [
            (wire::CMD_READ, Errno::Invalid),
            (wire::CMD_TRIM, Errno::Invalid),
            (wire::CMD_CACHE, Errno::Invalid),
            (wire::CMD_BLOCK_STATUS, Errno::Invalid),
            (wire::CMD_WRITE, Errno::NoSpace),
            (wire::CMD_WRITE_ZEROES, Errno::NoSpace),
        ] {
            assert_eq!(errno(header(kind, 0, 9_000, 1_001), &TERMS), expected, "{kind}");
            assert_eq!(errno(header(kind, 0, u64::MAX, 1), &TERMS), expected, "{kind}");
            assert_eq!(errno(header(kind, 0, 0, 0), &TERMS), Errno::Invalid, "{kind}");
        }
    }

    #[test]
    fn what_was_not_agreed_on_is_refused() {
        let read_only = Terms { read_only: true, ..TERMS };
        for kind in [wire::CMD_WRITE, wire::CMD_TRIM, wire::CMD_WRITE_ZEROES] {
            assert_eq!(errno(header(kind, 0, 0, 1), &read_only), Errno::Perm);
        }
        let plain = Terms { structured: false, status: false, ..TERMS };
        let one_chunk = header(wire::CMD_READ, wire::CMD_FLAG_DF, 0, 1);
        assert!(one_chunk.check(&TERMS).is_ok());
        assert_eq!(errno(one_chunk, &plain), Errno::Invalid);
        assert_eq!(errno(header(wire::CMD_BLOCK_STATUS, 0, 0, 1), &plain), Errno::Invalid);
        assert_eq!(errno(header(8, 0, 0, 1), &TERMS), Errno::Invalid);
        assert_eq!(errno(header(wire::CMD_WRITE, 1 << 9, 0, 1), &TERMS), Errno::Invalid);
        let long = Terms { size: 1 << 40, ..TERMS };
        let too_long = header(wire::CMD_WRITE, 0, 0, PAYLOAD_BYTES_MAX + 1);
        assert_eq!(errno(too_long, &long), Errno::Overflow);
    }

    proptest! {
        #[test]
        fn any_bytes_decode_or_fail(
            bytes in any::<[u8; HEADER_BYTES]>(),
            sound in any::<bool>(),
            kind in 0..10_u8,
            size in any::<u64>(),
            terms in any::<[bool; 3]>(),
        ) {
            let mut bytes = bytes;
            if sound {
                bytes[..4].copy_from_slice(&wire::REQUEST_MAGIC.to_be_bytes());
                let flags = bytes[5] & 31;
                bytes[4..8].copy_from_slice(&[0, flags, 0, kind]);
            }
            let terms =
                Terms { size, read_only: terms[0], structured: terms[1], status: terms[2] };
            let Ok(header) = Header::parse(&bytes) else {
                assert!(!sound);
                return Ok(());
            };
            match header.check(&terms) {
                Ok(Command::Read(range) | Command::Write(range)) => {
                    assert!(range.end <= size && range.end - range.start == u64::from(header.len));
                    assert!(header.len <= PAYLOAD_BYTES_MAX);
                }
                Ok(Command::Zero { range, .. } | Command::Trim(range)) => {
                    assert!(!terms.read_only && range.start < range.end && range.end <= size);
                }
                Ok(_) | Err(_) => {}
            }
        }
    }
}
