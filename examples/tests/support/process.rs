//! Programs as processes: servers of this crate, and tools of others that may be missing.

use std::io::Write;
use std::process::Stdio;
use std::time::Duration;

use tokio::io::AsyncBufReadExt;
use tokio::io::BufReader;
use tokio::process::Child;
use tokio::process::Command;
use tokio::time::timeout;

/// Starts a server and waits until it says where it listens; that, too.
pub async fn listening(command: &mut Command) -> (Child, String) {
    saying(command, "listening on ").await
}

/// Starts a server and waits for a line that begins so; the rest of it, too.
pub async fn saying(command: &mut Command, start: &str) -> (Child, String) {
    let mut child = command.stdout(Stdio::piped()).kill_on_drop(true).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let said = loop {
        let line = lines.next_line().await.unwrap().expect("the server did not start");
        if let Some(rest) = line.strip_prefix(start) {
            break rest.to_owned();
        }
    };
    // The pipe must stay open, or the server's last words fail.
    tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
    (child, said)
}

/// SIGTERM, and an orderly end.
pub async fn end(child: &mut Child) {
    let pid = child.id().unwrap().to_string();
    assert!(Command::new("kill").args(["-TERM", &pid]).status().await.unwrap().success());
    let ended = timeout(Duration::from_secs(60), child.wait()).await;
    assert!(ended.expect("the server does not stop").unwrap().success());
}

/// Whether a tool is in PATH. Says it loudly if not, past the harness, which swallows what passing tests print.
pub fn is_there(tool: &str, package: &str) -> bool {
    let paths = std::env::var_os("PATH").unwrap_or_default();
    let there = std::env::split_paths(&paths).any(|path| path.join(tool).is_file());
    if !there {
        skipped(&format!("{tool} is not in PATH, it is in the package {package}"));
    }
    there
}

/// Says why something is not tested.
pub fn skipped(why: &str) {
    std::io::stderr().write_all(format!("\nSKIPPED: {why}\n").as_bytes()).unwrap();
}
