//! Names and the objects they name, in memcmp order.
//!
//! Guarantees that a name is taken once. Bytes are bytes: no encoding, no case, no folders. Does
//! not know whether the object exists. Called by `volume`, within a view or a transaction.

use crate::error::Error;
use crate::error::ErrorKind;
use crate::error::Result;
use crate::limits::NAME_BYTES_MAX;
use crate::meta::tree;
use crate::meta::view::BlockRead;
use crate::meta::view::BlockWrite;
use crate::meta::view::NodeSupply;
use crate::units::ObjectId;

/// Refuses names that cannot be.
///
/// Errors: `InvalidInput` for an empty name and one over [`NAME_BYTES_MAX`].
pub fn check(name: &[u8]) -> Result<()> {
    match name.len() {
        1..=NAME_BYTES_MAX => Ok(()),
        len => Err(Error::invalid(format!("a name has 1 to {NAME_BYTES_MAX} bytes, not {len}"))),
    }
}

/// The object that `name` names.
///
/// Errors: `InvalidInput`, `Corrupt`, `Device`, `OutOfMemory`. Dropping the future has no effect.
pub async fn get<R: BlockRead>(r: &R, name: &[u8]) -> Result<Option<ObjectId>> {
    check(name)?;
    match tree::get(r, r.root().names, name).await? {
        Some(value) => decode(name, &value).map(Some),
        None => Ok(None),
    }
}

/// Gives `object` the name.
///
/// Errors: `AlreadyExists` (nothing has changed), `NoSpace` from the supply, and as [`get`]; after these, or
/// when the future is dropped, the transaction must be dropped.
pub async fn insert<W: BlockWrite, S: NodeSupply>(
    w: &mut W,
    supply: &mut S,
    name: &[u8],
    object: ObjectId,
) -> Result<()> {
    if get(w, name).await?.is_some() {
        let name = name.escape_ascii();
        let why = format!("the name \"{name}\" is taken");
        return Err(Error::new(ErrorKind::AlreadyExists, why));
    }
    let mut root = w.root().names;
    tree::insert(w, supply, &mut root, name, &object.0.to_le_bytes()).await?;
    w.root_mut().names = root;
    Ok(())
}

/// Takes the name away; returns the object that had it.
///
/// Errors: as [`get`]; then, or when the future is dropped, the transaction must be dropped.
pub async fn remove<W: BlockWrite, S: NodeSupply>(
    w: &mut W,
    supply: &mut S,
    name: &[u8],
) -> Result<Option<ObjectId>> {
    check(name)?;
    let mut root = w.root().names;
    let Some(value) = tree::remove(w, supply, &mut root, name).await? else {
        return Ok(None);
    };
    w.root_mut().names = root;
    decode(name, &value).map(Some)
}

/// Up to `limit` names above `after` (all, from the lowest, without it), ascending.
///
/// Errors: as [`get`]; `after` may be any bytes.
pub async fn list<R: BlockRead>(
    r: &R,
    after: Option<&[u8]>,
    limit: usize,
) -> Result<Vec<(Vec<u8>, ObjectId)>> {
    let mut from = after.unwrap_or_default().to_vec();
    if after.is_some() {
        // The lowest bytes above `after`.
        from.push(0);
    }
    let found = tree::scan(r, r.root().names, &from, limit).await?;
    // Markers of removals lie behind all names, under keys that are too long for one.
    found
        .into_iter()
        .take_while(|(name, _)| !name.starts_with(&[0xFF; NAME_BYTES_MAX + 1]))
        .map(|(name, value)| decode(&name, &value).map(|object| (name, object)))
        .collect()
}

fn decode(name: &[u8], value: &[u8]) -> Result<ObjectId> {
    match <[u8; 8]>::try_from(value) {
        Ok(id) if name.len() <= NAME_BYTES_MAX => Ok(ObjectId(u64::from_le_bytes(id))),
        _ => Err(Error::new(
            ErrorKind::Corrupt,
            format!("the entry of the name \"{}\" is damaged", name.escape_ascii()),
        )),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::format::root::Root;
    use crate::format::root::TreeRoot;
    use crate::meta::view_model::MapView;
    use crate::meta::view_model::Random;
    use crate::meta::view_model::Stock;
    use crate::meta::view_model::now;

    fn random_name(random: &mut Random) -> Vec<u8> {
        let len = 1 + random.below(NAME_BYTES_MAX as u64);
        let common = random.below(len) as usize;
        let mut name = vec![b'a'; len as usize];
        for byte in &mut name[common..] {
            *byte = random.below(3) as u8;
        }
        name
    }

    #[test]
    fn behaves_like_a_sorted_map_that_is_listed_by_pages() {
        let (mut view, mut stock) = (MapView::new(Root::default()), Stock::new());
        let mut random = Random(1);
        let mut model = BTreeMap::new();
        for i in 0..4_000u64 {
            let mut name = random_name(&mut random);
            if random.below(3) == 0 {
                let known = model.range(name.clone()..).next();
                name = known.map_or(name, |(known, _): (&Vec<u8>, _)| known.clone());
                let removed = now(remove(&mut view, &mut stock, &name)).unwrap();
                assert_eq!(removed, model.remove(&name));
            } else {
                let result = now(insert(&mut view, &mut stock, &name, ObjectId(i)));
                assert_eq!(result.is_ok(), !model.contains_key(&name));
                model.entry(name.clone()).or_insert(ObjectId(i));
            }
            assert_eq!(now(get(&view, &name)).unwrap(), model.get(&name).copied());
        }
        assert!(view.root.names.height > 2);
        let mut pages: Vec<(Vec<u8>, ObjectId)> = Vec::new();
        loop {
            let last = pages.last().map(|(name, _)| name.as_slice());
            let page = now(list(&view, last, 37)).unwrap();
            if page.is_empty() {
                break;
            }
            pages.extend(page);
        }
        assert_eq!(pages, model.clone().into_iter().collect::<Vec<_>>());
        for name in model.keys() {
            now(remove(&mut view, &mut stock, name)).unwrap();
        }
        assert_eq!(view.root.names, TreeRoot::default());
        assert!(stock.out.is_empty());
    }

    #[test]
    fn names_have_1_to_255_bytes_of_any_value() {
        let (mut view, mut stock) = (MapView::new(Root::default()), Stock::new());
        let mut put = |name: &[u8]| {
            let result = now(insert(&mut view, &mut stock, name, ObjectId(1)));
            result.map_err(|error| error.kind())
        };
        assert_eq!(put(b""), Err(ErrorKind::InvalidInput));
        assert_eq!(put(&[7; 256]), Err(ErrorKind::InvalidInput));
        assert_eq!(put(&[7; 255]), Ok(()));
        assert_eq!(put(&[7; 255]), Err(ErrorKind::AlreadyExists));
        assert_eq!(put(b"\0"), Ok(()));
        assert_eq!(put(b"\0\0"), Ok(()));
        assert_eq!(put(&[0xff, 0xfe]), Ok(()));
        let long = now(list(&view, Some(&[7; 300]), 10)).unwrap();
        assert_eq!(long.len(), 1);
        assert_eq!(now(list(&view, None, 10)).unwrap()[0].0, b"\0");
    }

    #[test]
    fn damaged_entries_are_corruption() {
        let (mut view, mut stock) = (MapView::new(Root::default()), Stock::new());
        let mut root = TreeRoot::default();
        now(tree::insert(&mut view, &mut stock, &mut root, b"a", &[1; 7])).unwrap();
        view.root.names = root;
        assert!(now(get(&view, b"a")).unwrap_err().is_corruption());
        assert!(now(list(&view, None, 1)).unwrap_err().is_corruption());
    }
}
