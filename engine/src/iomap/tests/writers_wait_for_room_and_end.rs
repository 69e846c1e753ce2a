//! Writers at the limit of what may be dirty: each wait ends as soon as writeback made room, also when
//! the write has to zero behind the old end first. The clock stands still, so a wait that runs into
//! its deadline costs no time and is an error.

use std::sync::Arc;

use crate::iomap::contract::MappingProvider;
use crate::iomap::mock::MockProvider;
use crate::iomap::pause::Canary;
use crate::iomap::testkit::Room;
use crate::iomap::testkit::block_on;
use crate::iomap::testkit::tight_room;
use crate::units::BLOCK;
use crate::units::FileBlocks;

const ALL: FileBlocks = FileBlocks { start: 0, end: u64::MAX };
/// Blocks that may be dirty.
const LIMIT: u64 = 6;

/// An object of 1000 bytes of 1 on the device, with garbage behind its end, and a flusher.
async fn polluted() -> (Arc<Room<MockProvider>>, tokio::task::JoinHandle<()>) {
    let room = tight_room(LIMIT);
    room.provider.script(|s| s.checksums = false);
    let at = room.provider.place(0, false);
    room.transport.scribble(at, 1);
    room.transport.scribble_from(at, 1000, 0xdd);
    room.provider.set_size(1000);
    room.provider.set_durable_size(1000);
    let room = Arc::new(room);
    let flushed = Arc::clone(&room);
    let flusher = tokio::spawn(async move {
        loop {
            flushed.mapped.dirty.flusher().notified().await;
            flushed.mapped.write_back(ALL).await.unwrap();
        }
    });
    (room, flusher)
}

/// The story: a write kept its share of the dirty room while it asked for another one, for the zeroes
/// behind the old end. At the limit it waited for itself, a minute long.
#[test]
fn a_write_over_the_old_end_does_not_wait_for_its_own_share() {
    for broken in [false, true] {
        block_on(async {
            let (room, flusher) = polluted().await;
            if broken {
                room.mapped.pauses().break_on_purpose(Canary::WaitForZeroes);
            }
            let bytes = vec![2; (LIMIT * BLOCK) as usize];
            let before = tokio::time::Instant::now();
            let mapped = Arc::clone(&room.mapped);
            let write = tokio::spawn(async move { mapped.write_at(10 * BLOCK, &bytes).await });
            let outcome = write.await;
            let waited = before.elapsed();
            flusher.abort();
            if broken {
                // In debug builds the watch over the order of locks ends it before the deadline does.
                assert!(!matches!(outcome, Ok(Ok(()))), "the canary survived");
                return;
            }
            outcome.unwrap().unwrap();
            assert!(waited.is_zero(), "waited {waited:?}");
            let content = room.content().await;
            let start = 10 * BLOCK as usize;
            assert!(content[..1000].iter().all(|&b| b == 1));
            assert!(content[1000..start].iter().all(|&b| b == 0));
            assert!(content[start..].iter().all(|&b| b == 2));
            room.expect_balance();
        });
    }
}

/// Writers wait for their range with a share in hand: who holds the range must not wait for one.
#[test]
fn who_waits_for_a_range_keeps_nobody_from_zeroing() {
    for broken in [false, true] {
        block_on(async {
            let (room, flusher) = polluted().await;
            if broken {
                room.mapped.pauses().break_on_purpose(Canary::WaitForZeroes);
            }
            let held = room.lock_from(0).await;
            let mut writers = tokio::task::JoinSet::new();
            for n in 0..LIMIT {
                let mapped = Arc::clone(&room.mapped);
                writers.spawn(async move { mapped.write_at((20 + n) * BLOCK, &[3; 50]).await });
            }
            for _ in 0..20 {
                tokio::task::yield_now().await;
            }
            assert_eq!(room.mapped.ranges().counts().1, LIMIT as usize, "all wait for the range");
            let before = tokio::time::Instant::now();
            let outcome = room.mapped.grow(&held, 9 * BLOCK).await;
            assert_eq!(outcome.is_err(), broken, "the canary survived, or not: {outcome:?}");
            assert!(broken || before.elapsed().is_zero());
            drop(held);
            while let Some(done) = writers.join_next().await {
                assert!(broken || done.unwrap().is_ok());
            }
            flusher.abort();
            if broken {
                return;
            }
            assert_eq!(room.provider.size(), (19 + LIMIT) * BLOCK + 50);
            room.settle().await;
            room.expect_balance();
        });
    }
}
