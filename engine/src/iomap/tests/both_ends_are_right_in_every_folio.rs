//! The folio that holds the old end and the folio that is written are not always the same: a table over
//! folio sizes, and over old ends and starts one byte around every edge, against plain bytes.
//! Stale bytes lie behind the old end on the device first.

use crate::iomap::contract::MappingProvider;
use crate::iomap::mock::MockProvider;
use crate::iomap::pause::Canary;
use crate::iomap::testkit::Room;
use crate::iomap::testkit::block_on;
use crate::iomap::testkit::small_room;
use crate::units::BLOCK;
use crate::units::FileBlocks;

/// Folios of 4 KiB to 64 KiB, and one of 256 KiB.
const ORDERS: [u8; 6] = [0, 1, 2, 3, 4, 6];

/// One byte around each edge of sector, block and folio.
fn points(order: u8) -> Vec<u64> {
    let folio = BLOCK << order;
    let mut edges = vec![512, 1024, BLOCK, folio - 512, folio, folio + 512, folio + BLOCK];
    edges.extend([2 * folio]);
    edges.sort_unstable();
    edges.dedup();
    let mut points: Vec<u64> = edges.iter().flat_map(|&e| [e - 1, e, e + 1]).collect();
    points.dedup();
    points
}

/// `old` bytes of 1, garbage behind them on the device, and empty folios of the order over all of it.
async fn polluted(old: u64, order: u8, cached: bool) -> Room<MockProvider> {
    let room = small_room();
    room.provider.script(|s| s.checksums = false);
    let blocks = (2 << order) + 2;
    for block in 0..blocks {
        let at = room.provider.place(block, false);
        room.transport.scribble(at, if block < old.div_ceil(BLOCK) { 1 } else { 0xdd });
        if block == old / BLOCK {
            room.transport.scribble_from(at, (old % BLOCK) as usize, 0xdd);
        }
    }
    room.provider.set_size(old);
    room.provider.set_durable_size(old);
    for head in (0..blocks).step_by(1 << order) {
        let cache = room.mapped.cache();
        let (lock, made) = cache.find_or_create(head, order, &room.mapped.memory).await.unwrap();
        assert!(made && lock.folio().order() == order);
    }
    if cached {
        room.mapped.read_at(old - 1, &mut [0]).await.unwrap();
    }
    room
}

/// Writes `len` bytes at `start`; the first wrong byte: now, after eviction, and from the device.
async fn wrong(room: &Room<MockProvider>, old: u64, start: u64, len: u64) -> Option<u64> {
    room.mapped.write_at(start, &vec![5; len as usize]).await.unwrap();
    let end = old.max(start + len);
    assert_eq!(room.provider.size(), end);
    let expected = |at: u64| match at {
        at if start <= at && at < start + len => 5,
        at if at < old => 1,
        _ => 0,
    };
    for turn in 0..3 {
        let content = room.content().await;
        let found = (0..end).find(|&at| content[at as usize] != expected(at));
        if found.is_some() {
            return found;
        }
        if turn == 1 {
            room.settle().await;
        }
        room.evict();
    }
    None
}

fn same_folio(old: u64, start: u64, order: u8) -> bool {
    (old - 1) / (BLOCK << order) == start / (BLOCK << order)
}

#[test]
fn old_end_and_start_around_every_edge() {
    let (mut same, mut other) = (0, 0);
    for order in ORDERS {
        let points = points(order);
        for &old in &points {
            for &start in points.iter().filter(|&&start| start >= old) {
                let (cached, len) = ((old + start) % 2 == 0, if start % 3 == 0 { 700 } else { 1 });
                block_on(async {
                    let room = polluted(old, order, cached).await;
                    let wrong = wrong(&room, old, start, len).await;
                    assert_eq!(wrong, None, "order {order}, old end {old}, start {start}");
                    room.expect_balance();
                });
                *(if same_folio(old, start, order) { &mut same } else { &mut other }) += 1;
            }
        }
    }
    println!("race: {same} times the old end was in the written folio, {other} times elsewhere");
    assert!(same > 100 && other > 100);
}

#[test]
fn with_the_old_end_left_alone_every_size_of_folio_shows_garbage() {
    for order in ORDERS {
        let (old, start) = (1000, (BLOCK << order) + 5);
        let wrong = block_on(async {
            let room = polluted(old, order, false).await;
            room.mapped.pauses().break_on_purpose(Canary::LeaveOldEnd);
            wrong(&room, old, start, 1).await
        });
        assert_eq!(wrong, Some(old), "order {order}: the canary survived");
    }
}

/// The write's own folios take care of their edges: what is garbage on the device is not read back.
#[test]
fn an_unwritten_tail_of_the_written_block_is_zero() {
    block_on(async {
        for order in ORDERS {
            let room = polluted(1, order, true).await;
            room.mapped.write_at(0, &[5; 10]).await.unwrap();
            room.truncate(BLOCK << order).await;
            let content = room.content().await;
            assert!(content[..10].iter().all(|&b| b == 5) && content[10..].iter().all(|&b| b == 0));
            room.mapped.write_back(FileBlocks::new(0, 1)).await.unwrap();
            room.expect_balance();
        }
    });
}
