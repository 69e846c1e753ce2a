//! MULTI, EXEC, DISCARD and WATCH over a socket.
#![allow(clippy::unwrap_used)] // In a test, a failed unwrap is the failed test.

mod support;

use support::served::pipeline;
use support::served::rest;
use support::served::say;
use support::served::start;
use support::served::talk;
use tokio::io::AsyncReadExt;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_is_queued_done_and_forgotten() {
    let server = start().await;
    let mut one = server.connect().await;
    let lines = "MULTI => +OK
        SET a 1 => +QUEUED
        INCR a => +QUEUED
        GET a => +QUEUED
        PING => +QUEUED
        SET a 9 NX => +QUEUED
        MSET b 1 c 2 => +QUEUED
        MGET a b => +QUEUED
        DEL b c d => +QUEUED
        SET word x => +QUEUED
        INCR word => +QUEUED
        MULTI => -ERR MULTI calls can not be nested
        WATCH a => -ERR WATCH inside MULTI is not allowed";
    talk(&mut one, lines).await;
    server.expect("EXISTS a b c", ":0\r\n").await;
    let replies = "*10\r\n+OK\r\n:2\r\n$1\r\n2\r\n+PONG\r\n$-1\r\n+OK\r\n*2\r\n$1\r\n2\r\n$1\r\n1\r\n\
                   :2\r\n+OK\r\n-ERR value is not an integer or out of range\r\n";
    say(&mut one, "EXEC", replies).await;
    let lines = "EXEC => -ERR EXEC without MULTI
        DISCARD => -ERR DISCARD without MULTI
        MULTI => +OK
        SET a 5 => +QUEUED
        DISCARD => +OK
        GET a => $1 2
        MULTI => +OK
        SET a 6 => +QUEUED
        NOSUCH => -ERR unknown command 'NOSUCH', with args beginning with: 
        EXEC => -EXECABORT Transaction discarded because of previous errors.
        MULTI => +OK
        GET => -ERR wrong number of arguments for 'get' command
        EXEC => -EXECABORT Transaction discarded because of previous errors.
        MULTI => +OK
        FLUSHALL => -ERR Command not allowed inside a transaction
        EXEC => -EXECABORT Transaction discarded because of previous errors.
        GET a => $1 2
        MULTI => +OK
        EXEC => *0";
    talk(&mut one, lines).await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watched_key_that_changes_stops_the_transaction() {
    let server = start().await;
    let (mut one, mut two) = (server.connect().await, server.connect().await);
    for change in ["SET k 1", "DEL k", "EXPIRE k 100", "RENAME j k", "FLUSHALL", "INCR k"] {
        say(&mut two, "SET k 1\nSET j 1", "+OK\r\n+OK\r\n").await;
        talk(&mut one, "WATCH k other => +OK\nGET k => $1 1").await;
        two.write_all(&pipeline(change)).await.unwrap();
        two.read_u8().await.unwrap();
        two.read_u8().await.unwrap();
        while two.read_u8().await.unwrap() != b'\n' {}
        talk(&mut one, "MULTI => +OK\nSET mine 1 => +QUEUED\nEXEC => *-1\nGET mine => $-1").await;
    }
    // Not by what changes nothing or something else, nor after UNWATCH, DISCARD or another EXEC.
    say(&mut two, "SET k 1", "+OK\r\n").await;
    talk(&mut one, "WATCH k => +OK").await;
    talk(&mut two, "SETNX k 2 => :0\nGET k => $1 1\nSET x 1 => +OK\nDEL none => :0").await;
    talk(&mut one, "MULTI => +OK\nINCR k => +QUEUED\nEXEC => *1 :2").await;
    for end in ["UNWATCH => +OK", "MULTI => +OK\nDISCARD => +OK", "MULTI => +OK\nEXEC => *0"] {
        talk(&mut one, &format!("WATCH k => +OK\n{end}")).await;
        talk(&mut two, "SET k 1 => +OK").await;
        talk(&mut one, "MULTI => +OK\nGET k => +QUEUED\nEXEC => *1 $1 1").await;
    }
    // An end is a change.
    talk(&mut one, "SET k 1 PX 10 => +OK\nWATCH k => +OK").await;
    server.pass(10);
    talk(&mut one, "MULTI => +OK\nPING => +QUEUED\nEXEC => *-1").await;
    server.stop().await;
}

/// Adds one to `n` the long way, until it works.
async fn increment(stream: &mut TcpStream) -> u32 {
    for attempt in 1.. {
        stream.write_all(&pipeline("WATCH n\nGET n")).await.unwrap();
        let mut text = String::new();
        while text.matches('\n').count() < 3 {
            text.push(stream.read_u8().await.unwrap() as char);
        }
        let number: u64 = text.lines().nth(2).unwrap().parse().unwrap();
        let commands = format!("MULTI\nSET n {}\nEXEC", number + 1);
        stream.write_all(&pipeline(&commands)).await.unwrap();
        let mut text = String::new();
        while text.matches('\n').count() < 3 {
            text.push(stream.read_u8().await.unwrap() as char);
        }
        match text.lines().nth(2).unwrap() {
            "*1" => {
                let mut ok = [0; 5];
                stream.read_exact(&mut ok).await.unwrap();
                assert_eq!(&ok, b"+OK\r\n");
                return attempt;
            }
            refused => assert_eq!(refused, "*-1"),
        }
    }
    unreachable!("attempts do not end")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn optimistic_counters_lose_nothing() {
    let server = start().await;
    server.expect("SET n 0", "+OK\r\n").await;
    let mut tasks = Vec::new();
    for _ in 0..6 {
        let mut stream = server.connect().await;
        tasks.push(tokio::spawn(async move {
            let mut attempts = 0;
            for _ in 0..50 {
                attempts += increment(&mut stream).await;
            }
            attempts
        }));
    }
    let mut attempts = 0;
    for task in tasks {
        attempts += task.await.unwrap();
    }
    println!("{attempts} attempts for 300 increments");
    server.expect("GET n", "$3\r\n300\r\n").await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_too_large_for_the_log_does_nothing() {
    let server = start().await;
    let value = "v".repeat(900);
    let sets: String = (0..8000).map(|i| format!("SET k{i} {value}\n")).collect();
    let mut one = server.connect().await;
    one.write_all(&pipeline(&format!("SET before 1\nMULTI\n{sets}EXEC\nDBSIZE\nQUIT")))
        .await
        .unwrap();
    let replies = rest(&mut one).await;
    let last: Vec<&str> = replies.lines().rev().take(3).collect();
    assert_eq!((last[0], last[1]), ("+OK", ":1"), "{last:?}");
    assert!(last[2].starts_with("-ERR the changes need"), "{last:?}");
    // And what fits is there after a restart, large values as well.
    let big = "w".repeat(100_000);
    let commands = format!("MULTI\nSET big {big}\nAPPEND big x\nSTRLEN big\nINCR n\nEXEC");
    let replies = "+OK\r\n+QUEUED\r\n+QUEUED\r\n+QUEUED\r\n+QUEUED\r\n*4\r\n+OK\r\n:100001\r\n:100001\r\n:1\r\n";
    server.expect(&commands, replies).await;
    let server = server.restart().await;
    server
        .expect("STRLEN big\nGETRANGE big -2 -1\nGET n", ":100001\r\n$2\r\nwx\r\n$1\r\n1\r\n")
        .await;
    server.stop().await;
}
