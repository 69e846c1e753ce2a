//! `kv demo`: load, read, write durably, get killed, come back, and count.
//!
//! | file | what it is |
//! |---|---|
//! | `arguments` | the command line |
//! | `record` | keys and self-describing values |
//! | `load` | the parent's work on an open store: load, random gets, scan |
//! | `crash` | a child of the same executable that is killed while it writes |
//! | `report` | the table |
//!
//! Guarantees a non-zero exit if any acknowledged write is missing or any value is torn, and that the
//! store file is removed at the end, whatever the end. Called by the binary.

mod arguments;
mod crash;
mod load;
mod record;
mod report;

pub use arguments::Arguments;
pub use arguments::ChildArguments;

use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use foliant::Engine;
use tokio::signal::ctrl_c;
use tokio::signal::unix::SignalKind;
use tokio::signal::unix::signal;

use crate::kv::demo::crash::Acknowledged;
use crate::kv::demo::report::Report;
use crate::kv::serve::OBJECT;
use crate::kv::store::Store;
use crate::opening;
use crate::size;

/// Removes the store file when the demo ends, also by an error.
struct Cleanup(PathBuf);

impl Drop for Cleanup {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// The whole demo. An error means that the store did not keep its promise, or could not run, or that
/// a signal ended it.
pub async fn run(arguments: Arguments) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    // Dropping the demo in the middle removes its file and kills its child.
    tokio::select! {
        done = run_to_end(arguments) => done,
        _ = terminate.recv() => anyhow::bail!("terminated"),
        interrupted = ctrl_c() => {
            interrupted?;
            anyhow::bail!("interrupted")
        }
    }
}

async fn run_to_end(arguments: Arguments) -> anyhow::Result<()> {
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
    load::load(&store, arguments.keys, arguments.scattered, &mut report).await?;
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
    let engine = opening::open(path, memory).await?;
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
