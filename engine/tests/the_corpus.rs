//! Inputs that fuzzing found worth keeping, and everything of theirs cut short, run as ordinary tests:
//! whatever bytes are found on a device, there is an answer and no panic.
//!
//! The corpus lies in `engine/fuzz/corpus`, a folder for each target; `engine/fuzz/README.md` says how to search on.

#![allow(clippy::unwrap_used)] // In helpers of tests as in tests: a failed unwrap is the failed test.

use std::path::Path;

use foliant::testing::fuzz;

fn run(target: &str, entry: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let mut count = 0;
    for file in std::fs::read_dir(&folder).unwrap() {
        let path = file.unwrap().path();
        let bytes = std::fs::read(&path).unwrap();
        eprintln!("{target}: {}", path.display());
        entry(&bytes);
        entry(&bytes[..bytes.len() / 2]);
        count += 1;
    }
    assert!(count > 0, "no corpus in {}", folder.display());
    entry(&[]);
}

#[test]
fn superblocks() {
    run("superblock", fuzz::superblock);
}

#[test]
fn records() {
    run("records", fuzz::records);
}

#[test]
fn nodes() {
    run("node", fuzz::node);
}

#[test]
fn journals() {
    run("journal", fuzz::journal);
}

#[test]
fn images() {
    run("image", fuzz::image);
}
