//! An engine on a file of the row's own, without the one object that a target has.
//!
//! Guarantees that the file is gone when the value is. Does not fill anything and does not verify: the
//! rows that ask how cost grows do. Called by those.

use std::future::Future;
use std::time::Duration;
use std::time::Instant;

use anyhow::Context;
use anyhow::Result;
use foliant::Engine;
use tokio::runtime::Runtime;

use crate::measure::cpu_seconds;
use crate::place::Lodging;
use crate::place::Wish;
use crate::report::Verdict;
use crate::rows::contest::Reading;
use crate::rows::plan::Plan;
use crate::rows::store::runtime;

/// An open engine.
pub struct Bare {
    pub runtime: Runtime,
    pub engine: Engine,
    lodging: Lodging,
}

impl Bare {
    /// Makes a store of `bytes` and opens it with `memory` bytes.
    pub fn make(plan: &Plan, name: &str, bytes: u64, memory: u64, sparse: bool) -> Result<Self> {
        let wish = Wish { folder: plan.folder.clone(), ..Wish::default() };
        let lodging = Lodging::find(&wish, name, bytes, bytes, memory)?;
        let runtime = runtime(1)?;
        let path = &lodging.place.path;
        let engine = runtime.block_on(async {
            Engine::format(path).size_bytes(bytes).sparse(sparse).run().await?;
            Engine::open(path).memory_bytes(memory).run().await
        });
        let engine = engine.with_context(|| format!("making {}", path.display()))?;
        Ok(Self { runtime, engine, lodging })
    }

    /// Closes it and opens it again.
    pub fn reopened(self) -> Result<Self> {
        let Self { runtime, engine, lodging } = self;
        let place = &lodging.place;
        let engine = runtime.block_on(async {
            engine.close().await?;
            Engine::open(&place.path).memory_bytes(place.memory).run().await
        })?;
        Ok(Self { runtime, engine, lodging })
    }

    /// Closes it; its file stays until the lodging goes.
    pub fn closed(self) -> Result<Lodging> {
        self.runtime.block_on(self.engine.close())?;
        Ok(self.lodging)
    }
}

/// Repeats `once` for about `time`, looking at the clock every `round` times.
pub async fn repeated<F>(time: Duration, round: u64, mut once: impl FnMut() -> F) -> Result<Reading>
where
    F: Future<Output = Result<()>>,
{
    let (cpu, start) = (cpu_seconds(), Instant::now());
    let mut ops = 0;
    while start.elapsed() < time {
        for _ in 0..round {
            once().await?;
        }
        ops += round;
        tokio::task::consume_budget().await;
    }
    Ok(reading(ops, start.elapsed(), cpu))
}

/// A reading of `ops` operations that move no bytes worth counting.
pub fn reading(ops: u64, elapsed: Duration, cpu_before: Option<f64>) -> Reading {
    let cpu_seconds = cpu_before.zip(cpu_seconds()).map(|(before, after)| after - before);
    Reading { ops: ops as f64, bytes: 0.0, seconds: elapsed.as_secs_f64(), cpu_seconds }
}

/// A verdict over things that were looked at one by one.
pub fn verdict(compared: u64, mismatches: u64, first: Option<String>) -> Verdict {
    let verified = mismatches == 0 && compared > 0;
    Verdict { verified, blocks_compared: compared, mismatches, first_mismatch: first }
}
