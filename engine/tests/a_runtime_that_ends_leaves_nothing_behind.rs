//! The runtime goes away while an engine writes, without a close: the store opens again in the same process, what
//! was synced is there, and the memory of the old engine is given back.
//!
//! Alone in its file, because it looks at the memory of the whole process.
#![allow(clippy::unwrap_used)] // In a test, a failed unwrap is the failed test.

use std::path::Path;

use foliant::Engine;
use foliant::units::BLOCK;
use tokio::runtime::Builder;

const MEMORY: u64 = 16 << 20;
const ROUNDS: u64 = 24;
const BLOCKS: u64 = 512;

/// Memory of this process, in bytes.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() << 10
}

fn content(round: u64) -> Vec<u8> {
    vec![round as u8 + 1; (BLOCKS * BLOCK) as usize]
}

/// One life: compares what the last one synced, syncs its own, and is writing when it ends.
async fn live(path: &Path, round: u64) {
    let engine = Engine::open(path).memory_bytes(MEMORY).run().await.unwrap();
    if round > 0 {
        let object = engine.object("synced").await.unwrap();
        let mut found = vec![0; (BLOCKS * BLOCK) as usize];
        object.read_at(0, &mut found).await.unwrap();
        assert!(found == content(round - 1), "round {round}");
        engine.remove("synced").await.unwrap();
    }
    let object = engine.create("synced").await.unwrap();
    object.write_at(0, &content(round)).await.unwrap();
    object.sync().await.unwrap();
    let dirty = engine.create(format!("dirty {round}")).await.unwrap();
    dirty.write_at(0, &content(round)).await.unwrap();
    // A batch is on its way when its task goes.
    let sync = tokio::spawn(async move { dirty.sync().await });
    tokio::time::sleep(std::time::Duration::from_micros(200 * (round % 8))).await;
    drop(sync);
}

/// A batch whose task went with its runtime kept its claims by leaking them, because the device may still write
/// there; and with the claims the free space, the metadata, the memory and the device of the engine.
#[test]
fn regression_an_engine_that_was_writing_gives_its_memory_back() {
    let path = std::env::temp_dir().join(format!("foliant-runtime-{}", std::process::id()));
    let mut at_first = 0;
    for round in 0..ROUNDS {
        let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(async {
            if round == 0 {
                Engine::format(&path).size_bytes(256 << 20).run().await.unwrap();
            }
            live(&path, round).await;
        });
        drop(runtime);
        if round == 3 {
            at_first = resident();
        }
    }
    let grown = resident().saturating_sub(at_first);
    println!("{} MiB more after {} rounds", grown >> 20, ROUNDS - 4);
    assert!(grown < 2 * MEMORY, "{} MiB are left behind", grown >> 20);
    std::fs::remove_file(&path).unwrap();
}
