//! What a run found: a table for people, JSON for programs.
//!
//! Does not measure. A reading that is unknown is absent from the table and `null` in JSON.

use std::path::Path;

use anyhow::Context;
use anyhow::Result;
use comfy_table::Table;
use comfy_table::presets::UTF8_FULL_CONDENSED;
use serde::Serialize;

use crate::data::Ledger;
use crate::measure::Percentiles;
use crate::measure::machine;
use crate::measure::peak_memory_bytes;
use crate::sample::Sample;
use crate::target::Counters;
use crate::target::Place;
use crate::target::Recovery;
use crate::target::Target;
use crate::workload::PIECE_MAX;
use crate::workload::show_bytes;

/// Which run it was.
#[derive(Debug, Clone, Serialize)]
pub struct Title {
    pub workload: String,
    pub target: String,
    pub backend: String,
    /// Processors and kernel.
    pub machine: String,
    pub seed: u64,
    pub size_bytes: u64,
    pub memory_bytes: u64,
    pub clients: usize,
    pub piece_bytes: usize,
}

/// The measured stretch in figures.
#[derive(Debug, Clone, Serialize)]
pub struct Figures {
    pub seconds: f64,
    pub ops: u64,
    pub ops_per_second: f64,
    pub bytes_per_second: f64,
    pub latency: Percentiles,
    pub sync_latency: Percentiles,
    pub cpu_us_per_op: Option<f64>,
    pub device_bytes_written_per_user_byte: Option<f64>,
    pub device_bytes_read_per_user_byte: Option<f64>,
    pub device_bytes_per_write: Option<f64>,
    pub device_flushes: Option<u64>,
    pub device_durable_writes: Option<u64>,
    /// Flushes and durable writes together.
    pub device_barriers_per_op: Option<f64>,
    pub commits_per_group: Option<f64>,
    pub checkpoints: Option<f64>,
    pub cache_hit_share: Option<f64>,
    pub load_average_before: f64,
    pub load_average_after: f64,
    pub steal_seconds: f64,
}

/// What the comparison of every byte gave.
#[derive(Debug, Clone, Serialize)]
pub struct Verdict {
    pub verified: bool,
    pub blocks_compared: u64,
    pub mismatches: u64,
    pub first_mismatch: Option<String>,
}

/// A whole run.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    #[serde(flatten)]
    pub title: Title,
    pub figures: Option<Figures>,
    /// Named durations, in seconds.
    pub phases: Vec<(String, f64)>,
    /// Named facts that only one workload has.
    pub notes: Vec<(String, String)>,
    pub recovery: Option<Recovery>,
    /// The whole process, harness included.
    pub peak_memory_bytes: Option<u64>,
    #[serde(flatten)]
    pub verdict: Verdict,
}

impl Title {
    /// The run of `workload` on `T` by `clients`, in the largest pieces.
    pub fn new<T: Target>(
        workload: &str,
        place: &Place,
        backend: String,
        seed: u64,
        clients: usize,
    ) -> Self {
        Self {
            workload: workload.to_owned(),
            target: T::NAME.to_owned(),
            backend,
            machine: machine(),
            seed,
            size_bytes: place.size,
            memory_bytes: place.memory,
            clients,
            piece_bytes: PIECE_MAX,
        }
    }

    fn rows(&self) -> Vec<(String, String)> {
        let piece = show_bytes(self.piece_bytes as u64);
        let rows = [
            ("workload", self.workload.clone()),
            ("target", self.target.clone()),
            ("backend", self.backend.clone()),
            ("machine", self.machine.clone()),
            ("data", show_bytes(self.size_bytes)),
            ("memory allowed", show_bytes(self.memory_bytes)),
            ("clients", format!("{} of {piece}", self.clients)),
            ("seed", self.seed.to_string()),
        ];
        rows.map(|(name, value)| (name.to_owned(), value)).to_vec()
    }
}

impl Verdict {
    /// What the ledger has gathered.
    pub fn of(ledger: &Ledger) -> Self {
        Self {
            verified: ledger.mismatches() == 0 && ledger.checked() > 0,
            blocks_compared: ledger.checked(),
            mismatches: ledger.mismatches(),
            first_mismatch: ledger.first_mismatch(),
        }
    }
}

impl Figures {
    /// Ratios and rates of one stretch; `writes` says whether its bytes were written.
    pub fn of(sample: &Sample, writes: bool) -> Self {
        let seconds = sample.elapsed.as_secs_f64();
        let ops = sample.ops.max(1) as f64;
        let (before, after) = (&sample.before, &sample.after);
        let grown = |pick: fn(&Counters) -> Option<u64>| {
            let (before, after) = pick(before).zip(pick(after))?;
            Some(after.saturating_sub(before) as f64)
        };
        let written = grown(|c| Some(c.device?.bytes_written));
        let read = grown(|c| Some(c.device?.bytes_read));
        let device_writes = grown(|c| Some(c.device?.writes)).filter(|n| *n > 0.0);
        let flushes = grown(|c| Some(c.device?.flushes));
        let durable = grown(|c| Some(c.device?.durable_writes));
        let hits = grown(|c| c.cache_hits);
        let share = hits.zip(grown(|c| c.cache_misses)).filter(|(h, m)| h + m > 0.0);
        let user_bytes = sample.bytes.max(1) as f64;
        let ratio = |over: Option<(f64, f64)>| over.map(|(a, b)| a / b);
        Self {
            seconds,
            ops: sample.ops,
            ops_per_second: sample.rate(),
            bytes_per_second: sample.bytes as f64 / seconds.max(1e-9),
            latency: sample.latencies.percentiles(),
            sync_latency: sample.sync_latencies.percentiles(),
            cpu_us_per_op: sample.cpu_seconds.map(|cpu| cpu * 1e6 / ops),
            device_bytes_written_per_user_byte: written.filter(|_| writes).map(|b| b / user_bytes),
            device_bytes_read_per_user_byte: read.filter(|_| !writes).map(|b| b / user_bytes),
            device_bytes_per_write: ratio(written.zip(device_writes)),
            device_flushes: flushes.map(|n| n as u64),
            device_durable_writes: durable.map(|n| n as u64),
            device_barriers_per_op: flushes
                .zip(durable)
                .filter(|_| writes)
                .map(|(flushes, durable)| (flushes + durable) / ops),
            commits_per_group: ratio(
                grown(|c| c.commits).zip(grown(|c| c.commit_groups).filter(|n| *n > 0.0)),
            ),
            checkpoints: grown(|c| c.checkpoints).filter(|_| writes),
            cache_hit_share: share.filter(|_| !writes).map(|(h, m)| h / (h + m)),
            load_average_before: sample.load_before.average,
            load_average_after: sample.load_after.average,
            steal_seconds: sample.load_after.steal_seconds - sample.load_before.steal_seconds,
        }
    }

    fn rows(&self, rows: &mut Vec<(String, String)>) {
        let mut row = |name: &str, value: String| rows.push((name.to_owned(), value));
        row("measured", format!("{} ops in {:.2} s", self.ops, self.seconds));
        row("ops per second", format!("{:.0}", self.ops_per_second));
        row("throughput", format!("{}/s", show_bytes(self.bytes_per_second as u64)));
        row("latency", show_latency(&self.latency));
        if self.sync_latency.count > 0 {
            row("sync latency", show_latency(&self.sync_latency));
        }
        if let Some(cpu) = self.cpu_us_per_op {
            row("CPU per op", format!("{cpu:.2} us"));
        }
        if let Some(ratio) = self.device_bytes_written_per_user_byte {
            row("device bytes written per user byte", format!("{ratio:.3}"));
        }
        if let Some(ratio) = self.device_bytes_read_per_user_byte {
            row("device bytes read per user byte", format!("{ratio:.3}"));
        }
        if let Some(bytes) = self.device_bytes_per_write {
            row("mean device write", show_bytes(bytes as u64));
        }
        if let Some(barriers) = self.device_barriers_per_op {
            let flushes = self.device_flushes.unwrap_or(0);
            let durable = self.device_durable_writes.unwrap_or(0);
            let text = format!("{flushes} flushes, {durable} durable writes, {barriers:.4} per op");
            row("device barriers", text);
        }
        if let Some(share) = self.commits_per_group {
            row("transactions per log write", format!("{share:.2}"));
        }
        if let Some(count) = self.checkpoints {
            row("checkpoints", format!("{count:.0}"));
        }
        if let Some(share) = self.cache_hit_share {
            row("cache hits", format!("{:.1} %", share * 100.0));
        }
        let (before, after) = (self.load_average_before, self.load_average_after);
        let steal = self.steal_seconds;
        row("load average", format!("{before:.2} to {after:.2}, {steal:.2} s stolen"));
    }
}

fn show_latency(p: &Percentiles) -> String {
    format!(
        "p50 {:.1}  p99 {:.1}  p99.9 {:.1}  max {:.1} us",
        p.p50_us, p.p99_us, p.p999_us, p.max_us
    )
}

impl Report {
    /// Gathers a report; reads the peak memory at this moment.
    pub fn new(title: Title, figures: Option<Figures>, ledger: &Ledger) -> Self {
        Self {
            title,
            figures,
            phases: Vec::new(),
            notes: Vec::new(),
            recovery: None,
            peak_memory_bytes: peak_memory_bytes(),
            verdict: Verdict::of(ledger),
        }
    }

    /// Adds a named duration.
    pub fn phase(&mut self, name: &str, time: std::time::Duration) {
        self.phases.push((name.to_owned(), time.as_secs_f64()));
    }

    /// Adds a named fact.
    pub fn note(&mut self, name: &str, value: String) {
        self.notes.push((name.to_owned(), value));
    }

    /// The table for people.
    pub fn table(&self) -> Table {
        let mut rows = self.title.rows();
        if let Some(figures) = &self.figures {
            figures.rows(&mut rows);
        }
        for (name, seconds) in &self.phases {
            rows.push((name.clone(), format!("{seconds:.3} s")));
        }
        rows.extend(self.notes.iter().cloned());
        if let Some(r) = &self.recovery {
            let text = format!(
                "{} transactions, {}, {} blocks home, {:.1} ms",
                r.transactions,
                show_bytes(r.bytes_replayed),
                r.blocks_written_home,
                r.elapsed_ms
            );
            rows.push(("recovery".to_owned(), text));
        }
        if let Some(peak) = self.peak_memory_bytes {
            rows.push(("peak memory".to_owned(), show_bytes(peak)));
        }
        rows.push(("verified".to_owned(), self.verdict.sentence()));
        let mut table = Table::new();
        table.load_style(UTF8_FULL_CONDENSED);
        rows.into_iter().for_each(|(name, value)| {
            table.add_row([name, value]);
        });
        table
    }
}

impl Verdict {
    fn sentence(&self) -> String {
        match &self.first_mismatch {
            None if self.verified => format!("yes, {} blocks compared", self.blocks_compared),
            None => "NO: nothing was compared".to_owned(),
            Some(first) => format!("NO: {} mismatches; {first}", self.mismatches),
        }
    }
}

/// Writes anything that serialises to a file, as JSON for programs.
pub fn write_json(path: &Path, value: &impl Serialize) -> Result<()> {
    let text = serde_json::to_string_pretty(value)?;
    let written = std::fs::write(path, text + "\n");
    written.with_context(|| format!("writing {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn title() -> Title {
        Title {
            workload: "w".into(),
            target: "t".into(),
            backend: "b".into(),
            machine: "m".into(),
            seed: 1,
            size_bytes: 4096,
            memory_bytes: 4096,
            clients: 1,
            piece_bytes: 4096,
        }
    }

    #[test]
    fn a_mismatch_is_in_the_table_and_in_json() {
        let ledger = Ledger::written_once(1);
        ledger.check(0, &[0; foliant_device::BLOCK_SIZE]);
        let report = Report::new(title(), None, &ledger);
        assert!(!report.verdict.verified);
        assert!(report.table().to_string().contains("NO: 1 mismatches"));
        let json = serde_json::to_value(&report).unwrap();
        assert_eq!(json["verified"], false);
        assert_eq!(json["workload"], "w");
    }

    #[test]
    fn a_run_that_compared_nothing_is_not_verified() {
        let report = Report::new(title(), None, &Ledger::written_once(1));
        assert!(!report.verdict.verified);
    }
}
