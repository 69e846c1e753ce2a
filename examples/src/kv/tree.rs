//! The B+tree's changes: put, delete and the time at which an entry ends, in a draft.
//!
//! Guarantees an ordered tree of height `meta.height` in which all leaves have the same depth, that a
//! value's overflow pages or its object live exactly as long as the value, and that `meta` counts the keys,
//! those that end, and those with an object. A key or value out of bounds was refused before (`op`). An error leaves the draft half
//! changed: its owner drops it.
//!
//! Does not read for clients (`snapshot`, `cursor`) and does not commit. Called by `plan`.

use bytes::Bytes;

use crate::kv::balance;
use crate::kv::draft::Draft;
use crate::kv::error::Result;
use crate::kv::op::Entry;
use crate::kv::op::Expiry;
use crate::kv::op::Outcome;
use crate::kv::op::When;
use crate::kv::op::is_live;
use crate::kv::page::LargeRef;
use crate::kv::page::Node;
use crate::kv::page::RunRef;
use crate::kv::page::Stored;
use crate::kv::page::fits_inline;
use crate::kv::page::leaf_cell;
use crate::kv::path::Path;
use crate::kv::path::descend;
use crate::kv::runs;
use crate::kv::units::Millis;
use crate::kv::value::Value;

/// A value on its way into the tree.
#[derive(Debug, Clone, Copy)]
pub enum NewValue<'a> {
    /// Its bytes.
    Bytes(&'a [u8]),
    /// It is an object already; the caller lets the draft keep it.
    Large(LargeRef),
}

/// How a value is to be stored.
#[derive(Debug, Clone, Copy)]
pub struct How {
    /// Whether at all.
    pub when: When,
    /// Until when.
    pub expires: Expiry,
    /// What ended before counts as missing.
    pub now: Millis,
}

/// Stores a value, if the condition holds.
pub async fn put(
    draft: &mut Draft<'_>,
    key: &[u8],
    value: NewValue<'_>,
    how: How,
) -> Result<Outcome> {
    let path = descend(draft, key).await?;
    let node = draft.node(path.leaf)?;
    let found = node.search(key)?;
    let end = found.map_or(Ok(None), |index| node.expires(index))?;
    let there = found.is_ok() && is_live(end, how.now);
    let refused = match how.when {
        When::Always => false,
        When::Missing => there,
        When::Present => !there,
    };
    if refused {
        return Ok(Outcome::Refused);
    }
    if let Ok(index) = found
        && let Some(value) = elsewhere(node, index)?
    {
        free(draft, value).await?;
    }
    let expires = match how.expires {
        Expiry::Never => None,
        Expiry::Keep => end.filter(|_| there),
        Expiry::At(time) => Some(time),
    };
    count_expiring(draft, end, expires);
    let stored = match value {
        NewValue::Bytes(bytes) if fits_inline(key, bytes, expires) => Stored::Inline(bytes),
        NewValue::Bytes(bytes) => Stored::Overflow(runs::write_logged(draft, bytes).await?),
        NewValue::Large(large) => {
            draft.meta.larges += 1;
            Stored::Large(large)
        }
    };
    let cell = leaf_cell(key, stored, expires);
    replace(draft, path, found, &cell).await?;
    Ok(Outcome::Stored)
}

/// What `key` stands for after the changes so far, ended or not; without its value (empty) if that is
/// not wanted.
pub async fn get(draft: &mut Draft<'_>, key: &[u8], wants_value: bool) -> Result<Option<Entry>> {
    let path = descend(draft, key).await?;
    let node = draft.node(path.leaf)?;
    let Ok(index) = node.search(key)? else { return Ok(None) };
    let expires = node.expires(index)?;
    let value = match node.value(index)? {
        _ if !wants_value => Value::default(),
        Stored::Inline(bytes) => Value::Bytes(Bytes::copy_from_slice(bytes)),
        Stored::Overflow(run) => Value::Bytes(runs::read(draft, run).await?),
        Stored::Large(large) => Value::Large(draft.pin(large).await?),
    };
    Ok(Some(Entry { value, expires }))
}

/// The large value of a key that is there at `now`, if it has one.
pub async fn large(draft: &mut Draft<'_>, key: &[u8], now: Millis) -> Result<Option<LargeRef>> {
    let path = descend(draft, key).await?;
    let node = draft.node(path.leaf)?;
    let Ok(index) = node.search(key)? else { return Ok(None) };
    match node.value(index)? {
        Stored::Large(large) if is_live(node.expires(index)?, now) => Ok(Some(large)),
        _ => Ok(None),
    }
}

/// Says that the large value of a key that has one has `bytes` bytes now.
pub async fn resize(draft: &mut Draft<'_>, key: &[u8], bytes: usize) -> Result<()> {
    let path = descend(draft, key).await?;
    let node = draft.node(path.leaf)?;
    let found = node.search(key)?;
    let Ok(index) = found else { return Ok(()) };
    let Stored::Large(large) = node.value(index)? else { return Ok(()) };
    let large = LargeRef { bytes: bytes as u32, ..large };
    let cell = leaf_cell(key, Stored::Large(large), node.expires(index)?);
    replace(draft, path, found, &cell).await
}

/// Gives what `from` stands for to `to`, end included, in place of what `to` stands for. Its value stays
/// where it is, unless it no longer fits beside the key.
pub async fn rename(draft: &mut Draft<'_>, from: &[u8], to: &[u8]) -> Result<()> {
    let path = descend(draft, from).await?;
    let node = draft.node(path.leaf)?;
    let Ok(index) = node.search(from)? else { return Ok(()) };
    let (value, expires) = (node.value(index)?, node.expires(index)?);
    if let Stored::Inline(bytes) = value {
        let bytes = bytes.to_vec();
        delete(draft, from, 0).await?;
        let expires = expires.map_or(Expiry::Never, Expiry::At);
        let how = How { when: When::Always, expires, now: 0 };
        return put(draft, to, NewValue::Bytes(&bytes), how).await.map(|_| ());
    }
    let cell = leaf_cell(to, value, expires);
    cut(draft, path, index).await?;
    count_expiring(draft, expires, None);
    delete(draft, to, 0).await?;
    count_expiring(draft, None, expires);
    let path = descend(draft, to).await?;
    let found = draft.node(path.leaf)?.search(to)?;
    replace(draft, path, found, &cell).await
}

/// Lets an entry that is there end at another time. Its value stays where it is, unless it no longer
/// fits beside the time.
pub async fn expire(draft: &mut Draft<'_>, key: &[u8], expires: Option<Millis>) -> Result<()> {
    let path = descend(draft, key).await?;
    let node = draft.node(path.leaf)?;
    let found = node.search(key)?;
    let Ok(index) = found else { return Ok(()) };
    let end = node.expires(index)?;
    if let Stored::Inline(bytes) = node.value(index)?
        && !fits_inline(key, bytes, expires)
    {
        let value = bytes.to_vec();
        let expires = expires.map_or(Expiry::Never, Expiry::At);
        let how = How { when: When::Always, expires, now: 0 };
        return put(draft, key, NewValue::Bytes(&value), how).await.map(|_| ());
    }
    let cell = leaf_cell(key, node.value(index)?, expires);
    count_expiring(draft, end, expires);
    replace(draft, path, found, &cell).await
}

fn count_expiring(draft: &mut Draft<'_>, before: Option<Millis>, after: Option<Millis>) {
    let count = &mut draft.meta.expiring;
    *count = (*count + u64::from(after.is_some())).saturating_sub(before.is_some().into());
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

/// Takes a key away; says whether it was there at `now`.
pub async fn delete(draft: &mut Draft<'_>, key: &[u8], now: Millis) -> Result<Outcome> {
    remove(draft, key, |_| true).await.map(|end| match end {
        Some(end) => Outcome::Deleted(is_live(end, now)),
        None => Outcome::Deleted(false),
    })
}

/// Takes a key away if it has ended at `now`; says whether it did.
pub async fn sweep(draft: &mut Draft<'_>, key: &[u8], now: Millis) -> Result<Outcome> {
    let gone = remove(draft, key, |end| !is_live(end, now)).await?;
    Ok(Outcome::Deleted(gone.is_some()))
}

/// Takes a key away if it is there and `wanted`; gives its end.
async fn remove(
    draft: &mut Draft<'_>,
    key: &[u8],
    wanted: impl Fn(Option<Millis>) -> bool,
) -> Result<Option<Option<Millis>>> {
    let path = descend(draft, key).await?;
    let node = draft.node(path.leaf)?;
    let Ok(index) = node.search(key)? else { return Ok(None) };
    let end = node.expires(index)?;
    if !wanted(end) {
        return Ok(None);
    }
    if let Some(value) = elsewhere(node, index)? {
        free(draft, value).await?;
    }
    count_expiring(draft, end, None);
    cut(draft, path, index).await?;
    Ok(Some(end))
}

/// Takes a cell away, and nothing of what it refers to.
async fn cut(draft: &mut Draft<'_>, path: Path, index: usize) -> Result<()> {
    draft.node_mut(path.leaf, 64)?.remove(index)?;
    draft.meta.keys = draft.meta.keys.saturating_sub(1);
    balance::after_removal(draft, path).await
}

/// A value that is not in its cell.
enum Elsewhere {
    Run(RunRef),
    Large(LargeRef),
}

fn elsewhere(node: Node<'_>, index: usize) -> Result<Option<Elsewhere>> {
    Ok(match node.value(index)? {
        Stored::Inline(_) => None,
        Stored::Overflow(run) => Some(Elsewhere::Run(run)),
        Stored::Large(large) => Some(Elsewhere::Large(large)),
    })
}

async fn free(draft: &mut Draft<'_>, value: Elsewhere) -> Result<()> {
    match value {
        Elsewhere::Run(run) => runs::free(draft, run).await,
        Elsewhere::Large(large) => {
            draft.meta.larges = draft.meta.larges.saturating_sub(1);
            draft.bury(large);
            Ok(())
        }
    }
}
