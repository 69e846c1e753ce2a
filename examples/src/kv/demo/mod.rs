//! `kv demo`: load, read, write durably, get killed, come back, and count.
//!
//! | file | what it is |
//! |---|---|
//! | `record` | keys and self-describing values |
//! | `load` | the parent's work on an open store: load, random gets, scan |
//! | `crash` | a child of the same executable that is killed while it writes |
//! | `report` | the table |
//!
//! Guarantees a non-zero exit if any acknowledged write is missing or any value is torn, and that the
//! store file is removed at the end, whatever the end. Called by the binary.

mod crash;
mod load;
mod record;
mod report;

use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use foliant::Engine;

use crate::kv::demo::crash::Acknowledged;
use crate::kv::demo::report::Report;
use crate::kv::serve;
use crate::kv::serve::OBJECT;
use crate::kv::size;
use crate::kv::store::Store;

/// Shows what the store does, a crash included.
#[derive(Debug, Clone, clap::Args)]
pub struct Arguments {
    /// The file for the store; it must not exist and is removed at the end. Default: target/ of the
    /// current directory, or the directory for temporary files.
    #[arg(long)]
    pub store: Option<PathBuf>,
    /// Size of the store.
    #[arg(long, default_value = "1GiB", value_parser = size::parse)]
    pub size: u64,
    /// Keys to load.
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u64).range(1..))]
    pub keys: u64,
    /// Memory budget of the engine.
    #[arg(long, default_value = "64MiB", value_parser = size::parse)]
    pub memory: u64,
    /// Clients that write durably, each one write at a time.
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub clients: u32,
    /// Seconds until the writing process is killed.
    #[arg(long, default_value_t = 5.0)]
    pub seconds: f64,
}

/// The writing process, started by the demo itself.
#[derive(Debug, Clone, clap::Args)]
pub struct ChildArguments {
    /// The store.
    #[arg(long)]
    pub store: PathBuf,
    /// Keys that were loaded.
    #[arg(long)]
    pub keys: u64,
    /// Memory budget of the engine.
    #[arg(long)]
    pub memory: u64,
    /// Clients.
    #[arg(long)]
    pub clients: u32,
}

/// Removes the store file when the demo ends, also by an error.
struct Cleanup(PathBuf);

impl Drop for Cleanup {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// The whole demo. An error means that the store did not keep its promise, or could not run.
pub async fn run(arguments: Arguments) -> anyhow::Result<()> {
    let path = arguments.store.clone().unwrap_or_else(default_path);
    let mut report = Report::default();
    Engine::format(&path)
        .size_bytes(arguments.size)
        .run()
        .await
        .with_context(|| format!("making {}", path.display()))?;
    let _cleanup = Cleanup(path.clone());
    println!("{}: a store of {}", path.display(), size::show(arguments.size));

    let (engine, store) = open(&path, arguments.memory).await?;
    report.backend(&engine);
    load::load(&store, arguments.keys, &mut report).await?;
    load::gets(&store, arguments.keys, &mut report).await?;
    report.memory(&engine);
    close(engine, store).await?;

    let life = Duration::try_from_secs_f64(arguments.seconds).context("--seconds")?;
    let acknowledged = crash::run_and_kill(&path, &arguments, life, &mut report).await?;
    let (engine, store) = open(&path, arguments.memory).await?;
    report.recovery(&engine);
    let verdict = verify(&store, &acknowledged, arguments.keys, &mut report).await;
    report.memory(&engine);
    close(engine, store).await?;
    println!("{}", report.table());
    verdict
}

/// The writing process: until it is killed.
pub async fn run_child(arguments: ChildArguments) -> anyhow::Result<()> {
    let (_engine, store) = open(&arguments.store, arguments.memory).await?;
    crash::write_until_killed(&store, &arguments).await
}

async fn verify(
    store: &Store,
    acknowledged: &Acknowledged,
    keys: u64,
    report: &mut Report,
) -> anyhow::Result<()> {
    let found = load::scan(store, keys, report).await?;
    let lost = acknowledged.lost_in(&found.versions);
    report.verdict(acknowledged.count(), lost, found.torn, found.missing);
    anyhow::ensure!(lost == 0, "{lost} acknowledged writes are lost");
    anyhow::ensure!(found.torn == 0, "{} values are torn", found.torn);
    anyhow::ensure!(found.missing == 0, "{} loaded keys are missing", found.missing);
    Ok(())
}

async fn open(path: &Path, memory: u64) -> anyhow::Result<(Engine, Store)> {
    let engine = serve::open_store(path, memory).await?;
    let store = Store::open(&engine, OBJECT).await?;
    Ok((engine, store))
}

async fn close(engine: Engine, store: Store) -> anyhow::Result<()> {
    store.close().await;
    drop(store);
    engine.close().await.context("closing the engine")
}

fn default_path() -> PathBuf {
    let target = PathBuf::from("target");
    let directory = if target.is_dir() { target } else { std::env::temp_dir() };
    directory.join(format!("kv-demo-{}.foliant", std::process::id()))
}
