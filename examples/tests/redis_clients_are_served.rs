//! RESP over a real socket: commands, pipelines, and clients that misbehave.
#![allow(clippy::unwrap_used)] // In a test, a failed unwrap is the failed test.

mod support;

use std::time::Duration;

use support::served::expect;
use support::served::pipeline;
use support::served::rest;
use support::served::start;
use tokio::io::AsyncReadExt;
use tokio::io::AsyncWriteExt;
use tokio::time::timeout;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pipeline_is_answered_in_order() {
    let server = start().await;
    let commands = "PING
        SET a 1
        SET b 2 NX
        SET b 3 NX
        SET c 3 XX
        GET b
        MSET d 4 e 5
        NOSUCH
        SET f
        MGET a b c d
        DEL a c e
        EXISTS a b d d
        DBSIZE
        ECHO hi
        SELECT 0
        CONFIG GET save
        HELLO 4
        GET b";
    let replies = "+PONG\r\n+OK\r\n+OK\r\n$-1\r\n$-1\r\n$1\r\n2\r\n+OK\r\n\
        -ERR unknown command 'NOSUCH', with args beginning with: \r\n-ERR wrong number of arguments for 'set' command\r\n\
        *4\r\n$1\r\n1\r\n$1\r\n2\r\n$-1\r\n$1\r\n4\r\n:2\r\n:3\r\n:2\r\n$2\r\nhi\r\n+OK\r\n\
        *2\r\n$4\r\nsave\r\n$0\r\n\r\n-NOPROTO unsupported protocol version\r\n$1\r\n2\r\n";
    server.expect(commands, replies).await;
    server.expect("FLUSHALL\nDBSIZE\nGET b", "+OK\r\n:0\r\n$-1\r\n").await;
    let mut stream = server.connect().await;
    stream.write_all(b"PING\r\nset k 'a b'\r\nQUIT\r\nPING\r\n").await.unwrap();
    assert_eq!(rest(&mut stream).await, "+PONG\r\n+OK\r\n+OK\r\n");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commands_may_arrive_byte_by_byte() {
    let server = start().await;
    let mut stream = server.connect().await;
    stream.set_nodelay(true).unwrap();
    for byte in pipeline("SET slow value\nGET slow") {
        stream.write_all(&[byte]).await.unwrap();
        tokio::task::yield_now().await;
    }
    expect(&mut stream, "+OK\r\n$5\r\nvalue\r\n").await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_half_closed_client_gets_all_its_replies() {
    let server = start().await;
    let mut stream = server.connect().await;
    let sets: String = (0..2000).map(|i| format!("SET key{i} value{i}\n")).collect();
    stream.write_all(&pipeline(&sets)).await.unwrap();
    stream.shutdown().await.unwrap();
    assert_eq!(rest(&mut stream).await, "+OK\r\n".repeat(2000));
    assert_eq!(server.store.len(), 2000);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn malformed_and_oversized_commands_get_an_error_and_a_close() {
    let server = start().await;
    let nested = "*1\r\n".repeat(100_000);
    let bad: [&str; 7] = [
        "*1\r\n:5\r\n",
        "*-5\r\n",
        "*1000000000\r\n",
        "*2\r\n$3\r\nGET\r\n$99999999999\r\n",
        "*1\r\n$4\r\nPINGxx",
        &nested,
        &"x".repeat(20_000),
    ];
    for input in bad {
        let mut stream = server.connect().await;
        // The server may close while this is still being sent.
        let _ = stream.write_all(&pipeline("SET before 1")).await;
        let _ = stream.write_all(input.as_bytes()).await;
        let mut found = Vec::new();
        // What the server did not read makes the kernel reset the connection; the reply comes first.
        let _ = timeout(Duration::from_secs(10), stream.read_to_end(&mut found)).await.unwrap();
        let found = String::from_utf8_lossy(&found);
        let start = &input[..input.len().min(40)];
        if input.len() < 10_000 {
            assert!(found.starts_with("+OK\r\n-ERR Protocol error: "), "{found} after {start}");
        }
    }
    server.expect("GET before", "$1\r\n1\r\n").await;
    let long = "k".repeat(513);
    let expected = "-ERR a key has 1 to 512 bytes, this one 513\r\n";
    server.expect(&format!("GET {long}\nSET {long} 1"), &expected.repeat(2)).await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_does_not_read_holds_nobody_up() {
    let server = start().await;
    let mut writer = server.connect().await;
    let big = "v".repeat(1 << 20);
    writer.write_all(&pipeline(&format!("SET big {big}"))).await.unwrap();
    expect(&mut writer, "+OK\r\n").await;
    let mut deaf = server.connect().await;
    deaf.write_all(&pipeline(&"GET big\n".repeat(64))).await.unwrap();
    for round in 0..200 {
        server.expect(&format!("SET k{round} 1\nGET k{round}"), "+OK\r\n$1\r\n1\r\n").await;
    }
    drop(deaf);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_scan_meets_every_key_that_stays() {
    let server = start().await;
    let mut stream = server.connect().await;
    let keys = |name: &'static str| (0..3000).map(move |i| format!("{name}:{i}"));
    let sets: String = keys("stay").chain(keys("go")).map(|k| format!("SET {k} 1\n")).collect();
    stream.write_all(&pipeline(&sets)).await.unwrap();
    expect(&mut stream, &"+OK\r\n".repeat(6000)).await;
    let mut cursor = "0".to_owned();
    let mut found = std::collections::BTreeMap::<String, u32>::new();
    for step in 0.. {
        // Keys go, and other keys come, while the scan is on its way; each step another connection.
        let change = format!("DEL go:{}\nSET new:{step} 1\n", step * 7 % 3000);
        server.store.delete(format!("go:{}", step * 7 % 3000).as_bytes()).await.unwrap();
        server.store.put(format!("new:{step}").as_bytes(), change.as_bytes()).await.unwrap();
        let mut client = server.connect().await;
        let command = format!("SCAN {cursor} MATCH stay:* COUNT 100\nQUIT");
        client.write_all(&pipeline(&command)).await.unwrap();
        let reply = rest(&mut client).await;
        let lines: Vec<&str> = reply.split("\r\n").collect();
        cursor = lines[2].to_owned();
        for key in lines[4..].iter().filter(|line| line.starts_with("stay:")) {
            *found.entry((*key).to_owned()).or_default() += 1;
        }
        if cursor == "0" {
            break;
        }
    }
    assert_eq!(found.len(), 3000);
    assert!(found.values().all(|&times| times == 1));
    server.expect("SCAN 12345", "-ERR invalid cursor\r\n").await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopping_server_finishes_what_it_has_begun() {
    let server = start().await;
    let mut clients = Vec::new();
    for client in 0..20 {
        let mut stream = server.connect().await;
        let sets: String = (0..50).map(|i| format!("SET c{client}:{i} 1\n")).collect();
        stream.write_all(&pipeline(&sets)).await.unwrap();
        clients.push(stream);
    }
    tokio::time::sleep(Duration::from_millis(20)).await;
    server.stop.cancel();
    let mut answered = 0;
    for stream in &mut clients {
        let mut found = Vec::new();
        // Input that was not read any more makes the close a reset.
        let _ = stream.read_to_end(&mut found).await;
        answered += found.len() / 5;
    }
    assert!(server.store.len() >= answered as u64);
    server.stop().await;
}
