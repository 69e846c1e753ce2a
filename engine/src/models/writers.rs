//! Two writers of one folio beside writeback: both survive, and each dirty block has one promise.

use std::sync::Arc;

use shuttle::future::block_on;

use super::explorer::CANARY;
use super::explorer::expect_caught;
use super::explorer::explore;
use super::explorer::join;
use super::explorer::start;
use super::stage::Stage;
use crate::kit::fault::Fault;
use crate::units::BLOCK_BYTES;

fn write(stage: &Arc<Stage>, offset: u64, byte: u8) -> shuttle::future::JoinHandle<()> {
    let stage = Arc::clone(stage);
    start(async move { stage.room.mapped.write_at(offset, &[byte; 100]).await.unwrap() })
}

/// Two writers in one block, one of them twice, beside batches; the device refuses some of them.
fn two_writers(refuse: bool) {
    block_on(async {
        let stage = Stage::new();
        stage.fill(1, 0x11).await;
        stage.room.transport.with(|t| t.yields = true);
        if refuse {
            stage.room.transport.with(|t| t.fail_writes = true);
        }
        let (writeback, again) = (Arc::clone(&stage), Arc::clone(&stage));
        let tasks = [
            write(&stage, 0, 0x22),
            write(&stage, 2000, 0x33),
            start(async move {
                again.room.mapped.write_at(50, &[0x44; 10]).await.unwrap();
                again.room.mapped.write_at(2050, &[0x55; 100]).await.unwrap();
            }),
            start(async move { writeback.write_back(2).await }),
        ];
        join(tasks).await;
        stage.room.transport.with(|t| t.fail_writes = false);
        let now = stage.room.content().await;
        let all = |from: usize, to: usize, any: &[u8]| {
            now[from..to].iter().all(|byte| any.contains(byte))
        };
        assert!(all(0, 50, &[0x22]) && all(60, 100, &[0x22]) && all(100, 2000, &[0x11]));
        assert!(all(50, 60, &[0x22, 0x44]) && all(2000, 2050, &[0x33]));
        assert!(all(2050, 2100, &[0x33, 0x55]) && all(2100, 2150, &[0x55]));
        assert!(all(2150, BLOCK_BYTES, &[0x11]));
        stage.expect(&now).await;
    });
}

fn beside_batches() {
    two_writers(false);
}

fn beside_failing_batches() {
    two_writers(true);
}

#[test]
fn both_writers_survive_beside_writeback() {
    explore("writers", 10_000, beside_batches);
}

#[test]
fn both_writers_survive_beside_batches_that_fail() {
    explore("writers/failing", 10_000, beside_failing_batches);
}

#[test]
fn canary_shared_memory_is_replaced_without_its_bytes() {
    let fault = Some(Fault::ReplaceWithoutBytes);
    expect_caught("replaced without its bytes", CANARY, fault, beside_batches);
}

#[test]
fn canary_doubled_promises_are_kept() {
    let fault = Some(Fault::KeepDoubledPromises);
    expect_caught("doubled promises are kept", CANARY, fault, beside_failing_batches);
}
