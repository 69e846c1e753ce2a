//! The negotiation: who are you, what is there, which one do you want, and how.
//!
//! Fixed newstyle. STARTTLS is refused, as every option that is not known; what is malformed or too
//! long is answered and skipped, and the client may go on asking. `OPT_EXPORT_NAME` has no way to say
//! no: an unknown name ends the connection, as the protocol demands.
//!
//! Guarantees memory of one option and one page of names, whatever the client does. Does not end by
//! itself; `server` bounds it. Does not serve requests. Called by `server`.

use std::io;
use std::sync::Arc;

use bytes::BufMut;
use tokio_util::sync::CancellationToken;

use crate::nbd::catalog::Catalog;
use crate::nbd::export::Export;
use crate::nbd::limits::BLOCK_BYTES_PREFERRED;
use crate::nbd::limits::LINES_MAX;
use crate::nbd::limits::LINES_WITHIN;
use crate::nbd::limits::OPTION_BYTES_MAX;
use crate::nbd::limits::PAYLOAD_BYTES_MAX;
use crate::nbd::option;
use crate::nbd::option::Ask;
use crate::nbd::option::Fault;
use crate::nbd::reply;
use crate::nbd::session::Agreed;
use crate::nbd::stream;
use crate::nbd::stream::Stream;
use crate::nbd::wire;
use crate::quiet::Quiet;

/// What options can make it log: one that fails can be sent again for ever.
static FAILED: Quiet = Quiet::new(LINES_MAX, LINES_WITHIN);

/// Negotiates until the client has chosen an export; `None` when it left without.
///
/// Errors: those of the socket, and a client that speaks something else.
pub async fn run(
    stream: &mut Stream,
    catalog: &Catalog,
    stop: &CancellationToken,
) -> io::Result<Option<Agreed>> {
    let (out, allocation) = (Vec::new(), None);
    let handshake =
        Handshake { stream, catalog, stop, zeroes: true, structured: false, allocation, out };
    handshake.run().await
}

struct Handshake<'a> {
    stream: &'a mut Stream,
    catalog: &'a Catalog,
    stop: &'a CancellationToken,
    /// Whether 124 zeroes follow the answer to `OPT_EXPORT_NAME`.
    zeroes: bool,
    structured: bool,
    /// The export for which block status was chosen.
    allocation: Option<String>,
    /// Answers that were not sent yet.
    out: Vec<u8>,
}

/// What an option leads to.
enum Next {
    /// Another option.
    Option,
    /// The transmission phase.
    Serve(Arc<Export>),
    /// The end.
    Leave,
}

impl Handshake<'_> {
    async fn run(mut self) -> io::Result<Option<Agreed>> {
        self.greet().await?;
        loop {
            let next = self.option().await?;
            self.send().await?;
            match next {
                Next::Option => {}
                Next::Leave => return Ok(None),
                Next::Serve(export) => {
                    // What was chosen for one export says nothing about another.
                    let status = self.allocation.as_deref() == Some(export.name());
                    return Ok(Some(Agreed { export, structured: self.structured, status }));
                }
            }
        }
    }

    async fn greet(&mut self) -> io::Result<()> {
        self.out.put_u64(wire::NBDMAGIC);
        self.out.put_u64(wire::IHAVEOPT);
        self.out.put_u16((wire::FLAG_FIXED_NEWSTYLE | wire::FLAG_NO_ZEROES) as u16);
        self.send().await?;
        let flags = u32::from_be_bytes(stream::take(&mut self.stream.input).await?);
        if flags & !(wire::FLAG_FIXED_NEWSTYLE | wire::FLAG_NO_ZEROES) != 0 {
            return Err(malformed(format!("flags {flags:#x} are not known")));
        }
        self.zeroes = flags & wire::FLAG_NO_ZEROES == 0;
        Ok(())
    }

    async fn option(&mut self) -> io::Result<Next> {
        let input = &mut self.stream.input;
        let head = stream::take::<{ option::HEADER_BYTES }>(input).await?;
        let head = option::Header::parse(&head)
            .ok_or_else(|| malformed("an option does not begin like one".into()))?;
        let kind = head.kind;
        if head.len > OPTION_BYTES_MAX {
            if kind == wire::OPT_EXPORT_NAME {
                return Err(malformed(format!("a name of {} bytes", head.len)));
            }
            stream::skip(input, head.len).await?;
            self.refuse(kind, wire::REP_ERR_TOO_BIG, "the option is too long");
            return Ok(Next::Option);
        }
        let data = stream::take_payload(input, head.len as usize).await?;
        let ask = option::parse(kind, &data);
        if self.stop.is_cancelled() && kind != wire::OPT_ABORT {
            if kind != wire::OPT_EXPORT_NAME {
                self.refuse(kind, wire::REP_ERR_SHUTDOWN, "the server stops");
            }
            return Ok(Next::Leave);
        }
        match ask {
            Ok(Ask::ExportName(name)) => self.choose_blindly(&name).await.map(Next::Serve),
            Err(fault) if kind == wire::OPT_EXPORT_NAME => Err(malformed(fault.to_string())),
            Ok(ask) => Ok(self.answer(kind, ask).await),
            Err(fault @ Fault::Unsupported(_)) => {
                self.refuse(kind, wire::REP_ERR_UNSUP, &fault.to_string());
                Ok(Next::Option)
            }
            Err(fault @ Fault::Malformed(_)) => {
                self.refuse(kind, wire::REP_ERR_INVALID, &fault.to_string());
                Ok(Next::Option)
            }
        }
    }

    async fn answer(&mut self, kind: u32, ask: Ask) -> Next {
        match ask {
            Ask::Abort => {
                self.put(kind, wire::REP_ACK, b"");
                return Next::Leave;
            }
            Ask::StructuredReply => {
                self.structured = true;
                self.put(kind, wire::REP_ACK, b"");
            }
            Ask::List => self.list(kind).await,
            Ask::Info { name, wants_name, go } => {
                if let Some(export) = self.inform(kind, &name, wants_name).await
                    && go
                {
                    return Next::Serve(export);
                }
            }
            Ask::Contexts { name, allocation, set } => {
                self.contexts(kind, &name, allocation, set).await;
            }
            Ask::StartTls | Ask::ExportName(_) => {
                self.refuse(kind, wire::REP_ERR_UNSUP, "this server does not encrypt");
            }
        }
        Next::Option
    }

    async fn list(&mut self, kind: u32) {
        let mut after = Vec::new();
        loop {
            match self.catalog.names(&after).await {
                Err(cause) => return self.fail(kind, &cause),
                Ok((names, next)) => {
                    for name in names {
                        let mut data = Vec::with_capacity(4 + name.len());
                        data.put_u32(name.len() as u32);
                        data.put_slice(name.as_bytes());
                        self.put(kind, wire::REP_SERVER, &data);
                    }
                    // A client that is gone is noticed with the next option.
                    let _ = self.send().await;
                    let Some(next) = next else { break };
                    after = next;
                }
            }
        }
        self.put(kind, wire::REP_ACK, b"");
    }

    /// Tells about an export, and gives it back if there is one.
    async fn inform(&mut self, kind: u32, name: &str, wants_name: bool) -> Option<Arc<Export>> {
        let export = self.find(kind, name).await?;
        let mut data = Vec::new();
        data.put_u16(wire::INFO_EXPORT);
        data.put_u64(export.size());
        data.put_u16(export.flags(self.structured));
        self.put(kind, wire::REP_INFO, &data);
        data.clear();
        data.put_u16(wire::INFO_BLOCK_SIZE);
        for bytes in [1, BLOCK_BYTES_PREFERRED, PAYLOAD_BYTES_MAX] {
            data.put_u32(bytes);
        }
        self.put(kind, wire::REP_INFO, &data);
        if wants_name {
            data.clear();
            data.put_u16(wire::INFO_NAME);
            data.put_slice(export.name().as_bytes());
            self.put(kind, wire::REP_INFO, &data);
        }
        self.put(kind, wire::REP_ACK, b"");
        Some(export)
    }

    async fn contexts(&mut self, kind: u32, name: &str, allocation: bool, set: bool) {
        if !self.structured {
            let why = "block status needs structured replies";
            return self.refuse(kind, wire::REP_ERR_INVALID, why);
        }
        if set {
            self.allocation = None;
        }
        let Some(export) = self.find(kind, name).await else { return };
        if allocation {
            let mut data = Vec::new();
            data.put_u32(if set { wire::ALLOCATION_ID } else { 0 });
            data.put_slice(wire::ALLOCATION.as_bytes());
            self.put(kind, wire::REP_META_CONTEXT, &data);
        }
        self.put(kind, wire::REP_ACK, b"");
        if set && allocation {
            self.allocation = Some(export.name().to_owned());
        }
    }

    /// The export of this name; if there is none, that is the answer.
    async fn find(&mut self, kind: u32, name: &str) -> Option<Arc<Export>> {
        match self.catalog.find(name).await {
            Ok(Some(export)) => return Some(export),
            Ok(None) => {
                let name = reply::clipped(name);
                let why = format!("there is no export '{name}'");
                self.refuse(kind, wire::REP_ERR_UNKNOWN, &why);
            }
            Err(cause) => self.fail(kind, &cause),
        }
        None
    }

    /// The only answer of its kind that has no head.
    async fn choose_blindly(&mut self, name: &str) -> io::Result<Arc<Export>> {
        let found = self.catalog.find(name).await.map_err(io::Error::other)?;
        let export = found.ok_or_else(|| malformed("there is no export of this name".into()))?;
        self.out.put_u64(export.size());
        self.out.put_u16(export.flags(self.structured));
        if self.zeroes {
            self.out.put_bytes(0, 124);
        }
        Ok(export)
    }

    fn put(&mut self, option: u32, kind: u32, data: &[u8]) {
        reply::put_option(&mut self.out, option, kind, data);
    }

    fn refuse(&mut self, option: u32, kind: u32, why: &str) {
        tracing::debug!(option, "refused: {why}");
        self.put(option, kind, why.as_bytes());
    }

    fn fail(&mut self, option: u32, cause: &foliant::Error) {
        if let Some(left_out) = FAILED.may() {
            tracing::warn!(option, left_out, "failed: {cause}");
        }
        self.put(option, wire::REP_ERR_PLATFORM, reply::clipped(&cause.to_string()).as_bytes());
    }

    async fn send(&mut self) -> io::Result<()> {
        let sent = stream::send(&mut self.stream.output, &self.out).await;
        self.out.clear();
        sent
    }
}

fn malformed(why: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}
