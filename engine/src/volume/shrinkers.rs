//! What a volume can give back besides clean folios: its metadata cache, and read-ahead on its way.
//!
//! Guarantees: metadata is asked whenever folios were not enough; read-ahead only while somebody waits
//! for memory, the oldest of each object first. Neither waits; locks are taken by trial.
//!
//! Does not decide when (`reclaim` and `kit::memory` do). Built by `mount`.

use std::sync::Arc;

use crate::meta::Evicted;
use crate::meta::Meta;
use crate::object::table::Table;
use crate::reclaim::Reclaim;
use crate::reclaim::shrink::ReclaimStats;
use crate::reclaim::shrinker::Shrinker;
use crate::reclaim::shrinker::Shrunk;

struct MetaShrinker(Meta);

impl Shrinker for MetaShrinker {
    fn shrink(&self, blocks: usize) -> Shrunk {
        let Evicted { examined, freed } = self.0.evict(blocks);
        Shrunk { examined, freed }
    }
}

struct FlightShrinker(Arc<Table>);

impl Shrinker for FlightShrinker {
    fn shrink(&self, blocks: usize) -> Shrunk {
        let mut sum = Shrunk::default();
        for object in self.0.try_all().unwrap_or_default() {
            if sum.freed >= blocks {
                break;
            }
            sum.examined += 1;
            sum.freed += object.core().give_up_flights((blocks - sum.freed) as u64) as usize;
        }
        sum
    }
}

/// Reclaim and what takes part in it; all of it is held weakly elsewhere.
#[derive(Clone)]
pub struct Reclaiming {
    reclaim: Arc<Reclaim>,
    _metadata: Arc<dyn Shrinker>,
    _read_ahead: Arc<dyn Shrinker>,
}

impl std::fmt::Debug for Reclaiming {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}", self.stats())
    }
}

impl Reclaiming {
    /// Registers the caches of the volume of `table` with its `reclaim`.
    pub fn new(reclaim: Arc<Reclaim>, table: Arc<Table>) -> Self {
        let metadata: Arc<dyn Shrinker> = Arc::new(MetaShrinker(table.ground().meta.clone()));
        reclaim.shrinkers().register(Arc::downgrade(&metadata));
        let read_ahead: Arc<dyn Shrinker> = Arc::new(FlightShrinker(table));
        reclaim.speculators().register(Arc::downgrade(&read_ahead));
        Self { reclaim, _metadata: metadata, _read_ahead: read_ahead }
    }

    /// For the background loop.
    pub fn reclaim(&self) -> Arc<Reclaim> {
        self.reclaim.clone()
    }

    /// What reclaim did since open.
    pub fn stats(&self) -> ReclaimStats {
        self.reclaim.stats()
    }
}
