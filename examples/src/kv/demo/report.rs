//! The demo's table.
//!
//! Does not measure. Called by all of `demo`.

use std::time::Duration;

use comfy_table::CellAlignment;
use comfy_table::Table;
use comfy_table::presets::UTF8_FULL_CONDENSED;
use foliant::Engine;
use foliant::Stats;
use hdrhistogram::Histogram;

use crate::size;

/// Figures so far.
#[derive(Debug, Default)]
pub struct Report {
    rates: Vec<[String; 5]>,
    facts: Vec<[String; 2]>,
}

impl Report {
    /// A rate without latencies.
    pub fn rate(&mut self, what: &str, count: u64, elapsed: Duration) {
        let none = || "-".to_owned();
        self.rates.push([what.to_owned(), per_second(count, elapsed), none(), none(), none()]);
    }

    /// A rate with latencies.
    pub fn latencies(&mut self, what: &str, all: &Histogram<u64>, elapsed: Duration) {
        let at = |quantile| micros(all.value_at_quantile(quantile));
        let rate = per_second(all.len(), elapsed);
        self.rates.push([what.to_owned(), rate, at(0.5), at(0.99), at(0.999)]);
    }

    /// The machinery below.
    pub fn backend(&mut self, engine: &Engine) {
        let backend = engine.backend();
        self.fact("backend", format!("{} ({})", backend.name, backend.reason));
    }

    /// How often the gets found their pages.
    pub fn cache(&mut self, before: &Stats, after: &Stats) {
        let hits = after.cache_hits - before.cache_hits;
        let misses = after.cache_misses - before.cache_misses;
        let share = 100.0 * hits as f64 / (hits + misses).max(1) as f64;
        self.fact("pages found in the cache", format!("{share:.2} % of {}", hits + misses));
    }

    /// Memory in use against the budget.
    pub fn memory(&mut self, engine: &Engine) {
        let stats = engine.stats();
        let (used, budget) = (stats.memory_used_bytes, stats.memory_budget_bytes);
        let text = format!("{} of {}", size::show(used), size::show(budget));
        self.fact("memory in use, budget", text);
        let written = size::show(stats.device_bytes_written);
        let text =
            format!("{written}, {} commits in {} writes", stats.commits, stats.commit_groups);
        self.fact("written to the device", text);
    }

    /// What the opening after the crash took.
    pub fn recovery(&mut self, engine: &Engine) {
        let recovery = engine.recovery();
        let text = format!(
            "{:.1} ms for {} transactions, {} of log",
            recovery.elapsed_ns as f64 / 1e6,
            recovery.transactions,
            size::show(recovery.bytes_replayed),
        );
        self.fact("recovery after SIGKILL", text);
    }

    /// Whether the promise was kept.
    pub fn verdict(&mut self, acknowledged: u64, lost: u64, torn: u64, missing: u64) {
        let text = format!("{acknowledged}, of which lost: {lost}");
        self.fact("acknowledged before the kill", text);
        self.fact("values torn, keys missing", format!("{torn}, {missing}"));
    }

    fn fact(&mut self, name: &str, text: String) {
        self.facts.push([name.to_owned(), text]);
    }

    /// All of it.
    pub fn table(&self) -> String {
        let mut rates = Table::new();
        rates.load_style(UTF8_FULL_CONDENSED);
        rates.set_header(["", "per second", "p50 us", "p99 us", "p99.9 us"]);
        rates.add_rows(&self.rates);
        for column in rates.column_iter_mut().skip(1) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        let mut facts = Table::new();
        facts.load_style(UTF8_FULL_CONDENSED);
        facts.add_rows(&self.facts);
        format!("{rates}\n{facts}")
    }
}

fn per_second(count: u64, elapsed: Duration) -> String {
    format!("{:.0}", count as f64 / elapsed.as_secs_f64().max(1e-9))
}

fn micros(ns: u64) -> String {
    format!("{:.1}", ns as f64 / 1e3)
}
