//! The transmission phase of one client: requests in, each on its own, replies as they are ready.
//!
//! A request that the cache can serve is done at once, where it was read; one that has to wait
//! goes to `running`. The protocol gives no order to requests on their way: a client that wants one
//! waits for the first reply.
//!
//! Guarantees: at most `REQUESTS_IN_FLIGHT_MAX` requests and `BYTES_IN_FLIGHT_MAX` bytes of a client
//! at once; a refused write is read to its end, so that the next request is found; what was begun is
//! answered when the client takes its leave or closes its half, and when the server stops. Of a client whose
//! socket fails, what was begun is given up: a write may be done or not, per block. After a stop what
//! still comes hears ESHUTDOWN for `STOP_NOTICE`. Does not send; `outbox` does. Does not drive
//! what waits; `running` does. Called by `server`.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use futures_util::poll;
use tokio::io::AsyncBufReadExt;
use tokio::sync::Semaphore;
use tokio::sync::mpsc::Sender;
use tokio::time::Instant;
use tokio::time::sleep;
use tokio::time::timeout_at;
use tokio_util::sync::CancellationToken;

use crate::nbd::errno::Errno;
use crate::nbd::errno::Refusal;
use crate::nbd::export::Export;
use crate::nbd::limits::BYTES_IN_FLIGHT_MAX;
use crate::nbd::limits::LINES_MAX;
use crate::nbd::limits::LINES_WITHIN;
use crate::nbd::limits::PAYLOAD_BYTES_MAX;
use crate::nbd::limits::REQUESTS_IN_FLIGHT_MAX;
use crate::nbd::limits::STOP_NOTICE;
use crate::nbd::outbox::Reply;
use crate::nbd::outbox::Room;
use crate::nbd::reply::Style;
use crate::nbd::request::Command;
use crate::nbd::request::HEADER_BYTES;
use crate::nbd::request::Header;
use crate::nbd::request::Terms;
use crate::nbd::running::Work;
use crate::nbd::stream;
use crate::nbd::stream::Input;
use crate::nbd::wire;
use crate::quiet::Quiet;

/// What requests can make it log: one that fails (no space, a damaged block) can be sent again for ever.
static FAILED: Quiet = Quiet::new(LINES_MAX, LINES_WITHIN);

/// Far enough to mean never.
const NEVER: Duration = Duration::from_secs(365 * 24 * 3600);

/// What client and server agreed on.
#[derive(Debug)]
pub struct Agreed {
    /// The chosen export.
    pub export: Arc<Export>,
    /// Whether replies come in chunks.
    pub structured: bool,
    /// Whether block status may be asked for.
    pub status: bool,
}

/// A client in its transmission phase.
pub struct Session<'a> {
    input: &'a mut Input,
    export: Arc<Export>,
    terms: Terms,
    replies: Sender<Reply>,
    places: Arc<Semaphore>,
    bytes: Arc<Semaphore>,
    /// Where requests go that wait for the device.
    running: Sender<Work>,
    stop: CancellationToken,
    /// Until when what comes hears that the server stops.
    notice: Option<Instant>,
    idle: Option<Duration>,
}

impl<'a> Session<'a> {
    /// Serves what was `agreed` on; a client that asks for nothing for `idle` is let go.
    pub fn new(
        input: &'a mut Input,
        agreed: Agreed,
        replies: Sender<Reply>,
        running: Sender<Work>,
        stop: CancellationToken,
        idle: Option<Duration>,
    ) -> Self {
        let Agreed { export, structured, status } = agreed;
        let terms =
            Terms { size: export.size(), read_only: export.is_read_only(), structured, status };
        Self {
            input,
            export,
            terms,
            replies,
            places: Arc::new(Semaphore::new(REQUESTS_IN_FLIGHT_MAX)),
            bytes: Arc::new(Semaphore::new(BYTES_IN_FLIGHT_MAX as usize)),
            running,
            stop,
            notice: None,
            idle,
        }
    }

    /// Serves the client until it goes or the server stops; what was begun goes on elsewhere.
    ///
    /// Errors: those of the socket, and a client that is out of step.
    pub async fn run(mut self) -> io::Result<()> {
        while self.is_request_there().await? {
            let header = stream::take::<HEADER_BYTES>(self.input).await?;
            let header = Header::parse(&header)
                .map_err(|bad| io::Error::new(io::ErrorKind::InvalidData, bad))?;
            if !self.serve(header).await? {
                break;
            }
            // Hits never wait: without this one deep queue would keep its worker.
            tokio::task::consume_budget().await;
        }
        Ok(())
    }

    /// Waits for the first byte of a request; not when the client has closed its half, was silent
    /// for too long, or heard long enough that the server stops.
    async fn is_request_there(&mut self) -> io::Result<bool> {
        if !self.input.buffer().is_empty() && !self.stop.is_cancelled() {
            return Ok(true);
        }
        if self.notice.is_none() {
            let silence = sleep(self.idle.unwrap_or(NEVER));
            tokio::select! {
                biased;
                () = self.stop.cancelled() => {}
                there = self.input.fill_buf() => return Ok(!there?.is_empty()),
                () = silence => return Ok(false),
            }
        }
        let notice = *self.notice.get_or_insert_with(|| Instant::now() + STOP_NOTICE);
        match timeout_at(notice, self.input.fill_buf()).await {
            Ok(there) => Ok(!there?.is_empty()),
            Err(_) => Ok(false),
        }
    }

    /// Begins the request; not when it is the last one.
    async fn serve(&mut self, header: Header) -> io::Result<bool> {
        let command = match self.notice {
            Some(_) => Err(Refusal::new(Errno::Shutdown, "the server stops")),
            None => header.check(&self.terms),
        };
        if header.kind == wire::CMD_DISC {
            return Ok(false);
        }
        let counted = match &command {
            Ok(Command::Read(_) | Command::Write(_)) => header.len,
            _ => 0,
        };
        let room = self.room(counted).await?;
        let payload = match &command {
            Ok(Command::Write(_)) => {
                stream::take_payload(self.input, header.payload_bytes() as usize).await?
            }
            _ => {
                stream::skip(self.input, header.payload_bytes()).await?;
                Vec::new()
            }
        };
        let style = self.style(&header);
        match command {
            Ok(command) => self.begin(header, command, payload, style, room).await?,
            Err(refusal) => {
                tracing::debug!(errno = ?refusal.errno, "refused: {refusal}");
                let (head, payload) = style.encode(Err(refusal));
                post(&self.replies, Reply { head, payload, room }).await;
            }
        }
        Ok(true)
    }

    /// Waits until the client's earlier requests leave room for one of `bytes`.
    async fn room(&mut self, bytes: u32) -> io::Result<Room> {
        let closed = |_| io::Error::from(io::ErrorKind::BrokenPipe);
        let bytes = bytes.min(PAYLOAD_BYTES_MAX);
        let _place = self.places.clone().acquire_owned().await.map_err(closed)?;
        let _bytes = self.bytes.clone().acquire_many_owned(bytes).await.map_err(closed)?;
        Ok(Room { _place, _bytes })
    }

    /// Reads and block status, good or bad, come in chunks if anything does.
    fn style(&self, header: &Header) -> Style {
        let carries = matches!(header.kind, wire::CMD_READ | wire::CMD_BLOCK_STATUS);
        Style { cookie: header.cookie, chunks: self.terms.structured && carries }
    }

    async fn begin(
        &mut self,
        header: Header,
        command: Command,
        payload: Vec<u8>,
        style: Style,
        room: Room,
    ) -> io::Result<()> {
        if let Some(answer) = self.export.at_once(&command) {
            let (head, payload) = style.encode(Ok(answer));
            post(&self.replies, Reply { head, payload, room }).await;
            return Ok(());
        }
        let (export, replies) = (self.export.clone(), self.replies.clone());
        let mut work: Work = Box::pin(async move {
            let outcome = export.perform(command, header.is_fua(), &payload).await;
            if let Err(refusal) = &outcome
                && let Some(left_out) = FAILED.may()
            {
                tracing::warn!(export = export.name(), ?header, left_out, "failed: {refusal}");
            }
            let (head, payload) = style.encode(outcome);
            post(&replies, Reply { head, payload, room }).await;
        });
        if poll!(&mut work).is_pending() && self.running.send(work).await.is_err() {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        Ok(())
    }
}

/// If nobody sends any more, the client is gone, and nobody misses the reply.
async fn post(replies: &Sender<Reply>, reply: Reply) {
    let _ = replies.send(reply).await;
}
