//! Takes away what has ended.
//!
//! A reader that meets an ended entry answers as if it were not there and names its key here. What
//! nobody reads is found by a walk over all keys, `SWEEP_KEYS` a step and one step in `SWEEP_PAUSE`;
//! a step that finds much is followed by the next one at once. While no entry of the store has an end,
//! nothing is walked.
//!
//! Guarantees bounded work and memory, that an entry which was given another end meanwhile stays (the
//! writer looks again), and an end at `stop`. Does not decide what clients see. Called by `server`.

use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio::time::sleep_until;
use tokio_util::sync::CancellationToken;

use crate::kv::clock::Clock;
use crate::kv::error::Result;
use crate::kv::limits::LAPSED_KEYS_MAX;
use crate::kv::limits::SWEEP_KEYS;
use crate::kv::limits::SWEEP_PAUSE;
use crate::kv::op::Op;
use crate::kv::op::is_live;
use crate::kv::store::Store;

/// Sweeps until `stop`.
pub async fn run(
    store: Store,
    clock: Clock,
    mut lapsed: mpsc::Receiver<Bytes>,
    stop: CancellationToken,
) {
    let mut from = Bytes::new();
    let mut next = Instant::now() + SWEEP_PAUSE;
    loop {
        let mut met = Vec::new();
        let done = tokio::select! {
            biased;
            () = stop.cancelled() => return,
            () = sleep_until(next) => {
                let found = step(&store, &clock, &mut from).await;
                let much = matches!(found, Ok(found) if found > SWEEP_KEYS / 4);
                next = Instant::now() + if much { Duration::ZERO } else { SWEEP_PAUSE };
                found.map(|_| ())
            }
            count = lapsed.recv_many(&mut met, LAPSED_KEYS_MAX) => match count {
                0 => return,
                _ => remove(&store, &clock, met).await,
            },
        };
        if let Err(cause) = done {
            tracing::warn!("ended keys are not taken away: {cause}");
        }
    }
}

/// One step of the walk; gives how many keys it took away.
async fn step(store: &Store, clock: &Clock, from: &mut Bytes) -> Result<usize> {
    if store.expiring() == 0 {
        return Ok(0);
    }
    let scanned = store.scan_keys(from, SWEEP_KEYS).await?;
    *from = match scanned.entries.last() {
        Some((last, _)) if !scanned.at_end => [&last[..], &[0]].concat().into(),
        _ => Bytes::new(),
    };
    let now = clock.now();
    let all = scanned.entries.into_iter().zip(scanned.expires);
    let ended = all.filter(|(_, end)| !is_live(*end, now)).map(|((key, _), _)| key);
    let ended: Vec<Bytes> = ended.collect();
    let found = ended.len();
    remove(store, clock, ended).await?;
    Ok(found)
}

async fn remove(store: &Store, clock: &Clock, keys: Vec<Bytes>) -> Result<()> {
    if keys.is_empty() {
        return Ok(());
    }
    let now = clock.now();
    let groups = keys.into_iter().map(|key| vec![Op::Sweep { key, now }]).collect();
    for answer in store.write(groups).await? {
        answer?;
    }
    Ok(())
}
