//! Readers beside a writer: every read shows one commit, all of it.
#![allow(clippy::unwrap_used)] // In a test, a failed unwrap is the failed test.

mod support;

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;

use foliant_examples::kv::op::Op;
use foliant_examples::kv::store::Store;
use support::Dice;
use support::MIB;
use support::engine_in_memory;

const KEYS: usize = 30;

fn key(index: usize) -> Vec<u8> {
    // Spread over many pages by the fillers in between.
    format!("key{:05}", index * 400).into_bytes()
}

/// All keys carry the same version; every few rounds the values change their length, so that pages
/// split, merge and move, and some lie in overflow pages.
fn group(version: u64, dice: &mut Dice) -> Vec<Op> {
    let mut ops: Vec<Op> = (0..KEYS)
        .map(|index| {
            let len = match (index, version % 5) {
                (7, _) => 2000 + dice.below(9000) as usize,
                (_, 0) => 400,
                _ => 20,
            };
            let mut value = version.to_le_bytes().to_vec();
            value.resize(8 + len, version as u8);
            Op::put(key(index), value)
        })
        .collect();
    // A key that is there in every other commit, so that the number of keys tells as well.
    ops.push(match version % 2 {
        0 => Op::put("zz", version.to_le_bytes().to_vec()),
        _ => Op::delete("zz"),
    });
    ops
}

async fn fill(store: &Store) {
    let filler = |i: usize| vec![Op::put(format!("key{i:05}f"), vec![1_u8; 700])];
    let all = (0..KEYS * 400).map(filler).collect();
    store.write(all).await.unwrap().into_iter().for_each(|answer| drop(answer.unwrap()));
}

fn version(value: &[u8]) -> u64 {
    let version = u64::from_le_bytes(value[..8].try_into().unwrap());
    assert!(value[8..].iter().all(|&byte| byte == version as u8), "a torn value");
    version
}

async fn read(store: Store, done: Arc<AtomicBool>) -> u64 {
    let (mut rounds, mut last) = (0, 0);
    while !done.load(Ordering::Relaxed) {
        let all = store.scan(b"", usize::MAX, usize::MAX).await.unwrap();
        let values = all.entries.iter().filter(|(key, _)| !key.ends_with(b"f"));
        let versions: Vec<u64> = values.map(|(_, value)| version(value)).collect();
        let expected = KEYS + usize::from(versions[0].is_multiple_of(2));
        assert_eq!(versions.len(), expected);
        assert!(versions.iter().all(|v| *v == versions[0]), "half a commit: {versions:?}");
        let one = store.get(&key(rounds as usize % KEYS)).await.unwrap().unwrap();
        assert!(version(&one) >= versions[0], "time goes backwards");
        assert!(versions[0] >= last, "time goes backwards");
        last = versions[0];
        rounds += 1;
        tokio::task::yield_now().await;
    }
    rounds
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn a_scan_shows_one_version_of_all_keys() {
    let (_device, engine) = engine_in_memory(128 * MIB, 8 * MIB).await;
    let store = Store::open(&engine, "kv").await.unwrap();
    let mut dice = Dice::new(5);
    fill(&store).await;
    // One by one: all the splits at once might not fit a transaction.
    for op in group(0, &mut dice) {
        store.write(vec![vec![op]]).await.unwrap().pop().unwrap().unwrap();
    }
    let done = Arc::new(AtomicBool::new(false));
    let readers: Vec<_> = (0..3).map(|_| tokio::spawn(read(store.clone(), done.clone()))).collect();
    for version in 1..400 {
        store.write(vec![group(version, &mut dice)]).await.unwrap().pop().unwrap().unwrap();
    }
    done.store(true, Ordering::Relaxed);
    for reader in readers {
        assert!(reader.await.unwrap() > 3);
    }
    store.close().await;
    engine.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_client_reads_what_it_wrote() {
    let (_device, engine) = engine_in_memory(64 * MIB, 16 * MIB).await;
    let store = Store::open(&engine, "kv").await.unwrap();
    let clients: Vec<_> = (0..16_u32)
        .map(|client| {
            let store = store.clone();
            tokio::spawn(async move {
                for round in 0..100_u32 {
                    let key = format!("{}-{client}", round % 7);
                    let value = [client.to_le_bytes(), round.to_le_bytes()].concat();
                    store.put(key.as_bytes(), &value).await.unwrap();
                    assert_eq!(store.get(key.as_bytes()).await.unwrap().unwrap(), value);
                }
            })
        })
        .collect();
    for client in clients {
        client.await.unwrap();
    }
    assert_eq!(store.len(), 16 * 7);
    store.close().await;
    engine.close().await.unwrap();
}
