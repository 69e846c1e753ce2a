//! What all objects of a volume stand on: metadata, free space, and a promise of room.
//!
//! Guarantees: a promise that fails although freed blocks wait for the log is tried again behind a
//! checkpoint; every early exit of a transaction returns what it reserved. Does not know objects. Called by the rest of this room and by `namespace`.

use crate::alloc::Space;
use crate::alloc::Ticket;
use crate::alloc::release::LogState;
use crate::error::Result;
use crate::format::layout::Layout;
use crate::kit::poison::Poison;
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
    /// Whether the volume's format lets records hold the bytes of small objects.
    pub inline: bool,
}

/// What free space asks of the log.
struct VolumeLog(Meta);

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
    pub async fn new(meta: Meta, layout: Layout, poison: Poison) -> Result<Self> {
        let space = Space::new(layout, std::sync::Arc::new(VolumeLog(meta.clone())));
        space.load(meta.read().await.root())?;
        Ok(Self { meta, space, poison, inline: false })
    }

    /// The same with records that may hold the bytes of small objects, or not.
    pub fn with_inline(self, inline: bool) -> Self {
        Self { inline, ..self }
    }

    /// Promises `blocks`, behind a checkpoint if freed blocks wait for one.
    ///
    /// The caller holds neither the metadata lock nor a view. Errors: `NoSpace`, `WritesStopped`,
    /// `Device`. Dropping the future leaves no promise behind.
    pub async fn reserve(&self, blocks: u64) -> Result<Reservation> {
        let refused = match Reservation::new(&self.space, blocks) {
            Err(cause) if cause.is_no_space() => cause,
            other => return other,
        };
        if !self.make_room().await? {
            return Err(refused);
        }
        Reservation::new(&self.space, blocks)
    }

    /// Brings blocks back that only wait for the log; whether there were any.
    ///
    /// Errors: `WritesStopped`, `Device`. Dropping the future has no effect on promises.
    pub async fn make_room(&self) -> Result<bool> {
        if self.space.stats().held == 0 {
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
}

impl Drop for Reservation {
    fn drop(&mut self) {
        if self.blocks > 0 {
            self.space.unreserve(self.blocks);
        }
    }
}
