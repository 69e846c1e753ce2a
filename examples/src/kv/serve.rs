//! `kv serve`: a store on a file or device, for Redis clients.
//!
//! Guarantees that a store that is missing is made, that one that is there is never formatted, and
//! that SIGINT and SIGTERM end in a closed engine. Called by the binary.

use std::io::Write;
use std::net::SocketAddr;
use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use foliant::Engine;
use foliant::ErrorKind;
use tokio::net::TcpListener;
use tokio::signal::unix::SignalKind;
use tokio::signal::unix::signal;
use tokio::time::Instant;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::kv::server;
use crate::kv::size;
use crate::kv::store::Store;

/// How long to wait for the lock of a process that was killed.
const LOCK_WAIT: Duration = Duration::from_secs(3);
/// How long between two attempts.
const LOCK_PAUSE: Duration = Duration::from_millis(5);

/// The object that holds the tree.
pub const OBJECT: &str = "kv";

/// Serves RESP2 to Redis clients.
#[derive(Debug, Clone, clap::Args)]
pub struct Arguments {
    /// The store: a file, made if it is missing, or a block device that holds a store.
    #[arg(long, default_value = "kv.foliant")]
    pub store: PathBuf,
    /// Memory budget of the engine.
    #[arg(long, default_value = "64MiB", value_parser = size::parse)]
    pub memory: u64,
    /// Size of the store, if it has to be made.
    #[arg(long, default_value = "1GiB", value_parser = size::parse)]
    pub size: u64,
    /// Where to listen; port 0 takes any.
    #[arg(long, default_value = "127.0.0.1:6380")]
    pub listen: SocketAddr,
}

/// Serves until a signal.
pub async fn run(arguments: Arguments) -> anyhow::Result<()> {
    let stop = CancellationToken::new();
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let engine = open(&arguments).await?;
    let store = Store::open(&engine, OBJECT).await?;
    let listener = TcpListener::bind(arguments.listen)
        .await
        .with_context(|| format!("listening on {}", arguments.listen))?;
    announce(&engine, &store, listener.local_addr()?)?;
    let serving = server::run(listener, store.clone(), stop.clone());
    let signalled = async {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        stop.cancel();
    };
    tokio::join!(serving, signalled);
    store.close().await;
    engine.close().await.context("closing the engine")?;
    println!("closed");
    Ok(())
}

async fn open(arguments: &Arguments) -> anyhow::Result<Engine> {
    let path = &arguments.store;
    if !path.try_exists().with_context(|| format!("looking for {}", path.display()))? {
        let format = Engine::format(path).size_bytes(arguments.size);
        format.run().await.with_context(|| format!("making {}", path.display()))?;
    }
    open_store(path, arguments.memory).await
}

/// Opens an engine; waits a little for a lock that a killed process leaves behind.
///
/// The kernel takes a killed process's rings down after the process is gone, and only then the lock
/// on the file goes.
pub async fn open_store(path: &Path, memory: u64) -> anyhow::Result<Engine> {
    let deadline = Instant::now() + LOCK_WAIT;
    loop {
        match Engine::open(path).memory_bytes(memory).run().await {
            Err(cause) if cause.kind() == ErrorKind::Locked && Instant::now() < deadline => {
                sleep(LOCK_PAUSE).await;
            }
            opened => return opened.with_context(|| format!("opening {}", path.display())),
        }
    }
}

fn announce(engine: &Engine, store: &Store, address: SocketAddr) -> std::io::Result<()> {
    let (backend, recovery) = (engine.backend(), engine.recovery());
    let mut out = std::io::stdout().lock();
    writeln!(out, "backend {} ({})", backend.name, backend.reason)?;
    writeln!(
        out,
        "opened in {:.1} ms, {} transactions recovered, {} keys",
        recovery.elapsed_ns as f64 / 1e6,
        recovery.transactions,
        store.len(),
    )?;
    // Whoever started the server waits for this line.
    writeln!(out, "listening on {address}")?;
    out.flush()
}
