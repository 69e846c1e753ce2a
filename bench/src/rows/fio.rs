//! fio as a peer: an external program over io_uring, O_DIRECT, fixed buffers, registered files.
//!
//! Guarantees that its own report is what counts (start and end of the program are outside it), and
//! that without fio a row says so loudly. Does not install anything. Called by the rows.

use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::Context;
use anyhow::Result;
use anyhow::ensure;
use serde_json::Value;

use crate::rows::cage::Cage;
use crate::rows::contest::Reading;
use crate::rows::contest::Side;

/// fio needs this much for itself, whatever it does.
const MEMORY_MIN: u64 = 128 << 20;

/// How fio hands requests to the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Batch {
    pub submit: u32,
    pub complete_min: u32,
    pub complete_max: u32,
}

/// What fio does.
#[derive(Debug, Clone, Copy)]
pub struct Job {
    /// `randread`, `read` or `write`.
    pub pattern: &'static str,
    pub piece: u64,
    pub depth: u32,
    /// Bytes of the file that it works on.
    pub size: u64,
    /// `None`: fio's own default.
    pub batch: Option<Batch>,
}

/// One job on one file.
#[derive(Debug)]
pub struct Fio {
    pub job: Job,
    file: PathBuf,
    cage: Option<Cage>,
}

/// fio's version; the error says loudly what is missing.
pub fn version() -> Result<String> {
    let output = Command::new("fio").arg("--version").output();
    let output = output.context("fio is not installed")?;
    ensure!(output.status.success(), "fio --version failed");
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

impl Fio {
    /// fio on `file`, with the memory that Foliant has. Gives a remark when that is not possible.
    pub fn new(file: &Path, job: Job, memory: u64) -> (Self, String) {
        let (cage, remark) = match Cage::new(memory.max(MEMORY_MIN)) {
            Ok(cage) => (Some(cage), "fio runs in a memory cgroup".to_owned()),
            Err(e) => (None, format!("fio runs without a memory cgroup: {e:#}")),
        };
        (Self { job, file: file.to_owned(), cage }, remark)
    }

    /// Tries batches for `time` each and keeps the fastest; gives all of them in words.
    pub fn sweep(&mut self, batches: &[Option<Batch>], time: Duration) -> Result<String> {
        let mut found = Vec::new();
        for (at, batch) in batches.iter().enumerate() {
            self.job.batch = *batch;
            let reading = self.block(time, at as u64)?;
            found.push((reading.ops / reading.seconds.max(1e-9), *batch));
        }
        let best = found.iter().max_by(|a, b| a.0.total_cmp(&b.0)).context("nothing to sweep")?;
        self.job.batch = best.1;
        let words = found.iter().map(|(rate, batch)| format!("{} {rate:.0}", show(*batch)));
        Ok(words.collect::<Vec<_>>().join(", "))
    }

    fn command(&self, time: Duration, stretch: u64) -> Command {
        let mut command = match &self.cage {
            Some(cage) => cage.command("fio"),
            None => Command::new("fio"),
        };
        let Job { pattern, piece, depth, size, batch } = self.job;
        command.arg("--name=peer").arg(format!("--filename={}", self.file.display()));
        command.args(["--ioengine=io_uring", "--direct=1", "--fixedbufs=1", "--registerfiles=1"]);
        command.args(["--output-format=json", "--fallocate=none", "--time_based=1"]);
        command.arg(format!("--rw={pattern}")).arg(format!("--bs={piece}"));
        command.arg(format!("--iodepth={depth}")).arg(format!("--size={size}"));
        command.arg(format!("--runtime={}ms", time.as_millis().max(1)));
        command.arg(format!("--randseed={}", stretch + 1));
        match pattern {
            "write" => {
                command.args(["--end_fsync=1", "--refill_buffers=0", "--scramble_buffers=1"])
            }
            _ => command.args(["--readonly", "--norandommap=1", "--invalidate=0"]),
        };
        if let Some(batch) = batch {
            command.arg(format!("--iodepth_batch_submit={}", batch.submit));
            command.arg(format!("--iodepth_batch_complete_min={}", batch.complete_min));
            command.arg(format!("--iodepth_batch_complete_max={}", batch.complete_max));
        }
        command
    }
}

impl Side for Fio {
    fn name(&self) -> String {
        format!("fio depth {} {}", self.job.depth, show(self.job.batch))
    }

    fn block(&mut self, time: Duration, stretch: u64) -> Result<Reading> {
        let output = self.command(time, stretch).output().context("starting fio")?;
        let errors = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "fio failed: {errors}");
        parse(&String::from_utf8_lossy(&output.stdout), self.job.pattern == "write")
    }
}

fn show(batch: Option<Batch>) -> String {
    match batch {
        None => "default".to_owned(),
        Some(b) => format!("batch {}/{}..{}", b.submit, b.complete_min, b.complete_max),
    }
}

/// Reads fio's report; its warnings may stand in front of it.
fn parse(text: &str, writes: bool) -> Result<Reading> {
    let start = text.find('{').context("fio gave no JSON")?;
    let report: Value = serde_json::from_str(&text[start..]).context("reading fio's JSON")?;
    let job = &report["jobs"][0];
    ensure!(job["error"] == 0, "fio had error {}", job["error"]);
    let side = &job[if writes { "write" } else { "read" }];
    let number = |value: &Value, what: &str| {
        value.as_f64().with_context(|| format!("fio's JSON has no {what}"))
    };
    let seconds = number(&side["runtime"], "runtime")? / 1e3;
    let percent = number(&job["usr_cpu"], "usr_cpu")? + number(&job["sys_cpu"], "sys_cpu")?;
    let reading = Reading {
        ops: number(&side["total_ios"], "total_ios")?,
        bytes: number(&side["io_bytes"], "io_bytes")?,
        seconds,
        cpu_seconds: Some(percent / 100.0 * seconds),
    };
    ensure!(reading.ops > 0.0 && seconds > 0.0, "fio did nothing");
    Ok(reading)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_behind_a_warning_is_read() {
        let text = r#"fio: a warning
            {"jobs": [{"error": 0, "usr_cpu": 10.0, "sys_cpu": 40.0,
              "read": {"io_bytes": 8192, "total_ios": 2, "runtime": 500},
              "write": {"io_bytes": 0, "total_ios": 0, "runtime": 0}}]}"#;
        let found = parse(text, false).unwrap();
        assert_eq!((found.ops, found.bytes, found.seconds), (2.0, 8192.0, 0.5));
        assert_eq!(found.cpu_seconds, Some(0.25));
        assert!(parse(text, true).is_err(), "nothing was written");
        let failed = text.replace("\"error\": 0", "\"error\": 5");
        assert!(parse(&failed, false).is_err());
    }
}
