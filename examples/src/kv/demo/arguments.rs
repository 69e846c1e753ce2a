//! The demo's command line, and that of the process which it kills.
//!
//! Guarantees that values are within bounds. Called by the binary, `demo` and `crash`.

use std::path::PathBuf;

use crate::size;

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
    /// Loads in scattered order, which writes every page many times.
    #[arg(long)]
    pub scattered: bool,
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
