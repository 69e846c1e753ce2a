//! Transactions over several blocks that lie in one large folio: each patch is there, and so is what
//! plain writes put beside them; at once, after a sync, after eviction and after reopening.
//!
//! A folio of one block takes a new image whole; a larger one is changed in place, by all patches of the
//! transaction one after the other, or in other memory when a reader keeps the old one. A folio of
//! sixteen blocks comes from reading 64 KiB in order, or from writing them in one piece.

#![allow(clippy::unwrap_used)] // In helpers of tests as in tests: a failed unwrap is the failed test.

mod support;

use std::ops::Range;

use bytes::Bytes;
use foliant::Commit;
use foliant::Engine;
use foliant::Object;
use foliant_device::sim::Rng;
use foliant_device::sim::SimDisk;
use foliant_device::sim::SimOptions;
use futures_util::future::join_all;
use support::BLOCK;

const FOLIO: usize = 16 * BLOCK;
/// Folios of the object.
const FOLIOS: usize = 24;
/// More than the budget, to push everything else out.
const BALLAST: usize = 10 << 20;
const DEVICE_BLOCKS: u64 = 12_000;

struct Volume {
    disk: SimDisk,
    engine: Engine,
    object: Object,
    rng: Rng,
    bytes: Vec<u8>,
    /// What readers keep, with what it was when they got it.
    kept: Vec<(Bytes, Vec<u8>)>,
}

/// One write of a transaction or a plain one.
#[derive(Clone, Debug)]
struct Write {
    at: usize,
    data: Vec<u8>,
}

impl Volume {
    /// A stored object, and a folio of sixteen blocks for each of its pieces.
    async fn new(seed: u64) -> Self {
        let disk = SimDisk::new(DEVICE_BLOCKS, SimOptions { seed, ..SimOptions::default() });
        support::format(&disk).await;
        let engine = support::open(&disk).await.unwrap();
        let mut rng = Rng::new(seed);
        let ballast = engine.create("ballast").await.unwrap();
        ballast.write_at(0, &vec![0xBA; BALLAST]).await.unwrap();
        let object = engine.create("object").await.unwrap();
        let bytes = support::bytes(&mut rng, FOLIOS * FOLIO);
        object.write_at(0, &bytes).await.unwrap();
        engine.sync().await.unwrap();
        let mut volume = Self { disk, engine, object, rng, bytes, kept: Vec::new() };
        volume.evict().await;
        volume.read_in_order().await;
        volume
    }

    /// Reads so much else that nothing of the object is left in memory.
    async fn evict(&mut self) {
        let ballast = self.engine.object("ballast").await.unwrap();
        let mut bytes = vec![0; FOLIO];
        for at in (0..BALLAST).step_by(FOLIO) {
            ballast.read_at(at as u64, &mut bytes).await.unwrap();
        }
    }

    /// 64 KiB after 64 KiB; the folios are as large as these reads, or larger.
    async fn read_in_order(&self) {
        for at in (0..FOLIOS * FOLIO).step_by(FOLIO) {
            self.check_range(at..at + FOLIO).await;
        }
    }

    /// Two shared reads that give the same memory come from one folio; copies would be two.
    async fn is_one_folio(&self, folio: usize) -> bool {
        let range = (folio * FOLIO) as u64..((folio + 1) * FOLIO) as u64;
        let first = self.object.read(range.clone()).await.unwrap();
        let second = self.object.read(range).await.unwrap();
        first.as_ptr() == second.as_ptr()
    }

    async fn check_range(&self, range: Range<usize>) {
        let mut found = vec![0; range.len()];
        let read = self.object.read_at(range.start as u64, &mut found).await.unwrap();
        assert_eq!(read, range.len());
        let expected = &self.bytes[range.clone()];
        let differs = found.iter().zip(expected).position(|(a, b)| a != b);
        if let Some(at) = differs {
            let (block, byte) = ((range.start + at) / BLOCK, (range.start + at) % BLOCK);
            panic!("byte {byte} of block {block} is {} and not {}", found[at], expected[at]);
        }
    }

    async fn check(&self) {
        let mut rng = self.rng.clone();
        let step = [1_000, BLOCK, FOLIO, FOLIOS * FOLIO][rng.below(4) as usize];
        for at in (0..FOLIOS * FOLIO).step_by(step) {
            self.check_range(at..(at + step).min(FOLIOS * FOLIO)).await;
        }
        for (bytes, then) in &self.kept {
            assert!(bytes[..] == then[..], "bytes that a reader keeps have changed");
        }
    }

    async fn reopen(&mut self) {
        self.check().await;
        self.kept.clear();
        self.engine.clone().close().await.unwrap();
        self.open().await;
    }

    async fn open(&mut self) {
        self.engine = support::open(&self.disk).await.unwrap();
        self.object = self.engine.object("object").await.unwrap();
    }

    /// Keeps bytes of a folio, so that its memory has to be replaced.
    async fn keep(&mut self, folio: usize) {
        let start = folio * FOLIO + self.rng.below(FOLIO as u64 / 2) as usize;
        let end = start + self.rng.below(FOLIO as u64 / 2) as usize + 1;
        let bytes = self.object.read(start as u64..end as u64).await.unwrap();
        assert!(bytes[..] == self.bytes[start..end], "a shared read of {start}..{end}");
        self.kept.push((bytes, self.bytes[start..end].to_vec()));
        if self.kept.len() > 4 {
            let (bytes, then) = self.kept.remove(0);
            assert!(bytes[..] == then[..], "bytes that a reader keeps have changed");
        }
    }

    fn put(&mut self, write: &Write) {
        self.bytes[write.at..write.at + write.data.len()].copy_from_slice(&write.data);
    }

    /// A few bytes, about a block, or more than one, inside the folio.
    fn some_write(&mut self, folio: usize) -> Write {
        let len = match self.rng.below(4) {
            0 => self.rng.below(8) as usize + 1,
            1 => BLOCK,
            2 => self.rng.below(300) as usize + 1,
            _ => self.rng.below(2 * BLOCK as u64) as usize + 1,
        };
        let mut at = self.rng.below((FOLIO - len) as u64) as usize;
        if self.rng.chance(400) {
            at = at / BLOCK * BLOCK;
        }
        Write { at: folio * FOLIO + at, data: support::bytes(&mut self.rng, len) }
    }

    async fn write(&mut self, write: &Write) {
        self.object.write_at(write.at as u64, &write.data).await.unwrap();
        self.put(write);
    }

    async fn commit(&mut self, writes: &[Write]) -> Commit {
        let mut transaction = self.engine.transaction();
        for write in writes {
            transaction.write_at(&self.object, write.at as u64, &write.data).unwrap();
            self.put(write);
        }
        self.check_inside(&transaction, writes).await;
        transaction.commit().await.unwrap()
    }

    /// The transaction sees its own writes over what is there.
    async fn check_inside(&self, transaction: &foliant::Transaction, writes: &[Write]) {
        let Some(start) = writes.iter().map(|write| write.at / FOLIO * FOLIO).min() else { return };
        let mut found = vec![0; FOLIO];
        transaction.read_at(&self.object, start as u64, &mut found).await.unwrap();
        assert!(found[..] == self.bytes[start..start + FOLIO], "a transaction's own view");
    }

    /// A patch in each of the blocks of the folio.
    fn patches(&mut self, folio: usize, blocks: &[usize]) -> Vec<Write> {
        let mut writes = Vec::new();
        for block in blocks {
            let at = folio * FOLIO + block * BLOCK + self.rng.below(4_000) as usize;
            writes.push(Write { at, data: support::bytes(&mut self.rng, 90) });
        }
        writes
    }

    /// At once, after eviction, after a sync, after both, and after reopening.
    async fn check_everywhere(&mut self) {
        self.check().await;
        self.evict().await;
        self.check().await;
        self.engine.sync().await.unwrap();
        self.check().await;
        self.evict().await;
        self.check().await;
        self.reopen().await;
        self.check().await;
    }
}

const SHAPES: [&[usize]; 5] =
    [&[0, 1], &[3, 12], &[0, 15], &[0, 2, 4, 6, 8, 10, 12, 14], &[5, 6, 7, 8, 9]];

#[test]
fn patches_of_a_folio_that_was_read() {
    for seed in 0..3 {
        support::simulate(async {
            let mut volume = Volume::new(seed).await;
            for (n, shape) in SHAPES.iter().enumerate() {
                assert!(volume.is_one_folio(3 * n + 1).await);
                let writes = volume.patches(3 * n + 1, shape);
                volume.commit(&writes).await.durable().await.unwrap();
                volume.check().await;
            }
            volume.check_everywhere().await;
        });
    }
}

#[test]
fn patches_of_a_folio_that_was_just_written() {
    for seed in 0..3 {
        support::simulate(async {
            let mut volume = Volume::new(seed).await;
            for (n, shape) in SHAPES.iter().enumerate() {
                // Nothing is cached, so that the write makes the folio and makes it large.
                volume.reopen().await;
                let data = support::bytes(&mut volume.rng, FOLIO);
                volume.write(&Write { at: 2 * n * FOLIO, data }).await;
                if seed % 2 == 0 {
                    volume.object.sync().await.unwrap();
                }
                assert!(volume.is_one_folio(2 * n).await);
                let writes = volume.patches(2 * n, shape);
                volume.commit(&writes).await;
                let again = volume.patches(2 * n, shape);
                volume.commit(&again).await;
                volume.check().await;
            }
            volume.check_everywhere().await;
        });
    }
}

/// The memory that the reader keeps is replaced by one with both patches, not by two with one each.
#[test]
fn patches_of_a_folio_that_a_reader_keeps() {
    for seed in 0..3 {
        support::simulate(async {
            let mut volume = Volume::new(seed).await;
            for (n, shape) in SHAPES.iter().enumerate() {
                assert!(volume.is_one_folio(n).await);
                volume.keep(n).await;
                let writes = volume.patches(n, shape);
                volume.commit(&writes).await;
                volume.check().await;
                volume.keep(n).await;
                let writes = volume.patches(n, shape);
                volume.commit(&writes).await;
                volume.check().await;
            }
            volume.check_everywhere().await;
        });
    }
}

/// Commits over the same blocks, none of which waits for the one before to be durable.
async fn commits_in_a_row(seed: u64, cut: bool) {
    let mut volume = Volume::new(seed).await;
    for _ in 0..4 {
        let folio = volume.rng.below(FOLIOS as u64) as usize;
        let dirty = volume.some_write(folio);
        volume.write(&dirty).await;
        if volume.rng.chance(500) {
            volume.object.sync().await.unwrap();
        }
        let mut last = None;
        for _ in 0..volume.rng.below(12) + 3 {
            let count = volume.rng.below(6) + 2;
            let writes: Vec<Write> = (0..count).map(|_| volume.some_write(folio)).collect();
            last = Some(volume.commit(&writes).await);
            if volume.rng.chance(300) {
                volume.check_range(folio * FOLIO..(folio + 1) * FOLIO).await;
            }
            if volume.rng.chance(200) {
                volume.keep(folio).await;
            }
        }
        // Without a plain write of its own since then, the object is what the last commit made of it.
        volume.object.sync().await.unwrap();
        let writes = volume.patches(folio, &[1, 2, 14]);
        let behind = volume.commit(&writes).await;
        last.unwrap().durable().await.unwrap();
        if cut {
            behind.durable().await.unwrap();
            volume.check().await;
            volume.kept.clear();
            volume.disk.power_cut();
            support::is_sound(&volume.disk, true).await;
            volume.open().await;
        }
        volume.check().await;
    }
    volume.check_everywhere().await;
}

#[test]
fn commits_over_the_same_blocks_need_not_wait_for_each_other() {
    support::for_seeds(0..12, |seed| support::simulate(commits_in_a_row(seed, false)));
}

#[test]
fn commits_over_the_same_blocks_survive_a_power_cut() {
    support::for_seeds(100..116, |seed| support::simulate(commits_in_a_row(seed, true)));
}

/// Transactions, plain writes and reads, all at once inside one folio, none over another's bytes.
async fn all_at_once(volume: &mut Volume, folio: usize) {
    const SLICE: usize = FOLIO / 32;
    let mut commits: Vec<Vec<Write>> = vec![Vec::new(); 3];
    let mut plain = Vec::new();
    // Two slices are a block, so that transactions and plain writes also meet within blocks.
    for slice in 0..32 {
        let start = volume.rng.below(SLICE as u64 / 2) as usize;
        let len = volume.rng.below(SLICE as u64 / 2) as usize + 1;
        let at = folio * FOLIO + slice * SLICE + start;
        let write = Write { at, data: support::bytes(&mut volume.rng, len) };
        match volume.rng.below(6) {
            part @ 0..=2 => commits[part as usize].push(write),
            3 => plain.push(write),
            _ => {}
        }
    }
    let (engine, object) = (&volume.engine, &volume.object);
    let committing = commits.iter().map(|writes| async move {
        let mut transaction = engine.transaction();
        for write in writes {
            transaction.write_at(object, write.at as u64, &write.data).unwrap();
        }
        transaction.commit().await.unwrap();
    });
    let writing = plain.iter().map(|write| async move {
        object.write_at(write.at as u64, &write.data).await.unwrap();
    });
    let reading = (0..4).map(|n| async move {
        let mut bytes = vec![0; FOLIO >> n];
        let read = object.read_at((folio * FOLIO) as u64, &mut bytes).await.unwrap();
        assert_eq!(read, bytes.len());
    });
    tokio::join!(join_all(committing), join_all(writing), join_all(reading));
    for write in commits.iter().flatten().chain(&plain) {
        volume.bytes[write.at..write.at + write.data.len()].copy_from_slice(&write.data);
    }
    volume.check_range(folio * FOLIO..(folio + 1) * FOLIO).await;
}

async fn mixed(seed: u64) {
    let mut volume = Volume::new(seed).await;
    for _ in 0..120 {
        let folio = volume.rng.below(FOLIOS as u64) as usize;
        match volume.rng.below(20) {
            0..=5 => {
                let count = volume.rng.below(7) + 2;
                let writes: Vec<Write> = (0..count).map(|_| volume.some_write(folio)).collect();
                volume.commit(&writes).await;
            }
            6..=9 => {
                let write = volume.some_write(folio);
                volume.write(&write).await;
            }
            10..=12 => all_at_once(&mut volume, folio).await,
            13 => {
                let data = support::bytes(&mut volume.rng, FOLIO);
                volume.write(&Write { at: folio * FOLIO, data }).await;
            }
            14 => volume.keep(folio).await,
            15 => volume.object.sync().await.unwrap(),
            16 => volume.evict().await,
            17 if volume.rng.chance(300) => volume.reopen().await,
            _ => volume.read_in_order().await,
        }
        volume.check_range(folio * FOLIO..(folio + 1) * FOLIO).await;
    }
    volume.check_everywhere().await;
}

#[test]
fn patches_beside_plain_writes_and_reads() {
    support::for_seeds(0..24, |seed| support::simulate(mixed(seed)));
}
