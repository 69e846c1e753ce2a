//! Row h1: what the look-up of one extent costs in an object of many, over one of few.
//!
//! Every other block is preallocated, so that each is an extent of its own and none holds data; what is
//! asked is `extents` of one block at random. Every answer is checked. Called by `rows`.

use std::time::Duration;
use std::time::Instant;

use anyhow::Result;
use foliant::ExtentState;
use foliant::Object;
use foliant_device::BLOCK_SIZE;

use crate::data::Random;
use crate::rows::bare::Bare;
use crate::rows::bare::repeated;
use crate::rows::bare::verdict;
use crate::rows::contest::Levels;
use crate::rows::contest::Reading;
use crate::rows::contest::Side;
use crate::rows::contest::Unit;
use crate::rows::plan::Plan;
use crate::rows::report::Outcome;

const BLOCK: u64 = BLOCK_SIZE as u64;
const FEW: u64 = 1000;
const MANY: u64 = 10_000_000;
/// The most that one call reports.
const EXTENTS_PER_CALL: usize = 4096;
/// Look-ups between two looks at the clock.
const ROUND: u64 = 64;
/// The making of extents ends here, and says how many there are.
const MAKING_MAX: Duration = Duration::from_secs(400);
/// Memory for the look-ups, in bytes per extent: what the row asks is not what a miss costs.
const MEMORY_PER_EXTENT: u64 = 100;

struct Lookups<'a> {
    bare: &'a Bare,
    object: &'a Object,
    extents: u64,
    looked: u64,
    wrong: u64,
}

impl Side for Lookups<'_> {
    fn name(&self) -> String {
        format!("{} extents", self.extents)
    }

    fn block(&mut self, time: Duration, stretch: u64) -> Result<Reading> {
        let mut random = Random::new(stretch);
        let (object, extents) = (self.object, self.extents);
        let wrong = std::cell::Cell::new(0);
        let wrong = &wrong;
        let reading = self.bare.runtime.block_on(repeated(time, ROUND, || {
            let block = random.below(extents) * 2;
            async move {
                let found = object.extents(block * BLOCK..(block + 1) * BLOCK, 1).await?;
                let right = found.first().is_some_and(|e| {
                    e.range.start == block * BLOCK && e.state == ExtentState::Unwritten
                });
                wrong.set(wrong.get() + u64::from(!right || found.len() != 1));
                Ok(())
            }
        }))?;
        self.looked += reading.ops as u64;
        self.wrong += wrong.get();
        Ok(reading)
    }
}

pub fn h1(plan: &Plan, outcome: &mut Outcome) -> Result<()> {
    let many = plan.count(MANY, 2000);
    let few = FEW.min(many / 2).max(1);
    let (small, few_object, few) = made(plan, outcome, "few", few)?;
    let (large, many_object, many) = made(plan, outcome, "many", many)?;
    let mut peer = Lookups { bare: &small, object: &few_object, extents: few, looked: 0, wrong: 0 };
    let mut subject =
        Lookups { bare: &large, object: &many_object, extents: many, looked: 0, wrong: 0 };
    let judge = (Unit::Times, Levels::new(5.0, 3.0));
    outcome.contest(plan, "h1 extent look-up", judge, &mut subject, &mut peer)?;
    let (looked, wrong) = (subject.looked + peer.looked, subject.wrong + peer.wrong);
    outcome.verdicts.push(verdict(looked, wrong, None));
    drop((few_object, many_object));
    small.closed()?;
    large.closed()?;
    Ok(())
}

/// A store with one object of `extents` extents, opened anew; how many there are, because making them
/// has an end.
fn made(
    plan: &Plan,
    outcome: &mut Outcome,
    name: &str,
    extents: u64,
) -> Result<(Bare, Object, u64)> {
    let memory = (extents * MEMORY_PER_EXTENT).max(16 << 20);
    let bytes = extents * BLOCK * 5 / 4 + (256 << 20);
    let bare = Bare::make(plan, name, bytes, memory, true)?;
    let start = Instant::now();
    let count = bare.runtime.block_on(async {
        let object = bare.engine.create("extents").await?;
        object.truncate(extents * 2 * BLOCK).await?;
        let mut count = 0;
        while count < extents && start.elapsed() < MAKING_MAX {
            object.preallocate(count * 2 * BLOCK..(count * 2 + 1) * BLOCK).await?;
            count += 1;
            tokio::task::consume_budget().await;
        }
        object.sync().await?;
        anyhow::Ok(count)
    })?;
    let (seconds, memory) = (start.elapsed().as_secs_f64(), memory >> 20);
    outcome.fact(
        &format!("{extents} extents"),
        format!("{count} made in {seconds:.1} s, memory {memory} MiB"),
    );
    let bare = bare.reopened()?;
    let object = bare.runtime.block_on(bare.engine.object("extents"))?;
    bare.runtime.block_on(async {
        // All of it once, so that no block measures what the first look at it costs.
        let (mut at, end) = (0, count * 2 * BLOCK);
        while let Some(last) = object.extents(at..end, EXTENTS_PER_CALL).await?.last() {
            at = last.range.end;
        }
        anyhow::Ok(())
    })?;
    Ok((bare, object, count))
}
