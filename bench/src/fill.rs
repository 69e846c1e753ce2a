//! `fill-verify`: fill a target with unique blocks, reopen it, read back, compare every byte.
//!
//! With a kill, a child process does the filling and is killed with SIGKILL near 80 %: everything
//! that its syncs acknowledged must be there, and what comes later must be whole or absent. The
//! harness holds one piece of memory, so that the process's peak is the target's. Called by
//! `main.rs`.

use std::io::BufRead;
use std::io::BufReader;
use std::io::Write;
use std::process::Child;
use std::process::ChildStdout;
use std::time::Duration;
use std::time::Instant;

use anyhow::Context;
use anyhow::Error;
use anyhow::Result;
use anyhow::bail;
use anyhow::ensure;
use foliant::ErrorKind;
use foliant_device::BLOCK_SIZE;
use foliant_device::DeviceError;
use foliant_device::DeviceErrorKind;

use crate::data::Ledger;
use crate::progress::Progress;
use crate::report::Report;
use crate::report::Title;
use crate::run::fill;
use crate::run::verify;
use crate::target::Place;
use crate::target::Target;
use crate::workload::FILL_VERIFY;
use crate::workload::PIECE_MAX;

/// The kernel may hold a killed process's file, and so its lock, a little longer.
const LOCK_WAIT_MAX: Duration = Duration::from_secs(10);
const LOCK_RETRY: Duration = Duration::from_millis(5);
/// The child is killed when this share of the data is acknowledged, in percent.
const KILL_PERCENT: u64 = 80;
/// The child syncs this often over the whole.
const CHILD_SYNCS: u64 = 64;
/// Starts each line in which a child acknowledges bytes.
const SYNCED: &str = "synced ";

/// Fills in this process, closes, reopens, compares.
pub async fn whole<T: Target>(place: &Place, seed: u64) -> Result<Report> {
    let ledger = Ledger::written_once(seed);
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
    phases.push(("verify", start.elapsed()));
    conclude(target, place, &ledger, phases).await
}

/// The child's part: fill, and say after each sync how far everything is durable.
pub async fn child<T: Target>(place: &Place, seed: u64) -> Result<()> {
    let ledger = Ledger::written_once(seed);
    T::make(place).await?;
    let target = T::open(place).await?;
    let mut out = std::io::stdout();
    let stride = (place.size / CHILD_SYNCS).max(1).next_multiple_of(PIECE_MAX as u64);
    let mut scratch = vec![0; PIECE_MAX];
    let mut at = 0;
    while at < place.size {
        let piece = (place.size - at).min(PIECE_MAX as u64) as usize;
        ensure!(piece.is_power_of_two(), "the size must be whole MiB to be killed in");
        let block = at / BLOCK_SIZE as u64;
        let make = |out: &mut [u8]| ledger.pattern.fill(block, 1, out);
        target.write(at, &mut scratch[..piece], make).await?;
        at += piece as u64;
        if at.is_multiple_of(stride) || at == place.size {
            target.sync().await?;
            writeln!(out, "{SYNCED}{at}")?;
            out.flush()?;
        }
    }
    bail!("the filling ended before the kill")
}

/// Runs and kills `child`, reopens, and compares what was acknowledged and what came later.
pub async fn killed<T: Target>(place: &Place, seed: u64, mut child: Child) -> Result<Report> {
    let start = Instant::now();
    let lines = child.stdout.take().context("the child's output is piped")?;
    let synced = kill_at(&mut child, BufReader::new(lines), place.size);
    // Whatever happened, no child stays behind.
    child.kill().ok();
    child.wait().context("waiting for the killed child")?;
    let synced = synced?;
    let filling = start.elapsed();

    let start = Instant::now();
    let (target, reopening) = open_after_kill::<T>(place).await?;
    let mut phases = vec![("fill until the kill", filling)];
    phases.push(("wait for the dead process's lock", start.elapsed() - reopening));
    phases.push(("reopen", reopening));
    let ledger = Ledger::written_once(seed);
    let start = Instant::now();
    verify(&target, &ledger, synced, &Progress::new("verify", synced)).await?;
    verify_tail(&target, &ledger, synced, place.size).await?;
    phases.push(("verify", start.elapsed()));
    eprintln!(
        "killed with {synced} of {} bytes acknowledged, {} bytes found",
        place.size,
        target.size()
    );
    conclude(target, place, &ledger, phases).await
}

/// Reads acknowledgements, kills at the share, and gives the last one that was heard.
fn kill_at(child: &mut Child, lines: BufReader<ChildStdout>, size: u64) -> Result<u64> {
    let bar = Progress::new("fill", size);
    let mut synced = 0;
    let mut dead = false;
    for line in lines.lines() {
        let line = line.context("reading the child's output")?;
        let Some(bytes) = line.strip_prefix(SYNCED) else {
            continue;
        };
        synced = bytes.parse().context("reading an acknowledgement")?;
        bar.at(synced);
        if !dead && synced >= size / 100 * KILL_PERCENT {
            // SIGKILL, in the middle of the next stride.
            child.kill().context("killing the child")?;
            dead = true;
        }
    }
    ensure!(dead, "the child ended on its own with {synced} bytes acknowledged");
    Ok(synced)
}

/// Opens, waiting for the lock of the dead process; the time is that of the good attempt.
async fn open_after_kill<T: Target>(place: &Place) -> Result<(T, Duration)> {
    let first = Instant::now();
    loop {
        let start = Instant::now();
        match T::open(place).await {
            Ok(target) => return Ok((target, start.elapsed())),
            Err(e) if is_locked(&e) && first.elapsed() < LOCK_WAIT_MAX => {
                tokio::time::sleep(LOCK_RETRY).await;
            }
            Err(e) => return Err(e.context("reopening after the kill")),
        }
    }
}

fn is_locked(error: &Error) -> bool {
    error.chain().any(|cause| {
        let engine = cause.downcast_ref::<foliant::Error>();
        let device = cause.downcast_ref::<DeviceError>();
        engine.is_some_and(|e| e.kind() == ErrorKind::Locked)
            || device.is_some_and(|e| e.kind == DeviceErrorKind::Locked)
    })
}

/// Blocks behind the last acknowledgement: each is whole, or it was never written.
async fn verify_tail<T: Target>(target: &T, ledger: &Ledger, from: u64, size: u64) -> Result<()> {
    let end = target.size();
    if !end.is_multiple_of(BLOCK_SIZE as u64) || end > size {
        ledger.mismatch(format!("size {end} is none that a write could have left"));
    }
    let mut scratch = vec![0; BLOCK_SIZE];
    let mut at = from;
    while at + BLOCK_SIZE as u64 <= end.min(size) {
        let block = at / BLOCK_SIZE as u64;
        let see = |bytes: &[u8]| {
            if bytes.iter().any(|&b| b != 0) {
                ledger.check(block, bytes);
            }
        };
        target.read(at, &mut scratch, see).await?;
        at += BLOCK_SIZE as u64;
    }
    Ok(())
}

async fn conclude<T: Target>(
    target: T,
    place: &Place,
    ledger: &Ledger,
    phases: Vec<(&str, Duration)>,
) -> Result<Report> {
    let title = Title {
        workload: FILL_VERIFY.to_owned(),
        target: T::NAME.to_owned(),
        backend: target.backend(),
        seed: ledger.pattern.seed(),
        size_bytes: place.size,
        memory_bytes: place.memory,
        clients: 1,
        piece_bytes: PIECE_MAX,
    };
    let recovery = target.recovery();
    target.close().await?;
    let mut report = Report::new(title, None, ledger);
    report.recovery = recovery;
    for (name, time) in phases {
        report.phase(name, time);
    }
    Ok(report)
}
