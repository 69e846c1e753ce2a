//! Row h2: what it costs to create, open and commit in a store of many objects, over one of one.
//!
//! The memory stays the same whatever the number, and the peak of the process is told beside the budget. Of
//! an object that memory does not hold, opening reads its name and its record from the device; that is
//! part of the row. Names are spread over the order of names. Called by `rows`.

use std::time::Duration;
use std::time::Instant;

use anyhow::Result;
use anyhow::ensure;
use foliant::Durability;
use foliant::Engine;

use crate::data::Random;
use crate::measure::peak_memory_bytes;
use crate::rows::bare::Bare;
use crate::rows::bare::repeated;
use crate::rows::bare::verdict;
use crate::rows::contest::Levels;
use crate::rows::contest::Reading;
use crate::rows::contest::Side;
use crate::rows::contest::Unit;
use crate::rows::plan::Plan;
use crate::rows::report::Outcome;

const MANY: u64 = 10_000_000;
const MEMORY: u64 = 256 << 20;
/// Bytes of a device per object that there will be: its record, its name, half-full leaves.
const DEVICE_PER_OBJECT: u64 = 700;
/// Objects of one transaction that makes many, at most.
const BATCH_MAX: u64 = 64;
/// Bytes of log that making one of them may take.
const LOG_PER_OBJECT: u64 = 20 << 10;
/// Objects that are compared after reopening.
const LOOKED_AT: u64 = 10_000;
/// The making of objects ends here, and says how many there are.
const MAKING_MAX: Duration = Duration::from_secs(400);

/// What is repeated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum What {
    Create,
    Open,
    Commit,
}

struct Work<'a> {
    bare: &'a Bare,
    objects: u64,
    what: What,
}

/// The names of numbers: they do not come in the order of their numbers.
fn name(kind: u8, number: u64) -> Vec<u8> {
    let mut random = Random::new(number);
    let spread = random.next();
    format!("{}{spread:016x}-{number}", kind as char).into_bytes()
}

impl Side for Work<'_> {
    fn name(&self) -> String {
        format!("{} objects", self.objects)
    }

    fn block(&mut self, time: Duration, stretch: u64) -> Result<Reading> {
        let mut random = Random::new(stretch);
        let (engine, objects, what) = (&self.bare.engine, self.objects, self.what);
        let mut created = stretch << 24;
        self.bare.runtime.block_on(repeated(time, 1, || {
            let number = random.below(objects);
            created += 1;
            once(engine, what, number, created)
        }))
    }
}

async fn once(engine: &Engine, what: What, number: u64, created: u64) -> Result<()> {
    if what == What::Create {
        engine.create(name(b'x', created)).await?;
        return Ok(());
    }
    let object = engine.object(name(b'o', number)).await?;
    if what == What::Commit {
        let mut transaction = engine.transaction();
        // Never the same bytes again, which would need no log; and behind those that are compared.
        transaction.write_at(&object, 8, &created.to_le_bytes())?;
        transaction.commit_with(Durability::Durable).await?;
    }
    Ok(())
}

pub fn h2(plan: &Plan, outcome: &mut Outcome) -> Result<()> {
    let many = plan.count(MANY, 500);
    let memory = if plan.quick { 16 << 20 } else { MEMORY };
    let (small, _) = made(plan, outcome, ("one", 1, memory))?;
    let (large, made) = made(plan, outcome, ("many", many, memory))?;
    for (what, levels) in [
        (What::Create, Levels::new(4.0, 2.5)),
        (What::Open, Levels::new(4.0, 2.5)),
        (What::Commit, Levels::new(4.0, 2.5)),
    ] {
        let mut subject = Work { bare: &large, objects: made, what };
        let mut peer = Work { bare: &small, objects: 1, what };
        let words = match what {
            What::Create => "create, durable",
            What::Open => "open by name",
            What::Commit => "open, then a durable commit of 8 bytes",
        };
        outcome.contest(plan, words, (Unit::Times, levels), &mut subject, &mut peer)?;
    }
    let used = large.engine.stats().memory_used_bytes;
    let peak = peak_memory_bytes().unwrap_or(0);
    outcome.fact(
        "memory",
        format!(
            "two budgets of {} MiB; the large store uses {} MiB of its own; peak of the process {} MiB",
            memory >> 20,
            used >> 20,
            peak >> 20
        ),
    );
    small.closed()?;
    let large = large.reopened()?;
    let looked = LOOKED_AT.min(made);
    let mut random = Random::new(plan.rules.seed);
    let wrong = large.runtime.block_on(async {
        let mut wrong = 0;
        for _ in 0..looked {
            let number = random.below(made);
            let object = large.engine.object(name(b'o', number)).await?;
            let mut bytes = [0; 8];
            let read = object.read_at(0, &mut bytes).await?;
            wrong += u64::from(read != 8 || bytes != number.to_le_bytes());
        }
        anyhow::Ok(wrong)
    })?;
    outcome.verdicts.push(verdict(looked, wrong, None));
    large.closed()?;
    Ok(())
}

/// A store with objects of 8 bytes each; how many there are, because making them has an end.
fn made(
    plan: &Plan,
    outcome: &mut Outcome,
    (tag, objects, memory): (&str, u64, u64),
) -> Result<(Bare, u64)> {
    let bytes = objects * DEVICE_PER_OBJECT + (256 << 20);
    let bare = Bare::make(plan, tag, bytes, memory, false)?;
    let (start, mut count) = (Instant::now(), 0);
    bare.runtime.block_on(async {
        while count < objects && start.elapsed() < MAKING_MAX {
            let mut transaction = bare.engine.transaction();
            let batch = (transaction.log_bytes_max() / LOG_PER_OBJECT).clamp(1, BATCH_MAX);
            let end = objects.min(count + batch);
            for number in count..end {
                let object = transaction.create(name(b'o', number))?;
                transaction.write_at(&object, 0, &number.to_le_bytes())?;
            }
            transaction.commit_with(Durability::Buffered).await?;
            count = end;
            tokio::task::consume_budget().await;
        }
        bare.engine.sync().await?;
        anyhow::Ok(())
    })?;
    ensure!(count > 0, "no object was made");
    let seconds = start.elapsed().as_secs_f64();
    let rate = count as f64 / seconds.max(1e-9);
    let words = format!("{count} of {objects} made in {seconds:.1} s, {rate:.0}/s");
    outcome.fact(&format!("{objects} objects"), words);
    Ok((bare.reopened()?, count))
}
