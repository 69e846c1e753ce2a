//! The tools of Redis against `kv serve`, and a real Redis as the oracle of the commands.
//!
//! What is not installed is SKIPPED, loudly, with the name of its package.
#![allow(clippy::unwrap_used)] // In a test, a failed unwrap is the failed test.

mod support;

use std::path::Path;
use std::process::Output;
use std::process::Stdio;
use std::time::Duration;

use support::Dice;
use support::TempPath;
use support::process::end;
use support::process::listening;
use support::process::skipped;
use support::served::start;
use tokio::io::AsyncBufReadExt;
use tokio::io::AsyncReadExt;
use tokio::io::AsyncWriteExt;
use tokio::io::BufReader;
use tokio::net::TcpStream;
use tokio::process::Child;
use tokio::process::Command;
use tokio::time::timeout;

/// Whether the program is there and runs like this; says so loudly if not.
async fn runs(program: &str, arguments: &[&str], package: &str) -> bool {
    let ran = Command::new(program).args(arguments).stdin(Stdio::null()).output().await;
    let runs = ran.is_ok_and(|out| out.status.success());
    if !runs {
        skipped(&format!("{program} {arguments:?} does not run; it is in the package {package}"));
    }
    runs
}

struct Server {
    child: Child,
    port: String,
}

async fn serve(store: &Path, more: &[&str]) -> Server {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kv"));
    command.args(["serve", "--listen", "127.0.0.1:0", "--size", "256MiB", "--memory", "32MiB"]);
    let (child, address) = listening(command.args(more).arg("--store").arg(store)).await;
    let port = address.rsplit(':').next().unwrap().to_owned();
    Server { child, port }
}

impl Server {
    /// A signal, and an orderly end.
    async fn end(mut self) {
        end(&mut self.child).await;
    }

    async fn run(&self, program: &str, arguments: &[&str], input: Vec<u8>) -> Output {
        let mut child = Command::new(program)
            .args(arguments)
            .env("KV_PORT", &self.port)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let feed = tokio::spawn(async move { stdin.write_all(&input).await });
        let ran = timeout(Duration::from_secs(240), child.wait_with_output()).await;
        let out = ran.unwrap_or_else(|_| panic!("{program} hangs")).unwrap();
        let _ = feed.await;
        let said = String::from_utf8_lossy(&out.stdout);
        let errors = String::from_utf8_lossy(&out.stderr);
        println!("{program} {arguments:?}: {}\n{said}{errors}", out.status);
        assert!(out.status.success(), "{program} {arguments:?}: {said}{errors}");
        out
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_benchmark_runs() {
    if !runs("redis-benchmark", &["--version"], "redis-tools").await {
        return;
    }
    let store = TempPath::new("benchmark");
    for more in [&["--durability", "always"], &["--durability", "everysec"]] {
        let server = serve(store.path(), more).await;
        let plain = ["-p", &server.port, "-t", "ping,set,get,incr,mset", "-n", "2000", "-q"];
        for depth in [&[][..], &["-P", "16"]] {
            let out = server.run("redis-benchmark", &[&plain[..], depth].concat(), vec![]).await;
            let said = String::from_utf8_lossy(&out.stdout);
            for test in ["PING_INLINE:", "PING_MBULK:", "SET:", "GET:", "INCR:", "MSET (10 keys):"]
            {
                assert!(said.contains(test), "{test}");
            }
            let errors = String::from_utf8_lossy(&out.stderr);
            assert!(!said.contains("rror") && !errors.contains("rror"), "{said}{errors}");
        }
        server.end().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_cli_pipes_a_hundred_thousand_keys() {
    const KEYS: usize = 100_000;
    if !runs("redis-cli", &["--version"], "redis-tools").await {
        return;
    }
    let store = TempPath::new("cli");
    let server = serve(store.path(), &[]).await;
    let set = |i: usize| {
        let (key, value) = (format!("key:{i}"), format!("value {i}"));
        let (k, v) = (key.len(), value.len());
        format!("*3\r\n$3\r\nSET\r\n${k}\r\n{key}\r\n${v}\r\n{value}\r\n")
    };
    let input: String = (0..KEYS).map(set).collect();
    let port = server.port.clone();
    let out = server.run("redis-cli", &["-p", &port, "--pipe"], input.into_bytes()).await;
    let said = String::from_utf8_lossy(&out.stdout);
    assert!(said.contains(&format!("errors: 0, replies: {KEYS}")), "{said}");
    // The lines of a script, as somebody types them.
    let script = "dbsize\nget key:99999\nset \"a b\" 'c d' ex 100\nttl \"a b\"\ninfo keyspace\n\
                  hello 3\nconfig get appendonly\n";
    let out = server.run("redis-cli", &["-p", &port], script.into()).await;
    let said = String::from_utf8_lossy(&out.stdout);
    // How a map looks depends on the version of the tool: with a blank or a line end.
    let said = said.replace([' ', '\r'], "\n");
    for part in [
        "100000\nvalue\n99999\nOK\n100\n#\nKeyspace\n\ndb0:keys=100001,expires=1,",
        "proto\n3\n",
        "appendonly\nyes\n",
    ] {
        assert!(said.contains(part), "{part} in {said}");
    }
    let scan = ["-p", &port, "--scan", "--pattern", "key:777*"];
    let out = server.run("redis-cli", &scan, vec![]).await;
    let said = String::from_utf8_lossy(&out.stdout).into_owned();
    assert_eq!(said.lines().count(), 111, "{said}");
    server.end().await;
}

const PYTHON: &str = r#"
import os, time, redis
r = redis.Redis(port=int(os.environ["KV_PORT"]), decode_responses=True)
assert r.ping()
r.flushdb()
assert r.set("text", "grüße") and r.get("text") == "grüße"
b = redis.Redis(port=int(os.environ["KV_PORT"]))
b.set("bytes", bytes(range(256))); assert b.get("bytes") == bytes(range(256))
assert r.set("int", 5) and r.incr("int", 10) == 15 and r.decr("int") == 14
assert r.incrbyfloat("float", 1.5) == 1.5
assert r.append("text", "!") == len("grüße!".encode())
assert r.setrange("text", 0, "G") and r.getrange("text", 0, 1) == "Gr"
assert r.set("nx", 1, nx=True) is True and r.set("nx", 2, nx=True) is None
assert r.set("nx", 3, get=True) == "1"
assert r.mset({"m1": 1, "m2": 2}) and r.mget("m1", "m2", "m3") == ["1", "2", None]
assert r.msetnx({"m2": 1, "m9": 2}) is False
assert r.setex("soon", 100, "x") and 98 <= r.ttl("soon") <= 100
assert r.expire("int", 50) and r.persist("int") and r.ttl("int") == -1
assert r.set("gone", 1, px=30); time.sleep(0.06); assert r.get("gone") is None
assert r.exists("text", "int", "none") == 2 and r.type("text") == "string"
assert r.rename("m1", "m7") and r.getdel("m7") == "1" and r.delete("m2", "m8") == 1
for i in range(500): r.set(f"scan:{i}", i)
assert len(set(r.scan_iter("scan:*", count=37))) == 500
with r.pipeline(transaction=True) as p:
    p.set("t", 1); p.incr("t"); p.get("t"); p.mget("t", "none")
    assert p.execute() == [True, 2, "2", ["2", None]]
with r.pipeline() as p:
    p.watch("t"); now = int(p.get("t")); r.set("t", 100)
    p.multi(); p.set("t", now + 1)
    try: p.execute(); raise SystemExit("a watched key changed unnoticed")
    except redis.WatchError: pass
def add(p):
    n = int(p.get("t")); p.multi(); p.set("t", n + 1)
r.transaction(add, "t"); assert r.get("t") == "101"
with r.pipeline(transaction=False) as p:
    for i in range(1000): p.set(f"p{i}", i)
    assert all(p.execute())
assert r.info("keyspace")["db0"]["keys"] == r.dbsize()
assert r.info()["redis_version"] and r.config_get("appendonly") == {"appendonly": "yes"}
assert r.client_setname("me") and r.client_getname() == "me" and r.client_id() > 0
try: r.execute_command("LPUSH", "l", 1); raise SystemExit("LPUSH?")
except redis.ResponseError as e: assert "unknown command" in str(e)
r.flushall(); assert r.dbsize() == 0
print("python: all as it should be, redis-py", redis.__version__)
"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_python_client_works() {
    let mut python = None;
    // The package of the system belongs to the interpreter of the system.
    for candidate in ["python3", "/usr/bin/python3"] {
        let tried = Command::new(candidate).args(["-c", "import redis"]).output().await;
        if tried.is_ok_and(|out| out.status.success()) {
            python = Some(candidate);
            break;
        }
    }
    let Some(python) = python else {
        runs("python3", &["-c", "import redis"], "python3-redis").await;
        return;
    };
    let store = TempPath::new("python");
    let server = serve(store.path(), &[]).await;
    server.run(python, &["-c", PYTHON], vec![]).await;
    server.end().await;
}

/// One reply, as it came.
async fn reply(stream: &mut BufReader<TcpStream>) -> String {
    let mut text = String::new();
    let mut missing = 1;
    while missing > 0 {
        let mut line = String::new();
        let read = timeout(Duration::from_secs(10), stream.read_line(&mut line)).await;
        assert!(read.expect("no reply").unwrap() > 0, "closed after {text}");
        missing -= 1;
        let number = line[1..].trim_end().parse::<i64>();
        match (line.as_bytes()[0], number) {
            (b'$', Ok(len @ 0..)) => {
                let mut bytes = vec![0; len as usize + 2];
                stream.read_exact(&mut bytes).await.unwrap();
                line.push_str(&bytes.escape_ascii().to_string());
            }
            (b'*', Ok(count @ 0..)) => missing += count,
            _ => {}
        }
        text.push_str(&line);
    }
    text
}

/// A command of few keys, so that they meet.
fn draw(dice: &mut Dice) -> String {
    let numbers =
        ["0", "1", "-1", "7", "9223372036854775807", "x", "", "1.5", "-3.25", "3e2", " 1"];
    let key = |dice: &mut Dice| ["a", "b", "c", "d"][dice.below(4) as usize];
    let (k, l) = (key(dice), key(dice));
    let v = numbers[dice.below(numbers.len() as u64) as usize];
    let n = ["0", "1", "-1", "5", "-20", "100", "x"][dice.below(7) as usize];
    let m = ["0", "2", "-2", "9", "-100"][dice.below(5) as usize];
    // The far future, or long past: the two clocks need not agree.
    let time = ["4000000000", "4000000001", "1", "0", "-5", "y"][dice.below(6) as usize];
    let flag = ["NX", "XX", "GT", "LT", "NX GT", "GT LT", "XX LT", "QQ"][dice.below(8) as usize];
    let set = ["NX", "XX", "GET", "NX GET", "XX GET", "KEEPTTL", "NX XX", "FOO"];
    let set = set[dice.below(8) as usize];
    match dice.below(38) {
        0 => format!("GET {k}"),
        1 => format!("SET {k} {v}"),
        2 => format!("SET {k} {v} {set}"),
        3 => format!("SET {k} {v} EXAT {time}"),
        4 => format!("SET {k} {v} {set} PXAT {time}000"),
        5 => format!("SETNX {k} {v}"),
        6 => format!("GETSET {k} {v}"),
        7 => format!("GETDEL {k}"),
        8 => format!("GETEX {k}"),
        9 => format!("GETEX {k} EXAT 400000000{}", dice.below(9)),
        10 => format!("GETEX {k} PERSIST"),
        11 => format!("INCR {k}"),
        12 => format!("DECR {k}"),
        13 => format!("INCRBY {k} {n}"),
        14 => format!("DECRBY {k} {v}"),
        15 => {
            format!("INCRBYFLOAT f {}", ["0.5", "1.5", "-3.25", "3e2", "x"][dice.below(5) as usize])
        }
        16 => format!("APPEND {k} {v}"),
        17 => format!("STRLEN {k}"),
        18 => format!("GETRANGE {k} {n} {m}"),
        19 => format!("SETRANGE {k} {n} {v}"),
        20 => format!("MSET {k} {v} {l} {n}"),
        21 => format!("MSETNX {k} {v} {l} {n}"),
        22 => format!("MGET {k} {l} none"),
        23 => format!("EXISTS {k} {l} {k}"),
        24 => format!("DEL {k} {l}"),
        25 => format!("UNLINK {k}"),
        26 => format!("TYPE {k}"),
        27 => format!("RENAME {k} {l}"),
        28 => format!("RENAMENX {k} {l}"),
        29 => format!("EXPIREAT {k} {time}"),
        30 => format!("EXPIREAT {k} {time} {flag}"),
        31 => format!("PEXPIREAT {k} {time} {flag}"),
        32 => format!("PERSIST {k}"),
        33 => format!("EXPIRETIME {k}"),
        34 => format!("PEXPIRETIME {k}"),
        35 => format!("EXPIRE {k} -1"),
        36 => format!("SUBSTR {k} 0 {m}"),
        _ => ["PING", "ECHO", "NOSUCH a b", "SELECT 0", "MSET a", "TIME x"][dice.below(6) as usize]
            .into(),
    }
}

fn packed(line: &str) -> Vec<u8> {
    let words: Vec<&str> = line.split(' ').collect();
    let word = |w: &&str| format!("${}\r\n{w}\r\n", w.len());
    let words: Vec<String> = words.iter().map(word).collect();
    format!("*{}\r\n{}", words.len(), words.concat()).into_bytes()
}

/// A real Redis on a free port; none if it does not come up.
async fn real_redis(directory: &Path) -> (Child, TcpStream) {
    let free = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = free.local_addr().unwrap().port().to_string();
    drop(free);
    let child = Command::new("redis-server")
        .args(["--port", &port, "--save", "", "--appendonly", "no", "--dir"])
        .arg(directory)
        .stdout(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    for _ in 0..100 {
        match TcpStream::connect(format!("127.0.0.1:{port}")).await {
            Ok(stream) => return (child, stream),
            Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
    panic!("redis-server does not listen");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_real_redis_gives_the_same_replies() {
    if !runs("redis-server", &["--version"], "redis-server").await {
        return;
    }
    let mut dice = Dice::new(20);
    let (mut redis, theirs) = real_redis(&std::env::temp_dir()).await;
    let server = start().await;
    let (mut ours, mut theirs) = (BufReader::new(server.connect().await), BufReader::new(theirs));
    let mut history = Vec::new();
    let mut queueing = false;
    for _ in 0..20_000 {
        let line = match dice.below(60) {
            0 | 1 if !queueing => "MULTI".to_owned(),
            0..8 if queueing => ["EXEC", "EXEC", "EXEC", "DISCARD"][dice.below(4) as usize].into(),
            2 => ["WATCH a b", "UNWATCH"][dice.below(2) as usize].into(),
            _ => draw(&mut dice),
        };
        queueing = (queueing || line == "MULTI") && line != "EXEC" && line != "DISCARD";
        let packed = packed(&line);
        ours.write_all(&packed).await.unwrap();
        theirs.write_all(&packed).await.unwrap();
        history.push(line);
        let (mine, real) = (reply(&mut ours).await, reply(&mut theirs).await);
        let tail = &history[history.len().saturating_sub(12)..];
        assert_eq!(mine, real, "ours and theirs, after {tail:#?}");
    }
    redis.kill().await.unwrap();
    server.stop().await;
}
