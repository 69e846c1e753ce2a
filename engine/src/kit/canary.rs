//! Deliberate faults, to prove that the crash tests would notice them.
//!
//! Guarantees: without the feature `testing` every question is answered "no" at compile time. With it,
//! a fault is set for one thread: a simulation runs on one thread, so runs beside it stay sound.
//!
//! Does not decide anything in production. Asked by the rooms that must keep an order.

/// What can be broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Canary {
    /// A commit is acknowledged before its group is durable.
    AcknowledgeAtOnce,
    /// A group of the log is acknowledged although the write of an earlier one has not ended.
    AcknowledgeOutOfOrder,
    /// Who waits for room in the log lets others pass.
    WaitOutOfTurn,
    /// The mapping is committed without a flush of the data that it names.
    MapBeforeData,
    /// The log's tail moves before the blocks behind it are home and flushed.
    TailBeforeHome,
    /// Freed blocks are handed out again although a replayable record names them.
    ReuseBeforeApplied,
    /// A logged block goes home in place although it holds bytes that are not logged.
    LogOverUnloggedBytes,
    /// An object that grows by a transaction leaves the rest of its old last block as it lies there.
    LeaveOldEnd,
    /// A truncate leaves the rest of its last block as it is in memory.
    LeaveCutEnd,
    /// An object that grows by a write or a truncate leaves the rest of its old last block as it is stored.
    LeaveStoredEnd,
    /// A punch leaves what is cached of its blocks.
    KeepPunched,
    /// A punch or a shrink does not give its blocks back.
    LoseSpace,
    /// A block that moves out of its object's record leaves its bytes there.
    KeepInlineBytes,
    /// A transaction that grows an object does not log the size.
    LeaveSizeOut,
    /// A folio with logged bytes is not marked, so that reclaim may drop them.
    ForgetMark,
    /// A commit that is too large to log its blocks whole tries it all the same.
    LogWholeOnly,
    /// A large commit takes for zero what the device holds behind the recorded end.
    TrustStoredEnd,
    /// A transaction that cuts an object does not keep its writeback still.
    CutBesideWriteback,
    /// A transaction that cuts an object leaves its size as it is.
    LeaveCutSize,
    /// A punch does not keep writeback still.
    PunchBesideWriteback,
    /// Readers do not look whether a commit shows itself beside them.
    ShowHalfCommits,
    /// What was written home is not looked for before the tail moves.
    BelieveHomes,
    /// Nobody looks behind the log's end whether it is an end.
    BelieveLogEnd,
    /// Replay goes on behind what is no group, block by block, and takes what looks like one.
    ScanOn,
    /// Replay takes groups of an earlier epoch for good.
    IgnoreEpoch,
    /// Groups of the log that failed are taken for durable by `recover` without being written again.
    ForgetKeptGroups,
    /// A format writes the superblocks without a flush of what they lead to.
    PublishUnflushed,
    /// Blocks that were copied elsewhere are mapped there without a look whether they changed meanwhile.
    MapMovedUnseen,
    /// Blocks whose newest bytes are in the log and not home are copied from home all the same.
    MoveLogged,
    /// A promise of room is not given back when its verb fails or its future is dropped.
    ForgetPromises,
}

#[cfg(feature = "testing")]
mod armed {
    use std::cell::Cell;

    use super::Canary;

    thread_local! {
        static BROKEN: Cell<Option<Canary>> = const { Cell::new(None) };
    }

    /// Breaks something on this thread, or nothing.
    pub fn break_on_purpose(what: Option<Canary>) {
        BROKEN.set(what);
    }

    /// Whether it is broken on this thread.
    pub fn is_broken(what: Canary) -> bool {
        BROKEN.get() == Some(what)
    }
}

#[cfg(feature = "testing")]
pub use armed::break_on_purpose;
#[cfg(feature = "testing")]
pub use armed::is_broken;

/// Nothing is broken.
#[cfg(not(feature = "testing"))]
#[inline(always)]
pub fn is_broken(_: Canary) -> bool {
    false
}
