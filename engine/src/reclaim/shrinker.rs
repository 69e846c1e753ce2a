//! Caches other than folios that give memory back on request.
//!
//! Guarantees: a shrinker that is gone is skipped; the work of each call is counted. Does not say
//! how a cache chooses. Implemented above (metadata cache), called by `shrink`.

use std::sync::Arc;
use std::sync::Weak;

use crate::kit::sync::Mutex;

/// What one call did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Shrunk {
    /// Entries looked at.
    pub examined: usize,
    /// Blocks given back.
    pub freed: usize,
}

/// A cache that takes part in reclaim. It runs inside allocation, under whatever async locks the
/// allocator's caller holds, so it must not wait, do I/O or allocate from the engine's memory, and
/// takes its own short locks by trial if an allocation can happen under them.
pub trait Shrinker: Send + Sync {
    /// Tries to give back `blocks` blocks; looks at a number of entries proportional to it.
    fn shrink(&self, blocks: usize) -> Shrunk;
}

/// The shrinkers, asked in the order in which they registered.
#[derive(Default)]
pub struct Shrinkers {
    /// Changes only at assembly; plain.
    list: Mutex<Vec<Weak<dyn Shrinker>>>,
}

impl Shrinkers {
    /// Adds one; held weakly.
    pub fn register(&self, shrinker: Weak<dyn Shrinker>) {
        let mut list = self.list.lock();
        list.retain(|entry| entry.strong_count() > 0);
        list.push(shrinker);
    }

    /// Asks one after the other until `blocks` are free.
    pub fn shrink(&self, blocks: usize) -> Shrunk {
        // Out of the lock first: a shrinker may drop its last reference to something large.
        let alive: Vec<Arc<dyn Shrinker>> =
            self.list.lock().iter().filter_map(Weak::upgrade).collect();
        let mut sum = Shrunk::default();
        for shrinker in alive {
            if sum.freed >= blocks {
                break;
            }
            let part = shrinker.shrink(blocks - sum.freed);
            sum.examined += part.examined;
            sum.freed += part.freed;
        }
        sum
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Pot(Mutex<usize>);

    impl Shrinker for Pot {
        fn shrink(&self, blocks: usize) -> Shrunk {
            let mut left = self.0.lock();
            let freed = blocks.min(*left);
            *left -= freed;
            Shrunk { examined: freed + 1, freed }
        }
    }

    #[test]
    fn shrinkers_are_asked_in_turn_for_what_is_missing_and_dead_ones_skipped() {
        let shrinkers = Shrinkers::default();
        let pots = [3, 9].map(|n| Arc::new(Pot(Mutex::new(n))));
        let gone: Arc<dyn Shrinker> = Arc::new(Pot(Mutex::new(100)));
        shrinkers.register(Arc::downgrade(&gone));
        drop(gone);
        for pot in &pots {
            let weak: Weak<dyn Shrinker> = Arc::downgrade(pot) as Weak<dyn Shrinker>;
            shrinkers.register(weak);
        }
        assert_eq!(shrinkers.shrink(5), Shrunk { examined: 7, freed: 5 });
        assert_eq!((*pots[0].0.lock(), *pots[1].0.lock()), (0, 7));
        assert_eq!(shrinkers.shrink(100).freed, 7);
    }
}
