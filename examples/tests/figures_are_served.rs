//! `kv serve --metrics-listen`: the page is there, and it has every figure that the dashboard shows.
#![allow(clippy::unwrap_used)] // In a test, a failed unwrap is the failed test.

mod support;

use std::collections::BTreeSet;
use std::time::Duration;

use support::TempPath;
use support::large::ask;
use support::process;
use tokio::io::AsyncReadExt;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;
use tokio::net::TcpStream;
use tokio::process::Command;

const DASHBOARD: &str = include_str!("../dashboards/kv.json");

/// What stands in the queries of the dashboard.
fn shown() -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for query in DASHBOARD.split("\"expr\": \"").skip(1) {
        let query = query.split("\",\n").next().unwrap().split('"').next().unwrap();
        for word in query.split(|c: char| !c.is_ascii_alphanumeric() && c != '_') {
            let is_ours =
                ["kv_", "engine_", "foliant_", "device_"].iter().any(|p| word.starts_with(p));
            names.extend(is_ours.then(|| word.to_owned()));
        }
    }
    names
}

async fn scrape(address: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!("GET /metrics HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut page = String::new();
    stream.read_to_string(&mut page).await.unwrap();
    assert!(page.starts_with("HTTP/1.1 200 OK\r\n"), "{page}");
    page
}

/// The value of the first series of this name.
fn value(page: &str, name: &str) -> Option<f64> {
    let of = |line: &&str| {
        let rest = line.strip_prefix(name);
        rest.is_some_and(|rest| rest.starts_with([' ', '{']))
    };
    page.lines().find(of)?.rsplit(' ').next()?.parse().ok()
}

async fn free_address() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    listener.local_addr().unwrap().to_string()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_figure_of_the_dashboard_is_on_the_page() {
    let store = TempPath::new("figures");
    let metrics = free_address().await;
    let mut command = Command::new(env!("CARGO_BIN_EXE_kv"));
    command.args(["serve", "--listen", "127.0.0.1:0", "--size", "64MiB", "--memory", "16MiB"]);
    command.args(["--metrics-listen", &metrics, "--store"]).arg(store.path());
    let (mut child, address) = process::listening(&mut command).await;
    let mut one = TcpStream::connect(address).await.unwrap();
    // More than the log holds, so that it has to be made free, and one large value.
    for round in 0..300 {
        let key = format!("key{round}");
        ask(&mut one, &[b"SET", key.as_bytes(), &vec![b'v'; 30_000]]).await;
        ask(&mut one, &[b"GET", key.as_bytes()]).await;
        ask(&mut one, &[b"DEL", key.as_bytes()]).await;
    }
    ask(&mut one, &[b"SET", b"large", &vec![b'v'; 300_000]]).await;
    ask(&mut one, &[b"GET", b"none"]).await;

    let names = shown();
    assert!(names.len() >= 25, "{names:?}");
    let mut page = String::new();
    for _ in 0..40 {
        page = scrape(&metrics).await;
        if value(&page, "kv_large_values") == Some(1.0) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
    let missing: Vec<_> = names.iter().filter(|name| value(&page, name).is_none()).collect();
    assert!(missing.is_empty(), "{missing:?} is not in\n{page}");
    for (name, least) in [
        ("kv_commands_total", 902.0),
        ("kv_keyspace_hits_total", 300.0),
        ("kv_keyspace_misses_total", 1.0),
        ("kv_clients", 1.0),
        ("kv_write_seconds_count", 601.0),
        ("foliant_commit_seconds_count", 500.0),
        ("engine_capacity_bytes", 30e6),
        ("engine_checkpoints_total", 1.0),
    ] {
        let found = value(&page, name).unwrap();
        assert!(found >= least, "{name} is {found}, at least {least} was expected");
    }
    assert_eq!(value(&page, "kv_keys"), Some(1.0));
    process::end(&mut child).await;
    assert!(TcpStream::connect(&metrics).await.is_err(), "the page goes with the server");
}

#[test]
fn an_open_address_has_to_be_asked_for() {
    let store = TempPath::new("figures-open");
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_kv"));
    command.args(["serve", "--metrics-listen", "0.0.0.0:0", "--store"]).arg(store.path());
    let out = command.output().unwrap();
    let said = String::from_utf8_lossy(&out.stderr);
    assert!(!out.status.success() && said.contains("figures have no password"), "{said}");
    assert!(!store.path().exists());
}
