//! A real `kv serve` process under load, killed with SIGKILL, opened again: what was answered is there.
#![allow(clippy::unwrap_used)] // In a test, a failed unwrap is the failed test.

mod support;

use std::path::Path;
use std::time::Duration;

use support::Dice;
use support::TempPath;
use support::process;
use tokio::io::AsyncReadExt;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::process::Child;
use tokio::process::Command;

struct Server {
    child: Child,
    address: String,
}

async fn start(store: &Path) -> Server {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kv"));
    command.args(["serve", "--listen", "127.0.0.1:0", "--size", "128MiB", "--memory", "16MiB"]);
    let (child, address) = process::listening(command.arg("--store").arg(store)).await;
    Server { child, address }
}

fn set(key: &str, value: &str) -> Vec<u8> {
    let (k, v) = (key.len(), value.len());
    format!("*3\r\n$3\r\nSET\r\n${k}\r\n{key}\r\n${v}\r\n{value}\r\n").into_bytes()
}

fn value(client: u64, number: u64) -> String {
    format!("{client}/{number}/").repeat(1 + (client + number) as usize % 20)
}

/// Writes until the server dies; gives how many writes were answered.
async fn write(address: String, client: u64, from: u64) -> u64 {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let mut number = from;
    let mut reply = [0; 5];
    loop {
        let command = set(&format!("c{client}:{number}"), &value(client, number));
        if stream.write_all(&command).await.is_err() {
            return number;
        }
        match stream.read_exact(&mut reply).await {
            Ok(_) => assert_eq!(&reply, b"+OK\r\n"),
            Err(_) => return number,
        }
        number += 1;
    }
}

async fn check(address: &str, client: u64, answered: u64) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let (mut reader, mut writer) = stream.split();
    for number in 0..answered {
        let key = format!("c{client}:{number}");
        let get = format!("*2\r\n$3\r\nGET\r\n${}\r\n{key}\r\n", key.len());
        writer.write_all(get.as_bytes()).await.unwrap();
        let value = value(client, number);
        let expected = format!("${}\r\n{value}\r\n", value.len());
        let mut found = vec![0; expected.len()];
        reader.read_exact(&mut found).await.unwrap_or_else(|e| panic!("{key}: {e}"));
        assert_eq!(String::from_utf8_lossy(&found), expected, "{key}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kill_restart_and_look() {
    const CLIENTS: u64 = 8;
    let store = TempPath::new("killed");
    let mut dice = Dice::new(4);
    let mut answered = vec![0; CLIENTS as usize];
    for round in 0..4 {
        let mut server = start(store.path()).await;
        for client in 0..CLIENTS {
            check(&server.address, client, answered[client as usize]).await;
        }
        let clients: Vec<_> = (0..CLIENTS)
            .map(|client| {
                let from = answered[client as usize];
                tokio::spawn(write(server.address.clone(), client, from))
            })
            .collect();
        tokio::time::sleep(Duration::from_millis(300 + dice.below(700))).await;
        server.child.kill().await.unwrap();
        for (client, task) in clients.into_iter().enumerate() {
            answered[client] = task.await.unwrap();
        }
        println!("round {round}: {answered:?}");
        assert!(answered.iter().sum::<u64>() > 0);
    }
    let mut server = start(store.path()).await;
    for client in 0..CLIENTS {
        check(&server.address, client, answered[client as usize]).await;
    }
    // And an orderly end.
    process::end(&mut server.child).await;
}
