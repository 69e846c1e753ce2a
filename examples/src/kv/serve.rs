//! `kv serve`: a store on a file or device, for Redis clients.
//!
//! Guarantees that a store that is missing is made, that one that is there is never formatted, that
//! nobody but this machine is served without a password, and that SIGINT and SIGTERM end in answered
//! clients and a closed engine. Called by the binary.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use metrics_exporter_prometheus::ExporterFuture;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::kv::exposition;
use crate::kv::limits::CONNECTIONS_MAX;
use crate::kv::op::Promise;
use crate::kv::options::Options;
use crate::kv::options::Password;
use crate::kv::server;
use crate::kv::store::Store;
use crate::opening;
use crate::service::Signals;
use crate::service::announce;
use crate::service::say;
use crate::size;

/// The object that holds the tree.
pub const OBJECT: &str = "kv";

/// Serves RESP2 and RESP3 to Redis clients.
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
    /// What clients have to say first (AUTH). Needed to listen on other than a loopback address. Who
    /// lists the processes of this machine sees it: `--password-file` is better.
    #[arg(long, conflicts_with = "password_file")]
    pub password: Option<String>,
    /// A file whose first line is the password.
    #[arg(long)]
    pub password_file: Option<PathBuf>,
    /// When a write is answered.
    #[arg(long, value_enum, default_value = "always")]
    pub durability: Durability,
    /// Clients at once; a further one hears an error.
    #[arg(long, default_value_t = CONNECTIONS_MAX)]
    pub max_clients: usize,
    /// Seconds after which a client that says nothing is let go; 0 is never.
    #[arg(long, default_value_t = 0)]
    pub idle_timeout: u64,
    /// Threads that serve; without it as many as there are processors.
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub threads: Option<u16>,
    /// Where Prometheus finds figures, over HTTP and without a password.
    #[arg(long)]
    pub metrics_listen: Option<SocketAddr>,
    /// Lets that be another than a loopback address.
    #[arg(long, requires = "metrics_listen")]
    pub metrics_allow_remote: bool,
}

/// When a write is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Durability {
    /// When it is durable.
    Always,
    /// When it is visible; it is durable about a second later.
    Everysec,
}

impl Arguments {
    fn promise(&self) -> Promise {
        match self.durability {
            Durability::Always => Promise::Durable,
            Durability::Everysec => Promise::EverySecond,
        }
    }

    /// Errors: a password that cannot be read or is empty, and an address that needs one.
    fn options(&self) -> anyhow::Result<Options> {
        let password = match (&self.password, &self.password_file) {
            (Some(password), _) => Some(password.clone()),
            (None, Some(path)) => {
                let text = std::fs::read_to_string(path);
                let text = text.with_context(|| format!("reading {}", path.display()))?;
                Some(text.lines().next().unwrap_or_default().to_owned())
            }
            (None, None) => None,
        };
        anyhow::ensure!(password.as_deref() != Some(""), "the password is empty");
        let (listen, is_here) = (self.listen, self.listen.ip().is_loopback());
        anyhow::ensure!(
            is_here || password.is_some(),
            "{listen} can be reached from other machines: give --password-file, or listen on 127.0.0.1"
        );
        if let Some(metrics) = self.metrics_listen {
            anyhow::ensure!(
                metrics.ip().is_loopback() || self.metrics_allow_remote,
                "{metrics} can be reached from other machines, and figures have no password: give \
                 --metrics-allow-remote, or listen on 127.0.0.1"
            );
        }
        Ok(Options {
            password: password.map(Password::new),
            clients_max: self.max_clients,
            idle: (self.idle_timeout > 0).then(|| Duration::from_secs(self.idle_timeout)),
            promise: self.promise(),
            ..Options::default()
        })
    }
}

/// Serves until a signal.
pub async fn run(arguments: Arguments) -> anyhow::Result<()> {
    let options = arguments.options()?;
    let stop = CancellationToken::new();
    let mut signals = Signals::new()?;
    let exposition = arguments.metrics_listen.map(exposition::listen).transpose()?;
    let engine = opening::open_or_make(&arguments.store, arguments.size, arguments.memory).await?;
    let store = Store::open_with(&engine, OBJECT, options.promise).await?;
    let listener = TcpListener::bind(arguments.listen)
        .await
        .with_context(|| format!("listening on {}", arguments.listen))?;
    let ready = format!("listening on {}", listener.local_addr()?);
    announce(&engine, false, &format!(", {} keys", store.len()), &ready)?;
    let exposing = expose(exposition, stop.clone());
    let serving = server::run(listener, store.clone(), options, stop.clone());
    let signalled = async {
        signals.any().await;
        stop.cancel();
    };
    tokio::join!(serving, signalled, exposing);
    store.close().await;
    engine.close().await.context("closing the engine")?;
    say(false, "closed");
    Ok(())
}

/// Serves figures, if that is wanted. The server goes on without them.
async fn expose(exposition: Option<ExporterFuture>, stop: CancellationToken) {
    if let Some(exposition) = exposition
        && let Some(Err(cause)) = stop.run_until_cancelled(exposition).await
    {
        tracing::warn!("figures are not served any more: {cause:?}");
    }
}
