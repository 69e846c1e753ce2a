//! Filled to the last block: what was accepted is never refused later, what gives space back works,
//! and the space really comes back, round after round.

#![allow(clippy::unwrap_used)] // In helpers of tests as in tests: a failed unwrap is the failed test.

mod support;

use std::collections::BTreeMap;

use foliant::Engine;
use foliant_device::sim::Rng;
use foliant_device::sim::SimDisk;
use foliant_device::sim::SimOptions;
use support::BLOCK;
use support::put;
use support::read_all;

/// Room for 1,500 blocks, or for so few that metadata is a good part of them.
const SIZES: [u64; 2] = [32 + 1024 + 33 + 1_500, support::DEVICE_BLOCKS_TIGHT];
const ROUNDS: u64 = 20;
/// Metadata that an empty volume may keep.
const SLACK: u64 = 2 * BLOCK as u64;

struct Volume {
    disk: SimDisk,
    engine: Engine,
    rng: Rng,
    /// What every object holds, as far as it was accepted.
    model: BTreeMap<String, Vec<u8>>,
    made: u64,
}

impl Volume {
    async fn new(blocks: u64, seed: u64) -> Self {
        let disk = SimDisk::new(blocks, SimOptions { seed, ..SimOptions::default() });
        support::format(&disk).await;
        let engine = support::open(&disk).await.unwrap();
        Self { disk, engine, rng: Rng::new(seed), model: BTreeMap::new(), made: 0 }
    }

    async fn reopen(&mut self) {
        self.engine.clone().close().await.expect("a full volume closes");
        self.engine = support::open(&self.disk).await.expect("a full volume opens");
    }

    fn any(&mut self) -> String {
        let which = self.rng.below(self.model.len() as u64) as usize;
        self.model.keys().nth(which).unwrap().clone()
    }

    /// One object more; whether there was room.
    async fn create(&mut self) -> bool {
        self.made += 1;
        let name = format!("object-{}-{}", self.made, "n".repeat(self.rng.below(200) as usize));
        match self.engine.create(&name).await {
            Ok(_) => {
                self.model.insert(name, Vec::new());
                true
            }
            Err(cause) => {
                assert!(cause.is_no_space(), "create: {cause}");
                false
            }
        }
    }

    /// One write somewhere; whether there was room.
    async fn write(&mut self, len: u64) -> bool {
        let name = self.any();
        let object = self.engine.object(&name).await.unwrap();
        let at = self.rng.below(60) * BLOCK as u64 + self.rng.below(3) * 100;
        let data = support::bytes(&mut self.rng, len as usize);
        match object.write_at(at, &data).await {
            Ok(()) => {
                put(self.model.get_mut(&name).unwrap(), at as usize, &data);
                true
            }
            Err(cause) => {
                assert!(cause.is_no_space(), "write: {cause}");
                // One piece: nothing of it was written.
                assert_eq!(read_all(&object).await, self.model[&name], "after a refused write");
                false
            }
        }
    }

    /// One transaction over two objects; whether there was room.
    async fn commit(&mut self) -> bool {
        let mut transaction = self.engine.transaction();
        let mut writes = Vec::new();
        for _ in 0..2 {
            let name = self.any();
            let object = self.engine.object(&name).await.unwrap();
            let at = self.rng.below(60 * BLOCK as u64);
            let len = self.rng.below(5_000) + 1;
            let data = support::bytes(&mut self.rng, len as usize);
            transaction.write_at(&object, at, &data).unwrap();
            writes.push((name, at as usize, data));
        }
        match transaction.commit().await {
            Ok(commit) => {
                commit.durable().await.expect("an accepted commit does not fail");
                for (name, at, data) in writes {
                    put(self.model.get_mut(&name).unwrap(), at, &data);
                }
                true
            }
            Err(cause) => {
                assert!(cause.is_no_space(), "commit: {cause}");
                false
            }
        }
    }

    /// Until neither a block, nor a transaction, nor an object fits any more.
    async fn fill(&mut self) {
        self.create().await;
        let mut refused = 0;
        while refused < 40 {
            let fitted = match self.rng.below(6) {
                0 => self.create().await,
                1 => self.commit().await,
                2 => self.write(1).await,
                _ => {
                    let len = self.rng.below(40_000) + 1;
                    self.write(len).await
                }
            };
            refused = if fitted { 0 } else { refused + 1 };
        }
        while self.write(1).await {}
        while self.create().await {}
        // Before the sync, which gives back what overwritten blocks held.
        let free = self.engine.stats().free_bytes;
        assert!(free < 64 * BLOCK as u64, "refused with {free} bytes free");
        self.engine.sync().await.expect("what was accepted finds its room");
    }

    async fn check(&self) {
        for (name, bytes) in &self.model {
            let object = self.engine.object(name).await.unwrap();
            assert!(read_all(&object).await == *bytes, "content of {name}");
        }
        let names = self.engine.list("", usize::MAX).await.unwrap();
        assert_eq!(names.len(), self.model.len());
    }

    /// Everything that gives space back, or takes none.
    async fn shrink(&mut self) {
        for n in 0..12 {
            let name = self.any();
            let object = self.engine.object(&name).await.unwrap();
            let bytes = self.model.get_mut(&name).unwrap();
            let size = bytes.len();
            match n % 3 {
                0 => {
                    let to = self.rng.below(size as u64 + 1);
                    object.truncate(to).await.expect("truncate on a full volume");
                    bytes.truncate(to as usize);
                }
                1 => {
                    // Whole blocks: the edges of others need room of their own.
                    let end = (size / BLOCK) as u64;
                    let from = self.rng.below(end + 1);
                    let to = from + self.rng.below(end - from + 1);
                    let range = from * BLOCK as u64..to * BLOCK as u64;
                    object.punch(range.clone()).await.expect("punch on a full volume");
                    bytes[range.start as usize..range.end as usize].fill(0);
                }
                _ => {
                    drop(object);
                    self.engine.remove(&name).await.expect("remove on a full volume");
                    self.model.remove(&name);
                    if self.model.is_empty() {
                        return;
                    }
                }
            }
        }
    }

    async fn remove_all(&mut self) {
        for name in std::mem::take(&mut self.model).into_keys() {
            self.engine.remove(&name).await.expect("remove");
        }
    }

    /// Free bytes once nothing waits for the log.
    async fn free_at_rest(&mut self) -> u64 {
        self.reopen().await;
        self.engine.stats().free_bytes
    }
}

async fn rounds(blocks: u64, seed: u64) {
    let mut volume = Volume::new(blocks, seed).await;
    let start = volume.engine.stats().free_bytes;
    for round in 0..ROUNDS {
        volume.fill().await;
        volume.check().await;
        if round.is_multiple_of(2) {
            volume.reopen().await;
            volume.check().await;
        }
        volume.shrink().await;
        volume.check().await;
        volume.engine.sync().await.expect("sync");
        volume.remove_all().await;
        assert_eq!(volume.engine.stats().dirty_bytes, 0, "dirty data of nobody");
        let free = volume.free_at_rest().await;
        assert!(free + SLACK >= start, "round {round}: {free} bytes free, at the start {start}");
    }
}

#[test]
fn twenty_rounds_of_filling_and_emptying_lose_nothing() {
    for seed in 0..2 {
        for blocks in SIZES {
            support::simulate(rounds(blocks, seed));
        }
    }
}

/// Whatever was accepted before the power goes is there, and the full volume opens again.
async fn cut_when_full(seed: u64) {
    let mut volume = Volume::new(SIZES[1], seed).await;
    let start = volume.engine.stats().free_bytes;
    volume.fill().await;
    volume.disk.crash_after_requests(seed % 90 + 1);
    for _ in 0..60 {
        let name = volume.any();
        if volume.engine.remove(&name).await.is_err() {
            break;
        }
        volume.model.remove(&name);
        if volume.model.is_empty() {
            break;
        }
    }
    volume.disk.power_cut();
    support::is_sound(&volume.disk, true).await;
    volume.engine = support::open(&volume.disk).await.expect("a full volume opens");
    for (name, bytes) in volume.model.clone() {
        // The last removal may have happened, unheard.
        let Ok(object) = volume.engine.object(&name).await else { continue };
        assert!(read_all(&object).await == bytes, "content of {name}");
    }
    for name in volume.engine.list("", usize::MAX).await.unwrap() {
        volume.engine.remove(&name).await.expect("remove");
    }
    let free = volume.free_at_rest().await;
    assert!(free + SLACK >= start, "{free} bytes free, at the start {start}");
}

#[test]
fn a_power_cut_on_a_full_volume_leaves_one_that_opens_and_can_be_emptied() {
    for seed in 0..90 {
        support::simulate(cut_when_full(seed));
    }
}

/// Dirty data of many objects over stored data, and then no room for anything else.
#[test]
fn overwrites_that_were_accepted_find_their_room() {
    for seed in 0..6 {
        support::simulate(async {
            let mut volume = Volume::new(SIZES[0], seed).await;
            let object = volume.engine.create("old").await.unwrap();
            object.write_at(0, &vec![1; 500 * BLOCK]).await.unwrap();
            object.sync().await.unwrap();
            let mut accepted = vec![1; 500 * BLOCK];
            loop {
                let at = volume.rng.below(500) as usize * BLOCK;
                let data = support::bytes(&mut volume.rng, BLOCK);
                let other = volume.engine.create(format!("new-{at}")).await;
                let wrote = object.write_at(at as u64, &data).await;
                if wrote.is_ok() {
                    put(&mut accepted, at, &data);
                }
                if other.as_ref().is_err_and(|cause| cause.is_no_space()) || wrote.is_err() {
                    break;
                }
                let Ok(other) = other else { continue };
                let grown = other.write_at(0, &data.repeat(5)).await;
                assert!(grown.is_ok() || grown.unwrap_err().is_no_space());
            }
            object.sync().await.expect("what was accepted finds its room");
            assert!(read_all(&object).await == accepted);
            drop(object);
            volume.reopen().await;
            let object = volume.engine.object("old").await.unwrap();
            assert!(read_all(&object).await == accepted);
        });
    }
}

/// The story: an object that filled most of the volume was rewritten in place. Memory held more
/// dirty blocks than the volume had free ones, so a write was refused with `NoSpace`, although
/// writing back would have given the old blocks back.
#[test]
fn regression_rewriting_more_than_is_free_waits_for_writeback() {
    const BYTES: usize = 28 << 20;
    for seed in 0..3 {
        support::simulate(async {
            let options = SimOptions { seed, ..SimOptions::default() };
            let disk = SimDisk::new(support::DEVICE_BLOCKS, options);
            support::format(&disk).await;
            let device = foliant_device::Device::new(disk.attach());
            // Writers wait at 3/8 of it: more than what is free.
            let engine = Engine::open_device(device).memory_bytes(64 << 20).run().await.unwrap();
            let object = engine.create("large").await.unwrap();
            for round in 0..3_u8 {
                for at in (0..BYTES).step_by(256 << 10) {
                    let bytes = vec![round + 1; 256 << 10];
                    let wrote = object.write_at(at as u64, &bytes).await;
                    wrote.unwrap_or_else(|cause| panic!("round {round}, byte {at}: {cause}"));
                }
                if round == 0 {
                    object.sync().await.unwrap();
                    assert!(engine.stats().free_bytes < 12 << 20);
                }
            }
            object.sync().await.unwrap();
            assert!(read_all(&object).await == vec![3; BYTES]);
            drop(object);
            engine.close().await.unwrap();
        });
    }
}

/// Nothing but new data is dirty, so writing it back wins nothing, and the refusal comes soon.
#[test]
fn a_volume_full_of_new_data_refuses_soon() {
    support::simulate(async {
        let mut volume = Volume::new(SIZES[0], 1).await;
        let object = volume.engine.create("new").await.unwrap();
        let mut at = 0;
        while object.write_at(at, &[7; BLOCK]).await.is_ok() {
            at += BLOCK as u64;
        }
        let other = volume.engine.create("more").await;
        assert!(other.is_err_and(|cause| cause.is_no_space()));
        for _ in 0..3 {
            let started = tokio::time::Instant::now();
            let refused = object.write_at(at, &[7; BLOCK]).await.unwrap_err();
            assert!(refused.is_no_space(), "{refused}");
            let waited = started.elapsed();
            assert!(waited < std::time::Duration::from_secs(1), "refused after {waited:?}");
        }
        drop(object);
        volume.reopen().await;
    });
}
