//! An open object: its state, its provider, and the core that moves its bytes.
//!
//! Guarantees that one object has one `OpenObject` at a time (`object::table` hands it out).
//! Does not do anything by itself. Called by `object`, `namespace`, `volume` and `api`.

use std::sync::Arc;

use crate::folio::DirtyLimits;
use crate::iomap::Core;
use crate::iomap::bio::DeviceTransport;
use crate::kit::memory::Memory;
use crate::object::provider::Ground;
use crate::object::provider::ObjectProvider;
use crate::object::state::ObjectState;
use crate::reclaim::Lru;

/// What every open object of a volume shares besides the ground: the data wing's parts.
#[derive(Clone, Debug)]
pub struct Wing {
    /// The budget.
    pub memory: Memory,
    /// Dirty accounting of the volume.
    pub dirty: DirtyLimits,
    /// Where folios queue for reclaim.
    pub lru: Lru,
    /// The device as the data wing sees it.
    pub transport: DeviceTransport,
}

/// One open object.
#[derive(Debug)]
pub struct OpenObject {
    state: Arc<ObjectState>,
    provider: Arc<ObjectProvider>,
    core: Core<ObjectProvider, DeviceTransport>,
}

impl OpenObject {
    /// Assembles an object from its state.
    pub fn new(ground: Ground, wing: &Wing, state: ObjectState) -> Self {
        let state = Arc::new(state);
        let provider = Arc::new(ObjectProvider::new(ground, state.clone()));
        let core = Core::new(provider.clone(), wing);
        Self { state, provider, core }
    }

    /// Sizes, validity, health.
    pub fn state(&self) -> &Arc<ObjectState> {
        &self.state
    }

    /// The side that knows where bytes lie.
    pub fn provider(&self) -> &Arc<ObjectProvider> {
        &self.provider
    }

    /// The side that moves bytes.
    pub fn core(&self) -> &Core<ObjectProvider, DeviceTransport> {
        &self.core
    }

    /// The shared parts below.
    pub fn ground(&self) -> &Ground {
        self.provider.ground()
    }
}
