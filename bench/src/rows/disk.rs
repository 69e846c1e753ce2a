//! A loop device of the row's own, over a file that bypasses the page cache.
//!
//! Guarantees that it is detached and its file removed when dropped, also when making it failed half way,
//! and that flushes and bytes are those that the kernel counted, whoever caused them. Needs root; the
//! error says what is missing. Called by `xfs.rs` and by the rows that write.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::Context;
use anyhow::Result;
use anyhow::ensure;

use crate::rows::contest::Reading;
use crate::rows::contest::Side;
use crate::rows::plan::Plan;

/// The kernel counts in sectors of this size, whatever the device has.
const SECTOR: u64 = 512;

/// A loop device and its file.
#[derive(Debug)]
pub struct Disk {
    image: PathBuf,
    device: Option<PathBuf>,
}

/// What the kernel counted on a device up to a moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Traffic {
    pub bytes_written: u64,
    pub flushes: u64,
}

impl Disk {
    /// A device of `bytes`, its file written out first.
    pub fn new(plan: &Plan, name: &str, bytes: u64) -> Result<Self> {
        let folder = plan.folder.clone().unwrap_or_else(std::env::temp_dir);
        let name = format!("foliant-bench-{}-{name}.img", std::process::id());
        let mut made = Self { image: folder.join(name), device: None };
        made.make(bytes, plan.quick)?;
        Ok(made)
    }

    fn make(&mut self, bytes: u64, quick: bool) -> Result<()> {
        let file = File::create_new(&self.image).context("making the image")?;
        file.set_len(bytes)?;
        if !quick {
            let piece = vec![0x5a; 1 << 20];
            for at in (0..bytes).step_by(piece.len()) {
                file.write_all_at(&piece[..piece.len().min((bytes - at) as usize)], at)?;
            }
            file.sync_all()?;
        }
        let image = self.image.to_str().context("the folder's name is not UTF-8")?;
        let device = run("losetup", &["--find", "--show", "--direct-io=on", image])?;
        self.device = Some(PathBuf::from(device.trim()));
        Ok(())
    }

    /// The device's path.
    pub fn path(&self) -> Result<&Path> {
        self.device.as_deref().context("the loop device is attached")
    }

    /// What was counted so far.
    pub fn traffic(&self) -> Result<Traffic> {
        let name = self.path()?.file_name().context("a device has a name")?;
        let stat = Path::new("/sys/block").join(name).join("stat");
        let text = std::fs::read_to_string(&stat);
        parse(&text.with_context(|| format!("reading {}", stat.display()))?)
    }
}

/// The seventh number is sectors written, the sixteenth flushes.
fn parse(stat: &str) -> Result<Traffic> {
    let numbers: Vec<&str> = stat.split_whitespace().collect();
    let number = |at: usize| -> Result<u64> {
        let text = numbers.get(at).context("the kernel does not count flushes")?;
        text.parse().context("reading the device's counters")
    };
    Ok(Traffic { bytes_written: number(6)? * SECTOR, flushes: number(15)? })
}

impl Drop for Disk {
    fn drop(&mut self) {
        if let Some(device) = self.device.take()
            && let Err(e) = run("losetup", &["--detach", &device.to_string_lossy()])
        {
            eprintln!("bench: detaching {}: {e:#}", self.image.display());
        }
        // Not there if making it failed before.
        std::fs::remove_file(&self.image).ok();
    }
}

/// Runs a program to its end; the error has what it said.
pub fn run(program: &str, arguments: &[&str]) -> Result<String> {
    let output = Command::new(program).args(arguments).output();
    let output = output.with_context(|| format!("{program} cannot be started"))?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{program} {}: {}", arguments.join(" "), errors.trim());
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// A side whose device is watched while its blocks run.
pub struct Watched<'a, S> {
    pub side: S,
    pub disk: &'a Disk,
    ops: f64,
    bytes: f64,
    seen: Traffic,
    /// Device bytes per user byte, by block.
    pub amplification: Vec<f64>,
}

impl<'a, S: Side> Watched<'a, S> {
    pub fn new(side: S, disk: &'a Disk) -> Self {
        let (seen, amplification) = (Traffic::default(), Vec::new());
        Self { side, disk, ops: 0.0, bytes: 0.0, seen, amplification }
    }

    /// Flushes per operation, over all blocks.
    pub fn flushes_per_op(&self) -> f64 {
        self.seen.flushes as f64 / self.ops.max(1.0)
    }

    /// What the device had to do, in words.
    pub fn words(&self) -> String {
        let bytes = self.seen.bytes_written as f64 / self.bytes.max(1.0);
        format!(
            "{:.5} flushes per operation ({} flushes), {bytes:.2} device bytes per user byte",
            self.flushes_per_op(),
            self.seen.flushes
        )
    }
}

impl<S: Side> Side for Watched<'_, S> {
    fn name(&self) -> String {
        self.side.name()
    }

    fn block(&mut self, time: Duration, stretch: u64) -> Result<Reading> {
        let before = self.disk.traffic()?;
        let reading = self.side.block(time, stretch)?;
        let after = self.disk.traffic()?;
        let written = after.bytes_written - before.bytes_written;
        self.seen.bytes_written += written;
        self.seen.flushes += after.flushes - before.flushes;
        self.ops += reading.ops;
        self.bytes += reading.bytes;
        self.amplification.push(written as f64 / reading.bytes.max(1.0));
        Ok(reading)
    }

    fn works_apart(&self) -> bool {
        self.side.works_apart()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_counters_are_read_in_the_right_columns() {
        let stat = "  1 2 3 4 5 6 70 8 9 10 11 12 13 14 15 16 17\n";
        assert_eq!(parse(stat).unwrap(), Traffic { bytes_written: 70 * 512, flushes: 16 });
        assert!(parse("1 2 3 4 5 6 7 8 9 10 11").is_err(), "an old kernel");
    }
}
