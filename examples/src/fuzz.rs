//! What a fuzzer calls: arbitrary bytes as what clients of the servers send.
//!
//! Guarantees: an entry point returns for any input, or panics because it found a bug. The same
//! functions run over the kept corpus in the ordinary tests.
//!
//! Does not search: `examples/fuzz/` and its driver do. Called by the fuzz targets and by
//! `tests/the_corpus_is_understood`.

use bytes::Buf;
use bytes::Bytes;
use bytes::BytesMut;

use crate::kv::command;
use crate::kv::command::Words;
use crate::kv::limits::ARGUMENTS_MAX;
use crate::kv::limits::LONG_BYTES;
use crate::kv::limits::UNKNOWN_BULK_BYTES_MAX;
use crate::kv::resp;
use crate::kv::resp::Taken;
use crate::nbd::limits::PAYLOAD_BYTES_MAX;
use crate::nbd::option;
use crate::nbd::option::Ask;
use crate::nbd::request;
use crate::nbd::request::Command;
use crate::nbd::request::Terms;
use crate::nbd::wire;

/// What a client's bytes came to.
#[derive(Debug, Default, PartialEq, Eq)]
struct Understood {
    /// Commands, their long arguments left out.
    commands: Vec<Vec<Bytes>>,
    /// Lengths of long arguments.
    long: Vec<usize>,
    /// It did not speak RESP.
    malformed: bool,
}

/// What a Redis client sends: the first byte says whether it is known, and in which pieces it arrives.
pub fn resp(bytes: &[u8]) {
    let Some((&first, stream)) = bytes.split_first() else { return };
    let (known, piece) = (first & 0x80 == 0, usize::from(first & 0x7F) + 1);
    let whole = understand(stream, known, stream.len().max(1));
    let pieces = understand(stream, known, piece);
    assert_eq!(whole, pieces, "what arrives in pieces is understood as something else");
    for words in whole.commands {
        assert!(words.len() <= ARGUMENTS_MAX, "{} arguments", words.len());
        let longest = words.iter().map(Bytes::len).max().unwrap_or(0);
        assert!(longest <= if known { LONG_BYTES } else { UNKNOWN_BULK_BYTES_MAX });
        let again = understand(&written(&words), true, usize::MAX);
        let same = std::slice::from_ref(&words);
        assert_eq!(again.commands, same, "it is another one when it is sent again");
        if !words.is_empty() {
            let _ = command::parse(Words { plain: words, long: Vec::new() }, 1_000_000_000_000);
        }
    }
}

/// Where in a command a client is.
enum Place {
    /// Between two.
    Between,
    /// In a long argument of which so many bytes are missing; so many arguments follow it.
    Long(usize, usize),
    /// At the end of the line behind it.
    LineEnd(usize),
    /// Behind it.
    Behind(usize),
}

/// As `connection` and `uploads` do it.
fn understand(stream: &[u8], known: bool, piece: usize) -> Understood {
    let (mut input, mut rest) = (BytesMut::new(), stream);
    let (mut found, mut place) = (Understood::default(), Place::Between);
    let mut looked = resp::Looked::default();
    // Of a command with long arguments: what there is.
    let mut begun = Vec::new();
    loop {
        let taken = match place {
            Place::Between => resp::take_command(&mut input, &mut looked, known),
            Place::Behind(behind) => resp::take_behind(&mut input, &mut looked, behind),
            Place::Long(missing, behind) => {
                let part = missing.min(input.len());
                input.advance(part);
                place = Place::Long(missing - part, behind);
                if part == missing {
                    place = Place::LineEnd(behind);
                    continue;
                }
                Ok(Taken::Nothing)
            }
            Place::LineEnd(behind) => match resp::take_line_end(&mut input) {
                Ok(true) => {
                    place = Place::Behind(behind);
                    continue;
                }
                Ok(false) => Ok(Taken::Nothing),
                Err(malformed) => Err(malformed),
            },
        };
        match taken {
            Err(_) => {
                found.malformed = true;
                return found;
            }
            Ok(Taken::Command(words)) => {
                begun.extend(words);
                found.commands.push(std::mem::take(&mut begun));
                place = Place::Between;
            }
            Ok(Taken::Long(next)) => {
                assert!(known && next.bytes > LONG_BYTES);
                begun.extend(next.before);
                found.long.push(next.bytes);
                place = Place::Long(next.bytes, next.behind);
            }
            Ok(Taken::Nothing) if rest.is_empty() => return found,
            Ok(Taken::Nothing) => {
                let (arrived, later) = rest.split_at(piece.min(rest.len()));
                input.extend_from_slice(arrived);
                rest = later;
            }
        }
    }
}

/// A command as clients write it.
fn written(words: &[Bytes]) -> Vec<u8> {
    let mut out = format!("*{}\r\n", words.len()).into_bytes();
    for word in words {
        out.extend(format!("${}\r\n", word.len()).into_bytes());
        out.extend_from_slice(word);
        out.extend_from_slice(b"\r\n");
    }
    out
}

/// What a client of a block device sends: nine bytes of terms, then an option or a request, as the first
/// byte says.
pub fn nbd(bytes: &[u8]) {
    let Some((&first, mut rest)) = bytes.split_first() else { return };
    let (Ok(size), Ok(flags)) = (rest.try_get_u64(), rest.try_get_u8()) else { return };
    match first & 1 {
        0 => nbd_option(rest),
        _ => {
            let has = |bit: u8| flags & bit != 0;
            let (read_only, structured, status) = (has(1), has(2), has(4));
            nbd_request(rest, &Terms { size, read_only, structured, status });
        }
    }
}

fn nbd_option(bytes: &[u8]) {
    let Some((head, data)) = bytes.split_first_chunk::<{ option::HEADER_BYTES }>() else { return };
    let Some(head) = option::Header::parse(head) else {
        assert_ne!(head[..8], wire::IHAVEOPT.to_be_bytes(), "it begins like an option");
        return;
    };
    let Ok(ask) = option::parse(head.kind, data) else { return };
    if let Ask::ExportName(name) | Ask::Info { name, .. } | Ask::Contexts { name, .. } = &ask {
        assert!(name.len() <= data.len() && !name.contains('\0'), "{ask:?}");
    }
    if !matches!(ask, Ask::Abort | Ask::ExportName(_)) {
        // More than what was asked is no option, and neither is less.
        let longer = [data, b"\0"].concat();
        assert!(option::parse(head.kind, &longer).is_err(), "{ask:?}");
        let shorter = data.len().checked_sub(1).map(|len| option::parse(head.kind, &data[..len]));
        assert!(shorter.is_none_or(|parsed| parsed.is_err()), "{ask:?}");
    }
}

fn nbd_request(bytes: &[u8], terms: &Terms) {
    let Some(head) = bytes.first_chunk::<{ request::HEADER_BYTES }>() else { return };
    let Ok(header) = request::Header::parse(head) else {
        assert_ne!(head[..4], wire::REQUEST_MAGIC.to_be_bytes(), "it begins like a request");
        return;
    };
    let Ok(command) = header.check(terms) else { return };
    let (range, payload, changes) = match &command {
        Command::Read(range) => (range, true, false),
        Command::Write(range) => (range, true, true),
        Command::Trim(range) | Command::Zero { range, .. } => (range, false, true),
        Command::Cache(range) => (range, false, false),
        Command::Status { range, .. } => {
            assert!(terms.status, "block status was not agreed on");
            (range, false, false)
        }
        Command::Flush | Command::Disconnect => return,
    };
    assert!(range.start < range.end && range.end <= terms.size, "{command:?} of {}", terms.size);
    assert_eq!(range.end - range.start, u64::from(header.len));
    assert!(!payload || header.len <= PAYLOAD_BYTES_MAX, "{command:?}");
    assert!(!changes || !terms.read_only, "{command:?}");
}
