//! Canaries: for each rule a snippet that breaks it, and must be caught; and one that must not.

use crate::imports::Crate;
use crate::plan::Exception;
use crate::rules;
use crate::source::File;

fn engine(path: &str, text: &str) -> File {
    File::new("engine", path, text)
}

fn device(path: &str, text: &str) -> File {
    File::new("device", path, text)
}

#[track_caller]
fn fires(found: Vec<String>, part: &str) {
    assert_eq!(found.len(), 1, "exactly one breach: {found:?}");
    assert!(found[0].contains(part), "{found:?} should say {part:?}");
}

#[track_caller]
fn silent(found: Vec<String>) {
    assert!(found.is_empty(), "{found:?}");
}

#[test]
fn an_upward_import_is_caught() {
    let low = engine("journal/ring.rs", "use crate::meta::txn::Txn;\n");
    let high = engine("meta/txn.rs", "use crate::journal::Ring;\n");
    fires(rules::floors(&[low, high], "engine"), "journal (floor 5) imports meta");
}

#[test]
fn an_upward_import_in_an_expression_is_caught() {
    let low = engine("kit/poison.rs", "fn f() {\n    crate::meta::go();\n}\n");
    let high = engine("meta/mod.rs", "pub fn go() {}\n");
    fires(rules::floors(&[low, high], "engine"), "kit/poison.rs:2");
}

#[test]
fn rooms_of_one_floor_do_not_import_each_other() {
    let one = engine("alloc/space.rs", "use crate::extent::map::Map;\n");
    let two = engine("extent/map.rs", "pub struct Map;\n");
    let files = [one, two];
    fires(rules::floors(&files, "engine"), "alloc (floor 7) imports extent (floor 7)");
    fires(rules::never(&files), "alloc must never import extent");
}

#[test]
fn tests_may_import_upwards() {
    let text = "#[cfg(test)]\nmod tests {\n    use crate::meta::Txn;\n}\n";
    let low = engine("journal/ring.rs", text);
    let high = engine("meta/mod.rs", "");
    silent(rules::floors(&[low, high], "engine"));
}

#[test]
fn code_behind_a_test_region_counts_again() {
    let text = "#[cfg(test)]\nmod tests {\n    fn f() {}\n}\nuse crate::meta::Txn;\n";
    let low = engine("journal/ring.rs", text);
    let high = engine("meta/mod.rs", "");
    fires(rules::floors(&[low, high], "engine"), "ring.rs:5");
}

#[test]
fn a_room_without_a_floor_is_caught() {
    fires(rules::floors(&[engine("attic/box.rs", "")], "engine"), "no floor");
}

#[test]
fn a_re_export_does_not_hide_where_a_name_lives() {
    let root = engine("lib.rs", "pub use api::Engine;\n");
    let api = engine("api/mod.rs", "pub struct Engine;\n");
    let low = engine("folio/cache.rs", "use crate::Engine;\n");
    fires(rules::floors(&[root, api, low], "engine"), "folio (floor 4) imports api");
}

#[test]
fn the_device_rooms_have_floors_too() {
    let low = device("uring/driver.rs", "use crate::backend::file::FileDevice;\n");
    let high = device("backend/file.rs", "use crate::uring::driver::Driver;\n");
    fires(rules::floors(&[low, high], "device"), "uring (floor 3) imports backend");
}

#[test]
fn a_banned_pair_is_caught_whatever_the_floors_say() {
    let meta = engine("meta/block.rs", "use crate::folio::Folio;\n");
    let folio = engine("folio/mod.rs", "");
    let files = [meta, folio];
    silent(rules::floors(&files, "engine"));
    fires(rules::never(&files), "meta must never import folio");
}

#[test]
fn only_bio_knows_the_device() {
    let text = "use foliant_device::Device;\nuse foliant_device::Segment;\n";
    fires(rules::device_rights(&[engine("iomap/write.rs", text)]), "Device");
    silent(rules::device_rights(&[engine("iomap/bio.rs", text)]));
    fires(rules::device_rights(&[engine("folio/folio.rs", text)]), "Device");
    let deep = "use foliant_device::contract::Persist;\n";
    fires(rules::device_rights(&[engine("folio/folio.rs", deep)]), "Persist");
}

#[test]
fn the_device_does_not_know_the_engine() {
    fires(rules::crates(&[device("error.rs", "use foliant::Engine;\n")]), "foliant");
    let example = File::new("examples", "bin/kv.rs", "use foliant_device::Arena;\n");
    fires(rules::crates(&[example]), "examples does not use foliant_device");
}

#[test]
fn a_circle_is_caught_through_super_and_facade() {
    let facade = engine("meta/mod.rs", "mod a;\nmod b;\npub use b::Thing;\n");
    let a = engine("meta/a.rs", "use crate::meta::Thing;\n");
    let b = engine("meta/b.rs", "use super::a::go;\npub struct Thing;\n");
    fires(rules::circles(&[facade, a, b], "engine"), "meta/a.rs -> engine/src/meta/b.rs");
}

#[test]
fn a_facade_and_its_files_are_no_circle() {
    let facade = engine("meta/mod.rs", "mod a;\nmod b;\npub use a::A;\npub use b::B;\n");
    let a = engine("meta/a.rs", "pub struct A;\n");
    let b = engine("meta/b.rs", "use crate::meta::A;\npub struct B;\n");
    let files = [facade, a, b];
    silent(rules::circles(&files, "engine"));
    assert_eq!(Crate::new(&files, "engine").imports().len(), 3);
}

#[test]
fn an_orphan_is_caught() {
    let root = engine("lib.rs", "mod meta;\n");
    let facade = engine("meta/mod.rs", "pub mod tree;\n// mod lost;\n");
    let tree = engine("meta/tree.rs", "");
    let lost = engine("meta/lost.rs", "");
    fires(rules::orphans(&[root, facade, tree, lost], "engine"), "meta/lost.rs");
}

#[test]
fn a_task_is_started_in_the_named_places_only() {
    let text = "fn f() {\n    tokio::spawn(async {});\n}\n";
    fires(rules::spawns(&[engine("journal/writer.rs", text)]), "tokio::spawn");
    silent(rules::spawns(&[engine("volume/mount.rs", text)]));
    let builder = "fn f() {\n    Builder::new().spawn(work);\n}\n";
    fires(rules::spawns(&[device("sim/disk.rs", builder)]), ".spawn(");
}

#[test]
fn waiting_and_chance_are_caught() {
    let waits = engine("format/root.rs", "async fn f() {\n    g().await;\n}\n");
    fires(rules::waits(&[waits]), "never does");
    let clock = engine("volume/mount.rs", "use std::time::Instant;\n");
    fires(rules::chance(&[clock]), "Instant");
}

#[test]
fn a_primitive_that_the_models_cannot_see_is_caught() {
    for word in ["parking_lot::Mutex", "std::sync::atomic::AtomicU64", "tokio::sync::Notify"] {
        let text = format!("use {word};\n");
        fires(rules::primitives(&[engine("folio/lock.rs", &text)]), "around `kit::sync`");
        silent(rules::primitives(&[engine("kit/sync.rs", &text)]));
        silent(rules::primitives(&[engine("journal/ring.rs", &text)]));
    }
    let inline = "struct Queue {\n    turn: tokio::sync::Mutex<()>,\n}\n";
    fires(rules::primitives(&[engine("kit/memory.rs", inline)]), "memory.rs:2");
    silent(rules::primitives(&[engine("iomap/read.rs", "use crate::kit::sync::Mutex;\n")]));
}

#[test]
fn banned_words_are_caught_in_code_and_not_in_text() {
    for word in ["dbg!(1)", "x.unwrap()", "std::thread::sleep(d)", "todo!()", "unimplemented!()"] {
        let text = format!("fn f() {{\n    {word};\n}}\n");
        fires(rules::banned(&[engine("a.rs", &text)]), "a.rs:2");
        let quoted = format!("fn f() {{\n    \"{word}\"; // {word}\n    r#\"{word}\"#;\n}}\n");
        silent(rules::banned(&[engine("a.rs", &quoted)]));
    }
    fires(
        rules::banned(&[engine("a.rs", "use tokio::sync::mpsc::unbounded_channel;\n")]),
        "a.rs:1",
    );
    fires(rules::banned(&[engine("a.rs", "#[ignore]\n")]), "ignore");
    fires(rules::banned(&[engine("a.rs", concat!("// FIX", "ME: later\n"))]), "a.rs:1");
}

#[test]
fn tests_may_unwrap_and_nothing_else() {
    let text = "#[cfg(test)]\nmod tests {\n    fn f() {\n        x.unwrap();\n        dbg!(1);\n    }\n}\n";
    fires(rules::banned(&[engine("a.rs", text)]), "dbg!");
}

#[test]
fn unsafe_needs_a_place_and_a_reason() {
    let bare = "fn f() {\n    unsafe { g() }\n}\n";
    fires(rules::unsafety(&[device("sim/disk.rs", bare)]), "no place");
    fires(rules::unsafety(&[device("buffer.rs", bare)]), "without a reason");
    let far = format!("// SAFETY: too far away\n{}{bare}", "// and on\n".repeat(9));
    fires(rules::unsafety(&[device("buffer.rs", &far)]), "without a reason");
    silent(rules::unsafety(&[device("buffer.rs", &format!("// SAFETY: ours\n{bare}"))]));
    fires(rules::unsafety(&[engine("lib.rs", "//! Root.\n")]), "does not forbid");
    silent(rules::unsafety(&[engine("lib.rs", "#![forbid(unsafe_code)]\n")]));
}

#[test]
fn a_silent_file_and_a_crowded_use_are_caught() {
    fires(rules::headers(&[engine("a.rs", "use std::fmt;\n")]), "a.rs");
    fires(rules::single_uses(&[engine("a.rs", "use std::{fmt, io};\n")]), "a.rs:1");
    fires(rules::single_uses(&[engine("a.rs", "pub use a::B; pub use a::C;\n")]), "a.rs:1");
}

#[test]
fn long_functions_and_files_are_caught_and_debt_only_shrinks() {
    let long = |lines: usize| format!("fn f() {{\n{}}}\n", "    g();\n".repeat(lines - 2));
    silent(rules::sizes(&[engine("a.rs", &long(70))], &[]));
    fires(rules::sizes(&[engine("a.rs", &long(71))], &[]), "a.rs::f: 71");
    let debt = |lines| Exception { rule: "function", place: "engine/src/a.rs::f", lines };
    silent(rules::sizes(&[engine("a.rs", &long(80))], &[debt(80)]));
    fires(rules::sizes(&[engine("a.rs", &long(81))], &[debt(80)]), "81 lines");
    fires(rules::sizes(&[engine("a.rs", &long(79))], &[debt(80)]), "so must its exception");
    fires(rules::sizes(&[engine("a.rs", &long(60))], &[debt(80)]), "excused for nothing");
    fires(rules::sizes(&[engine("a.rs", &"// line\n".repeat(601))], &[]), "601 lines");
    let tests = format!("#[cfg(test)]\nmod tests {{\n{}}}\n", "// line\n".repeat(700));
    silent(rules::sizes(&[engine("a.rs", &tests)], &[]));
}

#[test]
fn a_signature_over_many_lines_and_odd_literals_do_not_confuse_the_counting() {
    let text = "fn f<'a>(\n    x: [u8; 4],\n) -> char {\n    let _ = '{';\n    let _ = '\\'';\n    \"{{{\";\n    'x'\n}\nfn g();\n";
    let found = engine("a.rs", text).functions();
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!((found[0].name.as_str(), found[0].lines), ("f", 8));
}

#[test]
fn places_outside_and_strangers_at_the_top_are_caught() {
    fires(rules::outside("a.md", concat!("see /wo", "rk/main")), "a.md:1");
    fires(rules::outside("a.md", concat!("see sha", "red/DESIGN.md")), "a.md:1");
    silent(rules::outside("a.md", "a shared/exclusive lock that works\n"));
    fires(rules::top_level(&["NOTES.md".to_owned()]), "NOTES.md");
    silent(rules::top_level(&["engine/src/lib.rs".to_owned()]));
}
