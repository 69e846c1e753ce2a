//! Runs every workload on every target for a fraction of a second, through the program itself.
//!
//! Guarantees that the figures are there, that all bytes were compared and right, and that no file
//! is left behind. Does not judge the figures.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is the failed test")]

use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::process::Output;

use serde_json::Value;

const MEASURED: [&str; 8] = [
    "random-read",
    "random-write-sync",
    "sequential-read",
    "sequential-write",
    "cached-read",
    "durable-commit-1",
    "durable-commit-16",
    "durable-commit-64",
];

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

fn bench(line: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_bench")).args(line).output().unwrap()
}

/// Runs, and gives the report; panics with the program's words when it failed.
fn report(folder: &Folder, line: &[&str]) -> Value {
    let json = folder.0.join("report.json");
    let own = ["--folder", folder.0.to_str().unwrap(), "--json", json.to_str().unwrap()];
    let output = bench(&[line, &own].concat());
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{line:?}: {said}{}", String::from_utf8_lossy(&output.stdout));
    let report: Value = serde_json::from_slice(&std::fs::read(&json).unwrap()).unwrap();
    assert_eq!(report["verified"], true, "{line:?}: {report}");
    std::fs::remove_file(json).unwrap();
    let left: Vec<_> = std::fs::read_dir(&folder.0).unwrap().collect();
    assert!(left.is_empty(), "{line:?} left {left:?}");
    report
}

fn run(folder: &Folder, workload: &str, target: &str) -> Value {
    let small = ["--size", "16MiB", "--memory", "24MiB", "--seconds", "0.1", "--no-write-out"];
    report(folder, &[&["run", workload, "--target", target], &small[..]].concat())
}

#[test]
fn every_measured_workload_gives_figures_and_right_bytes() {
    let folder = Folder::new("measured");
    for workload in MEASURED {
        for target in ["foliant", "raw", "buffered"] {
            let report = run(&folder, workload, target);
            let figures = &report["figures"];
            assert!(figures["ops"].as_u64().unwrap() > 0, "{workload} on {target}: {report}");
            let latency = &figures["latency"];
            assert_eq!(latency["count"], figures["ops"], "{workload} on {target}");
            assert!(latency["p50_us"].as_f64().unwrap() > 0.0, "{workload} on {target}");
            assert!(report["peak_memory_bytes"].as_u64().unwrap() > 1 << 20);
            assert!(report["backend"].as_str().unwrap().contains('('), "no reason: {report}");
            assert_eq!(report["blocks_compared"].as_u64().map(|n| n >= 4096), Some(true));
            let barriers = figures["device_barriers_per_op"].as_f64();
            if workload.starts_with("durable-commit") && target != "buffered" {
                assert!(barriers.unwrap() > 0.0, "{workload} on {target}: {report}");
            }
        }
    }
}

#[test]
fn a_fill_is_verified_after_reopen() {
    let folder = Folder::new("fill");
    for target in ["foliant", "raw", "buffered"] {
        let report = run(&folder, "fill-verify", target);
        assert_eq!(report["blocks_compared"], 4096);
        let phases: Vec<_> = report["phases"].as_array().unwrap().iter().map(|p| &p[0]).collect();
        assert!(phases.iter().any(|p| *p == "reopen"), "{phases:?}");
    }
}

#[test]
fn a_killed_child_loses_nothing_that_it_acknowledged() {
    let folder = Folder::new("kill");
    for target in ["foliant", "raw"] {
        let report = run(&folder, "kill-reopen", target);
        assert_eq!(report["blocks_compared"], 4096);
        assert_eq!(report["recovery"].is_object(), target == "foliant");
    }
}

#[test]
fn a_comparison_gives_one_ratio_for_each_pair() {
    let folder = Folder::new("compare");
    let line = ["compare", "durable-commit-1", "--rounds", "2", "--seconds", "0.05"];
    let small = ["--size", "16MiB", "--memory", "24MiB", "--no-write-out"];
    let report = report(&folder, &[&line[..], &small[..]].concat());
    assert_eq!(report["ratios"].as_array().unwrap().len(), 4);
    let [low, middle, high] = ["ratio_low", "median_ratio", "ratio_high"].map(|name| &report[name]);
    assert!(low.as_f64().unwrap() <= middle.as_f64().unwrap());
    assert!(middle.as_f64().unwrap() <= high.as_f64().unwrap());
}

#[test]
fn what_is_in_the_way_is_named() {
    let folder = Folder::new("refused");
    let file = folder.0.join("precious");
    std::fs::write(&file, "precious").unwrap();
    let named = ["run", "random-read", "--target", "raw", "--file", file.to_str().unwrap()];
    let refused = bench(&named);
    assert!(!refused.status.success());
    assert!(String::from_utf8_lossy(&refused.stderr).contains("--overwrite"));
    assert_eq!(std::fs::read(&file).unwrap(), b"precious");
    let unknown = bench(&["run", "no-such", "--target", "raw"]);
    assert!(String::from_utf8_lossy(&unknown.stderr).contains("sequential-read"));
    let list = bench(&["list"]);
    let said = String::from_utf8_lossy(&list.stdout).into_owned();
    assert!(MEASURED.iter().all(|name| said.contains(name)), "{said}");
}
