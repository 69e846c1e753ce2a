//! Every operation is polled n times and dropped, for every n until it completes: nothing is
//! locked, leaked or promised afterwards, and each piece of a write is there whole or not at all.

use std::future::Future;
use std::pin::Pin;

use crate::error::ErrorKind;
use crate::error::Result;
use crate::iomap::mock::MockProvider;
use crate::iomap::testkit::Room;
use crate::iomap::testkit::block_on;
use crate::iomap::testkit::mock_room;
use crate::iomap::testkit::poll_times;
use crate::limits::WRITE_PIECE_BLOCKS;
use crate::units::BLOCK;
use crate::units::FileBlocks;

const OLD: usize = 300 * BLOCK as usize - 77;

/// An object with old bytes, some on the device, some dirty, with a hole and short mappings.
async fn prepared() -> Room<MockProvider> {
    let room = mock_room();
    room.provider.script(|s| s.longest_answer = 60);
    room.mapped.write_at(0, &vec![1; OLD]).await.unwrap();
    room.settle().await;
    room.provider.unmap(FileBlocks::new(20, 24));
    room.evict();
    room.mapped.write_at(100 * BLOCK, &vec![1; 3 * BLOCK as usize]).await.unwrap();
    room.mapped.write_at(20 * BLOCK, &vec![1; 4 * BLOCK as usize]).await.unwrap();
    room.yield_everywhere();
    room
}

type Operation =
    for<'a> fn(&'a Room<MockProvider>) -> Pin<Box<dyn Future<Output = Result<()>> + 'a>>;

/// Drops `operation` after each number of polls; `check` looks at what is left.
fn drop_at_every_await(
    operation: Operation,
    check: impl Fn(&Room<MockProvider>, Vec<u8>),
) -> usize {
    for polls in 0.. {
        let finished = block_on(async {
            let room = prepared().await;
            let mut future = operation(&room);
            let output = poll_times(&mut future, polls);
            drop(future);
            room.expect_balance();
            room.transport.with(|t| t.yields = false);
            check(&room, room.content().await);
            room.settle().await;
            room.evict();
            check(&room, room.content().await);
            room.expect_balance();
            output
        });
        if let Some(output) = finished {
            output.unwrap();
            return polls;
        }
    }
    unreachable!("an operation ends")
}

/// `content` is old, except that each piece of `start..end` is all `new` or not at all.
fn expect_whole_pieces(content: &[u8], start: usize, end: usize, new: u8) {
    assert!(content[..start].iter().all(|&b| b == 1));
    let tail = &content[end.min(content.len())..];
    assert!(tail.iter().all(|&b| b == 1));
    let piece = (WRITE_PIECE_BLOCKS * BLOCK) as usize;
    let mut at = start;
    while at < end.min(content.len()) {
        let to = end.min((at / piece + 1) * piece);
        let part = &content[at..to.min(content.len())];
        let wanted = part[0];
        assert!(wanted == 1 || wanted == new, "byte {wanted} at {at}");
        assert!(part.iter().all(|&b| b == wanted), "the piece at {at} is torn");
        if wanted == new {
            assert_eq!(to.min(content.len()), to, "a piece ends at the size");
        }
        at = to;
    }
}

#[test]
fn an_overwrite_of_two_pieces() {
    const START: usize = 250 * BLOCK as usize + 5;
    const END: usize = 270 * BLOCK as usize + 9;
    let polls = drop_at_every_await(
        |room| Box::pin(room.mapped.write_at(START as u64, &[2; END - START])),
        |_, content| expect_whole_pieces(&content, START, END, 2),
    );
    assert!(polls > 3, "the operation gave way {polls} times");
}

#[test]
fn a_write_that_grows_the_object() {
    const END: usize = OLD + 20_000;
    let polls = drop_at_every_await(
        |room| Box::pin(room.mapped.write_at(OLD as u64 - 50, &[2; 20_050])),
        |_, content| {
            assert!(content.len() == OLD || content.len() == END);
            if content.len() == OLD {
                assert!(content.iter().all(|&b| b == 1));
            } else {
                expect_whole_pieces(&content, OLD - 50, END, 2);
            }
        },
    );
    assert!(polls > 3, "the operation gave way {polls} times");
}

#[test]
fn a_write_far_behind_the_end() {
    const START: usize = OLD + 50_000;
    let polls = drop_at_every_await(
        |room| Box::pin(room.mapped.write_at(START as u64, &[2; 100])),
        |_, content| {
            assert!(content[..OLD].iter().all(|&b| b == 1));
            assert!(content.len() == OLD || content.len() == START + 100);
            let gap = content[OLD..].iter().take(START - OLD);
            assert!(gap.copied().all(|b| b == 0));
        },
    );
    assert!(polls > 3, "the operation gave way {polls} times");
}

#[test]
fn a_read() {
    let polls = drop_at_every_await(
        |room| {
            Box::pin(async {
                let mut bytes = vec![0; OLD];
                room.mapped.read_at(0, &mut bytes).await?;
                assert!(bytes.iter().all(|&b| b == 1));
                Ok(())
            })
        },
        |_, content| assert!(content.iter().all(|&b| b == 1)),
    );
    assert!(polls > 3, "the operation gave way {polls} times");
}

#[test]
fn zeroing() {
    const START: usize = 10 * BLOCK as usize + 5;
    const END: usize = 30 * BLOCK as usize + 9;
    let polls = drop_at_every_await(
        |room| Box::pin(room.mapped.zero_range(START as u64, (END - START) as u64)),
        |_, content| {
            assert!(content[..START].iter().all(|&b| b == 1));
            assert!(content[START..END].iter().all(|&b| b < 2));
            assert!(content[END..].iter().all(|&b| b == 1));
        },
    );
    assert!(polls > 3, "the operation gave way {polls} times");
}

#[test]
fn growing_without_a_write() {
    drop_at_every_await(
        |room| {
            Box::pin(async {
                let held = room.lock_from(OLD as u64).await;
                room.mapped.grow(&held, OLD as u64 + 9000).await
            })
        },
        |_, content| {
            assert!(content.len() == OLD || content.len() == OLD + 9000);
            assert!(content[OLD..].iter().all(|&b| b == 0));
        },
    );
}

#[test]
fn locking_for_a_transaction() {
    let polls = drop_at_every_await(
        |room| {
            Box::pin(async {
                let folios = room.mapped.lock_uptodate(&[3, 4, 20, 100, 250]).await?;
                assert!(!folios.is_empty());
                Ok(())
            })
        },
        |_, content| assert!(content.iter().all(|&b| b == 1)),
    );
    assert!(polls > 3, "the operation gave way {polls} times");
}

/// Writeback that is dropped loses claimed device blocks until the store is opened again, but no
/// byte and no promise.
#[test]
fn writeback() {
    for polls in 0.. {
        let finished = block_on(async {
            let room = prepared().await;
            let all = FileBlocks::new(0, u64::MAX);
            let mut future = Box::pin(room.mapped.write_back(all));
            let output = poll_times(&mut future, polls);
            drop(future);
            room.expect_unlocked();
            assert_eq!(room.provider.counts().open, 0);
            assert_eq!(room.provider.counts().promised, room.unsettled());
            assert!(room.content().await.iter().all(|&b| b == 1));
            room.settle().await;
            room.evict();
            let content = room.content().await;
            assert!(content.len() == OLD && content.iter().all(|&b| b == 1));
            output
        });
        if let Some(output) = finished {
            assert!(output.unwrap() > 0);
            assert!(polls > 3, "the operation gave way {polls} times");
            return;
        }
    }
}

#[test]
fn failures_of_the_provider_leave_nothing_either() {
    for kind in [ErrorKind::NoSpace, ErrorKind::Device] {
        for nth in 0..12 {
            block_on(async {
                let room = prepared().await;
                room.provider.fail_begin_after(nth, kind);
                let start = 250 * BLOCK as usize + 5;
                let end = OLD + 30_000;
                let bytes = vec![2; end - start];
                let result = room.mapped.write_at(start as u64, &bytes).await;
                room.provider.script(|s| s.fail_begin_at = None);
                room.expect_balance();
                let content = room.content().await;
                match result {
                    Ok(()) => assert_eq!(content.len(), end),
                    Err(error) => assert_eq!(error.kind(), kind),
                }
                expect_whole_pieces(&content, start, end, 2);
                room.settle().await;
                room.expect_balance();
            });
        }
    }
}

#[test]
fn a_full_volume_refuses_before_anything_is_accepted() {
    block_on(async {
        let room = mock_room();
        room.mapped.write_at(0, &[1; 5000]).await.unwrap();
        room.provider.script(|s| {
            s.room = 3;
            s.longest_answer = 1;
        });
        let error = room.mapped.write_at(4000, &[2; 9000]).await.unwrap_err();
        assert!(error.is_no_space());
        room.expect_balance();
        assert!(room.content().await == vec![1; 5000]);
        room.provider.script(|s| s.room = 4);
        room.mapped.write_at(4000, &[2; 2000]).await.unwrap();
        room.settle().await;
        room.expect_balance();
    });
}

#[test]
fn an_edge_that_cannot_be_read_fails_the_write_and_changes_nothing() {
    block_on(async {
        let room = prepared().await;
        let bad = room.provider.stored(7).unwrap().at;
        room.transport.with(|t| t.bad_reads.insert(bad));
        let error = room.mapped.write_at(7 * BLOCK + 1, &[2; 10_000]).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Device);
        room.expect_balance();
        room.transport.with(|t| t.bad_reads.clear());
        assert!(room.content().await.iter().all(|&b| b == 1));
    });
}
