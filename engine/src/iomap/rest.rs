//! Whether an object is at rest: nobody holds or wants anything of it.
//!
//! Guarantees: looks without waiting, and what it tries to take it gives back at once. Exists with the feature
//! `testing` alone: the proof that a dropped future left nothing behind. Called by `testing::holdings`.

use crate::iomap::bundle::Mapped;
use crate::iomap::contract::MappingProvider;
use crate::iomap::contract::Transport;
use crate::limits::WRITEBACK_BATCHES;
use crate::units::FileBlocks;

/// What is held of one object at one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct HeldOfObject {
    /// Ranges, shared or alone.
    pub ranges: usize,
    /// Who waits for a range.
    pub ranges_wanted: usize,
    /// Locked folios.
    pub folios: usize,
    /// Whether a batch is on its way, or writeback is held still.
    pub writeback: bool,
    /// Whether a commit or a reader has passed the gate.
    pub gate: bool,
}

impl<P: MappingProvider, T: Transport> Mapped<P, T> {
    /// What is held now.
    pub fn held(&self) -> HeldOfObject {
        let (ranges, ranges_wanted) = self.ranges.counts();
        let all = self.cache.folios(FileBlocks::new(0, u64::MAX), usize::MAX);
        let folios = all.iter().filter(|folio| folio.try_lock().is_none()).count();
        let slots = self.writeback.try_acquire_many(WRITEBACK_BATCHES as u32);
        let (writeback, gate) = (slots.is_err(), !self.publications.is_free());
        HeldOfObject { ranges, ranges_wanted, folios, writeback, gate }
    }
}
