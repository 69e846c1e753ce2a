//! A transaction on its way: its attempts, and what is finished behind its commit.
//!
//! Guarantees: an attempt that failed changed nothing. Does not decide who drives it: `transaction` does, its
//! only caller.

use std::sync::Arc;

use tokio_util::task::task_tracker::TaskTrackerToken;

use crate::error::ErrorKind;
use crate::error::Result;
use crate::kit::lock_order::watched;
use crate::namespace::batch::Batch;
use crate::namespace::batch::Step;
use crate::object::journaled;
use crate::object::open::OpenObject;
use crate::object::part::LoggedPart;
use crate::units::Lsn;
use crate::units::ObjectId;
use crate::volume::mount::Volume;

/// The objects that a transaction makes; when it goes without a commit, their handles are of no use.
#[derive(Debug, Default)]
pub(super) struct Made(pub(super) Vec<Arc<OpenObject>>);

impl Drop for Made {
    fn drop(&mut self) {
        for object in self.0.iter().filter(|object| object.state().is_pending()) {
            object.state().mark_removed();
            object.state().set_pending(false);
        }
    }
}

/// All that a commit needs, wherever it runs.
pub(super) struct Work {
    pub(super) volume: Arc<Volume>,
    pub(super) parts: Vec<LoggedPart>,
    pub(super) steps: Vec<Step>,
    pub(super) _made: Made,
    pub(super) _entered: TaskTrackerToken,
}

impl Work {
    /// Commits with the blocks as they are. Errors: `TooLarge`, then [`Work::over_stored`] is to follow; and
    /// those of a commit. Dropping the future: nothing happened, or all.
    pub(super) async fn try_as_found(&mut self) -> Result<Lsn> {
        self.attempt(false).await.map(|(lsn, _)| lsn)
    }

    /// Commits with the blocks stored before. To be driven to its end.
    pub(super) async fn over_stored(&mut self) -> Result<Lsn> {
        self.attempt(true).await.map(|(lsn, _)| lsn)
    }

    /// Commits either way, and finishes what the transaction removed or cut. To be driven to its end.
    pub(super) async fn drive(&mut self) -> Result<Lsn> {
        let (lsn, removed) = match self.attempt(false).await {
            Err(cause) if cause.kind() == ErrorKind::TooLarge => self.attempt(true).await?,
            outcome => outcome?,
        };
        for id in removed {
            // The names are gone whatever happens here; what is left is finished when the store is opened.
            if let Err(cause) = watched(self.volume.table.finish_removal(id)).await {
                tracing::warn!(%cause, object = id.0, "a removal in a transaction is not finished");
            }
        }
        Ok(lsn)
    }

    /// One commit; the objects whose removal is to be finished behind it.
    async fn attempt(&mut self, stored: bool) -> Result<(Lsn, Vec<ObjectId>)> {
        let table = &*self.volume.table;
        let mut batch = Batch::new(table, &self.steps);
        let (ground, wing, parts) = (table.ground(), table.wing(), &mut self.parts);
        let lsn = match stored {
            false => watched(journaled::commit(ground, wing, parts, &mut batch)).await?,
            true => watched(journaled::commit_over_stored(ground, wing, parts, &mut batch)).await?,
        };
        Ok((lsn, batch.into_removed()))
    }
}
