//! The killed process: what it acknowledged, and how the parent knows.
//!
//! The child is this executable with a hidden command. Each of its clients overwrites its own keys,
//! one durable write at a time, and after each answer puts 32 bytes into the pipe to the parent: key,
//! version, nanoseconds, and a mark. After some seconds the parent kills it with SIGKILL and reads the
//! pipe to its end. What stands in the pipe was acknowledged, so it must be in the store.
//!
//! Guarantees that an acknowledgement is in the pipe only after durability. A record that the kill
//! cut off counts as not acknowledged. Called by `demo`.

use std::collections::HashMap;
use std::io::Write;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;
use std::time::Instant;

use anyhow::Context;
use hdrhistogram::Histogram;
use indicatif::ProgressBar;
use tokio::io::AsyncReadExt;
use tokio::io::BufReader;
use tokio::process::ChildStdout;
use tokio::process::Command;
use tokio::task::JoinSet;
use tokio::time::Instant as Deadline;
use tokio::time::sleep_until;

use crate::kv::demo::arguments::Arguments;
use crate::kv::demo::arguments::ChildArguments;
use crate::kv::demo::record;
use crate::kv::demo::report::Report;
use crate::kv::store::Store;

/// Less than the size up to which the kernel writes into a pipe whole.
const RECORD_BYTES: usize = 32;
const MARK: u64 = u64::from_le_bytes(*b"\0durable");
/// Keys that one client overwrites, in turns.
const KEYS_PER_CLIENT: u64 = 1000;
/// A child that says nothing for so long hangs.
const SILENCE_MAX: Duration = Duration::from_secs(30);

/// All that the child acknowledged.
#[derive(Debug, Default)]
pub struct Acknowledged {
    /// The latest version by key.
    versions: HashMap<u64, u64>,
    count: u64,
}

impl Acknowledged {
    /// Acknowledged writes.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Keys whose version in the store is older than the acknowledged one.
    pub fn lost_in(&self, found: &[Option<u64>]) -> u64 {
        let lost = |id: u64, version: u64| {
            found.get(id as usize).copied().flatten().is_none_or(|found| found < version)
        };
        self.versions.iter().filter(|&(&id, &version)| lost(id, version)).count() as u64
    }
}

/// Starts the writing process, kills it after `life`, and gives what it acknowledged.
pub async fn run_and_kill(
    path: &Path,
    arguments: &Arguments,
    life: Duration,
    report: &mut Report,
) -> anyhow::Result<Acknowledged> {
    let mut child = Command::new(std::env::current_exe()?)
        .arg("demo-child")
        .arg("--store")
        .arg(path)
        .args(["--keys", &arguments.keys.to_string()])
        .args(["--memory", &arguments.memory.to_string()])
        .args(["--clients", &arguments.clients.to_string()])
        .stdout(Stdio::piped())
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .context("starting the writing process")?;
    let pipe = child.stdout.take().context("the child has no pipe")?;
    let mut reader = BufReader::new(pipe);
    let mut heard = Heard::new(arguments.clients)?;
    let started = heard.until(&mut reader, Deadline::now() + life).await?;
    child.start_kill().context("killing the writing process")?;
    heard.until(&mut reader, Deadline::now() + SILENCE_MAX).await?;
    let status = child.wait().await?;
    heard.bar.finish_and_clear();
    anyhow::ensure!(status.code().is_none(), "the writing process ended by itself: {status}");
    let name = format!("durable put, {} clients, then SIGKILL", arguments.clients);
    report.latencies(&name, &heard.latencies, started);
    Ok(heard.acknowledged)
}

/// The parent's ear.
struct Heard {
    acknowledged: Acknowledged,
    latencies: Histogram<u64>,
    bar: ProgressBar,
    first: Option<Instant>,
    last: Instant,
}

impl Heard {
    fn new(clients: u32) -> anyhow::Result<Self> {
        let bar = ProgressBar::new_spinner();
        bar.set_message(format!("{clients} clients write durably in another process"));
        Ok(Self {
            acknowledged: Acknowledged::default(),
            latencies: Histogram::new(3)?,
            bar,
            first: None,
            last: Instant::now(),
        })
    }

    /// Listens until `deadline` or the end of the pipe; gives the time since the first record.
    async fn until(
        &mut self,
        pipe: &mut BufReader<ChildStdout>,
        deadline: Deadline,
    ) -> anyhow::Result<Duration> {
        let mut record = [0; RECORD_BYTES];
        let mut filled = 0;
        loop {
            // The read is cancel safe, a record that is cut off by the deadline is continued: the
            // second call starts at a record's start only if this one ends there.
            let read = tokio::select! {
                biased;
                () = sleep_until(deadline), if filled == 0 => break,
                read = pipe.read(&mut record[filled..]) => read?,
            };
            if read == 0 {
                break;
            }
            filled += read;
            if filled == RECORD_BYTES {
                filled = 0;
                self.note(&record)?;
            }
        }
        Ok(self.first.map_or(Duration::ZERO, |first| self.last - first))
    }

    fn note(&mut self, record: &[u8; RECORD_BYTES]) -> anyhow::Result<()> {
        let word = |at: usize| {
            let bytes = record[at..].first_chunk().expect("a record has four words");
            u64::from_le_bytes(*bytes)
        };
        anyhow::ensure!(word(24) == MARK, "the writing process speaks nonsense");
        let latest = self.acknowledged.versions.entry(word(0)).or_default();
        *latest = word(8).max(*latest);
        self.acknowledged.count += 1;
        self.latencies.record(word(16))?;
        self.last = Instant::now();
        self.first.get_or_insert(self.last);
        self.bar.tick();
        Ok(())
    }
}

/// The child's work.
pub async fn write_until_killed(store: &Store, arguments: &ChildArguments) -> anyhow::Result<()> {
    let mut clients = JoinSet::new();
    let share = (arguments.keys / u64::from(arguments.clients)).clamp(1, KEYS_PER_CLIENT);
    let writers = u64::from(arguments.clients).min(arguments.keys);
    // Far apart, so that each write meets another page, as the writes of unrelated users would.
    let apart = (arguments.keys / (writers * share)).max(1);
    for client in 0..writers {
        let keys = (0..share).map(|index| (client * share + index) * apart).collect();
        clients.spawn(write_own_keys(store.clone(), keys));
    }
    while let Some(ended) = clients.join_next().await {
        ended??;
    }
    Ok(())
}

async fn write_own_keys(store: Store, keys: Vec<u64>) -> anyhow::Result<()> {
    for version in 1.. {
        for &id in &keys {
            let started = Instant::now();
            store.put(&record::key(id), &record::value(id, version)).await?;
            acknowledge([id, version, started.elapsed().as_nanos() as u64, MARK])?;
        }
    }
    Ok(())
}

/// Puts a record into the pipe, whole.
fn acknowledge(words: [u64; 4]) -> std::io::Result<()> {
    let record: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    let mut out = std::io::stdout().lock();
    out.write_all(&record)?;
    out.flush()
}
