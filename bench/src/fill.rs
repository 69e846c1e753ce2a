//! `fill-verify`: fill a target with unique blocks, reopen it, read back, compare every byte.
//!
//! The harness holds a few MiB of memory of its own, so that the process's peak is the target's. Does not
//! sync before the end. Called by `main.rs`.

use std::time::Duration;
use std::time::Instant;

use anyhow::Result;

use crate::data::Ledger;
use crate::progress::Progress;
use crate::report::Report;
use crate::report::Title;
use crate::run::fill;
use crate::run::verify;
use crate::target::Place;
use crate::target::Target;
use crate::targets::write_out;
use crate::workload::show_bytes;

/// The name on the command line.
pub const FILL_VERIFY: &str = "fill-verify";
pub const ABOUT: &str = "fill with unique blocks, reopen, compare every byte";
pub const SIZE_DEFAULT: u64 = 1 << 30;
pub const MEMORY_DEFAULT: u64 = 128 << 20;
/// Data as a share of the store.
pub const FILL_PERCENT: u64 = 90;

/// Fills, closes, reopens, compares.
pub async fn whole<T: Target>(place: &Place, seed: u64) -> Result<Report> {
    let ledger = Ledger::written_once(seed);
    write_out(place).await?;
    T::make(place).await?;
    let target = T::open(place).await?;
    let start = Instant::now();
    let bar = Progress::new("fill", place.size);
    fill(&target, &ledger, place.size, &bar).await?;
    drop(bar);
    let filling = start.elapsed();
    let start = Instant::now();
    target.close().await?;
    let closing = start.elapsed();

    let start = Instant::now();
    let target = T::open(place).await?;
    let reopening = start.elapsed();
    if target.size() != place.size {
        ledger.mismatch(format!("size is {} instead of {}", target.size(), place.size));
    }
    let mut phases = vec![("fill and sync", filling), ("close", closing), ("reopen", reopening)];
    let start = Instant::now();
    verify(&target, &ledger, place.size, &Progress::new("verify", place.size)).await?;
    let verifying = start.elapsed();
    phases.push(("verify", verifying));
    let title = Title::new::<T>(FILL_VERIFY, place, target.backend(), seed, 1);
    let recovery = target.recovery();
    target.close().await?;
    let mut report = Report::new(title, None, &ledger);
    report.recovery = recovery;
    for (name, time) in phases {
        report.phase(name, time);
    }
    let rate = |time: Duration| {
        let bytes = place.size as f64 / time.as_secs_f64().max(1e-9);
        format!("{}/s", show_bytes(bytes as u64))
    };
    report.note("fill throughput", rate(filling));
    report.note("verify throughput", rate(verifying));
    Ok(report)
}
