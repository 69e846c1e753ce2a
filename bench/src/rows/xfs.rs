//! An XFS of the row's own, on a loop device of its own.
//!
//! Needs root, mkfs.xfs and a loop device; the error says which is missing. Guarantees that it is
//! unmounted, detached and removed when dropped, also when making it failed half way. Called by
//! `writers.rs` and by the rows that write.

use std::path::Path;
use std::path::PathBuf;

use anyhow::Context;
use anyhow::Result;

use crate::rows::disk::Disk;
use crate::rows::disk::run;
use crate::rows::plan::Plan;
use crate::rows::report::Outcome;

/// mkfs.xfs refuses smaller ones.
const SIZE_MIN: u64 = 320 << 20;

/// A mounted file system.
#[derive(Debug)]
pub struct Xfs {
    mount: PathBuf,
    mounted: bool,
    disk: Disk,
}

impl Xfs {
    /// The size of a device that `data` bytes fill about half.
    pub fn half_full(data: u64) -> u64 {
        SIZE_MIN + data * 2
    }

    /// Makes and mounts one on a device of `bytes`, at least as many as mkfs.xfs wants.
    fn sized(plan: &Plan, bytes: u64) -> Result<Self> {
        let folder = plan.folder.clone().unwrap_or_else(std::env::temp_dir);
        let mount = folder.join(format!("foliant-bench-{}-xfs", std::process::id()));
        let disk = Disk::new(plan, "xfs", bytes.max(SIZE_MIN))?;
        let mut made = Self { mount, mounted: false, disk };
        made.make()?;
        Ok(made)
    }

    /// The same for a row, or a loud word why there is none.
    pub fn or_skip(plan: &Plan, outcome: &mut Outcome, bytes: u64) -> Option<Self> {
        let made = Self::sized(plan, bytes);
        made.map_err(|e| outcome.skip(format!("XFS, which needs root and xfsprogs: {e:#}"))).ok()
    }

    fn make(&mut self) -> Result<()> {
        let device = self.disk.path()?.to_str().context("the device's name is not UTF-8")?;
        run("mkfs.xfs", &["-q", "-f", "-K", device])?;
        std::fs::create_dir(&self.mount).context("making the mount point")?;
        let mount = self.mount.to_str().context("the folder's name is not UTF-8")?;
        run("mount", &["-t", "xfs", device, mount])?;
        self.mounted = true;
        Ok(())
    }

    pub fn folder(&self) -> &Path {
        &self.mount
    }

    /// The device below it.
    pub fn disk(&self) -> &Disk {
        &self.disk
    }
}

impl Drop for Xfs {
    fn drop(&mut self) {
        if self.mounted
            && let Err(e) = run("umount", &[&self.mount.to_string_lossy()])
        {
            eprintln!("bench: unmounting {}: {e:#}", self.mount.display());
        }
        // Not there if making it failed before.
        std::fs::remove_dir(&self.mount).ok();
    }
}
