//! Inputs that fuzzing found worth keeping, and everything of theirs cut short, run as ordinary tests:
//! whatever clients send, there is an answer and no panic.
//!
//! The corpus lies in `examples/fuzz/corpus`, a folder for each target; `examples/fuzz/README.md` says how to search on.

#![allow(clippy::unwrap_used)] // In helpers of tests as in tests: a failed unwrap is the failed test.

use std::path::Path;

use foliant_examples::fuzz;

fn run(target: &str, entry: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let mut count = 0;
    for file in std::fs::read_dir(&folder).unwrap() {
        let path = file.unwrap().path();
        let bytes = std::fs::read(&path).unwrap();
        eprintln!("{target}: {}", path.display());
        for len in 0..=bytes.len() {
            entry(&bytes[..len]);
        }
        count += 1;
    }
    assert!(count > 0, "no corpus in {}", folder.display());
}

#[test]
fn redis_clients() {
    run("resp", fuzz::resp);
}

#[test]
fn clients_of_block_devices() {
    run("nbd", fuzz::nbd);
}
