//! Many tasks on many threads, idle pauses, foreign runtimes: every request that was made ends, and its
//! waiter hears of it.

mod support;

use std::time::Duration;

use foliant_device::Arena;
use foliant_device::Device;
use foliant_device::DeviceErrorKind;
use foliant_device::Persist;
use foliant_device::backend::BackendChoice;
use foliant_device::backend::OpenOptions;
use foliant_device::sim::Rng;
use futures_util::future::join_all;

const BLOCKS: u64 = 4096;
const BACKENDS: [BackendChoice; 2] = [BackendChoice::Ring, BackendChoice::Threads];
const PATIENCE: Duration = Duration::from_secs(30);

async fn open(place: &support::Place, backend: BackendChoice, depth: u32) -> Device {
    let options = OpenOptions::new(place.file("store")).create_bytes(BLOCKS * 4096);
    options.backend(backend).depth(depth).open().await.expect("the store opens")
}

/// One task with its own blocks; pauses let the driver fall asleep.
async fn worker(device: Device, arena: Arena, task: u64, rounds: u64, pauses: bool) {
    let mut rng = Rng::new(task);
    for round in 1..=rounds {
        let block = task * 8 + rng.below(8);
        let byte = (task * 31 + round) as u8;
        let written = support::write(&device, &arena, block, byte);
        tokio::time::timeout(PATIENCE, written).await.expect("a lost wake").expect("write");
        if rng.below(50) == 0 {
            tokio::time::timeout(PATIENCE, device.flush())
                .await
                .expect("a lost wake")
                .expect("flush");
        }
        if pauses && rng.below(4) == 0 {
            tokio::time::sleep(Duration::from_millis(1 + rng.below(3))).await;
        }
        let found = support::read(&device, &arena, block);
        let found =
            tokio::time::timeout(PATIENCE, found).await.expect("a lost wake").expect("read");
        assert!(found.iter().all(|&b| b == byte), "task {task} round {round}");
    }
}

async fn run(device: &Device, tasks: u64, rounds: u64, pauses: bool) {
    let arena = support::arena(512);
    let all = (0..tasks)
        .map(|task| tokio::spawn(worker(device.clone(), arena.clone(), task, rounds, pauses)));
    for outcome in join_all(all).await {
        outcome.expect("no task fails");
    }
    assert_eq!(arena.free_blocks(), arena.capacity_blocks());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_tasks_on_several_threads() {
    let place = support::Place::new();
    for backend in BACKENDS {
        for depth in [1, 7, 256] {
            let device = open(&place, backend, depth).await;
            run(&device, 100, 20, false).await;
            device.close().await.expect("close");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn few_tasks_with_pauses_on_several_threads() {
    let place = support::Place::new();
    for backend in BACKENDS {
        let device = open(&place, backend, 32).await;
        run(&device, 3, 300, true).await;
        device.close().await.expect("close");
    }
}

#[tokio::test]
async fn few_tasks_with_pauses_on_one_thread() {
    let place = support::Place::new();
    for backend in BACKENDS {
        let device = open(&place, backend, 32).await;
        run(&device, 3, 300, true).await;
        run(&device, 1, 300, false).await;
        device.close().await.expect("close");
    }
}

#[test]
fn waiters_on_other_runtimes_than_the_device() {
    let place = support::Place::new();
    for backend in BACKENDS {
        let home = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a runtime");
        let device = home.block_on(open(&place, backend, 32));
        std::thread::scope(|scope| {
            for task in 0..3 {
                let device = device.clone();
                scope.spawn(move || {
                    let away = tokio::runtime::Builder::new_current_thread().enable_all().build();
                    let arena = support::arena(4);
                    let work = worker(device, arena, task, 300, true);
                    away.expect("a runtime").block_on(work);
                });
            }
        });
        home.block_on(device.close()).expect("close");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn closing_among_requests_ends_each_with_success_or_gone() {
    let place = support::Place::new();
    for round in 0..40 {
        let device = open(&place, BACKENDS[round % 2], 8).await;
        let arena = support::arena(256);
        let tasks: Vec<_> = (0..6_u64)
            .map(|task| {
                let (device, arena) = (device.clone(), arena.clone());
                tokio::spawn(async move {
                    loop {
                        let from = vec![support::block_of(&arena, 1).into()];
                        match device.write(task, from, Persist::Cached).await {
                            Ok(()) => {}
                            Err(e) => return e.kind,
                        }
                    }
                })
            })
            .collect();
        tokio::time::sleep(Duration::from_micros(200 * round as u64)).await;
        let closed = tokio::time::timeout(PATIENCE, device.close()).await;
        closed.expect("closing ends").expect("close");
        for task in tasks {
            let kind = tokio::time::timeout(PATIENCE, task).await.expect("a lost wake");
            assert_eq!(kind.expect("no task fails"), DeviceErrorKind::Gone);
        }
        assert_eq!(arena.free_blocks(), arena.capacity_blocks());
    }
}
