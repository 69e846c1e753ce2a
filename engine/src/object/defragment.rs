//! Puts ranges of an object that lie in many places into one.
//!
//! Guarantees what `relocate` does: whoever reads finds the same bytes all the time, and a range that cannot be moved
//! whole stays as it is. Ranges of an object that are moved one after the other follow each other on the device,
//! where there is such room. What is unwritten stays where it is.
//!
//! Does not write back what is dirty, and does not decide when. Called by `volume::cleaner`.

use std::sync::Arc;

use crate::error::ErrorKind;
use crate::error::Result;
use crate::extent;
use crate::extent::Extent;
use crate::extent::owners;
use crate::extent::owners::Next;
use crate::kit::lock_order::watched;
use crate::object::clean::make_usable;
use crate::object::ground::Moves;
use crate::object::open::OpenObject;
use crate::object::relocate;
use crate::object::relocate::Wish;
use crate::object::table::Table;
use crate::units::BLOCK;
use crate::units::BlockNo;
use crate::units::FileBlocks;
use crate::units::ObjectId;

/// Shorter runs of free space are not worth moving something into (64 KiB).
const RANGE_BLOCKS_MIN: u64 = 16;
/// A range whose extents are longer than this on average is read fast enough (64 KiB).
const MEAN_BLOCKS_GOOD: u64 = 16;
/// Extents that a range must have to be restored in the background.
const EXTENTS_MIN: usize = 8;
/// Extents that are looked at in one step of the background.
const STEP_EXTENTS: usize = 2048;

/// An object on its way into one piece.
#[derive(Debug)]
pub struct Restoring {
    object: Arc<OpenObject>,
    at: u64,
    /// Blocks of the next range.
    size: u64,
    /// Moved so far.
    pub moved: u64,
    /// Ranges that lie in one piece now and did not before.
    pub ranges: u64,
}

impl Restoring {
    /// All of `object`.
    pub fn new(table: &Table, object: Arc<OpenObject>) -> Self {
        let size = relocate::blocks_max(table.ground(), table.wing());
        Self { object, at: 0, size, moved: 0, ranges: 0 }
    }

    /// One range; whether there is another one. To be driven to its end by a task of the engine.
    ///
    /// Errors: those of [`relocate::relocate`]. Nothing is half done then.
    pub async fn step(&mut self, table: &Table) -> Result<bool> {
        let range = FileBlocks::new(self.at, self.at.saturating_add(self.size));
        match restore(table, &self.object, range).await? {
            Outcome::Nothing { next: None } => return Ok(false),
            Outcome::Nothing { next: Some(next) } => self.at = next,
            Outcome::Moved { blocks } => {
                self.moved += blocks;
                self.ranges += 1;
                self.at = range.end;
            }
            Outcome::NoRoom if self.size > RANGE_BLOCKS_MIN => self.size /= 2,
            Outcome::NoRoom => self.at = range.end,
        }
        Ok(true)
    }
}

enum Outcome {
    /// The range lies well, or cannot be moved now; the next extent begins there, if there is one.
    Nothing {
        next: Option<u64>,
    },
    Moved {
        blocks: u64,
    },
    /// There is no such run.
    NoRoom,
}

/// Puts `range` of `object` into one run, unless it is.
async fn restore(table: &Table, object: &Arc<OpenObject>, range: FileBlocks) -> Result<Outcome> {
    let ground = table.ground();
    let (extents, next) = {
        let view = ground.meta.read().await;
        let id = object.state().id();
        let extents = extent::list(&view, id, range, range.len() as usize).await?;
        let next = extent::lookup::next_extent_at_or_after(&view, id, range.end).await?;
        (extents, next.map(|extent| extent.at.max(range.end)))
    };
    let written: Vec<&Extent> = extents.iter().filter(|extent| !extent.unwritten).collect();
    let apart = |pair: &[&Extent]| pair[0].start.plus(pair[0].blocks) != pair[1].start;
    if object.state().is_removed() || !written.windows(2).any(apart) {
        return Ok(Outcome::Nothing { next });
    }
    let wish = |extent: &&Extent| {
        let blocks = FileBlocks::new(extent.at, extent.end());
        Wish { object: object.clone(), blocks, from: extent.start }
    };
    let wishes: Vec<Wish> = written.iter().map(wish).collect();
    // A run with room for what follows, or the object would end up in as many pieces as there were short runs.
    let rest = object.state().size().div_ceil(BLOCK).saturating_sub(range.start);
    let moving = relocate::relocate(ground, table.wing(), &wishes, Some(rest));
    let moved = match watched(moving).await {
        Err(cause) if cause.kind() == ErrorKind::TooLarge => return Ok(Outcome::NoRoom),
        moved => moved?,
    };
    make_usable(ground, &moved).await?;
    match (moved.blocks, moved.short) {
        (0, true) => Ok(Outcome::NoRoom),
        (0, false) => Ok(Outcome::Nothing { next }),
        (blocks, _) => {
            Moves::add(&ground.moves.restored, 1);
            Ok(Outcome::Moved { blocks })
        }
    }
}

/// One step of the background: looks at some extents from `from` on, and restores the first range among them that
/// is worth it. Where to go on, if there is more, and how many blocks moved.
///
/// Errors and drop: as [`Restoring::step`].
pub async fn restore_somewhere(table: &Arc<Table>, from: Next) -> Result<(Option<Next>, u64)> {
    let size = relocate::blocks_max(table.ground(), table.wing());
    let found = {
        let view = table.ground().meta.read().await;
        owners::some_from(&view, from, STEP_EXTENTS).await?
    };
    let range_of = |object: ObjectId, extent: &Extent| (object, extent.at / size);
    let same =
        |a: &(ObjectId, Extent), b: &(ObjectId, Extent)| range_of(a.0, &a.1) == range_of(b.0, &b.1);
    for own in found.chunk_by(same) {
        let blocks: u64 = own.iter().map(|(_, extent)| extent.blocks).sum();
        let broken = own.windows(2).any(|pair| places(&pair[0].1).1 != places(&pair[1].1).0);
        if own.len() < EXTENTS_MIN || blocks / own.len() as u64 >= MEAN_BLOCKS_GOOD || !broken {
            continue;
        }
        let (id, part) = range_of(own[0].0, &own[0].1);
        let range = FileBlocks::new(part * size, (part + 1) * size);
        let next = Some((id, range.end));
        let object = match watched(table.open(id)).await {
            Err(cause) if cause.kind() == ErrorKind::NotFound => return Ok((next, 0)),
            opened => opened?,
        };
        return match restore(table, &object, range).await? {
            Outcome::Moved { blocks } => Ok((next, blocks)),
            Outcome::Nothing { .. } | Outcome::NoRoom => Ok((next, 0)),
        };
    }
    let last = found.last().filter(|_| found.len() == STEP_EXTENTS);
    Ok((last.map(|(object, extent)| (*object, extent.end())), 0))
}

/// Where an extent begins and ends on the device.
fn places(extent: &Extent) -> (BlockNo, BlockNo) {
    (extent.start, extent.start.plus(extent.blocks))
}

/// How many extents `object` has.
///
/// Errors: `Corrupt`, `Device`, `OutOfMemory`. Dropping the future has no effect.
pub async fn extents(table: &Table, object: &OpenObject) -> Result<u64> {
    let (mut count, mut at) = (0, 0);
    loop {
        let view = table.ground().meta.read().await;
        let range = FileBlocks::new(at, u64::MAX / BLOCK);
        let found = extent::list(&view, object.state().id(), range, STEP_EXTENTS).await?;
        let Some(last) = found.last() else { return Ok(count) };
        count += found.len() as u64;
        at = last.end();
    }
}
