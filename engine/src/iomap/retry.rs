//! What happens when a mapping goes stale: again, a bounded number of times, then with the mapping held
//! still.
//!
//! Guarantees that an operation ends, however busy writeback is: behind [`STALE_RETRIES_MAX`] stale
//! answers the next attempt holds the object's writeback still for its whole length, and takes what is
//! mapped then for true without asking. That is sound because of who can change the mapping of a range:
//! writeback, which is held, and those who hold the range exclusively, which the caller's own range lock
//! keeps out. (A provider may call a mapping stale because of a change nearby; so a check could fail for
//! ever, and says nothing new.)
//!
//! Does not lock ranges or folios. The hold comes behind the range lock and before any folio lock of
//! the object; nobody waits for room to dirty blocks while it lasts. Called by `read`, `write`, `zero`
//! and `hold`.

use crate::iomap::bundle::Counts;
use crate::iomap::bundle::Mapped;
use crate::iomap::contract::MappingProvider;
use crate::iomap::contract::Transport;
use crate::iomap::iter::Lease;
use crate::iomap::pause::Canary;
use crate::iomap::writeback::StillWriteback;
use crate::limits::STALE_RETRIES_MAX;

/// Counts attempts of one operation.
#[derive(Debug, Default)]
pub(super) struct Attempts(u32);

/// One attempt; while it lives, its mappings may be held still.
pub(super) struct Attempt<'a> {
    still: Option<StillWriteback<'a>>,
}

impl Attempts {
    /// Whether so many attempts failed that the next one must not.
    pub fn exhausted(&self) -> bool {
        self.0 > STALE_RETRIES_MAX
    }

    /// Whether the next attempt holds writeback still.
    pub fn next_is_last(&self) -> bool {
        self.0 >= STALE_RETRIES_MAX
    }

    /// One more attempt is about to be made.
    pub fn count(&mut self) {
        self.0 += 1;
    }
}

impl Attempt<'_> {
    /// Whether mappings are held still, so that there is no other attempt behind this one.
    pub fn is_last(&self) -> bool {
        self.still.is_some()
    }
}

impl<P: MappingProvider, T: Transport> Mapped<P, T> {
    /// Begins an attempt. The caller holds the range and no folio lock of this object.
    ///
    /// Waits only for the last attempt: for the batch on its way. Dropping the future has no effect.
    pub(super) async fn attempt(&self, attempts: &mut Attempts) -> Attempt<'_> {
        attempts.count();
        if !attempts.exhausted() || self.pauses.is_broken(Canary::RetryForEver) {
            return Attempt { still: None };
        }
        let still = self.hold_writeback().await;
        Counts::add(&self.counts.held_still, 1);
        Attempt { still: Some(still) }
    }

    /// Whether all answers still hold; to be asked with the folios locked. Counts a "no".
    pub(super) fn all_current(&self, attempt: &Attempt<'_>, leases: &[Lease<P>]) -> bool {
        if attempt.still.is_some() {
            return true;
        }
        let current = leases.iter().all(Lease::is_current);
        if !current {
            Counts::add(&self.counts.stale_retries, 1);
        }
        current || self.pauses.is_broken(Canary::IgnoreStaleness)
    }
}
