//! Pages that somebody else has written: typed errors, no panic, and every call ends.
#![allow(clippy::unwrap_used)] // In a test, a failed unwrap is the failed test.

mod support;

use std::time::Duration;

use foliant::Engine;
use foliant::Object;
use foliant_examples::kv::error::Error;
use foliant_examples::kv::op::Op;
use foliant_examples::kv::store::Store;
use support::Dice;
use support::MIB;
use support::engine_in_memory;
use tokio::time::timeout;

async fn filled() -> (Engine, Object) {
    let (_, engine) = engine_in_memory(64 * MIB, 16 * MIB).await;
    let store = Store::open(&engine, "kv").await.unwrap();
    let put = |i: u32| {
        let len = if i.is_multiple_of(40) { 9000 } else { 80 };
        vec![Op::put(format!("key{i:05}"), vec![i as u8; len])]
    };
    store.write((0..1500).map(put).collect()).await.unwrap();
    let delete = |i: u32| vec![Op::delete(format!("key{i:05}"))];
    store.write((300..700).map(delete).collect()).await.unwrap();
    store.close().await;
    let object = engine.object("kv").await.unwrap();
    (engine, object)
}

/// Everything a client can do. Answers of any kind are fine, as long as there are answers.
async fn use_all(engine: &Engine, dice: &mut Dice) {
    let store = match Store::open(engine, "kv").await {
        Ok(store) => store,
        Err(Error::NotAStore { .. }) => return,
        Err(other) => panic!("{other}"),
    };
    for _ in 0..20 {
        let key = format!("key{:05}", dice.below(1600));
        let _ = store.get(key.as_bytes()).await;
        let _ = store.scan(key.as_bytes(), 2000, 1 << 20).await;
        let len = if dice.below(4) == 0 { 12_000 } else { 60 };
        let value = dice.bytes(len);
        for answer in [store.put(key.as_bytes(), &value).await, store.put(b"new", &value).await] {
            let fine = matches!(answer, Ok(()) | Err(Error::Damaged { .. }));
            assert!(fine, "{answer:?}");
        }
        let _ = store.delete(format!("key{:05}", dice.below(1600)).as_bytes()).await;
    }
    store.close().await;
}

async fn damage(object: &Object, dice: &mut Dice) {
    let pages = object.size() / 4096;
    for _ in 0..1 + dice.below(12) {
        let page = 1 + dice.below(pages - 1);
        match dice.below(4) {
            // A page over another: sound by itself, in the wrong place, also for its own number.
            0 => {
                let mut bytes = vec![0; 4096];
                let from = dice.below(pages);
                object.read_at(from * 4096, &mut bytes).await.unwrap();
                if dice.below(2) == 0 {
                    bytes[12..16].copy_from_slice(&(page as u32).to_le_bytes());
                }
                object.write_at(page * 4096, &bytes).await.unwrap();
            }
            // Numbers that look like pages, where links and slots are.
            1 => {
                let bytes = (dice.below(pages + 2) as u32).to_le_bytes();
                let at = page * 4096 + 4 * dice.below(12);
                object.write_at(at, &bytes).await.unwrap();
            }
            2 => {
                let bytes = dice.bytes(2);
                object.write_at(page * 4096 + 2 * dice.below(40), &bytes).await.unwrap();
            }
            _ => {
                let bytes = dice.bytes(64);
                object.write_at(page * 4096 + dice.below(4000), &bytes).await.unwrap();
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_stands_in_the_pages_every_call_answers() {
    for seed in 0..25 {
        let (engine, object) = filled().await;
        let mut dice = Dice::new(seed);
        damage(&object, &mut dice).await;
        timeout(Duration::from_secs(20), use_all(&engine, &mut dice)).await.expect("no end");
        engine.close().await.unwrap();
    }
}

#[tokio::test]
async fn an_object_that_is_no_store_is_refused() {
    let (_, engine) = engine_in_memory(64 * MIB, 16 * MIB).await;
    let object = engine.create("kv").await.unwrap();
    for content in [&b"x"[..], &[0; 8192], &[0xFF; 8192]] {
        object.truncate(0).await.unwrap();
        object.write_at(0, content).await.unwrap();
        let opened = Store::open(&engine, "kv").await;
        assert!(matches!(opened, Err(Error::NotAStore { .. })), "{:?}", opened.err());
    }
    engine.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tree_of_circles_ends() {
    let (engine, object) = filled().await;
    // An inner page whose children are all itself, at every level.
    let mut meta = [0; 40];
    object.read_at(0, &mut meta).await.unwrap();
    meta[16..20].copy_from_slice(&12_u32.to_le_bytes());
    object.write_at(0, &meta).await.unwrap();
    let root = u32::from_le_bytes(meta[12..16].try_into().unwrap());
    let at = u64::from(root) * 4096;
    let mut page = vec![0; 4096];
    object.read_at(at, &mut page).await.unwrap();
    page[8..12].copy_from_slice(&root.to_le_bytes());
    object.write_at(at, &page).await.unwrap();
    let mut dice = Dice::new(99);
    timeout(Duration::from_secs(20), use_all(&engine, &mut dice)).await.expect("no end");
    engine.close().await.unwrap();
}
