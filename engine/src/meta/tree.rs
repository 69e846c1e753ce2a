//! A B+tree of byte keys and byte values over metadata blocks; the shape of all three trees.
//!
//! Guarantees: keys are in memcmp order; a walk visits strictly falling levels, never an empty
//! node, and ascending keys, so that no arrangement of sound-looking nodes makes it endless; nodes
//! that become empty are given back, sparse ones are joined with a neighbour when both fit in three
//! quarters of a node. Entries that arrive in ascending order fill nodes completely.
//!
//! After an error of [`insert`] or [`remove`] the transaction must be dropped: it may hold half of
//! a change. Callers copy the [`TreeRoot`] out of `root()` and put it back through `root_mut()`.
//!
//! Does not: know what keys mean, pick blocks, or hold anything between calls. Called by `extent`,
//! `object::records` and `namespace`.

use std::ops::Range;

use foliant_device::Buffer;

use crate::error::Error;
use crate::error::ErrorKind;
use crate::error::Result;
use crate::format::block::BODY;
use crate::format::block::BlockKind;
use crate::format::node::NODE_ROOM;
use crate::format::node::Node;
use crate::format::node::NodeMut;
use crate::format::node::Split;
use crate::format::root::TreeRoot;
use crate::limits::TREE_HEIGHT_MAX;
use crate::limits::TREE_KEY_BYTES_MAX;
use crate::limits::TREE_VALUE_BYTES_MAX;
use crate::meta::view::BlockRead;
use crate::meta::view::BlockWrite;
use crate::meta::view::NodeSupply;
use crate::units::BlockNo;

/// Key and value of one entry.
pub type Entry = (Vec<u8>, Vec<u8>);

/// A node that uses fewer bytes than this looks for a neighbour to join.
const SPARSE: usize = NODE_ROOM / 3;

/// The value of `key`.
///
/// Errors: `Corrupt`, `Device`, `OutOfMemory`. Dropping the future has no effect.
pub async fn get<R: BlockRead>(r: &R, root: TreeRoot, key: &[u8]) -> Result<Option<Vec<u8>>> {
    let Some((_, image)) = find_leaf(r, root, key).await? else {
        return Ok(None);
    };
    let leaf = image.node()?;
    match leaf.search(key)? {
        Ok(i) => Ok(Some(leaf.entry(i)?.1.to_vec())),
        Err(_) => Ok(None),
    }
}

/// The entry with the lowest key at or above `key`.
///
/// Errors: as [`get`].
pub async fn at_or_after<R: BlockRead>(r: &R, root: TreeRoot, key: &[u8]) -> Result<Option<Entry>> {
    Ok(scan(r, root, key, 1).await?.pop())
}

/// The entry with the highest key at or below `key`.
///
/// Errors: as [`get`].
pub async fn at_or_before<R: BlockRead>(
    r: &R,
    root: TreeRoot,
    key: &[u8],
) -> Result<Option<Entry>> {
    let Some((mut path, mut image)) = find_leaf(r, root, key).await? else {
        return Ok(None);
    };
    let behind = match image.node()?.search(key)? {
        Ok(i) => i + 1,
        Err(i) => i,
    };
    if behind > 0 {
        return image.entry(behind - 1).map(Some);
    }
    while path.last().is_some_and(|step| step.index == 0) {
        path.pop();
    }
    let Some(step) = path.pop() else {
        return Ok(None);
    };
    image = Image::read(r, step.block, step.level).await?;
    let mut index = step.index - 1;
    while image.node()?.level() > 0 {
        image = image.child(r, index).await?;
        index = image.node()?.count() - 1;
    }
    let last = image.entry(index)?;
    match last.0.as_slice() < key {
        true => Ok(Some(last)),
        false => Err(disorder(image.at)),
    }
}

/// Up to `limit` entries with keys at or above `from`, ascending.
///
/// Errors: as [`get`].
pub async fn scan<R: BlockRead>(
    r: &R,
    root: TreeRoot,
    from: &[u8],
    limit: usize,
) -> Result<Vec<Entry>> {
    scan_range(r, root, from, None, limit).await
}

/// The same, but only of keys below `to`.
///
/// Errors: as [`get`].
pub async fn scan_range<R: BlockRead>(
    r: &R,
    root: TreeRoot,
    from: &[u8],
    to: Option<&[u8]>,
    limit: usize,
) -> Result<Vec<Entry>> {
    let mut found: Vec<Entry> = Vec::new();
    let Some((mut path, mut image)) = find_leaf(r, root, from).await? else {
        return Ok(found);
    };
    let mut index = match image.node()?.search(from)? {
        Ok(i) | Err(i) => i,
    };
    while found.len() < limit {
        if index < image.node()?.count() {
            let entry = image.entry(index)?;
            let low = found.last().map(|(key, _)| key.as_slice());
            if entry.0.as_slice() < from || low.is_some_and(|low| low >= entry.0.as_slice()) {
                return Err(disorder(image.at));
            }
            if to.is_some_and(|to| entry.0.as_slice() >= to) {
                break;
            }
            found.push(entry);
            index += 1;
            continue;
        }
        match next_leaf(r, &mut path).await? {
            Some(next) => (image, index) = (next, 0),
            None => break,
        }
    }
    Ok(found)
}

/// Puts an entry; returns the value that the key had before.
///
/// Errors: `InvalidInput` for a key that is empty or too long or a value that is too long; `NoSpace` from the
/// supply; `TooLarge` beyond the largest height; `Corrupt`, `Device`, `OutOfMemory`.
pub async fn insert<W: BlockWrite, S: NodeSupply>(
    w: &mut W,
    supply: &mut S,
    root: &mut TreeRoot,
    key: &[u8],
    value: &[u8],
) -> Result<Option<Vec<u8>>> {
    check_sizes(key, value)?;
    let Some((path, image)) = find_leaf(w, *root, key).await? else {
        return start(w, supply, root, key, value).await.map(|()| None);
    };
    let place = image.node()?.search(key)?;
    let at = image.at;
    let old = match place {
        Ok(i) => Some(image.entry(i)?.1),
        Err(_) => None,
    };
    // A held image would force the transaction to copy the block.
    drop(image);
    if old.as_deref() == Some(value) {
        return Ok(old);
    }
    let mut leaf = NodeMut::open(at, w.modify(at, BlockKind::Node).await?)?;
    let split = put(&mut leaf, place, key, value);
    if let Some(split) = split {
        grow(w, supply, root, path, split).await?;
    }
    Ok(old)
}

/// Takes an entry out; returns its value.
///
/// Errors: `Corrupt`, `Device`, `OutOfMemory`.
pub async fn remove<W: BlockWrite, S: NodeSupply>(
    w: &mut W,
    supply: &mut S,
    root: &mut TreeRoot,
    key: &[u8],
) -> Result<Option<Vec<u8>>> {
    let Some((path, image)) = find_leaf(w, *root, key).await? else {
        return Ok(None);
    };
    let Ok(i) = image.node()?.search(key)? else {
        return Ok(None);
    };
    let old = image.entry(i)?.1;
    let at = image.at;
    drop(image);
    let mut leaf = NodeMut::open(at, w.modify(at, BlockKind::Node).await?)?;
    leaf.remove(i);
    let fill = Fill::of(&leaf)?;
    tidy(w, supply, root, path, at, fill).await?;
    Ok(Some(old))
}

/// Shows the leaf where `key` belongs to `see`; `None` when the tree is empty. For many keys at the
/// price of one way down.
///
/// Errors: as [`get`], and those of `see`.
pub async fn peek<R: BlockRead, T>(
    r: &R,
    root: TreeRoot,
    key: &[u8],
    see: impl FnOnce(&Node<'_>) -> Result<T>,
) -> Result<Option<T>> {
    match find_leaf(r, root, key).await? {
        Some((_, image)) => see(&image.node()?).map(Some),
        None => Ok(None),
    }
}

/// Gives entries of the leaf where `key` belongs other values, each as long as the one before: `judge` is
/// shown the leaf (not if the tree is empty) and names them by their places.
///
/// Errors: as [`get`], and those of `judge`.
///
/// # Panics
/// If a value has another length than the one before.
pub async fn amend<W: BlockWrite, const N: usize>(
    w: &mut W,
    root: TreeRoot,
    key: &[u8],
    judge: impl FnOnce(&Node<'_>) -> Result<Vec<(usize, [u8; N])>>,
) -> Result<()> {
    let Some((_, image)) = find_leaf(w, root, key).await? else {
        return Ok(());
    };
    let at = image.at;
    let leaf = image.node()?;
    let mut patches: Vec<(Range<usize>, [u8; N])> = Vec::new();
    for (i, value) in judge(&leaf)? {
        let old = leaf.entry(i)?.1;
        assert_eq!(old.len(), N, "a value changes its length");
        let start = old.as_ptr() as usize - image.buffer.as_ptr() as usize - BODY;
        patches.push((start..start + N, value));
    }
    // A held image would force the transaction to copy the block.
    drop(image);
    if patches.is_empty() {
        return Ok(());
    }
    // Nothing moves in the leaf, so it is not checked whole, as one is that gains or loses entries.
    let body = w.modify(at, BlockKind::Node).await?;
    for (range, value) in patches {
        body[range].copy_from_slice(&value);
    }
    Ok(())
}

/// One interior node on the way down, and which of its entries was followed.
#[derive(Debug, Clone, Copy)]
struct Step {
    block: BlockNo,
    level: u8,
    index: usize,
}

/// A node image that stays while it is looked at.
struct Image {
    at: BlockNo,
    buffer: Buffer,
}

impl Image {
    /// The node in `at`, which must be of this level.
    async fn read<R: BlockRead>(r: &R, at: BlockNo, level: u8) -> Result<Self> {
        let buffer = r.block(at, BlockKind::Node).await?;
        let image = Self { at, buffer };
        match image.node()?.level() == level {
            true => Ok(image),
            false => Err(Error::corrupt("tree node", at, "it is not of the level expected there")),
        }
    }

    fn node(&self) -> Result<Node<'_>> {
        Node::open(self.at, &self.buffer[BODY..])
    }

    fn entry(&self, i: usize) -> Result<Entry> {
        let (key, value) = self.node()?.entry(i)?;
        Ok((key.to_vec(), value.to_vec()))
    }

    async fn child<R: BlockRead>(&self, r: &R, i: usize) -> Result<Self> {
        let node = self.node()?;
        Self::read(r, node.child(i)?, node.level() - 1).await
    }
}

/// The leaf where `key` belongs, and the way to it; `None` when the tree is empty.
async fn find_leaf<R: BlockRead>(
    r: &R,
    root: TreeRoot,
    key: &[u8],
) -> Result<Option<(Vec<Step>, Image)>> {
    if (root.height == 0) != (root.block.0 == 0) || root.height > TREE_HEIGHT_MAX {
        return Err(Error::corrupt("tree root", root.block, "its height is impossible"));
    }
    if root.height == 0 {
        return Ok(None);
    }
    let mut path = Vec::with_capacity(usize::from(root.height));
    let mut image = Image::read(r, root.block, root.height - 1).await?;
    loop {
        let node = image.node()?;
        if node.level() == 0 {
            return Ok(Some((path, image)));
        }
        let index = node.child_index(key)?;
        path.push(Step { block: image.at, level: node.level(), index });
        image = image.child(r, index).await?;
    }
}

/// The leaf behind the one that `path` leads to; `path` leads to it afterwards.
async fn next_leaf<R: BlockRead>(r: &R, path: &mut Vec<Step>) -> Result<Option<Image>> {
    while let Some(mut step) = path.pop() {
        let mut image = Image::read(r, step.block, step.level).await?;
        step.index += 1;
        if step.index >= image.node()?.count() {
            continue;
        }
        path.push(step);
        image = image.child(r, step.index).await?;
        while image.node()?.level() > 0 {
            path.push(Step { block: image.at, level: image.node()?.level(), index: 0 });
            image = image.child(r, 0).await?;
        }
        return Ok(Some(image));
    }
    Ok(None)
}

/// Puts an entry into its leaf, which may have to be split.
fn put(
    leaf: &mut NodeMut<'_>,
    place: std::result::Result<usize, usize>,
    key: &[u8],
    value: &[u8],
) -> Option<Split> {
    let i = match place {
        Ok(i) if leaf.replace(i, value) => return None,
        Ok(i) => {
            leaf.remove(i);
            i
        }
        Err(i) => i,
    };
    if leaf.insert(i, key, value) {
        return None;
    }
    Some(leaf.insert_and_split(i, key, value, place.is_err()))
}

/// Makes the first leaf.
async fn start<W: BlockWrite, S: NodeSupply>(
    w: &mut W,
    supply: &mut S,
    root: &mut TreeRoot,
    key: &[u8],
    value: &[u8],
) -> Result<()> {
    let block = supply.take(w).await?;
    let body = w.create(block, BlockKind::Node).await?;
    let mut leaf = NodeMut::format(block, body, 0);
    assert!(leaf.insert(0, key, value), "an empty node takes any entry");
    *root = TreeRoot { block, height: 1 };
    Ok(())
}

/// Hangs the right half of a split node into its parent, as far up as that splits too.
async fn grow<W: BlockWrite, S: NodeSupply>(
    w: &mut W,
    supply: &mut S,
    root: &mut TreeRoot,
    mut path: Vec<Step>,
    mut split: Split,
) -> Result<()> {
    loop {
        let right = supply.take(w).await?;
        let body = w.create(right, BlockKind::Node).await?;
        body.copy_from_slice(&split.right);
        let child = right.0.to_le_bytes();
        let Some(step) = path.pop() else {
            return raise(w, supply, root, &split.separator, right).await;
        };
        let body = w.modify(step.block, BlockKind::Node).await?;
        let mut parent = NodeMut::open(step.block, body)?;
        let place = step.index + 1;
        if parent.insert(place, &split.separator, &child) {
            return Ok(());
        }
        split = parent.insert_and_split(place, &split.separator, &child, split.append);
    }
}

/// Makes a new root over the old one and its new right neighbour.
async fn raise<W: BlockWrite, S: NodeSupply>(
    w: &mut W,
    supply: &mut S,
    root: &mut TreeRoot,
    separator: &[u8],
    right: BlockNo,
) -> Result<()> {
    if root.height >= TREE_HEIGHT_MAX {
        return Err(Error::new(ErrorKind::TooLarge, "a metadata tree is too high"));
    }
    let block = supply.take(w).await?;
    let body = w.create(block, BlockKind::Node).await?;
    let mut top = NodeMut::format(block, body, root.height);
    let left = root.block.0.to_le_bytes();
    let both = top.insert(0, &[], &left) && top.insert(1, separator, &right.0.to_le_bytes());
    assert!(both, "an empty node takes two children");
    *root = TreeRoot { block, height: root.height + 1 };
    Ok(())
}

/// What a removal left of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fill {
    Empty,
    Sparse,
    Fine,
}

impl Fill {
    fn of(node: &NodeMut<'_>) -> Result<Self> {
        let node = node.view();
        Ok(match node.count() {
            0 => Self::Empty,
            _ if node.used()? < SPARSE => Self::Sparse,
            _ => Self::Fine,
        })
    }
}

/// Gives back or joins the node `at`, whose parents are `path`, and what that empties above it.
async fn tidy<W: BlockWrite, S: NodeSupply>(
    w: &mut W,
    supply: &mut S,
    root: &mut TreeRoot,
    mut path: Vec<Step>,
    mut at: BlockNo,
    mut fill: Fill,
) -> Result<()> {
    if fill == Fill::Fine {
        return Ok(());
    }
    while fill != Fill::Fine {
        let parent = path.pop();
        if fill == Fill::Empty {
            w.forget(at);
            supply.give_back(at);
        }
        fill = match (parent, fill) {
            (None, Fill::Empty) => {
                *root = TreeRoot::default();
                return Ok(());
            }
            (None, _) => break,
            (Some(step), Fill::Empty) => drop_child(w, step, step.index).await?,
            (Some(step), _) => join(w, supply, step).await?,
        };
        at = parent.map_or(at, |step| step.block);
    }
    lower(w, supply, root).await
}

/// Takes a child out of its parent; returns how full the parent is then.
async fn drop_child<W: BlockWrite>(w: &mut W, step: Step, index: usize) -> Result<Fill> {
    let body = w.modify(step.block, BlockKind::Node).await?;
    let mut parent = NodeMut::open(step.block, body)?;
    parent.remove_child(index);
    Fill::of(&parent)
}

/// Joins the child at `step` with a neighbour if they fit; returns how full the parent is then.
async fn join<W: BlockWrite, S: NodeSupply>(w: &mut W, supply: &mut S, step: Step) -> Result<Fill> {
    let parent = Image::read(w, step.block, step.level).await?;
    let count = parent.node()?.count();
    let rights = [step.index + 1, step.index];
    for right in rights.into_iter().filter(|&i| i > 0 && i < count) {
        let left_image = parent.child(w, right - 1).await?;
        let right_image = parent.child(w, right).await?;
        if left_image.at == right_image.at {
            return Err(Error::corrupt("tree node", parent.at, "two children are the same"));
        }
        let separator = parent.node()?.entry(right)?.0.to_vec();
        if !NodeMut::can_absorb(&left_image.node()?, &right_image.node()?, &separator)? {
            continue;
        }
        let left = left_image.at;
        drop((left_image, parent));
        let body = w.modify(left, BlockKind::Node).await?;
        NodeMut::open(left, body)?.absorb(&right_image.node()?, &separator)?;
        w.forget(right_image.at);
        supply.give_back(right_image.at);
        return drop_child(w, step, right).await;
    }
    Ok(Fill::Fine)
}

/// Takes roots away that have a single child.
async fn lower<W: BlockWrite, S: NodeSupply>(
    w: &mut W,
    supply: &mut S,
    root: &mut TreeRoot,
) -> Result<()> {
    while root.height > 1 {
        let image = Image::read(w, root.block, root.height - 1).await?;
        let node = image.node()?;
        if node.count() > 1 {
            return Ok(());
        }
        let child = node.child(0)?;
        drop(image);
        w.forget(root.block);
        supply.give_back(root.block);
        *root = TreeRoot { block: child, height: root.height - 1 };
    }
    Ok(())
}

fn check_sizes(key: &[u8], value: &[u8]) -> Result<()> {
    if key.is_empty() || key.len() > TREE_KEY_BYTES_MAX || value.len() > TREE_VALUE_BYTES_MAX {
        return Err(Error::invalid(format!(
            "no tree takes a key of {} and a value of {} bytes",
            key.len(),
            value.len()
        )));
    }
    Ok(())
}

fn disorder(at: BlockNo) -> Error {
    Error::corrupt("tree node", at, "its keys lie outside their neighbours' order")
}

#[cfg(test)]
mod tests;
