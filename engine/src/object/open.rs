//! An open object: its state, its provider, and the core that moves its bytes.
//!
//! Guarantees that one object has one `OpenObject` at a time (`object::table` hands it out).
//! Does not do anything by itself. Called by `object`, `namespace`, `volume` and `api`.

use std::fmt;
use std::sync::Arc;

use tokio::sync::Semaphore;

use crate::folio::DirtyLimits;
use crate::folio::cache::MappingCache;
use crate::folio::folio::Residents;
use crate::iomap::bio::DeviceTransport;
use crate::iomap::bundle::Mapped;
use crate::iomap::bundle::Parts;
use crate::kit::memory::Memory;
use crate::kit::range_lock::RangeLock;
use crate::object::ground::Ground;
use crate::object::provider::ObjectProvider;
use crate::object::state::ObjectState;

/// The core of one object of a volume.
pub type Core = Mapped<ObjectProvider, DeviceTransport>;

/// What every open object of a volume shares besides the ground: the data wing's parts.
#[derive(Clone)]
pub struct Wing {
    /// The budget.
    pub memory: Memory,
    /// Dirty accounting of the volume.
    pub dirty: DirtyLimits,
    /// Who hears of every folio made and gone, for reclaim.
    pub residents: Arc<dyn Residents>,
    /// The device as the data wing sees it.
    pub transport: DeviceTransport,
    /// Blocks that commits may hold images of at once; taken before anything is locked, so that
    /// commits never wait for memory that other waiting commits hold.
    pub images: Arc<Semaphore>,
}

impl Wing {
    /// Blocks that one commit may change at most.
    pub fn images_max(memory: &Memory) -> usize {
        memory.capacity_blocks() / 8
    }
}

impl fmt::Debug for Wing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wing").field("memory", &self.memory).field("dirty", &self.dirty).finish()
    }
}

/// One open object.
pub struct OpenObject {
    state: Arc<ObjectState>,
    core: Core,
}

impl OpenObject {
    /// Assembles an object from its state.
    pub fn new(ground: Ground, wing: &Wing, state: ObjectState) -> Self {
        let state = Arc::new(state);
        let (dirty, residents) = (wing.dirty.clone(), wing.residents.clone());
        let core = Mapped::new(Parts {
            provider: Arc::new(ObjectProvider::new(ground, state.clone())),
            cache: MappingCache::new(state.id(), dirty.clone(), residents),
            ranges: RangeLock::of(state.id().0),
            transport: wing.transport.clone(),
            memory: wing.memory.clone(),
            dirty,
        });
        Self { state, core }
    }

    /// Sizes, validity, health.
    pub fn state(&self) -> &Arc<ObjectState> {
        &self.state
    }

    /// The side that knows where bytes lie.
    pub fn provider(&self) -> &Arc<ObjectProvider> {
        self.core.provider()
    }

    /// The side that moves bytes.
    pub fn core(&self) -> &Core {
        &self.core
    }

    /// The shared parts below.
    pub fn ground(&self) -> &Ground {
        self.provider().ground()
    }

    /// Whether all that was accepted is where a fresh look would find it: nothing is dirty or
    /// under writeback, the recorded size is the visible one, and no logged block is on its way home.
    pub fn is_at_rest(&self) -> bool {
        self.core.is_clean()
            && self.state.size() == self.state.recorded_size()
            && self.state.last_lsn() <= self.ground().meta.applied_now()
    }
}

impl fmt::Debug for OpenObject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "OpenObject({:?})", self.state)
    }
}
