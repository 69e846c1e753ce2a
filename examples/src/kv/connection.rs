//! One client: commands in, replies out, in order.
//!
//! All commands that have arrived are served before anything is sent: writes in a row go to the
//! writer together, reads are answered straight from the cache, and the replies leave in one write.
//! So a pipeline costs two system calls, and its writes one commit.
//!
//! Large values are not gathered: a long argument goes to its object as it comes, a large value is read
//! piece by piece while it is sent, and both wait for what came before.
//!
//! Guarantees: replies in the order of the commands; memory bounded by one command, one pipeline's
//! writes and the gathered replies; a malformed command is answered with an error, then the
//! connection ends. While replies cannot be sent, nothing is read from that client, and no other
//! client notices. A client that says nothing for longer than the user allows is let go. Stops between
//! batches when told to. Called by `server`.

use std::future::pending;
use std::io;
use std::ops::ControlFlow;
use std::ops::RangeInclusive;
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::AsyncReadExt;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::sleep;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::kv::ask::Command;
use crate::kv::ask::Refusal;
use crate::kv::command;
use crate::kv::command::Words;
use crate::kv::error::Error;
use crate::kv::execute::Executor;
use crate::kv::info::count;
use crate::kv::limits::PIECE_BYTES;
use crate::kv::limits::PIPELINE_BYTES_MAX;
use crate::kv::limits::PIPELINE_COMMANDS_MAX;
use crate::kv::limits::REPLY_BYTES_GATHERED;
use crate::kv::limits::SEND_WAIT;
use crate::kv::reply::OK;
use crate::kv::reply::Reply;
use crate::kv::resp;
use crate::kv::resp::Begun;
use crate::kv::resp::Looked;
use crate::kv::resp::Malformed;
use crate::kv::resp::Output;
use crate::kv::resp::Taken;
use crate::kv::session::Session;
use crate::kv::session::Step;
use crate::kv::units::Millis;
use crate::kv::uploads;
use crate::kv::uploads::Broken;
use crate::kv::uploads::Uploaded;
use crate::kv::writes::Writes;
use crate::kv::writes::failure;
use crate::quiet::Quiet;

/// What clients can make it log: a damaged value can be asked for again for ever.
static CUT_OFF: Quiet = Quiet::new(20, Duration::from_secs(10));

/// Room for the next read, least and most. What was read is kept as long as one of its commands is on its way to
/// the disk, so a client of short commands gets short pieces, and one with a deep pipeline what a socket holds.
const READ_BYTES: RangeInclusive<usize> = 1000..=64 << 10;

/// A connected client.
pub struct Connection {
    stream: TcpStream,
    session: Session,
    executor: Executor,
    /// What has arrived and was not parsed yet.
    input: BytesMut,
    /// How much of that is known to be the front of a command.
    looked: Looked,
    /// Bytes of room for the next read.
    room: usize,
    /// Replies that were not sent yet.
    output: Output,
    /// Writes that were parsed and not sent to the writer yet.
    writes: Writes,
    stop: CancellationToken,
}

/// Whether the connection goes on.
type Flow = ControlFlow<()>;

impl Connection {
    /// Serves `stream` until it ends, or until `stop`.
    pub fn new(stream: TcpStream, executor: Executor, stop: CancellationToken) -> Self {
        let (input, output) = (BytesMut::new(), Output::default());
        let id = count(&executor.tally().connections);
        let password = executor.options().password.clone();
        let session = Session::new(id, stream.peer_addr().ok(), executor.now(), password);
        let writes = executor.writes();
        let (looked, room) = (Looked::default(), *READ_BYTES.start());
        Self { stream, session, executor, input, room, looked, output, writes, stop }
    }

    /// Serves the client to its end.
    ///
    /// Errors: those of the socket. Dropping the future closes the connection; writes that were
    /// sent to the writer happen.
    pub async fn run(mut self) -> io::Result<()> {
        loop {
            let idle = self.executor.options().idle;
            self.input.reserve(self.room);
            let read = tokio::select! {
                biased;
                () = self.stop.cancelled() => return Ok(()),
                read = self.stream.read_buf(&mut self.input) => read?,
                () = passed(idle) => return Err(io::ErrorKind::TimedOut.into()),
            };
            if read == 0 {
                return Ok(());
            }
            self.adapt_room(read);
            let flow = self.serve_available().await?;
            self.send().await?;
            if flow.is_break() {
                return self.stream.shutdown().await;
            }
        }
    }

    /// A read that fills its room gets twice as much next time, one that fills a quarter half as much.
    fn adapt_room(&mut self, read: usize) {
        if read >= self.room {
            self.room = (2 * self.room).min(*READ_BYTES.end());
        } else if read < self.room / 4 {
            self.room = (self.room / 2).max(*READ_BYTES.start());
        }
    }

    /// Serves all complete commands of the input.
    async fn serve_available(&mut self) -> io::Result<Flow> {
        loop {
            let known = self.session.is_known();
            let flow = match resp::take_command(&mut self.input, &mut self.looked, known) {
                Ok(Taken::Nothing) => break,
                Ok(Taken::Command(plain)) if plain.is_empty() => continue,
                Ok(Taken::Command(plain)) => {
                    let now = self.executor.now();
                    let words = Words { plain, long: Vec::new() };
                    self.serve(command::parse(words, now), now).await?
                }
                Ok(Taken::Long(begun)) => Box::pin(self.serve_long(begun)).await?,
                Err(malformed) => self.refuse(malformed).await?,
            };
            if flow.is_break() {
                return Ok(flow);
            }
            let full = self.writes.len() >= PIPELINE_COMMANDS_MAX;
            if full || self.writes.bytes() >= PIPELINE_BYTES_MAX {
                self.finish_writes().await?;
            }
            if self.output.bytes.len() >= REPLY_BYTES_GATHERED {
                self.send().await?;
            }
            // Cache hits never wait: without this one deep pipeline would keep its worker.
            tokio::task::consume_budget().await;
        }
        self.finish_writes().await?;
        Ok(Flow::Continue(()))
    }

    /// Takes the rest of a command with a long argument, and serves it.
    async fn serve_long(&mut self, begun: Begun) -> io::Result<Flow> {
        // It takes its time: what came before is answered now.
        self.finish_writes().await?;
        self.send().await?;
        let shelf = self.executor.shelf();
        let uploaded = tokio::select! {
            biased;
            () = self.stop.cancelled() => return Ok(Flow::Break(())),
            uploaded = uploads::take(begun, &mut self.stream, &mut self.input, &shelf) => uploaded,
        };
        let now = self.executor.now();
        match uploaded {
            Ok(Uploaded { words, failure: None }) => {
                self.serve(command::parse(words, now), now).await
            }
            Ok(Uploaded { failure: Some(cause), .. }) => {
                self.serve(Err(refusal(&cause)), now).await
            }
            Err(Broken::Malformed(malformed)) => self.refuse(malformed).await,
            Err(Broken::Lost(cause)) => Err(cause),
        }
    }

    async fn serve(&mut self, command: Result<Command, Refusal>, now: Millis) -> io::Result<Flow> {
        count(&self.executor.tally().commands);
        let command = match self.session.step(command, now) {
            Step::Reply(reply) => {
                self.writes.take_reply(reply);
                return Ok(Flow::Continue(()));
            }
            Step::Write(write) => {
                self.writes.take(write);
                return Ok(Flow::Continue(()));
            }
            Step::Do(command) => command,
        };
        // The client expects to read what it wrote before.
        self.finish_writes().await?;
        let quit = matches!(command, Command::Quit);
        let reply = self.reply(command, now).await;
        self.put(&reply).await?;
        Ok(if quit { Flow::Break(()) } else { Flow::Continue(()) })
    }

    async fn reply(&mut self, command: Command, now: Millis) -> Reply {
        match command {
            Command::Auth(login) => self.session.login(&login),
            Command::Hello(hello) => self.session.hello(hello),
            Command::Client(client) => self.session.client(client, now),
            Command::Watch(keys) => self.executor.watch(&mut self.session.watch, keys).await,
            Command::Reset => self.session.reset(),
            Command::Quit => OK,
            other => self.executor.read(other).await,
        }
    }

    async fn put(&mut self, reply: &Reply) -> io::Result<()> {
        resp::put_reply(&mut self.output, reply, self.session.protocol);
        match self.output.larges.is_empty() {
            true => Ok(()),
            false => Box::pin(self.send_larges()).await,
        }
    }

    async fn refuse(&mut self, malformed: Malformed) -> io::Result<Flow> {
        self.finish_writes().await?;
        self.put(&Reply::err(malformed)).await?;
        Ok(Flow::Break(()))
    }

    async fn finish_writes(&mut self) -> io::Result<()> {
        if self.writes.is_empty() {
            return Ok(());
        }
        let writes = std::mem::replace(&mut self.writes, self.executor.writes());
        for reply in self.executor.write(writes).await {
            self.put(&reply).await?;
        }
        Ok(())
    }

    async fn send(&mut self) -> io::Result<()> {
        if self.output.bytes.is_empty() {
            return Ok(());
        }
        let sent = send(&mut self.stream, &self.output.bytes).await;
        self.output.bytes.clear();
        if self.output.bytes.capacity() > 4 * REPLY_BYTES_GATHERED {
            // One large reply must not cost its size for the rest of the connection.
            self.output.bytes = BytesMut::new();
        }
        sent
    }

    /// Sends everything, large values piece by piece.
    ///
    /// Errors: also those of the store, because a reply that has begun has no other end.
    async fn send_larges(&mut self) -> io::Result<()> {
        let Output { bytes, larges } = std::mem::take(&mut self.output);
        let (mut sent, mut piece) = (0, vec![0; PIECE_BYTES]);
        for (at, large) in larges {
            send(&mut self.stream, &bytes[sent..at]).await?;
            sent = at;
            for from in (0..large.len()).step_by(PIECE_BYTES) {
                // A fast client and a cached value never wait: without this one they would keep the worker.
                tokio::task::consume_budget().await;
                let piece = &mut piece[..PIECE_BYTES.min(large.len() - from)];
                if let Err(cause) = large.read(from, piece).await {
                    if let Some(left_out) = CUT_OFF.may() {
                        tracing::warn!(left_out, "a reply is cut off: {cause}");
                    }
                    return Err(io::Error::other(cause));
                }
                send(&mut self.stream, piece).await?;
            }
        }
        send(&mut self.stream, &bytes[sent..]).await
    }
}

/// Sends all of `bytes`; a client that takes them too slowly is given up.
async fn send(stream: &mut TcpStream, bytes: &[u8]) -> io::Result<()> {
    // Mostly there is room for all of it, and nothing to wait for.
    let sent = match stream.try_write(bytes) {
        Err(cause) if cause.kind() == io::ErrorKind::WouldBlock => 0,
        sent => sent?,
    };
    if sent == bytes.len() {
        return Ok(());
    }
    let sent = timeout(SEND_WAIT, stream.write_all(&bytes[sent..])).await;
    sent.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

fn refusal(cause: &Error) -> Refusal {
    match failure(cause) {
        Reply::Error(text) => text,
        other => format!("ERR {other:?}"),
    }
}

/// Waits as long as a client may say nothing; for ever if that is not limited.
async fn passed(idle: Option<Duration>) {
    match idle {
        Some(idle) => sleep(idle).await,
        None => pending().await,
    }
}
