//! A device that never ends a request: closing ends all the same and says what it gave up; what was
//! acknowledged is there when the store is opened again, and `health` answers meanwhile. The same for a
//! task of the engine that panics: writes stop for good, and closing ends.

#![allow(clippy::unwrap_used)] // In helpers of tests as in tests: a failed unwrap is the failed test.

mod support;

use std::rc::Rc;
use std::time::Duration;

use foliant::Engine;
use foliant::ErrorKind;
use foliant::testing::stop;
use foliant::testing::stop::Stop;
use foliant_device::error::DeviceErrorKind;
use foliant_device::error::Operation;
use foliant_device::sim::Fault;
use foliant_device::sim::FaultRule;
use foliant_device::sim::SimDisk;
use foliant_device::sim::SimOptions;
use support::BLOCK;
use support::DEVICE_BLOCKS;

/// Six steps, each given up after a minute at most.
const BOUND: Duration = Duration::from_secs(6 * 60 + 1);

async fn fresh() -> (SimDisk, Engine) {
    let disk = SimDisk::new(DEVICE_BLOCKS, SimOptions::default());
    support::format(&disk).await;
    let engine = support::open(&disk).await.unwrap();
    (disk, engine)
}

/// Closes beside requests of one kind that never end; reopens after a power cut.
async fn close_beside(operation: Operation) {
    let (disk, engine) = fresh().await;
    let object = engine.create("object").await.unwrap();
    object.write_at(0, &[1; 3 * BLOCK]).await.unwrap();
    object.sync().await.unwrap();
    disk.inject(FaultRule::new(Fault::Hang).on(operation).always());
    object.write_at(0, &[2; BLOCK]).await.unwrap();
    let synced = object.clone();
    let syncing = tokio::spawn(async move { synced.sync().await });
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(!syncing.is_finished(), "nothing hangs");
    assert!(engine.health().dirty_bytes >= BLOCK as u64);
    let closing = tokio::time::timeout(BOUND, engine.close()).await;
    let cause = closing.expect("closing ends").expect_err("something hangs");
    assert_eq!(cause.kind(), ErrorKind::TimedOut, "{cause}");
    assert!(cause.to_string().contains("gave up"), "{cause}");
    disk.power_cut();
    let _ = syncing.await;
    disk.withdraw_all();
    support::is_sound(&disk, true).await;
    let engine = support::open(&disk).await.unwrap();
    let object = engine.object("object").await.unwrap();
    let bytes = support::read_all(&object).await;
    assert!(bytes[..BLOCK].iter().all(|&b| b == 1) || bytes[..BLOCK].iter().all(|&b| b == 2));
    assert!(bytes[BLOCK..].iter().all(|&b| b == 1), "acknowledged bytes are lost");
    engine.close().await.unwrap();
}

#[test]
fn a_write_or_a_flush_that_never_ends() {
    for operation in [Operation::Write, Operation::Flush] {
        support::simulate(close_beside(operation));
    }
}

#[test]
fn a_slow_device_is_waited_for() {
    support::simulate(async {
        let (disk, engine) = fresh().await;
        let object = engine.create("object").await.unwrap();
        for at in 0..100 {
            object.write_at(at * BLOCK as u64, &[3; BLOCK]).await.unwrap();
        }
        // Longer than the bound on a device that does nothing, in all; each request is quicker.
        disk.inject(FaultRule::new(Fault::Delay { ms: 20_000 }).on(Operation::Write).always());
        engine.close().await.unwrap();
        disk.withdraw_all();
        let engine = support::open(&disk).await.unwrap();
        let object = engine.object("object").await.unwrap();
        assert!(support::read_all(&object).await.iter().all(|&b| b == 3));
        engine.close().await.unwrap();
    });
}

#[test]
fn health_names_what_does_not_work_and_recover_mends_it() {
    support::simulate(async {
        let (disk, engine) = fresh().await;
        assert!(engine.health().is_well());
        assert_eq!(engine.health().to_string(), "all works");
        let object = engine.create("object").await.unwrap();
        object.write_at(0, &[1; BLOCK]).await.unwrap();
        disk.inject(FaultRule::fail(DeviceErrorKind::Io).on(Operation::Flush).always());
        object.sync().await.expect_err("the flush fails");
        let health = engine.health();
        assert!(health.stopped.is_some() && !health.stopped_for_good, "{health}");
        assert!(health.to_string().contains("until recover()"), "{health}");
        disk.withdraw_all();
        engine.recover().await.unwrap();
        assert!(engine.health().is_well(), "{}", engine.health());
        object.sync().await.unwrap();
        engine.close().await.unwrap();
    });
}

#[test]
fn a_panic_in_a_task_of_the_engine_stops_writes_for_good() {
    support::simulate(async {
        let (disk, engine) = fresh().await;
        let object = engine.create("object").await.unwrap();
        object.write_at(0, &[1; BLOCK]).await.unwrap();
        object.sync().await.unwrap();
        object.write_at(0, &[2; BLOCK]).await.unwrap();
        stop::on(Stop::BeforeCompletion, Some(Rc::new(|| panic!("on purpose, in a test"))));
        object.sync().await.expect_err("its task panicked");
        stop::on(Stop::BeforeCompletion, None);
        let health = engine.health();
        assert!(health.stopped_for_good, "{health}");
        let mut transaction = engine.transaction();
        transaction.write_at(&object, 0, &[3; BLOCK]).unwrap();
        let refused = transaction.commit().await.expect_err("writes are stopped");
        assert_eq!(refused.kind(), ErrorKind::WritesStopped, "{refused}");
        let refused = engine.recover().await.expect_err("what is in memory cannot be trusted");
        assert_eq!(refused.kind(), ErrorKind::WritesStopped, "{refused}");
        assert!(support::read_all(&object).await.iter().all(|&b| b == 2), "reads go on");
        let closing = tokio::time::timeout(BOUND, engine.close()).await;
        closing.expect("closing ends").expect_err("not all is durable");
        disk.power_cut();
        let engine = support::open(&disk).await.unwrap();
        let object = engine.object("object").await.unwrap();
        assert!(support::read_all(&object).await.iter().all(|&b| b == 1), "acknowledged is there");
        engine.close().await.unwrap();
    });
}
