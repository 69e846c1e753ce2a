//! The store against a `BTreeMap`, over a real engine, with reopening in between.
#![allow(clippy::unwrap_used)] // In a test, a failed unwrap is the failed test.

mod support;

use std::collections::BTreeMap;

use bytes::Bytes;
use foliant_examples::kv::op::Expiry;
use foliant_examples::kv::op::Op;
use foliant_examples::kv::op::Outcome;
use foliant_examples::kv::op::When;
use foliant_examples::kv::op::check_value;
use foliant_examples::kv::store::Store;
use foliant_examples::kv::value::New;
use support::Dice;
use support::MIB;
use support::TempPath;
use support::engine_in_memory;
use support::reopen;

type Model = BTreeMap<Vec<u8>, Vec<u8>>;

/// Keys from a small space, of very different lengths.
fn key(dice: &mut Dice, space: u64) -> Vec<u8> {
    let id = dice.below(space);
    let mut key = format!("{:x}-{id}", id % 7).into_bytes();
    if id.is_multiple_of(11) {
        key.resize(1 + (id as usize * 37) % 512, b'k');
    }
    key
}

fn value(dice: &mut Dice) -> Vec<u8> {
    let len = match dice.below(100) {
        0 => 40_000 + dice.below(60_000),
        1..4 => 1000 + dice.below(20_000),
        4..20 => dice.below(1100),
        _ => dice.below(150),
    };
    dice.bytes(len as usize)
}

fn random_op(dice: &mut Dice, space: u64, deletes: u64) -> Op {
    let key = Bytes::from(key(dice, space));
    if dice.below(100) < deletes {
        return Op::delete(key);
    }
    let when = match dice.below(10) {
        0 => When::Missing,
        1 => When::Present,
        _ => When::Always,
    };
    let (value, expires) = (value(dice).into(), Expiry::Never);
    Op::Put { key, value, when, expires, now: 0 }
}

fn apply(model: &mut Model, op: &Op) -> Outcome {
    match op {
        Op::Put { key, value, when, .. } => {
            let there = model.contains_key(&key[..]);
            if (*when == When::Missing && there) || (*when == When::Present && !there) {
                return Outcome::Refused;
            }
            let New::Bytes(value) = value else { unreachable!("{value:?} is not drawn") };
            model.insert(key.to_vec(), value.to_vec());
            Outcome::Stored
        }
        Op::Delete { key, .. } => Outcome::Deleted(model.remove(&key[..]).is_some()),
        Op::Clear => {
            model.clear();
            Outcome::Cleared
        }
        other => unreachable!("{other:?} is not drawn"),
    }
}

async fn check(store: &Store, model: &Model) {
    assert_eq!(store.len(), model.len() as u64);
    let mut expected = model.iter();
    let mut from = Vec::new();
    loop {
        let found = store.scan(&from, 97, 1 << 20).await.unwrap();
        for (key, value) in &found.entries {
            let (k, v) = expected.next().expect("the store has more keys than the model");
            assert_eq!(&key[..], &k[..]);
            assert!(value == v, "the value of {key:?} differs");
        }
        if found.at_end {
            break;
        }
        from = found.entries.last().unwrap().0.to_vec();
        from.push(0);
    }
    assert!(expected.next().is_none(), "the store has less keys than the model");
}

async fn churn(store: &Store, model: &mut Model, dice: &mut Dice, rounds: u64, deletes: u64) {
    for round in 0..rounds {
        let groups: Vec<Vec<Op>> = (0..1 + dice.below(30))
            .map(|_| (0..1 + dice.below(3)).map(|_| random_op(dice, 3000, deletes)).collect())
            .collect();
        let expected: Vec<Vec<Outcome>> =
            groups.iter().map(|g| g.iter().map(|op| apply(model, op)).collect()).collect();
        let found = store.write(groups).await.unwrap();
        for (found, expected) in found.into_iter().zip(expected) {
            assert_eq!(found.unwrap(), expected, "round {round}");
        }
        let key = key(dice, 3000);
        let found = store.get(&key).await.unwrap();
        assert_eq!(found.as_deref(), model.get(&key).map(Vec::as_slice), "round {round}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_memory_growing_and_shrinking_with_reopening() {
    let (device, mut engine) = engine_in_memory(256 * MIB, 16 * MIB).await;
    let mut model = Model::new();
    let mut dice = Dice::new(1);
    for deletes in [20, 90, 40, 100] {
        let store = Store::open(&engine, "kv").await.unwrap();
        churn(&store, &mut model, &mut dice, 150, deletes).await;
        check(&store, &model).await;
        store.close().await;
        engine.close().await.unwrap();
        engine = reopen(&device, 16 * MIB).await;
        let store = Store::open(&engine, "kv").await.unwrap();
        check(&store, &model).await;
        store.close().await;
    }
    engine.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_a_file_with_the_smallest_memory() {
    let file = TempPath::new("model");
    foliant::Engine::format(file.path()).size_bytes(128 * MIB).run().await.unwrap();
    let open = || foliant::Engine::open(file.path()).memory_bytes(8 * MIB).run();
    let mut model = Model::new();
    let mut dice = Dice::new(2);
    for _ in 0..2 {
        let engine = open().await.unwrap();
        let store = Store::open(&engine, "kv").await.unwrap();
        check(&store, &model).await;
        churn(&store, &mut model, &mut dice, 100, 30).await;
        check(&store, &model).await;
        store.close().await;
        engine.close().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_values_come_back_and_their_room_is_used_again() {
    let (_device, engine) = engine_in_memory(256 * MIB, 32 * MIB).await;
    let store = Store::open(&engine, "kv").await.unwrap();
    let mut dice = Dice::new(3);
    let mut last = Vec::new();
    for round in 0..30 {
        last = dice.bytes((1 << 20) + round * 1000);
        store.put(b"large", &last).await.unwrap();
        store.put(b"middle", &last[..20_000]).await.unwrap();
        assert!(store.get(b"large").await.unwrap().unwrap() == last, "round {round}");
    }
    assert!(store.get(b"middle").await.unwrap().unwrap() == last[..20_000]);
    let object = engine.object("kv").await.unwrap();
    assert!(object.size() < 5 * MIB, "{} bytes for one value of 1 MiB", object.size());
    let four = dice.bytes(4 << 20);
    store.put(b"largest", &four).await.unwrap();
    assert!(store.get(b"largest").await.unwrap().unwrap() == four);
    assert!(check_value(512 << 20).is_ok() && check_value((512 << 20) + 1).is_err());
    for key in [&b"large"[..], b"middle", b"largest"] {
        assert!(store.delete(key).await.unwrap());
    }
    assert!(store.is_empty());
    store.close().await;
    engine.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clearing_gives_the_room_back() {
    let (_device, engine) = engine_in_memory(128 * MIB, 16 * MIB).await;
    let store = Store::open(&engine, "kv").await.unwrap();
    for round in 0..3 {
        let mut model = Model::new();
        let mut dice = Dice::new(round);
        churn(&store, &mut model, &mut dice, 40, 10).await;
        store.clear().await.unwrap();
        assert!(store.is_empty());
        assert_eq!(engine.object("kv").await.unwrap().size(), 8192);
        assert!(store.scan(b"", 10, 1000).await.unwrap().entries.is_empty());
    }
    store.close().await;
    engine.close().await.unwrap();
}

#[tokio::test]
async fn a_bad_group_harms_no_other() {
    let (_device, engine) = engine_in_memory(64 * MIB, 16 * MIB).await;
    let store = Store::open(&engine, "kv").await.unwrap();
    let huge: Vec<Op> = (0..2000).map(|i| Op::put(format!("huge {i}"), vec![1_u8; 900])).collect();
    let groups = vec![
        vec![Op::put("a", "1")],
        vec![Op::put("", "no key")],
        vec![Op::put("b", "2"), Op::put(vec![b'b'; 513], "long key")],
        vec![Op::put("c", "3")],
        huge,
        vec![Op::put("d", "4"), Op::delete("a")],
    ];
    let answers = store.write(groups).await.unwrap();
    let fine: Vec<bool> = answers.iter().map(Result::is_ok).collect();
    assert_eq!(fine, [true, false, false, true, false, true]);
    let all = store.scan(b"", 100, 1 << 20).await.unwrap();
    let keys: Vec<&[u8]> = all.entries.iter().map(|(k, _)| &k[..]).collect();
    assert_eq!(keys, [b"c", b"d"]);
    store.close().await;
    assert!(store.put(b"e", b"5").await.is_err());
    engine.close().await.unwrap();
}
