//! `nbd serve`: the objects of a store as disks.
//!
//! Guarantees that a store that is missing is made, that nobody else's host is let in without an
//! explicit word, and that SIGINT and SIGTERM end in a closed engine: clients are told, what they had
//! begun is answered, everything is synced. Called by the binary.

use std::io::Write;
use std::time::Duration;

use anyhow::Context;
use anyhow::bail;
use foliant::Engine;
use tokio::signal::unix::SignalKind;
use tokio::signal::unix::signal;
use tokio_util::sync::CancellationToken;

use crate::nbd::catalog::Catalog;
use crate::nbd::limits::CONNECTIONS_DEFAULT;
use crate::nbd::limits::HANDSHAKE_WAIT;
use crate::nbd::listen::Address;
use crate::nbd::manage::StoreArguments;
use crate::nbd::server;

/// Serves the objects of a store as network block devices.
#[derive(Debug, Clone, clap::Args)]
pub struct Arguments {
    /// The store.
    #[command(flatten)]
    pub store: StoreArguments,
    /// Where to listen: unix:PATH, or an address of this host; port 0 takes any.
    #[arg(long, default_value = "127.0.0.1:10809")]
    pub listen: Address,
    /// Listens where other hosts can reach it. NBD has no authentication: whoever reaches it owns
    /// the disks.
    #[arg(long)]
    pub allow_remote: bool,
    /// Refuses every change.
    #[arg(long)]
    pub read_only: bool,
    /// Clients at once.
    #[arg(long, default_value_t = CONNECTIONS_DEFAULT, value_parser = connections)]
    pub connections: usize,
    /// Seconds after which a client that asks for nothing is let go. Default: never, because a
    /// mounted disk may be silent for days.
    #[arg(long)]
    pub idle_timeout: Option<u32>,
    /// Says where it listens, what fails, and nothing else.
    #[arg(long)]
    pub quiet: bool,
}

fn connections(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(number @ 1..=65_536) => Ok(number),
        _ => Err(format!("'{text}' is not a number from 1 to 65536")),
    }
}

/// Serves until a signal.
pub async fn run(arguments: Arguments) -> anyhow::Result<()> {
    if arguments.listen.is_remote() && !arguments.allow_remote {
        bail!(
            "other hosts can reach {}, and NBD has no authentication: say --allow-remote",
            arguments.listen
        );
    }
    let stop = CancellationToken::new();
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let engine = arguments.store.open_or_make().await?;
    let listening = format!("listening on {}", arguments.listen);
    let listener = arguments.listen.bind().await.context(listening)?;
    announce(&engine, &listener.address()?, arguments.quiet)?;
    let terms = server::Terms {
        connections: arguments.connections,
        idle: arguments.idle_timeout.map(|seconds| Duration::from_secs(seconds.into())),
        handshake: HANDSHAKE_WAIT,
    };
    let catalog = Catalog::new(engine.clone(), arguments.read_only);
    let serving = server::run(listener, catalog, terms, stop.clone());
    let signalled = async {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        say(arguments.quiet, "stopping");
        stop.cancel();
    };
    tokio::join!(serving, signalled);
    engine.close().await.context("closing the engine")?;
    say(arguments.quiet, "closed");
    Ok(())
}

fn say(quiet: bool, what: &str) {
    if !quiet {
        // Nobody may be listening any more, and the store is closed all the same.
        let _ = writeln!(std::io::stdout(), "{what}");
    }
}

fn announce(engine: &Engine, address: &Address, quiet: bool) -> std::io::Result<()> {
    let (backend, recovery) = (engine.backend(), engine.recovery());
    let mut out = std::io::stdout().lock();
    if !quiet {
        writeln!(out, "backend {} ({})", backend.name, backend.reason)?;
        writeln!(
            out,
            "opened in {:.1} ms, {} transactions recovered",
            recovery.elapsed_ns as f64 / 1e6,
            recovery.transactions,
        )?;
    }
    // Whoever started the server waits for this line.
    writeln!(out, "listening on {address}")?;
    out.flush()
}
