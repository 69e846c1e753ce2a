//! Opens and closes a volume: recover, assemble the parts, start the loops, stop them in order.
//!
//! Guarantees: nothing found on the device is trusted before a flush; the log is replayed before any
//! room above `meta` looks; a failed open leaves no task and no lock behind; close writes everything
//! back, checkpoints, and reports what it could not do.
//!
//! Does not decide options. Called by `api`.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;

use foliant_device::Device;
use foliant_device::wrap::count::Counters;
use foliant_device::wrap::watch::Watch;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;

use crate::error::Error;
use crate::error::ErrorKind;
use crate::error::Result;
use crate::folio::DirtyLimits;
use crate::format::layout::SUPERBLOCKS;
use crate::format::superblock::Superblock;
use crate::iomap::bio::DeviceTransport;
use crate::journal::Journal;
use crate::kit::memory::Memory;
use crate::kit::memory::Purpose;
use crate::kit::poison::Poison;
use crate::meta::Meta;
use crate::meta::MetaOptions;
use crate::meta::recover;
use crate::meta::recover::Gap;
use crate::meta::recover::Recovered;
use crate::meta::view::BlockRead;
use crate::object::ground::Ground;
use crate::object::open::Wing;
use crate::object::table::Table;
use crate::reclaim::Reclaim;
use crate::reclaim::pressure;
use crate::reclaim::shrink::ReclaimStats;
use crate::volume::cleaner::Cleaner;
use crate::volume::flusher::Flusher;
use crate::volume::guarded::guarded;
use crate::volume::patience::Patience;
use crate::volume::reclaimer;
use crate::volume::shrinkers::Reclaiming;
use crate::volume::stall::Stall;
use crate::volume::stall::Stalled;

/// An open volume: the running parts.
#[derive(Debug)]
pub struct Volume {
    /// Objects and everything below them.
    pub table: Arc<Table>,
    /// Writeback and sync.
    pub flusher: Arc<Flusher>,
    /// Moving of blocks.
    pub cleaner: Arc<Cleaner>,
    /// What recovery found.
    pub recovered: Recovered,
    /// What everything lies on.
    pub device: Device,
    /// Blocks that can hold data or metadata.
    pub data_blocks: u64,
    closed: AtomicBool,
    /// Identity of the store.
    pub(super) uuid: [u8; 16],
    /// One recovery at a time.
    pub(super) recovering: Arc<tokio::sync::Mutex<()>>,
    /// The verbs that are on their way.
    verbs: TaskTracker,
    pub(super) tasks: Tasks,
    reclaiming: Reclaiming,
    patience: Patience,
    stall: Arc<Stall>,
}

/// The background loops, and the order in which they stop.
#[derive(Debug, Clone)]
pub(super) struct Tasks {
    pub(super) tracker: TaskTracker,
    /// The loops of the log, which end before whoever waits for them.
    log_tracker: TaskTracker,
    /// Stops the flusher and the reclaimer: no new work after it.
    stop: CancellationToken,
    /// Stops journal and checkpointer, once nobody commits any more.
    stop_log: CancellationToken,
}

/// An opening whose loops run and whose volume has no owner yet: nobody else would end them, and they keep the
/// device, with its lock.
struct Opening(Option<Tasks>);

impl Opening {
    /// From here on the owner closes the volume.
    fn done(mut self) {
        self.0 = None;
    }
}

impl Drop for Opening {
    fn drop(&mut self) {
        if let Some(tasks) = &self.0 {
            tasks.stop.cancel();
            tasks.stop_log.cancel();
        }
    }
}

/// What the opener decides.
#[derive(Debug, Clone)]
pub struct MountOptions {
    /// The memory budget.
    pub memory_bytes: u64,
    /// Whether freed blocks are discarded before they are used again.
    pub discards: bool,
    /// Whether blocks are moved in the background.
    pub cleaning: bool,
    /// What the device is asked for.
    pub counters: Arc<Counters>,
    /// What becomes of it.
    pub watch: Arc<Watch>,
}

/// Says when the control group does not allow as much memory as the budget.
fn warn_of_a_tight_group(memory_bytes: u64) {
    let limit = pressure::of_this_process().and_then(|group| group.limit);
    if let Some(limit) = limit.filter(|&limit| limit < memory_bytes) {
        tracing::warn!(limit, memory_bytes, "the control group allows less memory than the budget");
    }
}

/// Opens the volume on `device` within its memory budget.
///
/// Errors: `NotAStore`, `Incompatible`, `Corrupt`, `InvalidInput` (too little memory), `OutOfMemory`,
/// `Device`. Dropping the future: the loops stop, and then nobody has the device any more.
pub async fn open(device: Device, options: MountOptions) -> Result<Volume> {
    warn_of_a_tight_group(options.memory_bytes);
    let memory = Memory::new(options.memory_bytes)?;
    device.register(memory.arena());
    // What an earlier life left in a volatile cache is not durable yet, and must be before it is read.
    device.flush().await?;
    let superblock = read_superblock(&device, &memory).await?;
    let layout = superblock.layout()?;
    let volume = superblock.volume();
    let recovered = recover::recover(&device, &memory, &layout, volume, Gap::Refuse).await?;
    let poison = Poison::new();
    let slot = recovered.slot;
    let journal = Journal::open(&device, &memory, &poison, &layout, volume, slot).await?;
    let metadata = MetaOptions::for_volume(volume, layout.root, &memory);
    let meta = Meta::open(&device, &memory, &journal, &poison, metadata).await?;
    let data_blocks = layout.data_blocks();
    let dirty = DirtyLimits::new(memory.capacity_blocks());
    let ground = Ground::new(meta, layout, poison, dirty).await?;
    let ground = ground.with_inline(superblock.allows_inline());
    let reclaim = Reclaim::new(memory.clone());
    let wing = wing(memory, device.clone(), &ground, &reclaim);
    let next_object = ground.meta.read().await.root().next_object;
    let table = Arc::new(Table::new(ground, wing, next_object));
    let reclaiming = Reclaiming::new(reclaim, table.clone());
    let tasks = Tasks::start(&table, &journal, reclaiming.reclaim());
    let opening = Opening(Some(tasks.clone()));
    let discards = (options.discards && device.geometry().discard).then(|| device.clone());
    let flusher = Flusher::new(table.clone(), tasks.tracker.clone());
    let running = flusher.clone().run(tasks.stop.clone());
    tasks.tracker.spawn(guarded(&table.ground().poison, running));
    let cleaner = Cleaner::new(table.clone(), options.cleaning, discards);
    let stall = Arc::new(Stall::new(options.watch));
    let poison = &table.ground().poison;
    let looking = stall.clone().run(poison.clone(), tasks.stop_log.clone());
    tasks.tracker.spawn(guarded(poison, looking));
    let closed = AtomicBool::new(false);
    let verbs = TaskTracker::new();
    let uuid = superblock.uuid;
    let recovering = Arc::default();
    let volume = Volume {
        device,
        table,
        flusher,
        cleaner,
        recovered,
        data_blocks,
        closed,
        uuid,
        recovering,
        verbs,
        tasks,
        reclaiming,
        patience: Patience::new(options.counters),
        stall,
    };
    if let Err(cause) = volume.table.finish_removals().await {
        // Only the space of removed objects is at stake; the next opening tries again.
        tracing::warn!(%cause, "a removal that was interrupted cannot be finished");
    }
    // Behind the removals: what they give back need not be moved.
    let cleaning = volume.cleaner.clone().run(volume.tasks.stop.clone());
    volume.tasks.tracker.spawn(guarded(&volume.table.ground().poison, cleaning));
    opening.done();
    Ok(volume)
}

pub(super) async fn read_superblock(device: &Device, memory: &Memory) -> Result<Superblock> {
    let (mut copies, mut unreadable) = ([None, None], None);
    for (copy, at) in copies.iter_mut().zip(SUPERBLOCKS) {
        if at.0 >= device.geometry().blocks {
            continue;
        }
        let into = vec![memory.allocate(0, Purpose::Reserved).await?];
        let (mut buffers, outcome) = device.read(at.0, into).await;
        match outcome {
            Ok(()) => *copy = buffers.pop(),
            // The other copy may be whole; without one the choice below says so.
            Err(cause) => {
                tracing::warn!(%cause, "a superblock copy cannot be read");
                unreadable = Some(Error::from(cause));
            }
        }
    }
    let images = [copies[0].as_deref(), copies[1].as_deref()];
    let superblock = match (Superblock::choose(images, device.geometry().blocks), unreadable) {
        // A device that cannot be read is not a damaged store, and nobody should think so.
        (Err(cause), Some(unreadable)) if cause.kind() != ErrorKind::Incompatible => {
            return Err(unreadable);
        }
        (chosen, _) => chosen?,
    };
    if superblock.is_read_only() {
        let why = "the store uses features that this version may only read, and it cannot open for \
                   reading alone";
        return Err(Error::new(ErrorKind::Incompatible, why));
    }
    Ok(superblock)
}

fn wing(memory: Memory, device: Device, ground: &Ground, reclaim: &Reclaim) -> Wing {
    let dirty = ground.dirty.clone();
    let transport = DeviceTransport::new(device);
    let residents = reclaim.residents();
    let images = Arc::new(Semaphore::new(Wing::images_max(&memory)));
    Wing { memory, dirty, residents, transport, images }
}

impl Tasks {
    fn start(table: &Table, journal: &Journal, reclaim: Arc<Reclaim>) -> Self {
        let (tracker, log_tracker) = (TaskTracker::new(), TaskTracker::new());
        let (stop, stop_log) = (CancellationToken::new(), CancellationToken::new());
        let poison = table.ground().poison.clone();
        let meta = table.ground().meta.clone();
        let wing = table.wing().clone();
        log_tracker.spawn(guarded(&poison, journal.clone().run(stop_log.clone())));
        log_tracker.spawn(guarded(&poison, meta.run(stop_log.clone())));
        tracker.spawn(guarded(&poison, reclaimer::run(reclaim, wing, stop.clone())));
        Self { tracker, log_tracker, stop, stop_log }
    }
}

fn task_ended(cause: &tokio::task::JoinError) -> Error {
    Error::new(ErrorKind::Closed, format!("a task of closing ended: {cause}"))
}

impl Volume {
    /// Errors: `Closed` once closing has begun.
    pub fn check_open(&self) -> Result<()> {
        match self.closed.load(Ordering::SeqCst) {
            false => Ok(()),
            true => Err(Error::new(ErrorKind::Closed, "the engine is closed")),
        }
    }

    /// Enters a verb that changes something: closing waits until the answer is dropped.
    ///
    /// Errors: `Closed` once closing has begun.
    pub fn enter(&self) -> Result<TaskTrackerToken> {
        // In this order: either closing sees the token, or this sees the closing.
        let token = self.verbs.token();
        self.check_open()?;
        Ok(token)
    }

    #[cfg(feature = "testing")]
    /// Verbs that are on their way, and tasks of the engine, its loops included.
    pub fn busy(&self) -> (usize, usize) {
        (self.verbs.len(), self.tasks.tracker.len() + self.tasks.log_tracker.len())
    }

    /// Whether closing has begun.
    pub fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// Whether the device does not answer now.
    pub fn stalled(&self) -> Option<Stalled> {
        self.stall.now()
    }

    /// What reclaim did since open.
    pub fn reclaim_stats(&self) -> ReclaimStats {
        self.reclaiming.stats()
    }

    /// Writes everything back, checkpoints, stops the loops and closes the device.
    ///
    /// Errors: `Closed` when somebody has closed it before, else the first thing that could not be
    /// made durable; all steps are taken anyway. `TimedOut`, naming the step, when the device does not end
    /// a request: what was lent to it stays lent. Dropping the future does not stop the closing.
    pub async fn close(&self) -> Result<()> {
        let closing = tokio::spawn(self.closing()?);
        closing.await.map_err(|cause| {
            Error::new(ErrorKind::Closed, format!("closing did not finish: {cause}"))
        })?
    }

    /// Starts closing on the current runtime, for a caller who cannot wait.
    pub fn close_in_background(&self) {
        let Ok(closing) = self.closing() else { return };
        tokio::spawn(async move {
            if let Err(cause) = closing.await {
                tracing::error!(%cause, "an engine that was dropped could not close");
            }
        });
    }

    /// The steps of closing, as a future that needs nothing of its maker. Errors: `Closed`.
    fn closing(&self) -> Result<impl Future<Output = Result<()>> + Send + use<>> {
        if self.closed.swap(true, Ordering::SeqCst) {
            return Err(Error::new(ErrorKind::Closed, "the engine is closed"));
        }
        let verbs = self.verbs.clone();
        let (tasks, flusher) = (self.tasks.clone(), self.flusher.clone());
        let (ground, reclaiming) = (self.table.ground().clone(), self.reclaiming.clone());
        let (device, patience) = (self.device.clone(), self.patience.clone());
        let cleaner = self.cleaner.clone();
        Ok(async move {
            // What was entered is finished first, with everything running that it may wait for.
            verbs.close();
            let entered =
                patience.wait("waiting for verbs that are on their way", verbs.wait()).await;
            tasks.stop.cancel();
            // What it moves comes before the last checkpoint.
            let moved = patience.wait("moving blocks", cleaner.ended()).await;
            let synced = patience.wait("writing back", flusher.sync_all()).await.flatten();
            let home = match ground.poison.check() {
                // A task of its own: one that is given up goes on, and must not be dropped.
                Ok(()) => {
                    let meta = ground.meta.clone();
                    let round = tasks.tracker.spawn(async move { meta.checkpoint().await });
                    let round = patience.wait("bringing the log home", round).await;
                    round.and_then(|round| round.unwrap_or_else(|cause| Err(task_ended(&cause))))
                }
                Err(cause) => Err(cause),
            };
            tasks.stop_log.cancel();
            tasks.log_tracker.close();
            let log = patience.wait("waiting for the log", tasks.log_tracker.wait()).await;
            // What was appended behind the loops' back is not written any more; who waits must know.
            ground.poison.retire(Error::new(ErrorKind::Closed, "the engine is closed"));
            tasks.tracker.close();
            let stopped = patience.wait("waiting for background tasks", tasks.tracker.wait()).await;
            drop(reclaiming);
            let closed = patience.wait("closing the device", device.close()).await;
            let closed = closed.and_then(|closed| closed.map_err(Error::from));
            entered.and(moved).and(synced).and(home).and(log).and(stopped).and(closed)
        })
    }
}
