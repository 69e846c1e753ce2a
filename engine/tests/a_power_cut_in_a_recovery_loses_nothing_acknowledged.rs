//! Writes were stopped by a failed write of the log; while `recover` brings them back, the power goes at each
//! of its requests. Whoever had heard by then that his commit is durable finds it after reopening.
//!
//! And what `recover` refuses: a device that holds another store by now.

#![allow(clippy::unwrap_used)] // In helpers of tests as in tests: a failed unwrap is the failed test.

mod support;

use foliant::Engine;
use foliant::ErrorKind;
use foliant::testing::Canary;
use foliant::testing::break_on_purpose;
use foliant::testing::stop;
use foliant::testing::stop::Stop;
use foliant_device::Device;
use foliant_device::error::DeviceErrorKind;
use foliant_device::error::Operation;
use foliant_device::sim::FaultRule;
use foliant_device::sim::SimDisk;
use foliant_device::sim::SimOptions;
use support::BLOCK;
use support::DEVICE_BLOCKS;
use support::JOURNAL_BYTES;

const LOG: std::ops::Range<u64> = 32..32 + JOURNAL_BYTES / BLOCK as u64;

/// The power goes at request `cut` of the recovery; whether it went before the recovery had ended.
async fn cut_while_recovering(seed: u64, cut: u64) -> bool {
    let disk = SimDisk::new(DEVICE_BLOCKS, SimOptions { seed, ..SimOptions::default() });
    support::format(&disk).await;
    let engine = support::open(&disk).await.unwrap();
    let object = engine.create("counter").await.unwrap();
    // With no room nothing of the group arrives: only a second write can bring it.
    let rule = FaultRule::fail(DeviceErrorKind::NoSpace).on(Operation::Write).blocks(LOG);
    let rule = disk.inject(rule.after(seed % 3).always());
    let mut commits = Vec::new();
    for n in 1..=8_u64 {
        let mut transaction = engine.transaction();
        transaction.write_at(&object, 0, &n.to_le_bytes()).unwrap();
        let Ok(commit) = transaction.commit().await else { break };
        let _ = commit.clone().durable().await;
        commits.push((n, commit));
    }
    assert!(disk.struck(rule) > 0 && !commits.is_empty());
    disk.withdraw(rule);
    disk.crash_after_requests(cut);
    let recovering = {
        let engine = engine.clone();
        async move { engine.recover().await }
    };
    tokio::pin!(recovering);
    let mut acknowledged = 0;
    let recovered = loop {
        for (n, commit) in &commits {
            // A new question each time: it waits while writes go on, and hears at once if they do not.
            let answer =
                tokio::time::timeout(std::time::Duration::ZERO, commit.clone().durable()).await;
            if matches!(answer, Ok(Ok(()))) {
                acknowledged = acknowledged.max(*n);
            }
        }
        let step = std::time::Duration::from_micros(200);
        if let Ok(outcome) = tokio::time::timeout(step, &mut recovering).await {
            break outcome;
        }
    };
    let cut_short = !disk.is_powered();
    assert!(cut_short || recovered.is_ok(), "{recovered:?}");
    disk.power_cut();
    drop(object);
    drop(engine);
    let engine = support::open(&disk).await.unwrap();
    let found = support::read_all(&engine.object("counter").await.unwrap()).await;
    let found = found.try_into().map_or(0, u64::from_le_bytes);
    let last = commits.last().unwrap().0;
    assert!((acknowledged..=last).contains(&found), "found {found}, acknowledged {acknowledged}");
    engine.close().await.unwrap();
    support::is_sound(&disk, true).await;
    cut_short
}

fn at_every_request(seed: u64) {
    let last = (1..200).find(|&cut| !support::simulate(cut_while_recovering(seed, cut)));
    assert!(last.expect("the recovery ends") > 6, "too few requests: {last:?}");
}

#[test]
fn whatever_was_acknowledged_by_then_is_there() {
    for seed in 0..12 {
        at_every_request(seed);
    }
}

#[test]
fn a_recovery_that_only_says_that_groups_are_durable_is_noticed() {
    let noticed = (0..12).any(|seed| {
        break_on_purpose(Some(Canary::ForgetKeptGroups));
        let outcome = std::panic::catch_unwind(|| at_every_request(seed));
        break_on_purpose(None);
        outcome.is_err()
    });
    assert!(noticed, "the canary is not noticed");
}

#[test]
fn a_device_that_holds_another_store_is_refused() {
    support::simulate(async {
        let disk = SimDisk::new(DEVICE_BLOCKS, SimOptions::default());
        support::format(&disk).await;
        let engine = support::open(&disk).await.unwrap();
        let rule = FaultRule::fail(DeviceErrorKind::Gone).on(Operation::Write).blocks(LOG);
        let rule = disk.inject(rule.always());
        engine.create("one").await.map(|_| ()).unwrap_err();
        disk.withdraw(rule);
        let own: Vec<_> = (0..disk.blocks()).map(|block| disk.peek(block)).collect();
        Engine::format_device(Device::new(disk.attach()))
            .force(true)
            .uuid([9; 16])
            .run()
            .await
            .unwrap();
        assert_eq!(engine.recover().await.unwrap_err().kind(), ErrorKind::NotAStore);
        assert_eq!(engine.create("two").await.unwrap_err().kind(), ErrorKind::WritesStopped);
        own.iter().enumerate().for_each(|(block, bytes)| disk.poke(block as u64, bytes));
        let resumed = engine.recover().await.unwrap();
        assert!(resumed.cause.is_some() && resumed.groups_rewritten > 0, "{resumed:?}");
        engine.create("two").await.unwrap();
        engine.object("one").await.unwrap();
        engine.close().await.unwrap();
        support::is_sound(&disk, true).await;
    });
}

/// A batch is on the device, a flush of somebody else fails, writes are brought back, and only then the batch
/// asks for its flush, which succeeds: the failed one was final for its data all the same.
#[test]
fn a_flush_behind_a_recovery_does_not_save_what_an_earlier_one_lost() {
    for seed in 0..20 {
        support::simulate(async move {
            let options = SimOptions { seed, volatile_cache: true, ..SimOptions::default() };
            let disk = SimDisk::new(DEVICE_BLOCKS, options);
            support::format(&disk).await;
            let engine = support::open(&disk).await.unwrap();
            let (held, other) =
                (engine.create("held").await.unwrap(), engine.create("other").await.unwrap());
            let bytes = vec![seed as u8 + 1; 8 * BLOCK];
            held.write_at(0, &bytes).await.unwrap();
            stop::close(Stop::BeforeCompletion, true);
            let before = stop::hits(Stop::BeforeCompletion);
            let syncing = tokio::spawn({
                let held = held.clone();
                async move { held.sync().await }
            });
            while stop::hits(Stop::BeforeCompletion) == before {
                tokio::time::sleep(std::time::Duration::from_millis(1)).await;
            }
            // One sync more would wait at the same place, so a checkpoint's flush fails.
            let rule = FaultRule::fail(DeviceErrorKind::Io).on(Operation::Flush);
            let rule = disk.inject(rule.times(1));
            drop(other);
            engine.create("third").await.unwrap();
            let _ = engine.recover().await;
            assert_eq!(disk.struck(rule), 1);
            engine.recover().await.unwrap();
            stop::close(Stop::BeforeCompletion, false);
            if syncing.await.unwrap().is_err() {
                held.sync().await.expect("its data went to other places");
            }
            disk.power_cut();
            drop((held, engine));
            let engine = support::open(&disk).await.unwrap();
            let found = support::read_all(&engine.object("held").await.unwrap()).await;
            assert!(found == bytes, "what a sync had promised is lost");
            engine.close().await.unwrap();
        });
    }
}
