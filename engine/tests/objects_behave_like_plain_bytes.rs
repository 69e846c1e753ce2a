//! Random operations on a few objects, each compared with a plain `Vec<u8>`, with eviction, sync and
//! reopening mixed in.
//!
//! The budget is the smallest one and the objects together are larger, so that folios come and go.

mod support;

use std::ops::Range;

use foliant::Engine;
use foliant::Object;
use foliant_device::sim::Rng;
use foliant_device::sim::SimDisk;
use foliant_device::sim::SimOptions;
use support::BLOCK;

const OBJECTS: usize = 3;
const BYTES_MAX: u64 = 3 << 20;
const DEVICE_BLOCKS: u64 = 20_000;

struct Model {
    rng: Rng,
    bytes: [Vec<u8>; OBJECTS],
}

/// Offsets like the edges of blocks: off-by-one errors live there.
fn offset(rng: &mut Rng, end: u64) -> u64 {
    let any = rng.below(end.max(1));
    match rng.below(3) {
        0 => any,
        1 => any / BLOCK as u64 * BLOCK as u64,
        _ => (any / BLOCK as u64 * BLOCK as u64 + rng.below(3)).saturating_sub(1),
    }
}

fn range(rng: &mut Rng, end: u64) -> Range<u64> {
    let start = offset(rng, end);
    let len = match rng.below(4) {
        0 => rng.below(16) + 1,
        1 => BLOCK as u64,
        2 => rng.below(10 * BLOCK as u64) + 1,
        _ => rng.below(300_000) + 1,
    };
    start..start + len
}

impl Model {
    async fn step(&mut self, engine: &Engine, objects: &[Object]) {
        let which = self.rng.below(OBJECTS as u64) as usize;
        let object = &objects[which];
        match self.rng.below(20) {
            0..=6 => self.write(which, object).await,
            7..=12 => self.read(which, object).await,
            13 => self.truncate(which, object).await,
            14 => self.punch(which, object).await,
            15 => {
                let range = range(&mut self.rng, BYTES_MAX);
                object.preallocate(range).await.expect("there is room");
            }
            16 => object.sync().await.expect("sync"),
            17 | 18 => self.transaction(engine, objects).await,
            _ => assert_eq!(object.size(), self.bytes[which].len() as u64),
        }
    }

    async fn write(&mut self, which: usize, object: &Object) {
        let range = range(&mut self.rng, BYTES_MAX);
        let data = support::bytes(&mut self.rng, (range.end - range.start) as usize);
        put(&mut self.bytes[which], range.start as usize, &data);
        object.write_at(range.start, &data).await.expect("write");
    }

    async fn read(&mut self, which: usize, object: &Object) {
        let range = range(&mut self.rng, BYTES_MAX);
        let mut found = vec![0xEE; (range.end - range.start) as usize];
        let read = object.read_at(range.start, &mut found).await.expect("read");
        let model = &self.bytes[which];
        let start = (range.start as usize).min(model.len());
        let want = &model[start..(range.end as usize).min(model.len())];
        assert_eq!(read, want.len(), "length of a read at {range:?} of {} bytes", model.len());
        let differ = found[..read].iter().zip(want).position(|(a, b)| a != b);
        assert_eq!(differ, None, "object {which} differs in {range:?}");
    }

    async fn truncate(&mut self, which: usize, object: &Object) {
        let to = offset(&mut self.rng, BYTES_MAX);
        self.bytes[which].resize(to as usize, 0);
        object.truncate(to).await.expect("truncate");
    }

    async fn punch(&mut self, which: usize, object: &Object) {
        let range = range(&mut self.rng, BYTES_MAX);
        let end = self.bytes[which].len();
        let inside = (range.start as usize).min(end)..(range.end as usize).min(end);
        self.bytes[which][inside].fill(0);
        object.punch(range).await.expect("punch");
    }

    async fn transaction(&mut self, engine: &Engine, objects: &[Object]) {
        let mut transaction = engine.transaction();
        let mut planned = self.bytes.clone();
        for _ in 0..=self.rng.below(3) {
            let which = self.rng.below(OBJECTS as u64) as usize;
            let at = offset(&mut self.rng, BYTES_MAX);
            let len = self.rng.below(9_000) as usize + 1;
            let data = support::bytes(&mut self.rng, len);
            transaction.write_at(&objects[which], at, &data).expect("it fits the log");
            put(&mut planned[which], at as usize, &data);
            let mut own = vec![0; data.len() + 10];
            let read = transaction.read_at(&objects[which], at, &mut own).await.expect("read");
            let want = &planned[which][at as usize..(at as usize + read)];
            assert_eq!(&own[..read], want, "a transaction does not see its own writes");
        }
        let commit = transaction.commit().await.expect("commit");
        commit.durable().await.expect("durable");
        self.bytes = planned;
    }
}

fn put(bytes: &mut Vec<u8>, at: usize, data: &[u8]) {
    bytes.resize(bytes.len().max(at + data.len()), 0);
    bytes[at..at + data.len()].copy_from_slice(data);
}

async fn objects(engine: &Engine) -> Vec<Object> {
    let mut objects = Vec::new();
    for i in 0..OBJECTS {
        objects.push(engine.object(format!("object-{i}")).await.expect("it was created"));
    }
    objects
}

fn run(seed: u64) {
    support::simulate(async {
        let disk = SimDisk::new(DEVICE_BLOCKS, SimOptions { seed, ..SimOptions::default() });
        support::format(&disk).await;
        let mut engine = support::open(&disk).await.expect("open");
        for i in 0..OBJECTS {
            engine.create(format!("object-{i}")).await.expect("create");
        }
        let mut model = Model { rng: Rng::new(seed), bytes: Default::default() };
        for _ in 0..3 {
            let handles = objects(&engine).await;
            for _ in 0..120 {
                model.step(&engine, &handles).await;
            }
            drop(handles);
            engine.close().await.expect("close");
            engine = support::open(&disk).await.expect("reopen");
            let handles = objects(&engine).await;
            for (i, object) in handles.iter().enumerate() {
                let mut found = vec![0; model.bytes[i].len() + 1];
                let read = object.read_at(0, &mut found).await.expect("read");
                found.truncate(read);
                assert!(found == model.bytes[i], "object {i} differs after reopening");
            }
        }
        engine.close().await.expect("close");
    });
}

#[test]
fn random_operations_agree_with_a_vector() {
    support::for_seeds(0..60, run);
}
