//! The conformance suite on every device there is, on both kinds of runtime.

mod support;

use std::path::PathBuf;
use std::time::Duration;

use foliant_device::Device;
use foliant_device::backend::BackendChoice;
use foliant_device::backend::OpenOptions;
use foliant_device::backend::mem::MemDevice;
use foliant_device::conformance;
use foliant_device::conformance::BLOCKS_MIN;
use foliant_device::sim::SimDisk;
use foliant_device::sim::SimOptions;
use foliant_device::wrap::count::CountDevice;
use foliant_device::wrap::delay::DelayDevice;
use foliant_device::wrap::delay::Pace;

const BYTES: u64 = BLOCKS_MIN * foliant_device::BLOCK_SIZE as u64;

async fn open(path: PathBuf, backend: BackendChoice, depth: u32) -> Device {
    let options = OpenOptions::new(path).create_bytes(BYTES).backend(backend).depth(depth);
    options.open().await.expect("the store opens")
}

async fn check_file(backend: BackendChoice, name: &str, depth: u32) {
    let place = support::Place::new();
    let probe = open(place.file("store"), backend, depth).await;
    assert_eq!(probe.backend().name, name, "{}", probe.backend().reason);
    probe.close().await.expect("close");
    conformance::check(|| open(place.file("store"), backend, depth)).await;
}

#[tokio::test]
async fn memory() {
    conformance::check(async || Device::new(MemDevice::new(BLOCKS_MIN))).await;
}

#[tokio::test]
async fn a_file_over_a_ring_on_one_thread() {
    check_file(BackendChoice::Ring, "io_uring", 64).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn a_file_over_a_ring_on_several_threads() {
    check_file(BackendChoice::Ring, "io_uring", 256).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_over_a_ring_of_one() {
    check_file(BackendChoice::Ring, "io_uring", 1).await;
}

#[tokio::test]
async fn a_file_over_threads() {
    check_file(BackendChoice::Threads, "threads", 16).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_over_threads_from_several_threads() {
    check_file(BackendChoice::Threads, "threads", 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_block_device() {
    let disk = match support::Loop::new(BYTES) {
        Ok(disk) => disk,
        Err(why) => return support::skipped(&format!("no loop device to test on: {why}")),
    };
    for backend in [BackendChoice::Ring, BackendChoice::Threads] {
        conformance::check(|| open(disk.path.clone(), backend, 64)).await;
    }
}

#[test]
fn the_simulated_disk_whatever_its_seed() {
    for seed in 0..6 {
        support::simulate(async {
            let options =
                SimOptions { seed, volatile_cache: seed % 2 == 0, ..SimOptions::default() };
            let disk = SimDisk::new(BLOCKS_MIN, options);
            conformance::check(async || Device::new(disk.attach())).await;
            assert_eq!(disk.in_flight(), 0, "seed {seed}");
        });
    }
}

#[test]
fn decorated_devices() {
    support::simulate(async {
        let disk = SimDisk::new(BLOCKS_MIN, SimOptions::default());
        let pace = Pace { latency: Duration::from_millis(3), bytes_per_second: Some(500_000_000) };
        conformance::check(async || {
            let slow = DelayDevice::new(Device::new(disk.attach()), pace);
            Device::new(CountDevice::new(Device::new(slow)))
        })
        .await;
    });
}
