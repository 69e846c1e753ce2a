//! The B+tree's changes: put and delete in a draft.
//!
//! Guarantees an ordered tree of height `meta.height` in which all leaves have the same depth, and
//! that a value's overflow pages live exactly as long as the value. A key or value out of bounds was
//! refused before (`op`). An error leaves the draft half changed: its owner drops it.
//!
//! Does not read for clients (`snapshot`, `cursor`) and does not commit. Called by `writer`.

use crate::kv::balance;
use crate::kv::draft::Draft;
use crate::kv::error::Result;
use crate::kv::op::Outcome;
use crate::kv::op::When;
use crate::kv::page::Node;
use crate::kv::page::RunRef;
use crate::kv::page::Stored;
use crate::kv::page::fits_inline;
use crate::kv::page::leaf_cell;
use crate::kv::path::Path;
use crate::kv::path::descend;
use crate::kv::runs;

/// A value on its way into the tree.
#[derive(Debug, Clone, Copy)]
pub enum NewValue<'a> {
    /// Its bytes.
    Bytes(&'a [u8]),
    /// Its bytes are in place already, unreachable so far.
    Placed(RunRef),
}

/// Stores a value, if the condition holds.
pub async fn put(
    draft: &mut Draft<'_>,
    key: &[u8],
    value: NewValue<'_>,
    when: When,
) -> Result<Outcome> {
    let path = descend(draft, key).await?;
    let node = draft.node(path.leaf)?;
    let found = node.search(key)?;
    let refused = match when {
        When::Always => false,
        When::Missing => found.is_ok(),
        When::Present => found.is_err(),
    };
    if refused {
        if let NewValue::Placed(run) = value {
            runs::free(draft, run).await?;
        }
        return Ok(Outcome::Refused);
    }
    let old = match found {
        Ok(index) => overflow_of(node, index)?,
        Err(_) => None,
    };
    if let Some(old) = old {
        runs::free(draft, old).await?;
    }
    let cell = match value {
        NewValue::Bytes(bytes) if fits_inline(key, bytes) => leaf_cell(key, Stored::Inline(bytes)),
        NewValue::Bytes(bytes) => {
            leaf_cell(key, Stored::Overflow(runs::write_logged(draft, bytes).await?))
        }
        NewValue::Placed(run) => leaf_cell(key, Stored::Overflow(run)),
    };
    replace(draft, path, found, &cell).await?;
    Ok(Outcome::Stored)
}

async fn replace(
    draft: &mut Draft<'_>,
    path: Path,
    found: std::result::Result<usize, usize>,
    cell: &[u8],
) -> Result<()> {
    let index = match found {
        Ok(index) => {
            let mut leaf = draft.node_mut(path.leaf, cell.len() + 8)?;
            if leaf.overwrite(index, cell)? {
                return Ok(());
            }
            leaf.remove(index)?;
            index
        }
        Err(index) => {
            draft.meta.keys += 1;
            index
        }
    };
    balance::insert(draft, path, index, cell).await
}

/// Takes a key away.
pub async fn delete(draft: &mut Draft<'_>, key: &[u8]) -> Result<Outcome> {
    let path = descend(draft, key).await?;
    let node = draft.node(path.leaf)?;
    let Ok(index) = node.search(key)? else { return Ok(Outcome::Deleted(false)) };
    if let Some(old) = overflow_of(node, index)? {
        runs::free(draft, old).await?;
    }
    draft.node_mut(path.leaf, 64)?.remove(index)?;
    draft.meta.keys = draft.meta.keys.saturating_sub(1);
    balance::after_removal(draft, path).await?;
    Ok(Outcome::Deleted(true))
}

fn overflow_of(node: Node<'_>, index: usize) -> Result<Option<RunRef>> {
    Ok(match node.value(index)? {
        Stored::Inline(_) => None,
        Stored::Overflow(run) => Some(run),
    })
}
