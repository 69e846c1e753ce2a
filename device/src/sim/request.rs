//! A request to the simulated disk: what was asked, what was decided about it, how it stands.
//!
//! Plain data. Does not decide and does not know the medium: `platter` does. Made by `device`.

use tokio::time::Instant;

use crate::buffer::Buffer;
use crate::buffer::Segment;
use crate::contract::Persist;
use crate::error::DeviceError;
use crate::error::DeviceErrorKind;
use crate::error::Operation;
use crate::error::Result;
use crate::geometry::BLOCK_SIZE;
use crate::sim::image::Change;
use crate::sim::plan::Fault;

/// What a request moves, with the memory that it keeps until it ends.
#[derive(Debug)]
pub(super) enum Work {
    Read(Vec<Buffer>),
    Change {
        change: Change,
        persist: Persist,
        /// Already copied; a real device would not be done with it before the end.
        held: Vec<Segment>,
    },
    Flush,
}

impl Work {
    /// Takes the memory out.
    pub(super) fn take_memory(&mut self) -> (Vec<Buffer>, Vec<Segment>) {
        match self {
            Self::Read(into) => (std::mem::take(into), Vec::new()),
            Self::Change { held, .. } => (Vec::new(), std::mem::take(held)),
            Self::Flush => (Vec::new(), Vec::new()),
        }
    }
}

/// What is asked, and by which handle.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) handle: Handle,
    pub(super) operation: Operation,
    pub(super) block: u64,
    pub(super) count: u64,
    pub(super) work: Work,
}

impl Asked {
    pub(super) fn error(&self, kind: DeviceErrorKind, detail: &str) -> DeviceError {
        let size = BLOCK_SIZE as u64;
        DeviceError::new(self.operation, self.block * size, self.count * size, kind, detail)
    }
}

/// One plugging-in: which, and during which life of the power.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Handle {
    pub(super) number: u64,
    pub(super) life: u64,
}

/// What happens to a request at a time; the order matters where times are equal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Step {
    Effect,
    End,
}

#[derive(Debug)]
pub(super) struct Pending {
    pub(super) asked: Asked,
    pub(super) fault: Option<Fault>,
    pub(super) took_effect: bool,
    /// When it ends; `None` while it hangs.
    pub(super) end_at: Option<Instant>,
    pub(super) effect_ms: u64,
    pub(super) end_ms: u64,
    /// For a flush: how many completed writes there were when it started.
    pub(super) covers: u64,
    pub(super) outcome: Option<Result<()>>,
    pub(super) orphaned: bool,
}

impl Pending {
    /// Whether the two must not be in flight together.
    pub(super) fn collides_with(&self, other: &Asked) -> bool {
        let changes = |asked: &Asked| matches!(asked.work, Work::Change { .. });
        let own = &self.asked;
        let touches = own.block < other.block + other.count && other.block < own.block + own.count;
        self.outcome.is_none() && touches && (changes(own) || changes(other))
    }
}

/// How a request stands.
pub(super) enum Standing {
    Over(Work, Result<()>),
    Until(Instant),
    Hangs,
}
