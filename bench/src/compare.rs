//! Foliant against raw, interleaved: A B B A, the median of pair ratios, a bootstrap interval.
//!
//! Interleaving cancels slow drift of the machine; pairs that lie side by side share its mood.
//! Load and stolen time are noted for each block, so that a reader can see a disturbed one. Called
//! by `main.rs`.

use std::time::Duration;

use anyhow::Result;
use comfy_table::Table;
use comfy_table::presets::UTF8_FULL_CONDENSED;
use serde::Serialize;

use crate::data::Random;
use crate::measure::median;
use crate::report::Verdict;
use crate::run::Session;
use crate::sample::Sample;
use crate::target::Target;

/// How often the pairs are drawn again for the interval.
const RESAMPLES: usize = 10_000;

/// One measured block.
#[derive(Debug, Clone, Serialize)]
pub struct Block {
    pub round: u64,
    pub target: &'static str,
    pub ops_per_second: f64,
    pub bytes_per_second: f64,
    pub p50_us: f64,
    pub p99_us: f64,
    pub cpu_us_per_op: Option<f64>,
    pub load_average: f64,
    pub steal_seconds: f64,
}

/// The whole comparison.
#[derive(Debug, Clone, Serialize)]
pub struct Comparison {
    pub workload: String,
    pub peer: &'static str,
    pub subject: &'static str,
    pub blocks: Vec<Block>,
    /// Bytes each second, subject over peer, one per pair.
    pub ratios: Vec<f64>,
    pub median_ratio: f64,
    pub ratio_low: f64,
    pub ratio_high: f64,
    pub verified: bool,
    pub verdicts: Vec<Verdict>,
}

/// Runs `rounds` times A B B A, which gives two pairs each; then reopens and verifies both.
pub async fn compare<A: Target, B: Target>(
    workload: &str,
    subject: Session<A>,
    peer: Session<B>,
    rounds: u64,
    time: Duration,
    seed: u64,
) -> Result<Comparison> {
    let mut blocks = Vec::new();
    let mut ratios = Vec::new();
    for round in 0..rounds {
        let stretch = (seed << 16).wrapping_add(round * 4);
        let a1 = note::<A>(&mut blocks, round, subject.measure(time, stretch).await?);
        let b1 = note::<B>(&mut blocks, round, peer.measure(time, stretch).await?);
        let b2 = note::<B>(&mut blocks, round, peer.measure(time, stretch + 1).await?);
        let a2 = note::<A>(&mut blocks, round, subject.measure(time, stretch + 1).await?);
        ratios.extend([a1 / b1, a2 / b2]);
    }
    let ledgers = [subject.ledger.clone(), peer.ledger.clone()];
    subject.finish().await?;
    peer.finish().await?;
    let verdicts: Vec<Verdict> = ledgers.iter().map(|ledger| Verdict::of(ledger)).collect();
    let (ratio_low, ratio_high) = interval(&ratios, seed);
    Ok(Comparison {
        workload: workload.to_owned(),
        peer: B::NAME,
        subject: A::NAME,
        blocks,
        median_ratio: median(&mut ratios.clone()),
        ratios,
        ratio_low,
        ratio_high,
        verified: verdicts.iter().all(|v| v.verified),
        verdicts,
    })
}

/// Keeps a block and gives its bytes each second: pieces may differ between targets.
fn note<T: Target>(blocks: &mut Vec<Block>, round: u64, sample: Sample) -> f64 {
    let latency = sample.latencies.percentiles();
    let ops = sample.ops.max(1) as f64;
    let bytes_per_second = sample.bytes as f64 / sample.elapsed.as_secs_f64().max(1e-9);
    let block = Block {
        round,
        target: T::NAME,
        ops_per_second: sample.rate(),
        bytes_per_second,
        p50_us: latency.p50_us,
        p99_us: latency.p99_us,
        cpu_us_per_op: sample.cpu_seconds.map(|cpu| cpu * 1e6 / ops),
        load_average: sample.load_after.average,
        steal_seconds: sample.load_after.steal_seconds - sample.load_before.steal_seconds,
    };
    eprintln!(
        "round {round} {:8} {:10.0} ops/s  load {:.2}",
        block.target, block.ops_per_second, block.load_average
    );
    blocks.push(block);
    bytes_per_second
}

/// The middle 95 % of medians of pairs drawn with replacement.
///
/// # Panics
/// If there is no ratio.
pub fn interval(ratios: &[f64], seed: u64) -> (f64, f64) {
    let mut random = Random::new(seed);
    let mut medians: Vec<f64> = (0..RESAMPLES)
        .map(|_| {
            let draw = |_| ratios[random.below(ratios.len() as u64) as usize];
            median(&mut (0..ratios.len()).map(draw).collect::<Vec<f64>>())
        })
        .collect();
    medians.sort_by(f64::total_cmp);
    (medians[RESAMPLES / 40], medians[RESAMPLES - 1 - RESAMPLES / 40])
}

impl Comparison {
    /// The table for people: every block, then the verdict.
    pub fn table(&self) -> Table {
        let mut table = Table::new();
        table.load_style(UTF8_FULL_CONDENSED);
        table.set_header([
            "round",
            "target",
            "ops/s",
            "MiB/s",
            "p50 us",
            "p99 us",
            "CPU us/op",
            "load",
            "stolen s",
        ]);
        for b in &self.blocks {
            table.add_row([
                b.round.to_string(),
                b.target.to_owned(),
                format!("{:.0}", b.ops_per_second),
                format!("{:.1}", b.bytes_per_second / f64::from(1 << 20)),
                format!("{:.1}", b.p50_us),
                format!("{:.1}", b.p99_us),
                b.cpu_us_per_op.map_or("-".to_owned(), |cpu| format!("{cpu:.2}")),
                format!("{:.2}", b.load_average),
                format!("{:.2}", b.steal_seconds),
            ]);
        }
        table
    }

    /// The outcome in one line.
    pub fn sentence(&self) -> String {
        let outcome = format!(
            "{}: {} over {}: {:.3} (95 % interval {:.3} to {:.3}, {} pairs)",
            self.workload,
            self.subject,
            self.peer,
            self.median_ratio,
            self.ratio_low,
            self.ratio_high,
            self.ratios.len()
        );
        match self.verified {
            true => format!("{outcome}, every byte verified"),
            false => format!("{outcome}: VOID, the data is wrong: {:?}", self.verdicts),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_interval_holds_the_median_and_widens_with_noise() {
        let calm = [1.0, 1.01, 0.99, 1.0, 1.02, 0.98, 1.0, 1.0];
        let wild = [0.5, 2.0, 0.7, 1.0, 1.5, 0.6, 1.2, 0.9];
        let (low, high) = interval(&calm, 1);
        assert!(low <= 1.0 && 1.0 <= high && high - low < 0.05, "{low} {high}");
        let (wild_low, wild_high) = interval(&wild, 1);
        assert!(wild_high - wild_low > 5.0 * (high - low));
        assert_eq!(interval(&[2.0], 1), (2.0, 2.0));
    }
}
