//! What the simulated disk keeps over a power cut, against an exact model; and proof that the model
//! notices a disk that does not keep it.

#![allow(clippy::unwrap_used)] // In helpers, too: a failed unwrap is the failed test.

mod support;

use std::collections::BTreeSet;
use std::panic::AssertUnwindSafe;
use std::panic::catch_unwind;

use foliant_device::Arena;
use foliant_device::Device;
use foliant_device::DeviceError;
use foliant_device::DeviceErrorKind;
use foliant_device::Persist;
use foliant_device::error::Operation;
use foliant_device::sim::FaultRule;
use foliant_device::sim::Rng;
use foliant_device::sim::SimDisk;
use foliant_device::sim::SimOptions;
use futures_util::future::join_all;

const BLOCKS: u64 = 32;
const SECTOR: usize = 512;

/// The bytes that each sector may be full of after a cut, the newest last.
struct Model {
    allowed: Vec<Vec<u8>>,
    next: u8,
}

fn sectors(block: u64) -> std::ops::Range<usize> {
    let per_block = foliant_device::BLOCK_SIZE / SECTOR;
    block as usize * per_block..(block as usize + 1) * per_block
}

impl Model {
    fn new() -> Self {
        Self { allowed: vec![vec![0]; sectors(BLOCKS).start], next: 1 }
    }

    fn written(&mut self, block: u64, byte: u8) {
        self.allowed[sectors(block)].iter_mut().for_each(|allowed| allowed.push(byte));
    }

    fn stable(&mut self, block: u64) {
        for allowed in &mut self.allowed[sectors(block)] {
            allowed.drain(..allowed.len() - 1);
        }
    }

    /// What a read must find.
    fn newest(&self, block: u64) -> Vec<u8> {
        let newest = |allowed: &Vec<u8>| [*allowed.last().expect("never empty"); SECTOR];
        self.allowed[sectors(block)].iter().flat_map(newest).collect()
    }

    /// Compares what the cut left, and goes on from there. Returns how many contents it mixes.
    fn check(&mut self, block: u64, found: &[u8]) -> usize {
        let mut values = BTreeSet::new();
        for (allowed, bytes) in self.allowed[sectors(block)].iter_mut().zip(found.chunks(SECTOR)) {
            assert!(bytes.iter().all(|b| b == &bytes[0]), "block {block}: torn inside a sector");
            assert!(allowed.contains(&bytes[0]), "block {block}: {} not in {allowed:?}", bytes[0]);
            *allowed = vec![bytes[0]];
            values.insert(bytes[0]);
        }
        values.len()
    }
}

struct Run {
    disk: SimDisk,
    arena: Arena,
    rng: Rng,
    model: Model,
}

impl Run {
    /// Writes to some runs of blocks at once; all of them are in flight together.
    async fn writes(&mut self, device: &Device) -> Result<(), DeviceError> {
        let mut requests = Vec::new();
        let mut ranges = Vec::new();
        let mut block = self.rng.below(8);
        while block < BLOCKS {
            let count = (self.rng.below(4) + 1).min(BLOCKS - block);
            let byte = self.model.next;
            self.model.next = self.model.next.checked_add(1).unwrap_or(1);
            let from = (0..count).map(|_| support::block_of(&self.arena, byte).into()).collect();
            let durable = self.rng.below(4) == 0;
            let persist = if durable { Persist::Durable } else { Persist::Cached };
            for at in block..block + count {
                self.model.written(at, byte);
            }
            requests.push(device.write(block, from, persist));
            ranges.push((block..block + count, durable));
            block += count + self.rng.below(8);
        }
        for (outcome, (range, durable)) in join_all(requests).await.into_iter().zip(ranges) {
            outcome?;
            if durable {
                range.for_each(|block| self.model.stable(block));
            }
        }
        Ok(())
    }

    async fn flush(&mut self, device: &Device) -> Result<(), DeviceError> {
        device.flush().await?;
        (0..BLOCKS).for_each(|block| self.model.stable(block));
        Ok(())
    }

    async fn work(&mut self, device: &Device) -> Result<(), DeviceError> {
        for _ in 0..self.rng.below(12) + 2 {
            match self.rng.below(4) {
                0 => self.flush(device).await?,
                1 => {
                    let block = self.rng.below(BLOCKS);
                    let found = support::read(device, &self.arena, block).await?;
                    assert!(found == self.model.newest(block), "block {block} is not the newest");
                }
                _ => self.writes(device).await?,
            }
        }
        Ok(())
    }
}

/// Returns how many blocks were found torn, over several cuts of one disk.
fn run(options: SimOptions) -> usize {
    let seed = options.seed;
    support::simulate(async {
        let disk = SimDisk::new(BLOCKS, options);
        let arena = support::arena(256);
        let mut run = Run { disk, arena, rng: Rng::new(!seed), model: Model::new() };
        let mut torn = 0;
        for _ in 0..4 {
            let device = Device::new(run.disk.attach());
            if run.rng.below(2) == 0 {
                run.disk.crash_after_requests(run.rng.below(40) + 1);
            }
            if let Err(error) = run.work(&device).await {
                assert_eq!(error.kind, DeviceErrorKind::Gone, "{error}");
            }
            run.disk.power_cut();
            let error = support::read(&device, &run.arena, 0).await.unwrap_err();
            assert_eq!(error.kind, DeviceErrorKind::Gone, "an old handle works");
            let device = Device::new(run.disk.attach());
            for block in 0..BLOCKS {
                let found = support::read(&device, &run.arena, block).await.unwrap();
                assert_eq!(found, run.disk.peek(block), "a cut leaves nothing in the cache");
                torn += usize::from(run.model.check(block, &found) > 1);
            }
            assert_eq!(run.arena.free_blocks(), run.arena.capacity_blocks());
        }
        torn
    })
}

#[test]
fn what_was_flushed_or_durable_survives_and_the_rest_is_old_or_new_per_sector() {
    let torn: usize = (0..600).map(|seed| run(SimOptions { seed, ..SimOptions::default() })).sum();
    assert!(torn > 100, "hardly anything was torn: {torn}");
}

#[test]
fn a_disk_that_ignores_flushes_is_caught_within_twenty_seeds() {
    let caught = (0..20).any(|seed| {
        let options = SimOptions { seed, flush_lies: true, ..SimOptions::default() };
        catch_unwind(AssertUnwindSafe(|| run(options))).is_err()
    });
    assert!(caught, "the model above tests nothing");
}

/// A fixed workload; what it leaves tells everything that the seed decided.
fn replay(seed: u64) -> (Vec<foliant_device::sim::Record>, Vec<Vec<u8>>) {
    support::simulate(async {
        let disk = SimDisk::new(BLOCKS, SimOptions { seed, ..SimOptions::default() });
        let device = Device::new(disk.attach());
        let arena = support::arena(64);
        disk.crash_after_requests(30);
        for round in 1..4 {
            let writes = (0..16).map(|block| support::write(&device, &arena, block, round));
            join_all(writes).await;
        }
        disk.power_cut();
        (disk.trace(), (0..BLOCKS).map(|block| disk.peek(block)).collect())
    })
}

#[test]
fn one_seed_replays_one_run_and_another_does_not() {
    for seed in 0..20 {
        assert!(replay(seed) == replay(seed), "seed {seed} gave two runs");
    }
    let distinct: BTreeSet<_> = (0..20).map(|seed| replay(seed).1).collect();
    assert!(distinct.len() > 10, "seeds hardly matter");
}

/// Over many seeds: whether the first block of a small story was ever found old, and ever new.
fn seen<F: Future<Output = ()>>(story: impl Fn(SimDisk, Device, Arena) -> F) -> (bool, bool) {
    let (mut old, mut new) = (false, false);
    for seed in 0..100 {
        support::simulate(async {
            let disk = SimDisk::new(BLOCKS, SimOptions { seed, ..SimOptions::default() });
            let device = Device::new(disk.attach());
            story(disk.clone(), device, support::arena(16)).await;
            disk.power_cut();
            let found = disk.peek(0);
            old |= found == vec![0; 4096];
            new |= found == vec![1; 4096];
        });
    }
    (old, new)
}

#[test]
fn each_promise_holds_and_no_more_than_it() {
    let cached = seen(async |_, device, arena| {
        support::write(&device, &arena, 0, 1).await.unwrap();
    });
    assert_eq!(cached, (true, true), "a write that was not flushed");
    let flushed = seen(async |_, device, arena| {
        support::write(&device, &arena, 0, 1).await.unwrap();
        device.flush().await.unwrap();
    });
    assert_eq!(flushed, (false, true), "a write that was flushed");
    let durable = seen(async |_, device, arena| {
        let from = vec![support::block_of(&arena, 1).into()];
        device.write(0, from, Persist::Durable).await.unwrap();
    });
    assert_eq!(durable, (false, true), "a durable write");
    let beside = seen(async |_, device, arena| {
        let from = vec![support::block_of(&arena, 1).into()];
        let write = device.write(0, from, Persist::Cached);
        device.flush().await.unwrap();
        write.await.unwrap();
    });
    assert_eq!(beside, (true, true), "a write in flight when the flush was called");
    let another_durable = seen(async |_, device, arena| {
        support::write(&device, &arena, 0, 1).await.unwrap();
        let from = vec![support::block_of(&arena, 1).into()];
        device.write(1, from, Persist::Durable).await.unwrap();
    });
    assert_eq!(another_durable, (true, true), "a durable write says nothing about others");
    let failed_flush = seen(async |disk, device, arena| {
        support::write(&device, &arena, 0, 1).await.unwrap();
        disk.inject(FaultRule::fail(DeviceErrorKind::Io).on(Operation::Flush));
        device.flush().await.unwrap_err();
        device.flush().await.unwrap();
    });
    assert_eq!(failed_flush, (true, true), "a later flush does not heal a failed one");
    let overtaken = seen(async |_, device, arena| {
        support::write(&device, &arena, 0, 9).await.unwrap();
        let from = vec![support::block_of(&arena, 1).into()];
        device.write(0, from, Persist::Durable).await.unwrap();
    });
    assert_eq!(overtaken, (false, true), "older bytes never come back over durable ones");
    let zeroed = seen(async |_, device, arena| {
        support::write(&device, &arena, 0, 1).await.unwrap();
        device.flush().await.unwrap();
        device.write_zeroes(0, 4).await.unwrap();
    });
    assert_eq!(zeroed, (true, true), "zeroing is not stable before a flush");
}

#[test]
fn a_planned_crash_happens_at_its_request_and_lasts_until_the_power_is_back() {
    support::simulate(async {
        let disk = SimDisk::new(BLOCKS, SimOptions::default());
        let device = Device::new(disk.attach());
        let arena = support::arena(16);
        disk.crash_after_requests(3);
        support::write(&device, &arena, 0, 1).await.unwrap();
        device.flush().await.unwrap();
        assert!(disk.is_powered());
        let gone = device.flush().await.unwrap_err();
        assert_eq!((gone.kind, disk.is_powered()), (DeviceErrorKind::Gone, false));
        let while_off = Device::new(disk.attach());
        let before = disk.requests();
        for dead in [&device, &while_off] {
            assert_eq!(dead.flush().await.unwrap_err().kind, DeviceErrorKind::Gone);
        }
        disk.power_cut();
        for dead in [&device, &while_off] {
            let outcome = support::read(dead, &arena, 0).await;
            assert_eq!(outcome.unwrap_err().kind, DeviceErrorKind::Gone);
            dead.close().await.expect("closing a dead handle is no error");
        }
        assert_eq!(disk.requests(), before, "dead handles make no requests");
        let device = Device::new(disk.attach());
        assert_eq!(support::read(&device, &arena, 0).await.unwrap(), vec![1; 4096]);

        disk.crash_after_requests(1);
        disk.power_cut();
        let device = Device::new(disk.attach());
        device.flush().await.expect("the cut cancelled the planned crash");
    });
}
