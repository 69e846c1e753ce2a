//! Row h3: open, allocate and sync in a sparse store of 64 TiB, over one of 64 GiB.
//!
//! Both files lie on one XFS, because ext4 ends at 16 TiB. One operation is: open, write 64 KiB to an object
//! of its own, sync; closing is not counted. What was written is read again at the end. Called by
//! `rows`.

use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

use anyhow::Context;
use anyhow::Result;
use foliant::Engine;
use tokio::runtime::Runtime;

use crate::data::Pattern;
use crate::measure::cpu_seconds;
use crate::rows::bare::reading;
use crate::rows::bare::verdict;
use crate::rows::contest::Levels;
use crate::rows::contest::Reading;
use crate::rows::contest::Side;
use crate::rows::contest::Unit;
use crate::rows::overwrite::nothing;
use crate::rows::plan::Plan;
use crate::rows::report::Outcome;
use crate::rows::store::runtime;
use crate::rows::xfs::Xfs;
use crate::workload::show_bytes;

const SMALL: u64 = 64 << 30;
const LARGE: u64 = 64 << 40;
const MEMORY: u64 = 64 << 20;
/// Room for both journals and what is written.
const DEVICE: u64 = 2 << 30;
const WRITE: usize = 64 << 10;

struct Openings {
    path: PathBuf,
    bytes: u64,
    runtime: Arc<Runtime>,
    pattern: Pattern,
    opened: u64,
}

impl Openings {
    fn make(folder: &Path, bytes: u64) -> Result<Self> {
        let path = folder.join(format!("sparse-{bytes}"));
        let runtime = Arc::new(runtime(1)?);
        let made = runtime.block_on(Engine::format(&path).size_bytes(bytes).sparse(true).run());
        made.with_context(|| format!("a sparse store of {}", show_bytes(bytes)))?;
        Ok(Self { path, bytes, runtime, pattern: Pattern::new(9), opened: 0 })
    }

    async fn once(&mut self) -> Result<Duration> {
        let mut bytes = vec![0; WRITE];
        self.pattern.fill(self.opened, 1, &mut bytes);
        let start = Instant::now();
        let engine = Engine::open(&self.path).memory_bytes(MEMORY).run().await?;
        let object = engine.create(format!("o{}", self.opened)).await?;
        object.write_at(0, &bytes).await?;
        object.sync().await?;
        let elapsed = start.elapsed();
        drop(object);
        engine.close().await?;
        self.opened += 1;
        Ok(elapsed)
    }

    /// Looks at everything that was written; how many are wrong.
    fn wrong(&self) -> Result<u64> {
        self.runtime.block_on(async {
            let engine = Engine::open(&self.path).memory_bytes(MEMORY).run().await?;
            let (mut wrong, mut found, mut right) = (0, vec![0; WRITE], vec![0; WRITE]);
            for number in 0..self.opened {
                self.pattern.fill(number, 1, &mut right);
                let object = engine.object(format!("o{number}")).await?;
                let read = object.read_at(0, &mut found).await?;
                wrong += u64::from(read != WRITE || found != right);
            }
            engine.close().await?;
            Ok(wrong)
        })
    }
}

impl Side for Openings {
    fn name(&self) -> String {
        format!("{} sparse", show_bytes(self.bytes))
    }

    fn block(&mut self, time: Duration, _: u64) -> Result<Reading> {
        let (cpu, start) = (cpu_seconds(), Instant::now());
        let (mut ops, mut counted) = (0, Duration::ZERO);
        let runtime = self.runtime.clone();
        while start.elapsed() < time {
            counted += runtime.block_on(self.once())?;
            ops += 1;
        }
        Ok(reading(ops, counted, cpu))
    }
}

pub fn h3(plan: &Plan, outcome: &mut Outcome) -> Result<()> {
    let device = if plan.quick { 0 } else { DEVICE };
    let Some(xfs) = Xfs::or_skip(plan, outcome, device) else { return nothing(outcome) };
    let (small, large) = if plan.quick { (1 << 30, 1 << 40) } else { (SMALL, LARGE) };
    let mut peer = Openings::make(xfs.folder(), small)?;
    let mut subject = Openings::make(xfs.folder(), large)?;
    let judge = (Unit::Times, Levels::new(1.5, 1.1));
    outcome.contest(plan, "h3 open, allocate, sync", judge, &mut subject, &mut peer)?;
    let wrong = subject.wrong()? + peer.wrong()?;
    outcome.verdicts.push(verdict(subject.opened + peer.opened, wrong, None));
    Ok(())
}
