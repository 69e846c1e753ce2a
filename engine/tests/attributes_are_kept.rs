//! Attributes are the caller's own bytes in the record of an object: kept through everything that changes the
//! record, replaced whole or not at all, and in one transaction with bytes, names and sizes.

#![allow(clippy::unwrap_used)] // In helpers of tests as in tests: a failed unwrap is the failed test.

mod support;

use std::collections::BTreeMap;

use foliant::Engine;
use foliant::ErrorKind;
use foliant::limits::ATTRIBUTE_BYTES_MAX;
use support::fresh;

async fn attributes(engine: &Engine, name: &str) -> Vec<u8> {
    engine.object(name).await.unwrap().attributes().await.unwrap().to_vec()
}

/// The record also holds the size and, of a small object, its bytes: all that changes those must leave the
/// attributes alone.
#[test]
fn they_stay_whatever_changes_the_record() {
    support::simulate(async {
        let (disk, engine) = fresh(1).await;
        let object = engine.create("a").await.unwrap();
        assert!(object.attributes().await.unwrap().is_empty());
        let longest = vec![7; ATTRIBUTE_BYTES_MAX];
        object.set_attributes(&longest).await.unwrap();
        for size in [300, 448, 449, 10_000, 5, 0, 100_000] {
            object.truncate(size).await.unwrap();
            object.write_at(size / 2, &[3; 40]).await.unwrap();
            object.sync().await.unwrap();
            assert_eq!(object.attributes().await.unwrap(), longest, "size {size}");
        }
        let mut transaction = engine.transaction();
        transaction.truncate(&object, 7).unwrap();
        transaction.rename("a", "b").unwrap();
        transaction.commit().await.unwrap().durable().await.unwrap();
        drop(object);
        engine.close().await.unwrap();
        support::is_sound(&disk, true).await;
        let engine = support::open(&disk).await.unwrap();
        assert_eq!(attributes(&engine, "b").await, longest);
        engine.object("b").await.unwrap().set_attributes(&[]).await.unwrap();
        assert!(attributes(&engine, "b").await.is_empty());
        engine.close().await.unwrap();
    });
}

#[test]
fn a_transaction_sees_its_own_and_the_last_one_counts() {
    support::simulate(async {
        let (_disk, engine) = fresh(2).await;
        let old = engine.create("old").await.unwrap();
        old.set_attributes(b"before").await.unwrap();
        let mut transaction = engine.transaction();
        let made = transaction.create("made").unwrap();
        assert!(transaction.attributes(&made).await.unwrap().is_empty());
        assert_eq!(transaction.attributes(&old).await.unwrap(), "before");
        transaction.set_attributes(&made, b"one").unwrap();
        transaction.set_attributes(&old, b"after").unwrap();
        let charged = transaction.log_bytes();
        transaction.set_attributes(&made, b"two").unwrap();
        assert_eq!(transaction.log_bytes(), charged, "the second one costs nothing");
        assert_eq!(transaction.attributes(&made).await.unwrap(), "two");
        assert_eq!(transaction.attributes(&old).await.unwrap(), "after");
        assert_eq!(attributes(&engine, "old").await, b"before", "nobody else sees it yet");
        transaction.commit().await.unwrap();
        assert_eq!(attributes(&engine, "old").await, b"after");
        assert_eq!(attributes(&engine, "made").await, b"two");
        engine.close().await.unwrap();
    });
}

#[test]
fn what_cannot_be_is_refused() {
    support::simulate(async {
        let (_disk, engine) = fresh(3).await;
        let (_other_disk, other) = fresh(4).await;
        let object = engine.create("a").await.unwrap();
        let too_long = vec![0; ATTRIBUTE_BYTES_MAX + 1];
        let refused = object.set_attributes(&too_long).await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::InvalidInput);
        let refused = other.transaction().set_attributes(&object, b"x").unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::InvalidInput);
        let mut makes = engine.transaction();
        let pending = makes.create("pending").unwrap();
        assert_eq!(pending.attributes().await.unwrap_err().kind(), ErrorKind::NotFound);
        let refused = engine.transaction().set_attributes(&pending, b"x").unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::InvalidInput);
        // A step of a transaction that meets a removed object ends all of it.
        let bystander = engine.create("bystander").await.unwrap();
        let mut late = engine.transaction();
        late.write_at(&bystander, 0, b"never").unwrap();
        late.set_attributes(&object, b"late").unwrap();
        engine.remove("a").await.unwrap();
        assert_eq!(late.commit().await.unwrap_err().kind(), ErrorKind::Closed);
        assert_eq!(bystander.size(), 0);
        assert_eq!(object.attributes().await.unwrap_err().kind(), ErrorKind::Closed);
        engine.close().await.unwrap();
        other.close().await.unwrap();
    });
}

/// A transaction writes bytes and notes them in the attributes, with the power cut at the `requests`-th request of
/// it and of the close behind it: both are old or both are new. `None` when the cut came too late.
async fn cut(requests: u64, seed: u64) -> Option<u8> {
    let (disk, engine) = fresh(seed).await;
    let object = engine.create("a").await.unwrap();
    object.write_at(0, &[1; 6_000]).await.unwrap();
    object.set_attributes(&[1]).await.unwrap();
    object.sync().await.unwrap();
    disk.crash_after_requests(requests);
    let mut transaction = engine.transaction();
    transaction.write_at(&object, 3_000, &[2; 9_000]).unwrap();
    transaction.set_attributes(&object, &[2; 300]).unwrap();
    let durable = match transaction.commit().await {
        Ok(commit) => commit.durable().await.is_ok(),
        Err(_) => false,
    };
    drop(object);
    let _ = engine.close().await;
    let over = disk.is_powered();
    disk.power_cut();
    support::is_sound(&disk, true).await;
    let engine = support::open(&disk).await.unwrap();
    let noted = attributes(&engine, "a").await;
    let size = engine.object("a").await.unwrap().size();
    engine.close().await.unwrap();
    match (noted.len(), size) {
        (1, 6_000) => assert!(!durable, "an acknowledged commit is gone"),
        (300, 12_000) => {}
        mixed => panic!("attributes and size are of different transactions: {mixed:?}"),
    }
    (!over).then_some(noted[0])
}

#[test]
fn a_cut_leaves_bytes_and_attributes_of_one_transaction() {
    let mut found = BTreeMap::new();
    // What of a request that was on its way survives is up to the seed.
    for seed in 0..8 {
        for requests in 1.. {
            let Some(left) = support::simulate(cut(requests, seed)) else { break };
            *found.entry(left).or_insert(0) += 1;
        }
    }
    println!("cut: {found:?}");
    assert!(found.contains_key(&1) && found.contains_key(&2), "{found:?}");
}
