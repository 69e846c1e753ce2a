//! Memory that the medium may touch is never given to anybody else, whatever happens to futures,
//! handles and runtimes; and it always comes back.

#![allow(clippy::unwrap_used)] // In helpers, too: a failed unwrap is the failed test.

mod support;

use std::path::Path;
use std::time::Duration;

use foliant_device::Arena;
use foliant_device::Device;
use foliant_device::Persist;
use foliant_device::backend::BackendChoice;
use foliant_device::backend::OpenOptions;
use foliant_device::sim::Fault;
use foliant_device::sim::FaultRule;
use foliant_device::sim::Rng;
use foliant_device::sim::SimDisk;
use foliant_device::sim::SimOptions;
use futures_util::FutureExt;

const BLOCKS: u64 = 2048;
const BACKENDS: [BackendChoice; 2] = [BackendChoice::Ring, BackendChoice::Threads];

async fn open(path: &Path, backend: BackendChoice, depth: u32) -> Device {
    let options = OpenOptions::new(path).create_bytes(BLOCKS * 4096).backend(backend).depth(depth);
    options.open().await.expect("the store opens")
}

async fn all_back(arena: &Arena) {
    for _ in 0..20_000 {
        if arena.free_blocks() == arena.capacity_blocks() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    panic!("memory is lost: {arena:?}");
}

/// Waits for memory that is in flight, as an engine with a full budget does.
async fn buffer(arena: &Arena, byte: u8) -> foliant_device::Buffer {
    loop {
        let freed = arena.freed().notified();
        if let Some(mut buffer) = arena.allocate(0) {
            buffer.get_mut().expect("fresh").fill(byte);
            return buffer;
        }
        tokio::time::timeout(Duration::from_secs(20), freed).await.expect("memory comes back");
    }
}

/// A small arena and dropped futures: if memory were reused while in flight, blocks would hold other
/// blocks' bytes.
async fn storm(device: &Device, seed: u64) {
    let arena = support::arena(48);
    let mut rng = Rng::new(seed);
    for block in 0..1500_u64 {
        let written = buffer(&arena, block as u8).await;
        let mut writing = device.write(block, vec![written.into()], Persist::Cached);
        match rng.below(3) {
            0 => drop(writing),
            1 => {
                let _ = (&mut writing).now_or_never();
            }
            _ => writing.await.expect("write"),
        }
        let read = buffer(&arena, 0xEE).await;
        let mut reading = device.read(rng.below(BLOCKS), vec![read]);
        if rng.below(4) == 0 {
            let _ = (&mut reading).now_or_never();
        }
    }
    all_back(&arena).await;
    for block in 0..1500_u64 {
        let found = support::read(device, &arena, block).await.expect("read");
        assert!(found.iter().all(|&b| b == block as u8), "block {block} holds {:?}", &found[..8]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_storm_of_dropped_futures_on_real_stores() {
    let place = support::Place::new();
    for backend in BACKENDS {
        for depth in [2, 64] {
            let device = open(&place.file("store"), backend, depth).await;
            storm(&device, u64::from(depth)).await;
            device.close().await.unwrap();
        }
    }
}

#[tokio::test]
async fn a_storm_of_dropped_futures_with_registered_memory_is_the_same() {
    let place = support::Place::new();
    let device = open(&place.file("store"), BackendChoice::Ring, 64).await;
    let arena = support::arena(48);
    device.register(&arena);
    assert!(device.backend().reason.contains("registered"), "{}", device.backend().reason);
    storm(&device, 3).await;
    device.close().await.unwrap();
}

#[test]
fn a_storm_of_dropped_futures_on_the_simulated_disk() {
    for seed in 0..10 {
        support::simulate(async {
            let disk = SimDisk::new(BLOCKS, SimOptions { seed, ..SimOptions::default() });
            storm(&Device::new(disk.attach()), seed).await;
        });
    }
}

#[tokio::test]
async fn a_device_dropped_under_load_finishes_what_it_accepted() {
    let place = support::Place::new();
    for backend in BACKENDS {
        let path = place.file("store");
        let arena = support::arena(512);
        let device = open(&path, backend, 8).await;
        let requests: Vec<_> =
            (0..500).map(|block| support::write(&device, &arena, block, 0x55)).collect();
        // An async function starts when it is polled, so each is polled once.
        let unfinished: Vec<_> = requests
            .into_iter()
            .map(Box::pin)
            .filter_map(|mut request| match (&mut request).now_or_never() {
                None => Some(request),
                Some(outcome) => outcome.map(|()| None).expect("write"),
            })
            .collect();
        drop(unfinished);
        drop(device);
        all_back(&arena).await;
        let device = loop {
            match OpenOptions::new(&path).open().await {
                Ok(device) => break device,
                Err(_) => tokio::time::sleep(Duration::from_millis(1)).await,
            }
        };
        for block in 0..500 {
            assert_eq!(support::read(&device, &arena, block).await.unwrap(), vec![0x55; 4096]);
        }
        device.close().await.unwrap();
    }
}

#[test]
fn a_runtime_dropped_under_load_gives_all_memory_back() {
    let place = support::Place::new();
    for backend in BACKENDS {
        for round in 0..20 {
            let arena = support::arena(512);
            let runtime = tokio::runtime::Builder::new_multi_thread()
                .worker_threads(2)
                .enable_all()
                .build()
                .unwrap();
            let (device, kept) = runtime.block_on(async {
                let device = open(&place.file("store"), backend, 32).await;
                let into = || vec![support::block_of(&arena, 0)];
                let mut kept: Vec<_> = (0..400).map(|block| device.read(block, into())).collect();
                if round % 2 == 0 {
                    tokio::task::yield_now().await;
                }
                kept.truncate(200);
                (device, kept)
            });
            drop(runtime);
            let fresh = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            fresh.block_on(async {
                for request in kept {
                    let request = tokio::time::timeout(Duration::from_secs(20), request);
                    drop(request.await.expect("every request ends, whatever with"));
                }
                drop(device);
                all_back(&arena).await;
                let deadline = std::time::Instant::now() + Duration::from_secs(20);
                while let Err(e) = OpenOptions::new(place.file("store")).open().await {
                    assert!(std::time::Instant::now() < deadline, "it cannot be reopened: {e}");
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            });
        }
    }
}

#[test]
fn memory_of_a_request_that_hangs_stays_away_until_it_ends() {
    support::simulate(async {
        let disk = SimDisk::new(16, SimOptions::default());
        let device = Device::new(disk.attach());
        let arena = support::arena(2);
        disk.inject(FaultRule::new(Fault::Hang).times(2));
        drop(device.read(0, vec![support::block_of(&arena, 0)]));
        let reading = device.read(1, vec![support::block_of(&arena, 0)]);
        tokio::time::sleep(Duration::from_secs(3600)).await;
        assert_eq!(arena.free_blocks(), 0);
        let mut closing = device.close();
        assert!((&mut closing).now_or_never().is_none(), "closing does not wait");
        disk.release();
        reading.await.1.unwrap();
        closing.await.unwrap();
        all_back(&arena).await;
    });
}
