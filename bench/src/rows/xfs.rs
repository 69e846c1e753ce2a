//! An XFS of the row's own, in a file on a loop device.
//!
//! Needs root, mkfs.xfs and a loop device; the error says which is missing. Guarantees that it is
//! unmounted, detached and removed when dropped, also when making it failed half way. Called by
//! `writers.rs`.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;

use anyhow::Context;
use anyhow::Result;
use anyhow::ensure;

use crate::rows::plan::Plan;

/// mkfs.xfs refuses smaller ones.
const SIZE_MIN: u64 = 320 << 20;

/// A mounted file system.
#[derive(Debug)]
pub struct Xfs {
    image: PathBuf,
    mount: PathBuf,
    device: Option<String>,
    mounted: bool,
}

impl Xfs {
    /// Makes and mounts one with room for `data` bytes, on a loop device that bypasses the page cache.
    pub fn new(plan: &Plan, data: u64) -> Result<Self> {
        let folder = plan.folder.clone().unwrap_or_else(std::env::temp_dir);
        let name = format!("foliant-bench-{}-xfs", std::process::id());
        let (image, mount) = (folder.join(format!("{name}.img")), folder.join(name));
        let mut made = Self { image, mount, device: None, mounted: false };
        made.make(data, plan.quick)?;
        Ok(made)
    }

    fn make(&mut self, data: u64, quick: bool) -> Result<()> {
        let file = File::create_new(&self.image).context("making the image")?;
        let size = SIZE_MIN + data * 2;
        file.set_len(size)?;
        if !quick {
            let piece = vec![0x5a; 1 << 20];
            for at in (0..size).step_by(piece.len()) {
                file.write_all_at(&piece[..piece.len().min((size - at) as usize)], at)?;
            }
            file.sync_all()?;
        }
        let image = self.image.to_str().context("the folder's name is not UTF-8")?;
        let loop_device = run("losetup", &["--find", "--show", "--direct-io=on", image])?;
        let device = loop_device.trim().to_owned();
        self.device = Some(device.clone());
        run("mkfs.xfs", &["-q", "-f", "-K", &device])?;
        std::fs::create_dir(&self.mount).context("making the mount point")?;
        let mount = self.mount.to_str().context("the folder's name is not UTF-8")?;
        run("mount", &["-t", "xfs", &device, mount])?;
        self.mounted = true;
        Ok(())
    }

    pub fn folder(&self) -> &Path {
        &self.mount
    }
}

impl Drop for Xfs {
    fn drop(&mut self) {
        let report = |done: Result<String>| {
            if let Err(e) = done {
                eprintln!("bench: cleaning up {}: {e:#}", self.image.display());
            }
        };
        if self.mounted {
            report(run("umount", &[&self.mount.to_string_lossy()]));
        }
        if let Some(device) = self.device.take() {
            report(run("losetup", &["--detach", &device]));
        }
        // Not there if making it failed before.
        std::fs::remove_dir(&self.mount).ok();
        std::fs::remove_file(&self.image).ok();
    }
}

fn run(program: &str, arguments: &[&str]) -> Result<String> {
    let output = Command::new(program).args(arguments).output();
    let output = output.with_context(|| format!("{program} cannot be started"))?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{program} {}: {}", arguments.join(" "), errors.trim());
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
