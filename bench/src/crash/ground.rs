//! A small volume on the simulated disk, a deterministic runtime, and seeds on all cores.
//!
//! Guarantees that nothing here draws from a clock or from chance. Used by every run, and mounted by the tests of
//! the engine (`engine/tests/support`).

use foliant::Engine;
use foliant::Object;
use foliant::Result;
use foliant::check::Options;
use foliant::check::check;
use foliant_device::Device;
use foliant_device::sim::Rng;
use foliant_device::sim::SimDisk;
use foliant_device::sim::SimOptions;

/// 40 MiB: superblocks, a journal of 4 MiB, and one group.
pub const DEVICE_BLOCKS: u64 = 10_240;
/// The smallest journal.
pub const JOURNAL_BYTES: u64 = 4 << 20;
/// A journal of 4 MiB, and a group so small that freed blocks are used again at once.
pub const DEVICE_BLOCKS_TIGHT: u64 = 32 + 1024 + 33 + 260;
/// The smallest budget, so that eviction and waiting happen.
pub const MEMORY_BYTES: u64 = 8 << 20;
/// Bytes of a block.
pub const BLOCK: usize = 4096;
/// What a look at a store of these sizes needs.
const CHECK_BYTES: u64 = 2 << 20;

/// One thread, virtual time: one seed replays one run.
pub fn simulate<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime can be made");
    runtime.block_on(work)
}

/// Makes a volume on `disk`.
pub async fn format(disk: &SimDisk) {
    Engine::format_device(Device::new(disk.attach()))
        .journal_bytes(JOURNAL_BYTES)
        .uuid([7; 16])
        .force(true)
        .run()
        .await
        .expect("an empty disk can be formatted");
}

/// Opens the volume with the smallest budget.
pub async fn open(disk: &SimDisk) -> Result<Engine> {
    Engine::open_device(Device::new(disk.attach())).memory_bytes(MEMORY_BYTES).run().await
}

/// An empty volume of the usual size on a disk of this seed, open.
pub async fn fresh(seed: u64) -> (SimDisk, Engine) {
    let disk = SimDisk::new(DEVICE_BLOCKS, SimOptions { seed, ..SimOptions::default() });
    format(&disk).await;
    let engine = open(&disk).await.expect("a fresh volume opens");
    (disk, engine)
}

/// Looks at the whole store on `disk` as recovery would find it, without changing it, and demands that
/// nothing is wrong. With `data`, every checksum too.
pub async fn is_sound(disk: &SimDisk, data: bool) {
    let device = Device::new(disk.attach());
    let options = Options { data, memory_bytes: CHECK_BYTES, ..Options::default() };
    let report = check(&device, &options).await.expect("the store can be looked at");
    assert!(report.is_sound(), "the store is damaged:\n{report}");
}

/// Runs `test` for each seed on all cores; a failure prints its seed and stops.
pub fn for_seeds(seeds: std::ops::Range<u64>, test: impl Fn(u64) + Sync) {
    use std::sync::atomic::AtomicBool;
    use std::sync::atomic::AtomicU64;
    use std::sync::atomic::Ordering;
    let next = AtomicU64::new(seeds.start);
    let failed = AtomicBool::new(false);
    let threads = std::thread::available_parallelism().map_or(2, |n| n.get());
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds.end || failed.load(Ordering::Relaxed) {
                        return;
                    }
                    let run = std::panic::AssertUnwindSafe(|| test(seed));
                    if let Err(cause) = std::panic::catch_unwind(run) {
                        failed.store(true, Ordering::Relaxed);
                        eprintln!("seed {seed} fails");
                        std::panic::resume_unwind(cause);
                    }
                }
            });
        }
    });
}

/// Bytes that name their seed and position, so that a mix-up shows.
pub fn bytes(rng: &mut Rng, len: usize) -> Vec<u8> {
    let tag = rng.next_u64();
    (0..len).map(|i| (tag.rotate_left((i % 64) as u32) as u8) ^ (i / 64) as u8 | 1).collect()
}

/// Writes into a model as a write goes into an object: it grows if need be.
pub fn put(bytes: &mut Vec<u8>, at: usize, data: &[u8]) {
    bytes.resize(bytes.len().max(at + data.len()), 0);
    bytes[at..at + data.len()].copy_from_slice(data);
}

/// All that an object holds.
pub async fn read_all(object: &Object) -> Vec<u8> {
    let mut bytes = vec![0; object.size() as usize];
    let read = object.read_at(0, &mut bytes).await.expect("every block can be read");
    assert_eq!(read, bytes.len(), "short read");
    bytes
}
