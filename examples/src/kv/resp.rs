//! RESP2: commands out of bytes, replies into bytes.
//!
//! The codec is `redis-protocol`; in front of it stands a check of the outline of a command, because
//! the codec takes any frame: nested without end (it recurses), or with lengths that no memory has.
//!
//! Guarantees that a command has at most `ARGUMENTS_MAX` arguments and `FRAME_BYTES_MAX` bytes, that
//! an incomplete one is not parsed, and that anything else is a `Malformed`. Does not know what
//! commands mean. Called by `connection` (in) and `execute` (out).

use bytes::Bytes;
use bytes::BytesMut;
use redis_protocol::resp2::decode::decode_bytes_mut;
use redis_protocol::resp2::encode::extend_encode;
use redis_protocol::resp2::types::BytesFrame;

use crate::kv::limits::ARGUMENTS_MAX;
use crate::kv::limits::FRAME_BYTES_MAX;
use crate::kv::limits::INLINE_BYTES_MAX;
use crate::kv::limits::VALUE_BYTES_MAX;

/// A reply.
pub type Reply = BytesFrame;

/// Longest line with a length: sign and 20 digits are more than any length needs.
const LENGTH_LINE_MAX: usize = 24;

/// The client does not speak RESP2, or asks for more than there is; the connection cannot go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("Protocol error: {0}")]
pub struct Malformed(pub &'static str);

/// Takes the next command from the front of `input`; none if it is not complete yet. A command
/// without arguments (an empty line) comes back empty.
pub fn take_command(input: &mut BytesMut) -> Result<Option<Vec<Bytes>>, Malformed> {
    match input.first() {
        None => Ok(None),
        Some(b'*') => take_array(input),
        Some(_) => take_inline(input),
    }
}

fn take_array(input: &mut BytesMut) -> Result<Option<Vec<Bytes>>, Malformed> {
    let Some(len) = outline(input)? else { return Ok(None) };
    let decoded = decode_bytes_mut(input).map_err(|_| Malformed("invalid frame"))?;
    let Some((frame, taken, _)) = decoded else { return Err(Malformed("invalid frame")) };
    assert_eq!(taken, len, "two opinions on where a frame ends");
    let BytesFrame::Array(parts) = frame else { return Ok(Some(Vec::new())) };
    let bulk = |part| match part {
        BytesFrame::BulkString(bytes) => Ok(bytes),
        _ => Err(Malformed("expected '$'")),
    };
    parts.into_iter().map(bulk).collect::<Result<Vec<Bytes>, Malformed>>().map(Some)
}

/// The length of the command at the front of `input`, if all of it is there.
fn outline(input: &[u8]) -> Result<Option<usize>, Malformed> {
    let Some((count, mut at)) = length_line(input, 0, b'*', ARGUMENTS_MAX)? else {
        return Ok(None);
    };
    for _ in 0..count {
        let line = length_line(input, at, b'$', VALUE_BYTES_MAX + 1)?;
        let Some((bytes, start)) = line else { return incomplete(input) };
        let end = start + bytes;
        if end + 2 > FRAME_BYTES_MAX {
            return Err(Malformed("command too long"));
        }
        match input.get(end..end + 2) {
            None => return incomplete(input),
            Some(b"\r\n") => at = end + 2,
            Some(_) => return Err(Malformed("a bulk string does not end where it should")),
        }
    }
    Ok(Some(at))
}

fn incomplete(input: &[u8]) -> Result<Option<usize>, Malformed> {
    match input.len() > FRAME_BYTES_MAX {
        true => Err(Malformed("command too long")),
        false => Ok(None),
    }
}

/// Reads `sign`, a number of at most `most`, and the line's end; gives the number and where the
/// next byte is.
fn length_line(
    input: &[u8],
    at: usize,
    sign: u8,
    most: usize,
) -> Result<Option<(usize, usize)>, Malformed> {
    let Some((first, rest)) = input.get(at..).and_then(<[u8]>::split_first) else {
        return Ok(None);
    };
    if *first != sign {
        return Err(Malformed(if sign == b'$' { "expected '$'" } else { "expected '*'" }));
    }
    let window = &rest[..rest.len().min(LENGTH_LINE_MAX)];
    let Some(digits) = window.iter().position(|&b| b == b'\r') else {
        return match window.len() < LENGTH_LINE_MAX {
            true => Ok(None),
            false => Err(Malformed("invalid length")),
        };
    };
    match rest.get(digits + 1) {
        None => return Ok(None),
        Some(b'\n') => {}
        Some(_) => return Err(Malformed("invalid length")),
    }
    let text = &rest[..digits];
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return Err(Malformed("invalid length"));
    }
    let digit = |n: usize, d: &u8| n.saturating_mul(10).saturating_add(usize::from(d - b'0'));
    let number = text.iter().fold(0, digit);
    if number > most {
        return Err(Malformed("invalid length: too large"));
    }
    Ok(Some((number, at + 1 + digits + 2)))
}

/// Plain words, as typed into telnet.
fn take_inline(input: &mut BytesMut) -> Result<Option<Vec<Bytes>>, Malformed> {
    let window = &input[..input.len().min(INLINE_BYTES_MAX)];
    let Some(end) = window.iter().position(|&b| b == b'\n') else {
        return match window.len() < INLINE_BYTES_MAX {
            true => Ok(None),
            false => Err(Malformed("too big inline request")),
        };
    };
    let line = input.split_to(end + 1).freeze();
    let words = line.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty());
    Ok(Some(words.map(|word| line.slice_ref(word)).collect()))
}

/// Appends a reply.
pub fn put_reply(output: &mut BytesMut, reply: &Reply) {
    let encoded = extend_encode(output, reply, false);
    assert!(encoded.is_ok(), "the buffer grows as needed: {encoded:?}");
}

/// `+OK`.
pub fn ok() -> Reply {
    simple("OK")
}

/// A short reply without line ends.
pub fn simple(text: &'static str) -> Reply {
    Reply::SimpleString(Bytes::from_static(text.as_bytes()))
}

/// A failure; the text starts with its class, like `ERR`.
pub fn error(text: impl std::fmt::Display) -> Reply {
    let text = text.to_string().replace(['\r', '\n'], " ");
    Reply::Error(text.into())
}

/// A failure of the class `ERR`.
pub fn err(text: impl std::fmt::Display) -> Reply {
    error(format_args!("ERR {text}"))
}

/// Bytes.
pub fn bulk(bytes: impl Into<Bytes>) -> Reply {
    Reply::BulkString(bytes.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take(input: &[u8]) -> Result<Option<Vec<Bytes>>, Malformed> {
        take_command(&mut BytesMut::from(input))
    }

    #[test]
    fn every_prefix_of_a_command_is_incomplete() {
        let whole = b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$5\r\na\r\nbc\r\n";
        for len in 0..whole.len() {
            assert_eq!(take(&whole[..len]), Ok(None), "{len}");
        }
        let command = take(whole).unwrap().unwrap();
        assert_eq!(command, [&b"SET"[..], b"k", b"a\r\nbc"]);
    }

    #[test]
    fn what_is_no_command_is_refused() {
        let bad: [&[u8]; 10] = [
            b"*-1\r\n",
            b"*99999999999999999999999\r\n",
            b"*70000\r\n",
            b"*1\r\n*1\r\n*1\r\n",
            b"*1\r\n:5\r\n",
            b"*1\r\n$-1\r\n",
            b"*1\r\n$9999999999\r\n",
            b"*1\r\n$3\r\nabcd\r\n",
            b"*1\rx",
            b"*1\r\n$+3\r\nabc\r\n",
        ];
        for input in bad {
            assert!(take(input).is_err(), "{}", input.escape_ascii());
        }
        assert!(take(&[b'x'; INLINE_BYTES_MAX]).is_err());
    }

    #[test]
    fn plain_words_are_a_command() {
        assert_eq!(take(b"  PING  hello\r\n").unwrap().unwrap(), [&b"PING"[..], b"hello"]);
        assert_eq!(take(b"\r\n").unwrap().unwrap(), Vec::<Bytes>::new());
        assert_eq!(take(b"*0\r\n").unwrap().unwrap(), Vec::<Bytes>::new());
    }
}
