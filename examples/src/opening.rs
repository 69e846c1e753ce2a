//! Opening a store for a program: it is made if it is missing, and a lock is waited for a little.
//!
//! Guarantees that a store that is there is never formatted. Called by the commands.

use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use foliant::Engine;
use foliant::ErrorKind;
use tokio::time::Instant;
use tokio::time::sleep;

/// How long to wait for the lock of a process that was killed.
const LOCK_WAIT: Duration = Duration::from_secs(3);
/// How long between two attempts.
const LOCK_PAUSE: Duration = Duration::from_millis(5);

/// Opens the store at `path`, after making one of `size` bytes if nothing is there.
pub async fn open_or_make(path: &Path, size: u64, memory: u64) -> anyhow::Result<Engine> {
    if !path.try_exists().with_context(|| format!("looking for {}", path.display()))? {
        let format = Engine::format(path).size_bytes(size);
        format.run().await.with_context(|| format!("making {}", path.display()))?;
    }
    open(path, memory).await
}

/// Opens a store; waits a little for a lock that a killed process leaves behind.
///
/// The kernel takes a killed process's rings down after the process is gone, and only then the lock
/// on the file goes.
pub async fn open(path: &Path, memory: u64) -> anyhow::Result<Engine> {
    let deadline = Instant::now() + LOCK_WAIT;
    loop {
        match Engine::open(path).memory_bytes(memory).run().await {
            Err(cause) if cause.kind() == ErrorKind::Locked && Instant::now() < deadline => {
                sleep(LOCK_PAUSE).await;
            }
            opened => return opened.with_context(|| format!("opening {}", path.display())),
        }
    }
}
