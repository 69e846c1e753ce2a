//! What kind of disk is simulated.
//!
//! Plain values with defaults that fit most tests. Read by `platter` and `device`; set by tests.

/// What kind of disk is simulated.
#[derive(Debug, Clone)]
pub struct SimOptions {
    /// Decides every delay, order and loss.
    pub seed: u64,
    /// A request takes 0 to this many milliseconds. Timers count in milliseconds, so that finer
    /// delays would all be the same.
    pub latency_ms_max: u64,
    /// Writes that are not durable may be lost until a flush.
    pub volatile_cache: bool,
    /// The geometry says that discard does something (it does in any case).
    pub discard: bool,
    /// The geometry says that zeroing is cheap.
    pub write_zeroes: bool,
    /// Flushes are acknowledged and do nothing: a test that passes with this tests nothing.
    pub flush_lies: bool,
    /// The disk keeps what a cut could have left, see [`super::SimDisk::last_cut`].
    pub keeps_cuts: bool,
    /// How many requests [`super::SimDisk::trace`] remembers.
    pub trace_records_max: usize,
}

impl Default for SimOptions {
    fn default() -> Self {
        Self {
            seed: 0,
            latency_ms_max: 4,
            volatile_cache: true,
            discard: true,
            write_zeroes: true,
            flush_lies: false,
            keeps_cuts: false,
            trace_records_max: 4096,
        }
    }
}
