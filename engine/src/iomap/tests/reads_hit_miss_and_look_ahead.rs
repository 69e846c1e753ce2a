//! Hits ask nobody, misses verify, read-ahead serves streams and nobody else.

use std::future::Future;
use std::pin::pin;
use std::task::Context;
use std::task::Poll;
use std::task::Waker;

use foliant_device::Segment;
use futures_util::future::join_all;

use crate::error::ErrorKind;
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
use crate::limits::LANDING_WAIT;
use crate::limits::SHARED_READ_BYTES_MAX;
use crate::units::BLOCK;
use crate::units::FileBlocks;

const BLOCKS: u64 = 1000;

fn joined(pieces: &[Segment]) -> Vec<u8> {
    pieces.iter().flat_map(|piece| piece.to_vec()).collect()
}

/// An object of [`BLOCKS`] blocks on the device, nothing cached.
async fn stored() -> Room<MockProvider> {
    let room = mock_room();
    for block in 0..BLOCKS {
        let bytes = vec![block as u8; BLOCK as usize];
        room.mapped.write_at(block * BLOCK, &bytes).await.unwrap();
    }
    room.settle().await;
    room.evict();
    room
}

#[test]
fn a_hit_completes_on_first_poll_and_asks_nobody() {
    block_on(async {
        let room = stored().await;
        let mut bytes = vec![0; 10_000];
        room.mapped.read_at(500, &mut bytes).await.unwrap();
        room.yield_everywhere();
        let asked = room.provider.counts();
        // Even with every range locked: a hit takes no range lock.
        let _held = room.lock_from(0).await;
        let mut future = pin!(room.mapped.read_at(500, &mut bytes));
        let polled = future.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        assert!(matches!(polled, Poll::Ready(Ok(10_000))));
        assert_eq!(room.provider.counts(), asked);
    });
}

/// A reader who began and is polled no more keeps his claim: another one waited for that for ever.
#[test]
fn a_claim_that_is_kept_holds_nobody_up_for_ever() {
    block_on(async {
        let room = stored().await;
        let _claim = room.mapped.flights.start(FileBlocks::new(3, 9));
        let mut bytes = vec![0; BLOCK as usize];
        let began = tokio::time::Instant::now();
        assert_eq!(room.mapped.read_at(5 * BLOCK, &mut bytes).await.unwrap(), bytes.len());
        assert!(bytes.iter().all(|&b| b == 5));
        assert!(began.elapsed() >= LANDING_WAIT && began.elapsed() < 2 * LANDING_WAIT);
    });
}

#[test]
fn a_stream_needs_few_device_reads_and_they_grow() {
    block_on(async {
        let room = stored().await;
        let mut bytes = vec![0; BLOCK as usize];
        for block in 0..BLOCKS {
            room.mapped.read_at(block * BLOCK, &mut bytes).await.unwrap();
            assert!(bytes.iter().all(|&b| b == block as u8));
        }
        let reads = room.transport.with(|t| t.reads.clone());
        let longest = reads.iter().map(|&(_, count)| count).max();
        assert!(reads.len() < 20, "{} reads", reads.len());
        assert!(longest >= Some(256), "{longest:?}");
        let total: u64 = reads.iter().map(|&(_, count)| count).sum();
        assert_eq!(total, BLOCKS, "every block is read once");
        assert!(room.mapped.counts().totals().blocks_read_ahead > BLOCKS / 2);
    });
}

/// A client with a deep queue asks for a stream in many pieces at once. The first one that reached a flight took
/// it, and the others read its blocks once more: 1.7 times as much as there is.
#[test]
fn a_stream_of_many_requests_at_once_reads_every_block_once() {
    block_on(async {
        const AT_ONCE: u64 = 8;
        const PIECE: u64 = 5;
        for shared in [false, true] {
            let room = stored().await;
            room.yield_everywhere();
            for first in (0..BLOCKS).step_by((AT_ONCE * PIECE) as usize) {
                let reads = (0..AT_ONCE).map(|number| {
                    let (room, block) = (&room, first + number * PIECE);
                    async move {
                        let range = block * BLOCK..(block + PIECE) * BLOCK;
                        let bytes = if shared {
                            let reader = &room.mapped.ahead;
                            joined(&room.mapped.read_pieces(reader, range).await.unwrap().unwrap())
                        } else {
                            let mut bytes = vec![0; (PIECE * BLOCK) as usize];
                            room.mapped.read_at(range.start, &mut bytes).await.unwrap();
                            bytes
                        };
                        for (at, bytes) in (block..).zip(bytes.chunks(BLOCK as usize)) {
                            assert!(bytes.iter().all(|&byte| byte == at as u8), "block {at}");
                        }
                    }
                });
                join_all(reads).await;
            }
            let reads = room.transport.with(|t| t.reads.clone());
            let total: u64 = reads.iter().map(|&(_, count)| count).sum();
            assert_eq!(total, BLOCKS, "every block is read once");
            assert!(room.mapped.counts().totals().blocks_read_ahead > BLOCKS / 2);
            room.expect_unlocked();
        }
    });
}

#[test]
fn pieces_are_the_bytes_of_the_range_in_the_memory_of_the_cache() {
    block_on(async {
        let room = stored().await;
        let reader = &room.mapped.ahead;
        let mut model: Vec<u8> =
            (0..BLOCKS).flat_map(|block| vec![block as u8; BLOCK as usize]).collect();
        let mut random = Random::new(17);
        for round in 0..200 {
            let len = 1 + random.below(60 * BLOCK);
            let start = random.below(BLOCKS * BLOCK - len);
            let (from, to) = (start as usize, (start + len) as usize);
            if round % 3 == 0 {
                let bytes = random.bytes(len as usize);
                room.mapped.write_at(start, &bytes).await.unwrap();
                model[from..to].copy_from_slice(&bytes);
            }
            let pieces =
                room.mapped.read_pieces(reader, start..start + len).await.unwrap().unwrap();
            assert!(joined(&pieces) == model[from..to], "bytes {start} and {len} more");
            // A second look finds the same memory.
            let again = room.mapped.read_pieces(reader, start..start + len).await.unwrap().unwrap();
            let places = |pieces: &[Segment]| pieces.iter().map(|p| p.as_ptr()).collect::<Vec<_>>();
            assert_eq!(places(&pieces), places(&again));
        }
        // Short at the end, nothing behind it, and refused where a read is.
        let end = BLOCKS * BLOCK;
        let last = room.mapped.read_pieces(reader, end - 3..end + 9).await.unwrap().unwrap();
        assert_eq!(joined(&last), model[model.len() - 3..]);
        assert!(room.mapped.read_pieces(reader, end..end + 9).await.unwrap().unwrap().is_empty());
        let wrong = room.mapped.read_pieces(reader, 0..SHARED_READ_BYTES_MAX + 1).await;
        assert_eq!(wrong.unwrap_err().kind(), ErrorKind::InvalidInput);
        // What is kept stays as it is, whatever is written.
        let kept = room.mapped.read_pieces(reader, 0..3 * BLOCK).await.unwrap().unwrap();
        room.mapped.write_at(0, &[0xee; 2 * BLOCK as usize]).await.unwrap();
        assert!(joined(&kept) == model[..3 * BLOCK as usize]);
        room.expect_unlocked();
    });
}

#[test]
fn random_reads_fetch_what_they_asked_for() {
    block_on(async {
        let room = stored().await;
        let mut random = Random::new(5);
        let mut bytes = vec![0; 100];
        for _ in 0..300 {
            let block = 3 * random.below(BLOCKS / 3);
            room.mapped.read_at(block * BLOCK + 7, &mut bytes).await.unwrap();
        }
        assert_eq!(room.mapped.counts().totals().blocks_read_ahead, 0);
        let reads = room.transport.with(|t| t.reads.clone());
        assert!(reads.iter().all(|&(_, count)| count == 1));
    });
}

#[test]
fn a_damaged_block_is_named_and_its_neighbours_are_served() {
    block_on(async {
        let room = stored().await;
        let at = room.provider.stored(5).unwrap().at;
        room.transport.scribble(at, 0xbd);
        let mut bytes = vec![0; BLOCK as usize];
        for block in [3, 4] {
            room.mapped.read_at(block * BLOCK, &mut bytes).await.unwrap();
            assert!(bytes.iter().all(|&b| b == block as u8));
        }
        let error = room.mapped.read_at(5 * BLOCK, &mut bytes).await.unwrap_err();
        assert!(error.is_corruption());
        assert!(error.to_string().contains(&format!("block {at}")), "{error}");
        room.mapped.read_at(6 * BLOCK, &mut bytes).await.unwrap();
        assert!(bytes.iter().all(|&b| b == 6));
        // A whole overwrite needs no sound old content; a partial one does.
        assert!(room.mapped.write_at(5 * BLOCK + 1, &[1]).await.is_err());
        room.mapped.write_at(5 * BLOCK, &[8; BLOCK as usize]).await.unwrap();
        room.expect_balance();
    });
}

#[test]
fn an_unverified_read_returns_the_damage() {
    block_on(async {
        let room = stored().await;
        room.mapped.pauses().break_on_purpose(Canary::TrustDevice);
        let at = room.provider.stored(5).unwrap().at;
        room.transport.scribble(at, 0xbd);
        let mut bytes = vec![0; BLOCK as usize];
        let read = room.mapped.read_at(5 * BLOCK, &mut bytes).await;
        assert!(read.is_ok() && bytes[0] == 0xbd, "the canary survived");
    });
}

#[test]
fn an_unreadable_block_ahead_does_not_fail_who_did_not_ask_for_it() {
    block_on(async {
        let room = stored().await;
        let at = room.provider.stored(6).unwrap().at;
        room.transport.with(|t| t.bad_reads.insert(at));
        let mut bytes = vec![0; BLOCK as usize];
        for block in 0..6 {
            room.mapped.read_at(block * BLOCK, &mut bytes).await.unwrap();
            assert!(bytes.iter().all(|&b| b == block as u8));
        }
        let error = room.mapped.read_at(6 * BLOCK, &mut bytes).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Device);
        room.expect_balance();
    });
}

#[test]
fn many_readers_of_one_block_read_it_once() {
    block_on(async {
        let room = stored().await;
        room.yield_everywhere();
        let reads = (0..10).map(|_| async {
            let mut bytes = vec![0; BLOCK as usize];
            room.mapped.read_at(9 * BLOCK, &mut bytes).await.unwrap();
            assert!(bytes.iter().all(|&b| b == 9));
        });
        join_all(reads).await;
        assert_eq!(room.transport.with(|t| t.reads.len()), 1);
    });
}

#[test]
fn reads_end_at_the_size_and_refuse_absurd_ranges() {
    block_on(async {
        let room = mock_room();
        room.mapped.write_at(0, &[3; 5000]).await.unwrap();
        let mut bytes = vec![0; 8192];
        assert_eq!(room.mapped.read_at(0, &mut bytes).await.unwrap(), 5000);
        assert_eq!(room.mapped.read_at(4999, &mut bytes).await.unwrap(), 1);
        assert_eq!(room.mapped.read_at(5000, &mut bytes).await.unwrap(), 0);
        assert_eq!(room.mapped.read_at(1 << 50, &mut bytes).await.unwrap(), 0);
        assert_eq!(room.mapped.read_at(10, &mut []).await.unwrap(), 0);
        for offset in [u64::MAX, i64::MAX as u64 - 10] {
            let error = room.mapped.read_at(offset, &mut bytes).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidInput);
            let error = room.mapped.write_at(offset, &bytes).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidInput);
        }
        assert_eq!(room.provider.size(), 5000);
    });
}

#[test]
fn a_read_that_overlaps_a_truncate_ends_at_the_new_size() {
    block_on(async {
        let room = stored().await;
        let hold = room.mapped.pauses().hold(Point::AfterFolioLock);
        let mapped = std::sync::Arc::clone(&room.mapped);
        let reader = tokio::spawn(async move {
            let mut bytes = vec![0; 3 * BLOCK as usize];
            mapped.read_at(2 * BLOCK, &mut bytes).await
        });
        hold.reached().await;
        room.provider.set_size(2 * BLOCK + 5);
        drop(hold);
        assert_eq!(reader.await.unwrap().unwrap(), 5);
    });
}

/// A read that was dropped took the memory of a large folio along. Who came next waited for a piece as
/// large, which memory in small pieces never gave, and failed with single blocks free.
#[test]
fn a_dropped_read_of_a_large_folio_does_not_need_a_large_piece_again() {
    block_on(async {
        let room = stored().await;
        room.yield_everywhere();
        let mut bytes = vec![0; 256 * BLOCK as usize];
        {
            let mut read = Box::pin(room.mapped.read_at(0, &mut bytes));
            let mut polls = 0;
            while room.transport.with(|t| t.reads.is_empty()) {
                assert!(poll_times(&mut read, 1).is_none(), "it ended before it was dropped");
                polls += 1;
                assert!(polls < 1000, "the read never began");
            }
        }
        let memory = room.mapped.memory.clone();
        // Every other block is taken, so that no two free ones lie side by side.
        let taken = std::iter::from_fn(|| memory.try_allocate(0, Purpose::Reserved));
        let taken: Vec<_> = taken.collect();
        let mut kept: Vec<_> = taken.into_iter().map(Some).collect();
        kept.iter_mut().step_by(2).for_each(|buffer| drop(buffer.take()));
        let mut one = vec![0; BLOCK as usize];
        room.mapped.read_at(7 * BLOCK, &mut one).await.unwrap();
        assert!(one.iter().all(|&b| b == 7));
        drop(kept);
        room.expect_balance();
    });
}
