//! `fsx` of crates.io, the exerciser of file systems, on files of a mounted store: it knows what each byte must be,
//! and nothing of Foliant. Reads, writes, maps, truncation, holes, room, copies within the file, `sendfile`, advice
//! that empties the page cache, closing, syncs; and, because it knows no `O_DIRECT`, a loop device that does all its
//! reads, writes and discards on a file of the mount past the page cache.
//!
//! `cargo install fsx`, which makes `FOLIANT_FSX_OPERATIONS` (3,000) of them for each of four seeds and each kind;
//! packages: util-linux. By hand: `FOLIANT_FSX_OPERATIONS=50000 cargo test --release -p foliant-examples --test
//! the_exerciser_finds_nothing_on_a_mounted_file -- --nocapture`.
#![allow(clippy::unwrap_used)] // In a test, a failed unwrap is the failed test.

mod support;

use std::fs::File;
use std::path::Path;
use std::time::Duration;

use support::fuse::Ground;
use support::fuse::run;
use support::process::is_there;
use tokio::process::Command;
use tokio::time::timeout;

/// Everything that a program may do with a file. No operation of no bytes: `posix_fallocate` refuses it.
const ALL: &str = "flen = 1048576\nnomsyncafterwrite = true\n[opsize]\nmin = 1\n[weights]\nclose_open = 1\n\
    invalidate = 1\nfsync = 1\nfdatasync = 1\nposix_fallocate = 2\npunch_hole = 5\nsendfile = 2\n\
    posix_fadvise = 4\ncopy_file_range = 5\n";
/// The same with each map synced, on a file that is now in its record, now out of it.
const SMALL: &str = "flen = 6000\n[opsize]\nmin = 1\nmax = 700\n[weights]\nclose_open = 1\ninvalidate = 1\n\
    fsync = 3\nfdatasync = 3\nposix_fallocate = 2\npunch_hole = 5\nsendfile = 2\nposix_fadvise = 4\n\
    copy_file_range = 5\n";
/// Long ones, each a multiple of a sector, on a file that is larger than the memory of the server.
const LARGE: &str = "flen = 16777216\nnomsyncafterwrite = true\n[opsize]\nalign = 512\nmin = 512\nmax = 3145728\n\
    [weights]\nclose_open = 1\ninvalidate = 1\nfsync = 1\nfdatasync = 1\npunch_hole = 5\nposix_fadvise = 4\n\
    copy_file_range = 5\n";
/// A block device, which keeps its size.
const DEVICE: &str = "flen = 8388608\nblockmode = true\nnosizechecks = true\n[opsize]\nalign = 512\nmin = 512\n\
    max = 262144\n[weights]\ntruncate = 0\nclose_open = 0\nposix_fallocate = 0\ninvalidate = 1\nfsync = 3\n\
    punch_hole = 5\nposix_fadvise = 4\n";

const SEEDS: u64 = 4;

fn operations() -> u64 {
    let asked = std::env::var("FOLIANT_FSX_OPERATIONS");
    asked.ok().and_then(|text| text.parse().ok()).unwrap_or(3_000)
}

/// Runs the exerciser once. What it had expected stays beside the store if it fails.
async fn exercise(ground: &Ground, file: &Path, settings: &str, seed: u64) -> u64 {
    // Long ones take as long as many short ones.
    let operations = if settings == LARGE { operations() / 10 } else { operations() };
    let config = ground.beside("fsx.toml");
    std::fs::write(&config, settings).unwrap();
    let mut fsx = Command::new("fsx");
    fsx.args(["-q", "-q", "-N", &operations.to_string(), "-S", &seed.to_string(), "-f"]);
    fsx.arg(&config).arg("-P").arg(ground.beside("")).arg(file).kill_on_drop(true);
    let long = Duration::from_secs(120) + Duration::from_millis(50) * operations as u32;
    let out = timeout(long, fsx.output()).await.expect("the exerciser does not end").unwrap();
    let said = String::from_utf8_lossy(&[out.stdout, out.stderr].concat()).into_owned();
    assert!(out.status.success(), "seed {seed} of\n{settings}\n{said}");
    operations
}

/// A ground, if all that is needed is there.
fn ground(name: &str, tools: &[(&str, &str)]) -> Option<Ground> {
    let ground = Ground::new(name)?;
    tools.iter().all(|(tool, package)| is_there(tool, package)).then_some(ground)
}

/// All seeds on files, each on a mount of its own with little memory.
async fn on_files(name: &str, settings: &str, options: &str) {
    let Some(ground) = ground(name, &[("fsx", "fsx of crates.io")]) else { return };
    let (options, mut done) = (["--memory", "8MiB", "--options", options], 0);
    for seed in 1..=SEEDS {
        let mounted =
            ground.mount_with(&[&["--store-size", "256MiB"], &options[..]].concat()).await;
        done += exercise(&ground, &mounted.path("file"), settings, seed).await;
        let before = std::fs::read(mounted.path("file")).unwrap();
        match seed % 2 {
            0 => mounted.unmount().await,
            _ => mounted.terminate().await,
        }
        ground.is_sound().await;
        // What the exerciser left is what another mount finds.
        let mounted = ground.mount().await;
        assert!(std::fs::read(mounted.path("file")).unwrap() == before, "seed {seed}");
        std::fs::remove_file(mounted.path("file")).unwrap();
        mounted.unmount().await;
    }
    println!("{name}: {done} operations");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_a_file() {
    on_files("fsx-all", ALL, "").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_a_small_file() {
    on_files("fsx-small", SMALL, "").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_a_file_larger_than_memory() {
    on_files("fsx-large", LARGE, "").await;
}

/// Detaches it with the value.
struct Loop(String);

impl Loop {
    async fn new(file: &Path) -> Self {
        let mut losetup = Command::new("losetup");
        let said = run(losetup.args(["--find", "--show", "--direct-io=on"]).arg(file)).await;
        Self(said.trim().to_owned())
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = std::process::Command::new("losetup").args(["--detach", &self.0]).status();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn past_the_page_cache() {
    let tools = [("fsx", "fsx of crates.io"), ("losetup", "util-linux")];
    let Some(ground) = ground("fsx-direct", &tools) else { return };
    for seed in 1..=SEEDS {
        let mounted = ground.mount_with(&["--store-size", "256MiB", "--memory", "8MiB"]).await;
        let path = mounted.path("disk");
        File::create(&path).unwrap().set_len(8 << 20).unwrap();
        let device = Loop::new(&path).await;
        let mut ask = Command::new("losetup");
        let said = run(ask.args(["--noheadings", "--output", "DIO", &device.0])).await;
        assert_eq!(said.trim(), "1", "the loop device goes through the page cache");
        exercise(&ground, Path::new(&device.0), DEVICE, seed).await;
        drop(device);
        mounted.unmount().await;
        ground.is_sound().await;
    }
    println!("past the page cache: {} operations", SEEDS * operations());
}
