//! What the tests share: engines on memory and on files, and a seeded generator.
#![allow(dead_code)] // Each test binary uses its own part.

pub mod fuse;
pub mod large;
pub mod nbd;
pub mod process;
pub mod served;

use std::path::Path;
use std::path::PathBuf;

use foliant::Engine;
use foliant_device::BackendInfo;
use foliant_device::BlockDevice;
use foliant_device::Buffer;
use foliant_device::Device;
use foliant_device::Geometry;
use foliant_device::IoFuture;
use foliant_device::Persist;
use foliant_device::ReadOutcome;
use foliant_device::Segment;
use foliant_device::backend::mem::MemDevice;

pub const MIB: u64 = 1 << 20;

/// A file name that disappears with the value.
pub struct TempPath(PathBuf);

impl TempPath {
    pub fn new(name: &str) -> Self {
        Self(std::env::temp_dir().join(format!("foliant-kv-{name}-{}", std::process::id())))
    }

    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for TempPath {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// A device in memory that outlives the engine on it, so that it can be opened again.
#[derive(Debug)]
struct Kept(Device);

impl BlockDevice for Kept {
    fn geometry(&self) -> &Geometry {
        self.0.geometry()
    }

    fn backend(&self) -> BackendInfo {
        self.0.backend()
    }

    fn read(&self, block: u64, into: Vec<Buffer>) -> IoFuture<ReadOutcome> {
        self.0.read(block, into)
    }

    fn write(
        &self,
        block: u64,
        from: Vec<Segment>,
        persist: Persist,
    ) -> IoFuture<foliant_device::error::Result<()>> {
        self.0.write(block, from, persist)
    }

    fn flush(&self) -> IoFuture<foliant_device::error::Result<()>> {
        self.0.flush()
    }

    fn discard(&self, block: u64, count: u64) -> IoFuture<foliant_device::error::Result<()>> {
        self.0.discard(block, count)
    }

    fn write_zeroes(&self, block: u64, count: u64) -> IoFuture<foliant_device::error::Result<()>> {
        self.0.write_zeroes(block, count)
    }

    fn close(&self) -> IoFuture<foliant_device::error::Result<()>> {
        Box::pin(std::future::ready(Ok(())))
    }
}

pub async fn engine_in_memory(device_bytes: u64, memory_bytes: u64) -> (Device, Engine) {
    let memory = Device::new(MemDevice::new(device_bytes / 4096));
    let device = Device::new(Kept(memory));
    Engine::format_device(device.clone()).run().await.unwrap();
    let engine = reopen(&device, memory_bytes).await;
    (device, engine)
}

pub async fn reopen(device: &Device, memory_bytes: u64) -> Engine {
    Engine::open_device(device.clone()).memory_bytes(memory_bytes).run().await.unwrap()
}

/// SplitMix64: small, and one seed gives one run.
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Self {
        println!("seed {seed}");
        Self(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    pub fn bytes(&mut self, len: usize) -> Vec<u8> {
        (0..len).map(|_| self.next() as u8).collect()
    }
}
