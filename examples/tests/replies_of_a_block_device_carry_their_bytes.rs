//! Many requests of each connection on their way at once, small and large, cached and not, beside writes: every
//! reply names its request and carries the bytes of that request; and who does not fetch them keeps little of
//! the memory that all share.
#![allow(clippy::unwrap_used)] // In a test, a failed unwrap is the failed test.

mod support;

use std::collections::HashMap;
use std::ops::Range;
use std::time::Duration;
use std::time::Instant;

use foliant::Engine;
use foliant_examples::nbd::wire;
use support::Dice;
use support::MIB;
use support::engine_in_memory;
use support::nbd::Client;
use support::nbd::Served;
use support::nbd::TERMS;
use support::nbd::serve;

/// Larger than the memory: some is cached, most is not.
const DISK_BYTES: u64 = 40 * MIB;
/// Below lies what is only read, behind it what is written.
const WRITTEN_FROM: u64 = 20 * MIB;

/// The byte at `at`: another one in neighbouring blocks, and in neighbouring bytes.
fn byte(at: u64) -> u8 {
    (at.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8
}

fn bytes(range: Range<u64>) -> Vec<u8> {
    range.map(byte).collect()
}

async fn filled(name: &str) -> (Engine, Served) {
    let (_, engine) = engine_in_memory(96 * MIB, 16 * MIB).await;
    let disk = engine.create("disk").await.unwrap();
    disk.truncate(DISK_BYTES).await.unwrap();
    for at in (0..DISK_BYTES).step_by(MIB as usize) {
        disk.write_at(at, &bytes(at..at + MIB)).await.unwrap();
    }
    disk.sync().await.unwrap();
    let served = serve(&engine, name, false, TERMS).await;
    (engine, served)
}

/// What a reply to a request has to say.
enum Expected {
    Bytes(Range<u64>),
    Done,
}

/// Sends one request of a mix; gives its cookie.
async fn ask(client: &mut Client, dice: &mut Dice) -> (u64, Expected) {
    let len = match dice.below(4) {
        0 => 4096,
        1 => 1 + dice.below(40_000),
        2 => 32 << 10,
        _ => 1 + dice.below(700_000),
    };
    match dice.below(4) {
        0 => {
            let at = WRITTEN_FROM + dice.below(DISK_BYTES - WRITTEN_FROM - len);
            let fua = wire::CMD_FLAG_FUA * (dice.below(8) == 0) as u16;
            let cookie = client.request(wire::CMD_WRITE, fua, at, len as u32).await;
            client.send(&bytes(at..at + len)).await;
            (cookie, Expected::Done)
        }
        1 if dice.below(3) == 0 => (client.request(wire::CMD_FLUSH, 0, 0, 0).await, Expected::Done),
        _ => {
            let at = dice.below(DISK_BYTES - len);
            (client.request(wire::CMD_READ, 0, at, len as u32).await, Expected::Bytes(at..at + len))
        }
    }
}

/// What is written is what was there, so that whatever goes first a read has one answer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_reply_has_the_bytes_of_its_request() {
    let (engine, served) = filled("mixed").await;
    let clients = (0..3_u64).map(|number| {
        let path = served.path.clone();
        tokio::spawn(async move {
            let mut client = Client::connect(&path).await;
            client.choose("disk").await;
            let mut dice = Dice::new(500 + number);
            for _ in 0..12 {
                let mut open = HashMap::new();
                for _ in 0..40 {
                    let (cookie, expected) = ask(&mut client, &mut dice).await;
                    open.insert(cookie, expected);
                }
                for _ in 0..40 {
                    let reply = client.reply().await;
                    let expected = open.remove(&reply.cookie).expect("asked, and not answered");
                    assert_eq!(reply.errno, 0);
                    match expected {
                        Expected::Bytes(range) => {
                            assert!(reply.data == bytes(range.clone()), "bytes {range:?}");
                        }
                        Expected::Done => assert!(reply.data.is_empty()),
                    }
                }
            }
        })
    });
    for client in clients.collect::<Vec<_>>() {
        client.await.unwrap();
    }
    served.ended().await;
    engine.close().await.unwrap();
}

/// Their replies lie in the engine's memory, and only some of it may be kept for them: without a bound eight
/// such clients keep all of it, and others wait for memory until they are refused.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_does_not_fetch_replies_leaves_the_memory_to_others() {
    const LEN: u64 = 256 << 10;
    let (engine, served) = filled("unfetched").await;
    let mut slow = Vec::new();
    for _ in 0..8 {
        let mut client = served.chosen("disk").await;
        let mut open = HashMap::new();
        for number in 0..60 {
            let at = number * (DISK_BYTES / 60) / LEN * LEN;
            open.insert(client.request(wire::CMD_READ, 0, at, LEN as u32).await, at);
        }
        slow.push((client, open));
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    let started = Instant::now();
    let mut other = served.chosen("disk").await;
    for at in (0..DISK_BYTES).step_by(MIB as usize) {
        assert!(other.read(at, MIB as u32).await == bytes(at..at + MIB));
        assert_eq!(other.write(0, at, &bytes(at..at + MIB)).await, 0);
    }
    assert_eq!(other.call(wire::CMD_FLUSH, 0, 0, 0).await.errno, 0);
    assert!(started.elapsed() < Duration::from_secs(20), "{:?}", started.elapsed());
    // What they have coming is still what was there.
    for (client, open) in &mut slow {
        for _ in 0..60 {
            let reply = client.reply().await;
            let at = open.remove(&reply.cookie).unwrap();
            assert!(reply.data == bytes(at..at + LEN));
        }
    }
    drop(slow);
    served.ended().await;
    engine.close().await.unwrap();
}
