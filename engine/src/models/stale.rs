//! A block moves while a writer and a reader wait for its folio with the old mapping in hand.

use std::sync::Arc;

use shuttle::future::block_on;

use super::explorer::CANARY;
use super::explorer::Model;
use super::explorer::expect_caught;
use super::explorer::explore;
use super::explorer::join;
use super::explorer::start;
use super::stage::Stage;
use crate::iomap::pause::Canary;
use crate::units::BLOCK_BYTES;

/// Moves block 0 and spoils the place where it was.
fn relocate(stage: &Stage) {
    let old = stage.room.provider.stored(0).unwrap().at;
    stage.room.provider.relocate(0, &stage.room.transport);
    stage.room.transport.scribble(old, 0xee);
}

fn a_block_moves(canary: Option<Canary>) -> impl Model {
    move || {
        block_on(async {
            let stage = Stage::new();
            // Checksums would notice the old place, too; here the check of the mapping must.
            stage.room.provider.script(|s| s.checksums = false);
            stage.fill(1, 0x11).await;
            if let Some(canary) = canary {
                stage.room.mapped.pauses().break_on_purpose(canary);
            }
            let [writer, reader, mover, reclaimer] = [0; 4].map(|_| Arc::clone(&stage));
            let tasks = [
                start(async move {
                    writer.room.mapped.write_at(10, &[0x22; 20]).await.unwrap();
                }),
                start(async move {
                    let mut bytes = [0; 10];
                    reader.room.mapped.read_at(0, &mut bytes).await.unwrap();
                    assert_eq!(bytes, [0x11; 10], "bytes of a place that was given up");
                }),
                start(async move {
                    for _ in 0..2 {
                        relocate(&mover);
                    }
                }),
                start(async move { reclaimer.reclaim(2).await }),
            ];
            join(tasks).await;
            let mut expected = [0x11; BLOCK_BYTES];
            expected[10..30].fill(0x22);
            stage.expect(&expected).await;
        });
    }
}

#[test]
fn a_mapping_that_changed_is_made_again() {
    explore("stale", 10_000, a_block_moves(None));
}

#[test]
fn canary_stale_mappings_are_taken_for_good() {
    let model = a_block_moves(Some(Canary::IgnoreStaleness));
    expect_caught("stale mappings are taken for good", CANARY, None, model);
}
