//! One client: commands in, replies out, in order.
//!
//! All commands that have arrived are served before anything is sent: writes in a row go to the
//! writer together, reads are answered straight from the cache, and the replies leave in one write.
//! So a pipeline costs two system calls, and its writes one commit.
//!
//! Guarantees: replies in the order of the commands; memory bounded by one command, one pipeline's
//! writes and the gathered replies; a malformed command is answered with an error, then the
//! connection ends. While replies cannot be sent, nothing is read from that client, and no other
//! client notices. Stops between batches when told to. Called by `server`.

use std::io;
use std::ops::ControlFlow;

use bytes::BytesMut;
use tokio::io::AsyncReadExt;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::kv::command;
use crate::kv::command::Command;
use crate::kv::execute::Executor;
use crate::kv::execute::Writes;
use crate::kv::limits::PIPELINE_BYTES_MAX;
use crate::kv::limits::PIPELINE_COMMANDS_MAX;
use crate::kv::limits::REPLY_BYTES_GATHERED;
use crate::kv::limits::SEND_WAIT;
use crate::kv::resp;
use crate::kv::resp::Malformed;

/// Room for the next read: what one socket buffer typically has.
const READ_BYTES: usize = 64 << 10;

/// A connected client.
pub struct Connection {
    stream: TcpStream,
    executor: Executor,
    /// What has arrived and was not parsed yet.
    input: BytesMut,
    /// Replies that were not sent yet.
    output: BytesMut,
    /// Writes that were parsed and not sent to the writer yet.
    writes: Writes,
    stop: CancellationToken,
}

/// Whether the connection goes on.
type Flow = ControlFlow<()>;

impl Connection {
    /// Serves `stream` until it ends, or until `stop`.
    pub fn new(stream: TcpStream, executor: Executor, stop: CancellationToken) -> Self {
        let (input, output) = (BytesMut::new(), BytesMut::new());
        Self { stream, executor, input, output, writes: Writes::default(), stop }
    }

    /// Serves the client to its end.
    ///
    /// Errors: those of the socket. Dropping the future closes the connection; writes that were
    /// sent to the writer happen.
    pub async fn run(mut self) -> io::Result<()> {
        loop {
            self.input.reserve(READ_BYTES);
            let read = tokio::select! {
                biased;
                () = self.stop.cancelled() => return Ok(()),
                read = self.stream.read_buf(&mut self.input) => read?,
            };
            if read == 0 {
                return Ok(());
            }
            let flow = self.serve_available().await?;
            self.send().await?;
            if flow.is_break() {
                return self.stream.shutdown().await;
            }
        }
    }

    /// Serves all complete commands of the input.
    async fn serve_available(&mut self) -> io::Result<Flow> {
        loop {
            let flow = match resp::take_command(&mut self.input) {
                Ok(None) => break,
                Ok(Some(arguments)) if arguments.is_empty() => continue,
                Ok(Some(arguments)) => self.serve(command::parse(arguments)).await,
                Err(malformed) => self.refuse(malformed).await,
            };
            if flow.is_break() {
                return Ok(flow);
            }
            let full = self.writes.len() >= PIPELINE_COMMANDS_MAX;
            if full || self.writes.bytes() >= PIPELINE_BYTES_MAX {
                self.finish_writes().await;
            }
            if self.output.len() >= REPLY_BYTES_GATHERED {
                self.send().await?;
            }
            // Cache hits never wait: without this one deep pipeline would keep its worker.
            tokio::task::consume_budget().await;
        }
        self.finish_writes().await;
        Ok(Flow::Continue(()))
    }

    async fn serve(&mut self, command: Result<Command, command::Refusal>) -> Flow {
        let command = match command {
            Ok(command) => command,
            Err(refusal) => {
                self.writes.take_reply(resp::error(refusal));
                return Flow::Continue(());
            }
        };
        let Some(read) = self.writes.take(command) else { return Flow::Continue(()) };
        // The client expects to read what it wrote before.
        self.finish_writes().await;
        let quit = read == Command::Quit;
        let reply = self.executor.read(read).await;
        resp::put_reply(&mut self.output, &reply);
        if quit { Flow::Break(()) } else { Flow::Continue(()) }
    }

    async fn refuse(&mut self, malformed: Malformed) -> Flow {
        self.finish_writes().await;
        resp::put_reply(&mut self.output, &resp::err(malformed));
        Flow::Break(())
    }

    async fn finish_writes(&mut self) {
        if self.writes.is_empty() {
            return;
        }
        let writes = std::mem::take(&mut self.writes);
        for reply in self.executor.write(writes).await {
            resp::put_reply(&mut self.output, &reply);
        }
    }

    async fn send(&mut self) -> io::Result<()> {
        if self.output.is_empty() {
            return Ok(());
        }
        let sent = timeout(SEND_WAIT, self.stream.write_all(&self.output)).await;
        self.output.clear();
        if self.output.capacity() > 4 * REPLY_BYTES_GATHERED {
            // One large reply must not cost its size for the rest of the connection.
            self.output = BytesMut::new();
        }
        sent.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
    }
}
