//! A transaction is filled until it refuses more; what it accepted before commits, whatever its objects look
//! like: dirty, sparse, preallocated, shortened over stale bytes, in their record. A power cut leaves all of
//! it or nothing.
//!
//! The story: a write was charged for less than a block that is not stored costs when it is logged whole, so
//! `commit` refused what `write_at` had taken; and it was charged for more than a stored block costs, so that a
//! hundred blocks were refused that fitted well.

#![allow(clippy::unwrap_used)] // In helpers of tests as in tests: a failed unwrap is the failed test.

mod support;

use std::panic::AssertUnwindSafe;
use std::panic::catch_unwind;

use foliant::Engine;
use foliant::ErrorKind;
use foliant::Object;
use foliant::testing::Canary;
use foliant::testing::break_on_purpose;
use foliant_device::sim::Rng;
use foliant_device::sim::SimDisk;
use foliant_device::sim::SimOptions;
use support::BLOCK;
use support::put;
use support::read_all;

const OBJECTS: usize = 5;
/// Blocks where writes go.
const BLOCKS: u64 = 600;

struct Volume {
    disk: SimDisk,
    engine: Engine,
    objects: Vec<Object>,
    contents: Vec<Vec<u8>>,
    rng: Rng,
}

impl Volume {
    async fn new(seed: u64) -> Self {
        let blocks = support::DEVICE_BLOCKS;
        let disk = SimDisk::new(blocks, SimOptions { seed, ..SimOptions::default() });
        support::format(&disk).await;
        let engine = support::open(&disk).await.unwrap();
        let contents = vec![Vec::new(); OBJECTS];
        let mut objects = Vec::new();
        for i in 0..OBJECTS {
            objects.push(engine.create(format!("object-{i}")).await.unwrap());
        }
        Self { disk, engine, objects, contents, rng: Rng::new(seed) }
    }

    async fn write(&mut self, which: usize, at: usize, len: usize) {
        let data = support::bytes(&mut self.rng, len);
        self.objects[which].write_at(at as u64, &data).await.unwrap();
        put(&mut self.contents[which], at, &data);
    }

    async fn truncate(&mut self, which: usize, size: usize) {
        self.objects[which].truncate(size as u64).await.unwrap();
        self.contents[which].resize(size, 0);
    }

    /// Brings an object into one of the shapes in which its blocks cannot be logged as differences.
    async fn shape(&mut self, which: usize) {
        let all = BLOCKS as usize * BLOCK;
        match self.rng.below(6) {
            // Stored, and dirty again in places.
            0 => {
                self.write(which, 0, all / 2).await;
                self.objects[which].sync().await.unwrap();
                for block in 0..BLOCKS as usize / 2 {
                    self.write(which, block * BLOCK + 9, 50).await;
                }
            }
            // Shortened: stale bytes behind the end, on the device and in its last block.
            1 => {
                self.write(which, 0, all / 2).await;
                self.objects[which].sync().await.unwrap();
                let size = self.rng.below(all as u64 / 4) as usize;
                self.truncate(which, size).await;
                if self.rng.chance(500) {
                    self.objects[which].sync().await.unwrap();
                }
            }
            // In its record.
            2 => {
                let len = self.rng.below(440) as usize + 1;
                self.truncate(which, 0).await;
                self.write(which, 0, len).await;
                if self.rng.chance(700) {
                    self.objects[which].sync().await.unwrap();
                }
            }
            // Room without bytes.
            3 => {
                self.objects[which].preallocate(0..all as u64 / 3).await.unwrap();
                self.truncate(which, all / 4).await;
            }
            // Large, and all of it a hole.
            4 => self.truncate(which, all).await,
            _ => {}
        }
    }

    /// Reads everything else, so that the objects have to be read again.
    async fn evict(&self) {
        let ballast = match self.engine.object("ballast").await {
            Ok(ballast) => ballast,
            Err(_) => self.engine.create("ballast").await.unwrap(),
        };
        let piece = vec![7; 16 * BLOCK];
        for at in (0..10 << 20).step_by(piece.len()) {
            ballast.write_at(at, &piece).await.unwrap();
        }
        ballast.sync().await.unwrap();
    }

    /// A transaction with as much in it as it takes; what the objects are then.
    fn fill(&mut self, len_max: u64, blocks: u64) -> (foliant::Transaction, Vec<Vec<u8>>) {
        let mut after = self.contents.clone();
        let mut transaction = self.engine.transaction();
        loop {
            let which = self.rng.below(OBJECTS as u64) as usize;
            let len = self.rng.below(len_max) as usize + 1;
            let end = blocks * BLOCK as u64 - len as u64;
            let end = if self.rng.chance(300) { 2_000 } else { end };
            let at = self.rng.below(end) as usize;
            let data = support::bytes(&mut self.rng, len);
            match transaction.write_at(&self.objects[which], at as u64, &data) {
                Ok(()) => put(&mut after[which], at, &data),
                Err(cause) => {
                    assert_eq!(cause.kind(), ErrorKind::TooLarge);
                    break;
                }
            }
            assert!(transaction.log_bytes() <= transaction.log_bytes_max());
            assert!(transaction.blocks() <= transaction.blocks_max());
        }
        (transaction, after)
    }

    async fn check(&self, expected: &[Vec<u8>], when: &str) {
        for (i, object) in self.objects.iter().enumerate() {
            let found = read_all(object).await;
            let differs = found.iter().zip(&expected[i]).position(|(a, b)| a != b);
            assert_eq!((found.len(), differs), (expected[i].len(), None), "object {i} {when}");
        }
    }

    async fn cut_and_open(&mut self) {
        self.disk.power_cut();
        self.objects.clear();
        self.engine = support::open(&self.disk).await.unwrap();
        for i in 0..OBJECTS {
            self.objects.push(self.engine.object(format!("object-{i}")).await.unwrap());
        }
    }
}

/// Fills and commits a few times, with a cut behind each commit that was waited for.
fn fill_and_cut(seed: u64) {
    support::simulate(async {
        let mut volume = Volume::new(seed).await;
        for round in 0..3 {
            for which in 0..OBJECTS {
                volume.shape(which).await;
            }
            if volume.rng.chance(500) {
                volume.evict().await;
            }
            let len_max = [80, 700, 9_000][(seed as usize + round) % 3];
            let blocks = if volume.rng.chance(500) { 60 } else { BLOCKS };
            for at in (0..60 * OBJECTS).filter(|_| blocks == 60) {
                volume.write(at % OBJECTS, at / OBJECTS * BLOCK + 3, 1).await;
            }
            let (transaction, after) = volume.fill(len_max, blocks);
            transaction.commit().await.unwrap().durable().await.unwrap();
            volume.check(&after, "behind the commit").await;
            // What was plain and dirty may be gone behind a cut; here all of it counts.
            volume.engine.sync().await.unwrap();
            volume.cut_and_open().await;
            volume.check(&after, "behind the cut").await;
            volume.contents = after;
        }
    });
}

#[test]
fn a_full_transaction_commits_over_objects_of_every_shape() {
    support::for_seeds(0..40, fill_and_cut);
}

/// A shortened object whose last block holds stale bytes on the device grows by a transaction that is too
/// large to be logged whole, and the power goes before anything else is written.
fn grow_over_stale_bytes(seed: u64) {
    support::simulate(async {
        let mut volume = Volume::new(seed).await;
        volume.write(0, 0, 30 * BLOCK).await;
        volume.write(1, 0, 100 * BLOCK).await;
        volume.engine.sync().await.unwrap();
        let size = volume.rng.below(20 * BLOCK as u64) as usize + 1;
        volume.truncate(0, size).await;
        volume.engine.sync().await.unwrap();
        if volume.rng.chance(500) {
            volume.evict().await;
        }
        let mut transaction = volume.engine.transaction();
        let mut after = volume.contents.clone();
        let far = size + volume.rng.below(9_000) as usize;
        transaction.write_at(&volume.objects[0], far as u64, &[9; 10]).unwrap();
        put(&mut after[0], far, &[9; 10]);
        for block in 0..100 {
            volume.write(1, block * BLOCK + 7, 1).await;
            let at = block * BLOCK + 99;
            transaction.write_at(&volume.objects[1], at as u64, &[8; 10]).unwrap();
            put(&mut volume.contents[1], at, &[8; 10]);
        }
        after[1] = volume.contents[1].clone();
        let commit = transaction.commit().await.unwrap();
        let durable = volume.rng.chance(700);
        if durable {
            commit.durable().await.unwrap();
        }
        volume.cut_and_open().await;
        let found = read_all(&volume.objects[0]).await;
        assert!(found == after[0] || (!durable && found == after[0][..size]), "seed {seed}");
        if durable {
            // Plain bytes were stored before the commit, or they would not be below a difference.
            volume.check(&after, "behind the cut").await;
        }
    });
}

#[test]
fn a_large_commit_that_grows_an_object_leaves_zeroes_behind_its_old_end() {
    support::for_seeds(0..40, grow_over_stale_bytes);
}

#[test]
fn many_small_objects_fit_one_transaction() {
    support::simulate(async {
        let volume = Volume::new(1).await;
        let mut transaction = volume.engine.transaction();
        let mut objects = Vec::new();
        for i in 0..75 {
            let object = volume.engine.create(format!("small-{i}")).await.unwrap();
            object.write_at(0, &[1; 200]).await.unwrap();
            object.sync().await.unwrap();
            transaction.write_at(&object, 100, &[i; 300]).unwrap();
            objects.push(object);
        }
        assert!(transaction.blocks() <= transaction.blocks_max());
        transaction.commit().await.unwrap().durable().await.unwrap();
        for (i, object) in objects.iter().enumerate() {
            let bytes = read_all(object).await;
            assert_eq!((bytes.len(), bytes[99], bytes[399]), (400, 1, i as u8));
        }
    });
}

#[test]
fn deliberate_faults_are_noticed() {
    let caught = |canary, test: fn(u64)| {
        break_on_purpose(Some(canary));
        let outcome = catch_unwind(AssertUnwindSafe(|| (0..40).for_each(test)));
        break_on_purpose(None);
        assert!(outcome.is_err(), "{canary:?} is not noticed");
    };
    caught(Canary::LogWholeOnly, fill_and_cut);
    caught(Canary::TrustStoredEnd, grow_over_stale_bytes);
}
