//! Many scattered extents of one object at once, for the price of one way down per leaf.
//!
//! Random overwrites give extents other places and leave their number and bounds as they are: an entry
//! keeps its key and gets another value. Hundreds of them share a leaf, so the leaf is found, checked
//! and copied once. Whatever is not that plain (other bounds, a neighbour that would be joined, the
//! first or last entry of a leaf) goes the long way of [`replace`].
//!
//! Guarantees the same result as [`replace`] of one extent after the other. Does not free blocks. Called
//! by `object`, for whole batches of writeback.

use crate::error::Result;
use crate::extent::Extent;
use crate::extent::Lookup;
use crate::extent::lookup::lookup;
use crate::extent::replace::continues;
use crate::extent::replace::replace;
use crate::format::extent_record;
use crate::format::extent_record::VALUE_BYTES;
use crate::format::node::Node;
use crate::meta::tree;
use crate::meta::view::BlockRead;
use crate::meta::view::BlockWrite;
use crate::meta::view::NodeSupply;
use crate::units::DeviceSpan;
use crate::units::FileBlocks;
use crate::units::ObjectId;

/// Makes each of `new` (ascending, disjoint) all that lies in its range of `object`; returns the device
/// blocks that are not used there any more.
///
/// Errors and panics: as [`replace`].
pub async fn remap<W: BlockWrite, S: NodeSupply>(
    w: &mut W,
    supply: &mut S,
    object: ObjectId,
    new: &[Extent],
) -> Result<Vec<DeviceSpan>> {
    let mut gone = Vec::with_capacity(new.len());
    let mut others: Vec<Extent> = Vec::new();
    let mut done = 0;
    while done < new.len() {
        let rest = &new[done..];
        let key = extent_record::key(object, rest[0].at);
        let mut seen = 0;
        let root = w.root().extents;
        let judge = |leaf: &Node<'_>| {
            let mut values = Vec::new();
            let last = leaf.entry(leaf.count() - 1)?.0;
            for extent in rest {
                if seen > 0 && *last < extent_record::key(object, extent.at)[..] {
                    break;
                }
                match exchange(leaf, object, extent, &values)? {
                    Some((place, old)) => {
                        values.push((place, extent_record::value(extent)));
                        gone.push(old);
                    }
                    None => others.push(*extent),
                }
                seen += 1;
            }
            Ok(values)
        };
        tree::amend(w, root, &key, judge).await?;
        if seen == 0 {
            // The tree is empty.
            others.push(rest[0]);
            seen = 1;
        }
        done += seen;
    }
    for extent in others {
        let range = FileBlocks::new(extent.at, extent.end());
        gone.extend(replace(w, supply, object, range, &[extent]).await?);
    }
    Ok(gone)
}

/// The place of the entry that only needs another value to become `extent`, and what it loses; `None` if there is
/// none. `changed` are the values that entries of this leaf are to get.
fn exchange(
    leaf: &Node<'_>,
    object: ObjectId,
    extent: &Extent,
    changed: &[(usize, [u8; VALUE_BYTES])],
) -> Result<Option<(usize, DeviceSpan)>> {
    let Ok(place) = leaf.search(&extent_record::key(object, extent.at))? else {
        return Ok(None);
    };
    if place == 0 || place + 1 == leaf.count() {
        return Ok(None);
    }
    let own = |i: usize| -> Result<Option<Extent>> {
        let (key, mut value) = leaf.entry(i)?;
        if let Some((_, newer)) = changed.last().filter(|(other, _)| *other == i) {
            value = newer;
        }
        let (owner, found) = extent_record::decode(key, value)?;
        Ok((owner == object).then_some(found))
    };
    let Some(old) = own(place)? else { return Ok(None) };
    let apart =
        old.start.plus(old.blocks) <= extent.start || extent.start.plus(extent.blocks) <= old.start;
    let before = own(place - 1)?.is_none_or(|e| e.end() <= extent.at && !continues(&e, extent));
    let after = own(place + 1)?.is_none_or(|e| extent.end() <= e.at && !continues(extent, &e));
    let plain = old.blocks == extent.blocks && !old.unwritten && apart && before && after;
    Ok(plain.then_some((place, DeviceSpan::new(old.start, old.blocks))))
}

/// The parts of `runs` (ascending, disjoint) that lie on unwritten extents, each as an extent, ascending.
///
/// Errors: those of a look-up.
pub async fn unwritten_in<R: BlockRead>(
    r: &R,
    object: ObjectId,
    runs: &[FileBlocks],
) -> Result<Vec<Extent>> {
    let mut found = Vec::new();
    let mut done = 0;
    while done < runs.len() {
        let key = extent_record::key(object, runs[done].start);
        let plain = tree::peek(r, r.root().extents, &key, |leaf| {
            let mut plain = 0;
            for run in &runs[done..] {
                if !is_written(leaf, object, *run)? {
                    break;
                }
                plain += 1;
            }
            Ok(plain)
        });
        let plain = plain.await?.unwrap_or(0);
        done += plain;
        // If it was not the end of the leaf, the first of the next look goes the long way.
        if plain == 0 {
            look_through(r, object, runs[done], &mut found).await?;
            done += 1;
        }
    }
    Ok(found)
}

/// Whether one written extent of this leaf holds all of `run`.
fn is_written(leaf: &Node<'_>, object: ObjectId, run: FileBlocks) -> Result<bool> {
    let place = match leaf.search(&extent_record::key(object, run.start))? {
        Ok(place) => place,
        Err(0) => return Ok(false),
        Err(place) => place - 1,
    };
    let (key, value) = leaf.entry(place)?;
    let (owner, extent) = extent_record::decode(key, value)?;
    Ok(owner == object && !extent.unwritten && extent.at <= run.start && run.end <= extent.end())
}

async fn look_through<R: BlockRead>(
    r: &R,
    object: ObjectId,
    run: FileBlocks,
    found: &mut Vec<Extent>,
) -> Result<()> {
    let mut at = run.start;
    while at < run.end {
        at = match lookup(r, object, at).await? {
            Lookup::Hole { until } => until,
            Lookup::Extent(e) => {
                let end = run.end.min(e.end());
                if e.unwritten {
                    found.push(Extent { blocks: end - at, ..e });
                }
                end
            }
        };
    }
    Ok(())
}
