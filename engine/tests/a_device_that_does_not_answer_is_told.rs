//! A device does not end some request: that is told while it lasts, what does not need it goes on, and who waits for
//! a write or a flush hears it within a bound. When the request has ended, the same process goes on. And a device
//! that was gone for a moment is not trusted with what it was given before.

#![allow(clippy::unwrap_used)] // In helpers of tests as in tests: a failed unwrap is the failed test.

mod support;

use std::time::Duration;

use foliant::Engine;
use foliant::ErrorKind;
use foliant_device::DeviceErrorKind;
use foliant_device::error::Operation;
use foliant_device::sim::Fault;
use foliant_device::sim::FaultRule;
use foliant_device::sim::SimDisk;
use foliant_device::sim::SimOptions;
use support::BLOCK;
use support::DEVICE_BLOCKS;
use support::format;
use support::is_sound;
use support::open;
use support::simulate;
use tokio::time::Instant;
use tokio::time::sleep;
use tokio::time::timeout;

/// The bound, two looks, and a moment.
const HEARD: Duration = Duration::from_secs(190);

async fn fresh() -> (SimDisk, Engine) {
    let disk = SimDisk::new(DEVICE_BLOCKS, SimOptions::default());
    format(&disk).await;
    let engine = open(&disk).await.unwrap();
    (disk, engine)
}

async fn stuck(on: Operation) {
    let (disk, engine) = fresh().await;
    let object = engine.create("object").await.unwrap();
    object.write_at(0, &[1; 5 * BLOCK]).await.unwrap();
    object.sync().await.unwrap();
    object.write_at(0, &[2; 5 * BLOCK]).await.unwrap();
    assert!(engine.health().is_well());
    disk.inject(FaultRule::new(Fault::Hang).on(on).times(1));
    let started = Instant::now();
    let (one, two) = (object.clone(), engine.clone());
    let syncing = tokio::spawn(async move { one.sync().await });
    let committing = tokio::spawn(async move {
        let mut transaction = two.transaction();
        transaction.create("another").unwrap();
        transaction.commit().await?.durable().await
    });
    sleep(Duration::from_secs(14)).await;
    let health = engine.health();
    let stalled = health.stalled.unwrap();
    assert!(!health.is_well() && stalled.changes == 1 && stalled.reads == 0, "{health}");
    assert!((10..16).contains(&stalled.longest.as_secs()), "{health}");
    assert!(health.to_string().contains("does not answer"), "{health}");
    let mut bytes = [0; 5 * BLOCK];
    timeout(Duration::from_secs(1), object.read_at(0, &mut bytes)).await.unwrap().unwrap();
    assert_eq!(bytes, [2; 5 * BLOCK]);
    let heard = timeout(HEARD, syncing).await.unwrap().unwrap().unwrap_err();
    assert_eq!(heard.kind(), ErrorKind::WritesStopped, "{on:?}: {heard}");
    assert!(heard.to_string().contains("has not ended a write or a flush"), "{heard}");
    timeout(HEARD, committing).await.unwrap().unwrap().ok();
    assert!(started.elapsed() >= Duration::from_secs(170), "{:?}", started.elapsed());
    assert!(engine.health().stopped.is_some());
    disk.release();
    sleep(Duration::from_secs(3)).await;
    assert!(engine.health().stalled.is_none());
    engine.recover().await.unwrap();
    object.sync().await.unwrap();
    assert!(engine.health().is_well(), "{}", engine.health());
    engine.close().await.unwrap();
    disk.power_cut();
    is_sound(&disk, true).await;
    let engine = open(&disk).await.unwrap();
    let object = engine.object("object").await.unwrap();
    object.read_at(0, &mut bytes).await.unwrap();
    assert_eq!(bytes, [2; 5 * BLOCK]);
}

#[test]
fn a_write_that_does_not_end_is_told_and_heard() {
    simulate(stuck(Operation::Write));
}

#[test]
fn a_flush_that_does_not_end_is_told_and_heard() {
    simulate(stuck(Operation::Flush));
}

#[test]
fn a_read_that_does_not_end_is_told_and_stops_no_write() {
    simulate(async {
        let (disk, engine) = fresh().await;
        let object = engine.create("object").await.unwrap();
        object.write_at(0, &[1; 400 * BLOCK]).await.unwrap();
        engine.close().await.unwrap();
        let engine = open(&disk).await.unwrap();
        let object = engine.object("object").await.unwrap();
        // The tree is read under a lock that every change needs; a read of data holds no such thing.
        object.read_at(0, &mut [0; BLOCK]).await.unwrap();
        disk.inject(FaultRule::new(Fault::Hang).on(Operation::Read).times(1));
        let one = object.clone();
        let reading =
            tokio::spawn(async move { one.read_at(300 * BLOCK as u64, &mut [0; BLOCK]).await });
        sleep(2 * HEARD).await;
        let stalled = engine.health().stalled.unwrap();
        assert_eq!((stalled.reads, stalled.changes), (1, 0));
        engine.create("other").await.unwrap().sync().await.unwrap();
        disk.release();
        reading.await.unwrap().unwrap();
        engine.close().await.unwrap();
    });
}

/// What a first batch wrote is in the device's cache; the device goes and comes back without it; a later flush works.
/// The batch must not be taken for stable.
#[test]
fn what_was_written_before_a_device_went_is_written_again() {
    simulate(async {
        let (disk, engine) = fresh().await;
        let object = engine.create("object").await.unwrap();
        let other = engine.create("other").await.unwrap();
        other.write_at(0, &[1; 5 * BLOCK]).await.unwrap();
        engine.sync().await.unwrap();
        engine.close().await.unwrap();
        let engine = open(&disk).await.unwrap();
        let (object_again, other) =
            (engine.object("object").await.unwrap(), engine.object("other").await.unwrap());
        drop(object);
        object_again.write_at(0, &[3; 5 * BLOCK]).await.unwrap();
        // Its data is on its way, or written and not flushed, when a read hears that the device is gone.
        disk.inject(FaultRule::new(Fault::Delay { ms: 500 }).on(Operation::Flush).times(1));
        let one = object_again.clone();
        let syncing = tokio::spawn(async move { one.sync().await });
        sleep(Duration::from_millis(250)).await;
        disk.inject(FaultRule::fail(DeviceErrorKind::Gone).on(Operation::Read).times(1));
        assert_eq!(other.read_at(0, &mut [0; BLOCK]).await.unwrap_err().kind(), ErrorKind::Device);
        let heard = syncing.await.unwrap();
        assert!(heard.is_err(), "a sync was acknowledged across a device that was gone");
        assert!(engine.health().stopped.is_some());
        engine.recover().await.unwrap();
        object_again.sync().await.unwrap();
        disk.power_cut();
        drop((object_again, other, engine));
        let engine = open(&disk).await.unwrap();
        let mut bytes = [0; 5 * BLOCK];
        engine.object("object").await.unwrap().read_at(0, &mut bytes).await.unwrap();
        assert_eq!(bytes, [3; 5 * BLOCK]);
    });
}
