//! The flusher: writes dirty folios back, in the background and for `sync`.
//!
//! Guarantees: all writeback runs in tracked tasks, so that a dropped caller never leaves a batch
//! half done; one object's failure does not stop the others; after a failed writeback the object
//! says so for good, and its data stays in memory.
//!
//! Does not choose where data goes (the provider does) nor what is evicted (`reclaim` does).
//! Called by `volume::mount` (the loop) and by `api` (sync).

use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream;
use tokio::task::JoinError;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::error::Error;
use crate::error::ErrorKind;
use crate::error::Result;
use crate::kit::lock_order::watched;
use crate::object::open::OpenObject;
use crate::object::resize;
use crate::object::table::Table;
use crate::units::FileBlocks;
use crate::volume::guarded::guarded;

/// The flusher looks around this often even when nobody rings.
const TICK: Duration = Duration::from_secs(1);
/// Dirty data is written back after this many ticks without any pressure.
const TICKS_UNTIL_OLD: u32 = 5;
/// How often a pass looks whether somebody waits for memory.
const UNPIN_PAUSE: Duration = Duration::from_millis(50);
/// Read-ahead that nobody has reached after this many ticks is dropped.
const FLIGHT_TICKS: u32 = 2;
/// How often a sync starts again because its object was dirtied below its end meanwhile.
const SYNC_ROUNDS_MAX: usize = 64;
/// When writes are stopped, a task that ends by that has so long to say what it met.
const STOPPED_GRACE: Duration = Duration::from_secs(1);
/// Objects that are written back at once.
const OBJECTS_AT_ONCE: usize = 4;
/// Writes dirty data back; shared by the background loop and by callers of `sync`.
#[derive(Debug)]
pub struct Flusher {
    table: Arc<Table>,
    tracker: TaskTracker,
}

impl Flusher {
    /// A flusher over the objects of `table`, whose tasks `tracker` counts.
    pub fn new(table: Arc<Table>, tracker: TaskTracker) -> Arc<Self> {
        Arc::new(Self { table, tracker })
    }

    /// Everything accepted on `object` before this call becomes durable.
    ///
    /// Errors: the object's kept failure, `Closed`, `WritesStopped`, `Device`. Dropping the future
    /// does not stop the work.
    pub async fn sync(self: &Arc<Self>, object: Arc<OpenObject>) -> Result<()> {
        let this = self.clone();
        let poison = &self.table.ground().poison;
        let task = self.tracker.spawn(guarded(poison, async move { this.flush(&object).await }));
        self.ended(task).await
    }

    /// Waits for a task of ours. When writes are stopped, what fails by that has a moment to say how; what is stuck
    /// in the device goes on without its caller.
    async fn ended<T>(&self, mut task: JoinHandle<Result<T>>) -> Result<T> {
        let ended = |done: std::result::Result<Result<T>, JoinError>| {
            let ended = |cause| Error::new(ErrorKind::Closed, format!("a task ended: {cause}"));
            done.map_err(ended)?
        };
        tokio::select! {
            biased;
            done = &mut task => ended(done),
            cause = self.table.ground().poison.tripped() => {
                match tokio::time::timeout(STOPPED_GRACE, task).await {
                    Ok(done) => ended(done),
                    Err(_) => Err(cause),
                }
            }
        }
    }

    /// Runs `work` to its end even when the caller goes away.
    ///
    /// The caller takes the first step itself: it puts `work` into the queue of the lock that it
    /// needs, so that whatever the caller asks for later comes behind it.
    pub async fn run_to_end<F, T>(&self, work: F) -> Result<T>
    where
        F: Future<Output = Result<T>> + Send + 'static,
        T: Send + 'static,
    {
        let mut work = Box::pin(work);
        // Unconstrained, or a used-up budget of the caller's task would end the step before the lock.
        let first = std::future::poll_fn(|context| {
            let mut step = tokio::task::unconstrained(work.as_mut());
            Poll::Ready(std::pin::Pin::new(&mut step).poll(context))
        });
        if let Poll::Ready(done) = first.await {
            return done;
        }
        let task = self.tracker.spawn(guarded(&self.table.ground().poison, work));
        self.ended(task).await
    }

    /// The same for every open object; the first failure is the answer, the rest is tried anyway.
    pub async fn sync_all(self: &Arc<Self>) -> Result<()> {
        let mut outcome = Ok(());
        for object in self.table.all() {
            if object.state().is_removed() {
                continue;
            }
            let synced = self.sync(object.clone()).await;
            // Removed meanwhile: there is nothing left to be durable.
            if !object.state().is_removed() {
                outcome = outcome.and(synced);
            }
        }
        outcome
    }

    async fn flush(&self, object: &Arc<OpenObject>) -> Result<()> {
        let state = object.state();
        // What was accepted before this call ends here at most; a block below it that somebody dirties
        // meanwhile can keep the size from being recorded, and must be written back as well.
        let wanted = state.size();
        for _ in 0..SYNC_ROUNDS_MAX {
            state.check()?;
            self.write_back(object).await?;
            let lsn = watched(resize::record_size(object)).await?;
            if state.recorded_size() >= wanted.min(state.size()) {
                return self.table.ground().meta.durable(lsn.max(state.last_lsn())).await;
            }
        }
        let why = format!("{}: its size could not be recorded beside its writers", state.id());
        Err(Error::new(ErrorKind::TimedOut, why))
    }

    async fn write_back(&self, object: &Arc<OpenObject>) -> Result<()> {
        let poison = &self.table.ground().poison;
        let times = poison.times();
        let written = object.core().write_back(FileBlocks::new(0, u64::MAX)).await;
        written.map(|_| ()).inspect_err(|cause| {
            // What was refused before anything was sent to the device can be tried again.
            let final_for_these_bytes = !cause.is_retryable() || cause.is_no_space();
            // While writes are stopped everybody hears that; and what came of it must not outlive `recover`.
            let stopped = poison.check_since(times).is_err();
            if final_for_these_bytes && !stopped && !object.state().is_removed() {
                object.state().mark_failed(cause);
            }
        })
    }

    /// The background loop; returns after `stop` is cancelled. Closing writes back what is left.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        let mut quiet = 0;
        let mut aged = tokio::time::Instant::now();
        while !stop.is_cancelled() {
            let rung = self.wait(&stop).await;
            if aged.elapsed() >= TICK {
                aged = tokio::time::Instant::now();
                self.drop_old_flights();
            }
            quiet = if rung { TICKS_UNTIL_OLD } else { quiet + 1 };
            if quiet >= TICKS_UNTIL_OLD {
                quiet = 0;
                let passed = CancellationToken::new();
                let pass = async {
                    self.pass().await;
                    passed.cancel();
                };
                tokio::join!(pass, self.unpin_until(&passed));
            }
            let memory = &self.table.wing().memory;
            if memory.low() || memory.is_waited_for() {
                self.unpin().await;
            }
            // Early, so that space is found in long pieces and the list of waiting spans is short.
            self.table.ground().space.release();
            self.table.close_idle();
        }
    }

    /// Gives back the memory of read-ahead that no reader came for.
    fn drop_old_flights(&self) {
        for object in self.table.all() {
            object.core().drop_old_flights(FLIGHT_TICKS);
        }
    }

    /// Waits for a bell or a tick; whether a bell rang.
    async fn wait(&self, stop: &CancellationToken) -> bool {
        let wing = self.table.wing();
        tokio::select! {
            biased;
            () = stop.cancelled() => false,
            () = wing.dirty.flusher().notified() => true,
            () = tokio::time::sleep(TICK) => false,
        }
    }

    /// Writes back every object that has dirty data, several at once.
    async fn pass(&self) {
        let each = self.table.all().into_iter().map(|object| self.pass_over(object));
        let mut all = stream::iter(each).buffer_unordered(OBJECTS_AT_ONCE);
        while all.next().await.is_some() {}
    }

    async fn pass_over(&self, object: Arc<OpenObject>) {
        // While writes are stopped a batch fails before it is sent, and what is dirty again rings at once.
        if object.state().check().and_then(|()| self.table.ground().poison.check()).is_err() {
            return;
        }
        // A failure of writeback is kept on the object; nobody waits for it here.
        if !object.core().is_clean() && self.write_back(&object).await.is_err() {
            return;
        }
        if object.state().size() > object.state().recorded_size()
            && let Err(cause) = watched(resize::record_size(&object)).await
        {
            tracing::warn!(%cause, object = object.state().id().0, "its size is not recorded");
        }
    }

    /// A pass may wait for a folio whose holder waits for memory that only a checkpoint frees.
    async fn unpin_until(&self, passed: &CancellationToken) {
        while passed.run_until_cancelled(tokio::time::sleep(UNPIN_PAUSE)).await.is_some() {
            if self.table.wing().memory.is_waited_for() {
                self.unpin().await;
            }
        }
    }

    /// Sends logged blocks home, because until then they hold memory.
    async fn unpin(&self) {
        if let Err(cause) = self.table.ground().meta.checkpoint().await {
            tracing::warn!(%cause, "checkpoint under memory pressure failed");
        }
    }
}
