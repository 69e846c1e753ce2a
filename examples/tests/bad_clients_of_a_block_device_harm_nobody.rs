//! Clients that speak nonsense, stop in the middle, do not read, come in crowds or stay silent: they
//! are answered or let go, and others notice nothing.
#![allow(clippy::unwrap_used)] // In a test, a failed unwrap is the failed test.

mod support;

use std::time::Duration;
use std::time::Instant;

use foliant::Engine;
use foliant_examples::nbd::server::Terms;
use foliant_examples::nbd::wire;
use support::Dice;
use support::MIB;
use support::engine_in_memory;
use support::nbd::Client;
use support::nbd::Served;
use support::nbd::TERMS;
use support::nbd::counted;
use support::nbd::serve;
use tokio::io::AsyncReadExt;
use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;

async fn server(name: &str, terms: Terms) -> (Engine, Served) {
    let (_, engine) = engine_in_memory(64 * MIB, 16 * MIB).await;
    engine.create("disk").await.unwrap().truncate(40 * MIB).await.unwrap();
    let served = serve(&engine, name, false, terms).await;
    (engine, served)
}

/// The server serves others as ever.
async fn check_others(served: &Served) {
    let mut client = served.chosen("disk").await;
    let started = Instant::now();
    assert_eq!(client.write(1, 39 * MIB, b"as ever").await, 0);
    assert_eq!(client.read(39 * MIB, 7).await, b"as ever");
    assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
    client.request(wire::CMD_DISC, 0, 0, 0).await;
    assert!(client.is_over().await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nonsense_ends_its_own_connection() {
    let (engine, served) = server("nonsense", TERMS).await;
    let mut dice = Dice::new(77);
    for round in 0..60 {
        let mut client = match round % 3 {
            0 => served.client().await,
            1 => served.chosen("disk").await,
            _ => {
                let mut client = served.client().await;
                client.send(b"IHAVEOPT").await;
                client
            }
        };
        let len = dice.below(3000) as usize;
        // It may hang up while it is still spoken to.
        let _ = client.stream.write_all(&dice.bytes(len)).await;
        let _ = client.stream.shutdown().await;
        let mut rest = Vec::new();
        let _ = (&mut client.stream).take(MIB).read_to_end(&mut rest).await;
    }
    for hello in [&b"\xff\xff\xff\xff"[..], b"GET / HTTP/1.1\r\n\r\n"] {
        let mut stream = UnixStream::connect(&served.path).await.unwrap();
        stream.write_all(hello).await.unwrap();
        let mut said = Vec::new();
        let _ = stream.read_to_end(&mut said).await;
        assert_eq!(said.len(), 18, "the greeting and nothing else");
    }
    check_others(&served).await;
    served.ended().await;
    engine.close().await.unwrap();
}

/// Names with every byte, of every length around the limits.
#[tokio::test]
async fn names_may_hold_anything() {
    let (engine, served) = server("names", TERMS).await;
    let mut client = served.client().await;
    for byte in 0..=255_u8 {
        for len in [1, 2, 255, 256, 5000] {
            let mut data = (len as u32).to_be_bytes().to_vec();
            data.extend(std::iter::repeat_n(byte, len));
            data.extend([0, 0]);
            let kind = client.option(wire::OPT_INFO, &data).await[0].0;
            let speakable = (1..128).contains(&byte);
            let expected = if speakable { wire::REP_ERR_UNKNOWN } else { wire::REP_ERR_INVALID };
            assert_eq!(kind, expected, "{len} times {byte}");
        }
    }
    for byte in 1..128_u8 {
        let name = [byte; 255];
        engine.create(name).await.unwrap();
        client.go_on_from_info(std::str::from_utf8(&name).unwrap()).await;
    }
    served.ended().await;
    engine.close().await.unwrap();
}

impl Client {
    async fn go_on_from_info(&mut self, name: &str) {
        let mut data = counted(name);
        data.extend([0, 0]);
        assert_eq!(self.option(wire::OPT_INFO, &data).await[0].0, wire::REP_INFO);
    }
}

/// Who asks for much and reads nothing is not read from either, and holds up nobody.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_do_not_read_hold_up_nobody() {
    let (engine, served) = server("slow", TERMS).await;
    let mut slow = Vec::new();
    for _ in 0..4 {
        let mut client = served.chosen("disk").await;
        let mut requests = Vec::new();
        for number in 0..2000_u64 {
            requests.extend(wire::REQUEST_MAGIC.to_be_bytes());
            requests.extend([0, 0, 0, wire::CMD_READ as u8]);
            requests.extend(number.to_be_bytes());
            requests.extend(0_u64.to_be_bytes());
            requests.extend((MIB as u32).to_be_bytes());
        }
        let sending = client.stream.write_all(&requests);
        let _ = tokio::time::timeout(Duration::from_millis(200), sending).await;
        slow.push(client);
    }
    // Half a header, half a payload, half a socket.
    let mut half_header = served.chosen("disk").await;
    half_header.send(&wire::REQUEST_MAGIC.to_be_bytes()).await;
    let mut half_payload = served.chosen("disk").await;
    half_payload.request(wire::CMD_WRITE, 0, 0, 1_000_000).await;
    half_payload.send(&[1; 1000]).await;
    for _ in 0..5 {
        check_others(&served).await;
    }
    // They get what they asked for as soon as they read.
    let reply = slow[0].reply().await;
    assert!(reply.cookie < 2000 && reply.data.len() == MIB as usize);
    half_payload.send(&vec![1; 999_000]).await;
    assert_eq!(half_payload.reply().await.errno, 0);
    drop(slow);
    check_others(&served).await;
    drop(half_header);
    served.ended().await;
    engine.close().await.unwrap();
}

/// Closing one's own half means: no more requests. What was asked is answered.
#[tokio::test]
async fn half_closed_clients_get_their_answers() {
    let (engine, served) = server("half", TERMS).await;
    let mut client = served.chosen("disk").await;
    let mut cookies = Vec::new();
    for number in 0..20_u64 {
        cookies.push(client.request(wire::CMD_WRITE, 1, number * 8192, 5000).await);
        client.send(&[9; 5000]).await;
    }
    client.stream.shutdown().await.unwrap();
    for _ in 0..20 {
        let reply = client.reply().await;
        assert_eq!(reply.errno, 0);
        cookies.retain(|&cookie| cookie != reply.cookie);
    }
    assert!(cookies.is_empty() && client.is_over().await);
    served.ended().await;
    engine.close().await.unwrap();
}

#[tokio::test]
async fn a_crowd_is_bounded_and_the_silent_are_let_go() {
    let terms = Terms { connections: 4, idle: Some(Duration::from_secs(1)), ..TERMS };
    let (engine, served) = server("crowd", terms).await;
    let mut clients = Vec::new();
    for _ in 0..4 {
        clients.push(served.chosen("disk").await);
    }
    let mut one_more = UnixStream::connect(&served.path).await.unwrap();
    let mut said = Vec::new();
    let _ = one_more.read_to_end(&mut said).await;
    assert_eq!(said, b"", "hung up on");
    // Who works stays; who is silent goes, and makes room.
    let mut working = clients.pop().unwrap();
    for _ in 0..14 {
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert_eq!(working.write(0, 0, b"x").await, 0);
    }
    for mut silent in clients {
        assert!(silent.is_over().await);
    }
    // Their places are free a moment later.
    tokio::time::sleep(Duration::from_millis(200)).await;
    check_others(&served).await;
    served.ended().await;
    engine.close().await.unwrap();
}

/// A negotiation that does not end is ended, whether the client says nothing or too much.
#[tokio::test]
async fn a_handshake_has_an_end() {
    let terms = Terms { handshake: Duration::from_millis(500), ..TERMS };
    let (engine, served) = server("handshake", terms).await;
    let mut silent = served.client().await;
    let mut chatty = served.client().await;
    let started = Instant::now();
    let chat = async {
        while chatty.stream.write_all(b"IHAVEOPT\0\0\0\x4d\0\0\0\0").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), chat).await.expect("it goes on for ever");
    assert!(silent.is_over().await);
    assert!(started.elapsed() >= Duration::from_millis(400));
    check_others(&served).await;
    served.ended().await;
    engine.close().await.unwrap();
}
