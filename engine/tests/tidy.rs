//! The floor plan and the bars of the house, checked on the sources themselves.
//!
//! Every rule reads tables in `tidy/plan.rs`, and `tidy/canaries.rs` proves of each that it fires.
//! Does not parse Rust: it reads lines that went through rustfmt.

use std::path::Path;
use std::path::PathBuf;
use std::process::Command;

#[path = "tidy/canaries.rs"]
mod canaries;
#[path = "tidy/house.rs"]
mod house;
#[path = "tidy/imports.rs"]
mod imports;
#[path = "tidy/plan.rs"]
mod plan;
#[path = "tidy/rules.rs"]
mod rules;
#[path = "tidy/source.rs"]
mod source;

use source::File;

fn root() -> PathBuf {
    let engine = Path::new(env!("CARGO_MANIFEST_DIR"));
    engine.parent().expect("the crate lies in the workspace").to_owned()
}

fn sources() -> Vec<File> {
    let crates = plan::CRATES.iter().map(|row| row.0);
    let all: Vec<File> = crates.flat_map(|k| source::read_crate(&root(), k)).collect();
    assert!(all.len() > 20, "only {} files: a wrong folder?", all.len());
    all
}

/// Files that git tracks; without git (a source archive), the sources and manifests.
fn tracked() -> Vec<String> {
    let git = Command::new("git").arg("ls-files").current_dir(root()).output();
    if let Ok(out) = git
        && out.status.success()
    {
        let text = String::from_utf8_lossy(&out.stdout).into_owned();
        return text.lines().map(str::to_owned).collect();
    }
    println!("git is not there: only sources are searched");
    sources().iter().map(File::name).collect()
}

#[track_caller]
fn holds(found: rules::Breaches) {
    assert!(found.is_empty(), "\n{}\n", found.join("\n"));
}

#[test]
fn imports_run_downward() {
    let all = sources();
    holds(rules::floors(&all, "device"));
    holds(rules::floors(&all, "engine"));
    holds(rules::never(&all));
}

#[test]
fn the_crates_keep_their_demarcation() {
    let all = sources();
    holds(rules::crates(&all));
    holds(rules::device_rights(&all));
    for krate in ["engine", "bench", "examples"] {
        let manifest = std::fs::read_to_string(root().join(krate).join("Cargo.toml"));
        let manifest = manifest.expect("each crate has a manifest");
        // Tests of an example may open it on a device in memory.
        let used = manifest.split("[dev-dependencies]").next().expect("a first part");
        let device = used.lines().any(|l| l.starts_with("foliant-device"));
        assert_eq!(device, krate != "examples", "{krate} and the device crate");
    }
    let device = std::fs::read_to_string(root().join("device/Cargo.toml"));
    let device = device.expect("the device crate has a manifest");
    assert!(!device.lines().any(|l| l.starts_with("foliant.") || l.starts_with("foliant =")));
}

#[test]
fn no_circles_and_no_orphans() {
    let all = sources();
    for (krate, _) in plan::CRATES {
        holds(rules::circles(&all, krate));
        holds(rules::orphans(&all, krate));
    }
}

#[test]
fn tasks_waits_and_chance_stay_in_their_rooms() {
    let all = sources();
    holds(rules::spawns(&all));
    holds(rules::waits(&all));
    holds(rules::chance(&all));
}

#[test]
fn the_data_wing_names_its_primitives_in_one_place() {
    holds(rules::primitives(&sources()));
}

#[test]
fn files_and_functions_are_small_and_say_what_they_are() {
    let all = sources();
    println!("{}", house::table(&all));
    holds(rules::headers(&all));
    holds(rules::single_uses(&all));
    holds(rules::sizes(&all, plan::EXCEPTIONS));
}

#[test]
fn banned_words_are_absent() {
    holds(rules::banned(&sources()));
}

#[test]
fn unsafe_has_its_places_and_reasons() {
    holds(rules::unsafety(&sources()));
}

#[test]
fn nothing_points_outside_the_repository() {
    let paths = tracked();
    holds(rules::top_level(&paths));
    for path in paths {
        // A file may be deleted and not yet committed, or hold no text.
        if let Ok(text) = std::fs::read_to_string(root().join(&path)) {
            holds(rules::outside(&path, &text));
        }
    }
}
