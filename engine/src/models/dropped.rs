//! Operations that are dropped at any await: nothing stays locked, and the counts balance.

use std::sync::Arc;

use shuttle::future::block_on;

use super::explorer::CANARY;
use super::explorer::dropped_within;
use super::explorer::expect_caught;
use super::explorer::explore;
use super::explorer::join;
use super::explorer::start;
use super::stage::ALL;
use super::stage::Stage;
use crate::kit::fault::Fault;
use crate::units::BLOCK;
use crate::units::BLOCK_BYTES;
use crate::units::FileBlocks;

/// Pauses of an operation in this model, about.
const AWAITS: usize = 8;

async fn write(stage: &Stage) {
    stage.room.mapped.write_at(BLOCK - 50, &[0x22; 100]).await.unwrap();
}

async fn read(stage: &Stage) {
    let mut bytes = [0; 2 * BLOCK_BYTES];
    stage.room.mapped.read_at(0, &mut bytes).await.unwrap();
}

async fn zero(stage: &Stage) {
    stage.room.mapped.zero_range(BLOCK + 100, 200).await.unwrap();
}

async fn lock(stage: &Stage) {
    let _held = stage.room.mapped.ranges().exclusive(0..2).await;
    drop(stage.room.mapped.lock_uptodate(&[0, 1]).await.unwrap());
}

async fn write_back(stage: &Stage) {
    stage.room.mapped.write_back_batch(ALL).await.unwrap();
}

fn expect_rest(stage: &Stage) {
    stage.room.expect_unlocked();
    let counts = stage.room.provider.counts();
    assert_eq!(counts.open, 0, "mappings are left open");
    assert_eq!(counts.promised, stage.room.unsettled(), "promises and dirty blocks");
}

fn all_are_dropped() {
    block_on(async {
        let stage = Stage::new();
        stage.fill(2, 0x11).await;
        stage.room.mapped.write_at(BLOCK, &[0x11; 10]).await.unwrap();
        stage.room.yield_everywhere();
        let [a, b, c, d, e] = [0; 5].map(|_| Arc::clone(&stage));
        let tasks = [
            start(async move { dropped_within(AWAITS, write(&a)).await }),
            start(async move { dropped_within(AWAITS, read(&b)).await }),
            start(async move { dropped_within(AWAITS, zero(&c)).await }),
            start(async move { dropped_within(AWAITS, lock(&d)).await }),
            start(async move { dropped_within(AWAITS, write_back(&e)).await }),
        ];
        join(tasks).await;
        expect_rest(&stage);
        let bytes = stage.room.content().await;
        let write = &bytes[BLOCK_BYTES - 50..BLOCK_BYTES + 50];
        assert!(write.iter().all(|byte| *byte == write[0]), "half of a write");
        stage.room.settle().await;
        stage.room.evict();
        assert_eq!(stage.room.mapped.cache().folios(ALL, 9).len(), 0, "a folio is kept by nobody");
        assert!(stage.room.content().await == bytes, "bytes from the device");
        write_all(&stage).await;
        expect_rest(&stage);
        assert_eq!(stage.room.provider.counts().promised, 0);
    });
}

/// Everything can be locked and written again.
async fn write_all(stage: &Stage) {
    write(stage).await;
    zero(stage).await;
    lock(stage).await;
    let held = stage.room.lock_from(0).await;
    stage.room.mapped.drop_cached(&held, FileBlocks::new(0, u64::MAX)).await.unwrap();
}

#[test]
fn dropped_operations_leave_nothing_behind() {
    explore("dropped", 10_000, all_are_dropped);
}

#[test]
fn canary_a_dropped_batch_never_ends() {
    let fault = Some(Fault::AbandonBatch);
    expect_caught("a dropped batch never ends", CANARY, fault, all_are_dropped);
}
