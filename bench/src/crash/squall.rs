//! Several tasks on one object at once.
//!
//! Each has a range of its own, so that the outcome does not depend on their order, although they share
//! blocks and folios, and writeback, a sync, readers and a squeeze of memory run beside them. Guarantees
//! that at the end the object is exactly what the model says, and that a cut leaves each block with
//! any of the changes. Called by `run`.

use std::ops::Range;
use std::time::Duration;

use foliant::Engine;
use foliant::Object;
use foliant::Result;
use futures_util::future::BoxFuture;
use futures_util::future::FutureExt;
use futures_util::future::join_all;

use super::ground::BLOCK;
use super::ground::bytes;
use super::ground::put;
use super::model::Loose;
use super::run::Handles;
use super::run::MIXED;
use super::run::PLAIN;
use super::run::Run;
use super::run::squeeze;

/// Changes at once, at most: a block may show any subset of them.
const GUSTS_MAX: u64 = 4;
/// A task starts within so many milliseconds.
const LATE_MS_MAX: u64 = 12;

/// One change.
#[derive(Clone)]
enum Gust {
    Write(usize, Vec<u8>),
    Commit(usize, Vec<u8>),
    Punch(Range<usize>),
    Truncate(usize),
}

impl Gust {
    fn apply(&self, content: &mut Vec<u8>) {
        match self {
            Self::Write(at, data) | Self::Commit(at, data) => put(content, *at, data),
            Self::Punch(range) => {
                let end = range.end.min(content.len());
                content[range.start.min(end)..end].fill(0);
            }
            Self::Truncate(to) => content.resize(*to, 0),
        }
    }

    async fn blow(&self, engine: &Engine, object: &Object) -> Result<()> {
        match self {
            Self::Write(at, data) => object.write_at(*at as u64, data).await,
            Self::Punch(range) => object.punch(range.start as u64..range.end as u64).await,
            Self::Truncate(to) => object.truncate(*to as u64).await,
            Self::Commit(at, data) => {
                let mut transaction = engine.transaction();
                transaction.write_at(object, *at as u64, data)?;
                transaction.commit().await.map(drop)
            }
        }
    }
}

async fn later<T>(ms: u64, work: impl Future<Output = T>) -> T {
    tokio::time::sleep(Duration::from_millis(ms)).await;
    work.await
}

/// Reads in the middle of it: each block is one that some of the changes make.
async fn look(object: &Object, model: &Loose) -> Result<()> {
    let mut found = vec![0; object.size() as usize];
    let read = object.read_at(0, &mut found).await?;
    for (at, block) in found[..read].chunks(BLOCK).enumerate() {
        let now = [model.block(at as u64)];
        let allowed = model.versions.get(&(at as u64)).map_or(&now[..], |v| &v[..]);
        let whole = allowed.iter().any(|v| v.bytes[..block.len()] == *block);
        assert!(whole, "beside changes, block {at} is none of {} contents", allowed.len());
    }
    Ok(())
}

impl Run {
    fn gusts(&mut self, mixed: bool) -> Vec<Gust> {
        let mut gusts = Vec::new();
        let mut at = self.spot();
        for _ in 0..self.rng.below(GUSTS_MAX) + 1 {
            let len = self.length().min(20_000);
            let data = bytes(&mut self.rng, len);
            gusts.push(match self.rng.below(8) {
                0 | 1 => Gust::Punch(at..at + len),
                2 | 3 if mixed => Gust::Commit(at, data),
                _ => Gust::Write(at, data),
            });
            at += len;
        }
        if self.rng.below(3) == 0 && gusts.len() < GUSTS_MAX as usize {
            gusts.push(Gust::Truncate(at));
        }
        gusts
    }

    /// Several changes, readers, a sync and a squeeze at once on one object.
    pub(super) async fn squall(&mut self, engine: &Engine, handles: &Handles) -> Result<()> {
        let which = self.rng.below((PLAIN + MIXED) as u64) as usize;
        let object = &handles.loose[which];
        let gusts = self.gusts(which >= PLAIN);
        let before = self.loose[which].bytes.clone();
        let changes: Vec<_> = gusts.iter().map(|g| move |b: &mut Vec<u8>| g.apply(b)).collect();
        let changes: Vec<&dyn Fn(&mut Vec<u8>)> = changes.iter().map(|c| c as _).collect();
        self.loose[which].change_beside(&changes);
        self.tally.add("changes side by side", gusts.len() as u64);
        let lateness: Vec<u64> = (0..8).map(|_| self.rng.below(LATE_MS_MAX)).collect();
        let (syncs, squeezes) = (self.rng.below(2) == 0, self.rng.below(2) == 0);
        let looks = self.rng.below(3) as usize;
        let mut tasks: Vec<BoxFuture<'_, Result<()>>> = Vec::new();
        for (gust, late) in gusts.iter().zip(&lateness) {
            tasks.push(later(*late, gust.blow(engine, object)).boxed());
        }
        for late in &lateness[5..5 + looks] {
            tasks.push(later(*late, look(object, &self.loose[which])).boxed());
        }
        let late = lateness[7];
        let sync = async { if syncs { Some(later(late, object.sync()).await) } else { None } };
        let squeeze = async {
            if squeezes {
                squeeze(engine).await;
            }
        };
        let (outcomes, synced, ()) =
            futures_util::future::join3(join_all(tasks), sync, squeeze).await;
        if let Some(Ok(())) = synced
            && !self.keeps
        {
            self.tally.add("syncs acknowledged", 1);
            // What was there before is durable, the changes may be.
            let mut model = Loose { bytes: before, ..Loose::new(which >= PLAIN) };
            model.synced();
            model.change_beside(&changes);
            self.loose[which] = model;
        }
        let mut refused = false;
        for outcome in outcomes.into_iter().chain(synced) {
            match outcome {
                Err(cause) if cause.is_no_space() && !self.failing() => refused = true,
                outcome => outcome?,
            }
        }
        if refused {
            return self.look_again(which, object).await;
        }
        let mut found = vec![0; object.size() as usize];
        object.read_at(0, &mut found).await?;
        let want = &self.loose[which].bytes;
        let differ = want.iter().zip(&found).position(|(a, b)| a != b);
        let sizes = (want.len(), found.len());
        assert!(found == *want, "after a squall, other bytes at {differ:?} of sizes {sizes:?}");
        Ok(())
    }
}
