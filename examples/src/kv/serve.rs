//! `kv serve`: a store on a file or device, for Redis clients.
//!
//! Guarantees that a store that is missing is made, that one that is there is never formatted, and
//! that SIGINT and SIGTERM end in a closed engine. Called by the binary.

use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::Context;
use foliant::Engine;
use tokio::net::TcpListener;
use tokio::signal::unix::SignalKind;
use tokio::signal::unix::signal;
use tokio_util::sync::CancellationToken;

use crate::kv::server;
use crate::kv::store::Store;
use crate::opening;
use crate::size;

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
    let engine = opening::open_or_make(&arguments.store, arguments.size, arguments.memory).await?;
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
