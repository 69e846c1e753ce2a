//! A read without a copy that spans folios takes one region of memory. It waited 30 s and failed with
//! `OutOfMemory` while two thirds of the budget were free: single blocks that were dirty or on their
//! way home lay scattered over the arena, and nothing sent them home, because by count memory was not
//! low. Whoever waits for memory makes it low.

mod support;

use foliant_device::sim::SimDisk;
use foliant_device::sim::SimOptions;
use support::BLOCK;

const MIB: u64 = 1 << 20;
const ROUNDS: u64 = 60;

#[test]
fn blocks_on_their_way_home_do_not_keep_a_reader_waiting() {
    support::simulate(async {
        let disk = SimDisk::new(support::DEVICE_BLOCKS, SimOptions::default());
        support::format(&disk).await;
        let engine = support::open(&disk).await.expect("open");
        let large = engine.create("large").await.expect("create");
        let small = engine.create("small").await.expect("create");
        for at in 0..6 {
            large.write_at(at * MIB, &vec![at as u8 + 1; MIB as usize]).await.expect("write");
        }
        small.write_at(0, &vec![9; 4 * ROUNDS as usize * BLOCK]).await.expect("write");
        engine.sync().await.expect("sync");
        let mut bytes = vec![0; 160 << 10];
        for round in 0..ROUNDS {
            // Memory is full of clean folios, so each commit takes what was evicted last, anywhere.
            large.read_at(round * 100_000 % (5 * MIB), &mut bytes).await.expect("read");
            let mut transaction = engine.transaction();
            transaction.write_at(&small, 4 * round * BLOCK as u64, b"new").expect("it fits");
            transaction.commit().await.expect("commit").durable().await.expect("durable");
        }
        for at in 0..5 {
            let started = tokio::time::Instant::now();
            // Off the edges of folios, so that no single one holds it.
            let from = at * MIB + 5;
            let seen = large.read(from..from + MIB - 10).await.expect("there is memory");
            assert!(seen.iter().all(|&byte| byte == at as u8 + 1));
            let waited = started.elapsed().as_secs();
            assert!(waited < 5, "the reader waited {waited} s");
        }
        engine.close().await.expect("close");
    });
}
