//! What the servers of this crate have in common: the threads they run on, the signals that end them, and what they
//! say on their way.
//!
//! Guarantees that a signal that comes while the store is being opened is not lost, and that nobody has to listen to
//! what is said, except to the line that says that the server is ready. Called by the commands that serve.

use std::io;
use std::io::Write;
use std::thread::available_parallelism;

use foliant::Engine;
use tokio::runtime::Builder;
use tokio::runtime::Runtime;
use tokio::signal::unix::Signal;
use tokio::signal::unix::SignalKind;
use tokio::signal::unix::signal;

/// A runtime with as many worker threads as were asked for, otherwise half of the processors, and at least one.
///
/// Half, because the kernel's part of the work (the network, the device) and the clients run beside them: a request
/// that goes on where it began costs less than one that wakes another processor for its next step. Errors: the
/// system gives no threads.
pub fn runtime(threads: Option<u16>) -> io::Result<Runtime> {
    let half = || available_parallelism().map_or(1, |all| all.get() / 2);
    let threads = threads.map_or_else(half, usize::from);
    Builder::new_multi_thread().worker_threads(threads.max(1)).enable_all().build()
}

/// SIGINT and SIGTERM, from when it was made.
#[derive(Debug)]
pub struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    /// Takes both over. Errors: the system does not give them.
    pub fn new() -> io::Result<Self> {
        let interrupt = signal(SignalKind::interrupt())?;
        Ok(Self { interrupt, terminate: signal(SignalKind::terminate())? })
    }

    /// Waits for one of them. Dropping the future loses none.
    pub async fn any(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

/// Says something on the way.
pub fn say(quiet: bool, what: &str) {
    if !quiet {
        // Nobody may be listening any more, and the store is closed all the same.
        let _ = writeln!(io::stdout(), "{what}");
    }
}

/// Says how the store was opened, with `more` about what is in it, and that the server is `ready`. Whoever started
/// it waits for that line.
pub fn announce(engine: &Engine, quiet: bool, more: &str, ready: &str) -> io::Result<()> {
    let (backend, recovery) = (engine.backend(), engine.recovery());
    let mut out = io::stdout().lock();
    if !quiet {
        let (ms, transactions) = (recovery.elapsed_ns as f64 / 1e6, recovery.transactions);
        writeln!(out, "backend {} ({})", backend.name, backend.reason)?;
        writeln!(out, "opened in {ms:.1} ms, {transactions} transactions recovered{more}")?;
    }
    writeln!(out, "{ready}")?;
    out.flush()
}
