//! What a row found: contests, facts, and what could not be measured.
//!
//! Guarantees that a skipped peer is as loud as a measured one, and that wrong data voids the row.
//! Does not measure. Called by the rows.

use comfy_table::Table;
use comfy_table::presets::UTF8_FULL_CONDENSED;
use serde::Serialize;

use anyhow::Result;

use crate::measure::machine;
use crate::report::Verdict;
use crate::rows::contest;
use crate::rows::contest::Contest;
use crate::rows::contest::Levels;
use crate::rows::contest::Side;
use crate::rows::contest::Standing;
use crate::rows::contest::Unit;
use crate::rows::plan::Plan;

/// A whole row.
#[derive(Debug, Serialize)]
pub struct Outcome {
    pub row: String,
    pub about: String,
    pub machine: String,
    /// Tiny sizes: the figures say nothing.
    pub quick: bool,
    pub contests: Vec<Contest>,
    /// Named facts beside the contests.
    pub facts: Vec<(String, String)>,
    /// What was not measured, and why.
    pub skipped: Vec<String>,
    pub verdicts: Vec<Verdict>,
}

impl Outcome {
    pub fn new(row: &str, about: &str, quick: bool) -> Self {
        Self {
            row: row.to_owned(),
            about: about.to_owned(),
            machine: machine(),
            quick,
            contests: Vec::new(),
            facts: Vec::new(),
            skipped: Vec::new(),
            verdicts: Vec::new(),
        }
    }

    /// Runs one contest and keeps it; alone, only the subject runs.
    pub fn contest(
        &mut self,
        plan: &Plan,
        what: &str,
        judge: (Unit, Levels),
        subject: &mut dyn Side,
        peer: &mut dyn Side,
    ) -> Result<()> {
        if plan.alone {
            return self.alone(plan, what, subject);
        }
        self.contests.push(contest::run(what, &plan.rules, judge, subject, peer)?);
        Ok(())
    }

    /// Runs only the subject, for a profiler or because the peer is missing.
    pub fn alone(&mut self, plan: &Plan, what: &str, subject: &mut dyn Side) -> Result<()> {
        let time = plan.rules.time * plan.rules.pairs as u32;
        // For whoever attaches a profiler.
        eprintln!("{what}: process {} measures from now on, {time:?}", std::process::id());
        let reading = subject.block(time, plan.rules.seed << 20)?;
        let rate = reading.ops / reading.seconds.max(1e-9);
        let mebibytes = reading.bytes / reading.seconds.max(1e-9) / f64::from(1 << 20);
        let cpu = reading.cpu_seconds.map_or(f64::NAN, |cpu| cpu * 1e6 / reading.ops.max(1.0));
        let words = format!("{rate:.0} ops/s, {mebibytes:.1} MiB/s, {cpu:.2} us CPU per op");
        self.fact(&format!("{what}: {} alone", subject.name()), words);
        Ok(())
    }

    pub fn fact(&mut self, name: &str, value: impl Into<String>) {
        self.facts.push((name.to_owned(), value.into()));
    }

    /// Says on standard error, in the table and in JSON that something was not measured.
    pub fn skip(&mut self, what: impl Into<String>) {
        let what = what.into();
        eprintln!("SKIPPED: {what}");
        self.skipped.push(what);
    }

    /// Whether all data was right.
    pub fn verified(&self) -> bool {
        self.verdicts.iter().all(|v| v.verified)
    }

    /// The table for people.
    pub fn table(&self) -> Table {
        let mut table = Table::new();
        table.load_style(UTF8_FULL_CONDENSED);
        table.add_row([format!("row {}", self.row), self.about.clone()]);
        table.add_row(["machine".to_owned(), self.machine.clone()]);
        if self.quick {
            table.add_row(["quick", "tiny sizes: the figures say nothing"]);
        }
        for contest in &self.contests {
            table.add_row([contest.what.clone(), contest.sentence()]);
        }
        for (name, value) in &self.facts {
            table.add_row([name, value]);
        }
        for what in &self.skipped {
            table.add_row(["SKIPPED", what]);
        }
        let wrong = self.verdicts.iter().find(|v| !v.verified);
        let compared: u64 = self.verdicts.iter().map(|v| v.blocks_compared).sum();
        let words = match wrong {
            None => format!("yes, {compared} blocks compared"),
            Some(wrong) => format!("NO, THE ROW IS VOID: {wrong:?}"),
        };
        table.add_row(["verified".to_owned(), words]);
        table
    }
}

impl Contest {
    fn sentence(&self) -> String {
        let Self { median, low, high, .. } = self;
        let figure = match self.unit {
            Unit::Ratio => format!("{median:.3}x (95 %: {low:.3} to {high:.3})"),
            Unit::NanosecondsMore => format!("{median:.1} ns more (95 %: {low:.1} to {high:.1})"),
            Unit::Bytes => format!("{median:.1} bytes (95 %: {low:.1} to {high:.1})"),
            Unit::Times => format!("{median:.3} times as dear (95 %: {low:.3} to {high:.3})"),
            Unit::Milliseconds => format!("{median:.1} ms (95 %: {low:.1} to {high:.1})"),
            Unit::Count => format!("{median:.4} (95 %: {low:.4} to {high:.4})"),
        };
        let rate = |side: &str| {
            let blocks = || self.blocks.iter().filter(|b| b.side == side && !b.discarded);
            let mean = |sum: f64| sum / blocks().count().max(1) as f64;
            let ops = mean(blocks().map(|b| b.ops_per_second).sum());
            let bytes = mean(blocks().map(|b| b.bytes_per_second).sum());
            let cpu: Option<f64> = blocks().map(|b| b.cpu_us_per_op).sum();
            let cpu = cpu.map_or(String::new(), |cpu| format!(", CPU {:.2} us", mean(cpu)));
            format!("{:.1} k/s = {:.0} MiB/s{cpu}", ops / 1e3, bytes / f64::from(1 << 20))
        };
        let mut words = figure;
        if !self.blocks.is_empty() {
            let (subject, peer) = (&self.subject, &self.peer);
            words += &format!(
                "; {subject} {}; {peer} {}; {} pairs, {} discarded, {} disturbed",
                rate(subject),
                rate(peer),
                self.values.len(),
                self.discards.len(),
                self.disturbed_pairs
            );
        }
        let standing = match self.standing {
            Standing::Goal => "GOAL REACHED",
            Standing::Ship => "SHIP",
            Standing::Undecided => "UNDECIDED: the interval lies on both sides of the gate",
            Standing::Lost => "LOST",
            Standing::Told => return words,
        };
        let (ship, goal) = (self.levels.ship.unwrap_or(0.0), self.levels.goal.unwrap_or(0.0));
        words + &format!("; {standing} (ship {ship}, goal {goal})")
    }
}
