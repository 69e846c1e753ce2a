//! Random operations against a vector of bytes, alone and with writeback and eviction beside.
//! Guarantees nothing about failures; those have their own files.

use std::sync::Arc;

use crate::iomap::contract::MappingProvider;
use crate::iomap::testkit::Random;
use crate::iomap::testkit::Room;
use crate::iomap::testkit::block_on;
use crate::iomap::testkit::identity_room;
use crate::iomap::testkit::mock_room;
use crate::units::BLOCK;
use crate::units::FileBlocks;

/// The largest object of these tests in bytes.
const SIZE_MAX: u64 = 150 * BLOCK;

/// A length that is often small, and often next to a block's edge.
fn some_len(random: &mut Random) -> u64 {
    match random.below(6) {
        0 => 1 + random.below(20 * BLOCK),
        1 => BLOCK * (1 + random.below(4)),
        _ => 1 + random.below(700),
    }
}

fn some_offset(random: &mut Random, size: u64) -> u64 {
    let reach = (size + 2 * BLOCK).min(SIZE_MAX);
    match random.below(4) {
        0 => random.below(reach / BLOCK + 1) * BLOCK,
        1 => size.min(SIZE_MAX),
        _ => random.below(reach),
    }
}

fn write_model(model: &mut Vec<u8>, at: u64, bytes: &[u8]) {
    let end = at as usize + bytes.len();
    if model.len() < end {
        model.resize(end, 0);
    }
    model[at as usize..end].copy_from_slice(bytes);
}

/// One operation that both providers have; `false` if the roll was not one of them.
async fn step<P: MappingProvider>(
    room: &Room<P>,
    random: &mut Random,
    model: &mut Vec<u8>,
    roll: u64,
) -> bool {
    let size = model.len() as u64;
    let at = some_offset(random, size);
    let len = some_len(random).min(SIZE_MAX - at);
    match roll {
        0..30 => {
            let bytes = random.bytes(len as usize);
            room.mapped.write_at(at, &bytes).await.unwrap();
            if len > 0 {
                write_model(model, at, &bytes);
            }
        }
        30..70 => {
            let mut bytes = vec![0x55; len as usize];
            let read = room.mapped.read_at(at, &mut bytes).await.unwrap();
            let expected = model.get(at as usize..).unwrap_or_default();
            let expected = &expected[..expected.len().min(len as usize)];
            assert_eq!(read, expected.len(), "read at {at} of {size}");
            assert!(bytes[..read] == *expected, "bytes at {at}..+{read}");
        }
        70..78 => {
            room.mapped.zero_range(at, len).await.unwrap();
            let end = (at + len).min(size).max(at) as usize;
            if at < size {
                model[at as usize..end].fill(0);
            }
        }
        78..84 => {
            let from = random.below(SIZE_MAX / BLOCK);
            let to = from + 1 + random.below(40);
            let range = FileBlocks::new(from, to);
            room.mapped.write_back(range).await.unwrap();
        }
        84..90 => {
            room.evict();
        }
        _ => return false,
    }
    true
}

#[test]
fn over_the_identity_provider() {
    block_on(async {
        let room = identity_room(0);
        for block in 0..SIZE_MAX / BLOCK + 3 {
            room.transport.scribble(block, 0xdd);
        }
        let mut random = Random::new(1);
        let mut model = Vec::new();
        for _ in 0..20_000 {
            let roll = random.below(100);
            if step(&room, &mut random, &mut model, roll).await {
                continue;
            }
            let old = model.len() as u64;
            let new = some_offset(&mut random, old);
            let held = room.lock_from(new.min(old)).await;
            if new > old {
                room.mapped.grow(&held, new).await.unwrap();
            } else {
                let provider = Arc::clone(&room.provider);
                let shrink = move || provider.shrink(new);
                let end = room.mapped.hold_end(&held, new).await.unwrap();
                shrink();
                room.mapped.cut(&held, end).await.unwrap();
            }
            model.resize(new as usize, 0);
        }
        assert!(room.content().await == model);
        room.settle().await;
        room.evict();
        assert!(room.content().await == model);
        room.expect_unlocked();
    });
}

#[test]
fn over_extents_that_move() {
    for seed in 0..2 {
        block_on(async {
            let room = mock_room();
            let mut random = Random::new(seed);
            let mut model: Vec<u8> = Vec::new();
            for turn in 0..12_000 {
                let roll = random.below(100);
                if roll == 99 {
                    let longest = 1 + random.below(12);
                    room.provider.script(|s| {
                        s.longest_answer = longest;
                        s.longest_placement = longest;
                        s.stale_answers = longest % 4;
                        s.yields = longest.is_multiple_of(2);
                    });
                } else if !step(&room, &mut random, &mut model, roll).await {
                    let new = some_offset(&mut random, model.len() as u64);
                    room.truncate(new).await;
                    model.resize(new as usize, 0);
                }
                if turn % 50 == 0 {
                    room.expect_balance();
                    assert!(room.provider.durable_size() <= model.len() as u64);
                }
            }
            assert!(room.content().await == model);
            room.settle().await;
            room.evict();
            assert!(room.content().await == model);
            room.expect_balance();
            assert_eq!(room.provider.durable_size(), model.len() as u64);
            assert!(room.provider.counts().stale > 100, "stale answers were given");
        });
    }
}

/// Tasks own interleaved bytes of the same folios and rewrite them; nobody's bytes may be lost.
#[test]
fn writers_of_different_bytes_of_one_folio_all_survive() {
    const WRITERS: u64 = 3;
    const STRIDE: u64 = 1500;
    const PLACES: u64 = 60;
    for seed in 0..4 {
        block_on(async {
            let room = Arc::new(mock_room());
            room.yield_everywhere();
            let mut tasks = tokio::task::JoinSet::new();
            for writer in 0..WRITERS {
                let room = Arc::clone(&room);
                tasks.spawn(async move {
                    let mut random = Random::new(100 * seed + writer);
                    let mut last = vec![0_u8; PLACES as usize];
                    for _ in 0..400 {
                        let place = random.below(PLACES);
                        let byte = 1 + random.below(255) as u8;
                        let at = (place * WRITERS + writer) * STRIDE;
                        let bytes = vec![byte; STRIDE as usize];
                        room.mapped.write_at(at, &bytes).await.unwrap();
                        last[place as usize] = byte;
                        let mut back = vec![0; STRIDE as usize];
                        room.mapped.read_at(at, &mut back).await.unwrap();
                        assert!(back == bytes, "a writer does not see its own bytes");
                    }
                    (writer, last)
                });
            }
            let helper = Arc::clone(&room);
            let mut beside = tokio::task::JoinSet::new();
            beside.spawn(async move {
                loop {
                    let all = FileBlocks::new(0, u64::MAX);
                    helper.mapped.write_back(all).await.unwrap();
                    helper.evict();
                    tokio::task::yield_now().await;
                }
            });
            let mut lasts = Vec::new();
            while let Some(done) = tasks.join_next().await {
                lasts.push(done.unwrap());
            }
            // Stopped between batches, as the flusher is.
            let batch = room.mapped.hold_writeback().await;
            beside.abort_all();
            while beside.join_next().await.is_some() {}
            drop(batch);
            for (writer, last) in lasts {
                for (place, &byte) in last.iter().enumerate() {
                    let at = (place as u64 * WRITERS + writer) * STRIDE;
                    let mut back = vec![0; STRIDE as usize];
                    let read = room.mapped.read_at(at, &mut back).await.unwrap();
                    assert!(back[..read].iter().all(|&b| b == byte), "bytes at {at}");
                }
            }
            room.settle().await;
            room.expect_balance();
        });
    }
}
