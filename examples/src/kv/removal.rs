//! Removes large values that nobody wants any more.
//!
//! Guarantees one removal at a time, that what somebody reads is left until then, and an end when the
//! store closes. A removal that fails is left to the next opening of the store. Called by `store`.

use std::sync::Arc;

use foliant::Engine;
use foliant::ErrorKind;

use crate::kv::limits::GRAVE_NAMES;
use crate::kv::shelf::Grave;
use crate::kv::shelf::Shelf;
use crate::kv::units::LargeId;

/// Removes until the store closes.
pub async fn run(shelf: Arc<Shelf>) {
    while let Some(grave) = shelf.next_grave().await {
        match grave {
            Grave::One(id, name) => remove(&shelf, id, &name).await,
            Grave::Names { after, end } => {
                // The rest waits behind the others.
                if let Some(after) = step(&shelf, after, &end).await {
                    shelf.bury(Grave::Names { after, end });
                }
            }
        }
    }
}

/// Removes all of `names` now. Nobody may read them.
///
/// Errors: those of the engine.
pub async fn purge(engine: &Engine, names: Grave) -> foliant::Result<()> {
    let Grave::Names { mut after, end } = names else { return Ok(()) };
    loop {
        let found = engine.list(&after, GRAVE_NAMES).await?;
        for name in found.iter().filter(|name| **name < end) {
            forget(engine, name).await?;
        }
        match found.last() {
            Some(last) if *last < end => after.clone_from(last),
            _ => return Ok(()),
        }
    }
}

/// Removes some of the names; gives where to go on.
async fn step(shelf: &Shelf, after: Vec<u8>, end: &[u8]) -> Option<Vec<u8>> {
    let found = match shelf.engine().list(&after, GRAVE_NAMES).await {
        Ok(found) => found,
        Err(cause) => {
            tracing::warn!("large values that nobody wants are not listed: {cause}");
            return None;
        }
    };
    for name in found.iter().filter(|name| &name[..] < end) {
        match number(name) {
            Some(id) => remove(shelf, id, name).await,
            None => tracing::warn!("{} is no large value", name.escape_ascii()),
        }
    }
    found.last().filter(|last| &last[..] < end).cloned()
}

async fn remove(shelf: &Shelf, id: LargeId, name: &[u8]) {
    if !shelf.may_remove(id, name) {
        return;
    }
    if let Err(cause) = forget(shelf.engine(), name).await {
        tracing::warn!(id, "a large value that nobody wants is not removed: {cause}");
    }
}

/// Not waited for until it is durable: what comes back after a crash is removed again.
async fn forget(engine: &Engine, name: &[u8]) -> foliant::Result<()> {
    let mut transaction = engine.transaction();
    transaction.remove(name)?;
    match transaction.commit().await {
        Err(cause) if cause.kind() != ErrorKind::NotFound => Err(cause),
        _ => Ok(()),
    }
}

/// The number at the end of a name.
fn number(name: &[u8]) -> Option<LargeId> {
    let digits = name.rsplit(|&byte| byte == b'/').next()?;
    LargeId::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_end_with_their_number() {
        assert_eq!(number(b"kv.val/0000000000000001/00000000000000ff"), Some(255));
        assert_eq!(number(b"kv.old/x"), None);
    }
}
