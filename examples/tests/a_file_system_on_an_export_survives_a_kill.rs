//! An export as a real block device: a file system on it, files written and synced, the server killed
//! with SIGKILL, and everything looked at again; and programs that know nothing of it at work there. `nbdfuse`
//! shows the export as a file, and the loop driver makes a device of it, so that no kernel module for NBD is needed.
//!
//! It needs root, so it runs only when asked:
//! `FOLIANT_BLOCK_DEVICE=1 cargo test -p foliant-examples --test a_file_system_on_an_export_survives_a_kill`
//! Packages: libnbd-bin fuse3 e2fsprogs xfsprogs fio git; `cargo install fsx`, which makes
//! `FOLIANT_FSX_OPERATIONS` (20,000) of them for each of four seeds.
#![allow(clippy::unwrap_used)] // In a test, a failed unwrap is the failed test.

mod support;

use std::io::Write;
use std::path::Path;
use std::path::PathBuf;
use std::process::Child;
use std::process::Command;
use std::time::Duration;
use std::time::Instant;

use support::Dice;
use support::TempPath;
use support::nbd::Process;
use support::nbd::manage;
use support::process::is_there;
use support::process::skipped;

const ASKED: &str = "FOLIANT_BLOCK_DEVICE";

/// Runs a command; gives whether it succeeded and what it said.
fn try_run(command: &[&str]) -> (bool, String) {
    let out = Command::new(command[0]).args(&command[1..]).output();
    let out = out.unwrap_or_else(|cause| panic!("{command:?}: {cause}"));
    let said = [out.stdout, out.stderr].concat();
    (out.status.success(), String::from_utf8_lossy(&said).into_owned())
}

fn run(command: &[&str]) -> String {
    let (good, said) = try_run(command);
    assert!(good, "{command:?}: {said}");
    said
}

/// The export as a device, mounted. Everything is taken down with the value, in order.
struct Attached {
    fuse: PathBuf,
    nbdfuse: Child,
    device: String,
    mounted: PathBuf,
}

impl Attached {
    async fn new(server: &Process, base: &Path, export: &str) -> Self {
        let (fuse, mounted) = (base.join("fuse"), base.join("mounted"));
        std::fs::create_dir_all(&fuse).unwrap();
        std::fs::create_dir_all(&mounted).unwrap();
        let nbdfuse = Command::new("nbdfuse").arg(&fuse).arg(server.uri(export)).spawn().unwrap();
        let mut attached = Self { fuse, nbdfuse, device: String::new(), mounted };
        let file = attached.fuse.join("nbd");
        let started = Instant::now();
        while !file.exists() {
            assert!(started.elapsed() < Duration::from_secs(20), "nbdfuse shows nothing");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let found = run(&["losetup", "--find", "--show", file.to_str().unwrap()]);
        attached.device = found.trim().to_owned();
        attached
    }

    fn mount(&self) {
        run(&["mount", &self.device, self.mounted.to_str().unwrap()]);
    }

    fn unmount(&self) {
        run(&["umount", self.mounted.to_str().unwrap()]);
    }
}

impl Drop for Attached {
    fn drop(&mut self) {
        // Best effort: after a kill most of it hears errors.
        try_run(&["umount", "--lazy", self.mounted.to_str().unwrap()]);
        if !self.device.is_empty() {
            try_run(&["losetup", "--detach", &self.device]);
        }
        try_run(&["umount", "--lazy", self.fuse.to_str().unwrap()]);
        let _ = self.nbdfuse.kill();
        let _ = self.nbdfuse.wait();
    }
}

fn content(number: u64) -> Vec<u8> {
    let mut dice = Dice::new(number);
    let len = dice.below(200_000);
    dice.bytes(len as usize)
}

fn write_file(mounted: &Path, number: u64, sync: bool) {
    let mut file = std::fs::File::create(mounted.join(number.to_string())).unwrap();
    file.write_all(&content(number)).unwrap();
    if sync {
        file.sync_all().unwrap();
        // The name, too.
        std::fs::File::open(mounted).unwrap().sync_all().unwrap();
    }
}

async fn survives(kind: &str, make: &[&str], check: &[&str]) {
    if std::env::var_os(ASKED).is_none() {
        return skipped(&format!("{kind} on an export needs root and {ASKED}=1"));
    }
    let store = TempPath::new(&format!("nbd-{kind}-store"));
    let base = std::env::temp_dir().join(format!("foliant-nbd-{kind}-{}", std::process::id()));
    let made = manage(store.path(), &["create", "disk", "400MiB"]).await;
    assert!(made.status.success(), "{made:?}");
    let mut synced = 0;
    for round in 0..3 {
        let server = Process::start(store.path(), &["--quiet", "--store-size", "1GiB"]).await;
        let attached = Attached::new(&server, &base, "disk").await;
        if round == 0 {
            run(&[make, &[&attached.device]].concat());
        }
        attached.mount();
        for number in 0..synced {
            let found = std::fs::read(attached.mounted.join(number.to_string())).unwrap();
            assert!(found == content(number), "file {number} in round {round}");
        }
        attached.unmount();
        println!("{}", run(&[check, &[&attached.device]].concat()));
        attached.mount();
        for _ in 0..60 {
            write_file(&attached.mounted, synced, true);
            synced += 1;
        }
        // Others are on their way when the server dies.
        for number in 1_000_000..1_000_040 {
            write_file(&attached.mounted, number, false);
        }
        server.kill().await;
    }
    let server = Process::start(store.path(), &["--quiet"]).await;
    let attached = Attached::new(&server, &base, "disk").await;
    attached.mount();
    for number in 0..synced {
        let found = std::fs::read(attached.mounted.join(number.to_string())).unwrap();
        assert!(found == content(number), "file {number}");
    }
    attached.unmount();
    println!("{}", run(&[check, &[&attached.device]].concat()));
    drop(attached);
    server.terminate().await;
    std::fs::remove_dir_all(&base).unwrap();
}

/// Runs the file system exerciser on `file`, four seeds.
fn exercise(file: &Path, base: &Path, settings: &str) {
    if !is_there("fsx", "fsx of crates.io") {
        return;
    }
    let operations = std::env::var("FOLIANT_FSX_OPERATIONS").unwrap_or_else(|_| "20000".into());
    let (file, base) = (file.to_str().unwrap(), base.to_str().unwrap());
    let config = format!("{base}/fsx.toml");
    std::fs::write(&config, settings).unwrap();
    for seed in ["1", "2", "3", "4"] {
        run(&["fsx", "-q", "-q", "-P", base, "-f", &config, "-N", &operations, "-S", seed, file]);
    }
}

/// Everything that a program may do with a file of ext4.
const FILE: &str = "flen = 1048576\n[weights]\nclose_open = 1\ninvalidate = 1\nfsync = 1\nfdatasync = 1\n\
    posix_fallocate = 2\npunch_hole = 5\nsendfile = 2\nposix_fadvise = 2\ncopy_file_range = 5\n";
/// The same with a block device, which keeps its size.
const DEVICE: &str = "flen = 8388608\nblockmode = true\nnosizechecks = true\n[opsize]\nalign = 512\nmax = 262144\n\
    [weights]\ntruncate = 0\nclose_open = 0\nposix_fallocate = 0\ninvalidate = 1\nfsync = 1\npunch_hole = 5\n";

/// fio's own verification, with and without the page cache; a source tree, cloned, checked and built.
fn work_on(mounted: &Path) {
    let directory = format!("--directory={}", mounted.display());
    for direct in ["--direct=0", "--direct=1"] {
        if is_there("fio", "fio") {
            let job = ["fio", "--name=job", "--ioengine=libaio", "--iodepth=16", "--rw=randwrite"];
            let data = [
                "--bsrange=4k-64k",
                "--size=48m",
                "--verify=crc32c",
                "--verify_fatal=1",
                "--verify_state_save=0",
                "--end_fsync=1",
            ];
            run(&[&job[..], &data, &[direct, &directory]].concat());
        }
    }
    let tree = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    if is_there("git", "git") && tree.join(".git").exists() {
        let copy = mounted.join("tree").to_str().unwrap().to_owned();
        run(&["git", "clone", "--quiet", "--no-hardlinks", tree.to_str().unwrap(), &copy]);
        run(&["git", "-C", &copy, "fsck", "--strict"]);
        let manifest = format!("{copy}/Cargo.toml");
        let build =
            ["build", "--quiet", "--offline", "-p", "foliant-device", "--manifest-path", &manifest];
        let target = ["--target-dir", &format!("{copy}/target")];
        run(&[&[env!("CARGO")][..], &build, &target].concat());
        run(&["git", "-C", &copy, "fsck", "--strict"]);
    }
}

/// Programs that know nothing of Foliant, on ext4 on an export, and on the device itself.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn programs_are_at_home_on_it() {
    if std::env::var_os(ASKED).is_none() {
        return skipped(&format!("programs on an export need root and {ASKED}=1"));
    }
    let store = TempPath::new("nbd-programs-store");
    let base = std::env::temp_dir().join(format!("foliant-nbd-programs-{}", std::process::id()));
    // Whoever comes first makes the store, and says how large it is.
    Process::start(store.path(), &["--quiet", "--store-size", "2GiB"]).await.terminate().await;
    for (name, size) in [("disk", "1GiB"), ("bare", "16MiB")] {
        let made = manage(store.path(), &["create", name, size]).await;
        assert!(made.status.success(), "{made:?}");
    }
    let server = Process::start(store.path(), &["--quiet"]).await;
    let attached = Attached::new(&server, &base, "disk").await;
    run(&["mkfs.ext4", "-q", &attached.device]);
    attached.mount();
    exercise(&attached.mounted.join("file"), &base, FILE);
    work_on(&attached.mounted);
    attached.unmount();
    println!("{}", run(&["e2fsck", "-fn", &attached.device]));
    drop(attached);
    let attached = Attached::new(&server, &base, "bare").await;
    exercise(Path::new(&attached.device), &base, DEVICE);
    drop(attached);
    server.terminate().await;
    std::fs::remove_dir_all(&base).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ext4() {
    survives("ext4", &["mkfs.ext4", "-q"], &["e2fsck", "-fn"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn xfs() {
    survives("xfs", &["mkfs.xfs", "-q"], &["xfs_repair", "-n"]).await;
}
