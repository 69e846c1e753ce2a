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

/// Clients, each with one transaction at a time: most of them with small ones, which fit where the large one does
/// not, the others with some that fill the log.
const CLIENTS: u64 = 12;
const FILLERS: u64 = 2;
const FILLER: usize = 8;
/// Blocks of the large one.
const LARGE: usize = 24;
/// Large ones, one after the other.
const ROUNDS: u8 = 12;

/// Accepts a transaction; nobody waits until it is durable, or the log would not fill.
async fn accept(engine: &Engine, object: &Object, block: u64, bytes: usize, byte: u8) -> bool {
    let mut transaction = engine.transaction();
    transaction.write_at(object, block * BLOCK as u64, &vec![byte; bytes]).unwrap();
    transaction.commit().await.is_ok()
}

/// Who asked when, by number.
#[derive(Default)]
struct Line {
    asked: Cell<u64>,
    /// When the large one asked that waits now, if one does.
    large: Cell<Option<u64>>,
    /// Others that asked later than the large one and were accepted before it.
    passed: Cell<u64>,
    over: Cell<bool>,
}

impl Line {
    fn ask(&self) -> u64 {
        self.asked.set(self.asked.get() + 1);
        self.asked.get()
    }

    fn accepted(&self, asked: u64) {
        if self.large.get().is_some_and(|large| large < asked) {
            self.passed.set(self.passed.get() + 1);
        }
    }
}

/// How many transactions passed a large one that had asked before them.
async fn passed() -> u64 {
    let disk = SimDisk::new(DEVICE_BLOCKS, SimOptions::default());
    format(&disk).await;
    let engine = open(&disk).await.unwrap();
    let object = engine.create("object").await.unwrap();
    let blocks = LARGE + CLIENTS as usize * FILLER;
    object.write_at(0, &vec![1; blocks * BLOCK]).await.unwrap();
    object.sync().await.unwrap();
    // Bringing blocks home is slow, so that the log is full most of the time.
    let home = 32 + JOURNAL_BYTES / BLOCK as u64..DEVICE_BLOCKS;
    let slow = FaultRule::new(Fault::Delay { ms: 200 }).on(Operation::Write);
    disk.inject(slow.blocks(home).always());
    let line = Rc::new(Line::default());
    let mut clients = JoinSet::new();
    for client in 0..CLIENTS {
        let block = LARGE as u64 + client * FILLER as u64;
        let bytes = if client < FILLERS { FILLER * BLOCK } else { 100 };
        let (engine, object, line) = (engine.clone(), object.clone(), line.clone());
        clients.spawn_local(async move {
            let mut byte = 0_u8;
            while !line.over.get() {
                let asked = line.ask();
                if !accept(&engine, &object, block, bytes, byte).await {
                    return;
                }
                line.accepted(asked);
                byte = byte.wrapping_add(1);
                tokio::task::yield_now().await;
            }
        });
    }
    for round in 0..ROUNDS {
        tokio::time::sleep(Duration::from_millis(130)).await;
        line.large.set(Some(line.ask()));
        assert!(accept(&engine, &object, 0, LARGE * BLOCK, round).await, "a large one is refused");
        line.large.set(None);
    }
    line.over.set(true);
    while clients.join_next().await.is_some() {}
    assert!(engine.stats().checkpoints > 5, "the log was never full");
    line.passed.get()
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
