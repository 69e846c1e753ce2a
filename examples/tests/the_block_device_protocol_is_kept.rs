//! Every option and every command of the block device server, sound ones and wrong ones, through a
//! real socket.
#![allow(clippy::unwrap_used)] // In a test, a failed unwrap is the failed test.

mod support;

use foliant::Engine;
use foliant::ExtentState;
use foliant_examples::nbd::limits::PAYLOAD_BYTES_MAX;
use foliant_examples::nbd::wire;
use support::Dice;
use support::MIB;
use support::engine_in_memory;
use support::nbd::Client;
use support::nbd::TERMS;
use support::nbd::counted;
use support::nbd::serve;

const EPERM: u32 = 1;
const EINVAL: u32 = 22;
const ENOSPC: u32 = 28;
const EOVERFLOW: u32 = 75;
const ENOTSUP: u32 = 95;
const ESHUTDOWN: u32 = 108;

async fn engine_with(exports: &[(&str, u64)]) -> Engine {
    let (_, engine) = engine_in_memory(64 * MIB, 16 * MIB).await;
    for (name, size) in exports {
        engine.create(name).await.unwrap().truncate(*size).await.unwrap();
    }
    engine
}

#[tokio::test]
async fn options_are_answered() {
    let engine = engine_with(&[("a", 10_000), ("b ü/", 1 << 40)]).await;
    // Names that the protocol cannot say.
    engine.create(b"\xff").await.unwrap();
    engine.create(b"with\0zero").await.unwrap();
    let served = serve(&engine, "options", false, TERMS).await;
    let mut client = served.client().await;

    let names = client.option(wire::OPT_LIST, b"").await;
    let expected = [counted("a"), counted("b ü/")].map(|name| (wire::REP_SERVER, name));
    assert_eq!((&names[..2], names[2].0), (&expected[..], wire::REP_ACK));
    let refused = |answers: Vec<(u32, Vec<u8>)>| answers[0].0;
    for option in [wire::OPT_STARTTLS, 4, 11, 77, u32::MAX] {
        assert_eq!(refused(client.option(option, b"").await), wire::REP_ERR_UNSUP, "{option}");
    }
    assert_eq!(refused(client.option(wire::OPT_LIST, b"x").await), wire::REP_ERR_INVALID);
    let long = vec![0; 100_000];
    assert_eq!(refused(client.option(wire::OPT_GO, &long).await), wire::REP_ERR_TOO_BIG);
    for missing in ["nobody", "", "with", &"x".repeat(300)] {
        let mut data = counted(missing);
        data.extend([0, 0]);
        assert_eq!(refused(client.option(wire::OPT_INFO, &data).await), wire::REP_ERR_UNKNOWN);
    }
    let unspeakable = b"\0\0\0\x01\xff\0\0";
    assert_eq!(refused(client.option(wire::OPT_INFO, unspeakable).await), wire::REP_ERR_INVALID);

    let mut data = counted("b ü/");
    data.extend([0, 2, 0, 3, 0, 1]);
    let answers = client.option(wire::OPT_INFO, &data).await;
    assert_eq!(answers[0].1[2..10], (1_u64 << 40).to_be_bytes());
    assert_eq!(answers[1].1, [0, 3, 0, 0, 0, 1, 0, 0, 16, 0, 2, 0, 0, 0]);
    assert_eq!(answers[2].1, [&[0, 1][..], "b ü/".as_bytes()].concat());

    let mut query = counted("a");
    query.extend(0_u32.to_be_bytes());
    let early = client.option(wire::OPT_LIST_META_CONTEXT, &query).await;
    assert_eq!(refused(early), wire::REP_ERR_INVALID, "needs structured replies");
    client.choose("a").await;
    assert_eq!(client.size, 10_000);
    assert_eq!(client.flags, 0b1101_1110_1101);
    client.request(wire::CMD_DISC, 0, 0, 0).await;
    assert!(client.is_over().await);

    let mut leaving = served.client().await;
    assert_eq!(leaving.option(wire::OPT_ABORT, b"").await, [(wire::REP_ACK, vec![])]);
    assert!(leaving.is_over().await);
    served.ended().await;
    engine.close().await.unwrap();
}

/// The oldest way to choose, and the plainest replies.
#[tokio::test]
async fn export_name_and_simple_replies() {
    let engine = engine_with(&[("only", MIB)]).await;
    let served = serve(&engine, "plain", false, TERMS).await;
    for name in ["only", ""] {
        let mut client = served.client().await;
        client.send_option(wire::OPT_EXPORT_NAME, name.as_bytes()).await;
        assert_eq!(client.u64().await, MIB);
        let flags = u16::from_be_bytes(client.take(2).await.try_into().unwrap());
        assert_eq!(flags & wire::EXPORT_SEND_DF, 0, "without structured replies");
        assert_eq!(client.write(0, 5, b"hello").await, 0);
        client.request(wire::CMD_READ, 0, 4, 7).await;
        let reply = client.reply().await;
        assert_eq!((reply.errno, client.take(7).await), (0, b"\0hello\0".to_vec()));
        assert_eq!(client.call(wire::CMD_READ, 0, MIB, 1).await.errno, EINVAL);
        assert_eq!(client.call(wire::CMD_BLOCK_STATUS, 0, 0, 1).await.errno, EINVAL);
    }
    let mut client = served.client().await;
    client.send_option(wire::OPT_EXPORT_NAME, b"nobody").await;
    assert!(client.is_over().await);
    // A client from before the flag: 124 zeroes follow.
    let mut old = served.client().await;
    old.send_option(wire::OPT_LIST, b"").await;
    drop(old);
    served.ended().await;
    engine.close().await.unwrap();
}

#[tokio::test]
async fn wrong_requests_hear_why_and_the_connection_stays_in_step() {
    let engine = engine_with(&[("disk", 64 * MIB)]).await;
    let served = serve(&engine, "wrong", false, TERMS).await;
    let mut client = served.chosen("disk").await;
    let end = client.size;
    for (kind, flags, offset, len, errno) in [
        (wire::CMD_READ, 0, end, 1, EINVAL),
        (wire::CMD_READ, 0, u64::MAX, 2, EINVAL),
        (wire::CMD_READ, 0, 0, 0, EINVAL),
        (wire::CMD_READ, 0, 0, PAYLOAD_BYTES_MAX + 1, EOVERFLOW),
        (wire::CMD_READ, 1 << 7, 0, 1, EINVAL),
        (wire::CMD_TRIM, 0, end - 1, 2, EINVAL),
        (wire::CMD_CACHE, 0, end, 4096, EINVAL),
        (wire::CMD_WRITE_ZEROES, 0, end - 1, 2, ENOSPC),
        (wire::CMD_BLOCK_STATUS, 0, end, 1, EINVAL),
        (8, 0, 0, 1, EINVAL),
        (0xffff, 0xffff, u64::MAX, u32::MAX, EINVAL),
        (wire::CMD_FLUSH, 0, 0, 0, 0),
        (wire::CMD_READ, wire::CMD_FLAG_DF | wire::CMD_FLAG_FUA, 0, 1, 0),
    ] {
        let reply = client.call(kind, flags, offset, len).await;
        assert_eq!(reply.errno, errno, "{kind} {flags} {offset} {len}");
    }
    // Refused payloads are read to their end.
    assert_eq!(client.write(0, end - 1, b"xy").await, ENOSPC);
    assert_eq!(client.write(1 << 10, 0, &[1; 5000]).await, EINVAL);
    let long = vec![1; PAYLOAD_BYTES_MAX as usize + 1];
    assert_eq!(client.write(0, 0, &long).await, EOVERFLOW);
    // The longest that goes.
    let longest = Dice::new(1).bytes(PAYLOAD_BYTES_MAX as usize);
    assert_eq!(client.write(0, 7, &longest).await, 0);
    assert!(client.read(7, PAYLOAD_BYTES_MAX).await == longest);
    assert!(client.read(0, 7).await == [0; 7]);
    served.ended().await;
    engine.close().await.unwrap();
}

#[tokio::test]
async fn read_only_is_read_only() {
    let engine = engine_with(&[("disk", MIB)]).await;
    engine.object("disk").await.unwrap().write_at(0, b"there").await.unwrap();
    let served = serve(&engine, "read-only", true, TERMS).await;
    let mut client = served.chosen("disk").await;
    assert_ne!(client.flags & wire::EXPORT_READ_ONLY, 0);
    assert_eq!(client.write(0, 0, b"x").await, EPERM);
    for kind in [wire::CMD_TRIM, wire::CMD_WRITE_ZEROES] {
        assert_eq!(client.call(kind, 0, 0, 4096).await.errno, EPERM);
    }
    assert_eq!(client.read(0, 5).await, b"there");
    assert_eq!(client.call(wire::CMD_FLUSH, 0, 0, 0).await.errno, 0);
    served.ended().await;
    engine.close().await.unwrap();
}

/// Random commands, against the bytes that a disk would hold.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_holds_what_was_written() {
    const SIZE: u64 = 4 * MIB + 1000;
    let engine = engine_with(&[("disk", SIZE)]).await;
    let served = serve(&engine, "bytes", false, TERMS).await;
    let mut clients = [served.chosen("disk").await, served.chosen("disk").await];
    let mut disk = vec![0; SIZE as usize];
    let mut dice = Dice::new(21);
    for step in 0..1500 {
        let client = &mut clients[step % 2];
        let len = [1, 100, 4096, 70_000, 300_000][dice.below(5) as usize];
        let len = 1 + dice.below(len);
        let mut at = dice.below(SIZE - len + 1);
        if dice.below(2) == 0 {
            at = at / 4096 * 4096;
        }
        let range = at as usize..(at + len) as usize;
        let fua = dice.below(2) as u16;
        match dice.below(8) {
            0..3 => {
                let bytes = dice.bytes(len as usize);
                assert_eq!(client.write(fua, at, &bytes).await, 0);
                disk[range].copy_from_slice(&bytes);
            }
            3 => {
                let flags = fua | (dice.below(2) as u16 * wire::CMD_FLAG_NO_HOLE);
                let reply = client.call(wire::CMD_WRITE_ZEROES, flags, at, len as u32).await;
                assert_eq!(reply.errno, 0);
                disk[range].fill(0);
            }
            4 => {
                assert_eq!(client.call(wire::CMD_TRIM, fua, at, len as u32).await.errno, 0);
                // What was trimmed may be anything; what lies beside it must stay.
                let found = client.read(at, len as u32).await;
                disk[range].copy_from_slice(&found);
            }
            5 => assert_eq!(client.call(wire::CMD_FLUSH, 0, 0, 0).await.errno, 0),
            6 => assert_eq!(client.call(wire::CMD_CACHE, 0, at, len as u32).await.errno, 0),
            _ => assert!(client.read(at, len as u32).await == disk[range], "step {step}"),
        }
    }
    assert!(clients[0].read(0, SIZE as u32).await == disk);
    served.ended().await;
    engine.close().await.unwrap();
}

#[tokio::test]
async fn fast_zeroes_are_fast_or_refused() {
    let engine = engine_with(&[("disk", 1 << 41)]).await;
    let served = serve(&engine, "fast", false, TERMS).await;
    let mut client = served.chosen("disk").await;
    assert_eq!(client.write(0, 1 << 40, &[7; 100_000]).await, 0);
    let zero = wire::CMD_WRITE_ZEROES;
    let both = wire::CMD_FLAG_FAST_ZERO | wire::CMD_FLAG_NO_HOLE;
    assert_eq!(client.call(zero, both, 1 << 40, 4096).await.errno, ENOTSUP);
    assert_eq!(client.read(1 << 40, 1).await, [7], "and nothing is changed");
    let almost_4_gib = u32::MAX;
    let fast = wire::CMD_FLAG_FAST_ZERO;
    assert_eq!(client.call(zero, fast, (1 << 40) - 5, almost_4_gib).await.errno, 0);
    assert_eq!(client.read(1 << 40, 100_000).await, [0; 100_000]);
    // What has no room in the store cannot be promised room.
    assert_eq!(client.call(zero, wire::CMD_FLAG_NO_HOLE, 0, almost_4_gib).await.errno, ENOSPC);
    assert!(client.map().await.iter().all(|run| run.2 == 3), "and none of it is taken");
    served.ended().await;
    engine.close().await.unwrap();
}

/// A terabyte, of which 64 blocks are there: asked for and trimmed in the few requests that its
/// length takes.
#[tokio::test]
async fn trimming_a_terabyte_costs_what_is_stored() {
    const SIZE: u64 = 1 << 40;
    let engine = engine_with(&[("huge", SIZE)]).await;
    let served = serve(&engine, "huge", false, TERMS).await;
    let mut client = served.chosen("huge").await;
    for number in 0..64 {
        assert_eq!(client.write(0, number * (SIZE / 64), &[1; 4096]).await, 0);
    }
    assert_eq!(client.call(wire::CMD_FLUSH, 0, 0, 0).await.errno, 0);
    assert_eq!(client.map().await.iter().filter(|run| run.2 == 0).count(), 64);
    let started = std::time::Instant::now();
    let mut at = 0;
    while at < SIZE {
        let len = (SIZE - at).min(4096 * (u64::from(u32::MAX) / 4096));
        assert_eq!(client.call(wire::CMD_TRIM, 0, at, len as u32).await.errno, 0);
        at += len;
    }
    println!("trimmed in {:?}", started.elapsed());
    assert!(client.map().await.iter().all(|run| run.2 == 3));
    let object = engine.object("huge").await.unwrap();
    assert_eq!(object.extents(0..SIZE, 10).await.unwrap(), []);
    assert_eq!(object.size(), SIZE);
    served.ended().await;
    engine.close().await.unwrap();
}

/// Block status says what `extents` says, whether flushed or not.
async fn check_map(client: &mut Client, engine: &Engine) {
    let object = engine.object("disk").await.unwrap();
    let mut expected: Vec<(u64, u64, u32)> = Vec::new();
    let mut add = |from: u64, to: u64, state: u32| match expected.last_mut() {
        _ if from >= to => {}
        Some(last) if last.2 == state => last.1 = to,
        _ => expected.push((from, to, state)),
    };
    let mut at = 0;
    for extent in object.extents(0..client.size, 4096).await.unwrap() {
        add(at, extent.range.start, 3);
        let state = if extent.state == ExtentState::Unwritten { 2 } else { 0 };
        at = extent.range.end.min(client.size);
        add(extent.range.start, at, state);
    }
    add(at, client.size, 3);
    assert_eq!(client.map().await, expected);
    for (from, to, state) in expected {
        let one = wire::CMD_FLAG_REQ_ONE;
        let reply = client.call(wire::CMD_BLOCK_STATUS, one, from, (to - from) as u32).await;
        assert_eq!(reply.runs[0].1, state);
        assert_eq!(reply.runs.len(), 1);
        if state != 0 {
            assert!(client.read(from, (to - from) as u32).await.iter().all(|&byte| byte == 0));
        }
    }
}

#[tokio::test]
async fn block_status_agrees_with_extents() {
    let engine = engine_with(&[("disk", 8 * MIB + 123)]).await;
    let served = serve(&engine, "status", false, TERMS).await;
    let mut client = served.chosen("disk").await;
    let mut dice = Dice::new(3);
    check_map(&mut client, &engine).await;
    for round in 0..40 {
        let len = 1 + dice.below(200_000);
        let at = dice.below(client.size - len + 1);
        match dice.below(4) {
            0 | 1 => assert_eq!(client.write(0, at, &dice.bytes(len as usize)).await, 0),
            2 => assert_eq!(client.call(wire::CMD_TRIM, 0, at, len as u32).await.errno, 0),
            _ => assert_eq!(client.call(wire::CMD_WRITE_ZEROES, 0, at, len as u32).await.errno, 0),
        }
        if round % 3 == 0 {
            assert_eq!(client.call(wire::CMD_FLUSH, 0, 0, 0).await.errno, 0);
        }
        check_map(&mut client, &engine).await;
    }
    // Room that is kept, partly written: what is in the cache is data before it is stored.
    let keep = wire::CMD_FLAG_NO_HOLE;
    assert_eq!(client.call(wire::CMD_TRIM, 0, 0, client.size as u32).await.errno, 0);
    assert_eq!(client.call(wire::CMD_WRITE_ZEROES, keep, 0, MIB as u32).await.errno, 0);
    check_map(&mut client, &engine).await;
    assert_eq!(client.write(0, 64 << 10, &[1; 8192]).await, 0);
    let map = client.map().await;
    let at = 64 << 10;
    let expected = [(0, at, 2), (at, at + 8192, 0), (at + 8192, MIB, 2), (MIB, client.size, 3)];
    assert_eq!(map, expected);
    served.ended().await;
    engine.close().await.unwrap();
}

/// A full store says so, keeps what it had, and takes writes again when something was trimmed.
#[tokio::test]
async fn a_full_store_says_so_and_goes_on() {
    let engine = engine_with(&[("disk", 256 * MIB)]).await;
    let served = serve(&engine, "full", false, TERMS).await;
    let mut client = served.chosen("disk").await;
    let mut written = 0;
    let piece = Dice::new(9).bytes(MIB as usize);
    loop {
        match client.write(0, written * MIB, &piece).await {
            0 => written += 1,
            ENOSPC => break,
            other => panic!("errno {other}"),
        }
    }
    assert!((20..64).contains(&written), "{written} MiB of a store of 64");
    assert_eq!(client.call(wire::CMD_FLUSH, 0, 0, 0).await.errno, 0);
    for number in 0..written {
        assert!(client.read(number * MIB, MIB as u32).await == piece, "{number}");
    }
    assert_eq!(client.call(wire::CMD_TRIM, 1, 0, 8 * MIB as u32).await.errno, 0);
    assert_eq!(client.write(1, 0, &piece).await, 0);
    served.ended().await;
    engine.close().await.unwrap();
}

#[tokio::test]
async fn a_stopping_server_answers_what_was_begun_and_refuses_the_rest() {
    let engine = engine_with(&[("disk", 8 * MIB)]).await;
    let served = serve(&engine, "stop", false, TERMS).await;
    let mut working = served.chosen("disk").await;
    let mut asking = served.client().await;
    let mut writes = Vec::new();
    for number in 0..16_u64 {
        let cookie = working.request(wire::CMD_WRITE, 1, number * 4096, 4096).await;
        working.send(&[number as u8; 4096]).await;
        writes.push(cookie);
    }
    // All of them are begun when the first is answered or when the server looks next.
    let first = working.reply().await;
    assert_eq!(first.errno, 0);
    served.stop.cancel();
    writes.retain(|&cookie| cookie != first.cookie);
    let late = working.request(wire::CMD_READ, 0, 0, 1).await;
    let answer = asking.option(wire::OPT_LIST, b"").await;
    assert_eq!(answer[0].0, wire::REP_ERR_SHUTDOWN);
    let mut done = 1;
    for _ in 0..writes.len() + 1 {
        let reply = working.reply().await;
        match reply.errno {
            0 => done += 1,
            errno => assert_eq!(errno, ESHUTDOWN),
        }
        assert!(reply.cookie != late || reply.errno == ESHUTDOWN, "{reply:?}");
    }
    assert!(working.is_over().await);
    assert!(asking.is_over().await);
    served.ended().await;
    // What was said to be done is there.
    let object = engine.object("disk").await.unwrap();
    let mut bytes = vec![0; 16 * 4096];
    object.read_at(0, &mut bytes).await.unwrap();
    let found = bytes.chunks(4096).zip(0..).skip(1).filter(|(b, n)| b.iter().all(|b| b == n));
    assert!(found.count() + 1 >= done, "{done} were answered");
    engine.close().await.unwrap();
}
