//! Stores of earlier versions open, are read, and are changed as any other.
//!
//! `fixtures/kv-version-2.pages` are the pages of a store that a program of version 2 has made: 50 small
//! values, one of 9,000 bytes that went through the log, and two of 70,000 and 100,000 bytes that went
//! past it, in runs of pages, beside the free pages of a third. None of them ends, so the same pages are
//! a store of version 1.
#![allow(clippy::unwrap_used)] // In a test, a failed unwrap is the failed test.

mod support;

use foliant::Engine;
use foliant_examples::kv::store::Store;
use support::MIB;
use support::engine_in_memory;
use support::large::all_is_tidy;
use support::reopen;

const PAGES: &[u8] = include_bytes!("fixtures/kv-version-2.pages");
/// Where in the first page the version stands.
const VERSION: usize = 8;

fn large() -> Vec<u8> {
    (0..100_000_u32).map(|i| b'a' + (i / 1000 % 26) as u8).collect()
}

async fn version(engine: &Engine) -> u8 {
    let mut head = [0; 12];
    engine.object("kv").await.unwrap().read_at(0, &mut head).await.unwrap();
    head[VERSION]
}

async fn holds_what_it_held(store: &Store) {
    assert_eq!((store.len(), store.expiring(), store.larges()), (53, 0, 0));
    for i in 10..60 {
        let value = format!("value{i}").repeat(1 + i % 9);
        assert_eq!(store.get(format!("key{i}").as_bytes()).await.unwrap().unwrap(), value);
    }
    assert!(store.get(b"middle").await.unwrap().unwrap() == vec![b'm'; 9_000]);
    assert!(store.get(b"late").await.unwrap().unwrap() == vec![b'l'; 70_000]);
    assert!(store.get(b"large").await.unwrap().unwrap() == large());
    assert_eq!(store.get(b"gone").await.unwrap(), None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn versions_one_and_two_open() {
    for old in [1, 2] {
        let (device, engine) = engine_in_memory(64 * MIB, 16 * MIB).await;
        let object = engine.create("kv").await.unwrap();
        let mut pages = PAGES.to_vec();
        pages[VERSION] = old;
        // As a crash leaves them: pages of a large value whose commit did not come.
        pages.extend_from_slice(&[7; 3 * 4096]);
        object.write_at(0, &pages).await.unwrap();
        object.sync().await.unwrap();

        let store = Store::open(&engine, "kv").await.unwrap();
        assert_eq!(version(&engine).await, 3, "an older program must not touch it any more");
        holds_what_it_held(&store).await;
        // A value in runs gives its pages back and becomes an object; another one is only looked into.
        store.put(b"large", &vec![b'x'; 200_000]).await.unwrap();
        store.put(b"middle", &vec![b'y'; 50_000]).await.unwrap();
        assert!(store.delete(b"late").await.unwrap());
        assert_eq!(all_is_tidy(&store).await, 2);
        let size = object.size();
        for i in 0..40_u32 {
            store.put(format!("page{i}").as_bytes(), &vec![1; 4000]).await.unwrap();
        }
        assert_eq!(object.size(), size, "the pages of the runs are used again");
        store.close().await;
        engine.close().await.unwrap();

        let engine = reopen(&device, 16 * MIB).await;
        let store = Store::open(&engine, "kv").await.unwrap();
        assert_eq!((store.len(), all_is_tidy(&store).await), (92, 2));
        assert!(store.get(b"large").await.unwrap().unwrap() == vec![b'x'; 200_000]);
        store.close().await;
        engine.close().await.unwrap();
    }
}

#[tokio::test]
async fn a_newer_version_is_refused() {
    let (_device, engine) = engine_in_memory(64 * MIB, 16 * MIB).await;
    let object = engine.create("kv").await.unwrap();
    let mut pages = PAGES.to_vec();
    pages[VERSION] = 4;
    object.write_at(0, &pages).await.unwrap();
    assert!(Store::open(&engine, "kv").await.is_err());
    assert_eq!(version(&engine).await, 4, "and left as it is");
    engine.close().await.unwrap();
}
