//! Values that are objects of their own: what clients see of them, and that nothing of them is left.
#![allow(clippy::unwrap_used)] // In a test, a failed unwrap is the failed test.

mod support;

use std::collections::BTreeMap;

use bytes::Bytes;
use foliant_examples::kv::limits::PATCH_BYTES_MAX;
use foliant_examples::kv::op::Expiry;
use foliant_examples::kv::op::Op;
use foliant_examples::kv::op::Outcome;
use foliant_examples::kv::op::When;
use foliant_examples::kv::store::Store;
use foliant_examples::kv::value::Value;
use support::Dice;
use support::MIB;
use support::engine_in_memory;
use support::large::all_is_tidy;
use support::large::ask;
use support::large::command;
use support::large::objects;
use support::large::reply;
use support::served::START;
use support::served::start;
use support::served::talk;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

async fn is(stream: &mut TcpStream, words: &[&[u8]], line: &str) {
    let name = String::from_utf8_lossy(words[0]).into_owned();
    assert_eq!(ask(stream, words).await.0, line, "{name}");
}

/// The commands on values, against plain vectors: sizes around every limit, parts at every place.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn parts_are_where_they_were_put() {
    let mut server = start().await;
    let (mut dice, mut model) = (Dice::new(1), BTreeMap::<u64, Vec<u8>>::new());
    for round in 0..3 {
        let mut one = server.connect().await;
        for _ in 0..60 {
            let id = dice.below(3);
            let key = format!("key{id}").into_bytes();
            let value = model.entry(id).or_default();
            let most = [100, 33_000, PATCH_BYTES_MAX as u64 + 5000, 1_300_000];
            let most = most[dice.below(4) as usize];
            let len = dice.below(most) as usize + 1;
            let part = dice.bytes(len);
            match dice.below(4) {
                0 => {
                    is(&mut one, &[b"SET", &key, &part], "+OK").await;
                    *value = part;
                }
                1 if value.len() < 4_000_000 => {
                    value.extend_from_slice(&part);
                    let len = format!(":{}", value.len());
                    is(&mut one, &[b"APPEND", &key, &part], &len).await;
                }
                _ => {
                    let at = dice.below(value.len() as u64 + 50_000) as usize;
                    value.resize(value.len().max(at + part.len()), 0);
                    value[at..at + part.len()].copy_from_slice(&part);
                    let (at, len) = (at.to_string(), format!(":{}", value.len()));
                    is(&mut one, &[b"SETRANGE", &key, at.as_bytes(), &part], &len).await;
                }
            }
            let from = dice.below(value.len() as u64) as usize;
            let to = (from + dice.below(400_000) as usize).min(value.len() - 1);
            let (from_text, to_text) = (from.to_string(), to.to_string());
            let get: [&[u8]; 4] = [b"GETRANGE", &key, from_text.as_bytes(), to_text.as_bytes()];
            assert!(ask(&mut one, &get).await.1 == value[from..=to], "{from}..={to}");
        }
        all_is_tidy(&server.store).await;
        server = server.restart().await;
        for (id, value) in &model {
            let key = format!("key{id}");
            let mut one = server.connect().await;
            assert!(ask(&mut one, &[b"GET", key.as_bytes()]).await.1 == *value, "round {round}");
            let len = format!(":{}", value.len());
            is(&mut one, &[b"STRLEN", key.as_bytes()], &len).await;
        }
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_left_of_what_goes() {
    let server = start().await;
    let mut one = server.connect().await;
    let large = vec![b'v'; 100_000];
    let (store, count) = (server.store.clone(), |n| (n, n as u64));
    for step in 0..5 {
        for key in [&b"a"[..], b"b", b"c"] {
            is(&mut one, &[b"SET", key, &large], "+OK").await;
        }
        let (what, left) = match step {
            0 => (&[&b"SET"[..], b"a", b"small"][..], count(2)),
            1 => (&[&b"DEL"[..], b"a", b"b", b"c"][..], count(0)),
            2 => (&[&b"RENAME"[..], b"a", b"b"][..], count(2)),
            3 => (&[&b"FLUSHALL"[..]][..], count(0)),
            _ => (&[&b"PEXPIRE"[..], b"a", b"10"][..], count(3)),
        };
        ask(&mut one, what).await;
        assert_eq!(all_is_tidy(&store).await, left.1, "step {step}");
    }
    assert_eq!(ask(&mut one, &[b"GET", b"a"]).await.1, large);
    server.pass(11);
    assert_eq!(ask(&mut one, &[b"GET", b"a"]).await.0, "$-1");
    // The reader has named it to the sweep.
    for _ in 0..500 {
        if store.larges() == 2 {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    assert_eq!(all_is_tidy(&store).await, 2);
    // What a condition refuses, and what an argument spoils.
    is(&mut one, &[b"SET", b"b", &large, b"NX"], "$-1").await;
    is(&mut one, &[b"SET", b"d", &large, b"XX"], "$-1").await;
    let huge = vec![b'h'; 2_000_000];
    is(&mut one, &[b"SETNX", b"b", &huge], ":0").await;
    is(&mut one, &[b"SET", b"b", &huge, b"NOSUCH"], "-ERR syntax error").await;
    is(&mut one, &[b"ECHO", &huge], "-ERR an argument of 'echo' is too long").await;
    is(&mut one, &[b"SET", &huge, b"x"], "-ERR an argument of 'set' is too long").await;
    is(&mut one, &[b"SET", &[b'k'; 513], &huge], "-ERR a key has 1 to 512 bytes, this one 513")
        .await;
    is(&mut one, &[b"MSETNX", b"e", &huge, b"f", b"1", b"g", &huge], ":1").await;
    assert_eq!(ask(&mut one, &[b"GET", b"g"]).await.1, huge);
    assert_eq!(all_is_tidy(&store).await, 4);
    // More at once than one transaction of the log could name.
    let keys: Vec<String> = (0..70).map(|i| format!("many{i}")).collect();
    for _ in 0..2 {
        let mut words = vec![&b"MSET"[..]];
        keys.iter().for_each(|key| words.extend([key.as_bytes(), &large[..40_000]]));
        is(&mut one, &words, "+OK").await;
    }
    assert_eq!(all_is_tidy(&store).await, 74);
    let words: Vec<&[u8]> =
        [&b"DEL"[..]].into_iter().chain(keys.iter().map(|k| k.as_bytes())).collect();
    is(&mut one, &words, ":70").await;
    assert_eq!(all_is_tidy(&store).await, 4);
    drop(store);
    let server = server.restart().await;
    assert_eq!(all_is_tidy(&server.store).await, 4);
    server.stop().await;
}

/// Each reply of a transaction is of its place in it, sent when all of it has happened.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_reads_its_own_parts() {
    let server = start().await;
    let mut one = server.connect().await;
    let large = vec![b'v'; 2_000_000];
    is(&mut one, &[b"SET", b"k", &large], "+OK").await;
    talk(&mut one, "MULTI => +OK").await;
    let commands: [&[&[u8]]; 8] = [
        &[b"SETRANGE", b"k", b"5", b"abc"],
        &[b"GETRANGE", b"k", b"4", b"8"],
        &[b"SETRANGE", b"k", b"6", b"XY"],
        &[b"GETRANGE", b"k", b"4", b"8"],
        &[b"APPEND", b"k", b"end"],
        &[b"GETRANGE", b"k", b"-4", b"-1"],
        &[b"GETDEL", b"k"],
        &[b"SET", b"k", &large],
    ];
    for words in commands {
        is(&mut one, words, "+QUEUED").await;
    }
    is(&mut one, &[b"EXEC"], "*8").await;
    let mut after = large.clone();
    after[5..8].copy_from_slice(b"aXY");
    after.extend_from_slice(b"end");
    let bulk = |text: &[u8]| (format!("${}", text.len()), text.to_vec());
    let line = |text: &str| (text.to_owned(), Vec::new());
    let replies = [
        line(":2000000"),
        bulk(b"vabcv"),
        line(":2000000"),
        bulk(b"vaXYv"),
        line(":2000003"),
        bulk(b"vend"),
        bulk(&after),
        line("+OK"),
    ];
    for (index, expected) in replies.into_iter().enumerate() {
        assert!(reply(&mut one).await.unwrap() == expected, "reply {index}");
    }
    assert!(ask(&mut one, &[b"GET", b"k"]).await.1 == large);
    assert_eq!(all_is_tidy(&server.store).await, 1);
    server.stop().await;
}

/// Who reads has the value that there was, whatever becomes of it, and it goes with the last reader.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_keeps_what_it_began_to_read() {
    let server = start().await;
    let (store, mut one) = (server.store.clone(), server.connect().await);
    let mut dice = Dice::new(2);
    let pinned = async || match store.entry(b"k", true).await.unwrap().unwrap().value {
        Value::Large(large) => large,
        Value::Bytes(bytes) => panic!("{} bytes in memory", bytes.len()),
    };
    let mut value = dice.bytes(600_000);
    is(&mut one, &[b"SET", b"k", &value], "+OK").await;
    let mut readers = vec![(pinned().await, value.clone())];
    for _ in 0..12 {
        let at = dice.below(value.len() as u64 + 1000) as usize;
        let len = 1 + dice.below(50_000) as usize;
        let part = dice.bytes(len);
        value.resize(value.len().max(at + len), 0);
        value[at..at + len].copy_from_slice(&part);
        let len = format!(":{}", value.len());
        is(&mut one, &[b"SETRANGE", b"k", at.to_string().as_bytes(), &part], &len).await;
        readers.push((pinned().await, value.clone()));
    }
    // By a copy, by another value, by all keys going.
    let part = dice.bytes(PATCH_BYTES_MAX + 100_000);
    value[..part.len()].copy_from_slice(&part);
    is(&mut one, &[b"SETRANGE", b"k", b"0", &part], &format!(":{}", value.len())).await;
    readers.push((pinned().await, value.clone()));
    is(&mut one, &[b"SET", b"k", &[b'x'; 50_000]], "+OK").await;
    readers.push((pinned().await, vec![b'x'; 50_000]));
    is(&mut one, &[b"FLUSHALL"], "+OK").await;
    store.shelf().settled().await;
    assert_eq!(store.larges(), 0);
    let [_, live, old] = objects(&server.engine).await;
    assert_eq!(live + old, 3, "of each object there are readers");
    for (index, (reader, expected)) in readers.iter().enumerate() {
        assert!(reader.to_bytes().await.unwrap() == *expected, "reader {index}");
    }
    drop(readers);
    assert_eq!(all_is_tidy(&store).await, 0);
    server.stop().await;
}

/// What readers kept up to the end goes when the store is opened next.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_readers_have_kept_goes_at_the_next_opening() {
    let server = start().await;
    let mut one = server.connect().await;
    let mut kept = Vec::new();
    for after in [&[&b"SET"[..], b"k", b"small"][..], &[b"FLUSHALL"]] {
        is(&mut one, &[b"SET", b"k", &[b'v'; 50_000]], "+OK").await;
        kept.push(server.store.entry(b"k", true).await.unwrap().unwrap());
        is(&mut one, after, "+OK").await;
    }
    server.store.shelf().settled().await;
    let [new, live, old] = objects(&server.engine).await;
    assert_eq!([new, live + old], [0, 2]);
    let server = server.restart().await;
    drop(kept);
    assert_eq!(all_is_tidy(&server.store).await, 0);
    server.stop().await;
}

/// Writers and readers of one large value at once: each read is one state, and all is tidy in the end.
#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn readers_beside_writers_see_one_state() {
    let server = start().await;
    let mut writer = server.connect().await;
    // Bytes at both ends always agree: a state in between would show.
    let mut value = vec![0_u8; 700_000];
    is(&mut writer, &[b"SET", b"k", &value], "+OK").await;
    let readers: Vec<_> = (0..2)
        .map(|_| {
            let store = server.store.clone();
            tokio::spawn(async move {
                for _ in 0..150 {
                    let Some(value) = store.get(b"k").await.unwrap() else { continue };
                    assert_eq!(value[0], value[value.len() - 1], "a state in between");
                    assert!(value[1..100].iter().all(|byte| *byte == value[0]));
                }
            })
        })
        .collect();
    for round in 1..200_u8 {
        let end = (value.len() - 1).to_string();
        let part = [round; 100];
        talk(&mut writer, "MULTI => +OK").await;
        is(&mut writer, &[b"SETRANGE", b"k", b"0", &part], "+QUEUED").await;
        match round % 10 {
            0 => is(&mut writer, &[b"APPEND", b"k", &part], "+QUEUED").await,
            _ => is(&mut writer, &[b"SETRANGE", b"k", end.as_bytes(), &[round]], "+QUEUED").await,
        }
        is(&mut writer, &[b"EXEC"], "*2").await;
        reply(&mut writer).await.unwrap();
        reply(&mut writer).await.unwrap();
        if round % 10 == 0 {
            value.extend_from_slice(&part);
        }
        if round % 25 == 0 {
            value = vec![round; 600_000 + usize::from(round)];
            is(&mut writer, &[b"SET", b"k", &value], "+OK").await;
        }
    }
    for reader in readers {
        reader.await.unwrap();
    }
    assert_eq!(all_is_tidy(&server.store).await, 1);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_leaves_in_the_middle_leaves_nothing() {
    let server = start().await;
    let value = vec![b'v'; 3_000_000];
    let bytes = command(&[b"SET", b"k", &value]);
    for part in [100_000, 1_500_000, bytes.len() - 1] {
        let mut stream = server.connect().await;
        stream.write_all(&bytes[..part]).await.unwrap();
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        drop(stream);
    }
    let mut stream = server.connect().await;
    // Badly ended: an error, and the end.
    let mut wrong = bytes.clone();
    wrong.truncate(bytes.len() - 2);
    wrong.extend_from_slice(b"xx");
    stream.write_all(&wrong).await.unwrap();
    let why = "-ERR Protocol error: a bulk string does not end where it should";
    assert_eq!(reply(&mut stream).await.unwrap().0, why);
    for _ in 0..500 {
        if objects(&server.engine).await == [0, 0, 0] {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    assert_eq!(all_is_tidy(&server.store).await, 0);
    let mut stream = server.connect().await;
    is(&mut stream, &[b"EXISTS", b"k"], ":0").await;
    server.stop().await;
}

/// A value that takes more than half of the store can be replaced for ever, after it was removed; one that
/// does not fit is refused, and leaves nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_store_says_so_and_goes_on() {
    let server = start().await;
    let mut one = server.connect().await;
    let large = vec![b'v'; 12 << 20];
    for round in 0..8 {
        is(&mut one, &[b"SET", b"k", &large], "+OK").await;
        assert_eq!(all_is_tidy(&server.store).await, 1, "round {round}");
    }
    let (line, _) = ask(&mut one, &[b"SET", b"other", &vec![b'w'; 80 << 20]]).await;
    assert!(line.starts_with("-OOM"), "{line}");
    assert_eq!(all_is_tidy(&server.store).await, 1);
    assert!(ask(&mut one, &[b"GET", b"k"]).await.1 == large);
    is(&mut one, &[b"DEL", b"k"], ":1").await;
    assert_eq!(all_is_tidy(&server.store).await, 0);
    server.stop().await;
}

/// What a transaction that fails has appended is gone, also from a gap that must be zeroes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_appended_in_vain_does_not_come_back() {
    let server = start().await;
    let mut one = server.connect().await;
    let large = vec![b'v'; 300_000];
    is(&mut one, &[b"SET", b"k", &large], "+OK").await;
    talk(&mut one, "MULTI => +OK").await;
    is(&mut one, &[b"APPEND", b"k", &large], "+QUEUED").await;
    for i in 0..2000 {
        is(&mut one, &[b"SET", format!("{i}").as_bytes(), &[b'f'; 900]], "+QUEUED").await;
    }
    let (line, _) = ask(&mut one, &[b"EXEC"]).await;
    assert!(line.starts_with("-ERR the changes need"), "{line}");
    is(&mut one, &[b"STRLEN", b"k"], ":300000").await;
    is(&mut one, &[b"SETRANGE", b"k", b"350000", b"end"], ":350003").await;
    let expected = [&large[..], &[0; 50_000], b"end"].concat();
    assert!(ask(&mut one, &[b"GET", b"k"]).await.1 == expected);
    assert_eq!(all_is_tidy(&server.store).await, 1);
    server.stop().await;
}

/// The store below the server: conditions, ends, groups that fail beside groups that do not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_that_fails_takes_its_values_with_it() {
    let (_device, engine) = engine_in_memory(128 * MIB, 16 * MIB).await;
    let store = Store::open(&engine, "kv").await.unwrap();
    let large = |byte: u8| Bytes::from(vec![byte; 60_000]);
    // Too many new names for one transaction of the log.
    let many = (0..200).map(|i| Op::put(format!("many{i}"), large(1))).collect();
    let (when, expires, now) = (When::Missing, Expiry::At(START), 0);
    let once = Op::Put { key: "a".into(), value: large(3).into(), when, expires, now };
    let groups = vec![vec![Op::put("a", large(2))], many, vec![once], vec![Op::put("b", "1")]];
    let answers = store.write(groups).await.unwrap();
    let fine: Vec<bool> = answers.iter().map(Result::is_ok).collect();
    assert_eq!(fine, [true, false, true, true]);
    assert_eq!(*answers[2].as_ref().unwrap(), [Outcome::Refused]);
    assert_eq!(store.get(b"a").await.unwrap().unwrap(), large(2));
    drop(answers);
    assert_eq!(all_is_tidy(&store).await, 1);
    store.close().await;
    engine.close().await.unwrap();
}
