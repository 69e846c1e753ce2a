//! A peer that writes files as most programs do: pwrite and fdatasync, in a process of its own.
//!
//! A process, because it has to be started inside a memory cgroup for its page cache to be charged
//! there. It obeys lines on standard input: `block NANOSECONDS STRETCH`, `verify`. Guarantees that
//! every byte is compared after the cache was dropped. Started by `PeerSide`, which the rows that
//! write use.

use std::fs::File;
use std::io::BufRead;
use std::io::BufReader;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::path::PathBuf;
use std::process::Child;
use std::process::ChildStdin;
use std::process::ChildStdout;
use std::process::Command;
use std::process::Stdio;
use std::time::Duration;
use std::time::Instant;

use anyhow::Context;
use anyhow::Result;
use anyhow::bail;
use anyhow::ensure;
use clap::Args;
use foliant_device::BLOCK_SIZE;

use crate::data::Ledger;
use crate::data::Random;
use crate::measure::cpu_seconds;
use crate::report::Verdict;
use crate::rows::cage::Cage;
use crate::rows::contest::Reading;
use crate::rows::contest::Side;
use crate::run::pieces;
use crate::workload::PIECE_MAX;

const BLOCK: u64 = BLOCK_SIZE as u64;
/// A file that is appended to starts anew behind this many bytes.
const APPENDED_MAX: u64 = 64 << 20;
/// Blocks of different appending clients are told apart by this.
const CLIENT_SHIFT: u32 = 40;

/// What the peer does.
#[derive(Debug, Clone, Args)]
pub struct PeerLine {
    /// A folder for its files.
    #[arg(long)]
    pub folder: PathBuf,
    /// Bytes of the file that is overwritten; 0 to append to a file for each client instead.
    #[arg(long)]
    pub size: u64,
    #[arg(long)]
    pub clients: u64,
    /// Writes of one client between two calls of fdatasync.
    #[arg(long)]
    pub sync_every: u64,
    #[arg(long)]
    pub seed: u64,
}

/// The peer as a side.
pub struct PeerSide {
    name: String,
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    // Behind the child: a group with a process in it cannot be removed.
    cage: Option<Cage>,
}

impl PeerSide {
    /// Starts it with `memory` bytes and waits until its file is full. Gives a remark on its memory.
    pub fn start(name: &str, line: &PeerLine, memory: u64) -> Result<(Self, String)> {
        let (cage, remark) = match Cage::new(memory) {
            Ok(cage) => (Some(cage), format!("in a memory cgroup of {} MiB", memory >> 20)),
            Err(e) => (None, format!("without a memory cgroup: {e:#}")),
        };
        let program = std::env::current_exe().context("finding this program")?;
        let mut command = match &cage {
            Some(cage) => cage.command(program),
            None => Command::new(program),
        };
        command.arg("row-peer").arg("--folder").arg(&line.folder);
        let numbers = [
            ("--size", line.size),
            ("--clients", line.clients),
            ("--sync-every", line.sync_every),
            ("--seed", line.seed),
        ];
        for (option, number) in numbers {
            command.arg(option).arg(number.to_string());
        }
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().context("starting this program again")?;
        let input = child.stdin.take().context("its input is piped")?;
        let output = BufReader::new(child.stdout.take().context("its output is piped")?);
        let mut side = Self { name: name.to_owned(), child, input, output, cage };
        ensure!(side.hear()? == "ready", "the peer is not ready");
        Ok((side, remark))
    }

    fn hear(&mut self) -> Result<String> {
        let mut line = String::new();
        self.output.read_line(&mut line).context("hearing from the peer")?;
        ensure!(line.ends_with('\n'), "the peer {} ended", self.name);
        Ok(line.trim_end().to_owned())
    }

    fn ask(&mut self, line: &str) -> Result<Vec<f64>> {
        writeln!(self.input, "{line}").context("asking the peer")?;
        let heard = self.hear()?;
        let numbers = heard.split(' ').map(|n| n.parse::<f64>().context("reading its answer"));
        numbers.collect()
    }

    /// Compares every byte, with an empty cache.
    pub fn verify(mut self) -> Result<Verdict> {
        let [compared, mismatches] = self.ask("verify")?[..] else {
            bail!("the peer {} gave another answer", self.name);
        };
        Ok(Verdict {
            verified: mismatches == 0.0 && compared > 0.0,
            blocks_compared: compared as u64,
            mismatches: mismatches as u64,
            first_mismatch: (mismatches > 0.0).then(|| format!("{} said so", self.name)),
        })
    }
}

impl Side for PeerSide {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn block(&mut self, time: Duration, stretch: u64) -> Result<Reading> {
        let numbers = self.ask(&format!("block {} {stretch}", time.as_nanos()))?;
        let [ops, seconds, cpu] = numbers[..] else {
            bail!("the peer {} gave another answer", self.name);
        };
        Ok(Reading { ops, bytes: ops * BLOCK as f64, seconds, cpu_seconds: Some(cpu) })
    }

    fn works_apart(&self) -> bool {
        true
    }
}

impl Drop for PeerSide {
    fn drop(&mut self) {
        // Ended already if all went well; no process may stay behind in any case.
        self.child.kill().ok();
        self.child.wait().ok();
        self.cage.take();
    }
}

/// The other process: obeys until its input ends.
pub fn peer(line: &PeerLine) -> Result<bool> {
    let work = Work::start(line)?;
    say("ready")?;
    for asked in std::io::stdin().lock().lines() {
        let asked = asked.context("hearing what to do")?;
        let words: Vec<&str> = asked.split(' ').collect();
        match words[..] {
            ["block", nanoseconds, stretch] => {
                let time = Duration::from_nanos(nanoseconds.parse()?);
                let (cpu, start) = (cpu_seconds(), Instant::now());
                let ops = work.block(time, stretch.parse()?)?;
                let seconds = start.elapsed().as_secs_f64();
                let cpu = cpu.zip(cpu_seconds()).map_or(0.0, |(before, after)| after - before);
                say(&format!("{ops} {seconds} {cpu}"))?;
            }
            ["verify"] => {
                work.verify()?;
                say(&format!("{} {}", work.ledger.checked(), work.ledger.mismatches()))?;
                break;
            }
            _ => bail!("nobody knows how to {asked:?}"),
        }
    }
    Ok(true)
}

fn say(line: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}")?;
    Ok(out.flush()?)
}

struct Work {
    line: PeerLine,
    ledger: Ledger,
    /// One that is overwritten, or one for each client.
    files: Vec<File>,
}

impl Work {
    fn start(line: &PeerLine) -> Result<Self> {
        ensure!(line.clients > 0 && line.sync_every > 0, "somebody must write and sync");
        let appends = line.size == 0;
        let ledger = match appends {
            true => Ledger::written_once(line.seed),
            false => Ledger::rewritten(line.seed, line.size / BLOCK),
        };
        let count = if appends { line.clients } else { 1 };
        let files: Result<Vec<File>> = (0..count).map(|n| open(&path(&line.folder, n))).collect();
        let work = Self { line: line.clone(), ledger, files: files? };
        let mut scratch = vec![0; PIECE_MAX];
        for (at, piece) in pieces(line.size) {
            work.ledger.pattern.fill(at / BLOCK, 1, &mut scratch[..piece]);
            work.files[0].write_all_at(&scratch[..piece], at)?;
        }
        work.files.iter().try_for_each(File::sync_all)?;
        Ok(work)
    }

    fn block(&self, time: Duration, stretch: u64) -> Result<u64> {
        let deadline = Instant::now() + time;
        std::thread::scope(|scope| {
            let start = |client| scope.spawn(move || self.client(client, deadline, stretch));
            let threads: Vec<_> = (0..self.line.clients).map(start).collect();
            let joined = threads.into_iter().map(|t| t.join().expect("a client panicked"));
            joined.sum::<Result<u64>>()
        })
    }

    fn client(&self, client: u64, deadline: Instant, stretch: u64) -> Result<u64> {
        let mut random = Random::new(stretch << 32 | client);
        let mut bytes = vec![0; BLOCK_SIZE];
        let appends = self.line.size == 0;
        let file = &self.files[if appends { client as usize } else { 0 }];
        let (clients, blocks) = (self.line.clients, self.line.size / BLOCK);
        let mut end = if appends { file.metadata()?.len() } else { 0 };
        let mut ops = 0;
        while Instant::now() < deadline {
            for _ in 0..self.line.sync_every {
                if appends {
                    if end >= APPENDED_MAX {
                        file.set_len(0)?;
                        end = 0;
                    }
                    self.ledger.pattern.fill(client << CLIENT_SHIFT | (end / BLOCK), 1, &mut bytes);
                    file.write_all_at(&bytes, end)?;
                    end += BLOCK;
                } else {
                    // Blocks of its own, as the clients of a store have.
                    let block = random.below(blocks / clients) * clients + client;
                    self.ledger.renew(block, &mut bytes);
                    file.write_all_at(&bytes, block * BLOCK)?;
                }
            }
            file.sync_data()?;
            ops += self.line.sync_every;
        }
        Ok(ops)
    }

    fn verify(&self) -> Result<()> {
        let appends = self.line.size == 0;
        for (n, file) in (0..).zip(&self.files) {
            file.sync_all()?;
            rustix::fs::fadvise(file, 0, None, rustix::fs::Advice::DontNeed)?;
            let file = File::open(path(&self.line.folder, n)).context("opening it again")?;
            let len = file.metadata()?.len();
            let wanted = if appends { len } else { self.line.size };
            if len != wanted {
                self.ledger.mismatch(format!("file {n} has {len} bytes instead of {wanted}"));
            }
            let first = if appends { n << CLIENT_SHIFT } else { 0 };
            let mut scratch = vec![0; PIECE_MAX];
            for (at, piece) in pieces(len) {
                file.read_exact_at(&mut scratch[..piece], at)?;
                self.ledger.check(first + at / BLOCK, &scratch[..piece]);
            }
        }
        Ok(())
    }
}

fn path(folder: &Path, number: u64) -> PathBuf {
    folder.join(format!("peer-{number}"))
}

fn open(path: &Path) -> Result<File> {
    let options = File::options().read(true).write(true).create(true).truncate(true).open(path);
    options.with_context(|| format!("making {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn work(name: &str, size: u64) -> (Work, PathBuf) {
        let folder = std::env::temp_dir().join(format!("foliant-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let line = PeerLine { folder: folder.clone(), size, clients: 2, sync_every: 4, seed: 3 };
        (Work::start(&line).unwrap(), folder)
    }

    #[test]
    fn the_peer_compares_what_it_overwrote_and_what_it_appended() {
        for (name, size) in [("peer-over", 1 << 20), ("peer-append", 0)] {
            let (work, folder) = work(name, size);
            let ops = work.block(Duration::from_millis(20), 1).unwrap();
            assert!(ops >= 8, "{ops}");
            work.verify().unwrap();
            assert_eq!(work.ledger.mismatches(), 0, "{:?}", work.ledger.first_mismatch());
            assert!(work.ledger.checked() >= 8);
            let wrong = [0xee; 16];
            work.files[0].write_all_at(&wrong, 100).unwrap();
            work.verify().unwrap();
            assert_eq!(work.ledger.mismatches(), 1);
            std::fs::remove_dir_all(folder).unwrap();
        }
    }
}
