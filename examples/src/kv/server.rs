//! The server: accepts clients and stops in order.
//!
//! Guarantees at most as many clients as the options say (a further one hears an error), one tracked
//! task per client, one for the sweep of ended keys and one for figures, and after `stop` an end within `STOP_WAIT`: each client's running batch is finished and
//! answered. Does not open or close the store. Called by `serve` and by tests.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::sync::mpsc;
use tokio::time::sleep;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::kv::connection::Connection;
use crate::kv::execute::Executor;
use crate::kv::exposition;
use crate::kv::info::count;
use crate::kv::limits::LAPSED_KEYS_MAX;
use crate::kv::limits::STOP_WAIT;
use crate::kv::options::Options;
use crate::kv::store::Store;
use crate::kv::sweep;

/// How long to let things settle when accepting fails (typically: no file descriptor left).
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Serves `store` on `listener` until `stop`.
pub async fn run(listener: TcpListener, store: Store, options: Options, stop: CancellationToken) {
    let (tasks, cut) = (TaskTracker::new(), CancellationToken::new());
    let (lapsed, named) = mpsc::channel(LAPSED_KEYS_MAX);
    tasks.spawn(sweep::run(store.clone(), options.clock.clone(), named, stop.clone()));
    let places = Arc::new(Semaphore::new(options.clients_max));
    let executor = Executor::new(store, options, lapsed);
    tasks.spawn(exposition::run(executor.clone(), stop.clone()));
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(cause) => {
                tracing::warn!("accepting failed: {cause}");
                sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let Ok(place) = places.clone().try_acquire_owned() else {
            count(&executor.tally().rejected);
            turn_away(&stream);
            continue;
        };
        let connection = Connection::new(prepared(stream), executor.clone(), stop.clone());
        let (cut, executor) = (cut.clone(), executor.clone());
        count(&executor.tally().clients);
        tasks.spawn(async move {
            match cut.run_until_cancelled(connection.run()).await {
                Some(Err(cause)) => tracing::debug!(%peer, "client lost: {cause}"),
                Some(Ok(())) => {}
                None => tracing::warn!(%peer, "client cut off"),
            }
            executor.tally().clients.fetch_sub(1, Ordering::Relaxed);
            drop(place);
        });
    }
    drop(listener);
    tasks.close();
    if timeout(STOP_WAIT, tasks.wait()).await.is_err() {
        cut.cancel();
        tasks.wait().await;
    }
}

fn prepared(stream: TcpStream) -> TcpStream {
    // Replies are gathered already; waiting for more would only add a delay.
    if let Err(cause) = stream.set_nodelay(true) {
        tracing::debug!("no nodelay: {cause}");
    }
    stream
}

/// One attempt, because a client that does not read must not hold up the others.
fn turn_away(stream: &TcpStream) {
    let _ = stream.try_write(b"-ERR max number of clients reached\r\n");
}
