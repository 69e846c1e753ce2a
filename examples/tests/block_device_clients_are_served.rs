//! The clients that people use, against an `nbd serve` of its own: libnbd's, QEMU's, and fio.
//!
//! They are run when they are there; a test whose client is missing says SKIPPED, with the package that
//! has it, and passes. Debian and Ubuntu: `apt-get install libnbd-bin qemu-utils fio`.
#![allow(clippy::unwrap_used)] // In a test, a failed unwrap is the failed test.

mod support;

use std::path::Path;

use foliant_examples::nbd::wire;
use support::Dice;
use support::MIB;
use support::TempPath;
use support::nbd::Client;
use support::nbd::Process;
use support::nbd::manage;
use support::process::is_there;
use support::process::skipped;
use tokio::process::Command;

/// Runs a tool to its end; gives what it printed. It must succeed.
async fn run(tool: &str, arguments: &[&str]) -> String {
    let out = Command::new(tool).args(arguments).output().await.unwrap();
    let said = String::from_utf8_lossy(&out.stdout).into_owned();
    let wailed = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "{tool} {arguments:?}\n{said}{wailed}");
    said
}

struct Room {
    store: TempPath,
    raw: TempPath,
    back: TempPath,
}

impl Room {
    fn new(name: &str) -> Self {
        let path = |what: &str| TempPath::new(&format!("nbd-{name}-{what}"));
        Self { store: path("store"), raw: path("raw"), back: path("back") }
    }

    async fn export(&self, name: &str, size: &str) {
        let made = manage(self.store.path(), &["create", name, size]).await;
        assert!(made.status.success(), "{made:?}");
    }

    /// A file of `size` with some data and some holes.
    fn write_raw(&self, size: u64) {
        use std::os::unix::fs::FileExt;
        let file = std::fs::File::create(self.raw.path()).unwrap();
        file.set_len(size).unwrap();
        let mut dice = Dice::new(size);
        for _ in 0..20 {
            let len = 1 + dice.below(300_000) as usize;
            let bytes = dice.bytes(len);
            let at = dice.below(size - bytes.len() as u64);
            file.write_all_at(&bytes, at).unwrap();
        }
    }
}

fn same(one: &Path, other: &Path) -> bool {
    std::fs::read(one).unwrap() == std::fs::read(other).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nbdinfo_lists_and_maps() {
    if !is_there("nbdinfo", "libnbd-bin") {
        return;
    }
    let room = Room::new("nbdinfo");
    room.export("disk", "1GiB").await;
    room.export("other one", "10MiB").await;
    let server = Process::start(room.store.path(), &["--quiet"]).await;
    let list = run("nbdinfo", &["--list", &server.uri("")]).await;
    for expected in [
        "export=\"disk\"",
        "export=\"other one\"",
        "export-size: 1073741824 (1G)",
        "base:allocation",
        "can_multi_conn: true",
        "can_fast_zero: true",
        "can_flush: true",
        "can_fua: true",
        "can_cache: true",
        "can_df: true",
        "block_size_preferred: 4096",
        "block_size_maximum: 33554432",
    ] {
        assert!(list.contains(expected), "{expected} is missing in\n{list}");
    }
    let map = run("nbdinfo", &["--map", &server.uri("disk")]).await;
    let words: Vec<&str> = map.split_whitespace().collect();
    assert_eq!(words, ["0", "1073741824", "3", "hole,zero"]);
    assert_eq!(run("nbdinfo", &["--size", &server.uri("disk")]).await.trim(), "1073741824");
    server.terminate().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nbdcopy_there_and_back() {
    if !is_there("nbdcopy", "libnbd-bin") || !is_there("nbdinfo", "libnbd-bin") {
        return;
    }
    let room = Room::new("nbdcopy");
    let size = 48 * MIB;
    room.export("disk", "48MiB").await;
    room.write_raw(size);
    let (raw, back) = (room.raw.path().to_str().unwrap(), room.back.path().to_str().unwrap());
    let server = Process::start(room.store.path(), &["--quiet"]).await;
    run("nbdcopy", &["--flush", "--connections=4", "--requests=32", raw, &server.uri("disk")])
        .await;
    // The second half of the way goes through a server that was killed.
    server.kill().await;
    let server = Process::start(room.store.path(), &["--quiet"]).await;
    run("nbdcopy", &[&server.uri("disk"), back]).await;
    assert!(same(room.raw.path(), room.back.path()));
    let map = run("nbdinfo", &["--map", &server.uri("disk")]).await;
    assert!(map.contains("hole,zero") && map.contains("data"), "{map}");
    server.terminate().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn qemu_img_converts_and_compares() {
    if !is_there("qemu-img", "qemu-utils") {
        return;
    }
    let room = Room::new("qemu-img");
    room.export("disk", "64MiB").await;
    room.write_raw(64 * MIB);
    let raw = room.raw.path().to_str().unwrap();
    let server = Process::start(room.store.path(), &["--quiet"]).await;
    let uri = server.uri("disk");
    let info = run("qemu-img", &["info", &uri]).await;
    assert!(info.contains("64 MiB"), "{info}");
    for more in [&["-W", "-m", "8"][..], &["-S", "0"]] {
        let convert = ["convert", "-n", "-f", "raw", "-O", "raw"];
        run("qemu-img", &[&convert[..], more, &[raw, &uri]].concat()).await;
        run("qemu-img", &["compare", "-f", "raw", "-F", "raw", raw, &uri]).await;
    }
    // A QCOW2 image lives in an export as well.
    run("qemu-img", &["create", "-f", "qcow2", &uri, "40M"]).await;
    run("qemu-io", &["-f", "qcow2", "-c", "write -P 7 1M 9M", &uri]).await;
    run("qemu-img", &["check", "-f", "qcow2", &uri]).await;
    server.terminate().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn qemu_io_writes_patterns() {
    if !is_there("qemu-io", "qemu-utils") {
        return;
    }
    let room = Room::new("qemu-io");
    room.export("disk", "64MiB").await;
    let server = Process::start(room.store.path(), &["--quiet"]).await;
    let uri = server.uri("disk");
    let io = async |commands: &[&str]| {
        let mut arguments = vec!["-f", "raw", "-d", "unmap"];
        for command in commands {
            arguments.extend(["-c", command]);
        }
        arguments.push(&uri);
        let said = run("qemu-io", &arguments).await;
        assert!(!said.contains("verification failed") && !said.contains("failed:"), "{said}");
        said
    };
    io(&["write -P 0xab 1M 3M", "write -f -P 0xcd 2M 64k", "flush"]).await;
    io(&["read -P 0xab 1M 1M", "read -P 0xcd 2M 64k", "read -P 0 0 1M", "read -P 0 4M 1M"]).await;
    io(&["write -z 1M 512k", "read -P 0 1M 512k", "write -z -u 2M 1M", "read -P 0 2M 1M"]).await;
    io(&["write -z -f 3M 4k", "write -P 1 10M 1M", "discard 10M 1M", "flush"]).await;
    io(&["write -z -n -u 1M 1M", "write -P 6 30M 64k"]).await;
    if is_there("qemu-img", "qemu-utils") {
        let map = run("qemu-img", &["map", "-f", "raw", "--output=json", &uri]).await;
        let hole = |line: &&str| line.contains("\"start\": 0,") && line.contains("\"zero\": true");
        let data = |line: &&str| line.contains("31457280") && line.contains("\"data\": true");
        assert!(map.lines().any(|line| hole(&line)), "{map}");
        assert!(map.lines().any(|line| data(&line)), "{map}");
    }
    // Odd places and sizes, many at once.
    io(&["write -P 3 12345 6789", "read -P 3 12345 6789", "read -P 0 0 12345"]).await;
    io(&["aio_write -P 4 0 1M", "aio_write -P 5 1M 1M", "aio_flush", "read -P 4 0 1M"]).await;
    // What is wrong is said.
    let beyond = ["-f", "raw", "-c", "read 64M 4k", &uri];
    let out = Command::new("qemu-io").args(beyond).output().await.unwrap();
    let said = String::from_utf8_lossy(&out.stdout).into_owned();
    assert!(said.contains("failed") || !out.status.success(), "{said}");
    server.kill().await;
    let server = Process::start(room.store.path(), &["--read-only", "--quiet"]).await;
    let read = ["-f", "raw", "-r", "-c", "read -P 4 0 1M", &server.uri("disk")];
    let said = run("qemu-io", &read).await;
    assert!(!said.contains("verification"), "flushed before the kill: {said}");
    let write = ["-f", "raw", "-c", "write 0 4k", &server.uri("disk")];
    let out = Command::new("qemu-io").args(write).output().await.unwrap();
    assert!(!out.status.success(), "a read-only export was opened for writing: {out:?}");
    server.terminate().await;
}

/// fio writes blocks that say where they belong, at depth, and finds them again: at once, and behind a server
/// that was killed. What it wrote last it does not flush, so another client does.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fio_writes_and_verifies() {
    if !is_there("fio", "fio") {
        return;
    }
    if !run("fio", &["--enghelp"]).await.contains("nbd") {
        return skipped("this fio was built without its engine for network block devices");
    }
    for (number, sizes) in
        [&["--bs=4k"][..], &["--bsrange=512-64k", "--fsync=20"]].iter().enumerate()
    {
        let room = Room::new(&format!("fio-{number}"));
        room.export("disk", "48MiB").await;
        let server = Process::start(room.store.path(), &["--quiet"]).await;
        let job = ["--name=job", "--thread", "--ioengine=nbd", "--rw=randwrite", "--iodepth=16"];
        let verify = ["--verify=crc32c", "--verify_fatal=1", "--verify_state_save=0"];
        let uri = format!("--uri={}", server.uri("disk"));
        run("fio", &[&job[..], sizes, &verify, &[&uri]].concat()).await;
        let mut other = Client::connect(&server.socket).await;
        other.choose("disk").await;
        assert_eq!(other.call(wire::CMD_FLUSH, 0, 0, 0).await.errno, 0);
        server.kill().await;
        let server = Process::start(room.store.path(), &["--quiet"]).await;
        run("fio", &[&job[..], sizes, &verify, &[&uri, "--verify_only=1"]].concat()).await;
        server.terminate().await;
    }
}

/// The other commands, and what they refuse.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn exports_are_made_listed_resized_and_removed() {
    let room = Room::new("manage");
    let store = room.store.path();
    room.export("one", "1TiB").await;
    room.export("two", "10MiB").await;
    let fails = async |command: &[&str], why: &str| {
        let out = manage(store, command).await;
        let said = String::from_utf8_lossy(&out.stderr).into_owned();
        assert!(!out.status.success() && said.contains(why), "{command:?}: {said}");
    };
    fails(&["create", "one", "1MiB"], "one").await;
    fails(&["create", "", "1MiB"], "1 to 255 bytes").await;
    fails(&["resize", "one", "1MiB"], "--shrink").await;
    fails(&["remove", "three"], "three").await;
    let works = async |command: &[&str]| {
        let out = manage(store, command).await;
        assert!(out.status.success(), "{command:?}: {out:?}");
        String::from_utf8(out.stdout).unwrap()
    };
    works(&["resize", "one", "1MiB", "--shrink"]).await;
    works(&["resize", "two", "20MiB"]).await;
    let list = works(&["list"]).await;
    for expected in ["one", "1.0 MiB", "two", "20.0 MiB"] {
        assert!(list.contains(expected), "{list}");
    }
    works(&["remove", "one"]).await;
    assert!(!works(&["list"]).await.contains("one"));
    // One opener at a time, and no other host without a word.
    let server = Process::start(store, &["--quiet"]).await;
    fails(&["list"], "opening").await;
    server.terminate().await;
    fails(&["serve", "--listen", "0.0.0.0:0"], "--allow-remote").await;
    fails(&["serve", "--listen", "nowhere"], "neither unix:PATH").await;
}
