//! What all objects of a volume stand on: metadata, free space, and a promise of room.
//!
//! Guarantees: a promise that fails although freed blocks wait for the log is tried again behind a
//! checkpoint, and then behind the writeback of what is dirty at that time: it gives back the old
//! places of what was overwritten, and takes nothing, because every dirty block has its own promise. So
//! `NoSpace` means that there is none. Every early exit of a transaction returns what it reserved.
//!
//! Does not know objects. Called by the rest of this room and by `namespace`.

use std::sync::Arc;

use crate::alloc::Space;
use crate::alloc::Ticket;
use crate::alloc::release::LogState;
use crate::error::Error;
use crate::error::ErrorKind;
use crate::error::Result;
use crate::folio::DirtyLimits;
use crate::format::layout::Layout;
use crate::kit::canary::Canary;
use crate::kit::canary::is_broken;
use crate::kit::poison::Poison;
use crate::kit::sync::AsyncMutex;
use crate::kit::sync::atomic::AtomicU64;
use crate::kit::sync::atomic::Ordering;
use crate::kit::sync::timeout;
use crate::limits::ROOM_WAIT;
use crate::meta::Meta;
use crate::meta::view::BlockRead;
use crate::units::BlockNo;
use crate::units::Lsn;

/// The parts below that every provider of a volume shares.
#[derive(Clone, Debug)]
pub struct Ground {
    /// Metadata blocks and transactions.
    pub meta: Meta,
    /// Free space.
    pub space: Space,
    /// Set when a flush failed.
    pub poison: Poison,
    /// What is dirty, and the bell of who writes it back.
    pub dirty: DirtyLimits,
    /// Whether the volume's format lets records hold the bytes of small objects.
    pub inline: bool,
    /// One mover of blocks, or one discard, at a time: each has a little room that comes back soon.
    pub borrowing: Arc<AsyncMutex<()>>,
    /// What movers did.
    pub moves: Arc<Moves>,
}

/// What movers of blocks did since open.
#[derive(Debug, Default)]
pub struct Moves {
    /// Blocks that have another place.
    pub blocks: AtomicU64,
    /// Device writes that took.
    pub writes: AtomicU64,
    /// Transactions that took.
    pub transactions: AtomicU64,
    /// Blocks that were copied, and had changed until they could be mapped.
    pub overtaken: AtomicU64,
    /// Passes over windows of scattered free space.
    pub passes: AtomicU64,
    /// Ranges of objects that lie in one piece again.
    pub restored: AtomicU64,
    /// Blocks that the device was told to forget.
    pub discarded: AtomicU64,
}

impl Moves {
    /// Counts.
    pub fn add(counter: &AtomicU64, count: u64) {
        counter.fetch_add(count, Ordering::Relaxed);
    }

    /// The count.
    pub fn get(counter: &AtomicU64) -> u64 {
        counter.load(Ordering::Relaxed)
    }
}

/// What free space asks of the log.
pub struct VolumeLog(pub Meta);

impl LogState for VolumeLog {
    fn is_logged(&self, block: BlockNo) -> bool {
        self.0.is_logged(block)
    }

    fn durable(&self) -> Lsn {
        self.0.durable_now()
    }

    fn applied(&self) -> Lsn {
        self.0.applied_now()
    }
}

impl Ground {
    /// The ground of a volume whose metadata is open. Errors: `Corrupt` when the root's counts are
    /// impossible.
    pub async fn new(
        meta: Meta,
        layout: Layout,
        poison: Poison,
        dirty: DirtyLimits,
    ) -> Result<Self> {
        let space = Space::new(layout, Arc::new(VolumeLog(meta.clone())));
        space.load(meta.read().await.root())?;
        let (borrowing, moves) = (Arc::default(), Arc::default());
        Ok(Self { meta, space, poison, dirty, inline: false, borrowing, moves })
    }

    /// The same with records that may hold the bytes of small objects, or not.
    pub fn with_inline(self, inline: bool) -> Self {
        Self { inline, ..self }
    }

    /// Promises `blocks`; where they lack, behind a checkpoint and writeback that may free some.
    ///
    /// The caller holds neither the metadata lock nor a view, no folio lock, and does not hold
    /// writeback still. Errors: `NoSpace`, `WritesStopped`, `Device`. Dropping the future leaves no
    /// promise behind.
    pub async fn reserve(&self, blocks: u64) -> Result<Reservation> {
        let mut pursuit = Pursuit::default();
        loop {
            match Reservation::new(&self.space, blocks) {
                Err(cause) if cause.is_no_space() => self.pursue(&mut pursuit, cause).await?,
                other => return other,
            }
        }
    }

    /// Wins some room, so that the caller tries the promise again that was `refused`; gives the refusal
    /// back when there is no more to be won. The caller is as for [`Ground::reserve`].
    ///
    /// Errors: also `WritesStopped`, `Device`. Dropping the future has no effect on promises.
    pub async fn pursue(&self, pursuit: &mut Pursuit, refused: Error) -> Result<()> {
        let (seen, target) = match *pursuit {
            Pursuit::Fresh => {
                let ended = self.dirty.ended();
                let target = ended + self.dirty.unsettled();
                *pursuit = Pursuit::Begun { seen: ended, target };
                if self.make_room().await? {
                    return Ok(());
                }
                (ended, target)
            }
            Pursuit::Begun { seen, target } if seen < target => (seen, target),
            Pursuit::Begun { .. } => return Err(refused),
        };
        if seen == target {
            return Err(refused);
        }
        let ended = self.written_after(seen, refused).await?;
        // Nothing more was written, so nothing is dirty: what was, somebody dropped. One last try.
        let seen = if ended == seen { target } else { ended };
        *pursuit = Pursuit::Begun { seen, target };
        self.make_room().await.map(|_| ())
    }

    /// Waits for the end of some writeback. Errors: `NoSpace` if there is none for too long.
    async fn written_after(&self, seen: u64, refused: Error) -> Result<u64> {
        tokio::select! {
            biased;
            cause = self.poison.tripped() => Err(cause),
            ended = timeout(ROOM_WAIT, self.dirty.ended_after(seen)) => ended.map_err(|_| {
                let (unsettled, seconds) = (self.dirty.unsettled(), ROOM_WAIT.as_secs());
                let why = format!(
                    "{refused}; {unsettled} blocks wait for writeback, and none was written for {seconds} s"
                );
                Error::new(ErrorKind::NoSpace, why)
            }),
        }
    }

    /// Brings blocks back that only wait for the log; whether there were any.
    ///
    /// Errors: `WritesStopped`, `Device`. Dropping the future has no effect on promises.
    pub async fn make_room(&self) -> Result<bool> {
        let space = self.space.stats();
        if space.lent + space.discarding > 0 {
            // A mover or a discard has some of it, holds nothing that the caller may hold, and ends soon.
            let _ = timeout(ROOM_WAIT, self.borrowing.lock()).await;
        } else if space.held == 0 {
            return Ok(false);
        }
        metrics::counter!("foliant_checkpoints_for_room_total").increment(1);
        self.meta.checkpointed().await?;
        self.space.release();
        Ok(true)
    }

    /// The allocation context of one metadata transaction to come.
    pub fn ticket(&self) -> Ticket {
        Ticket::new(&self.space)
    }
}

/// How far a promise that was refused has been followed up.
#[derive(Debug, Default)]
pub enum Pursuit {
    /// Not yet.
    #[default]
    Fresh,
    /// Writeback is waited for: `seen` blocks had been written, and at `target` all that was dirty when
    /// it began will have been.
    Begun {
        /// The count of the last look.
        seen: u64,
        /// The count of the last try.
        target: u64,
    },
}

/// Blocks reserved until dropped.
#[derive(Debug)]
#[must_use = "dropping it gives the promise back"]
pub struct Reservation {
    space: Space,
    blocks: u64,
}

impl Reservation {
    fn new(space: &Space, blocks: u64) -> Result<Self> {
        space.reserve(blocks)?;
        Ok(Self { space: space.clone(), blocks })
    }

    /// Leaves the promise of `blocks` to whoever gives it back: they are dirty in the cache.
    ///
    /// # Panics
    /// If fewer were promised.
    pub fn keep(&mut self, blocks: u64) {
        self.blocks = self.blocks.checked_sub(blocks).expect("as many were promised");
    }

    /// Gives the promise back behind a commit, whose ticket is settled.
    pub fn settle(mut self) {
        self.give_back();
    }

    fn give_back(&mut self) {
        let blocks = std::mem::take(&mut self.blocks);
        if blocks > 0 {
            self.space.unreserve(blocks);
        }
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        if !is_broken(Canary::ForgetPromises) {
            self.give_back();
        }
    }
}
