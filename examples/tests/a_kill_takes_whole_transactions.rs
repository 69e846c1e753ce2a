//! `kv serve` killed with SIGKILL in the middle of transactions, and under `--durability everysec`.
//!
//! After each kill the engine's `check` looks at the whole store, and each large value in the tree has its
//! object, and no object is left over.
//!
//! `FOLIANT_KILL_ROUNDS=20 cargo test -p foliant-examples --test a_kill_takes_whole_transactions` for more than two
//! rounds of each.
#![allow(clippy::unwrap_used)] // In a test, a failed unwrap is the failed test.

mod support;

use std::path::Path;
use std::time::Duration;
use std::time::Instant;

use foliant::Engine;
use foliant::check;
use foliant_examples::kv::store::Store;
use support::Dice;
use support::MIB;
use support::TempPath;
use support::large::all_is_tidy;
use support::large::command;
use support::large::reply;
use support::process;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::process::Child;
use tokio::process::Command;

const CLIENTS: u64 = 6;

fn rounds() -> u64 {
    std::env::var("FOLIANT_KILL_ROUNDS").map_or(2, |text| text.parse().unwrap())
}

async fn start(store: &Path, durability: &str) -> (Child, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kv"));
    command.args(["serve", "--listen", "127.0.0.1:0", "--size", "256MiB", "--memory", "16MiB"]);
    command.args(["--durability", durability, "--store"]).arg(store);
    process::listening(&mut command).await
}

/// What the killed server has left: sound, and then open.
async fn open(path: &Path) -> (Engine, Store) {
    let device = loop {
        // The kernel takes a killed process's lock down a little later.
        match check::open(path).await {
            Ok(device) => break device,
            Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
        }
    };
    let report = check::check(&device, &check::Options::default()).await.unwrap();
    device.close().await.unwrap();
    assert!(report.is_sound(), "{report}");
    let engine = Engine::open(path).memory_bytes(16 * MIB).run().await.unwrap();
    let store = Store::open(&engine, "kv").await.unwrap();
    (engine, store)
}

async fn close(engine: Engine, store: Store) {
    store.close().await;
    drop(store);
    engine.close().await.unwrap();
}

/// The value of a large key in transaction `number`: sometimes an object of its own, sometimes not.
fn large(client: u64, number: u64) -> Vec<u8> {
    let len = [50, 40_000, 5_000, 150_000][(number % 4) as usize];
    format!("{client}/{number}/").into_bytes().into_iter().cycle().take(len).collect()
}

/// Keys that a transaction sets besides, so many and so long that the transactions of all clients do not fit one
/// commit: each of them must not be cut all the same.
const WIDE: u64 = 12;

fn wide(client: u64, number: u64) -> Vec<u8> {
    format!("{client}/{number}/").into_bytes().into_iter().cycle().take(9_000).collect()
}

/// The commands of transaction `number`: keys that agree, a counter, a large value, and one that grows.
fn transaction(client: u64, number: u64) -> Vec<u8> {
    let (key, text) = (|name: &str| format!("{name}{client}"), number.to_string());
    let mut bytes = command(&[b"MULTI"]);
    bytes.extend(command(&[b"SET", key("first").as_bytes(), text.as_bytes()]));
    bytes.extend(command(&[b"INCR", key("count").as_bytes()]));
    bytes.extend(command(&[b"SET", key("large").as_bytes(), &large(client, number)]));
    match number % 50 {
        0 => bytes.extend(command(&[b"DEL", key("grown").as_bytes()])),
        _ => bytes.extend(command(&[b"APPEND", key("grown").as_bytes(), &[b'g'; 3000]])),
    }
    for index in 0..WIDE {
        let key = format!("wide{client}:{index}");
        bytes.extend(command(&[b"SET", key.as_bytes(), &wide(client, number)]));
    }
    bytes.extend(command(&[b"SET", key("last").as_bytes(), text.as_bytes()]));
    bytes.extend(command(&[b"EXEC"]));
    bytes
}

/// Transactions until the server dies; gives the number of the last one that was answered.
async fn transact(address: String, client: u64, from: u64) -> u64 {
    let mut stream = TcpStream::connect(address).await.unwrap();
    for number in from + 1.. {
        if stream.write_all(&transaction(client, number)).await.is_err() {
            return number - 1;
        }
        // OK, QUEUED for each command, the length, and what they say.
        for index in 0..2 + 2 * (5 + WIDE) {
            let Ok((line, _)) = reply(&mut stream).await else { return number - 1 };
            assert!(!line.starts_with('-'), "reply {index}: {line}");
        }
    }
    unreachable!("the server does not die")
}

/// Each client's keys say the same number, which is the last one answered or a later one.
async fn is_whole(store: &Store, client: u64, answered: u64) -> u64 {
    let get = async |name: &str| store.get(format!("{name}{client}").as_bytes()).await.unwrap();
    let number = async |name: &str| match get(name).await {
        Some(text) => String::from_utf8_lossy(&text).parse::<u64>().unwrap(),
        None => 0,
    };
    let found = number("first").await;
    assert_eq!(number("last").await, found, "client {client}: half a transaction");
    assert_eq!(number("count").await, found, "client {client}: half a transaction");
    if found > 0 {
        assert!(get("large").await.unwrap() == large(client, found), "client {client}: {found}");
        for index in 0..WIDE {
            let key = format!("wide{client}:{index}");
            let value = store.get(key.as_bytes()).await.unwrap().unwrap();
            assert!(value == wide(client, found), "client {client}: half of {found}");
        }
        let grown = get("grown").await.map_or(0, |value| value.len() as u64);
        assert_eq!(grown, found % 50 * 3000, "client {client}: {found}");
    }
    assert!(found >= answered, "client {client}: {answered} was answered, {found} is there");
    // The one whose answer the kill swallowed, and no other.
    assert!(found <= answered + 1, "client {client}: {answered} was answered, {found} is there");
    found
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_exec_is_all_there_or_not_at_all() {
    let path = TempPath::new("killed-exec");
    let (mut dice, mut done) = (Dice::new(6), vec![0; CLIENTS as usize]);
    for round in 0..rounds() {
        let (mut child, address) = start(path.path(), "always").await;
        let clients: Vec<_> = (0..CLIENTS)
            .map(|client| tokio::spawn(transact(address.clone(), client, done[client as usize])))
            .collect();
        tokio::time::sleep(Duration::from_millis(300 + dice.below(900))).await;
        child.kill().await.unwrap();
        let mut answered = Vec::new();
        for client in clients {
            answered.push(client.await.unwrap());
        }
        let (engine, store) = open(path.path()).await;
        let larges = all_is_tidy(&store).await;
        for client in 0..CLIENTS {
            done[client as usize] = is_whole(&store, client, answered[client as usize]).await;
        }
        println!("round {round}: answered {answered:?}, there {done:?}, {larges} large values");
        assert!(answered.iter().sum::<u64>() > 0);
        close(engine, store).await;
    }
}

/// A write: when it was sent, and when it was answered if it was.
type Sent = (Instant, Option<Instant>);

/// Writes keys in order until the server dies.
async fn write(address: String, client: u64, round: u64) -> Vec<Sent> {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let mut all = Vec::new();
    for number in 0.. {
        let key = format!("{round}/{client}/{number}");
        let value = large(client, number % 64 * 4 + u64::from(number % 40 == 7));
        let sent = Instant::now();
        let done = stream.write_all(&command(&[b"SET", key.as_bytes(), &value])).await.is_ok();
        let answered = done && reply(&mut stream).await.is_ok_and(|(line, _)| line == "+OK");
        all.push((sent, answered.then(Instant::now)));
        if !answered {
            return all;
        }
    }
    unreachable!("the server does not die")
}

/// More than a second, and less than this, is what a busy machine adds.
const LOST_MAX: Duration = Duration::from_secs(3);

/// What is there is a prefix: of each client, and of all of them in the order in which they heard.
async fn is_a_prefix(store: &Store, round: u64, all: &[Vec<Sent>], killed: Instant) -> usize {
    let (mut first_lost, mut last_there, mut lost) = (None::<Instant>, None::<Instant>, 0);
    for (client, sent) in all.iter().enumerate() {
        let mut end = None;
        for (number, (sent, answered)) in sent.iter().enumerate() {
            let key = format!("{round}/{client}/{number}");
            if store.contains(key.as_bytes()).await.unwrap() {
                assert_eq!(end, None, "{key} is there, and that one before it is not");
                last_there = last_there.max(Some(*sent));
                continue;
            }
            end.get_or_insert(number);
            let Some(answered) = *answered else { continue };
            lost += 1;
            first_lost = Some(first_lost.map_or(answered, |first| first.min(answered)));
            let age = killed - answered;
            assert!(age < LOST_MAX, "{key} was answered {age:?} before the kill and is lost");
        }
    }
    if let (Some(first_lost), Some(last_there)) = (first_lost, last_there) {
        assert!(first_lost >= last_there, "one is lost that was answered before another was sent");
    }
    lost
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everysec_loses_a_second_at_most_and_the_latest_only() {
    let path = TempPath::new("killed-everysec");
    let mut dice = Dice::new(7);
    for round in 0..rounds() {
        let (mut child, address) = start(path.path(), "everysec").await;
        let clients: Vec<_> = (0..CLIENTS)
            .map(|client| tokio::spawn(write(address.clone(), client, round)))
            .collect();
        tokio::time::sleep(Duration::from_millis(3500 + dice.below(800))).await;
        let killed = Instant::now();
        child.kill().await.unwrap();
        let mut all = Vec::new();
        for client in clients {
            all.push(client.await.unwrap());
        }
        let (engine, store) = open(path.path()).await;
        let larges = all_is_tidy(&store).await;
        let lost = is_a_prefix(&store, round, &all, killed).await;
        let sent: usize = all.iter().map(Vec::len).sum();
        println!("round {round}: {sent} sent, {lost} answered and lost, {larges} large values");
        assert!(sent > 100);
        store.clear().await.unwrap();
        close(engine, store).await;
    }
}
