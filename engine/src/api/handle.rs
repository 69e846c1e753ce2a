//! What every handle of an open engine shares.
//!
//! Guarantees: the last handle dropped closes the engine in the background, without blocking and
//! without losing accepted data while the runtime lives. Does nothing else. Used by the other files
//! of this room.

use std::sync::Arc;
use std::time::Duration;

use foliant_device::wrap::count::Counters;

use crate::volume::mount::Volume;

/// An open volume, and what only its user asks for.
#[derive(Debug)]
pub(super) struct Inner {
    pub(super) volume: Arc<Volume>,
    pub(super) counters: Arc<Counters>,
    pub(super) opened_in: Duration,
    pub(super) memory_bytes: u64,
}

impl Drop for Inner {
    fn drop(&mut self) {
        if self.volume.is_closed() {
            return;
        }
        match tokio::runtime::Handle::try_current() {
            Ok(_) => self.volume.close_in_background(),
            Err(_) => tracing::warn!("an engine was dropped outside of a runtime without close()"),
        }
    }
}
