//! A scrub reads everything that is stored and names what is damaged, beside writers, commits and
//! checkpoints, and calls nothing else damaged.

#![allow(clippy::unwrap_used)] // In helpers of tests as in tests: a failed unwrap is the failed test.

mod support;

use foliant::Engine;
use foliant::ScrubReport;
use foliant_device::error::Operation;
use foliant_device::sim::Fault;
use foliant_device::sim::FaultRule;
use foliant_device::sim::Rng;
use foliant_device::sim::SimDisk;
use foliant_device::sim::SimOptions;
use support::BLOCK;

const BLOCKS: usize = 60;

/// On a volume so small that freed blocks are used again at once.
async fn filled(seed: u64) -> (SimDisk, Engine) {
    let disk =
        SimDisk::new(support::DEVICE_BLOCKS_TIGHT, SimOptions { seed, ..SimOptions::default() });
    support::format(&disk).await;
    let engine = support::open(&disk).await.unwrap();
    for name in ["a", "b", "c"] {
        let object = engine.create(name).await.unwrap();
        object.write_at(0, &vec![name.as_bytes()[0]; BLOCKS * BLOCK]).await.unwrap();
        object.sync().await.unwrap();
    }
    (disk, engine)
}

async fn scrub(engine: &Engine) -> ScrubReport {
    engine.scrub().bytes_per_second(1 << 40).run().await.unwrap()
}

/// Where a block of an object lies on the device.
async fn place(engine: &Engine, name: &str, block: u64) -> u64 {
    let object = engine.object(name).await.unwrap();
    let range = block * BLOCK as u64..(block + 1) * BLOCK as u64;
    let extent = object.extents(range.clone(), 1).await.unwrap().remove(0);
    (extent.device_offset.unwrap() + range.start - extent.range.start) / BLOCK as u64
}

#[test]
fn damage_is_named_although_the_sound_bytes_are_cached() {
    support::simulate(async {
        let (disk, engine) = filled(1).await;
        let report = scrub(&engine).await;
        assert_eq!((report.objects, report.damaged_bytes), (3, 0), "{report:?}");
        assert_eq!(report.sound_bytes, (3 * BLOCKS * BLOCK) as u64);
        for block in [40, 41, 50] {
            disk.flip(place(&engine, "b", block).await, 77, 3);
        }
        let bad = place(&engine, "c", 7).await;
        let kind = foliant_device::DeviceErrorKind::Io;
        disk.inject(FaultRule::fail(kind).on(Operation::Read).blocks(bad..bad + 1).always());
        let report = scrub(&engine).await;
        let found = report.damages.iter();
        let found = found.map(|d| (&d.name[..], d.range.start / 4096..d.range.end / 4096));
        let found: Vec<_> = found.collect();
        assert_eq!(found, [(&b"b"[..], 40..42), (b"b", 50..51), (b"c", 7..8)]);
        assert!(
            report.damages[0].cause.is_corruption() && !report.damages[2].cause.is_corruption()
        );
        assert_eq!(report.damaged_bytes, 4 * BLOCK as u64);
        engine.close().await.unwrap();
    });
}

#[test]
fn what_changes_beside_it_is_not_called_damaged() {
    for seed in 0..20 {
        support::simulate(async {
            let (disk, engine) = filled(seed).await;
            // Slow enough that places are freed, and used again, while they are read.
            let slow = FaultRule::new(Fault::Delay { ms: 1_000 }).on(Operation::Read);
            disk.inject(slow.always());
            let change = async {
                let mut rng = Rng::new(seed);
                for _ in 0..400 {
                    let object =
                        engine.object(["a", "b", "c"][rng.below(3) as usize]).await.unwrap();
                    let at = rng.below(((BLOCKS - 4) * BLOCK) as u64);
                    match rng.below(6) {
                        0 => object.sync().await.unwrap(),
                        1 => object.punch(at..at + 9000).await.unwrap(),
                        2 => object.write_at(at, &[9; 9000]).await.unwrap(),
                        _ => {
                            let mut transaction = engine.transaction();
                            transaction.write_at(&object, at, &[8; 300]).unwrap();
                            transaction.commit().await.unwrap();
                        }
                    }
                }
            };
            let look = async {
                let mut sound = 0;
                for _ in 0..20 {
                    let report = scrub(&engine).await;
                    assert!(report.damages.is_empty(), "seed {seed}: {:?}", report.damages);
                    sound += report.sound_bytes;
                }
                assert!(sound > 0);
            };
            tokio::join!(change, look);
            engine.close().await.unwrap();
        });
    }
}

#[test]
fn it_reads_no_faster_than_it_is_told() {
    support::simulate(async {
        let (_disk, engine) = filled(3).await;
        let start = tokio::time::Instant::now();
        let bytes = engine.scrub().bytes_per_second(100 << 10).run().await.unwrap().sound_bytes;
        let seconds = start.elapsed().as_secs_f64();
        let expected = bytes as f64 / f64::from(100 << 10);
        assert!((expected..expected + 2.0).contains(&seconds), "{seconds} s, not {expected}");
        engine.close().await.unwrap();
    });
}
