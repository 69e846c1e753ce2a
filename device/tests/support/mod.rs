//! What the device tests share: places for files, loop devices, and requests in one line.

#![allow(dead_code)] // Each test binary uses a part of it.

use std::io::Write;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;

use foliant_device::Arena;
use foliant_device::BLOCK_SIZE;
use foliant_device::Buffer;
use foliant_device::Device;
use foliant_device::DeviceError;
use foliant_device::Persist;

/// A directory of its own, removed at the end. Under the build's target, which is on a disk: direct
/// transfers are what is tested, and `/tmp` may be memory.
pub struct Place(PathBuf);

impl Place {
    pub fn new() -> Self {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("device-{}-{number}", std::process::id());
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        std::fs::create_dir_all(&path).expect("a directory can be made");
        Self(path)
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A loop device over a fresh file, detached at the end.
pub struct Loop {
    pub path: PathBuf,
    _place: Place,
}

impl Loop {
    /// `Err` says why this machine has none.
    pub fn new(bytes: u64) -> Result<Self, String> {
        let place = Place::new();
        let backing = place.file("backing");
        let file = std::fs::File::create(&backing).map_err(|e| e.to_string())?;
        file.set_len(bytes).map_err(|e| e.to_string())?;
        let output = Command::new("losetup")
            .args(["--find", "--show", "--direct-io=on"])
            .arg(&backing)
            .output()
            .map_err(|e| format!("losetup: {e}"))?;
        if !output.status.success() {
            return Err(String::from_utf8_lossy(&output.stderr).trim().to_owned());
        }
        let path = PathBuf::from(String::from_utf8_lossy(&output.stdout).trim());
        Ok(Self { path, _place: place })
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = Command::new("losetup").arg("--detach").arg(&self.path).status();
    }
}

/// Says so past the test harness, which hides what passing tests print.
pub fn skipped(why: &str) {
    let _ = writeln!(std::io::stderr(), "SKIPPED: {why}");
}

/// One thread, virtual time: one seed replays one run.
pub fn simulate<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime can be made");
    runtime.block_on(work)
}

pub fn arena(blocks: usize) -> Arena {
    Arena::new(blocks * BLOCK_SIZE).expect("memory for a test")
}

/// A block full of one byte.
pub fn block_of(arena: &Arena, byte: u8) -> Buffer {
    let mut buffer = arena.allocate(0).expect("the arena is large enough");
    buffer.get_mut().expect("fresh").fill(byte);
    buffer
}

pub async fn write(
    device: &Device,
    arena: &Arena,
    block: u64,
    byte: u8,
) -> Result<(), DeviceError> {
    device.write(block, vec![block_of(arena, byte).into()], Persist::Cached).await
}

pub async fn read(device: &Device, arena: &Arena, block: u64) -> Result<Vec<u8>, DeviceError> {
    let (buffers, outcome) = device.read(block, vec![block_of(arena, 0xEE)]).await;
    outcome.map(|()| buffers[0].to_vec())
}
