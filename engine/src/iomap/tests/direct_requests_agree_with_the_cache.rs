//! Reads and writes past the cache, against a plain vector and against whoever runs beside them.

use std::ops::Range;
use std::sync::Arc;

use foliant_device::Buffer;

use crate::error::ErrorKind;
use crate::error::Result;
use crate::iomap::contract::MappingProvider;
use crate::iomap::mock::MockProvider;
use crate::iomap::pause::Canary;
use crate::iomap::pause::Point;
use crate::iomap::testkit::Random;
use crate::iomap::testkit::Room;
use crate::iomap::testkit::block_on;
use crate::iomap::testkit::mock_room;
use crate::iomap::testkit::poll_times;
use crate::kit::memory::Purpose;
use crate::limits::STALE_RETRIES_MAX;
use crate::units::BLOCK;
use crate::units::BLOCK_BYTES;
use crate::units::FileBlocks;

/// Memory with `bytes` from `at` on.
async fn filled(room: &Room<MockProvider>, at: usize, bytes: &[u8]) -> Buffer {
    let order = (at + bytes.len()).div_ceil(BLOCK_BYTES).next_power_of_two().ilog2() as u8;
    let mut memory = room.mapped.memory.allocate(order, Purpose::Data).await.unwrap();
    let image = memory.get_mut().unwrap();
    image.fill(0xdd);
    image[at..at + bytes.len()].copy_from_slice(bytes);
    memory
}

/// Writes `bytes` at `offset` from memory that is aligned alike.
async fn write(room: &Room<MockProvider>, offset: u64, bytes: &[u8]) -> Result<()> {
    write_from(room, offset, (offset % BLOCK) as usize, bytes).await
}

async fn write_from(room: &Room<MockProvider>, offset: u64, at: usize, bytes: &[u8]) -> Result<()> {
    let memory = filled(room, at, bytes).await;
    let result = room.mapped.write_direct(offset, &memory, at..at + bytes.len()).await;
    assert!(memory.is_unique(), "the memory of a write is still held");
    result
}

async fn read_to(room: &Room<MockProvider>, offset: u64, within: Range<usize>) -> Result<Vec<u8>> {
    let memory = filled(room, within.end, &[]).await;
    let order = memory.order();
    let (memory, result) = room.mapped.read_direct(offset, memory, within.clone()).await;
    let memory = memory.expect("the device gives memory back");
    assert!(memory.order() == order && memory.is_unique());
    let (before, rest) = memory.split_at(within.start);
    assert!(before.iter().chain(&rest[within.len()..]).all(|&b| b == 0xdd), "outside of the read");
    result.map(|read| rest[..read].to_vec())
}

async fn read(room: &Room<MockProvider>, offset: u64, len: usize) -> Result<Vec<u8>> {
    let at = (offset % BLOCK) as usize;
    read_to(room, offset, at..at + len).await
}

fn put(bytes: &mut Vec<u8>, at: usize, data: &[u8]) {
    bytes.resize(bytes.len().max(at + data.len()), 0);
    bytes[at..at + data.len()].copy_from_slice(data);
}

fn near_an_edge(random: &mut Random) -> u64 {
    let block = random.below(40) * BLOCK;
    match random.below(4) {
        0 => block + random.below(BLOCK),
        1 => (block + random.below(3)).saturating_sub(1),
        _ => block,
    }
}

/// One random operation on the room and on the vector.
async fn step(room: &Room<MockProvider>, random: &mut Random, model: &mut Vec<u8>) {
    let at = near_an_edge(random);
    let len = match random.below(3) {
        0 => 1 + random.below(5000),
        1 => BLOCK * (1 + random.below(20)),
        _ => 1 + random.below(70_000),
    } as usize;
    let phase = if random.below(5) == 0 { random.below(BLOCK) } else { at % BLOCK } as usize;
    match random.below(14) {
        0..=3 => {
            let bytes = random.bytes(len);
            write_from(room, at, phase, &bytes).await.unwrap();
            put(model, at as usize, &bytes);
        }
        4..=6 => {
            let found = read_to(room, at, phase..phase + len).await.unwrap();
            let start = (at as usize).min(model.len());
            let wanted = &model[start..(at as usize + len).min(model.len()).max(start)];
            assert_eq!(found.len(), wanted.len(), "length of a read at {at}");
            assert!(found == wanted, "a read of {len} at {at}");
        }
        7 | 8 => {
            let bytes = random.bytes(len);
            room.mapped.write_at(at, &bytes).await.unwrap();
            put(model, at as usize, &bytes);
        }
        9 => assert!(room.content().await == *model),
        10 => {
            room.truncate(at).await;
            model.resize(at as usize, 0);
        }
        11 => {
            room.mapped.zero_range(at, len as u64).await.unwrap();
            let end = (at as usize + len).min(model.len());
            model[(at as usize).min(end)..end].fill(0);
        }
        12 => room.settle().await,
        _ => drop(room.evict()),
    }
    room.expect_balance();
}

#[test]
fn random_requests_agree_with_a_vector() {
    for seed in 0..40 {
        block_on(async {
            let mut random = Random::new(seed);
            let room = mock_room();
            room.provider.script(|s| {
                s.longest_answer = if seed % 3 == 0 { 3 } else { u64::MAX };
                s.longest_placement = if seed % 2 == 0 { 2 } else { u64::MAX };
                s.checksums = seed % 4 > 0;
            });
            let mut model = Vec::new();
            for _ in 0..60 {
                step(&room, &mut random, &mut model).await;
            }
            room.settle().await;
            room.evict();
            assert!(room.content().await == model, "seed {seed}");
            room.expect_balance();
        });
    }
}

const BLOCKS: usize = 24;
const LEN: usize = BLOCKS * BLOCK_BYTES;

/// Stored ones, of which block 1 is dirty with twos; a hole at block 5, an unwritten block 6.
async fn mixed() -> (Room<MockProvider>, Vec<u8>) {
    let room = mock_room();
    room.mapped.write_at(0, &[1; LEN]).await.unwrap();
    room.settle().await;
    room.evict();
    room.provider.unmap(FileBlocks::new(5, 7));
    room.provider.place(6, true);
    room.mapped.write_at(BLOCK, &[2; BLOCK_BYTES]).await.unwrap();
    let mut bytes = vec![1; LEN];
    bytes[BLOCK_BYTES..2 * BLOCK_BYTES].fill(2);
    bytes[5 * BLOCK_BYTES..7 * BLOCK_BYTES].fill(0);
    (room, bytes)
}

#[test]
fn a_read_sees_what_is_dirty_and_leaves_nothing_in_the_cache() {
    block_on(async {
        let (room, expected) = mixed().await;
        let cached = || room.mapped.cache().folios(FileBlocks::new(0, u64::MAX), 99).len();
        let before = cached();
        assert!(read(&room, 0, LEN).await.unwrap() == expected);
        assert_eq!(cached(), before, "a direct read fills the cache");
        room.mapped.pauses().break_on_purpose(Canary::ReadPastDirty);
        assert!(read(&room, 0, LEN).await.unwrap() != expected, "the canary survived");
        room.expect_balance();
    });
}

#[test]
fn bytes_behind_the_size_are_zero_in_the_last_block() {
    block_on(async {
        let room = mock_room();
        room.mapped.write_at(0, &[1; 5000]).await.unwrap();
        room.settle().await;
        room.evict();
        let at = room.provider.stored(1).unwrap();
        room.provider.place(1, false);
        let now = room.provider.stored(1).unwrap().at;
        room.transport.copy(at.at, now);
        room.transport.scribble_from(now, 904, 0xbb);
        let memory = filled(&room, 0, &[0xdd; 4 * BLOCK_BYTES]).await;
        let (memory, read) = room.mapped.read_direct(0, memory, 0..3 * BLOCK_BYTES).await;
        assert_eq!(read.unwrap(), 5000);
        let memory = memory.unwrap();
        assert!(memory[..5000].iter().all(|&b| b == 1));
        assert!(memory[5000..2 * BLOCK_BYTES].iter().all(|&b| b == 0), "behind the size");
    });
}

#[test]
fn a_damaged_block_is_an_error_and_gives_the_memory_back() {
    block_on(async {
        let (room, _) = mixed().await;
        room.transport.scribble(room.provider.stored(9).unwrap().at, 0xbb);
        assert_eq!(read(&room, 0, LEN).await.unwrap_err().kind(), ErrorKind::Corrupt);
        room.mapped.pauses().break_on_purpose(Canary::TrustDevice);
        assert_eq!(read(&room, 9 * BLOCK, 10).await.unwrap(), [0xbb; 10]);
        let bad = room.provider.stored(20).unwrap().at;
        room.transport.with(|t| t.bad_reads.insert(bad));
        assert_eq!(read(&room, 0, LEN).await.unwrap_err().kind(), ErrorKind::Device);
        room.expect_balance();
    });
}

/// Somebody reads through the cache while a direct write stands at `point`; what both see then.
async fn cached_read_beside(point: Point, canary: Option<Canary>) -> (Vec<u8>, Vec<u8>) {
    let room = mock_room();
    room.mapped.write_at(0, &[1; LEN]).await.unwrap();
    room.settle().await;
    room.evict();
    // One block is cached and clean, one is dirty; all others miss.
    room.mapped.read_at(3 * BLOCK, &mut [0; 1]).await.unwrap();
    room.evict();
    room.mapped.write_at(4 * BLOCK, &[2; 9]).await.unwrap();
    if let Some(canary) = canary {
        room.mapped.pauses().break_on_purpose(canary);
    }
    let hold = room.mapped.pauses().hold(point);
    let memory = filled(&room, 0, &[7; 10 * BLOCK_BYTES]).await;
    let mapped = Arc::clone(&room.mapped);
    let writer =
        tokio::spawn(
            async move { mapped.write_direct(2 * BLOCK, &memory, 0..10 * BLOCK_BYTES).await },
        );
    hold.reached().await;
    let mapped = Arc::clone(&room.mapped);
    let reader = tokio::spawn(async move {
        let mut bytes = vec![0; 6 * BLOCK_BYTES];
        mapped.read_at(6 * BLOCK, &mut bytes).await.unwrap();
        bytes
    });
    for _ in 0..20 {
        tokio::task::yield_now().await;
    }
    drop(hold);
    writer.await.unwrap().unwrap();
    let beside = reader.await.unwrap();
    let after = room.content().await;
    room.expect_balance();
    (beside, after)
}

#[test]
fn a_cached_read_beside_a_write_caches_neither_zeroes_nor_old_bytes() {
    let mut expected = vec![1; LEN];
    expected[2 * BLOCK_BYTES..12 * BLOCK_BYTES].fill(7);
    for point in [Point::BeforeWritebackMapping, Point::BeforeCompletion] {
        block_on(async {
            let (beside, after) = cached_read_beside(point, None).await;
            assert!(beside.iter().all(|&b| b == 7), "the reader comes behind the write");
            assert!(after == expected, "{point:?}");
            for canary in [Canary::WriteUnlocked, Canary::KeepSuperseded] {
                let (_, after) = cached_read_beside(point, Some(canary)).await;
                assert!(after != expected, "{canary:?} survived at {point:?}");
            }
        });
    }
}

#[test]
fn a_failed_write_leaves_the_old_bytes_and_no_promise() {
    for turn in 0..4 {
        block_on(async {
            let (room, expected) = mixed().await;
            match turn {
                0 => room.transport.with(|t| t.fail_writes = true),
                1 => room.provider.script(|s| s.fail_map_writeback = true),
                2 => room.provider.script(|s| s.fail_done = true),
                _ => room.provider.script(|s| s.room = 8),
            }
            let free = room.provider.free_blocks();
            let result = write(&room, 0, &[9; LEN + BLOCK_BYTES]).await;
            let kind = result.unwrap_err().kind();
            assert_eq!(kind == ErrorKind::NoSpace, turn == 3, "{kind:?}");
            room.transport.with(|t| t.fail_writes = false);
            room.provider.script(|s| s.room = u64::MAX);
            room.expect_balance();
            assert_eq!(room.provider.free_blocks(), free, "claims are left");
            assert_eq!(room.unsettled(), 1, "the dirty block stays dirty");
            assert!(room.content().await == expected);
            room.settle().await;
            room.evict();
            assert!(room.content().await == expected);
            write(&room, 0, &[9; LEN + BLOCK_BYTES]).await.unwrap();
            assert!(room.content().await == vec![9; LEN + BLOCK_BYTES]);
            room.expect_balance();
        });
    }
}

#[test]
fn superseded_dirty_blocks_give_their_promises_back() {
    block_on(async {
        let (room, _) = mixed().await;
        assert_eq!((room.unsettled(), room.provider.counts().promised), (1, 1));
        write(&room, 0, &[9; LEN]).await.unwrap();
        assert_eq!((room.unsettled(), room.provider.counts().promised), (0, 0));
        let writes = room.transport.with(|t| t.writes.len());
        room.settle().await;
        assert_eq!(room.transport.with(|t| t.writes.len()), writes, "old bytes were written");
        assert!(room.content().await == vec![9; LEN]);
    });
}

#[test]
fn the_durable_size_is_not_ahead_of_dirty_blocks_before_a_direct_write() {
    for broken in [false, true] {
        block_on(async {
            let room = mock_room();
            if broken {
                room.mapped.pauses().break_on_purpose(Canary::SettleEverything);
            }
            room.mapped.write_at(0, &[1; 3 * BLOCK_BYTES]).await.unwrap();
            write(&room, 3 * BLOCK, &[2; 4 * BLOCK_BYTES]).await.unwrap();
            assert_eq!(room.provider.size(), 7 * BLOCK);
            let ahead = room.provider.durable_size() > 0;
            assert_eq!(ahead, broken, "{}", room.provider.durable_size());
            // Over the dirty blocks, too: then nothing is in the way.
            write(&room, 0, &[3; 3 * BLOCK_BYTES]).await.unwrap();
            assert_eq!(room.provider.durable_size(), 7 * BLOCK);
        });
    }
}

#[test]
fn a_write_far_behind_the_end_zeroes_the_old_one() {
    for broken in [false, true] {
        block_on(async {
            let room = mock_room();
            room.mapped.write_at(0, &[1; 5000]).await.unwrap();
            room.settle().await;
            room.evict();
            let at = room.provider.stored(1).unwrap().at;
            room.provider.place(1, false);
            let now = room.provider.stored(1).unwrap().at;
            room.transport.copy(at, now);
            room.transport.scribble_from(now, 904, 0xbb);
            if broken {
                room.mapped.pauses().break_on_purpose(Canary::LeaveOldEnd);
            }
            write(&room, 6 * BLOCK, &[2; 2 * BLOCK_BYTES]).await.unwrap();
            let content = room.content().await;
            let gap = content[5000..6 * BLOCK_BYTES].iter().all(|&b| b == 0);
            assert_eq!(gap, !broken, "the old end");
            assert!(content.len() == 8 * BLOCK_BYTES && content[7 * BLOCK_BYTES] == 2);
        });
    }
}

#[test]
fn a_read_with_a_stale_mapping_reads_again() {
    for broken in [false, true] {
        block_on(async {
            let room = Arc::new(mock_room());
            room.mapped.write_at(0, &[9; 3 * BLOCK_BYTES]).await.unwrap();
            room.settle().await;
            room.evict();
            if broken {
                room.mapped.pauses().break_on_purpose(Canary::IgnoreStaleness);
            }
            let hold = room.mapped.pauses().hold(Point::AfterMap);
            let asked = Arc::clone(&room);
            let reader = tokio::spawn(async move { read(&asked, 0, 3 * BLOCK_BYTES).await });
            hold.reached().await;
            let old = room.provider.stored(1).unwrap();
            room.provider.relocate(1, &room.transport);
            room.transport.scribble(old.at, 0xbb);
            drop(hold);
            let found = reader.await.unwrap();
            if broken {
                assert!(found.is_err(), "the canary survived");
            } else {
                assert!(found.unwrap() == [9; 3 * BLOCK_BYTES]);
                assert_eq!(room.mapped.counts().totals().stale_retries, 1);
            }
            room.expect_balance();
        });
    }
}

#[test]
fn a_block_that_is_written_back_and_dropped_under_a_read_is_not_a_hole() {
    for broken in [false, true] {
        block_on(async {
            let room = Arc::new(mock_room());
            room.mapped.write_at(0, &[9; BLOCK_BYTES]).await.unwrap();
            if broken {
                room.mapped.pauses().break_on_purpose(Canary::IgnoreStaleness);
            }
            let hold = room.mapped.pauses().hold(Point::AfterMap);
            let asked = Arc::clone(&room);
            let reader = tokio::spawn(async move { read(&asked, 0, BLOCK_BYTES).await });
            hold.reached().await;
            room.settle().await;
            assert!(room.evict() > 0);
            drop(hold);
            let found = reader.await.unwrap().unwrap();
            assert_eq!(found == [9; BLOCK_BYTES], !broken);
        });
    }
}

#[test]
fn a_mapping_that_never_settles_is_read_with_writeback_held_still() {
    block_on(async {
        let (room, bytes) = mixed().await;
        room.provider.script(|s| s.stale_answers = u64::from(STALE_RETRIES_MAX) * 10);
        assert!(read(&room, 0, LEN).await.unwrap() == bytes[..LEN]);
        assert_eq!(room.mapped.counts().totals().held_still, 1);
        room.expect_balance();
    });
}

/// Dropped writes lose claimed device blocks until the store is opened again, but no promise, and all of
/// the blocks are old or all are new.
#[test]
fn a_dropped_write_is_before_or_after() {
    for polls in 0.. {
        let finished = block_on(async {
            let (room, old) = mixed().await;
            room.mapped.read_at(9 * BLOCK, &mut [0; 9]).await.unwrap();
            room.yield_everywhere();
            let memory = filled(&room, 0, &[9; LEN]).await;
            let mut future = Box::pin(room.mapped.write_direct(BLOCK, &memory, 0..LEN));
            let output = poll_times(&mut future, polls);
            drop(future);
            assert!(memory.is_unique(), "the memory is still held");
            room.expect_unlocked();
            assert_eq!(room.provider.counts().open, 0);
            assert_eq!(room.provider.counts().promised, room.unsettled());
            let mut new = old.clone();
            put(&mut new, BLOCK_BYTES, &[9; LEN]);
            let content = room.content().await;
            assert!(content == old || content == new, "torn after {polls} polls");
            assert_eq!(output.is_some(), content == new);
            room.settle().await;
            room.evict();
            assert!(room.content().await == content, "it changed later, after {polls} polls");
            output
        });
        if let Some(output) = finished {
            output.unwrap();
            assert!(polls > 4, "the operation gave way {polls} times");
            return;
        }
    }
}

#[test]
fn a_dropped_read_leaves_nothing() {
    for polls in 0.. {
        let finished = block_on(async {
            let (room, old) = mixed().await;
            room.provider.script(|s| s.longest_answer = 3);
            room.yield_everywhere();
            let free = room.mapped.memory.free_blocks();
            let memory = filled(&room, 0, &[0; LEN]).await;
            let mut future = Box::pin(room.mapped.read_direct(0, memory, 0..LEN));
            let output = poll_times(&mut future, polls);
            drop(future);
            let finished = output.map(|(memory, read)| {
                assert!(memory.unwrap()[..LEN] == old);
                assert_eq!(read.unwrap(), LEN);
            });
            room.expect_balance();
            assert_eq!(room.mapped.memory.free_blocks(), free, "memory is lost");
            finished
        });
        if finished.is_some() {
            assert!(polls > 4, "the operation gave way {polls} times");
            return;
        }
    }
}

/// A commit changes a block and its checksum in place without making mappings stale, and a truncate changes
/// the size: neither may fall into a direct read, and nobody may read or write under a direct write.
#[test]
fn a_direct_read_shares_its_range_and_a_direct_write_has_it_alone() {
    block_on(async {
        let room = Arc::new(mock_room());
        room.mapped.write_at(0, &[1; LEN]).await.unwrap();
        room.settle().await;
        let ranges = room.mapped.ranges();
        let hold = room.mapped.pauses().hold(Point::AfterMap);
        let asked = Arc::clone(&room);
        let reader = tokio::spawn(async move { read(&asked, 4 * BLOCK, 3 * BLOCK_BYTES).await });
        hold.reached().await;
        for block in 4..7 {
            assert!(ranges.try_exclusive(block..block + 1).is_none(), "block {block}");
            assert!(ranges.try_shared(block..block + 1).is_some(), "block {block}");
        }
        assert!(ranges.try_exclusive(0..4).is_some() && ranges.try_exclusive(7..99).is_some());
        drop(hold);
        reader.await.unwrap().unwrap();
        for (at, alone) in [(4, 4..7), (BLOCKS as u64 + 2, BLOCKS as u64..99)] {
            let hold = room.mapped.pauses().hold(Point::BeforeCompletion);
            let asked = Arc::clone(&room);
            let writer =
                tokio::spawn(async move { write(&asked, at * BLOCK, &[7; 3 * BLOCK_BYTES]).await });
            hold.reached().await;
            for block in alone.clone() {
                assert!(ranges.try_shared(block..block + 1).is_none(), "block {block}");
            }
            assert!(ranges.try_exclusive(0..alone.start).is_some());
            drop(hold);
            writer.await.unwrap().unwrap();
        }
        room.expect_balance();
    });
}

/// A direct write that did not grow the object sampled its size before it waited for its slot. A truncate
/// above its range passed by meanwhile, and the write recorded the old, larger size again.
#[test]
fn a_truncate_that_passes_a_direct_write_keeps_its_size() {
    block_on(async {
        let room = Arc::new(mock_room());
        room.mapped.write_at(0, &[1; 100 * BLOCK_BYTES]).await.unwrap();
        room.settle().await;
        let hold = room.mapped.pauses().hold(Point::AfterMap);
        let helper = Arc::clone(&room);
        let writer = tokio::spawn(async move { write(&helper, 0, &[2; 4 * BLOCK_BYTES]).await });
        hold.reached().await;
        room.provider.set_size(50 * BLOCK);
        drop(hold);
        writer.await.unwrap().unwrap();
        assert_eq!((room.provider.size(), room.provider.durable_size()), (50 * BLOCK, 50 * BLOCK));
    });
}
