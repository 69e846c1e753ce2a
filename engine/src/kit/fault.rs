//! Deliberate faults in the order of steps, to prove that the models would find them.
//!
//! Guarantees: outside of the models every question is answered "no" at compile time. There, a fault
//! is set for one thread: an exploration runs on one thread.
//!
//! Does not decide anything in production. Asked by folio, iomap and kit where the order of two
//! steps is all that stands between right and wrong.

/// What can be broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Memory that somebody shares is replaced without its bytes.
    ReplaceWithoutBytes,
    /// Memory is shared although somebody is about to change it.
    ShareFrozen,
    /// Who waits for room to dirty blocks is counted after the last look.
    CountLate,
    /// Who waits for memory begins to listen after the last look.
    ListenLate,
    /// A dropped request for a range stays in line.
    StayInLine,
    /// A batch whose future is dropped never ends.
    AbandonBatch,
    /// The two promises of a block that was dirtied again under way are both kept.
    KeepDoubledPromises,
    /// A read does not look at the size again when it has copied.
    TrustOldSize,
}

#[cfg(all(test, feature = "model"))]
mod armed {
    use std::cell::Cell;

    use super::Fault;

    thread_local! {
        static BROKEN: Cell<Option<Fault>> = const { Cell::new(None) };
    }

    /// Breaks something on this thread, or nothing.
    pub fn break_on_purpose(what: Option<Fault>) {
        BROKEN.set(what);
    }

    /// Whether it is broken on this thread.
    pub fn has_fault(what: Fault) -> bool {
        BROKEN.get() == Some(what)
    }
}

#[cfg(all(test, feature = "model"))]
pub use armed::break_on_purpose;
#[cfg(all(test, feature = "model"))]
pub use armed::has_fault;

/// Nothing is broken.
#[cfg(not(all(test, feature = "model")))]
#[inline(always)]
pub fn has_fault(_: Fault) -> bool {
    false
}
