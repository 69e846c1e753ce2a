//! The same operations on objects and on files of XFS: bytes, sizes, and where data must lie.
//!
//! Needs root and `mkfs.xfs`; says loudly that it is skipped without them. Whatever happens, the
//! file system is unmounted, its loop device detached and its image removed.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is the failed test")]

use std::path::Path;
use std::path::PathBuf;
use std::process::Command;

use foliant_bench::exercise::generate::stream;
use foliant_bench::exercise::run::Plan;
use foliant_bench::exercise::run::run;

const SEEDS: u64 = 10;
const OPS: usize = 2_000;
/// The smallest that `mkfs.xfs` makes.
const IMAGE_BYTES: u64 = 320 << 20;

/// Runs a program; its words on failure.
fn call(program: &str, arguments: &[&str]) -> Result<String, String> {
    let output = Command::new(program).args(arguments).output();
    let output = output.map_err(|cause| format!("{program}: {cause}"))?;
    match output.status.success() {
        true => Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned()),
        false => Err(format!("{program}: {}", String::from_utf8_lossy(&output.stderr).trim())),
    }
}

/// A mounted file system of its own; undone step by step when dropped, as far as it came.
struct Mounted {
    folder: PathBuf,
    device: Option<String>,
    mounted: bool,
}

impl Mounted {
    fn new(folder: &Path) -> Result<Self, String> {
        let mut this = Self { folder: folder.to_owned(), device: None, mounted: false };
        std::fs::create_dir_all(this.mount_point()).map_err(|cause| cause.to_string())?;
        let image = folder.join("image");
        let file = std::fs::File::create(&image).map_err(|cause| cause.to_string())?;
        file.set_len(IMAGE_BYTES).map_err(|cause| cause.to_string())?;
        let image = image.to_str().unwrap();
        call("mkfs.xfs", &["-q", "-f", "-b", "size=4096", image])?;
        this.device = Some(call("losetup", &["--find", "--show", image])?);
        let point = this.mount_point();
        call("mount", &["-t", "xfs", this.device.as_deref().unwrap(), point.to_str().unwrap()])?;
        this.mounted = true;
        Ok(this)
    }

    fn mount_point(&self) -> PathBuf {
        self.folder.join("mounted")
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let point = self.mount_point();
        let unmounted = !self.mounted || call("umount", &[point.to_str().unwrap()]).is_ok();
        let detached = match &self.device {
            Some(device) => call("losetup", &["--detach", device]).is_ok(),
            None => true,
        };
        if unmounted && detached {
            std::fs::remove_dir_all(&self.folder).ok();
        } else {
            println!("left behind: {} on {:?}", point.display(), self.device);
        }
    }
}

fn is_root() -> bool {
    call("id", &["-u"]).is_ok_and(|id| id == "0")
}

#[test]
fn twenty_thousand_operations_mean_the_same_to_both() {
    if !is_root() || call("mkfs.xfs", &["-V"]).is_err() {
        println!("SKIPPED: needs root and mkfs.xfs");
        return;
    }
    let name = format!("xfs-{}", std::process::id());
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let mounted = match Mounted::new(&folder) {
        Ok(mounted) => mounted,
        // Root of a container may neither have loop devices nor be allowed to mount.
        Err(cause) => return println!("SKIPPED: needs loop devices and mount: {cause}"),
    };
    for seed in 0..SEEDS {
        let plan = Plan { beside: Some(mounted.mount_point()), ..Plan::sim(seed) };
        let outcome = run(&plan, &stream(seed, OPS, 500), &mut |_| {});
        if let Err(failure) = outcome {
            panic!("seed {seed}, {failure}; replay it with `exercise --beside` on a mounted XFS");
        }
    }
}
