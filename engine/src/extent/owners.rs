//! Who owns device blocks: nothing on the device says it, so the extents are gone through.
//!
//! Guarantees that an answer was true with its view. A step looks at a bounded number of extents, so that a
//! pass over the whole tree can be cut into pieces; what changes between two of them can be missed or be out of
//! date, and must be looked at again by who uses it. Called by `object::clean`.

use crate::error::Result;
use crate::extent::Extent;
use crate::format::extent_record;
use crate::meta::tree;
use crate::meta::view::BlockRead;
use crate::units::BlockNo;
use crate::units::DeviceSpan;
use crate::units::ObjectId;

/// Blocks of an object that lie in one of the windows asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owned {
    /// Whose.
    pub object: ObjectId,
    /// First block of the object.
    pub at: u64,
    /// Where it lies.
    pub start: BlockNo,
    /// How many.
    pub blocks: u64,
}

/// The place behind an extent in the tree.
pub type Next = (ObjectId, u64);

/// Looks through up to `limit` extents from `from` on for written blocks in `windows` (ascending, disjoint), and
/// puts them into `found`; where to go on, if there is more.
///
/// Errors: `Corrupt`, `Device`, `OutOfMemory`. Dropping the future has no effect.
pub async fn owners<R: BlockRead>(
    r: &R,
    from: Next,
    limit: usize,
    windows: &[DeviceSpan],
    found: &mut Vec<Owned>,
) -> Result<Option<Next>> {
    let extents = some_from(r, from, limit).await?;
    for (object, extent) in extents.iter().filter(|(_, extent)| !extent.unwritten) {
        let end = extent.start.plus(extent.blocks);
        let first = windows.partition_point(|window| window.end() <= extent.start);
        for window in windows[first..].iter().take_while(|window| window.start < end) {
            let (start, end) = (window.start.max(extent.start), window.end().min(end));
            let at = extent.at + (start.0 - extent.start.0);
            found.push(Owned { object: *object, at, start, blocks: end.0 - start.0 });
        }
    }
    let last = extents.last().filter(|_| extents.len() == limit);
    Ok(last.map(|(object, extent)| (*object, extent.end())))
}

/// Up to `limit` extents of any objects that start at or behind `from`.
///
/// Errors and drop: as [`owners`].
pub async fn some_from<R: BlockRead>(
    r: &R,
    from: Next,
    limit: usize,
) -> Result<Vec<(ObjectId, Extent)>> {
    let key = extent_record::key(from.0, from.1);
    let entries = tree::scan(r, r.root().extents, &key, limit).await?;
    entries.iter().map(|(key, value)| extent_record::decode(key, value)).collect()
}
