//! Writeback that starts at the very moment at which a write changes the size: nothing is cut off, the
//! durable size is never ahead, and no byte behind the size leaves for the device.

use std::sync::Arc;

use crate::iomap::contract::MappingProvider;
use crate::iomap::mock::MockProvider;
use crate::iomap::pause::Canary;
use crate::iomap::pause::Point;
use crate::iomap::testkit::Room;
use crate::iomap::testkit::block_on;
use crate::iomap::testkit::poll_times;
use crate::iomap::testkit::small_room;
use crate::units::BLOCK;
use crate::units::FileBlocks;

const ALL: FileBlocks = FileBlocks { start: 0, end: u64::MAX };

/// A room in which writeback runs whenever a folio of a write has its bytes and not yet its size.
fn eager() -> Arc<Room<MockProvider>> {
    let room = Arc::new(small_room());
    let inside = Arc::downgrade(&room);
    room.mapped.pauses().on(Point::BetweenCopyAndAttach, move || {
        let room = inside.upgrade().unwrap();
        let mut writeback = Box::pin(room.mapped.write_back_batch(ALL));
        poll_times(&mut writeback, 3);
        drop(writeback);
        assert!(room.provider.durable_size() <= room.provider.size());
        for block in 0..room.provider.durable_size().div_ceil(BLOCK) {
            let keep = (room.provider.durable_size() - block * BLOCK).min(BLOCK) as usize;
            let at = room.provider.stored(block).expect("durable but nowhere").at;
            assert!(room.transport.peek(at)[..keep].iter().all(|&b| b == 1), "a cut tail");
        }
    });
    room
}

/// Appends of many sizes, so that folios of many sizes straddle the old end.
async fn appends(room: &Room<MockProvider>) -> u64 {
    let mut end = 0;
    for turn in 0..60_u64 {
        let len = [100, 5000, 70_000, 4096, 1, 200_000][turn as usize % 6] + turn;
        room.mapped.write_at(end, &vec![1; len as usize]).await.unwrap();
        end += len;
        if turn % 7 == 0 {
            room.settle().await;
            room.evict();
        }
    }
    end
}

/// The story: a write over several folios unlocked the first ones before it published the size. A
/// writeback in between found bytes behind the end, which must never leave, and stopped the program.
#[test]
fn a_writeback_between_two_folios_of_a_growing_write_finds_nothing_behind_the_end() {
    block_on(async {
        let room = eager();
        let end = appends(&room).await;
        let hits = room.mapped.pauses().hits(Point::BetweenCopyAndAttach);
        let under_way = room.mapped.counts().totals().blocks_written;
        assert_eq!(room.provider.size(), end);
        room.settle().await;
        room.evict();
        assert!(room.content().await.iter().all(|&b| b == 1));
        assert_eq!(room.provider.durable_size(), end);
        println!("race: writeback came {hits} times and took {under_way} blocks");
        assert!(hits > 100 && under_way > 100);
        room.expect_balance();
    });
}

#[test]
fn with_the_size_published_at_the_end_of_the_write_it_does() {
    if !cfg!(debug_assertions) {
        return;
    }
    let run = || {
        block_on(async {
            let room = eager();
            room.mapped.pauses().break_on_purpose(Canary::PublishLate);
            appends(&room).await
        })
    };
    assert!(std::panic::catch_unwind(run).is_err(), "the canary survived");
}
