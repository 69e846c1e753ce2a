//! Where the bytes of an object lie.
//!
//! Guarantees that answers are in order and do not overlap: entries that do are damage. Does not know
//! sizes of objects or the device. Called by `object`, and by `extent::replace`.

use crate::error::Error;
use crate::error::ErrorKind;
use crate::error::Result;
use crate::extent::Extent;
use crate::format::extent_record;
use crate::format::extent_record::FILE_BLOCKS_MAX;
use crate::meta::tree;
use crate::meta::view::BlockRead;
use crate::units::FileBlocks;
use crate::units::ObjectId;

/// What lies at a block of an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lookup {
    /// This extent, cut so that it starts at the block asked for.
    Extent(Extent),
    /// Nothing, up to this block of the object (`u64::MAX / 4096` when nothing follows).
    Hole {
        /// The first block that is not a hole.
        until: u64,
    },
}

/// Where a hole ends that nothing follows.
pub const NO_END: u64 = u64::MAX / crate::units::BLOCK;

/// What lies at block `at` of `object`.
///
/// Errors: `Corrupt`, `Device`, `OutOfMemory`. Dropping the future has no effect.
pub async fn lookup<R: BlockRead>(r: &R, object: ObjectId, at: u64) -> Result<Lookup> {
    Ok(match next_extent_at_or_after(r, object, at).await? {
        Some(extent) if extent.at == at => Lookup::Extent(extent),
        Some(extent) => Lookup::Hole { until: extent.at },
        None => Lookup::Hole { until: NO_END },
    })
}

/// The first extent that ends behind block `at`, cut so that it does not start before it.
///
/// Errors: as [`lookup`].
pub async fn next_extent_at_or_after<R: BlockRead>(
    r: &R,
    object: ObjectId,
    at: u64,
) -> Result<Option<Extent>> {
    let range = FileBlocks::new(at.min(FILE_BLOCKS_MAX), FILE_BLOCKS_MAX);
    Ok(list(r, object, range, 1).await?.pop())
}

/// Up to `limit` extents that touch `range`, ascending, cut to it.
///
/// Errors: as [`lookup`].
pub async fn list<R: BlockRead>(
    r: &R,
    object: ObjectId,
    range: FileBlocks,
    limit: usize,
) -> Result<Vec<Extent>> {
    if range.is_empty() || limit == 0 {
        return Ok(Vec::new());
    }
    let mut found: Vec<Extent> = Vec::new();
    found.extend(floor(r, object, range.start).await?.filter(|e| e.end() > range.start));
    if found.len() < limit && found.last().is_none_or(|e| e.end() < range.end) {
        let from = range.start.saturating_add(1);
        let more = starting_in(r, object, from, range.end, limit - found.len()).await?;
        found.extend(more);
    }
    check_order(object, &found)?;
    Ok(found.iter().filter_map(|extent| clip(extent, range)).collect())
}

/// The part of an extent that lies in `range`.
pub fn clip(extent: &Extent, range: FileBlocks) -> Option<Extent> {
    let part = FileBlocks::new(extent.at, extent.end()).intersect(range);
    (!part.is_empty()).then(|| Extent {
        at: part.start,
        start: extent.start.plus(part.start - extent.at),
        blocks: part.len(),
        unwritten: extent.unwritten,
    })
}

/// The last extent of `object` that starts at or before block `at`.
pub(super) async fn floor<R: BlockRead>(
    r: &R,
    object: ObjectId,
    at: u64,
) -> Result<Option<Extent>> {
    let key = extent_record::key(object, at);
    let Some((key, value)) = tree::at_or_before(r, r.root().extents, &key).await? else {
        return Ok(None);
    };
    let (owner, extent) = extent_record::decode(&key, &value)?;
    Ok((owner == object).then_some(extent))
}

/// Up to `limit` extents of `object` that start in `from..to`.
pub(super) async fn starting_in<R: BlockRead>(
    r: &R,
    object: ObjectId,
    from: u64,
    to: u64,
    limit: usize,
) -> Result<Vec<Extent>> {
    let (low, high) = (extent_record::key(object, from), extent_record::key(object, to));
    let found = tree::scan_range(r, r.root().extents, &low, Some(&high), limit).await?;
    let decode = |(key, value): &tree::Entry| Ok(extent_record::decode(key, value)?.1);
    found.iter().map(decode).collect()
}

/// Extents in ascending order must not overlap.
pub(super) fn check_order(object: ObjectId, extents: &[Extent]) -> Result<()> {
    match extents.windows(2).find(|pair| pair[0].end() > pair[1].at) {
        None => Ok(()),
        Some(pair) => Err(Error::new(
            ErrorKind::Corrupt,
            format!("{object} has two extents at its block {}", pair[1].at),
        )),
    }
}
