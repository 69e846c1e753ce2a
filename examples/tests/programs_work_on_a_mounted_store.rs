//! Programs that people use, on a mounted store: tar, rsync, cp, git, SQLite, fio. What is missing is skipped, and
//! said. Packages: tar rsync git sqlite3 fio.
#![allow(clippy::unwrap_used)] // In a test, a failed unwrap is the failed test.

mod support;

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use support::fuse::Ground;
use support::fuse::run;
use support::process::is_there;
use tokio::io::AsyncBufReadExt;
use tokio::io::BufReader;
use tokio::process::Command;

/// Some hundred files that are there wherever this test is.
fn sources() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../engine/src")
}

fn shell(at: &Path, line: &str) -> Command {
    let mut command = Command::new("sh");
    command.args(["-ec", line]).current_dir(at).env("SRC", sources());
    command
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn copies_are_the_same() {
    let Some(ground) = Ground::new("copies") else { return };
    let mounted = ground.mount().await;
    let at = &mounted.at;
    run(&mut shell(at, "mkdir a; tar -C $SRC -cf - . | tar -C a -xf -; diff -r $SRC a")).await;
    run(&mut shell(at, "tar -C a -cf all.tar .; mkdir b; tar -C b -xf all.tar; diff -r a b")).await;
    run(&mut shell(at, "cp -a a c; mv c d; diff -r a d; rm -r d; ! test -e d")).await;
    if is_there("rsync", "rsync") {
        let line = "rsync -a $SRC/ r; test -z \"$(rsync -acni $SRC/ r)\"; diff -r $SRC r";
        run(&mut shell(at, line)).await;
        let again = "rsync -a --inplace --delete a/kit/ r; test -z \"$(rsync -acni a/kit/ r)\"";
        run(&mut shell(at, again)).await;
    }
    let sparse = File::create(mounted.path("sparse")).unwrap();
    sparse.write_all_at(&[1; 4096], 30 << 20).unwrap();
    sparse.set_len(50 << 20).unwrap();
    drop(sparse);
    run(&mut shell(at, "cp sparse full --sparse=never; cp full holes --sparse=always")).await;
    run(&mut shell(at, "cp sparse auto; cmp sparse full; cmp sparse holes; cmp sparse auto")).await;
    let blocks = |name: &str| mounted.path(name).metadata().unwrap().blocks();
    assert!(blocks("full") >= 50 << 11, "{}", blocks("full"));
    for name in ["sparse", "holes", "auto"] {
        assert!(blocks(name) < 200, "{name}: {}", blocks(name));
    }
    mounted.unmount().await;
    ground.is_sound().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn git_works() {
    let Some(ground) = Ground::new("git") else { return };
    if !is_there("git", "git") {
        return;
    }
    let mounted = ground.mount().await;
    let commit = "git -c user.name=n -c user.email=e@e commit -qam";
    let make = format!("git init -q one; cp -r $SRC one/src; cd one; git add .; {commit} first");
    run(&mut shell(&mounted.at, &make)).await;
    let change = format!("cd one; git mv src/kit src/tools; echo x >> src/lib.rs; {commit} second");
    run(&mut shell(&mounted.at, &change)).await;
    for line in [
        "git clone -q one two; git clone -q --no-local one three",
        "cd two; git fsck --full --strict; git gc -q; git fsck --full; git status --porcelain",
        "cd three; git fsck --full; test -z \"$(git status --porcelain)\"; git checkout -q HEAD~1",
        "diff -r three/src $SRC; diff -r one/src two/src",
    ] {
        println!("{}", run(&mut shell(&mounted.at, line)).await);
    }
    mounted.unmount().await;
    let mounted = ground.mount().await;
    run(&mut shell(&mounted.at, "cd two; git fsck --full; test -z \"$(git status --porcelain)\""))
        .await;
    mounted.terminate().await;
    ground.is_sound().await;
}

/// Rows are inserted and each commit is told; the server is killed; what was told is there.
async fn killed_database(ground: &Ground, journal: &str, round: u64) {
    let mounted = ground.mount().await;
    let database = mounted.path(&format!("{journal}.db"));
    let setup = format!(
        "pragma journal_mode={journal}; pragma synchronous=full; \
         create table if not exists t (n integer primary key, x blob);"
    );
    run(Command::new("sqlite3").arg(&database).arg(&setup)).await;
    let mut lines = String::from("pragma synchronous=full;\n");
    for _ in 0..20_000 {
        lines += "insert into t (x) values (randomblob(3000)); select max(n) from t;\n";
    }
    let script = ground.beside("script.sql");
    std::fs::write(&script, lines).unwrap();
    let mut child = Command::new("sqlite3")
        .arg(&database)
        .stdin(File::open(&script).unwrap())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut told = BufReader::new(child.stdout.take().unwrap()).lines();
    let listening = tokio::spawn(async move {
        let mut last = 0;
        while let Ok(Some(line)) = told.next_line().await {
            last = line.parse().unwrap_or(last);
        }
        last
    });
    tokio::time::sleep(Duration::from_millis(600 + 200 * round)).await;
    mounted.kill().await;
    let _ = child.wait().await;
    let last: u64 = listening.await.unwrap();
    assert!(last > 0, "nothing was committed");
    ground.is_sound().await;
    let mounted = ground.mount().await;
    let ask = "pragma integrity_check; select max(n) from t;";
    let said = run(Command::new("sqlite3").arg(&database).arg(ask)).await;
    let (check, found) = said.trim().split_once('\n').unwrap();
    assert_eq!(check, "ok");
    assert!(found.parse::<u64>().unwrap() >= last, "{found} of {last} rows");
    println!("{journal}, round {round}: {last} commits were told, {found} are there");
    mounted.unmount().await;
    ground.is_sound().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sqlite_keeps_what_it_committed() {
    let Some(ground) = Ground::new("sqlite") else { return };
    if !is_there("sqlite3", "sqlite3") {
        return;
    }
    for round in 0..2 {
        killed_database(&ground, "wal", round).await;
        killed_database(&ground, "delete", round).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fio_verifies_what_it_wrote() {
    let Some(ground) = Ground::new("fio") else { return };
    if !is_there("fio", "fio") {
        return;
    }
    let mounted = ground.mount().await;
    let jobs = [
        ("buffered", "psync", "0", "randwrite", "4k"),
        ("direct", "libaio", "1", "randwrite", "4k"),
        ("mapped", "mmap", "0", "randwrite", "4k"),
        ("mixed", "psync", "0", "randrw", "1k-64k"),
    ];
    for (name, engine, direct, rw, size) in jobs {
        let mut fio = Command::new("fio");
        fio.arg(format!("--name={name}")).arg(format!("--directory={}", mounted.at.display()));
        fio.arg(format!("--ioengine={engine}")).arg(format!("--direct={direct}"));
        fio.arg(format!("--rw={rw}")).arg(format!("--bsrange={}", range(size)));
        fio.args(["--size=12m", "--iodepth=8", "--verify=crc32c", "--do_verify=1"]);
        fio.args([
            "--verify_fatal=1",
            "--verify_state_save=0",
            "--fsync=200",
            "--norandommap=0",
            "--randseed=5",
        ]);
        let said = run(&mut fio).await;
        assert!(said.contains("err= 0"), "{said}");
    }
    mounted.unmount().await;
    ground.is_sound().await;
}

fn range(size: &str) -> String {
    if size.contains('-') { size.to_owned() } else { format!("{size}-{size}") }
}
