//! Readings: latency histograms, and what `/proc` says about this process and the machine.
//!
//! Does not interpret. A reading that the kernel does not offer is `None`. Called by `run.rs`,
//! `fill.rs` and `compare.rs`.

use std::time::Duration;

use anyhow::Result;
use hdrhistogram::Histogram;
use serde::Serialize;

/// The kernel reports process times in this unit on every Linux platform.
const TICKS_PER_SECOND: f64 = 100.0;

/// Latencies of one kind of operation, to three digits.
#[derive(Debug, Clone)]
pub struct Latencies {
    nanoseconds: Histogram<u64>,
}

/// The percentiles that are reported, in microseconds.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct Percentiles {
    pub count: u64,
    pub p50_us: f64,
    pub p99_us: f64,
    pub p999_us: f64,
    pub max_us: f64,
}

impl Latencies {
    pub fn new() -> Result<Self> {
        // It grows with the largest value seen, so many clients cost little memory.
        let nanoseconds = Histogram::new(3)?;
        Ok(Self { nanoseconds })
    }

    pub fn record(&mut self, latency: Duration) {
        // This grows the histogram; only a latency of centuries does not fit.
        let nanoseconds = latency.as_nanos() as u64;
        if self.nanoseconds.record(nanoseconds).is_err() {
            self.nanoseconds.saturating_record(nanoseconds);
        }
    }

    pub fn merge(&mut self, other: &Self) -> Result<()> {
        Ok(self.nanoseconds.add(&other.nanoseconds)?)
    }

    pub fn percentiles(&self) -> Percentiles {
        let at = |quantile| self.nanoseconds.value_at_quantile(quantile) as f64 / 1e3;
        Percentiles {
            count: self.nanoseconds.len(),
            p50_us: at(0.5),
            p99_us: at(0.99),
            p999_us: at(0.999),
            max_us: self.nanoseconds.max() as f64 / 1e3,
        }
    }
}

/// CPU time of this process and its kernel workers so far, in seconds; 10 ms steps.
pub fn cpu_seconds() -> Option<f64> {
    parse_cpu(&std::fs::read_to_string("/proc/self/stat").ok()?)
}

/// The same with the programs that this one started and that have ended.
pub fn cpu_seconds_with_children() -> Option<f64> {
    parse_cpu_fields(&std::fs::read_to_string("/proc/self/stat").ok()?, 4)
}

fn parse_cpu(stat: &str) -> Option<f64> {
    parse_cpu_fields(stat, 2)
}

/// Fields 14 on behind the name, which may itself hold spaces and brackets: user and system time,
/// then those of children.
fn parse_cpu_fields(stat: &str, count: usize) -> Option<f64> {
    let (_, fields) = stat.rsplit_once(')')?;
    let fields = fields.split_whitespace().skip(11).take(count);
    let ticks: Vec<f64> = fields.map_while(|f| f.parse().ok()).collect();
    (ticks.len() == count).then(|| ticks.iter().sum::<f64>() / TICKS_PER_SECOND)
}

/// The most memory this process ever had resident, in bytes.
pub fn peak_memory_bytes() -> Option<u64> {
    parse_peak(&std::fs::read_to_string("/proc/self/status").ok()?)
}

fn parse_peak(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"))?;
    let kibibytes: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kibibytes * 1024)
}

/// How busy the machine is, for judging whether a figure was disturbed.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct Load {
    /// Load average over one minute.
    pub average: f64,
    /// Seconds that the hypervisor took away, all processors together, since boot.
    pub steal_seconds: f64,
    /// Seconds that all processes and the kernel worked, all processors together, since boot.
    pub busy_seconds: f64,
}

/// The machine's load at this moment.
pub fn load() -> Load {
    let average = std::fs::read_to_string("/proc/loadavg").ok();
    let average = average.and_then(|text| text.split(' ').next()?.parse().ok());
    let stat = std::fs::read_to_string("/proc/stat").ok();
    Load {
        average: average.unwrap_or(0.0),
        steal_seconds: stat.as_deref().and_then(parse_steal).unwrap_or(0.0),
        busy_seconds: stat.as_deref().and_then(parse_busy).unwrap_or(0.0),
    }
}

/// Processors and kernel, in words.
pub fn machine() -> String {
    let processors = std::thread::available_parallelism().map_or(0, |n| n.get());
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info.lines().find_map(|l| l.strip_prefix("model name")?.split(": ").nth(1));
    let model = model.unwrap_or("unknown model");
    format!("{processors} processors ({model}), Linux {}", kernel.trim())
}

/// The eighth number of the line of all processors.
fn parse_steal(stat: &str) -> Option<f64> {
    let line = stat.lines().find_map(|l| l.strip_prefix("cpu "))?;
    let ticks: f64 = line.split_whitespace().nth(7)?.parse().ok()?;
    Some(ticks / TICKS_PER_SECOND)
}

/// All numbers of that line up to the seventh, but idle and waiting for a device.
fn parse_busy(stat: &str) -> Option<f64> {
    let line = stat.lines().find_map(|l| l.strip_prefix("cpu "))?;
    let ticks: Vec<f64> = line.split_whitespace().take(7).map_while(|f| f.parse().ok()).collect();
    let [user, nice, system, _, _, irq, softirq] = ticks[..] else {
        return None;
    };
    Some((user + nice + system + irq + softirq) / TICKS_PER_SECOND)
}

/// The median; sorts in place.
///
/// # Panics
/// If there is no value.
pub fn median(values: &mut [f64]) -> f64 {
    assert!(!values.is_empty(), "the median of nothing");
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() % 2 {
        1 => values[middle],
        _ => (values[middle - 1] + values[middle]) / 2.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proc_files_are_read_in_the_right_columns() {
        let stat = "7 (a) b (c)) S 1 2 3 4 5 6 7 8 9 10 250 50 0 0 20 0 1 0";
        assert_eq!(parse_cpu(stat), Some(3.0));
        assert_eq!(parse_cpu_fields(&stat.replace("50 0 0", "50 100 200"), 4), Some(6.0));
        assert_eq!(parse_busy("cpu  100 2 3 400 500 6 89 800 9\n"), Some(2.0));
        assert_eq!(parse_peak("VmPeak: 9 kB\nVmHWM:\t     128 kB\n"), Some(128 * 1024));
        assert_eq!(parse_steal("cpu  1 2 3 4 5 6 7 800 9\ncpu0 1\n"), Some(8.0));
        assert_eq!(parse_peak("nothing"), None);
    }

    #[test]
    fn this_process_has_used_memory_and_time() {
        assert!(peak_memory_bytes().unwrap() > 100_000);
        assert!(cpu_seconds().unwrap() >= 0.0);
        assert!(machine().contains("Linux"));
    }

    #[test]
    fn percentiles_are_ordered_and_merged() {
        let mut one = Latencies::new().unwrap();
        let mut two = Latencies::new().unwrap();
        (1..=500).for_each(|us| one.record(Duration::from_micros(us)));
        (501..=1000).for_each(|us| two.record(Duration::from_micros(us)));
        one.merge(&two).unwrap();
        let found = one.percentiles();
        assert_eq!(found.count, 1000);
        assert!((found.p50_us - 500.0).abs() < 2.0, "{found:?}");
        assert!((found.p99_us - 990.0).abs() < 2.0, "{found:?}");
        assert!(found.p99_us <= found.p999_us && found.p999_us <= found.max_us);
    }

    #[test]
    fn the_median_of_even_and_odd_counts() {
        assert_eq!(median(&mut [3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&mut [4.0, 1.0, 2.0, 3.0]), 2.5);
    }
}
