//! The treaty as a suite: every clause of `contract` that can be checked from outside.
//!
//! [`check`] takes a factory of fresh devices and panics with the clause that is broken. It bounds
//! every wait, so that a lost wake is a failure and not a hang. Does not check what a power cut leaves
//! (only the simulated disk has one). Called by the tests of every backend, here and elsewhere.

use std::future::Future;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::StreamExt;
use futures_util::future::join_all;
use futures_util::stream::FuturesUnordered;
use tokio::time::sleep;
use tokio::time::timeout;

use crate::buffer::Arena;
use crate::buffer::Buffer;
use crate::buffer::ORDER_MAX;
use crate::buffer::Segment;
use crate::contract::Device;
use crate::contract::IoFuture;
use crate::contract::Persist;
use crate::error::DeviceError;
use crate::error::DeviceErrorKind;
use crate::error::Operation;
use crate::geometry::BLOCK_SIZE;

/// The factory's devices must have at least this many blocks.
pub const BLOCKS_MIN: u64 = 4096;

const ARENA_BLOCKS: usize = 8192;

/// Longer than any request takes, on any device under test.
const PATIENCE: Duration = Duration::from_secs(30);

/// A device under test, with the memory for its requests.
struct Bench {
    device: Device,
    arena: Arena,
}

/// Checks all clauses, on devices from `make`. The content of a fresh device does not matter.
///
/// # Panics
/// If a clause is broken.
pub async fn check<F: Future<Output = Device>>(make: impl Fn() -> F) {
    let arena = Arena::new(ARENA_BLOCKS * BLOCK_SIZE).expect("memory for the suite");
    let bench = Bench { device: make().await, arena: arena.clone() };
    the_geometry_makes_sense(&bench);
    whole_transfers(&bench, "memory that is not registered").await;
    bench.device.close().await.expect("close");
    drop(bench);

    let bench = Bench { device: make().await, arena };
    bench.device.register(&bench.arena);
    whole_transfers(&bench, "registered memory").await;
    a_completed_write_is_visible_and_touches_nothing_else(&bench).await;
    a_request_starts_when_it_is_made(&bench).await;
    a_dropped_future_changes_nothing(&bench).await;
    a_future_may_change_hands(&bench).await;
    requests_beyond_the_depth_wait_their_turn(&bench).await;
    no_wake_is_lost(&bench).await;
    ranges_are_checked(&bench).await;
    requests_for_nothing_succeed(&bench).await;
    zeroed_blocks_read_as_zero(&bench).await;
    discarded_blocks_can_be_used_again(&bench).await;
    flush_succeeds_beside_other_requests(&bench).await;
    everything_is_given_back(&bench, "after all requests").await;
    closing_waits_and_then_nothing_works(&bench).await;
    everything_is_given_back(&bench, "after closing").await;
}

async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    match timeout(PATIENCE, future).await {
        Ok(value) => value,
        Err(_) => panic!("{what}: not over after {PATIENCE:?} (a lost wake or a lost request)"),
    }
}

/// Bytes that tell which block of which write they are.
fn pattern(block: u64, salt: u64) -> [u8; BLOCK_SIZE] {
    let mut bytes = [0; BLOCK_SIZE];
    for (i, word) in bytes.chunks_exact_mut(8).enumerate() {
        let mixed = (block << 20 ^ salt << 48 ^ i as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        word.copy_from_slice(&mixed.to_le_bytes());
    }
    bytes
}

impl Bench {
    fn buffer(&self, order: u8) -> Buffer {
        self.arena.allocate(order).expect("the suite's arena is large enough")
    }

    /// Buffers for `count` blocks: the largest that fit, or single blocks.
    fn buffers(&self, count: u64, largest: u8) -> Vec<Buffer> {
        let mut left = count;
        let mut buffers = Vec::new();
        while left > 0 {
            let order = (0..=largest).rev().find(|&o| 1 << o <= left).expect("order 0 fits");
            buffers.push(self.buffer(order));
            left -= 1 << order;
        }
        buffers
    }

    fn filled(&self, block: u64, count: u64, largest: u8, salt: u64) -> Vec<Segment> {
        let mut buffers = self.buffers(count, largest);
        let chunks = buffers.iter_mut().flat_map(|b| {
            b.get_mut().expect("a fresh buffer is unique").chunks_exact_mut(BLOCK_SIZE)
        });
        for (at, chunk) in (block..).zip(chunks) {
            chunk.copy_from_slice(&pattern(at, salt));
        }
        buffers.into_iter().map(Segment::from).collect()
    }

    fn writing(&self, block: u64, count: u64, salt: u64) -> IoFuture<Result<(), DeviceError>> {
        self.device.write(block, self.filled(block, count, ORDER_MAX, salt), Persist::Cached)
    }

    async fn write(&self, what: &str, block: u64, count: u64, salt: u64) {
        let outcome = soon(what, self.writing(block, count, salt)).await;
        outcome.unwrap_or_else(|e| panic!("{what}: {e}"));
    }

    async fn read(&self, what: &str, block: u64, count: u64, largest: u8) -> Vec<u8> {
        let (buffers, outcome) =
            soon(what, self.device.read(block, self.buffers(count, largest))).await;
        outcome.unwrap_or_else(|e| panic!("{what}: {e}"));
        let bytes: Vec<u8> = buffers.iter().flat_map(|b| b.iter().copied()).collect();
        assert_eq!(bytes.len() as u64, count * BLOCK_SIZE as u64, "{what}: buffers are missing");
        bytes
    }

    async fn expect(&self, what: &str, block: u64, count: u64, salt: u64) {
        let bytes = self.read(what, block, count, ORDER_MAX).await;
        for (at, found) in (block..).zip(bytes.chunks_exact(BLOCK_SIZE)) {
            assert!(found == pattern(at, salt), "{what}: block {at} does not hold its bytes");
        }
    }

    async fn becomes(&self, what: &str, block: u64, salt: u64) {
        let holds = async {
            while self.read(what, block, 1, 0).await != pattern(block, salt) {
                sleep(Duration::from_millis(1)).await;
            }
        };
        soon(what, holds).await;
    }
}

fn the_geometry_makes_sense(bench: &Bench) {
    let geometry = bench.device.geometry();
    assert!(geometry.blocks >= BLOCKS_MIN, "the suite needs {BLOCKS_MIN} blocks");
    let block = BLOCK_SIZE as u32;
    for (name, bytes) in [
        ("logical block", geometry.logical_block_bytes),
        ("memory alignment", geometry.memory_alignment_bytes),
    ] {
        assert!(bytes.is_power_of_two() && bytes <= block, "geometry: {name} of {bytes} bytes");
    }
    let physical = geometry.physical_block_bytes;
    assert!(physical >= geometry.logical_block_bytes, "geometry: physical below logical block");
    let backend = bench.device.backend();
    assert!(!backend.name.is_empty() && !backend.reason.is_empty(), "a backend says what and why");
}

async fn whole_transfers(bench: &Bench, memory: &str) {
    for (salt, count) in (1..).zip([1, 2, 3, 8, 63, 65, 512, 1030]) {
        for largest in [0, 3, ORDER_MAX] {
            let what = format!("whole or error: {count} blocks of order {largest} in {memory}");
            let block = 5 + salt;
            let from = bench.filled(block, count, largest, salt);
            let outcome = soon(&what, bench.device.write(block, from, Persist::Cached)).await;
            outcome.unwrap_or_else(|e| panic!("{what}: {e}"));
            bench.expect(&what, block, count, salt).await;
            let bytes = bench.read(&what, block, count, 0).await;
            assert!(bytes[..BLOCK_SIZE] == pattern(block, salt), "{what}: read in pieces");
        }
    }
    let what = "whole or error: parts of buffers";
    let whole = bench.filled(100, 16, ORDER_MAX, 99);
    let parts =
        [3..4, 1..3, 8..16].map(|r| whole[0].slice(r.start * BLOCK_SIZE..r.end * BLOCK_SIZE));
    let outcome = soon(what, bench.device.write(2000, parts.to_vec(), Persist::Durable)).await;
    outcome.unwrap_or_else(|e| panic!("{what}: {e}"));
    let bytes = bench.read(what, 2000, 11, 0).await;
    let expected = [103, 101, 102].into_iter().chain(108..116);
    for (origin, found) in expected.zip(bytes.chunks_exact(BLOCK_SIZE)) {
        assert!(found == pattern(origin, 99), "{what}: segments out of order");
    }
}

async fn a_completed_write_is_visible_and_touches_nothing_else(bench: &Bench) {
    let what = "a completed write is visible, and touches nothing else";
    bench.write(what, 10, 20, 1).await;
    for salt in 2..10 {
        bench.write(what, 15, 5, salt).await;
        bench.expect(what, 15, 5, salt).await;
        bench.expect(what, 10, 5, 1).await;
        bench.expect(what, 20, 10, 1).await;
    }
    let last = bench.device.geometry().blocks - 1;
    bench.write(what, last, 1, 1).await;
    bench.expect(what, last, 1, 1).await;
}

async fn a_request_starts_when_it_is_made(bench: &Bench) {
    let what = "a request starts when it is made, not when it is polled";
    bench.write(what, 50, 1, 1).await;
    let unpolled = bench.writing(50, 1, 2);
    bench.becomes(what, 50, 2).await;
    soon(what, unpolled).await.expect(what);
}

async fn a_dropped_future_changes_nothing(bench: &Bench) {
    let what = "a request whose future was dropped completes";
    everything_is_given_back(bench, "before futures are dropped").await;
    for salt in 1..20 {
        drop(bench.writing(60 + salt, 1, salt));
        drop(bench.device.read(100, bench.buffers(64, 3)));
        let mut polled = bench.writing(90 + salt, 1, salt);
        let _ = (&mut polled).now_or_never();
        drop(polled);
    }
    drop(bench.device.flush());
    for salt in 1..20 {
        bench.becomes(what, 60 + salt, salt).await;
        bench.becomes(what, 90 + salt, salt).await;
    }
    everything_is_given_back(bench, "after futures were dropped").await;
}

async fn everything_is_given_back(bench: &Bench, when: &str) {
    let what = format!("memory comes back {when}");
    let back = async {
        while bench.arena.free_blocks() < bench.arena.capacity_blocks() {
            sleep(Duration::from_millis(1)).await;
        }
    };
    soon(&what, back).await;
}

async fn a_future_may_change_hands(bench: &Bench) {
    let what = "a future that was polled with one waker is woken with another";
    for salt in 1..20 {
        let mut request = bench.writing(120, 8, salt);
        if (&mut request).now_or_never().is_some() {
            continue;
        }
        // The set has a waker of its own for each of its futures.
        let mut others: FuturesUnordered<_> = [request].into_iter().collect();
        let outcome = soon(what, others.next()).await.expect("one is in it");
        outcome.unwrap_or_else(|e| panic!("{what}: {e}"));
        bench.expect(what, 120, 8, salt).await;
    }
}

async fn requests_beyond_the_depth_wait_their_turn(bench: &Bench) {
    let what = "more requests than the depth, at once";
    let writes = join_all((0..2500).map(|i| bench.writing(200 + i, 1, 7)));
    for outcome in soon(what, writes).await {
        outcome.unwrap_or_else(|e| panic!("{what}: {e}"));
    }
    let reads = join_all((0..2500).rev().map(|i| bench.expect(what, 200 + i, 1, 7)));
    soon(what, reads).await;
}

async fn no_wake_is_lost(bench: &Bench) {
    let what = "many that each wait for their own requests";
    join_all((0..64).map(|task| async move {
        for salt in 1..16 {
            bench.write(what, 300 + task * 4, 4, salt).await;
            if task % 16 == 0 {
                soon(what, bench.device.flush()).await.expect(what);
            }
            bench.expect(what, 300 + task * 4, 4, salt).await;
        }
    }))
    .await;
}

fn assert_kind(
    what: &str,
    outcome: &Result<(), DeviceError>,
    op: Operation,
    kind: DeviceErrorKind,
) {
    match outcome {
        Ok(()) => panic!("{what}: {op:?} succeeded, {kind:?} was expected"),
        Err(e) => assert_eq!((e.op, e.kind), (op, kind), "{what}: {e}"),
    }
}

async fn ranges_are_checked(bench: &Bench) {
    let what = "a range that is not on the device is refused";
    let blocks = bench.device.geometry().blocks;
    bench.write(what, blocks - 1, 1, 3).await;
    for block in [blocks - 1, blocks, u64::MAX - 1, u64::MAX, u64::MAX / BLOCK_SIZE as u64] {
        let refused = |outcome, op| assert_kind(what, &outcome, op, DeviceErrorKind::OutOfRange);
        let (buffers, outcome) = bench.device.read(block, bench.buffers(2, 0)).await;
        assert_eq!(buffers.len(), 2, "{what}: the buffers come back");
        refused(outcome, Operation::Read);
        let from = bench.filled(0, 2, 0, 4);
        refused(bench.device.write(block, from, Persist::Durable).await, Operation::Write);
        refused(bench.device.discard(block, 2).await, Operation::Discard);
        refused(bench.device.discard(block, u64::MAX).await, Operation::Discard);
        refused(bench.device.write_zeroes(block, 2).await, Operation::WriteZeroes);
    }
    bench.expect(what, blocks - 1, 1, 3).await;
}

async fn requests_for_nothing_succeed(bench: &Bench) {
    let what = "a request for no blocks succeeds and does nothing";
    let end = bench.device.geometry().blocks;
    for block in [0, end] {
        let (buffers, outcome) = soon(what, bench.device.read(block, Vec::new())).await;
        assert!(buffers.is_empty() && outcome.is_ok(), "{what}: read");
        for persist in [Persist::Cached, Persist::Durable] {
            soon(what, bench.device.write(block, Vec::new(), persist)).await.expect(what);
        }
        soon(what, bench.device.discard(block, 0)).await.expect(what);
        soon(what, bench.device.write_zeroes(block, 0)).await.expect(what);
    }
}

async fn zeroed_blocks_read_as_zero(bench: &Bench) {
    let what = "zeroed blocks read as zero, and their neighbours do not change";
    for count in [1, 17, 300, 1025] {
        bench.write(what, 400, count + 2, count).await;
        soon(what, bench.device.write_zeroes(401, count)).await.expect(what);
        let bytes = bench.read(what, 401, count, ORDER_MAX).await;
        assert!(bytes.iter().all(|&b| b == 0), "{what}: {count} blocks");
        bench.expect(what, 400, 1, count).await;
        bench.expect(what, 401 + count, 1, count).await;
        bench.write(what, 401, count, 9).await;
        bench.expect(what, 401, count, 9).await;
    }
}

async fn discarded_blocks_can_be_used_again(bench: &Bench) {
    let what = "discarded blocks can be read and written, and their neighbours do not change";
    for count in [1, 100, 1025] {
        bench.write(what, 400, count + 2, count).await;
        soon(what, bench.device.discard(401, count)).await.expect(what);
        bench.read(what, 401, count, ORDER_MAX).await;
        bench.expect(what, 400, 1, count).await;
        bench.expect(what, 401 + count, 1, count).await;
        bench.write(what, 401, count, 9).await;
        bench.expect(what, 401, count, 9).await;
    }
}

async fn flush_succeeds_beside_other_requests(bench: &Bench) {
    let what = "flush beside other requests";
    let flushes = join_all((0..8).map(|_| bench.device.flush()));
    let durable = |i| bench.filled(500 + i, 1, 0, 5);
    let writes =
        join_all((0..8).map(|i| bench.device.write(500 + i, durable(i), Persist::Durable)));
    let (flushed, written) = soon(what, futures_util::future::join(flushes, writes)).await;
    for outcome in flushed.into_iter().chain(written) {
        outcome.unwrap_or_else(|e| panic!("{what}: {e}"));
    }
    bench.expect(what, 500, 8, 5).await;
}

async fn closing_waits_and_then_nothing_works(bench: &Bench) {
    let what = "closing waits for what is in flight";
    let unpolled: Vec<_> = (0..600).map(|i| bench.writing(600 + i, 1, 11)).collect();
    let dropped = bench.device.read(0, bench.buffers(8, 3));
    drop(dropped);
    soon(what, bench.device.close()).await.unwrap_or_else(|e| panic!("{what}: {e}"));
    for request in unpolled {
        let outcome = timeout(Duration::from_secs(1), request).await;
        let outcome = outcome.unwrap_or_else(|_| panic!("{what}: a request is still in flight"));
        outcome.unwrap_or_else(|e| panic!("{what}: {e}"));
    }
    let what = "after closing every request fails with Gone";
    let gone = |outcome, op| assert_kind(what, &outcome, op, DeviceErrorKind::Gone);
    let (buffers, outcome) = soon(what, bench.device.read(0, bench.buffers(2, 0))).await;
    assert_eq!(buffers.len(), 2, "{what}: the buffers come back");
    gone(outcome, Operation::Read);
    gone(soon(what, bench.writing(0, 1, 1)).await, Operation::Write);
    gone(soon(what, bench.device.flush()).await, Operation::Flush);
    gone(soon(what, bench.device.discard(0, 1)).await, Operation::Discard);
    gone(soon(what, bench.device.write_zeroes(0, 1)).await, Operation::WriteZeroes);
    soon("closing twice", bench.device.close()).await.expect("closing twice");
}
