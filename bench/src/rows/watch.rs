//! What else the machine did while a block ran.
//!
//! Guarantees that time of this process and of the programs it started is not counted as a
//! disturbance. Kernel threads are counted: those that work for a block (a loop device, writeback)
//! look like strangers, hence the wide bound. Does not decide what to do. Called by `contest.rs`.

use std::time::Instant;

use serde::Serialize;

use crate::measure::cpu_seconds_with_children;
use crate::measure::load;

/// More of the machine than this for others: disturbed.
const OTHERS_SHARE_MAX: f64 = 0.25;
/// More of the machine than this taken by the hypervisor: disturbed.
const STEAL_SHARE_MAX: f64 = 0.02;

/// Readings from before a block.
pub struct Watch {
    start: Instant,
    busy: f64,
    steal: f64,
    own: f64,
}

/// What a block had to bear.
#[derive(Debug, Clone, Serialize)]
pub struct Disturbance {
    pub load_average: f64,
    /// Share of all processors' time that others used.
    pub others_share: f64,
    /// Share that the hypervisor took.
    pub steal_share: f64,
    /// Share of the last ten seconds in which some task waited for a processor, in percent.
    pub pressure_percent: Option<f64>,
}

impl Watch {
    pub fn start() -> Self {
        let load = load();
        let own = cpu_seconds_with_children().unwrap_or(0.0);
        Self { start: Instant::now(), busy: load.busy_seconds, steal: load.steal_seconds, own }
    }

    /// `apart`: seconds of processor time of a program that this one started and that has not ended.
    pub fn stop(self, apart: f64) -> Disturbance {
        let load = load();
        let processors = std::thread::available_parallelism().map_or(1, |n| n.get());
        let whole = (self.start.elapsed().as_secs_f64() * processors as f64).max(1e-3);
        let own = cpu_seconds_with_children().unwrap_or(0.0) - self.own + apart;
        Disturbance {
            load_average: load.average,
            others_share: ((load.busy_seconds - self.busy - own) / whole).clamp(0.0, 1.0),
            steal_share: ((load.steal_seconds - self.steal) / whole).clamp(0.0, 1.0),
            pressure_percent: pressure(),
        }
    }
}

impl Disturbance {
    /// Why the block should be repeated, if it should.
    pub fn reason(&self) -> Option<String> {
        let percent = |share: f64| share * 100.0;
        if self.others_share > OTHERS_SHARE_MAX {
            return Some(format!("others used {:.0} % of the machine", percent(self.others_share)));
        }
        (self.steal_share > STEAL_SHARE_MAX)
            .then(|| format!("{:.1} % of the machine was stolen", percent(self.steal_share)))
    }
}

fn pressure() -> Option<f64> {
    let text = std::fs::read_to_string("/proc/pressure/cpu").ok()?;
    let line = text.lines().find_map(|l| l.strip_prefix("some avg10="))?;
    line.split(' ').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_work_is_no_disturbance_and_others_work_is() {
        let calm = Disturbance {
            load_average: 9.0,
            others_share: 0.2,
            steal_share: 0.0,
            pressure_percent: None,
        };
        assert_eq!(calm.reason(), None);
        let busy = Disturbance { others_share: 0.3, ..calm.clone() };
        assert!(busy.reason().unwrap().contains("30 %"));
        let robbed = Disturbance { steal_share: 0.03, ..calm };
        assert!(robbed.reason().unwrap().contains("stolen"));
    }
}
