//! A store, mounted by a server that is a process of its own, and what must be true of it afterwards.

use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;

use foliant::Engine;
use foliant_examples::fuse::check::Report;
use foliant_examples::fuse::check::check;
use rustix::mount::UnmountFlags;
use rustix::mount::unmount;
use tokio::process::Child;
use tokio::process::Command;
use tokio::time::timeout;

use super::process;

/// A directory with a store and a place to mount it, which disappears with the value.
pub struct Ground(PathBuf);

impl Ground {
    /// None, and says why loudly, where nothing can be mounted.
    pub fn new(name: &str) -> Option<Self> {
        let root = rustix::process::geteuid().is_root();
        if !root || !Path::new("/dev/fuse").exists() {
            process::skipped(&format!("{name}: a mount needs root and /dev/fuse"));
            return None;
        }
        let pid = std::process::id();
        let base = std::env::temp_dir().join(format!("foliant-fuse-{name}-{pid}"));
        std::fs::create_dir_all(base.join("mounted")).unwrap();
        Some(Self(base))
    }

    pub fn store(&self) -> PathBuf {
        self.0.join("store")
    }

    /// Beside the store, not on it.
    pub fn beside(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    pub async fn mount(&self) -> Mounted {
        self.mount_with(&["--store-size", "256MiB", "--memory", "32MiB"]).await
    }

    pub async fn mount_with(&self, more: &[&str]) -> Mounted {
        let at = self.0.join("mounted");
        let mut command = Command::new(env!("CARGO_BIN_EXE_fuse"));
        command.args(["mount", "--quiet", "--store"]).arg(self.store()).args(more).arg(&at);
        let (child, _) = process::saying(&mut command, "mounted on ").await;
        Mounted { child, at }
    }

    /// What lies in the store is a file system without contradictions, in a sound store.
    pub async fn is_sound(&self) -> Report {
        let engine = foliant_examples::opening::open(&self.store(), 32 << 20).await.unwrap();
        let report = look(&engine).await;
        engine.close().await.unwrap();
        let device = foliant::check::open(self.store()).await.unwrap();
        let options = foliant::check::Options::default();
        let below = foliant::check::check(&device, &options).await.unwrap();
        assert!(below.is_sound(), "the store is damaged:\n{below}");
        device.close().await.unwrap();
        report
    }
}

async fn look(engine: &Engine) -> Report {
    let report = check(engine).await.unwrap();
    assert_eq!(report.findings, Vec::<String>::new());
    report
}

impl Drop for Ground {
    fn drop(&mut self) {
        // A test that failed leaves a mount, and what is behind it is not to be removed file by file.
        let _ = unmount(self.0.join("mounted"), UnmountFlags::DETACH);
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A mounted store.
pub struct Mounted {
    pub child: Child,
    pub at: PathBuf,
}

impl Mounted {
    pub fn path(&self, name: &str) -> PathBuf {
        self.at.join(name)
    }

    /// SIGTERM, and an orderly end.
    pub async fn terminate(mut self) {
        process::end(&mut self.child).await;
    }

    /// Unmounts; the server ends by itself.
    pub async fn unmount(mut self) {
        unmount(&self.at, UnmountFlags::empty()).unwrap();
        let ended = timeout(Duration::from_secs(60), self.child.wait()).await;
        assert!(ended.expect("the server does not end").unwrap().success());
    }

    /// SIGKILL. The dead mount stays.
    pub async fn kill(mut self) {
        self.child.kill().await.unwrap();
    }
}

/// Waits until so many blocks are free.
pub async fn comes_back(at: &Path, blocks: u64) {
    let started = std::time::Instant::now();
    loop {
        let free = rustix::fs::statvfs(at).unwrap().f_bfree;
        if free >= blocks {
            return;
        }
        assert!(started.elapsed() < Duration::from_secs(30), "{free} blocks free, not {blocks}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// The error number of a call that must fail.
pub fn errno<T>(done: std::io::Result<T>) -> i32 {
    done.err().expect("it must fail").raw_os_error().expect("a number of Linux")
}

/// Runs a program, which must succeed; gives what it said.
pub async fn run(command: &mut Command) -> String {
    let out = timeout(Duration::from_secs(120), command.output()).await;
    let out = out.unwrap_or_else(|_| panic!("{command:?} takes too long")).unwrap();
    let said = [&out.stdout[..], &out.stderr].concat();
    let said = String::from_utf8_lossy(&said).into_owned();
    assert!(out.status.success(), "{command:?}: {}\n{said}", out.status);
    said
}
