//! The end-of-object rule, with stale bytes put behind the end first: on the device in the block
//! of the old end and in the blocks after it. Around every edge of sector, block and folio.

use crate::iomap::contract::MappingProvider;
use crate::iomap::mock::MockProvider;
use crate::iomap::pause::Canary;
use crate::iomap::testkit::Room;
use crate::iomap::testkit::block_on;
use crate::iomap::testkit::mock_room;
use crate::units::BLOCK;

/// How the object grows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Growth {
    Write,
    Truncate,
}

/// What of the old object is in the cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cached {
    Nothing,
    Clean,
    Dirty,
}

/// Edges of sector, block and folio, and their neighbours.
fn points() -> Vec<u64> {
    let edges = [512, 1024, 4096, 8192, 16_384, 65_536];
    let mut points = vec![0, 1];
    points.extend(edges.iter().flat_map(|&e| [e - 1, e, e + 1]));
    points
}

/// An object of `old` bytes of 1, with garbage on the device behind its end.
async fn polluted(old: u64, cached: Cached) -> Room<MockProvider> {
    let room = mock_room();
    room.provider.script(|s| s.checksums = false);
    for block in 0..20 {
        let at = room.provider.place(block, false);
        room.transport.scribble(at, 1);
    }
    room.provider.set_size(old);
    room.provider.set_durable_size(old);
    let keep = old as usize % BLOCK as usize;
    for block in old / BLOCK..20 {
        let at = room.provider.stored(block).unwrap().at;
        let from = if block == old / BLOCK { keep } else { 0 };
        room.transport.scribble_from(at, from, 0xdd);
    }
    match cached {
        Cached::Nothing => {}
        Cached::Clean => drop(room.content().await),
        Cached::Dirty => {
            if old > 0 {
                room.mapped.write_at(old - 1, &[1]).await.unwrap();
            }
        }
    }
    room
}

/// The object after it grew from `old` by `growth`, in the cache and after eviction; `None` if
/// all is as it should be.
async fn wrong_after(room: &Room<MockProvider>, old: u64, new: u64, growth: Growth) -> Option<u64> {
    let mut expected = vec![1; old as usize];
    expected.resize(new as usize, 0);
    match growth {
        Growth::Write => {
            room.mapped.write_at(new - 1, &[5]).await.unwrap();
            expected[new as usize - 1] = 5;
        }
        Growth::Truncate => room.truncate(new).await,
    }
    assert_eq!(room.provider.size(), new);
    for turn in 0..3 {
        let content = room.content().await;
        assert_eq!(content.len(), expected.len());
        let wrong = (0..new).find(|&at| content[at as usize] != expected[at as usize]);
        if wrong.is_some() {
            return wrong;
        }
        if turn == 1 {
            room.settle().await;
        }
        room.evict();
    }
    None
}

#[test]
fn by_write_and_truncate_at_every_edge() {
    block_on(async {
        let points = points();
        for growth in [Growth::Write, Growth::Truncate] {
            for cached in [Cached::Nothing, Cached::Clean, Cached::Dirty] {
                for &old in &points {
                    for &new in points.iter().filter(|&&new| new > old) {
                        let room = polluted(old, cached).await;
                        let wrong = wrong_after(&room, old, new, growth).await;
                        assert_eq!(wrong, None, "{growth:?} {cached:?} from {old} to {new}");
                        room.expect_balance();
                    }
                }
            }
        }
    });
}

#[test]
fn with_the_old_end_left_alone_garbage_is_seen() {
    block_on(async {
        let room = polluted(1000, Cached::Nothing).await;
        room.mapped.pauses().break_on_purpose(Canary::LeaveOldEnd);
        let wrong = wrong_after(&room, 1000, 9000, Growth::Write).await;
        assert_eq!(wrong, Some(1000), "the canary survived");
    });
}

#[test]
fn what_was_cut_off_does_not_come_back() {
    block_on(async {
        let points = points();
        for &cut in &points {
            for settled in [false, true] {
                let room = mock_room();
                room.mapped.write_at(0, &[7; 70_000]).await.unwrap();
                if settled {
                    room.settle().await;
                    room.evict();
                }
                room.truncate(cut).await;
                room.expect_balance();
                let mut expected = vec![7; cut as usize];
                assert!(room.content().await == expected, "cut to {cut}");
                room.truncate(80_000).await;
                expected.resize(80_000, 0);
                assert!(room.content().await == expected, "cut to {cut} and grown");
                room.settle().await;
                room.evict();
                assert!(room.content().await == expected, "cut to {cut}, grown, evicted");
                room.expect_balance();
            }
        }
    });
}

#[test]
fn growth_over_a_hole_costs_nothing() {
    block_on(async {
        let room = mock_room();
        room.truncate(1 << 40).await;
        room.mapped.write_at((1 << 41) - 1, &[1]).await.unwrap();
        assert_eq!(room.unsettled(), 1);
        room.truncate(5).await;
        room.expect_balance();
        assert_eq!(room.unsettled(), 0);
    });
}
