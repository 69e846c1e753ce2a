//! Answers as bytes, for options and for requests. Pure.
//!
//! Guarantees that a reply says in its head how long it is. Does not send. Called by `handshake`
//! and `session`.

use bytes::BufMut;
use bytes::Bytes;

use crate::nbd::errno::Refusal;
use crate::nbd::pins::Pin;
use crate::nbd::wire;

/// Longest sentence in an error.
const WHY_BYTES_MAX: usize = 1024;

/// A run of block status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run {
    /// How many bytes.
    pub len: u32,
    /// `STATE_*`.
    pub state: u32,
}

/// Bytes that follow the head of a reply, and the right to keep them where the engine has them.
#[derive(Debug, Default)]
pub struct Payload {
    /// The bytes, in order.
    pub pieces: Vec<Bytes>,
    /// Lives as long as the pieces.
    pub pin: Option<Pin>,
}

impl Payload {
    /// Bytes of its own.
    pub fn of(bytes: Vec<u8>) -> Self {
        Self { pieces: vec![bytes.into()], pin: None }
    }

    /// Copies what lies in the engine's memory, and gives that back.
    pub fn unpin(&mut self) {
        if let Some(_pin) = self.pin.take() {
            self.pieces.iter_mut().for_each(|piece| *piece = Bytes::copy_from_slice(piece));
        }
    }

    /// How many bytes.
    pub fn len(&self) -> usize {
        self.pieces.iter().map(Bytes::len).sum()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.pieces.iter().all(Bytes::is_empty)
    }
}

/// What a request came to.
#[derive(Debug)]
pub enum Answer {
    /// It is done.
    Done,
    /// The bytes from `offset` on.
    Data {
        /// The first one's place.
        offset: u64,
        /// The bytes.
        bytes: Payload,
    },
    /// What is stored, from the start of the request on.
    Status(Vec<Run>),
}

/// How a client wants to hear: the request's name, and whether in chunks.
#[derive(Debug, Clone, Copy)]
pub struct Style {
    /// The client's name for the request.
    pub cookie: u64,
    /// Whether in chunks. Answers that carry no bytes may be simple all the same.
    pub chunks: bool,
}

impl Style {
    /// The bytes of a reply: its head, and the payload, which is not copied.
    pub fn encode(self, outcome: Result<Answer, Refusal>) -> (Vec<u8>, Payload) {
        match outcome {
            Ok(Answer::Done) => (self.simple(0), Payload::default()),
            Ok(Answer::Data { bytes, .. }) if !self.chunks => (self.simple(0), bytes),
            Ok(Answer::Data { offset, bytes }) => {
                let mut head = self.chunk(wire::REPLY_OFFSET_DATA, 8 + bytes.len());
                head.put_u64(offset);
                (head, bytes)
            }
            Ok(Answer::Status(runs)) => {
                let mut head = self.chunk(wire::REPLY_BLOCK_STATUS, 4 + 8 * runs.len());
                head.put_u32(wire::ALLOCATION_ID);
                for run in runs {
                    head.put_u32(run.len);
                    head.put_u32(run.state);
                }
                (head, Payload::default())
            }
            Err(refusal) if !self.chunks => (self.simple(refusal.errno as u32), Payload::default()),
            Err(refusal) => {
                let why = clipped(&refusal.why);
                let mut head = self.chunk(wire::REPLY_ERROR, 6 + why.len());
                head.put_u32(refusal.errno as u32);
                head.put_u16(why.len() as u16);
                head.put_slice(why.as_bytes());
                (head, Payload::default())
            }
        }
    }

    fn simple(self, errno: u32) -> Vec<u8> {
        let mut head = Vec::with_capacity(16);
        head.put_u32(wire::SIMPLE_REPLY_MAGIC);
        head.put_u32(errno);
        head.put_u64(self.cookie);
        head
    }

    /// The head of the only chunk of a reply, with `len` bytes behind it.
    fn chunk(self, kind: u16, len: usize) -> Vec<u8> {
        let mut head = Vec::with_capacity(32);
        head.put_u32(wire::STRUCTURED_REPLY_MAGIC);
        head.put_u16(wire::REPLY_FLAG_DONE);
        head.put_u16(kind);
        head.put_u64(self.cookie);
        head.put_u32(len as u32);
        head
    }
}

/// The answer `kind` to an option, with `data`.
pub fn put_option(out: &mut Vec<u8>, option: u32, kind: u32, data: &[u8]) {
    out.put_u64(wire::OPTION_REPLY_MAGIC);
    out.put_u32(option);
    out.put_u32(kind);
    out.put_u32(data.len() as u32);
    out.put_slice(data);
}

/// The first bytes of a text, in whole characters.
pub fn clipped(text: &str) -> &str {
    &text[..text.floor_char_boundary(WHY_BYTES_MAX)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nbd::errno::Errno;

    #[test]
    fn heads_say_what_follows() {
        let (plain, chunks) =
            (Style { cookie: 5, chunks: false }, Style { cookie: 5, chunks: true });
        let data = || Ok(Answer::Data { offset: 1 << 33, bytes: Payload::of(vec![1, 2, 3]) });
        let (head, bytes) = plain.encode(data());
        assert_eq!(head, b"\x67\x44\x66\x98\0\0\0\0\0\0\0\0\0\0\0\x05");
        assert_eq!(bytes.pieces, [&[1, 2, 3][..]]);
        let (head, bytes) = chunks.encode(data());
        let expected =
            b"\x66\x8e\x33\xef\0\x01\0\x01\0\0\0\0\0\0\0\x05\0\0\0\x0b\0\0\0\x02\0\0\0\0";
        assert_eq!((head.as_slice(), bytes.len()), (&expected[..], 3));
        let refusal = || Err(Refusal::new(Errno::NoSpace, "ö".repeat(2000)));
        let (head, _) = plain.encode(refusal());
        assert_eq!(head[4..8], [0, 0, 0, 28]);
        let (head, _) = chunks.encode(refusal());
        assert_eq!(head.len(), 20 + 6 + WHY_BYTES_MAX);
        assert_eq!(head[6..8], [0x80, 1]);
    }
}
