//! Counters, gauges and histograms of the real devices, looked up once per device.
//!
//! Guarantees that counting costs one indirect call and no lookup per request. A recorder that is
//! installed after a device was opened sees nothing of it. Does not measure latencies (`wrap`
//! does). Called by `uring::driver` and `backend::threads`.

use std::fmt;

use metrics::Counter;
use metrics::Gauge;
use metrics::Histogram;

use crate::error::Operation;

/// The instruments of one device.
pub(crate) struct Meters {
    reads: Counter,
    read_bytes: Counter,
    writes: Counter,
    write_bytes: Counter,
    flushes: Counter,
    others: Counter,
    errors: Counter,
    enters: Counter,
    entries_per_enter: Histogram,
    in_flight: Gauge,
    stalls: Counter,
}

impl Meters {
    /// Instruments labelled with the short name of the backend.
    pub(crate) fn new(backend: &'static str) -> Self {
        Self {
            reads: metrics::counter!("device_reads_total", "backend" => backend),
            read_bytes: metrics::counter!("device_read_bytes_total", "backend" => backend),
            writes: metrics::counter!("device_writes_total", "backend" => backend),
            write_bytes: metrics::counter!("device_write_bytes_total", "backend" => backend),
            flushes: metrics::counter!("device_flushes_total", "backend" => backend),
            others: metrics::counter!("device_other_requests_total", "backend" => backend),
            errors: metrics::counter!("device_errors_total", "backend" => backend),
            enters: metrics::counter!("device_enters_total", "backend" => backend),
            entries_per_enter: metrics::histogram!("device_entries_per_enter", "backend" => backend),
            in_flight: metrics::gauge!("device_requests_in_flight", "backend" => backend),
            stalls: metrics::counter!("device_stalled_seconds_total", "backend" => backend),
        }
    }

    /// A request of `bytes` bytes was accepted.
    pub(crate) fn accepted(&self, op: Operation, bytes: u64) {
        match op {
            Operation::Read => {
                self.reads.increment(1);
                self.read_bytes.increment(bytes);
            }
            Operation::Write => {
                self.writes.increment(1);
                self.write_bytes.increment(bytes);
            }
            Operation::Flush => self.flushes.increment(1),
            _ => self.others.increment(1),
        }
    }

    /// A request completed with an error.
    pub(crate) fn failed(&self) {
        self.errors.increment(1);
    }

    /// The kernel was entered once with `entries` new entries.
    pub(crate) fn entered(&self, entries: usize) {
        self.enters.increment(1);
        self.entries_per_enter.record(entries as f64);
    }

    /// This many requests are with the kernel.
    pub(crate) fn in_flight(&self, requests: usize) {
        self.in_flight.set(requests as f64);
    }

    /// Requests are in flight, and none completed for another second.
    pub(crate) fn stalled(&self) {
        self.stalls.increment(1);
    }
}

impl fmt::Debug for Meters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Meters")
    }
}
