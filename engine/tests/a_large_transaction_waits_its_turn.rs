//! The log is nearly full, and small transactions come in a stream, each of which would fit. A large one waits for
//! room in its turn: those that asked before it are served, and nobody who came later takes the room away.

#![allow(clippy::unwrap_used)] // In helpers of tests as in tests: a failed unwrap is the failed test.

mod support;

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use foliant::Engine;
use foliant::Object;
use foliant::testing::Canary;
use foliant::testing::break_on_purpose;
use foliant_device::error::Operation;
use foliant_device::sim::Fault;
use foliant_device::sim::FaultRule;
use foliant_device::sim::SimDisk;
use foliant_device::sim::SimOptions;
use support::BLOCK;
use support::DEVICE_BLOCKS;
use support::JOURNAL_BYTES;
use support::format;
use support::open;
use support::simulate;
use tokio::task::JoinSet;
use tokio::task::LocalSet;
use tokio::time::timeout;

/// Small transactions that ask behind each large one, all of which fit where it does not.
const SMALL: u64 = 12;
/// Blocks of the large one.
const LARGE: usize = 24;
/// Large ones, one after the other.
const ROUNDS: u8 = 6;

/// Accepts a transaction; nobody waits until it is durable, or the log would not fill.
async fn accept(engine: &Engine, object: &Object, block: u64, bytes: usize, byte: u8) -> bool {
    let mut transaction = engine.transaction();
    transaction.write_at(object, block * BLOCK as u64, &vec![byte; bytes]).unwrap();
    transaction.commit().await.is_ok()
}

/// How many transactions passed a large one that had asked before them.
async fn passed() -> u64 {
    let disk = SimDisk::new(DEVICE_BLOCKS, SimOptions::default());
    format(&disk).await;
    let engine = open(&disk).await.unwrap();
    let object = engine.create("object").await.unwrap();
    object.write_at(0, &vec![1; (LARGE + SMALL as usize) * BLOCK]).await.unwrap();
    object.sync().await.unwrap();
    // Bringing blocks home is slow: what the log has no room for waits.
    let home = 32 + JOURNAL_BYTES / BLOCK as u64..DEVICE_BLOCKS;
    let slow = FaultRule::new(Fault::Delay { ms: 200 }).on(Operation::Write);
    disk.inject(slow.blocks(home).always());
    let (waits, passed) = (Rc::new(Cell::new(false)), Rc::new(Cell::new(0)));
    let mut byte = 1_u8;
    for round in 0..ROUNDS {
        // Until one more would have to wait; it is given up.
        let instant = Duration::from_millis(1);
        loop {
            // Other bytes each time: what is the same is not logged.
            byte = byte.wrapping_add(1);
            let taken = accept(&engine, &object, 0, LARGE * BLOCK, byte);
            let Ok(taken) = timeout(instant, taken).await else { break };
            assert!(taken, "what fills the log is refused");
        }
        let mut others = JoinSet::new();
        for client in 0..SMALL {
            let (engine, object) = (engine.clone(), object.clone());
            let (waits, passed) = (waits.clone(), passed.clone());
            others.spawn_local(async move {
                // Behind the large one.
                tokio::time::sleep(Duration::from_millis(1)).await;
                let behind = waits.get();
                assert!(accept(&engine, &object, LARGE as u64 + client, 100, round).await);
                passed.set(passed.get() + u64::from(behind && waits.get()));
            });
        }
        waits.set(true);
        assert!(accept(&engine, &object, 0, LARGE * BLOCK, !byte).await, "a large one is refused");
        waits.set(false);
        while let Some(ended) = others.join_next().await {
            ended.unwrap();
        }
    }
    passed.get()
}

fn run() -> u64 {
    simulate(LocalSet::new().run_until(passed()))
}

#[test]
fn nobody_who_came_later_takes_its_room() {
    assert_eq!(run(), 0, "who asked later passed a large one");
    break_on_purpose(Some(Canary::WaitOutOfTurn));
    let passed = std::panic::catch_unwind(run);
    break_on_purpose(None);
    println!("race: with the canary {passed:?} passed {ROUNDS} large ones");
    // That what it is made of may be old can show itself before.
    assert!(passed.is_err() || passed.is_ok_and(|passed| passed > 0), "nobody noticed");
}
