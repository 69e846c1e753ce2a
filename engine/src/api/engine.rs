//! The engine: a store that is open in this process.
//!
//! Guarantees: clones are one engine; the last one dropped closes it in the background, without
//! blocking and without losing accepted data while the runtime lives. Does not do I/O itself: each
//! verb is handed down. Called by users.

use std::sync::Arc;

use foliant_device::BackendInfo;

use crate::api::handle::Inner;
use crate::api::object::Object;
use crate::api::stats::RecoveryReport;
use crate::api::stats::Stats;
use crate::api::transaction::Transaction;
use crate::error::Result;
use crate::kit::lock_order::watched;
use crate::namespace::ops;
use crate::volume::mount::Volume;
use crate::volume::resume::Resumed;

/// An open store. Cheap to clone; all clones are the same engine.
#[derive(Clone, Debug)]
pub struct Engine {
    pub(super) inner: Arc<Inner>,
}

impl Engine {
    pub(super) fn new(inner: Arc<Inner>) -> Self {
        Self { inner }
    }

    #[cfg(feature = "testing")]
    /// The volume, open or not.
    pub(crate) fn any_volume(&self) -> &Arc<Volume> {
        &self.inner.volume
    }

    /// The volume, while it is open. Errors: `Closed`.
    pub(super) fn volume(&self) -> Result<&Arc<Volume>> {
        self.inner.volume.check_open()?;
        Ok(&self.inner.volume)
    }

    /// Makes an empty object; durable on return.
    ///
    /// `name` is 1 to 255 bytes, of any value. Errors: `AlreadyExists`, `InvalidInput`, `NoSpace`,
    /// `WritesStopped`, `Device`. Dropping the future: made or not made.
    pub async fn create(&self, name: impl AsRef<[u8]>) -> Result<Object> {
        let (volume, _entered) = (self.volume()?, self.inner.volume.enter()?);
        let (object, lsn) = ops::create(&volume.table, name.as_ref()).await?;
        volume.table.ground().meta.durable(lsn).await?;
        Ok(Object::new(self.inner.clone(), object))
    }

    /// Opens the object with this name.
    ///
    /// Errors: `NotFound`, `InvalidInput`, `Corrupt`, `Device`.
    pub async fn object(&self, name: impl AsRef<[u8]>) -> Result<Object> {
        let object = ops::open(&self.volume()?.table, name.as_ref()).await?;
        Ok(Object::new(self.inner.clone(), object))
    }

    /// Gives an object another name; durable on return. A name in the way is an error.
    ///
    /// Errors: `NotFound`, `AlreadyExists`, `InvalidInput`, `NoSpace`, `WritesStopped`, `Device`.
    pub async fn rename(&self, from: impl AsRef<[u8]>, to: impl AsRef<[u8]>) -> Result<()> {
        let (volume, _entered) = (self.volume()?, self.inner.volume.enter()?);
        let lsn = ops::rename(&volume.table, from.as_ref(), to.as_ref()).await?;
        volume.table.ground().meta.durable(lsn).await
    }

    /// Removes the name and its object; durable on return. Open handles fail with `Closed` from then on.
    ///
    /// Works on a full volume. Errors: `NotFound`, `InvalidInput`, `WritesStopped`, `Device`. Dropping
    /// the future: the removal happens or not; what was begun is finished.
    pub async fn remove(&self, name: impl AsRef<[u8]>) -> Result<()> {
        let volume = self.volume()?.clone();
        let name = name.as_ref().to_vec();
        let flusher = self.inner.volume.flusher.clone();
        let entered = self.inner.volume.enter()?;
        let work = async move {
            let _entered = entered;
            let (id, lsn) = ops::remove(&volume.table, &name).await?;
            watched(volume.table.finish_removal(id)).await?;
            volume.table.ground().meta.durable(lsn).await
        };
        flusher.run_to_end(work).await
    }

    /// Up to `limit` names behind `after`, in byte order; start with an empty `after`.
    ///
    /// Errors: `Corrupt`, `Device`.
    pub async fn list(&self, after: impl AsRef<[u8]>, limit: usize) -> Result<Vec<Vec<u8>>> {
        ops::list(&self.volume()?.table, after.as_ref(), limit).await
    }

    /// An empty transaction.
    pub fn transaction(&self) -> Transaction {
        Transaction::new(self.inner.clone())
    }

    /// Everything accepted on any object so far becomes durable.
    ///
    /// Errors: the first failure; the other objects are synced anyway.
    pub async fn sync(&self) -> Result<()> {
        self.volume()?.flusher.sync_all().await
    }

    /// Brings writes back after a failed journal write or flush stopped them, and lets data be written back
    /// again whose writeback had failed, once the device works. The process goes on; nothing acknowledged
    /// is lost, and a sync that succeeds afterwards is true. Does nothing when nothing had failed.
    ///
    /// What had been sent to the device and not been proven durable is sent again: groups of the log to
    /// their places, data to new ones. Who had heard an error before may find his change done.
    ///
    /// Errors: `NotAStore` (another store lies on the device now), `Corrupt` (its log is of another time),
    /// `Device`, `TimedOut` (a request that does not end), `OutOfMemory`, `WritesStopped` (a task of the engine
    /// panicked: open the store again; or it failed again), `Closed`. Writes stay stopped then, and it can
    /// be called again. Dropping the future does not stop it.
    pub async fn recover(&self) -> Result<Resumed> {
        self.volume()?.recover().await
    }

    /// Which machinery moves blocks, and why that one.
    pub fn backend(&self) -> BackendInfo {
        self.inner.volume.device.backend()
    }

    /// Figures of this moment.
    pub fn stats(&self) -> Stats {
        Stats::of(&self.inner)
    }

    /// What the opening of this engine had to recover.
    pub fn recovery(&self) -> RecoveryReport {
        RecoveryReport::of(&self.inner)
    }

    /// Writes everything back, checkpoints, stops all tasks and closes the device.
    ///
    /// Errors: the first thing that could not be made durable. `TimedOut`, naming the step, when the device
    /// does not end a request: each of seven steps is given up when the device was asked for nothing new for
    /// 30 to 60 s, and what was lent to it stays lent. Other clones fail with `Closed`
    /// afterwards. Dropping the future does not stop the closing.
    pub async fn close(self) -> Result<()> {
        self.inner.volume.close().await
    }
}
