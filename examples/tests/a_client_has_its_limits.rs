//! Passwords, protocol versions, numbers of clients, idle ones, and what INFO and CONFIG tell.
#![allow(clippy::unwrap_used)] // In a test, a failed unwrap is the failed test.

mod support;

use std::process::Command;
use std::time::Duration;

use foliant_examples::kv::op::Promise;
use foliant_examples::kv::options::Options;
use foliant_examples::kv::options::Password;
use support::TempPath;
use support::served::expect;
use support::served::pipeline;
use support::served::rest;
use support::served::start;
use support::served::start_with;
use support::served::talk;
use tokio::io::AsyncReadExt;
use tokio::io::AsyncWriteExt;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_served_without_the_password() {
    let password = Some(Password::new("secret"));
    let server = start_with(Options { password, ..Options::default() }).await;
    let mut one = server.connect().await;
    let lines = "GET a => -NOAUTH Authentication required.
        NOSUCH => -NOAUTH Authentication required.
        MULTI => -NOAUTH Authentication required.
        AUTH wrong => -WRONGPASS invalid username-password pair or user is disabled.
        AUTH secre => -WRONGPASS invalid username-password pair or user is disabled.
        AUTH other secret => -WRONGPASS invalid username-password pair or user is disabled.
        SET a 1 => -NOAUTH Authentication required.
        AUTH secret => +OK
        SET a 1 => +OK
        RESET => +RESET
        GET a => -NOAUTH Authentication required.
        AUTH default secret => +OK
        GET a => $1 1";
    talk(&mut one, lines).await;
    let mut two = server.connect().await;
    two.write_all(&pipeline(
        "HELLO 3\nHELLO 3 AUTH default secret SETNAME me\nCLIENT GETNAME\nQUIT",
    ))
    .await
    .unwrap();
    let replies = rest(&mut two).await;
    assert!(replies.starts_with("-NOAUTH HELLO must be called"), "{replies}");
    assert!(replies.contains("\r\n%7\r\n$6\r\nserver\r\n"), "{replies}");
    assert!(replies.ends_with("\r\n$2\r\nme\r\n+OK\r\n"), "{replies}");
    for (input, reply) in [
        ("*11\r\n", "-ERR Protocol error: unauthenticated multibulk length\r\n"),
        ("*2\r\n$4\r\nAUTH\r\n$16385\r\n", "-ERR Protocol error: unauthenticated bulk length\r\n"),
    ] {
        let mut stream = server.connect().await;
        stream.write_all(input.as_bytes()).await.unwrap();
        expect(&mut stream, reply).await;
    }
    server.stop().await;
    start().await.expect("AUTH x", "-ERR AUTH <password> called without any password configured for the default user. Are you sure your configuration is correct?\r\n").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replies_change_with_the_protocol() {
    let server = start().await;
    let mut one = server.connect().await;
    talk(&mut one, "GET a => $-1\nCONFIG GET save => *2 $4 save $0 \nCLIENT ID => :1").await;
    one.write_all(&pipeline("HELLO 3")).await.unwrap();
    let mut first = [0; 4];
    one.read_exact(&mut first).await.unwrap();
    assert_eq!(&first, b"%7\r\n");
    expect(&mut one, "$6\r\nserver\r\n$5\r\nredis\r\n$7\r\nversion\r\n").await;
    expect(&mut one, "$6\r\n7.0.15\r\n$5\r\nproto\r\n:3\r\n$2\r\nid\r\n:1\r\n").await;
    expect(&mut one, "$4\r\nmode\r\n$10\r\nstandalone\r\n$4\r\nrole\r\n$6\r\nmaster\r\n").await;
    expect(&mut one, "$7\r\nmodules\r\n*0\r\n").await;
    let lines = "GET a => _
        CONFIG GET save => %1 $4 save $0 
        COMMAND DOCS => %0
        CLIENT SETNAME me => +OK
        CLIENT GETNAME => $2 me
        CLIENT NO-EVICT on => +OK
        WATCH a => +OK
        SET a 1 => +OK
        MULTI => +OK
        EXEC => _
        HELLO 4 => -NOPROTO unsupported protocol version
        RESET => +RESET
        CLIENT GETNAME => $-1
        SELECT 1 => -ERR DB index is out of range";
    talk(&mut one, lines).await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn malformed_commands_are_told_in_the_words_of_redis() {
    let server = start().await;
    for (input, why) in [
        ("*1\r\n:5\r\n", "expected '$', got ':'"),
        ("*x\r\n", "invalid multibulk length"),
        ("*1\r\n$-5\r\n", "invalid bulk length"),
        ("*1\r\n$99999999999\r\n", "invalid bulk length"),
        ("set a \"b\r\n", "unbalanced quotes in request"),
    ] {
        let mut stream = server.connect().await;
        stream.write_all(input.as_bytes()).await.unwrap();
        stream.shutdown().await.unwrap();
        assert_eq!(rest(&mut stream).await, format!("-ERR Protocol error: {why}\r\n"), "{input}");
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_are_counted_and_silent_ones_let_go() {
    let idle = Some(Duration::from_millis(300));
    let server = start_with(Options { clients_max: 2, idle, ..Options::default() }).await;
    let (mut one, mut two) = (server.connect().await, server.connect().await);
    talk(&mut one, "PING => +PONG").await;
    talk(&mut two, "PING => +PONG").await;
    let mut three = server.connect().await;
    assert_eq!(rest(&mut three).await, "-ERR max number of clients reached\r\n");
    // The silent one goes, and its place is free.
    assert_eq!(rest(&mut two).await, "");
    let mut four = server.connect().await;
    talk(&mut four, "PING => +PONG").await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn info_has_sections_with_figures() {
    let options = Options { promise: Promise::EverySecond, ..Options::default() };
    let server = start_with(options).await;
    server.expect("SET a 1 EX 5\nGET a\nGET b", "+OK\r\n$1\r\n1\r\n$-1\r\n").await;
    let mut one = server.connect().await;
    one.write_all(&pipeline("INFO\nINFO keyspace\nCONFIG GET append* maxclients\nQUIT"))
        .await
        .unwrap();
    let text = rest(&mut one).await;
    for line in [
        "# Server",
        "redis_version:7.0.15",
        "# Clients",
        "maxclients:1024",
        "# Memory",
        "used_memory:",
        "# Persistence",
        "appendfsync:everysec",
        "commits:",
        "# Stats",
        "keyspace_hits:1",
        "keyspace_misses:1",
        "# Keyspace",
        "db0:keys=1,expires=1,avg_ttl=0",
    ] {
        assert!(text.contains(&format!("\r\n{line}")), "{line} is not in {text}");
    }
    let keyspace = "\r\n# Keyspace\r\ndb0:keys=1,expires=1,avg_ttl=0\r\n";
    assert_eq!(text.matches(keyspace).count(), 2, "{text}");
    let config = "*6\r\n$11\r\nappendfsync\r\n$8\r\neverysec\r\n$10\r\nappendonly\r\n$3\r\nyes\r\n\
                  $10\r\nmaxclients\r\n$4\r\n1024\r\n+OK\r\n";
    assert!(text.ends_with(config), "{text}");
    // What was answered early is there after an orderly end.
    let server = server.restart().await;
    server.expect("GET a", "$1\r\n1\r\n").await;
    server.stop().await;
}

#[test]
fn an_open_address_needs_a_password() {
    let store = TempPath::new("open");
    let serve = |more: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_kv"));
        command.args(["serve", "--listen", "0.0.0.0:0", "--store"]).arg(store.path()).args(more);
        let out = command.output().unwrap();
        (out.status.success(), String::from_utf8_lossy(&out.stderr).into_owned())
    };
    let (done, said) = serve(&[]);
    assert!(!done && said.contains("can be reached from other machines"), "{said}");
    let (done, said) = serve(&["--password", ""]);
    assert!(!done && said.contains("the password is empty"), "{said}");
    let (done, said) = serve(&["--password-file", "/nonexistent"]);
    assert!(!done && said.contains("reading /nonexistent"), "{said}");
    assert!(!store.path().exists());
}
