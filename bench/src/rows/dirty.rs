//! Row h4: what a durable commit costs while many blocks of another object are dirty, over none.
//!
//! Both sides are one store. Before a stretch of commits every other block of the object is
//! written again; a stretch during which writeback began is done again, because what it costs to write
//! back is not what is asked. Writeback begins when an eighth of the memory is dirty and every five
//! seconds, so the number of blocks is bounded by the memory. Called by `rows`.

use std::cell::Cell;
use std::time::Duration;
use std::time::Instant;

use anyhow::Result;
use anyhow::ensure;
use foliant::Object;
use foliant_device::BLOCK_SIZE;

use crate::data::Pattern;
use crate::data::Random;
use crate::measure::cpu_seconds;
use crate::rows::bare::Bare;
use crate::rows::bare::reading;
use crate::rows::bare::repeated;
use crate::rows::bare::verdict;
use crate::rows::contest::Levels;
use crate::rows::contest::Reading;
use crate::rows::contest::Side;
use crate::rows::contest::Unit;
use crate::rows::plan::Plan;
use crate::rows::report::Outcome;

const BLOCK: u64 = BLOCK_SIZE as u64;
/// A million would need 40 GiB of memory.
const DIRTY: u64 = 200_000;
/// Memory, as a multiple of what is dirty.
const MEMORY_TIMES: u64 = 10;
/// Blocks of the object that is committed to.
const COMMITTED: u64 = 4096;
/// Commits go on for this long before everything is written again.
const STRETCH: Duration = Duration::from_millis(700);
/// A stretch is done again this often at most.
const TRIES_MAX: u32 = 20;

struct Commits<'a> {
    bare: &'a Bare,
    dirtied: &'a Object,
    committed: &'a Object,
    pattern: &'a Pattern,
    /// The generation of what is dirty, for both sides.
    generation: &'a Cell<u32>,
    /// Blocks that are dirty meanwhile.
    dirty: u64,
    again: u32,
}

impl Commits<'_> {
    async fn write_all(&self) -> Result<()> {
        let generation = self.generation.get() + 1;
        self.generation.set(generation);
        let mut bytes = vec![0; BLOCK_SIZE];
        for number in 0..self.dirty {
            self.pattern.fill(number, generation, &mut bytes);
            self.dirtied.write_at(number * 2 * BLOCK, &bytes).await?;
            tokio::task::consume_budget().await;
        }
        Ok(())
    }

    async fn stretch(&self, time: Duration, random: &mut Random) -> Result<Reading> {
        let engine = &self.bare.engine;
        let mut bytes = vec![0; BLOCK_SIZE];
        repeated(time, 1, || {
            let block = random.below(COMMITTED);
            self.pattern.fill(block, 1, &mut bytes);
            let mut transaction = engine.transaction();
            let added = transaction.write_at(self.committed, block * BLOCK, &bytes);
            async move {
                added?;
                Ok(transaction.commit().await?.durable().await?)
            }
        })
        .await
    }

    /// Whether everything that should be dirty still is.
    fn holds(&self) -> bool {
        let dirty = self.bare.engine.stats().dirty_bytes / BLOCK;
        dirty * 10 >= self.dirty * 9
    }
}

impl Side for Commits<'_> {
    fn name(&self) -> String {
        format!("{} dirty blocks", self.dirty)
    }

    fn block(&mut self, time: Duration, stretch: u64) -> Result<Reading> {
        let mut random = Random::new(stretch);
        let cpu = cpu_seconds();
        let (mut ops, mut counted) = (0.0, Duration::ZERO);
        let mut tries = 0;
        while counted < time {
            let found = self.bare.runtime.block_on(async {
                match self.dirty {
                    0 => self.dirtied.sync().await?,
                    _ => self.write_all().await?,
                }
                self.stretch(STRETCH.min(time), &mut random).await
            })?;
            if !self.holds() {
                (tries, self.again) = (tries + 1, self.again + 1);
                ensure!(tries < TRIES_MAX, "writeback begins in every stretch");
                continue;
            }
            ops += found.ops;
            counted += Duration::from_secs_f64(found.seconds);
        }
        Ok(Reading { cpu_seconds: None, ..reading(ops as u64, counted, cpu) })
    }
}

pub fn h4(plan: &Plan, outcome: &mut Outcome) -> Result<()> {
    let count = plan.count(DIRTY, 100);
    let memory = (count * BLOCK * MEMORY_TIMES).max(32 << 20);
    let bytes = count * BLOCK * 4 + (512 << 20);
    let bare = Bare::make(plan, "dirty", bytes, memory, plan.quick)?;
    let (pattern, generation) = (Pattern::new(plan.rules.seed), Cell::new(0));
    let (dirtied, committed) = bare.runtime.block_on(async {
        anyhow::Ok((bare.engine.create("dirtied").await?, bare.engine.create("committed").await?))
    })?;
    let side = |dirty| Commits {
        bare: &bare,
        dirtied: &dirtied,
        committed: &committed,
        pattern: &pattern,
        generation: &generation,
        dirty,
        again: 0,
    };
    let (mut subject, mut peer) = (side(count), side(0));
    bare.runtime.block_on(async {
        let start = Instant::now();
        subject.write_all().await?;
        outcome.fact(
            "dirty",
            format!(
                "{count} blocks, written in {:.2} s; memory {} MiB",
                start.elapsed().as_secs_f64(),
                memory >> 20
            ),
        );
        let mut bytes = vec![0; BLOCK_SIZE];
        for block in 0..COMMITTED {
            pattern.fill(block, 1, &mut bytes);
            committed.write_at(block * BLOCK, &bytes).await?;
        }
        bare.engine.sync().await?;
        anyhow::Ok(())
    })?;
    let judge = (Unit::Times, Levels::new(1.3, 1.1));
    outcome.contest(plan, "h4 durable commit of 4 KiB", judge, &mut subject, &mut peer)?;
    outcome.fact("stretches done again", subject.again.to_string());
    bare.runtime.block_on(bare.engine.sync())?;
    drop((dirtied, committed));
    verified(bare.reopened()?, outcome, (count, &pattern, generation.get()))
}

fn verified(
    bare: Bare,
    outcome: &mut Outcome,
    (count, pattern, generation): (u64, &Pattern, u32),
) -> Result<()> {
    let (wrong, first) = bare.runtime.block_on(async {
        let (mut wrong, mut first) = (0, None);
        let mut bytes = vec![0; BLOCK_SIZE];
        for (name, blocks, step, generation) in
            [("dirtied", count, 2, generation), ("committed", COMMITTED, 1, 1)]
        {
            let object = bare.engine.object(name).await?;
            for block in 0..blocks {
                object.read_at(block * step * BLOCK, &mut bytes).await?;
                if let Err(what) = pattern.check(block, generation, &bytes) {
                    wrong += 1;
                    first.get_or_insert(what);
                }
            }
        }
        anyhow::Ok((wrong, first))
    })?;
    outcome.verdicts.push(verdict(count + COMMITTED, wrong, first));
    bare.closed()?;
    Ok(())
}
