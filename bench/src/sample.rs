//! What one measured stretch gave, as plain numbers.
//!
//! Does not measure (`run` does) and does not judge. Read by `report` and `compare`.

use std::time::Duration;

use crate::measure::Latencies;
use crate::measure::Load;
use crate::target::Counters;

/// What one measured stretch gave.
#[derive(Debug)]
pub struct Sample {
    pub ops: u64,
    pub bytes: u64,
    pub elapsed: Duration,
    pub latencies: Latencies,
    pub sync_latencies: Latencies,
    pub cpu_seconds: Option<f64>,
    pub before: Counters,
    pub after: Counters,
    pub load_before: Load,
    pub load_after: Load,
}

impl Sample {
    /// Operations each second.
    pub fn rate(&self) -> f64 {
        self.ops as f64 / self.elapsed.as_secs_f64().max(1e-9)
    }
}
