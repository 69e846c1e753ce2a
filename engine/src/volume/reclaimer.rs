//! The background reclaimer: keeps free memory between the watermarks, so that callers seldom wait.
//!
//! Guarantees: takes what `reclaim` gives and nothing else, so it respects folio locks, writes
//! nothing and holds nothing while it pauses; asks the flusher when only dirty or journaled folios
//! are left, and as long as somebody waits for memory though enough is free. Does not choose folios (`reclaim` does). Spawned by `volume::mount`.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::kit::memory::Reclaimer;
use crate::object::open::Wing;
use crate::reclaim::Reclaim;

/// Blocks per round, with a yield in between.
const ROUND_BLOCKS: usize = 128;
/// Rounds without success after which the loop waits for the next ring of the bell.
const IDLE_ROUNDS: u32 = 4;
/// Pause after a round without success, so that the flusher gets somewhere.
const PAUSE: Duration = Duration::from_millis(5);

/// Runs until `stop` is cancelled. Dropping the future stops it at once; nothing is left half done.
pub async fn run(reclaim: Arc<Reclaim>, wing: Wing, stop: CancellationToken) {
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            () = wing.memory.bell().notified() => {}
        }
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            () = refill(&reclaim, &wing) => {}
        }
    }
}

async fn refill(reclaim: &Reclaim, wing: &Wing) {
    let mut idle = 0;
    loop {
        let wanted = wing.memory.shortfall().min(ROUND_BLOCKS);
        if wanted == 0 && !wing.memory.is_waited_for() {
            return;
        }
        if wanted == 0 {
            // A large region is wanted. Who waits drops clean folios himself; what lies between them is
            // dirty or journaled. The wait ends by itself, so this does.
            wing.dirty.wake_flusher();
            tokio::time::sleep(PAUSE).await;
            continue;
        }
        if reclaim.reclaim(wanted) > 0 {
            idle = 0;
            tokio::task::yield_now().await;
            continue;
        }
        idle += 1;
        if idle == IDLE_ROUNDS {
            return;
        }
        // Dirty folios want writeback, journaled ones a checkpoint: the flusher knows both.
        wing.dirty.wake_flusher();
        tokio::time::sleep(PAUSE).await;
    }
}
