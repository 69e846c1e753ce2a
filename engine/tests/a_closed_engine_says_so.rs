//! Closing beside everything else: what was acknowledged is there afterwards, what comes too late
//! hears `Closed`, and nobody waits for ever.

#![allow(clippy::unwrap_used)] // In helpers of tests as in tests: a failed unwrap is the failed test.

mod support;

use std::time::Duration;

use foliant::Engine;
use foliant::Error;
use foliant::ErrorKind;
use foliant::Object;
use foliant_device::sim::SimDisk;
use foliant_device::sim::SimOptions;
use support::DEVICE_BLOCKS;

const CLIENTS: u64 = 6;

async fn volume(seed: u64) -> (SimDisk, Engine) {
    let disk = SimDisk::new(DEVICE_BLOCKS, SimOptions { seed, ..SimOptions::default() });
    support::format(&disk).await;
    let engine = support::open(&disk).await.unwrap();
    for client in 0..CLIENTS {
        engine.create(format!("client-{client}")).await.unwrap();
    }
    (disk, engine)
}

/// Counts up in an object until the engine is closed; the last number that is durable.
async fn count_up(engine: Engine, client: u64) -> (u64, Error) {
    let mut acknowledged = 0_u64;
    let work = async {
        let object = engine.object(format!("client-{client}")).await?;
        loop {
            let next = acknowledged + 1;
            if client.is_multiple_of(2) {
                let mut transaction = engine.transaction();
                transaction.write_at(&object, 0, &next.to_le_bytes())?;
                transaction.commit().await?.durable().await?;
            } else {
                object.write_at(0, &next.to_le_bytes()).await?;
                object.sync().await?;
            }
            acknowledged = next;
        }
    };
    let outcome: Result<(), Error> = work.await;
    (acknowledged, outcome.unwrap_err())
}

async fn number(object: &Object) -> u64 {
    let mut bytes = [0; 8];
    object.read_at(0, &mut bytes).await.unwrap();
    u64::from_le_bytes(bytes)
}

fn closing_beside_clients(seed: u64) {
    support::simulate(async {
        let (disk, engine) = volume(seed).await;
        let clients: Vec<_> =
            (0..CLIENTS).map(|c| tokio::spawn(count_up(engine.clone(), c))).collect();
        tokio::time::sleep(Duration::from_millis(20 + seed % 40)).await;
        let closing = tokio::time::timeout(Duration::from_secs(300), engine.close());
        closing.await.expect("closing ends").expect("closing a sound volume");
        let mut acknowledged = Vec::new();
        for client in clients {
            let ended = tokio::time::timeout(Duration::from_secs(300), client);
            let (count, cause) = ended.await.expect("nobody waits for ever").unwrap();
            let late = matches!(cause.kind(), ErrorKind::Closed | ErrorKind::Device);
            assert!(late, "seed {seed}: {cause:?}");
            acknowledged.push(count);
        }
        assert!(acknowledged.iter().sum::<u64>() > 0, "nobody got anything done");
        let engine = support::open(&disk).await.unwrap();
        for (client, &count) in acknowledged.iter().enumerate() {
            let object = engine.object(format!("client-{client}")).await.unwrap();
            let found = number(&object).await;
            assert!(found >= count, "seed {seed}: client {client} lost {count}, found {found}");
        }
        engine.close().await.unwrap();
    });
}

#[test]
fn what_was_acknowledged_is_there_and_late_comers_hear_of_it() {
    support::for_seeds(0..60, closing_beside_clients);
}

#[test]
fn every_verb_of_a_closed_engine_is_refused() {
    support::simulate(async {
        let (_disk, engine) = volume(1).await;
        let object = engine.object("client-0").await.unwrap();
        let mut transaction = engine.transaction();
        transaction.write_at(&object, 0, b"x").unwrap();
        engine.clone().close().await.unwrap();
        let mut kinds = vec![
            engine.create("new").await.map(drop),
            engine.object("client-0").await.map(drop),
            engine.rename("client-0", "other").await,
            engine.remove("client-0").await,
            engine.list("", 9).await.map(drop),
            engine.sync().await,
            transaction.commit().await.map(drop),
            object.read_at(0, &mut [0; 4]).await.map(drop),
            object.read(0..4).await.map(drop),
            object.write_at(0, b"y").await,
            object.zero(0..4).await,
            object.truncate(3).await,
            object.punch(0..3).await,
            object.preallocate(0..3).await,
            object.sync().await,
            object.extents(0..9, 9).await.map(drop),
        ];
        kinds.push(engine.close().await);
        for (verb, outcome) in kinds.into_iter().enumerate() {
            assert_eq!(outcome.expect_err("closed").kind(), ErrorKind::Closed, "verb {verb}");
        }
    });
}
