//! The commands on values and keys, and entries that end, over a socket with a clock that stands still.
#![allow(clippy::unwrap_used)] // In a test, a failed unwrap is the failed test.

mod support;

use std::time::Duration;

use support::served::Running;
use support::served::START;
use support::served::expect;
use support::served::pipeline;
use support::served::say;
use support::served::start;
use support::served::talk;
use tokio::io::AsyncWriteExt;

async fn talk_to(server: &Running, lines: &str) {
    talk(&mut server.connect().await, lines).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn values_are_counted_cut_and_lengthened() {
    let server = start().await;
    let lines = "INCR n => :1
        INCRBY n 41 => :42
        DECR n => :41
        DECRBY n 50 => :-9
        GET n => $2 -9
        SET n 9223372036854775807 => +OK
        INCR n => -ERR increment or decrement would overflow
        SET n x => +OK
        INCR n => -ERR value is not an integer or out of range
        INCRBYFLOAT f 10.5 => $4 10.5
        INCRBYFLOAT f 0.1 => $4 10.6
        INCRBYFLOAT f -5.6e0 => $1 5
        INCRBYFLOAT n 1 => -ERR value is not a valid float
        APPEND a Hello => :5
        APPEND a World => :10
        STRLEN a => :10
        STRLEN none => :0
        GETRANGE a 0 3 => $4 Hell
        GETRANGE a -3 -1 => $3 rld
        GETRANGE none 0 -1 => $0 
        SETRANGE a 5 There => :10
        GET a => $10 HelloThere
        SETRANGE z 3 x => :4
        SETRANGE z 536870912 x => -ERR string exceeds maximum allowed size (proto-max-bulk-len)
        GETSET a new => $10 HelloThere
        GETDEL a => $3 new
        GETDEL a => $-1
        SETNX s 1 => :1
        SETNX s 2 => :0
        SET s 3 GET => $1 1
        SET s 4 NX GET => $1 3
        SET s 5 XX GET => $1 3
        SET fresh 1 XX GET => $-1
        GET fresh => $-1
        MSETNX p 1 q 2 => :1
        MSETNX q 3 r 4 => :0
        MGET p q r => *3 $1 1 $1 2 $-1
        EXISTS p p r => :2
        TYPE p => +string
        TYPE r => +none
        RENAME p r => +OK
        RENAME p r => -ERR no such key
        RENAMENX r q => :0
        RENAMENX r p => :1
        GET p => $1 1
        RENAME p p => +OK
        UNLINK p q r => :2
        DBSIZE => :4";
    talk_to(&server, lines).await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_clients_count_together() {
    let server = start().await;
    let mut clients = Vec::new();
    for _ in 0..8 {
        let mut stream = server.connect().await;
        stream.write_all(&pipeline(&"INCR n\n".repeat(250))).await.unwrap();
        clients.push(stream);
    }
    for mut stream in clients {
        stream.shutdown().await.unwrap();
        assert_eq!(support::served::rest(&mut stream).await.lines().count(), 250);
    }
    server.expect("GET n", "$4\r\n2000\r\n").await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn entries_end_when_they_should_and_survive_a_restart() {
    let server = start().await;
    let until = (START + 100_000) / 1000;
    let lines = format!(
        "SET a 1 EX 10 => +OK
        SET b 1 PX 500 => +OK
        SET c 1 EXAT {until} => +OK
        SETEX d 10 1 => +OK
        PSETEX e 10000 1 => +OK
        SET f 1 => +OK
        TTL a => :10
        PTTL b => :500
        TTL c => :100
        TTL f => :-1
        TTL none => :-2
        EXPIRETIME c => :{until}
        EXPIRE f 20 => :1
        EXPIRE f 10 GT => :0
        EXPIRE f 10 LT => :1
        EXPIRE f 30 NX => :0
        EXPIRE none 30 => :0
        PERSIST f => :1
        PERSIST f => :0
        EXPIRE f 5 XX => :0
        SET a 2 KEEPTTL => +OK
        TTL a => :10
        INCR a => :3
        APPEND a x => :2
        TTL a => :10
        SET d 2 => +OK
        TTL d => :-1
        GETEX d EX 7 => $1 2
        TTL d => :7
        GETEX d PERSIST => $1 2
        TTL d => :-1
        RENAME e g => +OK
        TTL g => :10
        EXPIRE g -1 => :1
        EXISTS g => :0
        SET g 1 EX 0 => -ERR invalid expire time in 'set' command"
    );
    talk_to(&server, &lines).await;
    server.pass(499);
    talk_to(&server, "GET b => $1 1").await;
    server.pass(1);
    talk_to(&server, "GET b => $-1\nEXISTS b => :0\nSETNX b 2 => :1\nTTL b => :-1").await;
    let server = server.restart().await;
    talk_to(&server, "TTL a => :10\nPTTL a => :9500\nGET a => $2 3x\nTTL d => :-1").await;
    server.pass(9500);
    talk_to(&server, "GET a => $-1\nSET a 1 XX => $-1\nDEL a => :0\nGET c => $1 1").await;
    let server = server.restart().await;
    talk_to(&server, "EXISTS a b c d f => :4\nTTL c => :90").await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_value_keeps_its_bytes_when_its_end_changes() {
    let server = start().await;
    let big = "v".repeat(300_000);
    let mut stream = server.connect().await;
    say(
        &mut stream,
        &format!("SET big {big} EX 100\nEXPIRE big 50\nTTL big"),
        "+OK\r\n:1\r\n:50\r\n",
    )
    .await;
    say(&mut stream, "APPEND big xyz\nRENAME big large\nPERSIST large", ":300003\r\n+OK\r\n:1\r\n")
        .await;
    say(&mut stream, "GETRANGE large -4 -1\nTTL large", "$4\r\nvxyz\r\n:-1\r\n").await;
    say(&mut stream, "STRLEN large\nEXISTS big", ":300003\r\n:0\r\n").await;
    // Up to the longest value that lies in its cell: with an end it no longer fits.
    let tight = "v".repeat(1018 - 6 - 1);
    say(&mut stream, &format!("SET t {tight}\nEXPIRE t 5\nTTL t"), "+OK\r\n:1\r\n:5\r\n").await;
    say(&mut stream, "GET t", &format!("$1011\r\n{tight}\r\n")).await;
    say(&mut stream, "PERSIST t\nSTRLEN t\nTTL t", ":1\r\n:1011\r\n:-1\r\n").await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_has_ended_is_swept_and_given_back() {
    let server = start().await;
    let mut stream = server.connect().await;
    let sets = |name: &str, more: &str| -> String {
        (0..3000).map(|i| format!("SET {name}{i} value{i}{more}\n")).collect()
    };
    let all = sets("end", " PX 1000") + &sets("stay", "");
    stream.write_all(&pipeline(&all)).await.unwrap();
    expect(&mut stream, &"+OK\r\n".repeat(6000)).await;
    assert_eq!((server.store.len(), server.store.expiring()), (6000, 3000));
    server.pass(1000);
    // Nobody reads them: the walk finds them.
    for _ in 0..600 {
        if server.store.expiring() == 0 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!((server.store.len(), server.store.expiring()), (3000, 0));
    say(&mut stream, "DBSIZE\nMGET stay7 end7", ":3000\r\n*2\r\n$6\r\nvalue7\r\n$-1\r\n").await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ranges_scans_and_random_keys_leave_out_what_has_ended() {
    let server = start().await;
    let lines = "MSET a 1 b 2 c 3 d 4 => +OK
        KEYRANGE - + => *4 $1 a $1 b $1 c $1 d
        KEYRANGE [b (d => *2 $1 b $1 c
        KEYRANGE (b [d VALUES => *4 $1 c $1 3 $1 d $1 4
        KEYRANGE - + COUNT 2 => *2 $1 a $1 b
        KEYRANGE (b + COUNT 2 => *2 $1 c $1 d
        KEYRANGE (d + COUNT 2 => *0
        KEYRANGE + - => *0
        KEYRANGE a b => -ERR min or max not valid string range item
        EXPIRE b 1 => :1
        EXPIRE a 1 => :1
        PEXPIRE d 999 => :1";
    talk_to(&server, lines).await;
    server.pass(1000);
    let lines = "KEYRANGE - + COUNT 1 => *1 $1 c
        SCAN 0 => *2 $1 0 *1 $1 c
        SCAN 0 TYPE list => *2 $1 0 *0
        RANDOMKEY => $1 c
        DEL c => :1
        RANDOMKEY => $-1";
    talk_to(&server, lines).await;
    server.stop().await;
}
