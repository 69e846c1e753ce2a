//! `foliant` on real files: 0 for a sound store, 1 for a damaged one, 2 when it could not look; what it
//! prints names the place, and only repair changes the file.

#![allow(clippy::unwrap_used)] // In helpers of tests as in tests: a failed unwrap is the failed test.

use std::os::unix::fs::FileExt;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;

use foliant::Engine;

const BLOCK: u64 = 4096;
const NAMES: [&str; 3] = ["a/b", "..", "plain"];

/// A folder that goes away with the test.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("foliant-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn store(&self) -> PathBuf {
        self.0.join("store")
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn content(name: &str) -> Vec<u8> {
    name.bytes().cycle().take(name.len() * 5_000).collect()
}

async fn store(name: &str) -> Folder {
    let folder = Folder::new(name);
    Engine::format(folder.store()).size_bytes(48 << 20).run().await.unwrap();
    let engine = Engine::open(folder.store()).memory_bytes(8 << 20).run().await.unwrap();
    for name in NAMES {
        let object = engine.create(name).await.unwrap();
        object.write_at(0, &content(name)).await.unwrap();
    }
    engine.close().await.unwrap();
    folder
}

/// Status, standard output, standard error.
fn foliant(verb: &[&str], path: &Path, rest: &[&str]) -> (i32, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_foliant"));
    let out = command.args(verb).arg(path).args(rest).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (out.status.code().unwrap(), text(&out.stdout), text(&out.stderr))
}

fn flip(path: &Path, block: u64) {
    let file = std::fs::OpenOptions::new().read(true).write(true).open(path).unwrap();
    let mut one = [0];
    file.read_exact_at(&mut one, block * BLOCK + 70).unwrap();
    file.write_all_at(&[one[0] ^ 0x10], block * BLOCK + 70).unwrap();
}

#[tokio::test]
async fn a_sound_store_is_0_and_untouched() {
    let folder = store("command-sound").await;
    let path = folder.store();
    let before = std::fs::read(&path).unwrap();
    for verb in [&["check"][..], &["check", "--no-data"], &["repair"], &["info"]] {
        let (status, out, err) = foliant(verb, &path, &[]);
        assert_eq!(status, 0, "{verb:?}: {out}{err}");
    }
    assert!(std::fs::read(&path).unwrap() == before, "the store was changed");
    assert!(foliant(&["check"], &path, &[]).1.ends_with("sound\n"));
    for what in ["superblock", "journal", "root", "names", "group 0", "object 1", "extents 1"] {
        let what: Vec<&str> = what.split(' ').collect();
        let (status, out, err) = foliant(&["dump"], &path, &what);
        assert!(status == 0 && !out.is_empty(), "{what:?}: {out}{err}");
    }
    assert!(foliant(&["dump"], &path, &["names"]).1.contains("\"a/b\" object 1"));
    let blocks = ["0", "8", "24", "40", "1056", "1057", "1089", "1090", "1100", "2000"];
    for block in blocks {
        assert_eq!(foliant(&["dump"], &path, &["block", block]).0, 0, "block {block}");
    }
}

#[tokio::test]
async fn a_damaged_store_is_1_until_it_is_repaired() {
    let folder = store("command-damaged").await;
    let path = folder.store();
    flip(&path, foliant::testing::superblocks()[1]);
    let (status, out, _) = foliant(&["check"], &path, &[]);
    assert!(status == 1 && out.contains("Superblock") && out.contains("[block 16]"), "{out}");
    let (status, out, err) = foliant(&["repair"], &path, &[]);
    assert!(status == 0 && out.contains("repaired: the superblock at block 16"), "{out}{err}");
    assert_eq!(foliant(&["check"], &path, &[]).0, 0);
    flip(&path, 24);
    assert_eq!(foliant(&["check"], &path, &[]).0, 1);
    assert_eq!(foliant(&["repair"], &path, &[]).0, 1);
    assert_eq!(foliant(&["dump"], &path, &["root"]).0, 1);
}

#[tokio::test]
async fn objects_are_exported_to_files_that_stay_in_the_folder() {
    let folder = store("command-export").await;
    let (path, target) = (folder.store(), folder.0.join("out"));
    let to = target.to_str().unwrap();
    let (status, _, err) = foliant(&["export"], &path, &[to]);
    assert_eq!(status, 0, "{err}");
    for (name, file) in NAMES.iter().zip(["a%2Fb", "%2E.", "plain"]) {
        assert!(std::fs::read(target.join(file)).unwrap() == content(name), "{name}");
    }
    let mut names: Vec<_> = std::fs::read_dir(&folder.0).unwrap().map(|e| e.unwrap()).collect();
    names.retain(|entry| !["store", "out"].contains(&entry.file_name().to_str().unwrap()));
    assert!(names.is_empty(), "{names:?}");
    // No file is overwritten.
    assert_eq!(foliant(&["export"], &path, &[to]).0, 2);
    let (status, out, _) = foliant(&["export"], &path, &["--name", "plain"]);
    assert!(status == 0 && out.as_bytes() == content("plain"));
    assert_eq!(foliant(&["export"], &path, &["--name", "nobody"]).0, 2);
}

#[tokio::test]
async fn what_cannot_be_looked_at_is_2() {
    let folder = store("command-cannot").await;
    let path = folder.store();
    let missing = foliant(&["check"], &folder.0.join("missing"), &[]);
    assert_eq!(missing.0, 2, "{}", missing.2);
    assert_eq!(foliant(&["check"], &folder.0, &[]).0, 2);
    let other = folder.0.join("other");
    std::fs::write(&other, vec![7; 1 << 20]).unwrap();
    assert_eq!(foliant(&["check"], &other, &[]).0, 2);
    assert_eq!(foliant(&["check"], &path, &["--memory", "0"]).0, 2);
    assert_eq!(foliant(&["dump"], &path, &["object", "99"]).0, 2);
    let engine = Engine::open(&path).memory_bytes(8 << 20).run().await.unwrap();
    let (status, _, err) = foliant(&["check"], &path, &[]);
    assert_eq!(status, 2, "an open store was looked at: {err}");
    engine.close().await.unwrap();
}
