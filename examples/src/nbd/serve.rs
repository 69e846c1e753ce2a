//! `nbd serve`: the objects of a store as disks.
//!
//! Guarantees that a store that is missing is made, that nobody else's host is let in without an
//! explicit word, and that SIGINT and SIGTERM end in a closed engine: clients are told, what they had
//! begun is answered, everything is synced. Called by the binary.

use std::time::Duration;

use anyhow::Context;
use anyhow::bail;
use tokio_util::sync::CancellationToken;

use crate::nbd::catalog::Catalog;
use crate::nbd::limits::CONNECTIONS_DEFAULT;
use crate::nbd::limits::HANDSHAKE_WAIT;
use crate::nbd::listen::Address;
use crate::nbd::manage::StoreArguments;
use crate::nbd::server;
use crate::service::Signals;
use crate::service::announce;
use crate::service::say;

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
    /// Worker threads. Default: half of the processors, at least one. A connection is served by one thread at
    /// a time.
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub threads: Option<u16>,
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
    let mut signals = Signals::new()?;
    let engine = arguments.store.open_or_make().await?;
    let listening = format!("listening on {}", arguments.listen);
    let listener = arguments.listen.bind().await.context(listening)?;
    let ready = format!("listening on {}", listener.address()?);
    announce(&engine, arguments.quiet, "", &ready)?;
    let terms = server::Terms {
        connections: arguments.connections,
        idle: arguments.idle_timeout.map(|seconds| Duration::from_secs(seconds.into())),
        handshake: HANDSHAKE_WAIT,
    };
    let catalog = Catalog::new(engine.clone(), arguments.read_only);
    let serving = server::run(listener, catalog, terms, stop.clone());
    let signalled = async {
        signals.any().await;
        say(arguments.quiet, "stopping");
        stop.cancel();
    };
    tokio::join!(serving, signalled);
    engine.close().await.context("closing the engine")?;
    say(arguments.quiet, "closed");
    Ok(())
}
