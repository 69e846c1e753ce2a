//! The one change of extents: what lies in a range is replaced.
//!
//! Guarantees: outside of the range the object keeps its blocks; extents that continue each other
//! become one; only entries that differ are touched; what is returned are exactly the device
//! blocks that the range had and has no more. Does not free them. Called by `object`, within one
//! transaction; the cost grows with the extents in the range, so callers cut long ranges.

use crate::error::Result;
use crate::extent::Extent;
use crate::extent::lookup::check_order;
use crate::extent::lookup::clip;
use crate::extent::lookup::floor;
use crate::extent::lookup::starting_in;
use crate::format::extent_record;
use crate::format::extent_record::EXTENT_BLOCKS_MAX;
use crate::meta::tree;
use crate::meta::view::BlockWrite;
use crate::meta::view::NodeSupply;
use crate::units::BlockNo;
use crate::units::DeviceSpan;
use crate::units::FileBlocks;
use crate::units::ObjectId;

/// Makes `new` all that lies in `range` of `object`; returns the device blocks that are not used
/// there any more.
///
/// Errors: `Corrupt`, `Device`, `OutOfMemory`, `NoSpace` from the supply. Then, or when the future is dropped,
/// the transaction must be dropped.
///
/// # Panics
/// If `new` is not ascending, disjoint, not empty each, and inside `range`.
pub async fn replace<W: BlockWrite, S: NodeSupply>(
    w: &mut W,
    supply: &mut S,
    object: ObjectId,
    range: FileBlocks,
    new: &[Extent],
) -> Result<Vec<DeviceSpan>> {
    assert_fits(range, new);
    if range.is_empty() {
        return Ok(Vec::new());
    }
    let old = touching(w, object, range).await?;
    let all = combine(&old, range, new);
    apply(w, supply, object, &old, &all).await?;
    Ok(no_longer_used(&old, range, new))
}

fn assert_fits(range: FileBlocks, new: &[Extent]) {
    let mut free_from = range.start;
    for extent in new {
        assert!(extent.blocks > 0 && extent.at >= free_from, "{extent:?} is out of order");
        free_from = extent.end();
    }
    assert!(free_from <= range.end, "extents end outside of {range:?}");
}

/// The extents that overlap `range` or end where it starts or start where it ends.
async fn touching<W: BlockWrite>(
    w: &W,
    object: ObjectId,
    range: FileBlocks,
) -> Result<Vec<Extent>> {
    let mut old = Vec::new();
    if let Some(before) = range.start.checked_sub(1) {
        let found = floor(w, object, before).await?;
        old.extend(found.filter(|extent| extent.end() >= range.start));
    }
    let to = range.end.saturating_add(1);
    old.extend(starting_in(w, object, range.start, to, usize::MAX).await?);
    check_order(object, &old)?;
    Ok(old)
}

/// What the touched extents shall be afterwards, joined where they continue each other.
fn combine(old: &[Extent], range: FileBlocks, new: &[Extent]) -> Vec<Extent> {
    let before = FileBlocks::new(0, range.start);
    let after = FileBlocks::new(range.end, u64::MAX);
    let left = old.iter().filter_map(|extent| clip(extent, before));
    let right = old.iter().filter_map(|extent| clip(extent, after));
    let mut all: Vec<Extent> = Vec::new();
    for extent in left.chain(new.iter().copied()).chain(right) {
        match all.last_mut() {
            Some(last) if continues(last, &extent) => last.blocks += extent.blocks,
            _ => all.push(extent),
        }
    }
    all
}

pub(super) fn continues(a: &Extent, b: &Extent) -> bool {
    a.end() == b.at
        && a.start.plus(a.blocks) == b.start
        && a.unwritten == b.unwritten
        && a.blocks + b.blocks <= EXTENT_BLOCKS_MAX
}

/// Turns the entries `old` into the entries `all`; both ascend.
async fn apply<W: BlockWrite, S: NodeSupply>(
    w: &mut W,
    supply: &mut S,
    object: ObjectId,
    old: &[Extent],
    all: &[Extent],
) -> Result<()> {
    let mut root = w.root().extents;
    // Removals first: they leave room in the nodes for what comes.
    for extent in old {
        if all.binary_search_by_key(&extent.at, |e| e.at).is_err() {
            let key = extent_record::key(object, extent.at);
            let was = tree::remove(w, supply, &mut root, &key).await?;
            assert!(was.is_some(), "an extent that was just read is gone");
        }
    }
    for extent in all {
        let same = old.binary_search_by_key(&extent.at, |e| e.at);
        if same.is_ok_and(|i| old[i] == *extent) {
            continue;
        }
        let key = extent_record::key(object, extent.at);
        tree::insert(w, supply, &mut root, &key, &extent_record::value(extent)).await?;
    }
    w.root_mut().extents = root;
    Ok(())
}

/// The device blocks of `old` in `range` that are not in `new`.
fn no_longer_used(old: &[Extent], range: FileBlocks, new: &[Extent]) -> Vec<DeviceSpan> {
    let mut kept: Vec<DeviceSpan> = new.iter().map(span_of).collect();
    kept.sort_unstable();
    let overlap = kept.windows(2).any(|pair| pair[0].end() > pair[1].start);
    assert!(!overlap, "two new extents use the same device blocks");
    let mut gone = Vec::new();
    for extent in old.iter().filter_map(|extent| clip(extent, range)) {
        let (mut start, end) = (extent.start.0, extent.start.0 + extent.blocks);
        let first = kept.partition_point(|span| span.end().0 <= start);
        for keep in kept[first..].iter().take_while(|span| span.start.0 < end) {
            if start < keep.start.0 {
                gone.push(DeviceSpan::new(BlockNo(start), keep.start.0 - start));
            }
            start = keep.end().0.min(end);
        }
        if start < end {
            gone.push(DeviceSpan::new(BlockNo(start), end - start));
        }
    }
    gone
}

fn span_of(extent: &Extent) -> DeviceSpan {
    DeviceSpan::new(extent.start, extent.blocks)
}
