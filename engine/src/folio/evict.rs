//! Dropping one folio to win its memory back.
//!
//! Guarantees: only a folio that is unlocked, clean, not under writeback, without a journal mark,
//! with memory of its own and referenced by nobody but the index and the caller goes; the
//! reference count is frozen (index lock) before dirty is looked at a last time. Never waits.
//!
//! Does not choose. Called by reclaim.

use std::sync::Arc;

use foliant_device::Buffer;

use super::folio::Folio;
use super::state::BlockSet;
use crate::kit::sync::atomic::Ordering;

/// Why a folio stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// Somebody holds its lock.
    Locked,
    /// It left its object already; nothing to win.
    Detached,
    /// Somebody uses it.
    Referenced,
    /// Blocks wait for writeback.
    Dirty,
    /// Blocks are on their way to the device.
    Writeback,
    /// The newest bytes are in the journal and not home.
    Marked,
    /// Its memory is shared, so dropping the folio would free nothing.
    Shared,
}

/// The index holds one reference, the caller's handle is the other.
const REFERENCES: usize = 2;

/// Drops `folio` if nothing speaks against it; returns the blocks that became free. The caller's
/// handle must be its only one (an upgraded weak reference).
///
/// Takes the folio lock by trial, then the index lock: with both held nobody can find the folio,
/// and nobody who had found it is left, so no bit can change between the last look and the end.
pub fn try_evict(folio: Arc<Folio>) -> Result<usize, Refusal> {
    if folio.lock.try_acquire().map(|p| p.forget()).is_err() {
        return Err(Refusal::Locked);
    }
    let verdict = evict_locked(&folio);
    folio.lock.add_permits(1);
    // Memory that is lent to a read, or was lost with one, is not won.
    verdict.map(|memory| memory.map_or(0, |memory| memory.blocks()))
}

fn evict_locked(folio: &Arc<Folio>) -> Result<Option<Buffer>, Refusal> {
    if folio.is_detached() {
        return Err(Refusal::Detached);
    }
    let mut index = folio.owner.index.write();
    if Arc::strong_count(folio) > REFERENCES {
        return Err(Refusal::Referenced);
    }
    let mut content = folio.content.write();
    let state = &content.state;
    let refusal = [
        (state.any(BlockSet::Dirty), Refusal::Dirty),
        (state.any(BlockSet::Writeback), Refusal::Writeback),
        (state.is_marked(), Refusal::Marked),
        (content.memory.as_ref().is_some_and(|m| !m.is_unique()), Refusal::Shared),
    ];
    if let Some((_, why)) = refusal.into_iter().find(|(applies, _)| *applies) {
        return Err(why);
    }
    let all = 0..folio.blocks();
    content.state.clear_uptodate(all);
    let memory = content.memory.take();
    drop(content);
    let removed = index.map.remove(folio.index());
    assert!(
        removed.is_some_and(|there| Arc::ptr_eq(&there, folio)),
        "an attached folio is not where the index says"
    );
    folio.detached.store(true, Ordering::Release);
    Ok(memory)
}
