//! What an engine holds at one moment on behalf of verbs: promises, shares, locks, memory.
//!
//! Guarantees: an engine at rest, with no verb on its way and nothing dirty, holds [`Holdings::default`], to
//! the last block; so whatever a dropped future forgot shows. Looks without waiting. Called by the tests of
//! cancellation.

use std::sync::Arc;

use crate::Engine;
use crate::kit::memory::Memory;
use crate::object::open::OpenObject;
use crate::object::open::Wing;

/// What is held; in blocks where nothing else is said.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Holdings {
    /// Promised of the volume's room.
    pub promised: u64,
    /// Claimed by transactions under way, for data and for nodes.
    pub claimed: u64,
    /// Being discarded.
    pub discarding: u64,
    /// Dirty or under writeback.
    pub dirty: u64,
    /// Shares of the dirty room that are not used yet, and who waits for one.
    pub shares: (u64, u64),
    /// Images that commits may hold and have not given back.
    pub images: usize,
    /// Whether somebody waits for memory.
    pub waits_for_memory: bool,
    /// Whether the metadata lock is held.
    pub metadata_lock: bool,
    /// Verbs on their way.
    pub verbs: usize,
    /// What is held of each object of which anything is held, in words.
    pub objects: Vec<String>,
}

impl Holdings {
    /// What `engine` holds now.
    pub fn of(engine: &Engine) -> Self {
        let volume = engine.any_volume();
        let (ground, wing) = (volume.table.ground(), volume.table.wing());
        let space = ground.space.stats();
        let permits = Wing::images_max(&wing.memory) - wing.images.available_permits();
        let told = |object: &Arc<OpenObject>| {
            let held = object.core().held();
            (held != Default::default()).then(|| format!("{:?}: {held:?}", object.state().id()))
        };
        Self {
            promised: space.promised,
            claimed: space.claimed + space.nodes,
            discarding: space.discarding,
            dirty: wing.dirty.unsettled(),
            shares: wing.dirty.shares(),
            images: permits,
            waits_for_memory: wing.memory.is_waited_for(),
            metadata_lock: !ground.meta.is_unlocked(),
            verbs: volume.busy().0,
            objects: volume.table.all().iter().filter_map(told).collect(),
        }
    }

    /// Tasks of the engine that live, its loops included.
    pub fn tasks(engine: &Engine) -> usize {
        engine.any_volume().busy().1
    }
}

/// Drops the metadata that `engine` has cached and that is home, so that the next verbs read it, and wait.
pub fn forget_metadata(engine: &Engine) {
    engine.any_volume().table.ground().meta.evict(usize::MAX);
}

/// The memory of an engine, also when that is closed.
#[derive(Debug, Clone)]
pub struct Budget(Memory);

impl Budget {
    /// That of `engine`.
    pub fn of(engine: &Engine) -> Self {
        Self(engine.any_volume().table.wing().memory.clone())
    }

    /// Blocks that somebody holds: none, once the engine is closed and its handles are gone.
    pub fn used_blocks(&self) -> usize {
        self.0.capacity_blocks() - self.0.free_blocks()
    }
}
