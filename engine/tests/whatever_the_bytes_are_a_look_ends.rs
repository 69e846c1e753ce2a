//! Stores whose metadata says anything, with right checksums: check, repair, export and dump end, without a
//! panic, within their memory; check changes nothing; and what repair calls sound can be opened. One seed
//! replays one run.

#![allow(clippy::unwrap_used)] // In helpers of tests as in tests: a failed unwrap is the failed test.

mod support;

use std::collections::BTreeMap;

use foliant::ErrorKind;
use foliant::check::Options;
use foliant::check::Structure;
use foliant::check::check;
use foliant::check::dump;
use foliant::check::export;
use foliant::check::info;
use foliant::check::repair;
use foliant::units::BlockNo;
use foliant::units::ObjectId;
use foliant_device::Device;
use foliant_device::sim::Rng;
use foliant_device::sim::SimDisk;
use foliant_device::sim::SimOptions;
use support::BLOCK;
use support::DEVICE_BLOCKS_TIGHT;
use support::bytes;
use support::format;
use support::open;
use support::simulate;

const SEEDS: std::ops::Range<u64> = 0..200;

/// A store on which a few things happened; sometimes not closed, so that its log is full.
async fn store(rng: &mut Rng) -> SimDisk {
    let seed = rng.next_u64();
    let disk = SimDisk::new(DEVICE_BLOCKS_TIGHT, SimOptions { seed, ..SimOptions::default() });
    format(&disk).await;
    let engine = open(&disk).await.unwrap();
    for i in 0..rng.below(120) + 2 {
        let Ok(object) = engine.create(format!("object-{i}")).await else { break };
        let len = if rng.below(8) == 0 { rng.below(30_000) } else { rng.below(300) };
        // A full volume is as good as any.
        let at = rng.below(9) * BLOCK as u64;
        let _ = object.write_at(at, &bytes(rng, len as usize)).await;
    }
    let _ = engine.sync().await;
    if rng.below(3) == 0 {
        disk.power_cut();
        return disk;
    }
    engine.close().await.unwrap();
    disk
}

/// Metadata blocks of the store, as they lie.
fn metadata(disk: &SimDisk) -> Vec<u64> {
    let address = |at: u64| u64::from_le_bytes(disk.peek(at)[8..16].try_into().unwrap());
    (1..disk.blocks()).filter(|&at| address(at) == at).collect()
}

fn damage(rng: &mut Rng, disk: &SimDisk) {
    let superblock = disk.peek(0);
    let volume = u32::from_le_bytes(superblock[96..100].try_into().unwrap());
    let blocks = metadata(disk);
    for _ in 0..=rng.below(4) {
        let at = blocks[rng.below(blocks.len() as u64) as usize];
        let mut image = disk.peek(at);
        for _ in 0..=rng.below(5) {
            // Headers of bodies are worth more than the rest.
            let span = [24, 80, 200, BLOCK as u64 - 24][rng.below(4) as usize];
            let place = 24 + rng.below(span) as usize;
            image[place] = match rng.below(4) {
                0 => 0,
                1 => 0xFF,
                2 => image[place] ^ (1 << rng.below(8)),
                _ => rng.next_u64() as u8,
            };
        }
        if rng.below(8) == 0 {
            // Another block's content in this place.
            let other = blocks[rng.below(blocks.len() as u64) as usize];
            image[24..].copy_from_slice(&disk.peek(other)[24..]);
        }
        if rng.below(8) > 0 {
            foliant::testing::seal_metadata(&mut image, at, volume);
        }
        disk.poke(at, &image);
    }
    if rng.below(10) == 0 {
        disk.flip([0, 8, 9, 16][rng.below(4) as usize], rng.below(120) as usize, 3);
    }
}

async fn look_at_all(rng: &mut Rng, disk: &SimDisk) {
    let options = Options { memory_bytes: 2 << 20, ..Options::default() };
    let device = || Device::new(disk.attach());
    let _ = info(&device(), &options, &mut Vec::new()).await;
    for what in [
        Structure::Superblock,
        Structure::Journal,
        Structure::Root,
        Structure::Group(rng.below(2)),
        Structure::Block(BlockNo(rng.below(DEVICE_BLOCKS_TIGHT))),
        Structure::Object(ObjectId(rng.below(50))),
        Structure::Extents(ObjectId(rng.below(50))),
        Structure::Names,
    ] {
        let _ = dump(&device(), &options, what, &mut Vec::new()).await;
    }
}

/// Whether repair ended in a sound store.
async fn run(seed: u64) -> bool {
    let mut rng = Rng::new(seed);
    let disk = store(&mut rng).await;
    damage(&mut rng, &disk);
    let image = |disk: &SimDisk| -> BTreeMap<u64, Vec<u8>> {
        (0..disk.blocks()).map(|at| (at, disk.peek_cached(at))).collect()
    };
    let before = image(&disk);
    let options = Options { memory_bytes: 2 << 20, ..Options::default() };
    let looked = check(&Device::new(disk.attach()), &options).await;
    look_at_all(&mut rng, &disk).await;
    let dir = format!("foliant-any-bytes-{}-{seed}", std::process::id());
    let dir = std::env::temp_dir().join(dir);
    let exported = export(&Device::new(disk.attach()), &options, &dir).await;
    let _ = std::fs::remove_dir_all(&dir);
    assert!(image(&disk) == before, "a look changed the store");
    let refused = [ErrorKind::NotAStore, ErrorKind::Incompatible, ErrorKind::InvalidInput];
    let Ok(report) = looked else {
        let kind = looked.unwrap_err().kind();
        assert!(refused.contains(&kind), "{kind:?}");
        return false;
    };
    exported.expect("what can be looked at can be exported from");
    let repaired = repair(&Device::new(disk.attach()), &options).await.unwrap();
    if report.is_sound() {
        assert!(repaired.done.is_empty(), "a sound store was repaired: {:?}", repaired.done);
    }
    if !repaired.after.is_sound() {
        return false;
    }
    let engine = open(&disk).await.expect("what is sound opens");
    for name in engine.list("", 1_000).await.unwrap() {
        let object = engine.object(&name).await.unwrap();
        let mut found = vec![0; object.size().min(1 << 20) as usize];
        object.read_at(0, &mut found).await.expect("what is sound can be read");
    }
    let made = engine.create("one more").await;
    assert!(made.is_ok() || made.is_err_and(|cause| cause.is_no_space()));
    engine.close().await.unwrap();
    support::is_sound(&disk, true).await;
    true
}

#[test]
fn any_metadata_ends_in_a_report() {
    let sound = std::sync::atomic::AtomicU64::new(0);
    support::for_seeds(SEEDS, |seed| {
        let mended = simulate(run(seed));
        sound.fetch_add(u64::from(mended), std::sync::atomic::Ordering::Relaxed);
    });
    let sound = sound.into_inner();
    println!("{sound} of {} stores were sound in the end", SEEDS.end - SEEDS.start);
    assert!(sound > 10, "the damage leaves nothing to repair");
}
