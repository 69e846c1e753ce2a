//! Options: what a client asks before it chooses an export. Bytes to a typed question, pure.
//!
//! Guarantees that any bytes decode or fail, that names are text without a zero byte, as the
//! protocol demands, and that nothing is allocated by what a client claims. Does not read sockets
//! and knows no exports. Called by `handshake`.

use bytes::Buf;

use crate::nbd::wire;

/// Bytes of an option without its data.
pub const HEADER_BYTES: usize = 16;

/// The head of an option.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// `OPT_*`.
    pub kind: u32,
    /// How many bytes of data follow.
    pub len: u32,
}

/// What the client wants to know or to agree on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ask {
    /// This export, and no way to refuse.
    ExportName(String),
    /// Goodbye.
    Abort,
    /// The names of the exports.
    List,
    /// Encryption.
    StartTls,
    /// About an export, or also this export.
    Info {
        /// Its name; the empty one is the default export.
        name: String,
        /// Whether its proper name is asked for.
        wants_name: bool,
        /// Whether it is chosen with it.
        go: bool,
    },
    /// Replies in chunks.
    StructuredReply,
    /// Kinds of block status.
    Contexts {
        /// Of which export.
        name: String,
        /// Whether `base:allocation` is among them.
        allocation: bool,
        /// Whether they are chosen with it.
        set: bool,
    },
}

/// Why an option is not understood; the negotiation goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// Not known here.
    #[error("option {0} is not known here")]
    Unsupported(u32),
    /// Known, and malformed.
    #[error("{0}")]
    Malformed(&'static str),
}

impl Header {
    /// Takes the head of an option apart; `None` when it is none.
    pub fn parse(bytes: &[u8; HEADER_BYTES]) -> Option<Self> {
        let mut bytes: &[u8] = bytes;
        if bytes.get_u64() != wire::IHAVEOPT {
            return None;
        }
        Some(Self { kind: bytes.get_u32(), len: bytes.get_u32() })
    }
}

/// Reads the option `kind` with its data.
pub fn parse(kind: u32, data: &[u8]) -> Result<Ask, Fault> {
    let mut rest = Fields(data);
    let ask = match kind {
        wire::OPT_EXPORT_NAME => Ask::ExportName(rest.text(data.len())?),
        // Its data is to be ignored.
        wire::OPT_ABORT => return Ok(Ask::Abort),
        wire::OPT_LIST => Ask::List,
        wire::OPT_STARTTLS => Ask::StartTls,
        wire::OPT_STRUCTURED_REPLY => Ask::StructuredReply,
        wire::OPT_INFO | wire::OPT_GO => rest.info(kind == wire::OPT_GO)?,
        wire::OPT_LIST_META_CONTEXT => rest.contexts(false)?,
        wire::OPT_SET_META_CONTEXT => rest.contexts(true)?,
        other => return Err(Fault::Unsupported(other)),
    };
    if !rest.0.is_empty() {
        return Err(Fault::Malformed("the option has more data than it should"));
    }
    Ok(ask)
}

/// The data of an option that was not read yet.
struct Fields<'a>(&'a [u8]);

const SHORT: Fault = Fault::Malformed("the option ends too early");

impl Fields<'_> {
    fn u16(&mut self) -> Result<u16, Fault> {
        self.0.try_get_u16().map_err(|_| SHORT)
    }

    fn u32(&mut self) -> Result<u32, Fault> {
        self.0.try_get_u32().map_err(|_| SHORT)
    }

    fn text(&mut self, len: usize) -> Result<String, Fault> {
        let (text, rest) = self.0.split_at_checked(len).ok_or(SHORT)?;
        self.0 = rest;
        match std::str::from_utf8(text) {
            Ok(text) if !text.contains('\0') => Ok(text.to_owned()),
            _ => Err(Fault::Malformed("a name is not UTF-8 without zero bytes")),
        }
    }

    fn counted_text(&mut self) -> Result<String, Fault> {
        let len = self.u32()?;
        self.text(usize::try_from(len).map_err(|_| SHORT)?)
    }

    fn info(&mut self, go: bool) -> Result<Ask, Fault> {
        let name = self.counted_text()?;
        let mut wants_name = false;
        for _ in 0..self.u16()? {
            // Size, flags and block sizes are told in any case; the rest nobody has to know.
            wants_name |= self.u16()? == wire::INFO_NAME;
        }
        Ok(Ask::Info { name, wants_name, go })
    }

    fn contexts(&mut self, set: bool) -> Result<Ask, Fault> {
        let name = self.counted_text()?;
        let queries = self.u32()?;
        // Without a query a list is of everything, and a choice of nothing.
        let mut allocation = queries == 0 && !set;
        for _ in 0..queries {
            let query = self.counted_text()?;
            let whole_room = query == "base:" && !set;
            allocation |= query == wire::ALLOCATION || whole_room;
        }
        Ok(Ask::Contexts { name, allocation, set })
    }
}

#[cfg(test)]
mod tests {
    use bytes::BufMut;
    use proptest::prelude::*;

    use super::*;

    fn counted(texts: &[&str]) -> Vec<u8> {
        let mut data = Vec::new();
        for text in texts {
            data.put_u32(text.len() as u32);
            data.put_slice(text.as_bytes());
        }
        data
    }

    #[test]
    fn what_is_asked_is_understood() {
        let mut go = counted(&["disk"]);
        go.put_u16(2);
        go.put_u16(wire::INFO_BLOCK_SIZE);
        go.put_u16(wire::INFO_NAME);
        let ask = Ask::Info { name: "disk".into(), wants_name: true, go: true };
        assert_eq!(parse(wire::OPT_GO, &go), Ok(ask));
        assert_eq!(parse(wire::OPT_GO, &go[..go.len() - 1]), Err(SHORT));
        go.push(0);
        assert!(matches!(parse(wire::OPT_GO, &go), Err(Fault::Malformed(_))));

        for (set, queries, expected) in [
            (true, &["base:allocation"][..], true),
            (true, &["base:"], false),
            (true, &[], false),
            (false, &["qemu:x", "base:"], true),
            (false, &["qemu:x"], false),
            (false, &[], true),
        ] {
            let mut data = counted(&[""]);
            data.put_u32(queries.len() as u32);
            data.extend(counted(queries));
            let kind = if set { wire::OPT_SET_META_CONTEXT } else { wire::OPT_LIST_META_CONTEXT };
            let ask = Ask::Contexts { name: String::new(), allocation: expected, set };
            assert_eq!(parse(kind, &data), Ok(ask), "{queries:?}");
        }
    }

    #[test]
    fn names_are_text() {
        assert_eq!(parse(wire::OPT_EXPORT_NAME, "ä b/…".as_bytes()).unwrap(), {
            Ask::ExportName("ä b/…".into())
        });
        for bad in [&b"a\0b"[..], b"\xff", b"\xc3"] {
            assert!(matches!(parse(wire::OPT_EXPORT_NAME, bad), Err(Fault::Malformed(_))));
        }
        assert_eq!(parse(4, b""), Err(Fault::Unsupported(4)));
        assert_eq!(parse(wire::OPT_ABORT, b"whatever"), Ok(Ask::Abort));
        assert!(matches!(parse(wire::OPT_LIST, b"x"), Err(Fault::Malformed(_))));
    }

    proptest! {
        #[test]
        fn any_bytes_decode_or_fail(kind in 0..14_u32, data in proptest::collection::vec(any::<u8>(), 0..300)) {
            if let Ok(Ask::Info { name, .. } | Ask::Contexts { name, .. }) = parse(kind, &data) {
                assert!(name.len() <= data.len());
            }
        }

        /// Lengths that nearly fit are where such decoders break.
        #[test]
        fn claimed_lengths_are_not_believed(
            kind in 6..12_u32,
            claimed in prop_oneof![0..40_u32, any::<u32>()],
            count in prop_oneof![0..8_u32, any::<u32>()],
            tail in proptest::collection::vec(any::<u8>(), 0..40),
        ) {
            let mut data = Vec::new();
            data.put_u32(claimed);
            data.put_slice(&tail);
            data.put_u32(count);
            data.put_slice(&tail);
            let _ = parse(kind, &data);
        }
    }
}
