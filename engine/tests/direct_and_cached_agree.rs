//! Direct and cached verbs on the same bytes: random mixes against a plain vector on the simulated disk
//! and on a real file, wrong arguments, a full volume, dropped callers, and power cuts.

#![allow(clippy::unwrap_used)] // In helpers of tests as in tests: a failed unwrap is the failed test.

mod support;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering;
use std::task::Poll;

use foliant::Engine;
use foliant::ErrorKind;
use foliant::Object;
use foliant_device::error::DeviceErrorKind;
use foliant_device::error::Operation;
use foliant_device::sim::FaultRule;
use foliant_device::sim::Rng;
use foliant_device::sim::SimDisk;
use foliant_device::sim::SimOptions;
use support::BLOCK;

const BYTES_MAX: u64 = 2 << 20;
/// The largest that is kept in the record of its object.
const INLINE: u64 = foliant::limits::INLINE_BYTES_MAX as u64;
/// The largest folio that the cache makes.
const FOLIO: u64 = 16 * BLOCK as u64;

/// Offsets near the edges of blocks, their halves and folios.
fn offset(rng: &mut Rng) -> u64 {
    let any = rng.below(BYTES_MAX);
    let unit = [BLOCK as u64, FOLIO, 512][rng.below(3) as usize];
    match rng.below(4) {
        0 => any,
        1 => (any / unit * unit + rng.below(3)).saturating_sub(1),
        _ => any / unit * unit,
    }
}

fn length(rng: &mut Rng) -> usize {
    let len = match rng.below(5) {
        0 => rng.below(100) + 1,
        1 => BLOCK as u64 * (1 + rng.below(4)),
        2 => FOLIO * (1 + rng.below(3)),
        3 => rng.below(10 * BLOCK as u64) + 1,
        _ => rng.below(400_000) + 1,
    };
    len as usize
}

fn put(bytes: &mut Vec<u8>, at: usize, data: &[u8]) {
    bytes.resize(bytes.len().max(at + data.len()), 0);
    bytes[at..at + data.len()].copy_from_slice(data);
}

/// Writes past the cache from the place `at` of the memory.
async fn write(
    engine: &Engine,
    object: &Object,
    offset: u64,
    at: usize,
    data: &[u8],
) -> foliant::Result<()> {
    let mut buffer = engine.direct_buffer(at + data.len()).await.unwrap();
    assert!(buffer.iter().all(|&byte| byte == 0), "a fresh buffer is zeroed");
    buffer[at..at + data.len()].copy_from_slice(data);
    let (buffer, result) = object.write_direct(offset, buffer, at..at + data.len()).await;
    assert!(buffer[at..at + data.len()] == *data, "a write changed the buffer");
    result
}

async fn read(engine: &Engine, object: &Object, offset: u64, at: usize, len: usize) -> Vec<u8> {
    let buffer = engine.direct_buffer(at + len).await.unwrap();
    let (buffer, read) = object.read_direct(offset, buffer, at..at + len).await;
    buffer[at..at + read.unwrap()].to_vec()
}

struct Mix {
    rng: Rng,
    model: Vec<u8>,
}

impl Mix {
    async fn step(&mut self, engine: &Engine, object: &Object) {
        let (at, len) = (offset(&mut self.rng), length(&mut self.rng));
        let phase = match self.rng.below(6) {
            0 => self.rng.below(BLOCK as u64) as usize,
            _ => at as usize % BLOCK,
        };
        let end = at + len as u64;
        match self.rng.below(20) {
            0..=4 => {
                let data = support::bytes(&mut self.rng, len);
                write(engine, object, at, phase, &data).await.unwrap();
                put(&mut self.model, at as usize, &data);
            }
            5..=8 => {
                let found = read(engine, object, at, phase, len).await;
                self.check(at, len, &found);
            }
            9..=11 => {
                let data = support::bytes(&mut self.rng, len);
                object.write_at(at, &data).await.unwrap();
                put(&mut self.model, at as usize, &data);
            }
            12 | 13 => {
                let mut found = vec![0xEE; len];
                let read = object.read_at(at, &mut found).await.unwrap();
                self.check(at, len, &found[..read]);
            }
            14 => self.zero(at..end, object.zero(at..end)).await,
            15 => self.zero(at..end, object.punch(at..end)).await,
            16 => {
                object.truncate(at).await.unwrap();
                self.model.resize(at as usize, 0);
            }
            17 => object.preallocate(at..end).await.unwrap(),
            18 => object.sync().await.unwrap(),
            _ => self.commit(engine, object, at, len.min(9000)).await,
        }
    }

    async fn zero(
        &mut self,
        range: std::ops::Range<u64>,
        work: impl Future<Output = foliant::Result<()>>,
    ) {
        work.await.unwrap();
        let end = (range.end as usize).min(self.model.len());
        self.model[(range.start as usize).min(end)..end].fill(0);
    }

    /// A logged write: for a while its bytes are in the log and in the cache only.
    async fn commit(&mut self, engine: &Engine, object: &Object, at: u64, len: usize) {
        let data = support::bytes(&mut self.rng, len);
        let mut transaction = engine.transaction();
        transaction.write_at(object, at, &data).unwrap();
        transaction.commit().await.unwrap().durable().await.unwrap();
        put(&mut self.model, at as usize, &data);
    }

    fn check(&self, at: u64, len: usize, found: &[u8]) {
        let start = (at as usize).min(self.model.len());
        let wanted = &self.model[start..(at as usize + len).min(self.model.len()).max(start)];
        assert_eq!(found.len(), wanted.len(), "length of a read at {at}");
        let differ = found.iter().zip(wanted).position(|(a, b)| a != b);
        assert_eq!(differ, None, "a read of {len} bytes at {at}");
    }

    async fn check_all(&self, engine: &Engine, object: &Object) {
        assert_eq!(object.size(), self.model.len() as u64);
        for at in (0..self.model.len().max(1)).step_by(1 << 20) {
            self.check(at as u64, 1 << 20, &read(engine, object, at as u64, 0, 1 << 20).await);
            let mut found = vec![0; 1 << 20];
            let read = object.read_at(at as u64, &mut found).await.unwrap();
            self.check(at as u64, 1 << 20, &found[..read]);
        }
    }
}

fn mix_on_the_simulated_disk(seed: u64) {
    support::simulate(async {
        let disk = SimDisk::new(20_000, SimOptions { seed, ..SimOptions::default() });
        support::format(&disk).await;
        let mut engine = support::open(&disk).await.unwrap();
        engine.create("object").await.unwrap();
        let mut mix = Mix { rng: Rng::new(seed), model: Vec::new() };
        for _ in 0..3 {
            let object = engine.object("object").await.unwrap();
            for _ in 0..80 {
                mix.step(&engine, &object).await;
            }
            drop(object);
            engine.close().await.unwrap();
            engine = support::open(&disk).await.unwrap();
            let object = engine.object("object").await.unwrap();
            mix.check_all(&engine, &object).await;
        }
        engine.close().await.unwrap();
        assert_eq!(disk.overlaps(), 0, "requests in flight overlapped");
    });
}

#[test]
fn a_random_mix_agrees_with_a_vector_on_the_simulated_disk() {
    support::for_seeds(0..60, mix_on_the_simulated_disk);
}

struct Scratch(PathBuf);

impl Scratch {
    async fn store(name: &str) -> Self {
        let name = format!("foliant-direct-{}-{name}", std::process::id());
        let scratch = Self(std::env::temp_dir().join(name));
        Engine::format(&scratch.0).size_bytes(64 << 20).run().await.unwrap();
        scratch
    }

    async fn open(&self, threads: bool) -> Engine {
        let options = Engine::open(&self.0).memory_bytes(8 << 20).threads_backend(threads);
        options.run().await.unwrap()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_random_mix_agrees_with_a_vector_on_a_file() {
    let scratch = Scratch::store("mix").await;
    let mut mix = Mix { rng: Rng::new(11), model: Vec::new() };
    for visit in 0..4 {
        let engine = scratch.open(visit % 2 == 1).await;
        let object = match visit {
            0 => engine.create("object").await.unwrap(),
            _ => engine.object("object").await.unwrap(),
        };
        mix.check_all(&engine, &object).await;
        for _ in 0..150 {
            mix.step(&engine, &object).await;
        }
        drop(object);
        engine.close().await.unwrap();
    }
}

fn kind<T>((buffer, result): (foliant::DirectBuffer, foliant::Result<T>)) -> ErrorKind {
    assert_eq!(buffer.len(), 2 * BLOCK, "the buffer comes back");
    result.err().expect("it is refused").kind()
}

#[tokio::test]
async fn wrong_arguments_are_typed_errors_and_give_the_buffer_back() {
    let (one, two) = (Scratch::store("one").await, Scratch::store("two").await);
    let (engine, other) = (one.open(false).await, two.open(false).await);
    let object = engine.create("object").await.unwrap();
    for len in [0, (2 << 20) + 1, usize::MAX] {
        let refused = engine.direct_buffer(len).await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::InvalidInput, "{len} bytes");
    }
    assert_eq!(engine.direct_buffer(1).await.unwrap().len(), BLOCK);
    let buffer = async || engine.direct_buffer(BLOCK + 1).await.unwrap();
    let foreign = async || other.direct_buffer(2 * BLOCK).await.unwrap();
    #[allow(clippy::reversed_empty_ranges)] // The point of the test.
    let ranges = [0..2 * BLOCK + 1, 2 * BLOCK + 1..2 * BLOCK + 1, 9..3, 0..usize::MAX];
    for within in ranges {
        let refused = kind(object.write_direct(0, buffer().await, within.clone()).await);
        assert_eq!(refused, ErrorKind::InvalidInput, "{within:?}");
        let refused = kind(object.read_direct(0, buffer().await, within.clone()).await);
        assert_eq!(refused, ErrorKind::InvalidInput, "{within:?}");
    }
    for offset in [u64::MAX, u64::MAX - 4095, i64::MAX as u64, i64::MAX as u64 - 4096] {
        let refused = kind(object.write_direct(offset, buffer().await, 0..2 * BLOCK).await);
        assert_eq!(refused, ErrorKind::InvalidInput, "at {offset}");
        let refused = kind(object.read_direct(offset, buffer().await, 0..2 * BLOCK).await);
        assert_eq!(refused, ErrorKind::InvalidInput, "at {offset}");
    }
    let refused = kind(object.write_direct(0, foreign().await, 0..BLOCK).await);
    assert_eq!(refused, ErrorKind::InvalidInput);
    let refused = kind(object.read_direct(0, foreign().await, 0..BLOCK).await);
    assert_eq!(refused, ErrorKind::InvalidInput);
    assert_eq!(object.size(), 0, "a refused write did something");
    object.write_direct(0, buffer().await, 5..5).await.1.unwrap();
    assert_eq!(object.read_direct(0, buffer().await, 5..5).await.1.unwrap(), 0);
    let (late, later) = (buffer().await, buffer().await);
    engine.remove("object").await.unwrap();
    let late = object.write_direct(0, late, 0..BLOCK).await;
    assert_eq!(late.1.unwrap_err().kind(), ErrorKind::Closed);
    assert_eq!(kind(object.read_direct(0, late.0, 0..BLOCK).await), ErrorKind::Closed);
    engine.clone().close().await.unwrap();
    assert_eq!(engine.direct_buffer(1).await.unwrap_err().kind(), ErrorKind::Closed);
    let later = object.write_direct(0, later, 0..BLOCK).await;
    assert_eq!(later.1.unwrap_err().kind(), ErrorKind::Closed);
    other.close().await.unwrap();
}

#[test]
fn buffers_count_in_the_budget_until_they_are_dropped() {
    support::simulate(async {
        let disk = SimDisk::new(support::DEVICE_BLOCKS, SimOptions::default());
        support::format(&disk).await;
        let engine = support::open(&disk).await.unwrap();
        let used = engine.stats().memory_used_bytes;
        let buffer = engine.direct_buffer(5 * BLOCK).await.unwrap();
        assert_eq!(buffer.len(), 5 * BLOCK);
        assert_eq!(engine.stats().memory_used_bytes, used + 8 * BLOCK as u64);
        drop(buffer);
        assert_eq!(engine.stats().memory_used_bytes, used);
        let mut held = Vec::new();
        let refused = loop {
            match engine.direct_buffer(1 << 20).await {
                Ok(buffer) => held.push(buffer),
                Err(cause) => break cause,
            }
        };
        assert_eq!(refused.kind(), ErrorKind::OutOfMemory);
        // The reserve keeps the engine alive.
        let object = engine.create("object").await.unwrap();
        let buffer = held.pop().unwrap();
        object.write_direct(0, buffer, 0..1 << 20).await.1.unwrap();
        object.sync().await.unwrap();
        drop(held);
        engine.close().await.unwrap();
    });
}

/// Fills the volume with direct writes; the answer is the object's bytes.
async fn fill(engine: &Engine, object: &Object, rng: &mut Rng) -> Vec<u8> {
    let mut model = Vec::new();
    let mut blocks = 64;
    while blocks > 0 {
        let data = support::bytes(rng, blocks * BLOCK);
        match write(engine, object, model.len() as u64, 0, &data).await {
            Ok(()) => model.extend_from_slice(&data),
            Err(cause) => {
                assert_eq!(cause.kind(), ErrorKind::NoSpace);
                blocks /= 2;
            }
        }
    }
    model
}

#[test]
fn a_full_volume_refuses_and_loses_nothing_and_gives_everything_back() {
    support::simulate(async {
        let disk = SimDisk::new(support::DEVICE_BLOCKS_TIGHT, SimOptions::default());
        support::format(&disk).await;
        let mut engine = support::open(&disk).await.unwrap();
        let mut rng = Rng::new(3);
        let mut free = Vec::new();
        for round in 0..4 {
            let object = engine.create("object").await.unwrap();
            free.push(engine.stats().free_bytes);
            let mut model = fill(&engine, &object, &mut rng).await;
            assert!(model.len() > 100 * BLOCK, "{} blocks fitted", model.len() / BLOCK);
            let refused = write(&engine, &object, 0, 0, &vec![9; 64 * BLOCK]).await.unwrap_err();
            assert!(refused.is_no_space(), "{refused}");
            assert!(read(&engine, &object, 0, 0, 64 * BLOCK).await == model[..64 * BLOCK]);
            object.punch(0..8 * BLOCK as u64).await.unwrap();
            model[..8 * BLOCK].fill(0);
            object.write_at(3 * BLOCK as u64, &[5; BLOCK]).await.unwrap();
            write(&engine, &object, 2 * BLOCK as u64, 0, &[6; 3 * BLOCK]).await.unwrap();
            model[2 * BLOCK..5 * BLOCK].fill(6);
            object.sync().await.unwrap();
            drop(object);
            engine.close().await.unwrap();
            engine = support::open(&disk).await.unwrap();
            let object = engine.object("object").await.unwrap();
            let mix = Mix { rng: Rng::new(round), model };
            mix.check_all(&engine, &object).await;
            drop(object);
            engine.remove("object").await.unwrap();
            engine.sync().await.unwrap();
            engine.close().await.unwrap();
            engine = support::open(&disk).await.unwrap();
        }
        assert!(free.windows(2).all(|pair| pair[0] == pair[1]), "space leaks: {free:?}");
        engine.close().await.unwrap();
    });
}

#[test]
fn a_device_that_fails_a_write_leaves_the_old_bytes_and_the_object_can_be_written_again() {
    for kind in [DeviceErrorKind::Io, DeviceErrorKind::Unsupported] {
        support::simulate(async {
            let disk = SimDisk::new(support::DEVICE_BLOCKS, SimOptions::default());
            support::format(&disk).await;
            let engine = support::open(&disk).await.unwrap();
            let object = engine.create("object").await.unwrap();
            let old = support::bytes(&mut Rng::new(1), 40 * BLOCK);
            object.write_at(0, &old).await.unwrap();
            object.sync().await.unwrap();
            let free = engine.stats().free_bytes;
            object.preallocate(40 * BLOCK as u64..44 * BLOCK as u64).await.unwrap();
            let data = 32 + support::JOURNAL_BYTES / BLOCK as u64..disk.blocks();
            disk.inject(FaultRule::fail(kind).on(Operation::Write).blocks(data));
            let failed = write(&engine, &object, 0, 0, &[9; 44 * BLOCK]).await.unwrap_err();
            assert_eq!(failed.kind(), ErrorKind::Device, "{failed}");
            assert!(read(&engine, &object, 0, 0, 44 * BLOCK).await == old);
            // What the medium refused is left alone; the preallocated blocks are in use, good or bad.
            let bad = if kind == DeviceErrorKind::Io { 40 * BLOCK as u64 } else { 0 };
            assert_eq!(engine.health().quarantined_bytes, bad);
            let lost = free - 4 * BLOCK as u64 - engine.stats().free_bytes;
            // Of what is free, a part is kept for nodes.
            assert!(lost <= bad && lost >= bad * 9 / 10, "{lost} bytes are lost, {bad} are bad");
            object.sync().await.expect("nothing that was accepted is lost");
            write(&engine, &object, BLOCK as u64, 0, &[9; 43 * BLOCK]).await.unwrap();
            object.sync().await.unwrap();
            engine.close().await.unwrap();
            let engine = support::open(&disk).await.unwrap();
            assert_eq!(engine.stats().free_bytes, free - 4 * BLOCK as u64, "room is lost");
            let object = engine.object("object").await.unwrap();
            let found = read(&engine, &object, 0, 0, 50 * BLOCK).await;
            assert!(found[..BLOCK] == old[..BLOCK] && found[BLOCK..] == [9; 43 * BLOCK]);
            engine.close().await.unwrap();
        });
    }
}

/// Blocks of each writer; folios are larger, so that writers are neighbours in them.
const OWN: usize = 6;
const WRITERS: usize = 4;

/// Each block holds how often it was written, over and over; the newest count that was acknowledged.
type Acknowledged = Arc<Vec<AtomicU32>>;

fn stamp(image: &mut [u8], count: u32) {
    image.chunks_mut(4).for_each(|four| four.copy_from_slice(&count.to_le_bytes()));
}

/// Writes runs of its own blocks, with growing counts, in either way.
async fn write_counts(engine: Engine, object: Object, which: usize, done: Acknowledged) {
    let mut rng = Rng::new(which as u64);
    for count in 1..150 {
        let start = rng.below(OWN as u64) as usize;
        let len = 1 + rng.below((OWN - start) as u64) as usize;
        let first = which * OWN + start;
        let at = (first * BLOCK) as u64;
        let mut buffer = engine.direct_buffer(len * BLOCK).await.unwrap();
        stamp(&mut buffer, count);
        match rng.below(5) {
            0 | 1 => object.write_at(at, &buffer).await.unwrap(),
            _ => object.write_direct(at, buffer, 0..len * BLOCK).await.1.unwrap(),
        }
        done[first..first + len].iter().for_each(|block| block.store(count, Ordering::SeqCst));
        if rng.below(8) == 0 {
            object.sync().await.unwrap();
        }
    }
}

/// Reads anywhere in either way: whole blocks, and never older than what was acknowledged before.
async fn read_counts(engine: Engine, object: Object, seed: u64, done: Acknowledged) {
    let mut rng = Rng::new(seed);
    for _ in 0..400 {
        let first = rng.below((WRITERS * OWN) as u64) as usize;
        let len = 1 + rng.below((WRITERS * OWN - first) as u64) as usize;
        let before: Vec<u32> =
            done[first..first + len].iter().map(|block| block.load(Ordering::SeqCst)).collect();
        let at = (first * BLOCK) as u64;
        let mut buffer = engine.direct_buffer(len * BLOCK).await.unwrap();
        let direct = rng.below(2) == 0;
        if direct {
            let (filled, result) = object.read_direct(at, buffer, 0..len * BLOCK).await;
            result.unwrap();
            buffer = filled;
        } else {
            object.read_at(at, &mut buffer[..len * BLOCK]).await.unwrap();
        }
        for (block, (image, before)) in buffer.chunks(BLOCK).zip(before).enumerate() {
            let count = u32::from_le_bytes(image[..4].try_into().unwrap());
            let place = format!("block {}, direct: {direct}", first + block);
            assert!(image.chunks(4).all(|four| *four == image[..4]), "torn, {place}");
            assert!(count >= before, "count {count} behind {before}, {place}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn readers_beside_writers_see_whole_blocks_and_never_older_ones() {
    let scratch = Scratch::store("counts").await;
    for visit in 0..4 {
        let engine = scratch.open(visit % 2 == 1).await;
        let object = engine.create(format!("object-{visit}")).await.unwrap();
        object.write_at(0, &[0; WRITERS * OWN * BLOCK]).await.unwrap();
        let done: Acknowledged = Arc::new((0..WRITERS * OWN).map(|_| AtomicU32::new(0)).collect());
        let mut tasks = Vec::new();
        for which in 0..WRITERS {
            let (engine, object, done) = (engine.clone(), object.clone(), done.clone());
            tasks.push(tokio::spawn(write_counts(engine, object, which, done)));
        }
        for seed in 0..2 {
            let (engine, object, done) = (engine.clone(), object.clone(), done.clone());
            tasks.push(tokio::spawn(read_counts(engine, object, seed, done)));
        }
        for task in tasks {
            task.await.unwrap();
        }
        engine.clone().close().await.unwrap();
        let engine = scratch.open(false).await;
        let object = engine.object(format!("object-{visit}")).await.unwrap();
        let found = read(&engine, &object, 0, 0, WRITERS * OWN * BLOCK).await;
        for (block, image) in found.chunks(BLOCK).enumerate() {
            let mut newest = [0; BLOCK];
            stamp(&mut newest, done[block].load(Ordering::SeqCst));
            assert!(image == newest, "block {block} after reopening");
        }
        engine.close().await.unwrap();
    }
}

#[test]
fn a_write_whose_caller_goes_away_happens_whole_and_what_comes_later_sees_it() {
    for polls in 1..12 {
        support::simulate(async {
            let disk = SimDisk::new(support::DEVICE_BLOCKS, SimOptions::default());
            support::format(&disk).await;
            let engine = support::open(&disk).await.unwrap();
            let object = engine.create("object").await.unwrap();
            let used = engine.stats().memory_used_bytes;
            object.write_at(0, &[1; 3 * BLOCK]).await.unwrap();
            let mut buffer = engine.direct_buffer(4 * BLOCK).await.unwrap();
            buffer.fill(2);
            let mut writing = Box::pin(object.write_direct(0, buffer, 0..4 * BLOCK));
            for _ in 0..polls {
                let step = std::future::poll_fn(|c| Poll::Ready(writing.as_mut().poll(c)));
                if step.await.is_ready() {
                    break;
                }
                tokio::time::sleep(std::time::Duration::from_millis(1)).await;
            }
            drop(writing);
            object.write_at(BLOCK as u64, &[3; 10]).await.unwrap();
            object.sync().await.unwrap();
            let mut found = vec![0; 5 * BLOCK];
            assert_eq!(object.read_at(0, &mut found).await.unwrap(), 4 * BLOCK);
            assert!(found[..BLOCK].iter().all(|&b| b == 2), "dropped after {polls} polls");
            assert!(found[BLOCK..BLOCK + 10].iter().all(|&b| b == 3));
            assert!(found[BLOCK + 10..4 * BLOCK].iter().all(|&b| b == 2));
            drop(object);
            engine.remove("object").await.unwrap();
            assert!(engine.stats().memory_used_bytes < used + 64 * BLOCK as u64);
            engine.close().await.unwrap();
        });
    }
}

/// The story: a direct read took the bytes of an object from the cache or from its places on the
/// device. A small object has none: its bytes are in its record, so that as soon as it was not cached
/// the read gave zeroes.
#[test]
fn regression_a_direct_read_finds_what_an_object_keeps_in_its_record() {
    support::simulate(async {
        let disk = SimDisk::new(support::DEVICE_BLOCKS, SimOptions::default());
        support::format(&disk).await;
        for size in [1, 7, INLINE, INLINE + 1] {
            for grown in [size, size + 100, 2 * BLOCK as u64 + 1] {
                let engine = support::open(&disk).await.unwrap();
                let name = format!("object-{size}-{grown}");
                let object = engine.create(&name).await.unwrap();
                object.write_at(0, &vec![7; size as usize]).await.unwrap();
                object.sync().await.unwrap();
                object.truncate(grown).await.unwrap();
                drop(object);
                engine.close().await.unwrap();
                let engine = support::open(&disk).await.unwrap();
                let object = engine.object(&name).await.unwrap();
                let mut expected = vec![7; size as usize];
                expected.resize(grown as usize, 0);
                assert!(read(&engine, &object, 0, 0, 4 * BLOCK).await == expected, "{name}");
                drop(object);
                engine.close().await.unwrap();
            }
        }
    });
}

/// The story: a direct write publishes the size behind its batch. An object of a few bytes that grew by
/// one was still small when its places were asked for, so its first block, whole, went to the record,
/// which cannot hold it: the engine stopped the write with a panic.
#[test]
fn regression_a_small_object_grows_by_a_direct_write() {
    support::simulate(async {
        let disk = SimDisk::new(support::DEVICE_BLOCKS, SimOptions::default());
        support::format(&disk).await;
        for (round, size) in [1, INLINE - 1, INLINE, INLINE + 1].into_iter().enumerate() {
            for (at, blocks) in [(0, 1), (0, 3), (BLOCK as u64, 2)] {
                for synced in [false, true] {
                    let engine = support::open(&disk).await.unwrap();
                    let name = format!("object-{round}-{at}-{blocks}-{synced}");
                    let object = engine.create(&name).await.unwrap();
                    let mut expected = vec![7; size as usize];
                    object.write_at(0, &expected).await.unwrap();
                    if synced {
                        object.sync().await.unwrap();
                    }
                    let data = vec![9; blocks * BLOCK];
                    write(&engine, &object, at, 0, &data).await.unwrap();
                    put(&mut expected, at as usize, &data);
                    assert_eq!(read(&engine, &object, 0, 0, 4 * BLOCK).await, expected, "{name}");
                    engine.sync().await.unwrap();
                    drop(object);
                    engine.close().await.unwrap();
                    let engine = support::open(&disk).await.unwrap();
                    let object = engine.object(&name).await.unwrap();
                    assert_eq!(read(&engine, &object, 0, 0, 4 * BLOCK).await, expected, "{name}");
                    drop(object);
                    engine.close().await.unwrap();
                }
            }
        }
    });
}
