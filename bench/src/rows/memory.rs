//! Row f: bytes of memory per cached 4 KiB, beyond the data.
//!
//! Each filling of the cache happens in a fresh process, because memory that was once resident does
//! not go away, and only its second half counts, so that what is needed once does not. Three things
//! are added: what the engine takes from its budget beyond the data, what the process grows by
//! outside of the budget's memory (which is one large mapping), and the tables that a larger budget
//! needs, per 4 KiB of budget. XFS and ext4 are published figures, not measured. Called by `rows`.

use std::ops::Range;
use std::path::PathBuf;
use std::process::Command;

use anyhow::Context;
use anyhow::Result;
use anyhow::ensure;
use clap::Args;
use clap::ValueEnum;
use foliant_device::BLOCK_SIZE;
use serde::Deserialize;
use serde::Serialize;

use crate::data::Pattern;
use crate::measure::median;
use crate::place::Lodging;
use crate::rows::contest;
use crate::rows::contest::Levels;
use crate::rows::contest::Unit;
use crate::rows::plan::Plan;
use crate::rows::report::Outcome;
use crate::rows::store::READ;
use crate::rows::store::Store;
use crate::rows::store::runtime;
use crate::target::Place;
use crate::target::Target;
use crate::targets::foliant::Foliant;
use crate::workload::PIECE_MAX;
use crate::workload::Shape;

const REPEATS: usize = 3;

/// How the cache is filled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Filling {
    Nothing,
    RandomRead,
    RandomWrite,
    SequentialRead,
}

/// One filling in a process of its own.
#[derive(Args)]
pub struct Part {
    #[arg(long)]
    file: PathBuf,
    #[arg(long)]
    size: u64,
    #[arg(long)]
    memory: u64,
    #[arg(long)]
    seed: u64,
    #[arg(long, value_enum)]
    filling: Filling,
}

/// What a filling found, in bytes.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Found {
    /// Resident, without the memory of the budget.
    outside_opened: u64,
    outside_half: u64,
    outside_filled: u64,
    /// Taken from the budget.
    used_half: u64,
    used_filled: u64,
    /// Of the second half.
    data: u64,
    reclaimed: u64,
    read_ahead: u64,
}

impl Found {
    /// Bytes beyond the data per cached 4 KiB, tables of the budget not counted.
    fn beyond(&self) -> f64 {
        let blocks = self.data as f64 / BLOCK_SIZE as f64;
        let grown = |from: u64, to: u64| to as f64 - from as f64;
        let outside = grown(self.outside_half, self.outside_filled);
        let charged = grown(self.used_half, self.used_filled) - self.data as f64;
        (outside + charged) / blocks
    }
}

pub fn f(plan: &Plan, outcome: &mut Outcome) -> Result<()> {
    let size = plan.size(128 << 20, 8 << 20);
    ensure!(size.is_power_of_two(), "--size of this row must be a power of two");
    let memory = size * 4;
    // What is written again needs room beside what is stored.
    let shape = Shape { fill_percent: 25, ..READ };
    let store = Store::<Foliant>::start(plan, shape, (size, memory), 1)?;
    let (lodging, ledger) = store.closed()?;
    let fill = |filling, memory| filled(&lodging, plan.rules.seed, filling, memory);
    let tables = tables(&fill, memory)?;
    outcome.fact("tables of the budget, bytes per 4 KiB of it", format!("{tables:.1}"));
    outcome.fact("published", "XFS 73, ext4 177 bytes per cached 4 KiB");
    let repeats = if plan.quick { 1 } else { REPEATS };
    for (what, filling, levels) in [
        ("f single blocks, read", Filling::RandomRead, Levels::new(48.0, 24.0)),
        ("f single blocks, written", Filling::RandomWrite, Levels::NONE),
        ("f large folios, read", Filling::SequentialRead, Levels::new(48.0, 4.0)),
    ] {
        let mut values = Vec::new();
        for _ in 0..repeats {
            let found = fill(filling, memory)?;
            ensure!(found.reclaimed == 0, "the cache did not hold the data: {found:?}");
            let ahead = found.read_ahead;
            ensure!(filling == Filling::SequentialRead || ahead == 0, "it read ahead: {found:?}");
            values.push(found.beyond() + tables);
            outcome.fact(&format!("{what}, readings"), serde_json::to_string(&found)?);
        }
        let judge = (Unit::Bytes, levels);
        outcome.contests.push(contest::judged(what, judge, values, plan.rules.seed));
    }
    let store = Store::<Foliant>::reopened(lodging, ledger, READ, 1)?;
    outcome.verdicts.push(store.finish()?);
    Ok(())
}

/// What a larger budget costs beyond its own size, per 4 KiB of it.
fn tables(fill: &impl Fn(Filling, u64) -> Result<Found>, memory: u64) -> Result<f64> {
    let opened = |memory| -> Result<f64> {
        let mut values = Vec::new();
        for _ in 0..REPEATS {
            let found = fill(Filling::Nothing, memory)?;
            values.push(found.outside_opened as f64);
        }
        Ok(median(&mut values))
    };
    let grown = opened(memory * 2)? - opened(memory)?;
    Ok((grown / (memory as f64 / BLOCK_SIZE as f64)).max(0.0))
}

fn filled(lodging: &Lodging, seed: u64, filling: Filling, memory: u64) -> Result<Found> {
    let place = &lodging.place;
    let name = filling.to_possible_value().context("a filling has a name")?;
    let mut command = Command::new(std::env::current_exe().context("finding this program")?);
    command.arg("row-part").arg("--file").arg(&place.path).args(["--filling", name.get_name()]);
    for (option, value) in [("--size", place.size), ("--memory", memory), ("--seed", seed)] {
        command.arg(option).arg(value.to_string());
    }
    let output = command.output().context("starting this program again")?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "filling the cache failed: {errors}");
    serde_json::from_slice(&output.stdout).context("reading what the filling found")
}

/// The other process: fills the cache once and prints what it found.
pub fn part(part: &Part) -> Result<bool> {
    let place = Place {
        path: part.file.clone(),
        device: false,
        size: part.size,
        store: part.size,
        memory: part.memory,
        write_out: false,
    };
    let runtime = runtime(1)?;
    let found = runtime.block_on(async {
        let target = Foliant::open(&place).await?;
        let outside = || outside(part.memory);
        let outside_opened = outside()?;
        let half = part.size / 2;
        fill_cache(&target, part, 0..half).await?;
        let (outside_half, before) = (outside()?, target.engine().stats());
        fill_cache(&target, part, half..part.size).await?;
        let (outside_filled, after) = (outside()?, target.engine().stats());
        let found = Found {
            outside_opened,
            outside_half,
            outside_filled,
            used_half: before.memory_used_bytes,
            used_filled: after.memory_used_bytes,
            data: half,
            reclaimed: after.reclaimed_bytes,
            read_ahead: after.read_ahead_bytes,
        };
        target.sync().await?;
        target.close().await?;
        anyhow::Ok(found)
    })?;
    println!("{}", serde_json::to_string(&found)?);
    Ok(true)
}

async fn fill_cache(target: &Foliant, part: &Part, range: Range<u64>) -> Result<()> {
    let object = target.object();
    let first = range.start / BLOCK_SIZE as u64;
    let blocks = (range.end - range.start) / BLOCK_SIZE as u64;
    let pattern = Pattern::new(part.seed);
    let mut scratch = vec![0; PIECE_MAX];
    if part.filling == Filling::SequentialRead {
        for at in range.step_by(PIECE_MAX) {
            let read = object.read_at(at, &mut scratch).await?;
            ensure!(read == PIECE_MAX, "short read at {at}");
        }
    }
    let random = [Filling::RandomRead, Filling::RandomWrite].contains(&part.filling);
    for turn in (0..blocks).filter(|_| random) {
        // An odd factor permutes a power of two: every block once, no two neighbours in a row.
        let block = first + (turn.wrapping_mul(0x9e37_79b1) & (blocks - 1));
        let (at, piece) = (block * BLOCK_SIZE as u64, &mut scratch[..BLOCK_SIZE]);
        if part.filling == Filling::RandomRead {
            // A handle of its own for each read: read-ahead belongs to the handle, and it would notice
            // that the distances are equal.
            object.clone().read_at(at, piece).await?;
        } else {
            pattern.fill(block, 1, piece);
            object.write_at(at, piece).await?;
        }
    }
    Ok(())
}

/// Resident memory of this process, without the mapping that holds a budget of `memory` bytes.
fn outside(memory: u64) -> Result<u64> {
    let text = std::fs::read_to_string("/proc/self/smaps").context("reading smaps")?;
    Ok(small_mappings(&text, memory / 4))
}

/// Resident bytes of all mappings that are smaller than `bound`.
fn small_mappings(smaps: &str, bound: u64) -> u64 {
    let kibibytes = |line: &str, name: &str| -> Option<u64> {
        line.strip_prefix(name)?.trim().strip_suffix(" kB")?.parse().ok()
    };
    let (mut size, mut sum) = (0, 0);
    for line in smaps.lines() {
        size = kibibytes(line, "Size:").unwrap_or(size);
        let resident = kibibytes(line, "Rss:").unwrap_or(0);
        sum += if size * 1024 < bound { resident * 1024 } else { 0 };
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lies_outside_and_what_is_charged_add_up() {
        let found = Found {
            outside_opened: 100,
            outside_half: 5000,
            outside_filled: 5000 + 16 * 1000,
            used_half: 4096,
            used_filled: 4096 + 4096 * 1000 + 8 * 1000,
            data: 4096 * 1000,
            reclaimed: 0,
            read_ahead: 0,
        };
        assert_eq!(found.beyond(), 24.0);
    }

    #[test]
    fn the_mapping_of_the_budget_is_left_out() {
        let smaps = "1-2 rw-p x\nSize:  64 kB\nRss:  40 kB\nPss: 9 kB\n\
                     2-3 rw-p\nSize: 2048 kB\nRss: 2048 kB\n3-4 r\nSize: 4 kB\nRss: 4 kB\n";
        assert_eq!(small_mappings(smaps, 1 << 20), 44 << 10);
    }
}
