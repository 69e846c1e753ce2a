//! The command line: verbs, options, and what they mean for a run.
//!
//! Guarantees that an option that makes no sense is refused before anything is touched. Does not
//! run anything. Called by `main.rs`.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use anyhow::Result;
use anyhow::ensure;
use clap::Args;
use clap::Parser;
use clap::Subcommand;
use clap::ValueEnum;

use crate::place::Lodging;
use crate::place::Wish;
use crate::rows::Part;
use crate::rows::PeerLine;
use crate::rows::RowLine;
use crate::workload::Wishes;
use crate::workload::parse_bytes;
use crate::workload::store_bytes;

#[derive(Parser)]
#[command(about = "One workload over interchangeable targets, with every byte verified")]
pub struct Line {
    #[command(subcommand)]
    pub verb: Do,
}

#[derive(Subcommand)]
pub enum Do {
    /// Lists the workloads and targets.
    List,
    /// Runs one workload on one target.
    Run(Run),
    /// Measures foliant against raw, interleaved, with a 95 % interval of the ratio.
    Compare(Compare),
    /// Measures one row of the table of targets, with its peers; `row list` lists them.
    Row(RowLine),
    /// Fills the cache once and tells what that cost; started by `row f`.
    #[command(hide = true)]
    RowPart(Part),
    /// Writes files as it is told on standard input; started by rows.
    #[command(hide = true)]
    RowPeer(PeerLine),
    /// Writes until killed; started by `run kill-reopen`.
    #[command(hide = true)]
    KillChild(Run),
}

/// A target's name.
#[derive(Clone, Copy, ValueEnum)]
pub enum Which {
    Foliant,
    Raw,
    Buffered,
}

#[derive(Args)]
pub struct Run {
    /// Name of a workload; see `list`.
    pub workload: String,
    /// What to measure.
    #[arg(long, value_enum)]
    pub target: Which,
    /// A file to run on, kept afterwards (default: one in the temporary folder, removed).
    #[arg(long)]
    pub file: Option<PathBuf>,
    /// A block device to run on; its content is lost.
    #[arg(long, conflicts_with = "file")]
    pub device: Option<PathBuf>,
    /// Of `kill-reopen`: so many kills, each with its own seed, after a random life of half of
    /// `--seconds` to all of it.
    #[arg(long, default_value_t = 1)]
    pub rounds: u64,
    #[command(flatten)]
    pub options: Options,
}

#[derive(Args)]
pub struct Compare {
    /// Name of a workload; see `list`.
    pub workload: String,
    /// The peer of foliant.
    #[arg(long, value_enum, default_value = "raw")]
    pub peer: Which,
    /// Rounds of foliant, peer, peer, foliant: two pairs each.
    #[arg(long, default_value_t = 4)]
    pub rounds: u64,
    #[command(flatten)]
    pub options: Options,
}

#[derive(Args)]
pub struct Options {
    /// Seconds of measurement; in `compare`, of one block.
    #[arg(long, default_value_t = 5.0)]
    pub seconds: f64,
    /// Bytes of user data, such as 8GiB.
    #[arg(long, value_parser = parse_bytes)]
    pub size: Option<u64>,
    /// Memory budget, such as 128MiB.
    #[arg(long, value_parser = parse_bytes)]
    pub memory: Option<u64>,
    /// Writes the result as JSON.
    #[arg(long)]
    pub json: Option<PathBuf>,
    /// Decides content and choices.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Operations in flight.
    #[arg(long)]
    clients: Option<usize>,
    /// Bytes of one operation.
    #[arg(long, value_parser = parse_bytes)]
    piece: Option<u64>,
    /// Writes between two syncs, for workloads that write.
    #[arg(long)]
    sync_every: Option<u64>,
    /// Data as a share of the store, in percent.
    #[arg(long)]
    pub fill: Option<u64>,
    /// Threads of the runtime; 1 is a current-thread runtime.
    #[arg(long, default_value_t = 2)]
    pub workers: usize,
    /// Folder for files of the run's own (default: the temporary folder).
    #[arg(long)]
    folder: Option<PathBuf>,
    /// Keep the files of the run's own.
    #[arg(long)]
    keep: bool,
    /// Allow content to be lost that is in the named file or device.
    #[arg(long)]
    pub overwrite: bool,
    /// Do not write the file out before the run; writes into fresh space cost the kernel more.
    #[arg(long)]
    no_write_out: bool,
}

impl Options {
    /// What the line changes about a workload.
    pub fn wishes(&self) -> Wishes {
        Wishes {
            size: self.size,
            memory: self.memory,
            clients: self.clients,
            piece: self.piece,
            sync_every: self.sync_every,
            fill_percent: self.fill,
        }
    }

    /// Where a run of `target` lives: on the named file or device, else in a file of its own.
    pub fn lodging(
        &self,
        named: (Option<PathBuf>, Option<PathBuf>),
        target: &str,
        size: u64,
        fill_percent: u64,
        memory: u64,
    ) -> Result<Lodging> {
        ensure!((1..=100).contains(&fill_percent), "--fill must be 1 to 100 percent");
        let (file, device) = named;
        let (folder, keep) = (self.folder.clone(), self.keep);
        let wish = Wish { file, device, folder, keep, overwrite: self.overwrite };
        let store = store_bytes(size, fill_percent);
        let mut lodging = Lodging::find(&wish, target, size, store, memory)?;
        lodging.place.write_out = !self.no_write_out && !lodging.place.device;
        Ok(lodging)
    }

    /// The runtime that was asked for.
    pub fn runtime(&self) -> Result<tokio::runtime::Runtime> {
        ensure!((1..=64).contains(&self.workers), "--workers must be 1 to 64");
        let mut builder = match self.workers {
            1 => tokio::runtime::Builder::new_current_thread(),
            _ => tokio::runtime::Builder::new_multi_thread(),
        };
        let runtime = builder.worker_threads(self.workers).enable_all().build();
        runtime.context("starting the runtime")
    }

    /// How long to measure.
    pub fn time(&self) -> Result<Duration> {
        let sound = self.seconds.is_finite() && (0.01..=86_400.0).contains(&self.seconds);
        ensure!(sound, "--seconds must be 0.01 to 86400");
        Ok(Duration::from_secs_f64(self.seconds))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_of_the_readme_is_understood() {
        let line = "bench run fill-verify --target foliant --size 8GiB --memory 128MiB --file /x";
        let line = Line::try_parse_from(line.split(' ')).unwrap();
        let Do::Run(run) = line.verb else { panic!("another verb") };
        assert_eq!(run.options.size, Some(8 << 30));
        assert_eq!(run.options.wishes().memory, Some(128 << 20));
        let both = "bench run x --target raw --file /x --device /y";
        assert!(Line::try_parse_from(both.split(' ')).is_err());
        let absurd = "bench run x --target raw --seconds NaN";
        let Do::Run(run) = Line::try_parse_from(absurd.split(' ')).unwrap().verb else {
            panic!("another verb")
        };
        assert!(run.options.time().is_err());
    }
}
