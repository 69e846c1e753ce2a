//! RESP: commands out of bytes, replies into bytes, in version 2 or 3. Commands look the same in both.
//!
//! Commands are arrays of bulk strings and nothing else, and an argument may be longer than is ever held in memory.
//! A codec takes any frame, nested without end or with lengths that no memory has, and only when all of it is
//! there; so commands are cut by hand, in one pass over their outline, which goes on where it was when more has
//! come, and one over their arguments. The codec of `redis-protocol` is the second opinion in the tests.
//!
//! An argument of more than `LONG_BYTES` is not held: the command up to it is given out, its bytes are
//! left to the caller, who takes them as they come, and the command goes on behind them.
//!
//! Guarantees that a command has at most `ARGUMENTS_MAX` arguments and, without its long ones,
//! `FRAME_BYTES_MAX` bytes, that an incomplete one is not parsed, and that anything else is a `Malformed`,
//! in the words of Redis. A client that has not said the password is held to much less. Does not know
//! what commands mean. Called by `connection` and `uploads`.

use bytes::Buf;
use bytes::BufMut;
use bytes::Bytes;
use bytes::BytesMut;

use crate::kv::limits::ARGUMENTS_MAX;
use crate::kv::limits::FRAME_BYTES_MAX;
use crate::kv::limits::INLINE_BYTES_MAX;
use crate::kv::limits::LONG_BYTES;
use crate::kv::limits::UNKNOWN_ARGUMENTS_MAX;
use crate::kv::limits::UNKNOWN_BULK_BYTES_MAX;
use crate::kv::limits::VALUE_BYTES_MAX;
use crate::kv::pinned::Pinned;
use crate::kv::reply::Reply;

/// Longest line with a length: sign and 20 digits are more than any length needs.
const LENGTH_LINE_MAX: usize = 24;

/// The client does not speak RESP, or asks for more than there is; the connection cannot go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("Protocol error: {0}")]
pub struct Malformed(pub Why);

/// What is wrong with a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Why {
    /// Something else than a bulk string is among the arguments.
    #[error("expected '$', got '{}'", .0.escape_ascii())]
    NoBulk(u8),
    /// The number of arguments is none, or too large.
    #[error("invalid multibulk length")]
    Count,
    /// The length of an argument is none, or too large.
    #[error("invalid bulk length")]
    Length,
    /// A number of arguments does not end.
    #[error("too big mbulk count string")]
    CountLine,
    /// A length does not end.
    #[error("too big bulk count string")]
    LengthLine,
    /// A line of words does not end.
    #[error("too big inline request")]
    Inline,
    /// A quoted word does not end, or goes on behind its end.
    #[error("unbalanced quotes in request")]
    Quotes,
    /// More arguments than a client may send who did not say the password.
    #[error("unauthenticated multibulk length")]
    UnknownCount,
    /// A longer argument than a client may send who did not say the password.
    #[error("unauthenticated bulk length")]
    UnknownLength,
    /// The command is longer than all that the server takes.
    #[error("command too long")]
    Command,
    /// An argument does not end where its length says.
    #[error("a bulk string does not end where it should")]
    End,
}

/// What stands at the front of the input.
#[derive(Debug, PartialEq, Eq)]
pub enum Taken {
    /// Nothing complete yet.
    Nothing,
    /// A command, or what was left of one. Without arguments (an empty line) it is empty.
    Command(Vec<Bytes>),
    /// A command up to a long argument, whose bytes and line end come next.
    Long(Begun),
}

/// A command of which a part is there.
#[derive(Debug, PartialEq, Eq)]
pub struct Begun {
    /// The arguments before the long one.
    pub before: Vec<Bytes>,
    /// Bytes of the long one.
    pub bytes: usize,
    /// Arguments behind it.
    pub behind: usize,
}

/// How far the incomplete command at the front of the input was looked at, so that one of many arguments that comes
/// byte by byte is looked at once and not once for each byte. New before each command.
#[derive(Debug, Default, Clone, Copy)]
pub struct Looked {
    /// Arguments that are there.
    arguments: usize,
    /// Where the next one begins; 0 if none was looked for.
    at: usize,
}

/// Takes the next command from the front of `input`, of which `looked` tells what is known since the last call.
/// `known`: the client has said the password.
pub fn take_command(
    input: &mut BytesMut,
    looked: &mut Looked,
    known: bool,
) -> Result<Taken, Malformed> {
    match input.first() {
        None => Ok(Taken::Nothing),
        Some(b'*') => take_array(input, looked, known).map_err(Malformed),
        Some(_) => take_inline(input).map_err(Malformed),
    }
}

/// Takes `count` more arguments of a command with a long one, whose line end was taken.
pub fn take_behind(
    input: &mut BytesMut,
    looked: &mut Looked,
    count: usize,
) -> Result<Taken, Malformed> {
    let shape = outline(input, looked, count, true).map_err(Malformed)?;
    cut(input, count, shape).map_err(Malformed)
}

/// Takes the line end of a long argument; false if it is not there yet.
pub fn take_line_end(input: &mut BytesMut) -> Result<bool, Malformed> {
    match &input[..input.len().min(2)] {
        b"\r\n" => {
            input.advance(2);
            Ok(true)
        }
        b"" | b"\r" => Ok(false),
        _ => Err(Malformed(Why::End)),
    }
}

fn take_array(input: &mut BytesMut, looked: &mut Looked, known: bool) -> Result<Taken, Why> {
    let count = number(input, 1, (Why::CountLine, Why::Count))?;
    let Some((count, at)) = count else { return Ok(Taken::Nothing) };
    if count > ARGUMENTS_MAX {
        return Err(Why::Count);
    }
    if count > UNKNOWN_ARGUMENTS_MAX && !known {
        return Err(Why::UnknownCount);
    }
    looked.at = looked.at.max(at);
    let shape = outline(input, looked, count, known)?;
    if !matches!(shape, Outline::Incomplete) {
        input.advance(at);
    }
    cut(input, count, shape)
}

/// What of some arguments is there.
enum Outline {
    /// All of them.
    Whole,
    /// Not all.
    Incomplete,
    /// All before this one, and the length of this one, which is long.
    Long { index: usize, bytes: usize },
}

/// Looks at `count` arguments, those that were not looked at before.
fn outline(input: &[u8], looked: &mut Looked, count: usize, known: bool) -> Result<Outline, Why> {
    while looked.arguments < count {
        match look(input, looked.at, known)? {
            Look::Incomplete if input.len() > FRAME_BYTES_MAX => return Err(Why::Command),
            Look::Incomplete => return Ok(Outline::Incomplete),
            Look::Whole { end } => *looked = Looked { arguments: looked.arguments + 1, at: end },
            Look::Long { bytes } => {
                let index = std::mem::take(looked).arguments;
                return Ok(Outline::Long { index, bytes });
            }
        }
    }
    *looked = Looked::default();
    Ok(Outline::Whole)
}

/// What of one argument is there.
enum Look {
    Incomplete,
    /// All of it; the next one would begin at `end`.
    Whole {
        end: usize,
    },
    /// Its length, which is long.
    Long {
        bytes: usize,
    },
}

/// Looks at the argument at `at`.
fn look(input: &[u8], at: usize, known: bool) -> Result<Look, Why> {
    match input.get(at) {
        None => return Ok(Look::Incomplete),
        Some(b'$') => {}
        Some(other) => return Err(Why::NoBulk(*other)),
    }
    let length = number(input, at + 1, (Why::LengthLine, Why::Length))?;
    let Some((bytes, start)) = length else { return Ok(Look::Incomplete) };
    if bytes > VALUE_BYTES_MAX {
        return Err(Why::Length);
    }
    if bytes > UNKNOWN_BULK_BYTES_MAX && !known {
        return Err(Why::UnknownLength);
    }
    if bytes > LONG_BYTES {
        return Ok(Look::Long { bytes });
    }
    let end = start + bytes;
    if end + 2 > FRAME_BYTES_MAX {
        return Err(Why::Command);
    }
    match input.get(end..end + 2) {
        None => Ok(Look::Incomplete),
        Some(b"\r\n") => Ok(Look::Whole { end: end + 2 }),
        Some(_) => Err(Why::End),
    }
}

/// Cuts arguments from the front, which were looked at.
fn cut(input: &mut BytesMut, count: usize, shape: Outline) -> Result<Taken, Why> {
    let (whole, long) = match shape {
        Outline::Incomplete => return Ok(Taken::Nothing),
        Outline::Whole => (count, None),
        Outline::Long { index, bytes } => (index, Some(bytes)),
    };
    let mut before = Vec::with_capacity(whole);
    for _ in 0..whole {
        let bytes = cut_length(input)?;
        before.push(input.split_to(bytes).freeze());
        input.advance(2);
    }
    let Some(bytes) = long else { return Ok(Taken::Command(before)) };
    cut_length(input)?;
    Ok(Taken::Long(Begun { before, bytes, behind: count - whole - 1 }))
}

fn cut_length(input: &mut BytesMut) -> Result<usize, Why> {
    let length = number(input, 1, (Why::LengthLine, Why::Length))?;
    let (bytes, start) = length.ok_or(Why::Length)?;
    input.advance(start);
    Ok(bytes)
}

/// Reads a number and the line's end; gives it and where the next byte is. `wrong` says that the line
/// does not end, and that it holds no number.
fn number(input: &[u8], at: usize, wrong: (Why, Why)) -> Result<Option<(usize, usize)>, Why> {
    let Some(rest) = input.get(at..) else { return Ok(None) };
    let window = &rest[..rest.len().min(LENGTH_LINE_MAX)];
    let Some(digits) = window.iter().position(|&b| b == b'\r') else {
        return match window.len() < LENGTH_LINE_MAX {
            true => Ok(None),
            false => Err(wrong.0),
        };
    };
    match rest.get(digits + 1) {
        None => return Ok(None),
        Some(b'\n') => {}
        Some(_) => return Err(wrong.1),
    }
    let text = &rest[..digits];
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return Err(wrong.1);
    }
    let digit = |n: usize, d: &u8| n.saturating_mul(10).saturating_add(usize::from(d - b'0'));
    Ok(Some((text.iter().fold(0, digit), at + digits + 2)))
}

/// Words, as typed into telnet. Quotes hold a word with spaces together: in double ones `\n`, `\r`,
/// `\t`, `\b`, `\a` and `\xff` are bytes, in single ones only `\'` is another than it looks.
fn take_inline(input: &mut BytesMut) -> Result<Taken, Why> {
    let window = &input[..input.len().min(INLINE_BYTES_MAX)];
    let Some(end) = window.iter().position(|&b| b == b'\n') else {
        return match window.len() < INLINE_BYTES_MAX {
            true => Ok(Taken::Nothing),
            false => Err(Why::Inline),
        };
    };
    let line = input.split_to(end + 1);
    let (mut rest, mut words) = (&line[..], Vec::new());
    loop {
        rest = rest.trim_ascii_start();
        if rest.is_empty() {
            return Ok(Taken::Command(words));
        }
        words.push(take_word(&mut rest)?);
    }
}

fn take_word(rest: &mut &[u8]) -> Result<Bytes, Why> {
    let mut word = Vec::new();
    while let Some((&byte, after)) = rest.split_first() {
        match byte {
            b'"' | b'\'' => {
                *rest = after;
                take_quoted(rest, byte, &mut word)?;
                let ends = rest.first().is_none_or(u8::is_ascii_whitespace);
                return if ends { Ok(word.into()) } else { Err(Why::Quotes) };
            }
            _ if byte.is_ascii_whitespace() => break,
            _ => word.push(byte),
        }
        *rest = after;
    }
    Ok(word.into())
}

fn take_quoted(rest: &mut &[u8], quote: u8, word: &mut Vec<u8>) -> Result<(), Why> {
    loop {
        let (byte, len) = match (*rest, quote) {
            ([], _) => return Err(Why::Quotes),
            ([b'\\', b'x', high, low, ..], b'"')
                if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() =>
            {
                let digit = |b: u8| (b as char).to_digit(16).unwrap_or(0) as u8;
                (digit(*high) << 4 | digit(*low), 4)
            }
            ([b'\\', escaped, ..], b'"') => {
                let byte = match escaped {
                    b'n' => b'\n',
                    b'r' => b'\r',
                    b't' => b'\t',
                    b'b' => 8,
                    b'a' => 7,
                    other => *other,
                };
                (byte, 2)
            }
            ([b'\\', b'\'', ..], b'\'') => (b'\'', 2),
            ([end, ..], _) if *end == quote => {
                *rest = &rest[1..];
                return Ok(());
            }
            ([byte, ..], _) => (*byte, 1),
        };
        word.push(byte);
        *rest = &rest[len..];
    }
}

/// How replies are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Protocol {
    /// What every client understands.
    #[default]
    Resp2,
    /// With maps and a nil of its own.
    Resp3,
}

/// Replies that were not sent yet.
#[derive(Debug, Default)]
pub struct Output {
    /// Everything but large values.
    pub bytes: BytesMut,
    /// Large values, and in front of which of the bytes each of them goes; ascending.
    pub larges: Vec<(usize, Pinned)>,
}

/// Appends a reply. A large value is left to the sender; what stands around it is in place.
pub fn put_reply(out: &mut Output, reply: &Reply, protocol: Protocol) {
    let new = protocol == Protocol::Resp3;
    let output = &mut out.bytes;
    match reply {
        Reply::Simple(text) => line(output, b'+', text.as_bytes()),
        Reply::Error(text) => {
            // Words of a client may be in it; a line end would be a reply of their own.
            let text = text.replace(['\r', '\n'], " ");
            line(output, b'-', text.as_bytes());
        }
        Reply::Integer(number) => line(output, b':', number.to_string().as_bytes()),
        Reply::Bulk(bytes) => bulk(output, b'$', &[], bytes),
        Reply::Large(value) => {
            line(output, b'$', value.len().to_string().as_bytes());
            out.larges.push((output.len(), value.clone()));
            output.extend_from_slice(b"\r\n");
        }
        Reply::Verbatim(text) if new => bulk(output, b'=', b"txt:", text.as_bytes()),
        Reply::Verbatim(text) => bulk(output, b'$', &[], text.as_bytes()),
        Reply::Null | Reply::NullArray if new => line(output, b'_', b""),
        Reply::Null => line(output, b'$', b"-1"),
        Reply::NullArray => line(output, b'*', b"-1"),
        Reply::Array(all) => {
            line(output, b'*', all.len().to_string().as_bytes());
            all.iter().for_each(|one| put_reply(out, one, protocol));
        }
        Reply::Map(all) => {
            let (sign, len) = if new { (b'%', all.len()) } else { (b'*', 2 * all.len()) };
            line(output, sign, len.to_string().as_bytes());
            for (key, value) in all {
                put_reply(out, key, protocol);
                put_reply(out, value, protocol);
            }
        }
    }
}

fn line(output: &mut BytesMut, sign: u8, text: &[u8]) {
    output.reserve(text.len() + 3);
    output.put_u8(sign);
    output.put_slice(text);
    output.put_slice(b"\r\n");
}

fn bulk(output: &mut BytesMut, sign: u8, mark: &[u8], bytes: &[u8]) {
    let len = mark.len() + bytes.len();
    line(output, sign, len.to_string().as_bytes());
    output.reserve(len + 2);
    output.put_slice(mark);
    output.put_slice(bytes);
    output.put_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use redis_protocol::resp2::decode::decode_bytes_mut;
    use redis_protocol::resp2::types::BytesFrame;

    use super::*;

    fn taken(input: &mut BytesMut, known: bool) -> Result<Taken, Malformed> {
        take_command(input, &mut Looked::default(), known)
    }

    fn take(input: &[u8]) -> Result<Option<Vec<Bytes>>, Malformed> {
        match taken(&mut BytesMut::from(input), true)? {
            Taken::Nothing => Ok(None),
            Taken::Command(words) => Ok(Some(words)),
            Taken::Long(begun) => panic!("{begun:?}"),
        }
    }

    #[test]
    fn a_long_argument_is_left_to_the_caller() {
        let long = LONG_BYTES + 1;
        let text = format!("*5\r\n$4\r\nMSET\r\n$1\r\na\r\n${long}\r\nxyz");
        for len in 0..text.len() - 3 {
            let taken = taken(&mut BytesMut::from(&text[..len]), true);
            assert_eq!(taken, Ok(Taken::Nothing), "{len}");
        }
        let mut input = BytesMut::from(text.as_bytes());
        let before = vec![Bytes::from("MSET"), Bytes::from("a")];
        let begun = Begun { before, bytes: long, behind: 2 };
        assert_eq!(taken(&mut input, true), Ok(Taken::Long(begun)));
        assert_eq!(input, "xyz");
        // Its bytes were taken; its end and what follows come.
        let mut input = BytesMut::from("\r");
        assert_eq!(take_line_end(&mut input), Ok(false));
        input.extend_from_slice(format!("\n$1\r\nb\r\n${long}\r\n*1").as_bytes());
        assert_eq!(take_line_end(&mut input), Ok(true));
        let begun = Begun { before: vec!["b".into()], bytes: long, behind: 0 };
        assert_eq!(take_behind(&mut input, &mut Looked::default(), 2), Ok(Taken::Long(begun)));
        assert_eq!(take_behind(&mut input, &mut Looked::default(), 0), Ok(Taken::Command(vec![])));
        assert_eq!(input, "*1");
        let mut input = BytesMut::from("$1\r\nb\r\n$0\r\n\r\n");
        assert_eq!(
            take_behind(&mut input, &mut Looked::default(), 2),
            Ok(Taken::Command(vec!["b".into(), "".into()]))
        );
        assert_eq!(take_line_end(&mut BytesMut::from("x")), Err(Malformed(Why::End)));
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

    /// One byte of such a command more cost a look at all that had come before: each cost the server a third
    /// of a millisecond at the end.
    #[test]
    fn arguments_that_are_there_are_not_looked_at_again() {
        let text = b"*3\r\n$1\r\na\r\n$1\r\nb\r\n$1\r\nc\r\n*1\r\n$4\r\nPING\r\n";
        let mut input = BytesMut::from(&text[..20]);
        let mut looked = Looked::default();
        assert_eq!(take_command(&mut input, &mut looked, true), Ok(Taken::Nothing));
        assert_eq!((looked.arguments, looked.at), (2, 18));
        // To be noticed if somebody looks here.
        input[4] = b'x';
        assert_eq!(take_command(&mut input, &mut looked, true), Ok(Taken::Nothing));
        input[4] = b'$';
        input.extend_from_slice(&text[20..]);
        let words = ["a", "b", "c"].map(Bytes::from).to_vec();
        assert_eq!(take_command(&mut input, &mut looked, true), Ok(Taken::Command(words)));
        let ping = vec![Bytes::from("PING")];
        assert_eq!(take_command(&mut input, &mut looked, true), Ok(Taken::Command(ping)));
        assert!(input.is_empty());
    }

    proptest! {
        #[test]
        fn the_codec_of_others_is_of_the_same_opinion(
            commands in prop::collection::vec(
                prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 1..12), 1..5,
            ),
        ) {
            let mut input = BytesMut::new();
            for words in &commands {
                line(&mut input, b'*', words.len().to_string().as_bytes());
                words.iter().for_each(|word| bulk(&mut input, b'$', &[], word));
            }
            let mut theirs = input.clone();
            for words in commands {
                let frame = decode_bytes_mut(&mut theirs).unwrap().unwrap().0;
                let word = |word: Vec<u8>| BytesFrame::BulkString(word.into());
                prop_assert_eq!(frame, BytesFrame::Array(words.iter().cloned().map(word).collect()));
                let words = words.into_iter().map(Bytes::from).collect();
                prop_assert_eq!(taken(&mut input, true), Ok(Taken::Command(words)));
                prop_assert_eq!(&input, &theirs);
            }
        }
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
        assert_eq!(
            take(b"'a b' \"\\x41\\n\\\"\" ''\n").unwrap().unwrap(),
            [&b"a b"[..], b"A\n\"", b""]
        );
        assert_eq!(take(b"\"a\"b\n"), Err(Malformed(Why::Quotes)));
        assert_eq!(take(b"set k \"\n"), Err(Malformed(Why::Quotes)));
        assert_eq!(take(b"\r\n").unwrap().unwrap(), Vec::<Bytes>::new());
        assert_eq!(take(b"*0\r\n").unwrap().unwrap(), Vec::<Bytes>::new());
    }

    #[test]
    fn replies_look_as_their_version_has_them() {
        let all = [
            (Reply::Null, "$-1\r\n", "_\r\n"),
            (Reply::NullArray, "*-1\r\n", "_\r\n"),
            (
                Reply::Map(vec![(Reply::text("a"), 1.into())]),
                "*2\r\n$1\r\na\r\n:1\r\n",
                "%1\r\n$1\r\na\r\n:1\r\n",
            ),
            (Reply::Verbatim("x".into()), "$1\r\nx\r\n", "=5\r\ntxt:x\r\n"),
            (Reply::err("a\r\nb"), "-ERR a  b\r\n", "-ERR a  b\r\n"),
        ];
        for (reply, old, new) in all {
            for (protocol, text) in [(Protocol::Resp2, old), (Protocol::Resp3, new)] {
                let mut output = Output::default();
                put_reply(&mut output, &reply, protocol);
                assert_eq!(output.bytes, text);
            }
        }
    }

    #[test]
    fn a_client_without_password_is_held_short() {
        let mut many = BytesMut::from(&b"*11\r\n"[..]);
        assert_eq!(taken(&mut many, false), Err(Malformed(Why::UnknownCount)));
        let mut long = BytesMut::from(&b"*1\r\n$16385\r\n"[..]);
        assert_eq!(taken(&mut long, false), Err(Malformed(Why::UnknownLength)));
    }
}
