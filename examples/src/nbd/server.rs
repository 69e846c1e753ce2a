//! The server: accepts clients and stops in order.
//!
//! Guarantees at most `connections` clients (a further one is hung up on: the protocol has no word
//! before the negotiation), one tracked task per client, and after `stop` an end within
//! `STOP_WAIT`: what a client had begun is finished and answered. Does not open, sync or close the
//! store. Called by `serve` and by tests.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::sync::mpsc::channel;
use tokio::time::sleep;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::Instrument;

use crate::nbd::catalog::Catalog;
use crate::nbd::handshake;
use crate::nbd::limits::LINES_MAX;
use crate::nbd::limits::LINES_WITHIN;
use crate::nbd::limits::REQUESTS_IN_FLIGHT_MAX;
use crate::nbd::limits::STOP_NOTICE;
use crate::nbd::limits::STOP_WAIT;
use crate::nbd::listen::Listener;
use crate::nbd::outbox;
use crate::nbd::running;
use crate::nbd::session::Session;
use crate::nbd::stream::Stream;
use crate::quiet::Quiet;

/// What clients can make it log by coming, by coming as one too many, and by going: who speaks nonsense can do
/// so again for ever.
static CAME: Quiet = Quiet::new(LINES_MAX, LINES_WITHIN);
static TOO_MANY: Quiet = Quiet::new(LINES_MAX, LINES_WITHIN);
static LOST: Quiet = Quiet::new(LINES_MAX, LINES_WITHIN);

/// How long to let things settle when accepting fails (typically: no file descriptor left).
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// What a server allows.
#[derive(Debug, Clone, Copy)]
pub struct Terms {
    /// Clients at once.
    pub connections: usize,
    /// How long a client that has chosen an export may be silent; `None` is for ever.
    pub idle: Option<Duration>,
    /// How long a negotiation may take.
    pub handshake: Duration,
}

/// Serves the exports of `catalog` on `listener` until `stop`.
pub async fn run(listener: Listener, catalog: Catalog, terms: Terms, stop: CancellationToken) {
    let (tasks, cut) = (TaskTracker::new(), CancellationToken::new());
    let places = Arc::new(Semaphore::new(terms.connections));
    let mut number = 0_u64;
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        let stream = match accepted {
            Ok(stream) => stream,
            Err(cause) => {
                tracing::warn!("accepting failed: {cause}");
                sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let Ok(place) = places.clone().try_acquire_owned() else {
            if let Some(left_out) = TOO_MANY.may() {
                tracing::warn!(left_out, "a client more than {} is hung up on", terms.connections);
            }
            continue;
        };
        number += 1;
        let client = serve(stream, catalog.clone(), stop.clone(), terms);
        let cut = cut.clone();
        let span = tracing::info_span!("client", number);
        let task = async move {
            match cut.run_until_cancelled(client).await {
                Some(Ok(())) => tracing::debug!("gone"),
                Some(Err(cause)) => {
                    if let Some(left_out) = LOST.may() {
                        tracing::info!(left_out, "lost: {cause}");
                    }
                }
                None => tracing::warn!("cut off"),
            }
            drop(place);
        };
        tasks.spawn(task.instrument(span));
    }
    drop(listener);
    tasks.close();
    if timeout(STOP_WAIT, tasks.wait()).await.is_err() {
        cut.cancel();
        tasks.wait().await;
    }
}

/// One client from its first byte to its last. Errors: those of its socket, and its own mistakes.
async fn serve(
    mut stream: Stream,
    catalog: Catalog,
    stop: CancellationToken,
    terms: Terms,
) -> io::Result<()> {
    let negotiation = timeout(terms.handshake, handshake::run(&mut stream, &catalog, &stop));
    let agreed = tokio::select! {
        agreed = negotiation => agreed.map_err(|_| io::ErrorKind::TimedOut)??,
        // A little later: who asks in the meantime hears why.
        () = stopped(&stop) => None,
    };
    let Some(agreed) = agreed else { return Ok(()) };
    if let Some(left_out) = CAME.may() {
        tracing::info!(export = agreed.export.name(), left_out, "serving");
    }
    // A place for each request that may be on its way: nobody waits to put a reply down.
    let (sender, receiver) = channel(REQUESTS_IN_FLIGHT_MAX);
    let (begin, begun) = channel(REQUESTS_IN_FLIGHT_MAX);
    let Stream { input, output } = &mut stream;
    let session = Session::new(input, agreed, sender, begin, stop, terms.idle);
    let running = async {
        running::run(begun).await;
        Ok(())
    };
    tokio::try_join!(session.run(), running, outbox::run(output, receiver)).map(drop)
}

async fn stopped(stop: &CancellationToken) {
    stop.cancelled().await;
    sleep(STOP_NOTICE).await;
}
