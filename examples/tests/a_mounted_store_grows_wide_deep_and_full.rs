//! A mounted store at its edges: one directory with very many files, a tree deeper than any path, as many names as
//! an inode may have, names of all lengths and bytes at once, and a store that is filled by small files.
//!
//! By hand: `FOLIANT_FILES=1000000 FOLIANT_LINKS=65000 cargo test --release -p foliant-examples --test
//! a_mounted_store_grows_wide_deep_and_full -- --nocapture --test-threads=1`
#![allow(clippy::unwrap_used)] // In a test, a failed unwrap is the failed test.

mod support;

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::ffi::OsString;
use std::fs;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Instant;

use rustix::fs::AtFlags;
use rustix::fs::Mode;
use rustix::fs::OFlags;
use rustix::io::Errno;
use support::Dice;
use support::fuse::Ground;
use support::fuse::Mounted;
use support::fuse::comes_back;
use support::fuse::errno;
use support::fuse::run;
use tokio::process::Command;

fn code(errno: Errno) -> i32 {
    errno.raw_os_error()
}

fn number(name: &str, or: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(or)
}

/// Megabytes that the server holds.
fn resident(mounted: &Mounted) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", mounted.child.id().unwrap()));
    let status = status.unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() >> 10
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_directory_holds_very_many_files() {
    let Some(ground) = Ground::new("wide") else { return };
    let count = number("FOLIANT_FILES", 5_000);
    let mounted = ground.mount_with(&["--store-size", "4GiB", "--memory", "128MiB"]).await;
    let at = mounted.path("wide");
    fs::create_dir(&at).unwrap();
    let path = |number: u64| at.join(format!("file-{number}"));
    each(&mounted, count, "made", |number| drop(File::create_new(path(number)).unwrap()));
    each(&mounted, count, "looked at", |number| {
        assert_eq!(fs::metadata(path(number)).unwrap().len(), 0)
    });
    list(&at, count, &mounted);
    each(&mounted, count, "written", |number| {
        fs::write(path(number), number.to_le_bytes()).unwrap()
    });
    mounted.unmount().await;
    let mounted = ground.mount_with(&["--memory", "128MiB"]).await;
    println!("mounted again: the server holds {} MiB", resident(&mounted));
    list(&at, count, &mounted);
    each(&mounted, count, "read", |number| {
        assert_eq!(fs::read(path(number)).unwrap(), number.to_le_bytes())
    });
    each(&mounted, count, "removed", |number| fs::remove_file(path(number)).unwrap());
    fs::remove_dir(&at).unwrap();
    mounted.unmount().await;
    assert_eq!(ground.is_sound().await.inodes, 1);
}

/// Does something with each of `count` files, and says what that took.
fn each(mounted: &Mounted, count: u64, what: &str, work: impl Fn(u64)) {
    let started = Instant::now();
    (0..count).for_each(work);
    let (us, rss) = (started.elapsed().as_micros() as u64 / count, resident(mounted));
    println!("{what}: {us} us each, the server holds {rss} MiB");
}

/// Each name is there once.
fn list(at: &Path, count: u64, mounted: &Mounted) {
    let started = Instant::now();
    let mut seen = vec![false; count as usize];
    for entry in fs::read_dir(at).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let number: usize = name.strip_prefix("file-").unwrap().parse().unwrap();
        assert!(!std::mem::replace(&mut seen[number], true), "{name} twice");
    }
    assert!(seen.iter().all(|seen| *seen));
    let (ms, rss) = (started.elapsed().as_millis(), resident(mounted));
    println!("listed {count} in {ms} ms, the server holds {rss} MiB");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_inode_has_as_many_names_as_it_may() {
    let Some(ground) = Ground::new("links") else { return };
    let most = foliant_examples::fuse::limits::LINKS_MAX;
    let count = number("FOLIANT_LINKS", 2_000).min(most.into());
    let mounted = ground.mount_with(&["--store-size", "1GiB", "--memory", "64MiB"]).await;
    let path = |number: u64| mounted.path(&format!("name-{number}"));
    fs::write(path(0), b"one").unwrap();
    for number in 1..count {
        fs::hard_link(path(number - 1), path(number)).unwrap();
    }
    let last = fs::metadata(path(count - 1)).unwrap();
    assert_eq!(last.nlink(), count);
    if count == u64::from(most) {
        assert_eq!(errno(fs::hard_link(path(0), path(count))), code(Errno::MLINK));
        assert_eq!(fs::metadata(path(0)).unwrap().nlink(), count);
        // One goes, one comes.
        fs::remove_file(path(7)).unwrap();
        fs::hard_link(path(0), path(7)).unwrap();
        assert_eq!(errno(fs::hard_link(path(0), path(count))), code(Errno::MLINK));
        // A directory that holds it is none of its names.
        fs::rename(path(8), path(9)).unwrap();
        fs::remove_file(path(8)).unwrap();
    }
    for number in 0..count - 1 {
        let gone = fs::remove_file(path(number));
        assert!(gone.is_ok() || number == 8, "{number}");
    }
    assert_eq!(fs::metadata(path(count - 1)).unwrap().nlink(), 1);
    assert_eq!(fs::read(path(count - 1)).unwrap(), b"one");
    // A directory may hold more of them than an inode may have names: each of these only counts.
    for number in 0..count {
        fs::create_dir(mounted.path(&format!("directory-{number}"))).unwrap();
    }
    assert_eq!(fs::metadata(&mounted.at).unwrap().nlink(), 2 + count);
    mounted.unmount().await;
    assert_eq!(ground.is_sound().await.directories, 1 + count);
}

fn below(directory: &OwnedFd, name: &str) -> OwnedFd {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY;
    rustix::fs::openat(directory, name, flags, Mode::empty()).unwrap()
}

/// Much deeper than what one path can say; whole branches of it are moved.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tree_is_deeper_than_a_path() {
    const DEPTH: usize = 2_000;
    let Some(ground) = Ground::new("deep") else { return };
    let mounted = ground.mount().await;
    let root = || OwnedFd::from(File::open(&mounted.at).unwrap());
    let name = "d".repeat(20);
    let mut at = root();
    for _ in 0..DEPTH {
        rustix::fs::mkdirat(&at, &name, Mode::from(0o755)).unwrap();
        at = below(&at, &name);
    }
    let deepest = at.try_clone().unwrap();
    let flags = OFlags::CREATE | OFlags::WRONLY;
    let file = rustix::fs::openat(&at, "file", flags, Mode::from(0o644)).unwrap();
    assert_eq!(rustix::io::write(&file, b"deep"), Ok(4));
    // What lies above may not come to lie below.
    let top = root();
    let refused = rustix::fs::renameat(&top, &name, &at, "above");
    assert_eq!(refused, Err(Errno::INVAL));
    // Half of it goes elsewhere, and is still whole.
    let mut middle = root();
    for _ in 0..DEPTH / 2 {
        middle = below(&middle, &name);
    }
    rustix::fs::renameat(&middle, &name, &top, "half").unwrap();
    assert_eq!(rustix::fs::renameat(&top, "half", &deepest, "above"), Err(Errno::INVAL));
    rustix::fs::renameat(&top, &name, &deepest, "above").unwrap();
    drop((top, at, middle, deepest, file));
    mounted.unmount().await;
    assert_eq!(ground.is_sound().await.directories, 1 + DEPTH as u64);
    let mounted = ground.mount().await;
    let mut at = below(&OwnedFd::from(File::open(&mounted.at).unwrap()), "half");
    for _ in 0..DEPTH - DEPTH / 2 - 1 {
        at = below(&at, &name);
    }
    let file = rustix::fs::openat(&at, "file", OFlags::RDONLY, Mode::empty()).unwrap();
    let mut bytes = [0; 9];
    assert_eq!(rustix::io::read(&file, &mut bytes), Ok(4));
    rustix::fs::unlinkat(&at, "file", AtFlags::empty()).unwrap();
    drop((at, file));
    // Tools walk it by descriptors.
    run(Command::new("rm").arg("-r").arg(mounted.path("half"))).await;
    mounted.unmount().await;
    assert_eq!(ground.is_sound().await.inodes, 1);
}

/// Names of each length, of any bytes, all in one directory.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_are_any_bytes_of_any_length() {
    let Some(ground) = Ground::new("any-name") else { return };
    let mut dice = Dice::new(11);
    let mounted = ground.mount().await;
    let at = mounted.path("names");
    fs::create_dir(&at).unwrap();
    let mut names = BTreeSet::new();
    for len in 1..=255 {
        for _ in 0..8 {
            let clean = |byte: u8| if matches!(byte, 0 | b'/') { b'.' } else { byte };
            let name: Vec<u8> = dice.bytes(len).into_iter().map(clean).collect();
            names.insert(OsString::from(OsStr::from_bytes(&name)));
        }
    }
    let single = (1..=255_u8).filter(|byte| !b"./".contains(byte));
    names.extend(single.map(|byte| OsString::from(OsStr::from_bytes(&[byte]))));
    names.remove(OsStr::new("."));
    names.remove(OsStr::new(".."));
    for name in &names {
        fs::write(at.join(name), name.as_bytes()).unwrap();
    }
    all_are_there(&at, &names);
    mounted.unmount().await;
    let mounted = ground.mount().await;
    all_are_there(&at, &names);
    mounted.unmount().await;
    assert_eq!(ground.is_sound().await.entries, 1 + names.len() as u64);
}

fn all_are_there(at: &Path, names: &BTreeSet<OsString>) {
    let listed = fs::read_dir(at).unwrap().map(|entry| entry.unwrap().file_name());
    assert_eq!(listed.collect::<BTreeSet<_>>(), *names);
    for name in names {
        assert_eq!(fs::read(at.join(name)).unwrap(), name.as_bytes());
    }
}

/// Makes small files until there is no room; gives how many.
fn fill(at: &Path, bytes: usize) -> u64 {
    fs::create_dir(at).unwrap();
    for number in 0.. {
        match fs::write(at.join(number.to_string()), vec![number as u8; bytes]) {
            Ok(()) => {}
            Err(cause) => {
                assert_eq!(cause.raw_os_error(), Some(code(Errno::NOSPC)), "{cause}");
                return number;
            }
        }
    }
    0
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn small_files_fill_a_store_and_go_again() {
    let Some(ground) = Ground::new("small-full") else { return };
    let mounted = ground.mount_with(&["--store-size", "24MiB", "--memory", "16MiB"]).await;
    let empty = rustix::fs::statvfs(&mounted.at).unwrap().f_bfree;
    for (round, bytes) in [5_000, 20_000, 5_000].into_iter().enumerate() {
        let at = mounted.path(&round.to_string());
        let count = fill(&at, bytes);
        println!("{count} files of {bytes} bytes");
        assert!(count > 200, "{count} files of {bytes} bytes");
        // Who is told that it was written finds it, and names can change.
        for number in (0..count).step_by(17) {
            let found = fs::read(at.join(number.to_string())).unwrap();
            assert!(found == vec![number as u8; bytes], "{number}");
        }
        fs::rename(at.join("0"), at.join("renamed")).unwrap();
        fs::remove_file(at.join("1")).unwrap();
        fs::remove_dir_all(&at).unwrap();
        comes_back(&mounted.at, empty - empty / 10).await;
    }
    mounted.unmount().await;
    assert_eq!(ground.is_sound().await.inodes, 1);
}
