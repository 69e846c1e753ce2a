//! A failed write, flush or read of the device: everybody who must know hears it, with a typed error, at
//! every later sync as well; nothing that was acknowledged is lost, and the rest goes on.
//!
//! Each test breaks one zone of the simulated disk: data blocks, the journal, flushes, or all of it.

#![allow(clippy::unwrap_used)] // In helpers of tests as in tests: a failed unwrap is the failed test.

mod support;

use std::ops::Range;
use std::time::Duration;

use foliant::Engine;
use foliant::ErrorKind;
use foliant::Object;
use foliant::Result;
use foliant_device::error::DeviceErrorKind;
use foliant_device::error::Operation;
use foliant_device::sim::FaultRule;
use foliant_device::sim::Rng;
use foliant_device::sim::RuleId;
use foliant_device::sim::SimDisk;
use foliant_device::sim::SimOptions;
use support::BLOCK;
use support::DEVICE_BLOCKS;
use support::JOURNAL_BYTES;

const LOG_START: u64 = 32;
const LOG_END: u64 = LOG_START + (JOURNAL_BYTES / BLOCK as u64);
const LEN: usize = 5 * BLOCK + 100;

struct Volume {
    disk: SimDisk,
    engine: Engine,
    rng: Rng,
}

impl Volume {
    async fn new(seed: u64) -> Self {
        let disk = SimDisk::new(DEVICE_BLOCKS, SimOptions { seed, ..SimOptions::default() });
        support::format(&disk).await;
        let engine = support::open(&disk).await.unwrap();
        Self { disk, engine, rng: Rng::new(seed) }
    }

    fn bytes(&mut self, len: usize) -> Vec<u8> {
        support::bytes(&mut self.rng, len)
    }

    /// An object with synced content.
    async fn stored(&mut self, name: &str, len: usize) -> (Object, Vec<u8>) {
        let object = self.engine.create(name).await.unwrap();
        let bytes = self.bytes(len);
        object.write_at(0, &bytes).await.unwrap();
        object.sync().await.unwrap();
        (object, bytes)
    }

    fn fail_data_writes(&self, kind: DeviceErrorKind, times: u64) -> RuleId {
        let data = LOG_END..self.disk.blocks();
        self.disk.inject(FaultRule::fail(kind).on(Operation::Write).blocks(data).times(times))
    }

    /// Withdraws all faults, closes whatever way that ends, and opens again.
    async fn reopen(self) -> (Self, Result<()>) {
        let Self { disk, engine, rng } = self;
        let closed = engine.close().await;
        disk.withdraw_all();
        let engine = support::open(&disk).await.unwrap();
        (Self { disk, engine, rng }, closed)
    }

    async fn content(&self, name: &str) -> Vec<u8> {
        read_all(&self.engine.object(name).await.unwrap()).await
    }
}

async fn read_all(object: &Object) -> Vec<u8> {
    let mut bytes = vec![0; object.size() as usize];
    let read = object.read_at(0, &mut bytes).await.unwrap();
    assert_eq!(read, bytes.len());
    bytes
}

fn kind<T: std::fmt::Debug>(outcome: Result<T>) -> ErrorKind {
    outcome.unwrap_err().kind()
}

/// The failure of one object's data stays with it, and with it alone.
async fn only_one_object_fails(
    seed: u64,
    device: DeviceErrorKind,
    times: u64,
    background: bool,
    heard: ErrorKind,
) {
    let mut volume = Volume::new(seed).await;
    let (failing, old) = volume.stored("failing", LEN).await;
    let (other, _) = volume.stored("other", LEN).await;
    let new = volume.bytes(LEN);
    failing.write_at(0, &new).await.unwrap();
    let rule = volume.fail_data_writes(device, times);
    if background {
        tokio::time::sleep(Duration::from_secs(20)).await;
        assert!(volume.disk.struck(rule) > 0, "the flusher wrote nothing");
    }
    assert_eq!(kind(failing.sync().await), heard);
    assert!(volume.disk.struck(rule) > 0, "the fault struck nothing");
    volume.disk.withdraw(rule);
    for _ in 0..3 {
        assert_eq!(kind(failing.sync().await), heard, "a retried sync");
        assert_eq!(kind(volume.engine.sync().await), heard, "a sync of everything");
        tokio::time::sleep(Duration::from_secs(7)).await;
    }
    let newer = volume.bytes(LEN);
    other.write_at(0, &newer).await.unwrap();
    other.sync().await.unwrap();
    // Whoever wants the memory does not get what is only there.
    let (_big, big_bytes) = volume.stored("big", 12 << 20).await;
    assert_eq!(volume.content("big").await, big_bytes);
    assert!(volume.engine.stats().reclaimed_bytes > 0, "there was no pressure");
    assert_eq!(read_all(&failing).await, new, "reads give the newest bytes");
    // It takes nothing more: what cannot be written back would pile up until nobody may write.
    assert_eq!(kind(failing.write_at(0, &newer).await), heard);
    assert_eq!(read_all(&failing).await, new);
    assert_eq!(kind(failing.sync().await), heard);
    drop((failing, other));
    let (mut volume, closed) = volume.reopen().await;
    assert_eq!(kind(closed), heard, "close");
    assert_eq!(volume.content("failing").await, old, "the last synced content");
    assert_eq!(volume.content("other").await, newer);
    let failing = volume.engine.object("failing").await.unwrap();
    let again = volume.bytes(LEN);
    failing.write_at(0, &again).await.unwrap();
    failing.sync().await.unwrap();
    volume.engine.close().await.unwrap();
}

#[test]
fn a_data_write_that_fails_once_or_always_fails_every_later_sync_of_that_object() {
    for seed in 0..6 {
        for times in [1, u64::MAX] {
            for background in [false, true] {
                let io = (DeviceErrorKind::Io, ErrorKind::Device);
                support::simulate(only_one_object_fails(seed, io.0, times, background, io.1));
            }
        }
    }
}

#[test]
fn a_device_without_room_is_an_error_that_says_so() {
    for seed in 0..3 {
        let full = (DeviceErrorKind::NoSpace, ErrorKind::NoSpace);
        support::simulate(only_one_object_fails(seed, full.0, 1, false, full.1));
        support::simulate(only_one_object_fails(seed, full.0, 1, true, full.1));
    }
}

/// Every verb that would change something says that writes are stopped; reads go on.
async fn writes_are_stopped(volume: &Volume, dirty: &Object, stored: &Object) {
    let engine = &volume.engine;
    let stopped = ErrorKind::WritesStopped;
    for _ in 0..2 {
        assert_eq!(kind(dirty.sync().await), stopped, "sync");
        assert_eq!(kind(engine.sync().await), stopped, "sync of everything");
        assert_eq!(kind(engine.create("new").await.map(|_| ())), stopped, "create");
        assert_eq!(kind(engine.rename("stored", "renamed").await), stopped, "rename");
        assert_eq!(kind(engine.remove("stored").await), stopped, "remove");
        assert_eq!(kind(stored.truncate(10).await), stopped, "truncate");
        assert_eq!(kind(stored.punch(0..BLOCK as u64).await), stopped, "punch");
        assert_eq!(kind(stored.preallocate(0..1 << 20).await), stopped, "preallocate");
        assert_eq!(kind(stored.write_at(0, b"x").await), stopped, "write");
        let mut transaction = engine.transaction();
        transaction.write_at(stored, 0, b"x").unwrap();
        assert_eq!(kind(transaction.commit().await.map(|_| ())), stopped, "commit");
        assert!(engine.list("", 10).await.unwrap().contains(&b"stored".to_vec()));
    }
}

/// What the volume holds at the moment when it fails.
struct Before {
    stored: Object,
    dirty: Object,
    stored_bytes: Vec<u8>,
    old: Vec<u8>,
    new: Vec<u8>,
}

impl Before {
    async fn new(volume: &mut Volume) -> Self {
        let (stored, stored_bytes) = volume.stored("stored", LEN).await;
        let (dirty, old) = volume.stored("dirty", LEN).await;
        let new = volume.bytes(LEN);
        dirty.write_at(0, &new).await.unwrap();
        Self { stored, dirty, stored_bytes, old, new }
    }

    /// Closing reports the failure, and the reopened volume has what was acknowledged.
    async fn check(self, volume: Volume) {
        assert_eq!(read_all(&self.stored).await, self.stored_bytes, "reads go on");
        assert_eq!(read_all(&self.dirty).await, self.new, "reads give the newest bytes");
        writes_are_stopped(&volume, &self.dirty, &self.stored).await;
        assert_eq!(read_all(&self.stored).await, self.stored_bytes);
        assert_eq!(read_all(&self.dirty).await, self.new);
        drop((self.stored, self.dirty));
        let (volume, closed) = volume.reopen().await;
        assert_eq!(kind(closed), ErrorKind::WritesStopped, "close");
        assert_eq!(volume.content("stored").await, self.stored_bytes);
        let found = volume.content("dirty").await;
        let blocks = found.chunks(BLOCK).zip(self.old.chunks(BLOCK)).zip(self.new.chunks(BLOCK));
        for (at, ((found, old), new)) in blocks.enumerate() {
            assert!(found == old || found == new, "block {at} is neither old nor new");
        }
        let object = volume.engine.object("dirty").await.unwrap();
        object.write_at(0, &self.new).await.unwrap();
        object.sync().await.unwrap();
        volume.engine.close().await.unwrap();
    }
}

/// Commits 8-byte counters until one fails; the last acknowledged one.
async fn commit_until_it_fails(volume: &Volume, object: &Object) -> u64 {
    for n in 1_u64.. {
        let mut transaction = volume.engine.transaction();
        transaction.write_at(object, 0, &n.to_le_bytes()).unwrap();
        let commit = match transaction.commit().await {
            Ok(commit) => commit.durable().await,
            Err(cause) => Err(cause),
        };
        if let Err(cause) = commit {
            assert_eq!(cause.kind(), ErrorKind::WritesStopped);
            return n - 1;
        }
        assert!(n < 1_000, "nothing fails");
    }
    unreachable!("the loop returns")
}

async fn a_journal_write_fails(seed: u64, device: DeviceErrorKind) {
    let mut volume = Volume::new(seed).await;
    let counter = volume.engine.create("counter").await.unwrap();
    let before = Before::new(&mut volume).await;
    let log = LOG_START..LOG_END;
    let rule = FaultRule::fail(device).on(Operation::Write).blocks(log);
    let rule =
        volume.disk.inject(rule.after(seed % 7).times(if seed.is_multiple_of(2) { 1 } else { 99 }));
    let acknowledged = commit_until_it_fails(&volume, &counter).await;
    assert_eq!(acknowledged, seed % 7);
    assert!(volume.disk.struck(rule) > 0);
    volume.disk.withdraw(rule);
    drop(counter);
    let disk = volume.disk.clone();
    before.check(volume).await;
    let engine = support::open(&disk).await.unwrap();
    let found = read_all(&engine.object("counter").await.unwrap()).await;
    let found = if found.is_empty() { 0 } else { u64::from_le_bytes(found.try_into().unwrap()) };
    let allowed = acknowledged..=acknowledged + 1;
    assert!(allowed.contains(&found), "counter {found}, acknowledged {acknowledged}");
    engine.close().await.unwrap();
}

#[test]
fn a_journal_write_that_fails_stops_writes_and_loses_no_acknowledged_commit() {
    for seed in 0..28 {
        support::simulate(a_journal_write_fails(seed, DeviceErrorKind::Io));
        support::simulate(a_journal_write_fails(seed, DeviceErrorKind::NoSpace));
    }
}

#[test]
fn a_flush_that_fails_is_never_retried_into_success() {
    for seed in 0..20 {
        support::simulate(async {
            let mut volume = Volume::new(seed).await;
            let before = Before::new(&mut volume).await;
            let rule = FaultRule::fail(DeviceErrorKind::Io).on(Operation::Flush);
            let rule = volume.disk.inject(rule.times(1));
            let failed = before.dirty.sync().await.unwrap_err();
            let heard = [ErrorKind::Device, ErrorKind::WritesStopped];
            assert!(heard.contains(&failed.kind()), "{failed}");
            assert_eq!(volume.disk.struck(rule), 1);
            before.check_after_flush(volume).await;
        });
    }
}

/// Who waited behind a flush that failed ran one of its own, which succeeded; but a failed flush is final for
/// all that was written before it. Both must hear.
#[test]
fn who_waits_behind_a_failed_flush_is_not_saved_by_a_later_one() {
    for seed in 0..20 {
        support::simulate(async move {
            let mut volume = Volume::new(seed).await;
            let (one, _) = volume.stored("one", 40 * BLOCK).await;
            let (other, _) = volume.stored("other", 40 * BLOCK).await;
            let bytes = volume.bytes(8 * BLOCK);
            one.write_at(0, &bytes).await.unwrap();
            other.write_at(0, &bytes).await.unwrap();
            let rule = FaultRule::fail(DeviceErrorKind::Io).on(Operation::Flush);
            volume.disk.inject(rule.times(1));
            let (one_synced, other_synced) = tokio::join!(one.sync(), other.sync());
            one_synced.unwrap_err();
            other_synced.unwrap_err();
            drop((one, other));
            let (volume, closed) = volume.reopen().await;
            closed.unwrap_err();
            volume.engine.close().await.unwrap();
        });
    }
}

impl Before {
    /// The object whose flush failed keeps the first cause; all others hear that writes are stopped.
    async fn check_after_flush(self, mut volume: Volume) {
        for _ in 0..3 {
            self.dirty.sync().await.unwrap_err();
            volume.engine.sync().await.unwrap_err();
            assert_eq!(
                kind(volume.engine.create("new").await.map(|_| ())),
                ErrorKind::WritesStopped
            );
            tokio::time::sleep(Duration::from_secs(7)).await;
        }
        let more = volume.bytes(10);
        assert_eq!(kind(self.stored.write_at(0, &more).await), ErrorKind::WritesStopped);
        assert_eq!(read_all(&self.dirty).await, self.new, "reads give the newest bytes");
        drop((self.stored, self.dirty));
        let (volume, closed) = volume.reopen().await;
        closed.unwrap_err();
        assert_eq!(volume.content("stored").await, self.stored_bytes);
        let found = volume.content("dirty").await;
        assert!(found == self.old, "nothing was acknowledged, and its mapping never written");
        volume.engine.close().await.unwrap();
    }
}

/// Device blocks of one object, by file block.
async fn places(object: &Object) -> Vec<u64> {
    let extents = object.extents(0..object.size(), 1_000).await.unwrap();
    let blocks = |r: &Range<u64>| (r.end - r.start) / BLOCK as u64;
    let each = extents.iter().flat_map(|e| {
        let start = e.device_offset.expect("it is stored") / BLOCK as u64;
        start..start + blocks(&e.range)
    });
    each.collect()
}

async fn one_block_cannot_be_read(seed: u64, bad: usize) {
    let mut volume = Volume::new(seed).await;
    let (object, bytes) = volume.stored("bad", 40 * BLOCK).await;
    let (_, other) = volume.stored("good", 40 * BLOCK).await;
    let place = places(&object).await[bad];
    drop(object);
    let (volume, closed) = volume.reopen().await;
    closed.unwrap();
    let rule = FaultRule::fail(DeviceErrorKind::Io).on(Operation::Read);
    let rule = volume.disk.inject(rule.blocks(place..place + 1).always());
    let object = volume.engine.object("bad").await.unwrap();
    let at = (bad * BLOCK) as u64;
    let mut one = vec![0; BLOCK];
    for _ in 0..2 {
        let cause = object.read_at(at, &mut one).await.unwrap_err();
        assert_eq!(cause.kind(), ErrorKind::Device);
        let named = format!("at byte {}", place * BLOCK as u64);
        assert!(cause.to_string().contains(&named), "{cause} does not say {named:?}");
        assert_eq!(kind(object.read(at..at + 7).await), ErrorKind::Device);
        assert_eq!(kind(object.write_at(at + 1, b"part").await), ErrorKind::Device);
        let mut transaction = volume.engine.transaction();
        transaction.write_at(&object, at + 1, b"part").unwrap();
        assert_eq!(kind(transaction.commit().await.map(|_| ())), ErrorKind::Device);
        for good in (0..40).filter(|&block| block != bad) {
            let at = good * BLOCK;
            object.read_at(at as u64, &mut one).await.unwrap();
            assert_eq!(one, bytes[at..at + BLOCK], "block {good}");
        }
        assert_eq!(volume.content("good").await, other);
    }
    assert!(volume.disk.struck(rule) > 0);
    volume.disk.withdraw(rule);
    assert_eq!(read_all(&object).await, bytes);
    drop(object);
    volume.engine.sync().await.unwrap();
    volume.engine.close().await.unwrap();
}

#[test]
fn a_block_that_cannot_be_read_is_named_and_alone() {
    for (seed, bad) in [0, 1, 7, 20, 39].into_iter().enumerate() {
        support::simulate(one_block_cannot_be_read(seed as u64, bad));
    }
}

#[test]
fn a_device_that_is_gone_fails_everything_that_needs_it_and_comes_back_whole() {
    for seed in 0..8 {
        support::simulate(async {
            let mut volume = Volume::new(seed).await;
            let (_, cold_bytes) = volume.stored("cold", LEN).await;
            let (mut volume, closed) = volume.reopen().await;
            closed.unwrap();
            let before = Before::new(&mut volume).await;
            let cold = volume.engine.object("cold").await.unwrap();
            volume.disk.inject(FaultRule::fail(DeviceErrorKind::Gone).always());
            let mut one = vec![0; BLOCK];
            assert_eq!(kind(cold.read_at(0, &mut one).await), ErrorKind::Device);
            assert_eq!(read_all(&before.stored).await, before.stored_bytes);
            let heard = [ErrorKind::Device, ErrorKind::WritesStopped];
            for _ in 0..3 {
                assert!(heard.contains(&kind(before.dirty.sync().await)));
                assert!(heard.contains(&kind(volume.engine.create("new").await.map(|_| ()))));
            }
            volume.disk.withdraw_all();
            cold.read_at(0, &mut one).await.unwrap();
            assert_eq!(one, cold_bytes[..BLOCK], "reads work again");
            assert!(heard.contains(&kind(before.dirty.sync().await)));
            assert_eq!(read_all(&before.dirty).await, before.new);
            drop((before.stored, before.dirty, cold));
            let (volume, closed) = volume.reopen().await;
            assert!(heard.contains(&kind(closed)));
            assert_eq!(volume.content("stored").await, before.stored_bytes);
            assert_eq!(volume.content("dirty").await, before.old);
            assert_eq!(volume.content("cold").await, cold_bytes);
            volume.engine.close().await.unwrap();
        });
    }
}
