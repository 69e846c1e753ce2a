//! A transaction that replaces a block from end to end does not read what the block held: a commit beside a
//! cold cache waited for a read of bytes that nobody wanted. What it logs then is the whole block, and a crash
//! finds the old or the new one, whatever was torn on its way home.

#![allow(clippy::unwrap_used)] // In helpers of tests as in tests: a failed unwrap is the failed test.

mod support;

use foliant::Durability;
use foliant::Engine;
use foliant::Object;
use foliant_device::sim::SimDisk;
use foliant_device::sim::SimOptions;
use support::BLOCK;
use support::DEVICE_BLOCKS;
use support::format;
use support::is_sound;
use support::open;
use support::read_all;
use support::simulate;

const BLOCKS: usize = 300;

fn content(block: usize, version: u8) -> Vec<u8> {
    (0..BLOCK).map(|at| (block * 31 + at * 7) as u8 ^ version).collect()
}

/// A store with one stored object of which nothing is cached, but for the metadata that leads to it.
async fn cold(disk: &SimDisk) -> (Engine, Object) {
    format(disk).await;
    let engine = open(disk).await.unwrap();
    let object = engine.create("object").await.unwrap();
    let all: Vec<u8> = (0..BLOCKS).flat_map(|block| content(block, 0)).collect();
    object.write_at(0, &all).await.unwrap();
    object.sync().await.unwrap();
    drop(object);
    engine.close().await.unwrap();
    let engine = open(disk).await.unwrap();
    let object = engine.object("object").await.unwrap();
    commit(&engine, &object, &[(200, 0, BLOCK)], 0).await;
    (engine, object)
}

/// Commits bytes of the version's content of some blocks: block, from, to.
async fn commit(engine: &Engine, object: &Object, parts: &[(usize, usize, usize)], version: u8) {
    let mut transaction = engine.transaction();
    for &(block, from, to) in parts {
        let bytes = &content(block, version)[from..to];
        transaction.write_at(object, (block * BLOCK + from) as u64, bytes).unwrap();
    }
    transaction.commit_with(Durability::Durable).await.unwrap();
}

#[test]
fn whole_blocks_are_committed_without_a_read() {
    simulate(async {
        let disk = SimDisk::new(DEVICE_BLOCKS, SimOptions::default());
        let (engine, object) = cold(&disk).await;
        let before = engine.stats().device_bytes_read;
        let whole = [(3, 0, BLOCK), (4, 0, BLOCK), (5, 0, BLOCK), (90, 0, BLOCK)];
        commit(&engine, &object, &whole, 1).await;
        // Two patches, of which the later one is whole; and one behind a whole one.
        commit(&engine, &object, &[(7, 0, 100), (7, 0, BLOCK)], 2).await;
        commit(&engine, &object, &[(8, 0, BLOCK)], 2).await;
        assert_eq!(engine.stats().device_bytes_read, before, "nothing was read for them");
        commit(&engine, &object, &[(9, 0, BLOCK - 1)], 3).await;
        assert!(engine.stats().device_bytes_read > before, "a part needs the rest");
        let mut expected: Vec<Vec<u8>> = (0..BLOCKS).map(|block| content(block, 0)).collect();
        for (block, version) in [(3, 1), (4, 1), (5, 1), (90, 1), (7, 2), (8, 2)] {
            expected[block] = content(block, version);
        }
        expected[9][..BLOCK - 1].copy_from_slice(&content(9, 3)[..BLOCK - 1]);
        assert_eq!(read_all(&object).await, expected.concat());
        disk.power_cut();
        is_sound(&disk, true).await;
        let engine = open(&disk).await.unwrap();
        let object = engine.object("object").await.unwrap();
        assert_eq!(read_all(&object).await, expected.concat());
        engine.close().await.unwrap();
    });
}

/// Nobody needs what a damaged block held to replace it; who needs a part of it hears of the damage.
#[test]
fn a_damaged_block_can_be_replaced_whole() {
    simulate(async {
        let disk = SimDisk::new(DEVICE_BLOCKS, SimOptions::default());
        let (engine, object) = cold(&disk).await;
        let at = (40 * BLOCK) as u64;
        let stored = object.extents(at..at + 1, 1).await.unwrap().pop().unwrap();
        let place = stored.device_offset.unwrap() + (at - stored.range.start);
        disk.flip(place / BLOCK as u64, 77, 3);
        let mut part = engine.transaction();
        part.write_at(&object, at + 5, b"part").unwrap();
        assert!(part.commit().await.unwrap_err().is_corruption());
        commit(&engine, &object, &[(40, 0, BLOCK)], 9).await;
        let mut bytes = vec![0; BLOCK];
        object.read_at(at, &mut bytes).await.unwrap();
        assert_eq!(bytes, content(40, 9));
        engine.close().await.unwrap();
        is_sound(&disk, true).await;
        let engine = open(&disk).await.unwrap();
        let object = engine.object("object").await.unwrap();
        object.read_at(at, &mut bytes).await.unwrap();
        assert_eq!(bytes, content(40, 9));
        engine.close().await.unwrap();
    });
}

/// Rounds of whole blocks and of small differences to them, cut after every number of requests.
#[test]
fn a_cut_anywhere_finds_each_block_old_or_new() {
    let mut cuts = 0;
    for after in 1..60 {
        simulate(async {
            let disk =
                SimDisk::new(DEVICE_BLOCKS, SimOptions { seed: after, ..SimOptions::default() });
            let (engine, object) = cold(&disk).await;
            disk.crash_after_requests(after);
            let mut acknowledged = 0;
            for version in 1..40_u8 {
                let mut transaction = engine.transaction();
                for block in [10, 11, 150] {
                    let bytes = content(block, version);
                    let whole = version % 3 > 0;
                    let len = if whole { BLOCK } else { 900 };
                    let at = (block * BLOCK) as u64;
                    transaction.write_at(&object, at, &bytes[..len]).unwrap();
                }
                if version % 8 == 0 {
                    // Home with it: replay must not need what it finds there.
                    object.sync().await.ok();
                }
                let Ok(commit) = transaction.commit().await else { break };
                if commit.durable().await.is_err() {
                    break;
                }
                acknowledged = version;
            }
            cuts += u32::from(!disk.is_powered());
            disk.power_cut();
            is_sound(&disk, true).await;
            let engine = open(&disk).await.unwrap();
            let found = read_all(&engine.object("object").await.unwrap()).await;
            let state = |version: u8, block: usize| {
                let mut bytes =
                    content(block, version - u8::from(version > 0 && version.is_multiple_of(3)));
                if version.is_multiple_of(3) {
                    bytes[..900].copy_from_slice(&content(block, version)[..900]);
                }
                bytes
            };
            let is = |version: u8| {
                [10, 11, 150]
                    .iter()
                    .all(|&b| found[b * BLOCK..(b + 1) * BLOCK] == state(version, b))
            };
            assert!(
                is(acknowledged) || is(acknowledged + 1),
                "cut after {after}: neither version {acknowledged} nor the next one"
            );
            engine.close().await.unwrap();
        });
    }
    assert!(cuts > 20, "only {cuts} cuts came while it worked");
}
