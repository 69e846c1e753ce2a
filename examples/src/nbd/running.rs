//! The requests of one client that wait for the device, all driven by the client's own task.
//!
//! One task reads, waits and sends for a client: what becomes ready is answered by whoever found that, and no
//! other thread is woken for it. Several connections are what uses several threads.
//!
//! Guarantees that what was begun goes on while the client is slow in either direction, and ends; dropping
//! the future ends it. Does not bound how many there are: `session` does, by the room that each holds.
//! Called by `server`, fed by `session`.

use std::pin::Pin;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::sync::mpsc::Receiver;

/// A request that was begun, up to its reply in the outbox.
pub type Work = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Drives what comes until nothing more can come and all is done.
pub async fn run(mut works: Receiver<Work>) {
    let mut running = FuturesUnordered::new();
    loop {
        tokio::select! {
            biased;
            Some(()) = running.next() => {}
            work = works.recv() => match work {
                Some(work) => running.push(work),
                None => break,
            },
        }
    }
    while running.next().await.is_some() {}
}
