//! The same store as a regular file and on a raw block device (a loop device over that file), over the
//! ring and over threads: what one wrote the other reads. Needs root for the loop device; says so
//! when it is skipped.

#![allow(clippy::unwrap_used)] // In helpers of tests as in tests: a failed unwrap is the failed test.

use std::io::Write;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;

use foliant::Engine;
use foliant::ErrorKind;

const STORE_BYTES: u64 = 64 << 20;

/// A loop device that goes away with the test.
struct Loop(PathBuf);

impl Loop {
    fn over(file: &Path) -> Result<Self, String> {
        let mut command = Command::new("losetup");
        let output = command.args(["--find", "--show"]).arg(file).output();
        let output = output.map_err(|e| format!("losetup: {e}"))?;
        match output.status.success() {
            true => Ok(Self(String::from_utf8_lossy(&output.stdout).trim().into())),
            false => Err(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
        }
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = Command::new("losetup").arg("--detach").arg(&self.0).status();
    }
}

struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

async fn open(path: &Path, threads: bool) -> Engine {
    let options = Engine::open(path).memory_bytes(8 << 20).threads_backend(threads);
    options.run().await.unwrap()
}

/// Changes the store in every way, and checks what the visits before left.
async fn visit(path: &Path, threads: bool, number: u8) {
    let engine = open(path, threads).await;
    let expected = if threads { "threads" } else { "io_uring" };
    assert_eq!(engine.backend().name, expected, "{:?}", engine.backend());
    for before in 0..number {
        let object = engine.object([b'o', before]).await.unwrap();
        let mut bytes = vec![0; 300_000];
        assert_eq!(object.read_at(0, &mut bytes).await.unwrap(), 300_000);
        assert!(bytes[..100_000].iter().all(|&byte| byte == before), "written");
        assert!(bytes[100_000..100_004].iter().all(|&byte| byte == 0xEE), "committed");
        assert!(bytes[200_000..].iter().all(|&byte| byte == 0), "never written");
    }
    let object = engine.create([b'o', number]).await.unwrap();
    object.write_at(0, &[number; 200_000]).await.unwrap();
    object.truncate(300_000).await.unwrap();
    object.sync().await.unwrap();
    let mut transaction = engine.transaction();
    transaction.write_at(&object, 100_000, &[0xEE; 4]).unwrap();
    transaction.commit().await.unwrap().durable().await.unwrap();
    engine.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn visits_in_turns() {
    let name = format!("foliant-image-{}", std::process::id());
    let scratch = Scratch(std::env::temp_dir().join(name));
    Engine::format(&scratch.0).size_bytes(STORE_BYTES).run().await.unwrap();
    visit(&scratch.0, false, 0).await;
    visit(&scratch.0, true, 1).await;
    let device = match Loop::over(&scratch.0) {
        Ok(device) => device,
        Err(why) => {
            let _ = writeln!(std::io::stderr(), "SKIPPED: no loop device: {why}");
            return;
        }
    };
    visit(&device.0, false, 2).await;
    visit(&device.0, true, 3).await;
    let engine = open(&device.0, false).await;
    let second = Engine::open(&device.0).memory_bytes(8 << 20).run().await;
    assert_eq!(second.expect_err("it is open").kind(), ErrorKind::Locked);
    engine.close().await.unwrap();
    drop(device);
    visit(&scratch.0, false, 4).await;
}
