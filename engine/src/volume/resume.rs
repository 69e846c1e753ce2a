//! Brings writes back in an open volume after a failure stopped them, or an object's data could not be
//! written back.
//!
//! Guarantees: only on the store that was opened; what was acknowledged stays, what was not stays a prefix;
//! nothing that a failed flush may have lost counts as stable. A failure leaves writes stopped, and it can be
//! tried again. Not after a panic in a task of the engine: what is in memory cannot be trusted then.
//!
//! Does not write anything itself: `meta` and the flusher do. Called by `api`.

use std::sync::Arc;

use foliant_device::Device;

use crate::error::Error;
use crate::error::ErrorKind;
use crate::error::Result;
use crate::object::table::Table;
use crate::volume::guarded::guarded;
use crate::volume::mount::Volume;
use crate::volume::mount::read_superblock;

/// What a recovery of writes did.
#[derive(Debug, Clone, Default)]
pub struct Resumed {
    /// Why writes were stopped, if they were.
    pub cause: Option<Error>,
    /// Groups of the log that were written again, because they were not known to be durable.
    pub groups_rewritten: u64,
    /// Objects whose data is written back again.
    pub objects_released: u64,
    /// Removed objects whose space had not come back yet.
    pub removals_finished: u64,
}

impl Volume {
    /// See [`crate::Engine::recover`].
    pub async fn recover(&self) -> Result<Resumed> {
        let entered = self.enter()?;
        let (device, table, uuid) = (self.device.clone(), self.table.clone(), self.uuid);
        let turn = self.recovering.clone();
        let poison = table.ground().poison.clone();
        let work = async move {
            let _entered = entered;
            let _one = turn.lock().await;
            run(&device, &table, uuid).await
        };
        let task = self.tasks.tracker.spawn(guarded(&poison, work));
        task.await.map_err(|cause| {
            Error::new(ErrorKind::Closed, format!("recovering did not finish: {cause}"))
        })?
    }
}

async fn run(device: &Device, table: &Arc<Table>, uuid: [u8; 16]) -> Result<Resumed> {
    let (ground, wing) = (table.ground(), table.wing());
    if ground.poison.is_for_good() {
        ground.poison.check()?;
    }
    let found = read_superblock(device, &wing.memory).await?;
    if found.uuid != uuid {
        return Err(Error::new(ErrorKind::NotAStore, "the device holds another store now"));
    }
    let cause = ground.poison.get();
    let groups_rewritten = ground.meta.resume().await?;
    // Proves that the device takes writes: all that may not have arrived at home goes there again.
    ground.meta.checkpointed().await?;
    let released = table.all().into_iter().filter(|object| object.state().forgive()).count();
    wing.dirty.wake_flusher();
    metrics::counter!("foliant_recoveries_total").increment(1);
    let removals_finished = table.finish_removals().await.unwrap_or_else(|cause| {
        // Only the space of removed objects is at stake; the next opening tries again.
        tracing::warn!(%cause, "a removal that was interrupted cannot be finished");
        0
    });
    Ok(Resumed { cause, groups_rewritten, objects_released: released as u64, removals_finished })
}
