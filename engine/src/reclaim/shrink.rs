//! Wins memory back: folios first, then the shrinkers; on demand and in the background.
//!
//! Guarantees: takes folio locks by trial and one at a time, never does I/O and never waits in
//! [`Reclaimer::reclaim`]; looks at a bounded number of folios per call and goes on where it
//! stopped; counts everything.
//!
//! Does not write dirty folios. Called by `kit::memory` (direct reclaim) and by
//! `volume::reclaimer`, which asks the flusher when nothing clean is left.

use std::sync::Arc;
use std::sync::Weak;

use super::lru::Lru;
use super::shrinker::Shrinkers;
use crate::folio::evict::Refusal;
use crate::folio::evict::try_evict;
use crate::folio::folio::Residents;
use crate::kit::memory::Memory;
use crate::kit::memory::Reclaimer;
use crate::kit::sync::atomic::AtomicU64;
use crate::kit::sync::atomic::AtomicUsize;
use crate::kit::sync::atomic::Ordering;

/// Folios looked at per wanted block, at the most: a hot folio is met up to four times before it
/// goes.
const SCAN_PER_BLOCK: usize = 8;
/// The least that one call may look at (about 0.1 ms).
const SCAN_MIN: usize = if cfg!(feature = "model") { 4 } else { 1024 };

/// What one call looks at after every folio was met in vain. While writeback is behind, all folios are dirty or
/// in use, and everybody who waits for memory looks for himself, again and again: long looks took 60 % of
/// the processor from the writeback that they waited for.
const SCAN_IN_VAIN: usize = if cfg!(feature = "model") { 4 } else { 64 };
/// A hot folio is passed over this often before it is a candidate.
const PASSES: usize = 4;

/// What reclaim did since start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ReclaimStats {
    /// Calls.
    pub calls: u64,
    /// Folios looked at.
    pub examined: u64,
    /// Blocks of folios dropped.
    pub evicted: u64,
    /// Folios that stayed because they were dirty or under writeback.
    pub unclean: u64,
    /// Folios that stayed because of a journal mark.
    pub marked: u64,
    /// Folios that stayed because they were locked, referenced or shared.
    pub busy: u64,
    /// Entries that shrinkers looked at.
    pub shrinker_examined: u64,
    /// Blocks that shrinkers gave back.
    pub shrinker_freed: u64,
}

/// The same as counters; relaxed, because nothing is decided by them.
#[derive(Default)]
struct Counters {
    calls: AtomicU64,
    examined: AtomicU64,
    evicted: AtomicU64,
    unclean: AtomicU64,
    marked: AtomicU64,
    busy: AtomicU64,
    shrinker_examined: AtomicU64,
    shrinker_freed: AtomicU64,
}

fn count(counter: &AtomicU64, by: usize) {
    counter.fetch_add(by as u64, Ordering::Relaxed);
}

/// The engine's reclaim.
pub struct Reclaim {
    memory: Memory,
    lru: Arc<Lru>,
    shrinkers: Shrinkers,
    /// Those who hold memory for what may never be asked for.
    speculators: Shrinkers,
    counters: Counters,
    /// Folios looked at since one went; relaxed, a scan that is longer or shorter than it should be is
    /// still right.
    in_vain: AtomicUsize,
}

impl Reclaim {
    /// Reclaim for `memory`, which will call it. The memory holds it weakly: keep it alive.
    pub fn new(memory: Memory) -> Arc<Self> {
        let lru = Arc::new(Lru::new(memory.capacity_blocks()));
        let reclaim = Arc::new(Self {
            memory,
            lru,
            shrinkers: Shrinkers::default(),
            speculators: Shrinkers::default(),
            counters: Counters::default(),
            in_vain: AtomicUsize::new(0),
        });
        let weak: Weak<Self> = Arc::downgrade(&reclaim);
        reclaim.memory.set_reclaimer(weak);
        reclaim
    }

    /// What mapping caches report their folios to.
    pub fn residents(&self) -> Arc<dyn Residents> {
        self.lru.clone()
    }

    /// Where other caches register.
    pub fn shrinkers(&self) -> &Shrinkers {
        &self.shrinkers
    }

    /// Where those register who hold memory on speculation: they are asked only while somebody waits.
    pub fn speculators(&self) -> &Shrinkers {
        &self.speculators
    }

    /// What was done so far.
    pub fn stats(&self) -> ReclaimStats {
        let c = &self.counters;
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        ReclaimStats {
            calls: read(&c.calls),
            examined: read(&c.examined),
            evicted: read(&c.evicted),
            unclean: read(&c.unclean),
            marked: read(&c.marked),
            busy: read(&c.busy),
            shrinker_examined: read(&c.shrinker_examined),
            shrinker_freed: read(&c.shrinker_freed),
        }
    }

    fn evict_folios(&self, blocks: usize) -> usize {
        let in_vain = self.in_vain.load(Ordering::Relaxed);
        let limit = match in_vain > self.lru.entries() * PASSES {
            true => SCAN_IN_VAIN,
            false => (blocks * SCAN_PER_BLOCK).max(SCAN_MIN),
        };
        let mut budget = limit;
        let mut freed = 0;
        while freed < blocks {
            let Some((folio, candidate)) = self.lru.propose(&mut budget) else {
                break;
            };
            match try_evict(folio) {
                Ok(won) => {
                    freed += won;
                    self.lru.evicted(candidate);
                }
                Err(Refusal::Detached) => {}
                Err(why) => {
                    self.lru.keep(candidate);
                    count(self.refusal_counter(why), 1);
                }
            }
        }
        // What is added at once by others may be lost: the next long scan makes up for it.
        let in_vain = if freed > 0 { 0 } else { in_vain.saturating_add(limit - budget) };
        self.in_vain.store(in_vain, Ordering::Relaxed);
        count(&self.counters.examined, limit - budget);
        count(&self.counters.evicted, freed);
        freed
    }

    fn ask(&self, shrinkers: &Shrinkers, blocks: usize) -> usize {
        let part = shrinkers.shrink(blocks);
        count(&self.counters.shrinker_examined, part.examined);
        count(&self.counters.shrinker_freed, part.freed);
        part.freed
    }

    fn refusal_counter(&self, why: Refusal) -> &AtomicU64 {
        match why {
            Refusal::Dirty | Refusal::Writeback => &self.counters.unclean,
            Refusal::Marked => &self.counters.marked,
            Refusal::Locked | Refusal::Referenced | Refusal::Shared | Refusal::Detached => {
                &self.counters.busy
            }
        }
    }
}

impl Reclaimer for Reclaim {
    fn reclaim(&self, blocks: usize) -> usize {
        count(&self.counters.calls, 1);
        let mut freed = self.evict_folios(blocks);
        if freed < blocks {
            freed += self.ask(&self.shrinkers, blocks - freed);
        }
        freed
    }

    fn give_up_speculation(&self, blocks: usize) -> usize {
        self.ask(&self.speculators, blocks)
    }
}
