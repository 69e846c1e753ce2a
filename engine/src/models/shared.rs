//! Zero-copy readers against a writer: the bytes of a segment never change.

use std::sync::Arc;

use shuttle::future::block_on;

use super::explorer::CANARY;
use super::explorer::expect_caught;
use super::explorer::explore;
use super::explorer::join;
use super::explorer::start;
use super::stage::Stage;
use crate::iomap::ahead::Reader;
use crate::iomap::testkit::give_way;
use crate::kit::fault::Fault;
use crate::units::BLOCK;
use crate::units::BLOCK_BYTES;

async fn pin(stage: &Stage) {
    let mut pinned = Vec::new();
    for _ in 0..2 {
        let segment =
            stage.room.mapped.read_shared(&Reader::default(), 0..BLOCK).await.unwrap().unwrap();
        let first = segment[0];
        assert!(segment.iter().all(|&byte| byte == first), "half of a write");
        pinned.push((segment, first));
        give_way().await;
        for (segment, first) in &pinned {
            assert!(segment.iter().all(|byte| byte == first), "pinned bytes changed");
        }
    }
}

fn pins_beside_a_writer() {
    block_on(async {
        let stage = Stage::new();
        stage.fill(1, 0x11).await;
        let [writer, one, two, writeback] = [0; 4].map(|_| Arc::clone(&stage));
        let tasks = [
            start(async move {
                for byte in [0x22, 0x33] {
                    writer.room.mapped.write_at(0, &[byte; BLOCK_BYTES]).await.unwrap();
                }
            }),
            start(async move { pin(&one).await }),
            start(async move { pin(&two).await }),
            start(async move {
                writeback.write_back(1).await;
                writeback.reclaim(1).await;
            }),
        ];
        join(tasks).await;
        stage.expect(&[0x33; BLOCK_BYTES]).await;
    });
}

#[test]
fn pinned_bytes_never_change() {
    explore("pins", 10_000, pins_beside_a_writer);
}

#[test]
fn canary_memory_is_shared_while_it_is_frozen() {
    let fault = Some(Fault::ShareFrozen);
    expect_caught("shared while frozen", CANARY, fault, pins_beside_a_writer);
}
