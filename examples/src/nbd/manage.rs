//! `nbd create`, `list`, `remove` and `resize`: the exports of a store that nobody serves.
//!
//! A store has one opener at a time, so these commands wait for no server: they are refused while
//! one runs. Guarantees that a new export appears with its size or not at all, and that bytes are
//! cut off only with an explicit word. Called by the binary.

use std::path::PathBuf;

use anyhow::Context;
use anyhow::bail;
use comfy_table::CellAlignment;
use comfy_table::Table;
use comfy_table::presets::UTF8_FULL_CONDENSED;
use foliant::Durability;
use foliant::Engine;

use crate::nbd::catalog::speakable;
use crate::nbd::limits::NAME_BYTES_MAX;
use crate::nbd::limits::NAMES_PER_PAGE;
use crate::nbd::status;
use crate::opening;
use crate::size;

/// Which store, and how much memory for it.
#[derive(Debug, Clone, clap::Args)]
pub struct StoreArguments {
    /// The store: a file, made if it is missing, or a block device that holds a store.
    #[arg(long = "store", value_name = "PATH", default_value = "disks.foliant")]
    pub path: PathBuf,
    /// Memory budget of the engine.
    #[arg(long, default_value = "64MiB", value_parser = size::parse)]
    pub memory: u64,
    /// Size of the store, if it has to be made.
    #[arg(long, default_value = "4GiB", value_parser = size::parse)]
    pub store_size: u64,
}

impl StoreArguments {
    /// Opens the store, or makes it.
    pub async fn open_or_make(&self) -> anyhow::Result<Engine> {
        opening::open_or_make(&self.path, self.store_size, self.memory).await
    }

    async fn open(&self) -> anyhow::Result<Engine> {
        opening::open(&self.path, self.memory).await
    }
}

/// Makes an export; it takes no room until it is written.
#[derive(Debug, Clone, clap::Args)]
pub struct Create {
    /// The store.
    #[command(flatten)]
    pub store: StoreArguments,
    /// Its name: 1 to 255 bytes of text.
    pub name: String,
    /// Its size: 10GiB, 512MiB, ...
    #[arg(value_parser = size::parse)]
    pub size: u64,
}

/// Lists the exports.
#[derive(Debug, Clone, clap::Args)]
pub struct List {
    /// The store.
    #[command(flatten)]
    pub store: StoreArguments,
}

/// Removes an export with all that it holds.
#[derive(Debug, Clone, clap::Args)]
pub struct Remove {
    /// The store.
    #[command(flatten)]
    pub store: StoreArguments,
    /// Its name.
    pub name: String,
}

/// Gives an export another size.
#[derive(Debug, Clone, clap::Args)]
pub struct Resize {
    /// The store.
    #[command(flatten)]
    pub store: StoreArguments,
    /// Its name.
    pub name: String,
    /// The new size.
    #[arg(value_parser = size::parse)]
    pub size: u64,
    /// Cuts off what lies behind the new size.
    #[arg(long)]
    pub shrink: bool,
}

/// Makes an export.
pub async fn create(arguments: Create) -> anyhow::Result<()> {
    let Create { store, name, size } = arguments;
    if name.is_empty() || name.len() > NAME_BYTES_MAX {
        bail!("a name has 1 to {NAME_BYTES_MAX} bytes, this one {}", name.len());
    }
    let engine = store.open_or_make().await?;
    let made = make(&engine, &name, size).await;
    finish(engine, made.with_context(|| format!("making '{name}'"))).await
}

/// Name and size in one transaction: an export of the wrong size must not be found after a crash.
async fn make(engine: &Engine, name: &str, size: u64) -> foliant::Result<()> {
    let mut transaction = engine.transaction();
    let object = transaction.create(name)?;
    transaction.truncate(&object, size)?;
    transaction.commit_with(Durability::Durable).await.map(drop)
}

/// Lists the exports with their sizes and what is stored of them.
pub async fn list(arguments: List) -> anyhow::Result<()> {
    let engine = arguments.store.open().await?;
    let table = table(&engine).await;
    if let Ok(table) = &table {
        println!("{table}");
    }
    finish(engine, table.map(drop)).await
}

async fn table(engine: &Engine) -> anyhow::Result<Table> {
    let mut table = Table::new();
    table.load_style(UTF8_FULL_CONDENSED);
    table.set_header(["export", "size", "stored"]);
    let mut after = Vec::new();
    loop {
        let page = engine.list(&after, NAMES_PER_PAGE).await?;
        let full = page.len() == NAMES_PER_PAGE;
        if let Some(last) = page.last() {
            last.clone_into(&mut after);
        }
        // The protocol cannot say the other names.
        for name in page.into_iter().filter_map(speakable) {
            let object = engine.object(&name).await?;
            let stored = status::stored(&object, 0..object.size()).await?;
            table.add_row([name, size::show(object.size()), size::show(stored)]);
        }
        if !full {
            break;
        }
    }
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    Ok(table)
}

/// Removes an export.
pub async fn remove(arguments: Remove) -> anyhow::Result<()> {
    let engine = arguments.store.open().await?;
    let removed = engine.remove(&arguments.name).await;
    finish(engine, removed.with_context(|| format!("removing '{}'", arguments.name))).await
}

/// Gives an export another size.
pub async fn resize(arguments: Resize) -> anyhow::Result<()> {
    let engine = arguments.store.open().await?;
    let resized = set_size(&engine, &arguments).await;
    finish(engine, resized.with_context(|| format!("resizing '{}'", arguments.name))).await
}

async fn set_size(engine: &Engine, arguments: &Resize) -> anyhow::Result<()> {
    let object = engine.object(&arguments.name).await?;
    if arguments.size < object.size() && !arguments.shrink {
        let (from, to) = (size::show(object.size()), size::show(arguments.size));
        bail!("{from} to {to} cuts bytes off: say --shrink");
    }
    object.truncate(arguments.size).await?;
    Ok(object.sync().await?)
}

/// Closes the engine, whatever came before.
async fn finish(engine: Engine, outcome: anyhow::Result<()>) -> anyhow::Result<()> {
    let closed = engine.close().await.context("closing the engine");
    outcome.and(closed)
}
