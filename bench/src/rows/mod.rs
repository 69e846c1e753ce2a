//! The rows of the table of targets: one command measures one row, with its peers.
//!
//! Guarantees per row: blocks are interleaved A B B A, disturbed pairs are repeated and logged, the
//! data is verified, and a peer that cannot run is named instead of left out. Does not judge by
//! anything but the row's own levels. Called by `main.rs`.

mod bare;
mod cached;
mod cage;
mod commits;
mod contest;
mod dirty;
mod disk;
mod extents;
mod fio;
mod line;
mod memory;
mod objects;
mod opening;
mod overwrite;
mod peer;
mod plan;
mod pread;
mod report;
mod sparse;
mod store;
mod stream;
mod uncached;
mod watch;
mod writers;
mod xfs;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use anyhow::bail;
use anyhow::ensure;
use clap::Args;

use crate::report::write_json;
use crate::rows::contest::Rules;
use crate::rows::plan::Plan;
use crate::rows::report::Outcome;
use crate::workload::parse_bytes;

pub use crate::rows::memory::Part;
pub use crate::rows::memory::part;
pub use crate::rows::peer::PeerLine;
pub use crate::rows::peer::peer;

/// A row's name, what it is, and what measures it.
struct Row {
    name: &'static str,
    about: &'static str,
    run: fn(&Plan, &mut Outcome) -> Result<()>,
}

const ROWS: &[Row] = &[
    Row {
        name: "a1",
        about: "cached 4 KiB read, copied, random over 1 GiB; peer pread from the page cache",
        run: cached::a1,
    },
    Row {
        name: "a2",
        about: "cached read without a copy, 64 bytes touched; peers pread of 64 bytes, plain memory",
        run: cached::a2,
    },
    Row {
        name: "a3",
        about: "a ready hit through the async API over the direct call, in nanoseconds",
        run: cached::a3,
    },
    Row {
        name: "b1",
        about: "uncached 4 KiB random read at depth 1; peer fio io_uring O_DIRECT",
        run: uncached::b1,
    },
    Row { name: "b2", about: "the same at depth 32", run: uncached::b2 },
    Row {
        name: "b3",
        about: "the same at depth 128; peers fio default and the best of a sweep of batches",
        run: uncached::b3,
    },
    Row {
        name: "c1",
        about: "sequential read, 4 KiB calls; peer fio 1 MiB depth 16",
        run: stream::c1,
    },
    Row {
        name: "c2",
        about: "sequential overwrite, 1 MiB calls, one final sync; peer fio 1 MiB depth 16, end_fsync",
        run: stream::c2,
    },
    Row {
        name: "d1",
        about: "random 4 KiB overwrite, a sync every 16,384, half full; peers XFS, the bare device",
        run: overwrite::d1,
    },
    Row { name: "d2", about: "the same with a sync every 1,024", run: overwrite::d2 },
    Row { name: "d3", about: "d1 at 80 % full", run: overwrite::d3 },
    Row {
        name: "d4",
        about: "device bytes per user byte of d1, journal included",
        run: overwrite::d4,
    },
    Row {
        name: "e1",
        about: "durable commits of 4 KiB, 1 client; peers XFS overwrite and append, the bare device",
        run: commits::e1,
    },
    Row { name: "e2", about: "the same with 16 clients", run: commits::e2 },
    Row { name: "e3", about: "the same with 64 clients; flushes per commit", run: commits::e3 },
    Row {
        name: "f",
        about: "bytes of memory per cached 4 KiB beyond the data, in single blocks and large folios",
        run: memory::f,
    },
    Row {
        name: "g1",
        about: "bytes of log replayed per second of opening; peer fio, sequential read",
        run: opening::g1,
    },
    Row {
        name: "g2",
        about: "milliseconds of opening: after a clean close, after a kill with a 128 MiB journal",
        run: opening::g2,
    },
    Row {
        name: "h1",
        about: "extent look-up with 10^7 extents in one object over 10^3 (--count)",
        run: extents::h1,
    },
    Row {
        name: "h2",
        about: "create, open, commit with 10^7 objects over one (--count)",
        run: objects::h2,
    },
    Row {
        name: "h3",
        about: "open, allocate, sync in a sparse store of 64 TiB over 64 GiB",
        run: sparse::h3,
    },
    Row {
        name: "h4",
        about: "a durable commit beside 200,000 dirty blocks over none (--count)",
        run: dirty::h4,
    },
    Row {
        name: "writers",
        about: "two writers on one object over one writer; peer pwrite on one file on XFS",
        run: writers::writers,
    },
];

/// The command line of a row.
#[derive(Args)]
pub struct RowLine {
    /// A row's name, or `list`.
    name: String,
    /// Pairs of blocks that count; two pairs are one A B B A.
    #[arg(long, default_value_t = 7)]
    pairs: usize,
    /// Seconds of one block.
    #[arg(long, default_value_t = 3.0)]
    seconds: f64,
    /// Bytes of user data instead of the row's own.
    #[arg(long, value_parser = parse_bytes)]
    size: Option<u64>,
    /// How many extents, objects or dirty blocks, of rows h1, h2 and h4.
    #[arg(long)]
    count: Option<u64>,
    /// Folder for the files of the row (default: the temporary folder).
    #[arg(long)]
    folder: Option<PathBuf>,
    /// Writes the outcome as JSON.
    #[arg(long)]
    json: Option<PathBuf>,
    /// Decides content and choices.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Do not repeat disturbed pairs; they are marked all the same.
    #[arg(long)]
    no_repeat: bool,
    /// Tiny sizes, to see that the row works. The figures say nothing.
    #[arg(long)]
    quick: bool,
    /// Only Foliant's side, for as long as all pairs take: for a profiler.
    #[arg(long)]
    alone: bool,
}

/// Measures a row, or lists them; `false` means that data was wrong.
pub fn run(line: &RowLine) -> Result<bool> {
    if line.name == "list" {
        ROWS.iter().for_each(|row| println!("  {:8} {}", row.name, row.about));
        return Ok(true);
    }
    let Some(row) = ROWS.iter().find(|row| row.name == line.name) else {
        let known: Vec<&str> = ROWS.iter().map(|row| row.name).collect();
        bail!("no row {:?}; there are {}", line.name, known.join(", "));
    };
    let plan = line.plan()?;
    let mut outcome = Outcome::new(row.name, row.about, plan.quick);
    (row.run)(&plan, &mut outcome)?;
    println!("{}", outcome.table());
    if let Some(path) = &line.json {
        write_json(path, &outcome)?;
    }
    Ok(outcome.verified())
}

impl RowLine {
    fn plan(&self) -> Result<Plan> {
        ensure!((1..=1000).contains(&self.pairs), "--pairs must be 1 to 1000");
        let sound = self.seconds.is_finite() && (0.01..=3600.0).contains(&self.seconds);
        ensure!(sound, "--seconds must be 0.01 to 3600");
        let smallest = 8 << 20;
        let whole = self.size.is_none_or(|s| s >= smallest && s.is_multiple_of(smallest));
        ensure!(whole, "--size must be a multiple of 8MiB");
        ensure!(
            self.count.is_none_or(|n| (2..=100_000_000).contains(&n)),
            "--count must be 2 to 10^8"
        );
        let (pairs, seconds) = match self.quick {
            true => (self.pairs.min(2), self.seconds.min(0.1)),
            false => (self.pairs, self.seconds),
        };
        let rules = Rules {
            pairs,
            time: Duration::from_secs_f64(seconds),
            seed: self.seed,
            // Processor times have steps of 10 ms, too coarse for a quick block.
            repeat: !self.no_repeat && !self.quick,
        };
        Ok(Plan {
            rules,
            size: self.size,
            count: self.count,
            folder: self.folder.clone(),
            quick: self.quick,
            alone: self.alone,
        })
    }
}
