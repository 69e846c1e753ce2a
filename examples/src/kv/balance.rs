//! Splitting full nodes and merging empty ones, from a leaf up to the root.
//!
//! Guarantees that no node but the root stays empty as long as a sibling can take it in, that freed
//! pages go to the free list, and that both halves of a split have room. Appends in key order fill
//! their pages. Does not touch values. Called by `tree`.

use crate::kv::draft::Draft;
use crate::kv::error::Result;
use crate::kv::error::damaged;
use crate::kv::limits::HEIGHT_MAX;
use crate::kv::limits::PAGE_BYTES;
use crate::kv::node::NodeMut;
use crate::kv::node::cells_of;
use crate::kv::page::CELL_HEADER;
use crate::kv::page::HEADER;
use crate::kv::page::Kind;
use crate::kv::page::inner_cell;
use crate::kv::page::u16_at;
use crate::kv::page::u32_at;
use crate::kv::path::Path;
use crate::kv::space;
use crate::kv::units::PageNo;

/// A node that uses less than this looks for a sibling to join.
const USED_BYTES_MIN: usize = PAGE_BYTES / 4;
/// A joined node must leave some room, or the next insert would split it again.
const JOINED_BYTES_MAX: usize = PAGE_BYTES - HEADER - PAGE_BYTES / 8;

/// Puts a cell into the leaf of `path` at `index`, splitting upwards where there is no room.
pub async fn insert(draft: &mut Draft<'_>, path: Path, index: usize, cell: &[u8]) -> Result<()> {
    let Path { mut steps, leaf } = path;
    let (mut no, mut index, mut cell) = (leaf, index, cell.to_vec());
    while !draft.node_mut(no, cell.len() + 64)?.insert(index, &cell)? {
        let (separator, right) = split(draft, no, index, &cell).await?;
        cell = inner_cell(&separator, right);
        match steps.pop() {
            Some(step) => (no, index) = (step.no, step.position),
            None => return grow(draft, no, &cell).await,
        }
    }
    Ok(())
}

/// A new root over the old one and the new node that `cell` names.
async fn grow(draft: &mut Draft<'_>, old: PageNo, cell: &[u8]) -> Result<()> {
    if draft.meta.height == HEIGHT_MAX {
        return damaged(old, "the tree is higher than any tree can be");
    }
    let root = space::allocate(draft).await?;
    let page = draft.edit(root, PAGE_BYTES);
    NodeMut::format(root, page, Kind::Inner, old).append_all(&[cell])?;
    draft.meta.root = root;
    draft.meta.height += 1;
    Ok(())
}

/// Moves the upper part of a node to a new one, the new cell included. Gives back the key that
/// separates the two, and the new node.
async fn split(
    draft: &mut Draft<'_>,
    no: PageNo,
    index: usize,
    cell: &[u8],
) -> Result<(Vec<u8>, PageNo)> {
    let right = space::allocate(draft).await?;
    let node = draft.node(no)?;
    let (is_leaf, old_len) = (node.is_leaf(), node.len());
    let mut cells = cells_of(node)?;
    cells.insert(index, cell.to_vec());
    if cells.len() < 4 {
        return damaged(no, "it is full with less than three cells");
    }
    let middle = match (index == old_len, is_leaf) {
        // Keys that arrive in order would leave every page half full otherwise.
        (true, true) => old_len,
        (true, false) => old_len - 1,
        (false, _) => split_point(&cells),
    };
    let (key, word) = (key_of(&cells[middle]).to_vec(), u32_at(&cells[middle], 2));
    let (separator, link, kind, from) = match is_leaf {
        true => (shortest_between(key_of(&cells[middle - 1]), &key), 0, Kind::Leaf, middle),
        false => (key, word, Kind::Inner, middle + 1),
    };
    let page = draft.edit(right, PAGE_BYTES);
    NodeMut::format(right, page, kind, link).append_all(&cells[from..])?;
    let mut left = draft.node_mut(no, PAGE_BYTES / 2)?;
    if index < middle {
        left.cut(middle - 1)?;
        if !left.insert(index, cell)? {
            return damaged(no, "its cells overlap");
        }
    } else {
        left.cut(middle)?;
    }
    Ok((separator, right))
}

/// The first cell of the right half; at least one cell stays left of it, and one is at it or behind.
fn split_point(cells: &[Vec<u8>]) -> usize {
    assert!(cells.len() >= 3, "{} cells cannot be shared", cells.len());
    let total: usize = cells.iter().map(|cell| cell.len() + 2).sum();
    let mut left = 0;
    for (index, cell) in cells.iter().enumerate() {
        left += cell.len() + 2;
        if left * 2 >= total {
            return index.clamp(1, cells.len() - 2);
        }
    }
    unreachable!("all of it is at least half of it")
}

fn key_of(cell: &[u8]) -> &[u8] {
    &cell[CELL_HEADER..CELL_HEADER + u16_at(cell, 0) as usize]
}

/// The shortest key above `low` and not above `high`.
fn shortest_between(low: &[u8], high: &[u8]) -> Vec<u8> {
    let same = low.iter().zip(high).take_while(|(a, b)| a == b).count();
    high[..high.len().min(same + 1)].to_vec()
}

/// Joins nodes that became too empty with a sibling, from the leaf of `path` upwards.
pub async fn after_removal(draft: &mut Draft<'_>, path: Path) -> Result<()> {
    let Path { mut steps, leaf } = path;
    let mut no = leaf;
    while let Some(step) = steps.pop() {
        let node = draft.node(no)?;
        if node.used() >= USED_BYTES_MIN || !join(draft, step.no, step.position, no).await? {
            return Ok(());
        }
        no = step.no;
    }
    let root = draft.node(no)?;
    if !root.is_leaf() && root.is_empty() {
        draft.meta.root = root.child(0)?;
        draft.meta.height -= 1;
        space::free(draft, no).await?;
    }
    Ok(())
}

/// Joins the child at `position` of `parent` with a neighbour; false if none has room.
async fn join(
    draft: &mut Draft<'_>,
    parent: PageNo,
    position: usize,
    child: PageNo,
) -> Result<bool> {
    let len = draft.node(parent)?.len();
    assert!(position <= len, "child {position} of {len}");
    let neighbours = [position.checked_sub(1), (position < len).then_some(position)];
    for separator in neighbours.into_iter().flatten() {
        let node = draft.node(parent)?;
        let (left, right) = (node.child(separator)?, node.child(separator + 1)?);
        if left == right || (left != child && right != child) {
            return damaged(parent, "two links lead to one child");
        }
        draft.load(left).await?;
        draft.load(right).await?;
        if join_pair(draft, parent, separator, left, right).await? {
            return Ok(true);
        }
    }
    Ok(false)
}

async fn join_pair(
    draft: &mut Draft<'_>,
    parent: PageNo,
    separator: usize,
    left: PageNo,
    right: PageNo,
) -> Result<bool> {
    let (l, r) = (draft.node(left)?, draft.node(right)?);
    if l.is_leaf() != r.is_leaf() {
        return damaged(right, "its neighbour has another level");
    }
    let mut cells = cells_of(r)?;
    if !r.is_leaf() {
        let key = draft.node(parent)?.key(separator)?;
        cells.insert(0, inner_cell(key, r.child(0)?));
    }
    let moved: usize = cells.iter().map(|cell| cell.len() + 2).sum();
    let most = if l.is_empty() || r.is_empty() { PAGE_BYTES - HEADER } else { JOINED_BYTES_MAX };
    if l.used() + moved > most {
        return Ok(false);
    }
    draft.node_mut(left, moved)?.append_all(&cells)?;
    draft.node_mut(parent, 64)?.remove(separator)?;
    space::free(draft, right).await?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn separators_are_short_and_separate() {
        for (low, high, expected) in
            [("apple", "banana", "b"), ("app", "apple", "appl"), ("ab", "ac", "ac")]
        {
            let found = shortest_between(low.as_bytes(), high.as_bytes());
            assert_eq!(found, expected.as_bytes());
            assert!(low.as_bytes() < found.as_slice() && found.as_slice() <= high.as_bytes());
        }
    }
}
