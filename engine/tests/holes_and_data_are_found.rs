//! Where data and holes are: `seek_data`, `seek_hole` and `extents` against a plain set of blocks, and
//! objects as large as they may be.

#![allow(clippy::unwrap_used)] // In helpers of tests as in tests: a failed unwrap is the failed test.

mod support;

use std::collections::BTreeSet;

use foliant::Engine;
use foliant::ErrorKind;
use foliant::ExtentState;
use foliant::Object;
use foliant_device::sim::Rng;
use foliant_device::sim::SimDisk;
use foliant_device::sim::SimOptions;

const BLOCK: u64 = support::BLOCK as u64;
const SIZE_MAX: u64 = i64::MAX as u64;
const BLOCKS: u64 = 64;

async fn new_disk(seed: u64) -> (SimDisk, Engine) {
    let disk = SimDisk::new(support::DEVICE_BLOCKS, SimOptions { seed, ..SimOptions::default() });
    support::format(&disk).await;
    let engine = support::open(&disk).await.unwrap();
    (disk, engine)
}

async fn reopen(disk: &SimDisk, engine: Engine) -> Engine {
    engine.close().await.unwrap();
    support::open(disk).await.unwrap()
}

/// The blocks with data, and the size.
#[derive(Default)]
struct Model {
    data: BTreeSet<u64>,
    size: u64,
}

impl Model {
    async fn change(&mut self, rng: &mut Rng, object: &Object) {
        let small = rng.below(4) == 0;
        let far = if small { 500 } else { BLOCKS * BLOCK };
        let start = rng.below(far);
        let len = 1 + rng.below(if small { 300 } else { 6 * BLOCK });
        let end = (start + len).min(BLOCKS * BLOCK);
        match rng.below(8) {
            0..=3 => {
                object.write_at(start, &vec![7; (end - start) as usize]).await.unwrap();
                self.data.extend(start / BLOCK..end.div_ceil(BLOCK));
                self.size = self.size.max(end);
            }
            4 => {
                object.truncate(start).await.unwrap();
                self.data.retain(|&block| block < start.div_ceil(BLOCK));
                self.size = start;
            }
            5 => {
                object.punch(start..end).await.unwrap();
                let last = if end >= self.size { end.div_ceil(BLOCK) } else { end / BLOCK };
                self.data.retain(|block| !(start.div_ceil(BLOCK)..last).contains(block));
            }
            6 => object.preallocate(start..end).await.unwrap(),
            _ => object.zero(start..end).await.unwrap(),
        }
    }

    fn next(&self, at: u64, data: bool) -> Option<u64> {
        if at >= self.size {
            return None;
        }
        let end = self.size.div_ceil(BLOCK);
        let found = (at / BLOCK..end).find(|block| self.data.contains(block) == data);
        match found {
            Some(block) => Some(at.max(block * BLOCK)),
            None => (!data).then_some(self.size),
        }
    }

    async fn check(&self, rng: &mut Rng, object: &Object, synced: bool) {
        for _ in 0..6 {
            let at = rng.below(self.size + 2 * BLOCK);
            assert_eq!(object.seek_data(at).await.unwrap(), self.next(at, true), "data {at}");
            assert_eq!(object.seek_hole(at).await.unwrap(), self.next(at, false), "hole {at}");
        }
        let extents = object.extents(0..SIZE_MAX, usize::MAX).await.unwrap();
        let mut told = BTreeSet::new();
        let mut last = 0;
        for extent in &extents {
            assert!(extent.range.start >= last && extent.range.start < extent.range.end);
            last = extent.range.end;
            let placed = matches!(extent.state, ExtentState::Mapped | ExtentState::Unwritten);
            assert_eq!(extent.device_offset.is_some(), placed, "{extent:?}");
            assert!(!synced || extent.state != ExtentState::Delalloc, "{extent:?} after a sync");
            let blocks = extent.range.start / BLOCK..extent.range.end / BLOCK;
            for block in blocks {
                let data = self.data.contains(&block);
                let may_be_either = extent.state == ExtentState::Unwritten && !synced;
                assert!(may_be_either || data == (extent.state != ExtentState::Unwritten));
                told.insert(block);
            }
        }
        assert!(self.data.is_subset(&told), "{:?} lacks {:?}", extents, self.data);
    }
}

#[test]
fn they_are_where_a_plain_set_of_blocks_has_them() {
    support::for_seeds(0..60, |seed| {
        support::simulate(async {
            let (disk, mut engine) = new_disk(seed).await;
            let mut rng = Rng::new(seed);
            let mut model = Model::default();
            let mut object = engine.create("it").await.unwrap();
            for _ in 0..60 {
                model.change(&mut rng, &object).await;
                let synced = match rng.below(12) {
                    0 => {
                        drop(object);
                        engine = reopen(&disk, engine).await;
                        object = engine.object("it").await.unwrap();
                        true
                    }
                    1..=3 => {
                        object.sync().await.unwrap();
                        true
                    }
                    _ => false,
                };
                model.check(&mut rng, &object, synced).await;
            }
            drop(object);
            engine.close().await.unwrap();
        });
    });
}

#[test]
fn the_ends_are_those_of_lseek() {
    support::simulate(async {
        let (_disk, engine) = new_disk(1).await;
        let object = engine.create("it").await.unwrap();
        for at in [0, 1, SIZE_MAX, u64::MAX] {
            assert_eq!(object.seek_data(at).await.unwrap(), None, "nothing in an empty object");
            assert_eq!(object.seek_hole(at).await.unwrap(), None);
        }
        object.write_at(0, &[1; 5000]).await.unwrap();
        assert_eq!(object.seek_hole(4999).await.unwrap(), Some(5000), "the end is a hole");
        assert_eq!(object.seek_data(5000).await.unwrap(), None);
        object.truncate(5 * BLOCK).await.unwrap();
        assert_eq!(object.seek_hole(0).await.unwrap(), Some(2 * BLOCK));
        assert_eq!(object.seek_data(2 * BLOCK).await.unwrap(), None, "only a hole is left");
        engine.close().await.unwrap();
    });
}

#[test]
fn ranges_that_are_none_are_refused() {
    support::simulate(async {
        let (_disk, engine) = new_disk(2).await;
        let object = engine.create("it").await.unwrap();
        #[allow(clippy::reversed_empty_ranges)]
        for range in [2..1, 0..SIZE_MAX + 1, 5..u64::MAX] {
            let error = object.extents(range, 9).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidInput);
        }
        let past = object.write_at(SIZE_MAX, &[1]).await.unwrap_err();
        assert_eq!(past.kind(), ErrorKind::InvalidInput);
        let past = object.write_at(SIZE_MAX - 1, &[1, 2]).await.unwrap_err();
        assert_eq!(past.kind(), ErrorKind::InvalidInput);
        let past = object.write_at(u64::MAX, &[1, 2]).await.unwrap_err();
        assert_eq!(past.kind(), ErrorKind::InvalidInput);
        assert_eq!(object.size(), 0);
        engine.close().await.unwrap();
    });
}

async fn read_one(object: &Object, at: u64) -> u8 {
    let mut byte = [0xEE];
    assert_eq!(object.read_at(at, &mut byte).await.unwrap(), 1);
    byte[0]
}

async fn check_sparse(object: &Object) {
    let (middle, last) = (1_u64 << 62, SIZE_MAX - 1);
    assert_eq!(object.size(), SIZE_MAX);
    assert_eq!((read_one(object, middle).await, read_one(object, last).await), (2, 3));
    assert_eq!(read_one(object, 1 << 61).await, 0);
    assert_eq!(object.seek_data(0).await.unwrap(), Some(middle));
    assert_eq!(object.seek_hole(middle).await.unwrap(), Some(middle + BLOCK));
    let block = last / BLOCK * BLOCK;
    assert_eq!(object.seek_data(middle + BLOCK).await.unwrap(), Some(block));
    assert_eq!(object.seek_hole(block).await.unwrap(), Some(SIZE_MAX));
    let extents = object.extents(0..SIZE_MAX, 9).await.unwrap();
    let starts: Vec<u64> = extents.iter().map(|e| e.range.start).collect();
    assert_eq!(starts, [middle, block]);
}

#[test]
fn the_largest_object_costs_what_is_in_it() {
    support::simulate(async {
        let (disk, mut engine) = new_disk(3).await;
        let mut object = engine.create("it").await.unwrap();
        object.write_at(0, &[1]).await.unwrap();
        object.sync().await.unwrap();
        object.punch(0..1).await.unwrap();
        object.sync().await.unwrap();
        let (free, memory) = (engine.stats().free_bytes, engine.stats().memory_used_bytes);
        let (requests, started) = (disk.requests(), std::time::Instant::now());
        object.write_at(SIZE_MAX - 1, &[3]).await.unwrap();
        object.write_at(1 << 62, &[2]).await.unwrap();
        check_sparse(&object).await;
        object.sync().await.unwrap();
        check_sparse(&object).await;
        let grown = engine.stats().memory_used_bytes.saturating_sub(memory);
        assert!(grown < 1 << 20, "{grown} bytes of memory for two blocks");
        drop(object);
        engine = reopen(&disk, engine).await;
        object = engine.object("it").await.unwrap();
        check_sparse(&object).await;
        object.zero(5..SIZE_MAX - 5).await.unwrap();
        object.punch(0..SIZE_MAX).await.unwrap();
        assert_eq!(object.extents(0..SIZE_MAX, 9).await.unwrap(), []);
        assert_eq!(object.seek_data(0).await.unwrap(), None);
        assert_eq!(object.seek_hole(1 << 62).await.unwrap(), Some(1 << 62));
        assert_eq!(read_one(&object, SIZE_MAX - 1).await, 0);
        object.write_at(1 << 62, &[4]).await.unwrap();
        object.truncate(0).await.unwrap();
        object.truncate(SIZE_MAX).await.unwrap();
        assert_eq!(read_one(&object, 1 << 62).await, 0);
        object.truncate(7).await.unwrap();
        object.sync().await.unwrap();
        assert!(disk.requests() - requests < 500, "{} requests", disk.requests() - requests);
        assert!(started.elapsed().as_secs() < 60, "took {:?}", started.elapsed());
        drop(object);
        engine = reopen(&disk, engine).await;
        assert_eq!(engine.object("it").await.unwrap().size(), 7);
        assert_eq!(engine.stats().free_bytes, free, "every block came back");
        engine.close().await.unwrap();
    });
}
