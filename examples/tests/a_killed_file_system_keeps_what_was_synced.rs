//! SIGKILL of the server in the middle of everything, again and again, and what must be there afterwards: synced
//! files whole, renames old or new, no contradiction in the tree, no orphan left behind the next mount, and a sound
//! store below.
#![allow(clippy::unwrap_used)] // In a test, a failed unwrap is the failed test.

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::fs::File;
use std::io;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;
use std::time::SystemTime;

use support::Dice;
use support::fuse::Ground;
use support::fuse::comes_back;

/// The content of a synced file, by its name alone.
fn content(number: u64) -> Vec<u8> {
    let mut dice = Dice::new(number);
    let len = dice.below(60_000) as usize;
    let mut bytes = number.to_le_bytes().to_vec();
    bytes.resize(8 + len, number as u8);
    bytes
}

/// What one writer was told is durable: files by their numbers, and how often the swapped file was replaced.
#[derive(Debug, Default)]
struct Durable {
    files: BTreeMap<u64, bool>,
    swaps: u64,
}

fn sync_directory(at: &Path) -> io::Result<()> {
    File::open(at)?.sync_all()
}

/// Works until the server is gone. Everything that is noted in `durable` was answered.
fn work(at: &Path, worker: u64, round: u64, durable: &mut Durable) -> io::Result<()> {
    let mut dice = Dice::new(worker << 32 | round);
    let own = at.join(format!("worker-{worker}"));
    fs::create_dir_all(own.join("sub"))?;
    for step in 0.. {
        let number = worker << 48 | round << 32 | step;
        let path = own.join(number.to_string());
        match dice.below(10) {
            0..4 => {
                let mut file = File::create(&path)?;
                file.write_all(&content(number))?;
                file.sync_all()?;
                durable.files.insert(number, true);
            }
            4 => {
                // Replaced in one step, as programs do it.
                let (new, old) = (own.join("new"), own.join("swapped"));
                let mut file = File::create(&new)?;
                file.write_all(format!("{:>4096}", durable.swaps + 1).as_bytes())?;
                file.sync_all()?;
                fs::rename(&new, &old)?;
                sync_directory(&own)?;
                durable.swaps += 1;
            }
            5 => {
                let Some((&number, _)) = durable.files.iter().find(|(_, there)| **there) else {
                    continue;
                };
                // From here on it may be there or not.
                durable.files.remove(&number);
                fs::remove_file(own.join(number.to_string()))?;
                sync_directory(&own)?;
                durable.files.insert(number, false);
            }
            6 => {
                let linked = own.join("sub").join(format!("link-{number}"));
                fs::write(&path, b"loose")?;
                fs::hard_link(&path, &linked)?;
                fs::rename(&path, own.join("sub").join("moved"))?;
                fs::remove_file(&linked)?;
            }
            7 => {
                let tree = own.join(format!("tree-{}", step % 3));
                fs::create_dir_all(tree.join("a/b"))?;
                fs::rename(tree.join("a"), own.join("sub").join(format!("a-{number}")))?;
                fs::remove_dir_all(&tree)?;
            }
            8 => {
                let file = File::create(&path)?;
                rustix::fs::fsetxattr(&file, "user.n", b"1", rustix::fs::XattrFlags::empty())?;
                fs::remove_file(&path)?;
                file.write_all_at(&[1; 5000], 100_000)?;
            }
            _ => {
                let file = File::create(own.join("churned"))?;
                file.write_all_at(&vec![step as u8; 300_000], dice.below(1_000_000))?;
                file.set_len(dice.below(900_000))?;
            }
        }
    }
    Ok(())
}

fn verify(at: &Path, worker: u64, durable: &Durable) {
    let own = at.join(format!("worker-{worker}"));
    for (number, there) in &durable.files {
        let found = fs::read(own.join(number.to_string()));
        match there {
            true => assert!(found.unwrap() == content(*number), "file {number} of {worker}"),
            false => assert!(found.is_err(), "file {number} of {worker} was removed"),
        }
    }
    if durable.swaps > 0 {
        let found = fs::read_to_string(own.join("swapped")).unwrap();
        assert_eq!(found.len(), 4096, "whole, whichever it is");
        let found: u64 = found.trim().parse().unwrap();
        assert!(found >= durable.swaps, "{found} after {} swaps", durable.swaps);
    }
}

/// Every file can be read from end to end.
fn read_all(at: &Path) -> u64 {
    let mut count = 0;
    for entry in fs::read_dir(at).unwrap() {
        let entry = entry.unwrap();
        count += 1;
        match entry.file_type().unwrap() {
            kind if kind.is_dir() => count += read_all(&entry.path()),
            _ => assert_eq!(
                fs::read(entry.path()).unwrap().len() as u64,
                entry.metadata().unwrap().len()
            ),
        }
    }
    count
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn synced_files_are_whole_and_the_tree_is_consistent() {
    let Some(ground) = Ground::new("killed") else { return };
    let rounds = std::env::var("FOLIANT_KILLS").ok().and_then(|n| n.parse().ok()).unwrap_or(5);
    let workers = 3;
    let mut durable: Vec<Durable> = (0..workers).map(|_| Durable::default()).collect();
    let mut dice = Dice::new(7);
    for round in 0..rounds {
        let mounted = ground.mount_with(&["--store-size", "512MiB", "--memory", "32MiB"]).await;
        assert!(round > 0 || !is_free(&ground), "the store is in use");
        for (worker, durable) in durable.iter().enumerate() {
            verify(&mounted.at, worker as u64, durable);
        }
        let at = mounted.at.clone();
        let threads: Vec<_> = std::mem::take(&mut durable)
            .into_iter()
            .enumerate()
            .map(|(worker, mut durable)| {
                let at = at.clone();
                std::thread::spawn(move || {
                    let ended = work(&at, worker as u64, round, &mut durable);
                    println!("worker {worker}: {ended:?}, {} files", durable.files.len());
                    durable
                })
            })
            .collect();
        tokio::time::sleep(Duration::from_millis(300 + dice.below(900))).await;
        mounted.kill().await;
        let ended = tokio::task::spawn_blocking(move || {
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        durable = ended.await.unwrap();
        assert!(durable.iter().any(|d| !d.files.is_empty()), "nothing was done");
        // Before the next mount: whole, with orphans perhaps.
        println!("round {round}: {:?}", ground.is_sound().await);
    }
    let mounted = ground.mount().await;
    for (worker, durable) in durable.iter().enumerate() {
        verify(&mounted.at, worker as u64, durable);
    }
    println!("{} names", read_all(&mounted.at));
    // Nothing of all that is in the way of removing it.
    for worker in 0..workers {
        fs::remove_dir_all(mounted.path(&format!("worker-{worker}"))).unwrap();
    }
    mounted.unmount().await;
    let report = ground.is_sound().await;
    assert_eq!((report.inodes, report.orphans), (1, 0));
}

/// Whether a second process can look at the store beside the server.
fn is_free(ground: &Ground) -> bool {
    let mut second = std::process::Command::new(env!("CARGO_BIN_EXE_fuse"));
    second.args(["check", "--store"]).arg(ground.store());
    second.output().unwrap().status.success()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn orphans_give_their_room_back_after_a_kill() {
    let Some(ground) = Ground::new("orphans") else { return };
    let mounted = ground.mount().await;
    let free = rustix::fs::statvfs(&mounted.at).unwrap().f_bfree;
    let mut held = Vec::new();
    for number in 0..40 {
        let path = mounted.path(&number.to_string());
        let file = File::create(&path).unwrap();
        file.write_all_at(&vec![number; 1 << 20], 0).unwrap();
        rustix::fs::fsetxattr(&file, "user.x", b"1", rustix::fs::XattrFlags::empty()).unwrap();
        if number % 2 == 0 {
            fs::hard_link(&path, mounted.path("link")).unwrap();
            fs::remove_file(mounted.path("link")).unwrap();
        }
        file.sync_all().unwrap();
        fs::remove_file(&path).unwrap();
        held.push(file);
    }
    sync_directory(&mounted.at).unwrap();
    assert_eq!(held[5].metadata().unwrap().nlink(), 0);
    mounted.kill().await;
    drop(held);
    let report = ground.is_sound().await;
    assert_eq!((report.inodes, report.orphans), (41, 40));
    let mounted = ground.mount().await;
    assert_eq!(fs::read_dir(&mounted.at).unwrap().count(), 0);
    comes_back(&mounted.at, free - 200).await;
    // An orphan of a server that ends in order goes with it.
    let file = File::create(mounted.path("last")).unwrap();
    fs::remove_file(mounted.path("last")).unwrap();
    let at = mounted.at.clone();
    mounted.terminate().await;
    assert!(file.sync_all().is_err(), "the server is gone from {}", at.display());
    let report = ground.is_sound().await;
    assert_eq!((report.inodes, report.orphans), (1, 0));
}

/// A time that was seen, and is there after a crash, stands over the bytes that were seen with it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn new_bytes_have_a_new_time() {
    let Some(ground) = Ground::new("times") else { return };
    let mut seen: BTreeMap<u64, Vec<(SystemTime, u8)>> = BTreeMap::new();
    for round in 0..4_u8 {
        let mounted = ground.mount().await;
        let path = |number: u64| mounted.path(&number.to_string());
        for (number, pairs) in &mut seen {
            let bytes = fs::read(path(*number)).unwrap();
            let now = fs::metadata(path(*number)).unwrap().modified().unwrap();
            let is_true = |(time, byte): &(SystemTime, u8)| *time != now || *byte == bytes[0];
            assert!(pairs.iter().all(is_true), "{number}: another byte, and a time of before");
            // Seen now, before anything is written.
            pairs.push((now, bytes[0]));
        }
        for number in 0..50 {
            let mut options = File::options();
            let file = options.create(true).write(true).truncate(false).open(path(number)).unwrap();
            file.write_all_at(&[round * 2; 5000], 0).unwrap();
            let time = file.metadata().unwrap().modified().unwrap();
            file.sync_data().unwrap();
            seen.entry(number).or_default().push((time, round * 2));
            // Within the window of the first write, made durable without its time.
            file.write_all_at(&[round * 2 + 1; 5000], 0).unwrap();
            file.sync_data().unwrap();
        }
        mounted.kill().await;
        ground.is_sound().await;
    }
}
