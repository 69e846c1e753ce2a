//! What does not work now: the answer to "why do writes fail", in one look.
//!
//! Guarantees: looks at memory alone, never waits. Does not mend: that is [`Engine::recover`]. Called by users.

use std::fmt;

use crate::api::engine::Engine;
use crate::error::Error;
use crate::units::BLOCK;
use crate::volume::stall::Stalled;

/// What does not work at one moment.
#[derive(Debug, Clone, Default)]
pub struct Health {
    /// Why writes are stopped, if they are: a failed flush or write of the journal, or a panic in a task of
    /// the engine. Reads go on.
    pub stopped: Option<Error>,
    /// Writes are stopped and [`Engine::recover`] cannot bring them back: the store must be opened again.
    pub stopped_for_good: bool,
    /// Open objects whose data could not be written back: their writes and syncs fail until
    /// [`Engine::recover`], their data is in memory.
    pub failed_objects: Vec<FailedObject>,
    /// Bytes of places that the device could not write. Nothing is put there before the store is opened again.
    pub quarantined_bytes: u64,
    /// The device does not answer: some request has been on its way for 10 s or longer. A write or a flush
    /// that takes 3 minutes stops writes, so that whoever waits for it hears; [`Engine::recover`] brings them back
    /// once it has ended.
    pub stalled: Option<Stalled>,
    /// Bytes that are in memory and not on the device.
    pub dirty_bytes: u64,
}

/// An object whose data could not be written back.
#[derive(Debug, Clone)]
pub struct FailedObject {
    /// Its number in the store, by which errors and `foliant dump` name it.
    pub object: u64,
    /// The first failure.
    pub cause: Error,
}

impl Health {
    /// Whether everything works. Bad places that are left alone are no trouble.
    pub fn is_well(&self) -> bool {
        self.stopped.is_none() && self.failed_objects.is_empty() && self.stalled.is_none()
    }
}

impl fmt::Display for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_well() && self.quarantined_bytes == 0 {
            return f.write_str("all works");
        }
        match &self.stopped {
            Some(cause) if self.stopped_for_good => {
                writeln!(f, "writes are stopped until the store is opened again: {cause}")?;
            }
            Some(cause) => writeln!(f, "writes are stopped until recover(): {cause}")?,
            None => {}
        }
        if self.quarantined_bytes > 0 {
            writeln!(f, "{} bytes lie where the device cannot write", self.quarantined_bytes)?;
        }
        if let Some(Stalled { longest, reads, changes }) = self.stalled {
            let seconds = longest.as_secs();
            writeln!(
                f,
                "the device does not answer: {reads} reads and {changes} writes or flushes take long, the \
                 oldest {seconds} s"
            )?;
        }
        for FailedObject { object, cause } in &self.failed_objects {
            writeln!(f, "object {object} is not written back: {cause}")?;
        }
        write!(f, "{} bytes are in memory alone", self.dirty_bytes)
    }
}

impl Engine {
    /// What does not work now. A look at memory: cheap, and possible while the device hangs.
    pub fn health(&self) -> Health {
        let table = &self.inner.volume.table;
        let poison = &table.ground().poison;
        let failed = table.all().into_iter().filter_map(|open| {
            let state = open.state();
            state.failure().map(|cause| FailedObject { object: state.id().0, cause })
        });
        Health {
            stopped: poison.get(),
            stopped_for_good: poison.is_for_good(),
            failed_objects: failed.collect(),
            quarantined_bytes: table.ground().space.stats().quarantined * BLOCK,
            stalled: self.inner.volume.stalled(),
            dirty_bytes: self.stats().dirty_bytes,
        }
    }
}
