//! Runs every row in a tiny size, through the program itself.
//!
//! Guarantees that the figures are there or that what is missing was named, that all bytes were
//! right, and that no file, mount or cgroup is left behind. Does not judge the figures.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is the failed test")]

use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::process::Output;

use serde_json::Value;

const ROWS: [&str; 23] = [
    "a1", "a2", "a3", "b1", "b2", "b3", "c1", "c2", "d1", "d2", "d3", "d4", "e1", "e2", "e3", "f",
    "g1", "g2", "h1", "h2", "h3", "h4", "writers",
];
const WANT_FIO: [&str; 6] = ["b1", "b2", "b3", "c1", "c2", "g1"];
/// Rows that may find no loop device to work on; then they hold no data that could be wrong.
const WANT_LOOP: [&str; 8] = ["d1", "d2", "d3", "d4", "e1", "e2", "e3", "h3"];
/// Contests that are not made of pairs of blocks.
const NO_PAIRS: [&str; 4] = ["f", "d4", "g2", "e3"];

/// An empty folder of the test's own, removed at its end.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        std::fs::remove_dir_all(&path).ok();
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.0).ok();
    }
}

fn quick(folder: &Folder, row: &str, prepare: impl Fn(&mut Command)) -> (Value, Output) {
    let json = folder.0.join("outcome.json");
    let mut command = Command::new(env!("CARGO_BIN_EXE_bench"));
    command.args(["row", row, "--quick", "--folder", folder.0.to_str().unwrap()]);
    command.args(["--json", json.to_str().unwrap()]);
    prepare(&mut command);
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{row}: {said}");
    let outcome: Value = serde_json::from_slice(&std::fs::read(&json).unwrap()).unwrap();
    std::fs::remove_file(json).unwrap();
    let left: Vec<_> = std::fs::read_dir(&folder.0).unwrap().collect();
    assert!(left.is_empty(), "{row} left {left:?}");
    (outcome, output)
}

fn said(output: &Output) -> String {
    let all = [&output.stdout[..], &output.stderr[..]].concat();
    String::from_utf8_lossy(&all).into_owned()
}

fn list<'a>(outcome: &'a Value, name: &str) -> &'a Vec<Value> {
    outcome[name].as_array().unwrap()
}

#[test]
fn every_row_gives_figures_or_says_what_is_missing() {
    let folder = Folder::new("rows");
    for row in ROWS {
        let (outcome, output) = quick(&folder, row, |_| ());
        let contests = list(&outcome, "contests");
        let skipped = list(&outcome, "skipped");
        assert!(!contests.is_empty() || !skipped.is_empty(), "{row}: {outcome}");
        for contest in contests {
            let figure = |name: &str| contest[name].as_f64().unwrap();
            assert!(figure("low") <= figure("median"), "{row}: {contest}");
            assert!(figure("median") <= figure("high"), "{row}: {contest}");
            let blocks = list(contest, "blocks");
            let rate = |b: &Value| b["ops_per_second"].as_f64().unwrap();
            assert!(blocks.iter().all(|b| rate(b) > 0.0), "{row}: {contest}");
            let pairs = blocks.len() == 4 || (NO_PAIRS.contains(&row) && blocks.is_empty());
            assert!(pairs, "{row}: {contest}");
        }
        for verdict in list(&outcome, "verdicts") {
            assert_eq!(verdict["verified"], true, "{row}: {verdict}");
        }
        let excused = WANT_LOOP.contains(&row) && contests.is_empty();
        assert!(excused || !list(&outcome, "verdicts").is_empty(), "{row}");
        assert!(said(&output).contains("blocks compared"), "{row}");
    }
}

#[test]
fn without_fio_a_row_says_so_loudly_and_gives_its_own_figure() {
    let folder = Folder::new("no-fio");
    for row in WANT_FIO {
        let (outcome, output) = quick(&folder, row, |command| {
            command.env("PATH", "/nonexistent");
        });
        let skipped = list(&outcome, "skipped");
        assert!(skipped.iter().any(|s| s.as_str().unwrap().contains("fio")), "{row}: {outcome}");
        assert!(list(&outcome, "contests").is_empty(), "{row}: {outcome}");
        let words = said(&output);
        assert!(words.matches("SKIPPED").count() >= 2, "{row}: {words}");
        assert!(words.contains("alone") && words.contains("ops/s"), "{row}: {words}");
    }
}

#[test]
fn a_row_that_is_not_there_is_refused_with_all_that_are() {
    let bench = |line: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_bench")).args(line).output().unwrap();
        (output.status.success(), said(&output))
    };
    let (good, words) = bench(&["row", "list"]);
    assert!(good && ROWS.iter().all(|row| words.contains(row)), "{words}");
    let (good, words) = bench(&["row", "z9"]);
    assert!(!good && words.contains("writers"), "{words}");
    let (good, words) = bench(&["row", "b1", "--size", "5MiB"]);
    assert!(!good && words.contains("8MiB"), "{words}");
}
