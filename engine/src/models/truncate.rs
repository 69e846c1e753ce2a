//! A cut against reads and writeback: no byte behind the end is seen, and no size is ahead.

use std::sync::Arc;

use shuttle::future::block_on;

use super::explorer::CANARY;
use super::explorer::Model;
use super::explorer::expect_caught;
use super::explorer::explore;
use super::explorer::join;
use super::explorer::start;
use super::stage::Stage;
use crate::iomap::ahead::Reader;
use crate::iomap::contract::MappingProvider;
use crate::iomap::pause::Canary;
use crate::kit::fault::Fault;
use crate::units::BLOCK;
use crate::units::BLOCK_BYTES;
use crate::units::FileBlocks;

const OLD: usize = 2 * BLOCK_BYTES + 500;
const NEW: usize = 100;

/// Cuts the object in the order in which `object` does it; `still`: no batch is on its way.
async fn cut(stage: &Stage, size: u64, still: bool) {
    let (mapped, provider) = (&stage.room.mapped, &stage.room.provider);
    let held = stage.room.lock_from(size).await;
    let still = if still { Some(mapped.hold_writeback().await) } else { None };
    let end = mapped.hold_end(&held, size).await.unwrap();
    provider.unmap(FileBlocks::new(size.div_ceil(BLOCK), u64::MAX));
    provider.set_size(size);
    mapped.cut(&held, end).await.unwrap();
    drop(still);
}

/// The ways to read.
#[derive(Debug, Clone, Copy)]
enum Way {
    Copy,
    Share,
    Pieces,
}

async fn read_beside(stage: &Stage, way: Way) {
    let mapped = &stage.room.mapped;
    let all = 0..OLD as u64;
    let bytes = match way {
        Way::Copy => {
            let mut bytes = vec![0xee; OLD];
            let read = mapped.read_at(0, &mut bytes).await.unwrap();
            bytes.truncate(read);
            bytes
        }
        Way::Share => mapped.read_shared(&Reader::default(), all).await.unwrap().unwrap().to_vec(),
        Way::Pieces => match mapped.read_pieces(&Reader::default(), all).await.unwrap() {
            Some(pieces) => pieces.iter().flat_map(|piece| piece.to_vec()).collect(),
            None => return,
        },
    };
    let read = bytes.len();
    assert!(read == OLD || read == NEW, "{read} bytes: no size was ever like that");
    assert!(bytes.iter().all(|&byte| byte == 0x11), "bytes from behind the end");
}

async fn watch(stage: &Stage) {
    for _ in 0..4 {
        // The size only shrinks here, so what is read later must not be larger.
        let size = stage.room.provider.size();
        let durable = stage.room.provider.durable_size();
        assert!(durable <= size, "{durable} bytes are durable of {size}");
    }
}

fn cut_beside_all(still: bool, way: Way) -> impl Model {
    move || {
        block_on(async {
            let stage = Stage::new();
            stage.room.mapped.write_at(0, &[0x11; OLD]).await.unwrap();
            stage.room.settle().await;
            stage.room.mapped.write_at(BLOCK + 7, &[0x11; BLOCK_BYTES]).await.unwrap();
            stage.room.transport.with(|t| t.yields = true);
            let [cutter, reader, writeback, watcher] = [0; 4].map(|_| Arc::clone(&stage));
            let tasks = [
                start(async move { cut(&cutter, NEW as u64, still).await }),
                start(async move { read_beside(&reader, way).await }),
                start(async move { writeback.write_back(1).await }),
                start(async move { watch(&watcher).await }),
            ];
            join(tasks).await;
            watch(&stage).await;
            let mut expected = vec![0x11; NEW];
            assert!(stage.room.content().await == expected);
            // What was cut off must not come back.
            stage.room.truncate(OLD as u64).await;
            expected.resize(OLD, 0);
            stage.expect(&expected).await;
        });
    }
}

/// A batch that cannot take all dirty blocks must not make the size durable over those it left.
fn settle_beside_writers(canary: Option<Canary>) -> impl Model {
    move || {
        block_on(async {
            let stage = Stage::new();
            if let Some(canary) = canary {
                stage.room.mapped.pauses().break_on_purpose(canary);
            }
            // Folio by folio, so that a batch can meet one that is locked.
            for block in 0..3 {
                stage.room.mapped.write_at(block * BLOCK, &[0x11; BLOCK_BYTES]).await.unwrap();
            }
            let [writer, writeback, watcher] = [0; 3].map(|_| Arc::clone(&stage));
            let tasks = [
                start(async move {
                    writer.room.mapped.write_at(BLOCK + 5, &[0x11; 9]).await.unwrap();
                    writer.room.mapped.write_at(3 * BLOCK, &[0x11; BLOCK_BYTES]).await.unwrap();
                }),
                start(async move { writeback.write_back(1).await }),
                start(async move { expect_stored(&watcher, 2) }),
            ];
            join(tasks).await;
            expect_stored(&stage, 1);
            stage.expect(&[0x11; 4 * BLOCK_BYTES]).await;
        });
    }
}

/// After a crash now, each byte below the durable size would be there.
fn expect_stored(stage: &Stage, times: usize) {
    for _ in 0..times {
        let blocks = stage.room.provider.durable_size().div_ceil(BLOCK);
        let holes = (0..blocks).filter(|&block| stage.room.provider.stored(block).is_none());
        assert_eq!(holes.count(), 0, "durable up to block {blocks}, and not all is stored");
    }
}

#[test]
fn nobody_sees_what_a_cut_took_away() {
    explore("cut", 10_000, cut_beside_all(true, Way::Copy));
    explore("cut beside a shared read", 5_000, cut_beside_all(true, Way::Share));
    explore("cut beside a read in pieces", 5_000, cut_beside_all(true, Way::Pieces));
}

#[test]
fn the_durable_size_is_not_ahead_of_the_bytes() {
    explore("durable size", 10_000, settle_beside_writers(None));
}

#[test]
fn canary_a_read_trusts_the_old_size() {
    for way in [Way::Copy, Way::Share, Way::Pieces] {
        let fault = Some(Fault::TrustOldSize);
        let name = format!("a read trusts the old size: {way:?}");
        expect_caught(&name, CANARY, fault, cut_beside_all(true, way));
    }
}

#[test]
fn canary_a_cut_beside_a_batch_on_its_way() {
    expect_caught("a cut beside a batch", CANARY, None, cut_beside_all(false, Way::Copy));
}

#[test]
fn canary_the_size_is_durable_whatever_else_is_dirty() {
    let model = settle_beside_writers(Some(Canary::SettleEverything));
    expect_caught("the size settles over dirty blocks", CANARY, None, model);
}
