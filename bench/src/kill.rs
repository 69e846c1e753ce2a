//! `kill-reopen`: a child writes, is killed with SIGKILL, and its store is opened again.
//!
//! Guarantees, after the kill: a block holds the last generation that the child acknowledged as
//! durable, or one that it wrote later, whole; anything else is a mismatch. The child fills the
//! object, syncs, and then does two things at once: durable commits in the first half, and plain
//! writes with a sync now and then in the second. Prints how long the opening took and how much
//! it replayed. A kill is not a power cut: what the kernel has taken survives. Called by `main.rs`.

use std::io::BufRead;
use std::io::BufReader;
use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::process::Child;
use std::process::Command;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::Mutex;
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
use tokio::task::JoinSet;

use crate::cli::Run;
use crate::data::Ledger;
use crate::data::Random;
use crate::progress::Progress;
use crate::report::Report;
use crate::report::Title;
use crate::run::fill;
use crate::run::pieces;
use crate::target::Place;
use crate::target::Target;
use crate::targets::write_out;
use crate::workload::PIECE_MAX;

/// The name on the command line.
pub const KILL_REOPEN: &str = "kill-reopen";
pub const ABOUT: &str = "SIGKILL in the middle of commits and writes, reopen, compare every byte";
/// With this fill, the store has 8 GiB and its journal 128 MiB.
pub const SIZE_DEFAULT: u64 = 4 << 30;
pub const MEMORY_DEFAULT: u64 = 128 << 20;
pub const FILL_PERCENT: u64 = 50;

/// Clients that commit, each on its own blocks.
const COMMITTERS: u64 = 16;
/// Plain writes between two syncs.
const WRITES_PER_SYNC: u64 = 1024;
/// The kernel may hold a killed process's file, and so its lock, a little longer.
const LOCK_WAIT_MAX: Duration = Duration::from_secs(10);
const LOCK_RETRY: Duration = Duration::from_millis(5);
/// The child's lines: the object is full; a commit of this block is durable; so many syncs are.
const READY: &str = "ready";
const COMMITTED: &str = "committed ";
const SYNCED: &str = "synced ";

/// What was heard from the child.
#[derive(Debug, Default, PartialEq, Eq)]
struct Heard {
    ready: bool,
    commits: u64,
    syncs: u64,
}

/// What one kill gave, in numbers.
#[derive(Debug, Clone, Copy, Default)]
pub struct Toll {
    /// Acknowledged before the kill.
    pub commits: u64,
    /// Synced before the kill.
    pub writes: u64,
    /// Blocks that are newer than what was acknowledged.
    pub newer: u64,
    /// The opening behind the kill, without the wait for the dead process's lock.
    pub reopening: Duration,
}

/// Starts this program again as the child that is to be killed.
pub fn start<T: Target>(run: &Run, place: &Place, seed: u64) -> Result<Child> {
    let options = &run.options;
    let program = std::env::current_exe().context("finding this program")?;
    let mut command = Command::new(program);
    command.args(["kill-child", KILL_REOPEN, "--target", T::NAME]);
    command.arg("--size").arg(place.size.to_string());
    command.arg("--memory").arg(place.memory.to_string());
    command.arg("--seed").arg(seed.to_string());
    command.arg("--workers").arg(options.workers.to_string());
    command.arg("--fill").arg(options.fill.unwrap_or(FILL_PERCENT).to_string());
    let flag = if place.device { "--device" } else { "--file" };
    command.arg(flag).arg(&place.path).arg("--overwrite");
    if !place.write_out {
        command.arg("--no-write-out");
    }
    command.stdout(Stdio::piped()).spawn().context("starting the child")
}

fn say(line: std::fmt::Arguments<'_>) -> Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_fmt(line)?;
    out.write_all(b"\n")?;
    Ok(out.flush()?)
}

/// The child's part. Ends only by a kill or with an error.
pub async fn child<T: Target>(place: &Place, seed: u64) -> Result<()> {
    let blocks = place.size / BLOCK_SIZE as u64;
    let ledger = Arc::new(Ledger::rewritten(seed, blocks));
    write_out(place).await?;
    T::make(place).await?;
    let target = T::open(place).await?;
    fill(&target, &ledger, place.size, &Progress::new("fill", place.size)).await?;
    say(format_args!("{READY}"))?;
    let mut tasks = JoinSet::new();
    for client in 0..COMMITTERS {
        tasks.spawn(committer(target.clone(), ledger.clone(), blocks, seed, client));
    }
    tasks.spawn(writer(target, ledger, blocks, seed));
    match tasks.join_next().await {
        Some(ended) => ended?,
        None => bail!("nobody writes"),
    }
}

async fn committer<T: Target>(
    target: T,
    ledger: Arc<Ledger>,
    blocks: u64,
    seed: u64,
    client: u64,
) -> Result<()> {
    let mut random = Random::new(seed << 32 | client);
    let mut scratch = vec![0; BLOCK_SIZE];
    loop {
        let block = random.below(blocks / 2 / COMMITTERS) * COMMITTERS + client;
        let make = |out: &mut [u8]| ledger.renew(block, out);
        target.commit(block * BLOCK_SIZE as u64, &mut scratch, make).await?;
        say(format_args!("{COMMITTED}{block}"))?;
    }
}

async fn writer<T: Target>(target: T, ledger: Arc<Ledger>, blocks: u64, seed: u64) -> Result<()> {
    let mut choices = written_blocks(seed, blocks);
    let mut scratch = vec![0; BLOCK_SIZE];
    for syncs in 1_u64.. {
        for _ in 0..WRITES_PER_SYNC {
            let block = choices();
            let make = |out: &mut [u8]| ledger.renew(block, out);
            target.write(block * BLOCK_SIZE as u64, &mut scratch, make).await?;
            tokio::task::consume_budget().await;
        }
        target.sync().await?;
        say(format_args!("{SYNCED}{syncs}"))?;
    }
    Ok(())
}

/// The blocks that the writer writes, in order: known to the child and to the parent.
fn written_blocks(seed: u64, blocks: u64) -> impl FnMut() -> u64 {
    let mut random = Random::new(seed << 32 | COMMITTERS);
    let first = blocks / 2;
    move || first + random.below(blocks - first)
}

/// Kills the child `time` after it is ready, reopens, and compares everything.
pub async fn reopened<T: Target>(
    place: &Place,
    seed: u64,
    time: Duration,
    mut child: Child,
) -> Result<(Report, Toll)> {
    let blocks = place.size / BLOCK_SIZE as u64;
    let ledger = Ledger::rewritten(seed, blocks);
    let lines = child.stdout.take().context("the child's output is piped")?;
    let heard = listen(child, BufReader::new(lines), time, &ledger)?;
    let mut choices = written_blocks(seed, blocks);
    (0..heard.syncs * WRITES_PER_SYNC).for_each(|_| ledger.advance(choices()));

    let start = Instant::now();
    let (target, reopening) = open_after_kill::<T>(place).await?;
    let waiting = start.elapsed() - reopening;
    let start = Instant::now();
    let newer = compare(&target, &ledger, place.size).await?;
    let verifying = start.elapsed();
    let clients = COMMITTERS as usize + 1;
    let mut title = Title::new::<T>(KILL_REOPEN, place, target.backend(), seed, clients);
    title.piece_bytes = BLOCK_SIZE;
    let recovery = target.recovery();
    target.close().await?;
    let mut report = Report::new(title, None, &ledger);
    report.recovery = recovery;
    report.phase("writing until the kill", time);
    report.phase("wait for the dead process's lock", waiting);
    report.phase("reopen", reopening);
    report.phase("verify", verifying);
    let (commits, writes) = (heard.commits, heard.syncs * WRITES_PER_SYNC);
    report.note("acknowledged before the kill", format!("{commits} commits, {writes} writes"));
    report.note("blocks newer than acknowledged", newer.to_string());
    Ok((report, Toll { commits, writes, newer, reopening }))
}

/// Takes down what the child says, kills it in time, and waits for its end.
fn listen(child: Child, lines: impl BufRead, time: Duration, ledger: &Ledger) -> Result<Heard> {
    // Shared with the thread that kills while this one reads.
    let child = Arc::new(Mutex::new(child));
    let mut heard = Heard::default();
    let mut killer = None;
    let taken = take_down(lines, ledger, &mut heard, || {
        let child = child.clone();
        killer.get_or_insert_with(|| {
            std::thread::spawn(move || {
                // Nobody sends: this is a wait that needs no clock of its own.
                let (_keep, never) = std::sync::mpsc::sync_channel::<()>(0);
                let _ = never.recv_timeout(time);
                child.lock().unwrap_or_else(|e| e.into_inner()).kill()
            })
        });
    });
    if let Some(killer) = killer {
        killer.join().map_err(|_| Error::msg("the killer panicked"))?.context("killing")?;
    }
    let mut child = child.lock().unwrap_or_else(|e| e.into_inner());
    // Whatever happened, no child stays behind.
    child.kill().ok();
    let ended = child.wait().context("waiting for the killed child")?;
    taken?;
    ensure!(heard.ready, "the child ended before its object was full: {ended}");
    ensure!(ended.signal() == Some(9), "the child ended on its own: {ended}");
    Ok(heard)
}

/// Reads lines until the end; a line that the kill cut short does not count.
fn take_down(
    mut lines: impl BufRead,
    ledger: &Ledger,
    heard: &mut Heard,
    mut when_ready: impl FnMut(),
) -> Result<()> {
    let mut line = String::new();
    while lines.read_line(&mut line).context("reading the child's output")? > 0 {
        if let Some(whole) = line.strip_suffix('\n') {
            if whole == READY {
                heard.ready = true;
                when_ready();
            } else if let Some(block) = whole.strip_prefix(COMMITTED) {
                ledger.advance(block.parse().context("reading an acknowledgement")?);
                heard.commits += 1;
            } else if let Some(syncs) = whole.strip_prefix(SYNCED) {
                heard.syncs = syncs.parse().context("reading an acknowledgement")?;
            }
        }
        line.clear();
    }
    Ok(())
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

/// Reads everything; gives the number of blocks that are newer than what was acknowledged.
async fn compare<T: Target>(target: &T, ledger: &Ledger, size: u64) -> Result<u64> {
    if target.size() != size {
        ledger.mismatch(format!("size is {} instead of {size}", target.size()));
    }
    let half = size / BLOCK_SIZE as u64 / 2;
    let bar = Progress::new("verify", size);
    let mut scratch = vec![0; PIECE_MAX];
    let mut newer = 0;
    for (at, piece) in pieces(size.min(target.size())) {
        let first = at / BLOCK_SIZE as u64;
        let see = |bytes: &[u8]| {
            for (block, bytes) in (first..).zip(bytes.chunks_exact(BLOCK_SIZE)) {
                // One commit is in flight for each block, and one unheard round of writes.
                let slack = if block < half { 1 } else { WRITES_PER_SYNC as u32 };
                newer += u64::from(ledger.check_since(block, bytes, slack));
            }
        };
        target.read(at, &mut scratch[..piece], see).await?;
        bar.at(at);
    }
    Ok(newer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_taken_down_and_a_cut_one_is_not() {
        let ledger = Ledger::rewritten(1, 8);
        let (mut heard, mut calls) = (Heard::default(), 0);
        let text = "ready\ncommitted 3\nnoise\ncommitted 3\nsynced 2\ncommitted 1";
        take_down(text.as_bytes(), &ledger, &mut heard, || calls += 1).unwrap();
        assert_eq!(heard, Heard { ready: true, commits: 2, syncs: 2 });
        assert_eq!((calls, ledger.generation(3), ledger.generation(1)), (1, 3, 1));
    }

    #[test]
    fn the_writer_stays_in_its_half() {
        let mut choices = written_blocks(5, 9);
        assert!((0..1000).all(|_| (4..9).contains(&choices())));
    }
}
