//! The records of objects: everything about them but where their bytes lie.
//!
//! Guarantees that ids are never used twice and that the root's count of objects is right. Does not
//! touch extents or names. Called by `object` and `volume`, within a view or a transaction.

use crate::error::Error;
use crate::error::ErrorKind;
use crate::error::Result;
use crate::format::object_record;
use crate::format::object_record::ObjectRecord;
use crate::limits::INLINE_BYTES_MAX;
use crate::limits::NAME_BYTES_MAX;
use crate::meta::tree;
use crate::meta::view::BlockRead;
use crate::meta::view::BlockWrite;
use crate::meta::view::NodeSupply;
use crate::units::ObjectId;

/// Flag of a record: extents behind the object's end are still to be removed.
pub const TRIMMING: u32 = 1;

/// The record of `object`.
///
/// Errors: `Corrupt`, `Incompatible`, `Device`, `OutOfMemory`. Dropping the future has no effect.
pub async fn get<R: BlockRead>(r: &R, object: ObjectId) -> Result<Option<ObjectRecord>> {
    let key = object_record::key(object);
    match tree::get(r, r.root().objects, &key).await? {
        Some(value) => ObjectRecord::decode(object, &value).map(Some),
        None => Ok(None),
    }
}

/// Makes an object with this record and this id, which nobody ever had; lower ones that were not used
/// yet are never used any more, but by who has one in hand.
///
/// Errors: `InvalidInput` for a record over its limits, `TooLarge` when there are no more ids, `NoSpace` from the
/// supply, and as [`get`]. After an error, or when the future is dropped, the transaction must be dropped.
pub async fn create_as<W: BlockWrite, S: NodeSupply>(
    w: &mut W,
    supply: &mut S,
    object: ObjectId,
    record: &ObjectRecord,
) -> Result<()> {
    let value = record.encode()?;
    let Some(next) = object.0.checked_add(1) else {
        return Err(Error::new(ErrorKind::TooLarge, "all object ids are used up"));
    };
    if put(w, supply, object, &value).await?.is_some() {
        let why = format!("{object} exists, although it is to be made next");
        return Err(Error::new(ErrorKind::Corrupt, why));
    }
    let root = w.root_mut();
    root.next_object = root.next_object.max(next);
    root.object_count += 1;
    Ok(())
}

/// Replaces the record of an object.
///
/// Errors: `NotFound` when there is none (nothing has changed), and as [`create_as`].
pub async fn update<W: BlockWrite, S: NodeSupply>(
    w: &mut W,
    supply: &mut S,
    object: ObjectId,
    record: &ObjectRecord,
) -> Result<()> {
    let value = record.encode()?;
    let key = object_record::key(object);
    if tree::get(w, w.root().objects, &key).await?.is_none() {
        return Err(Error::new(ErrorKind::NotFound, format!("{object} does not exist")));
    }
    put(w, supply, object, &value).await.map(|_| ())
}

/// The record of an object that must be there. Errors: `Corrupt` when it is not, and as [`get`].
async fn expect<R: BlockRead>(r: &R, object: ObjectId) -> Result<ObjectRecord> {
    let found = get(r, object).await?;
    found.ok_or_else(|| Error::new(ErrorKind::Corrupt, format!("{object} lost its record")))
}

/// Sets the size in an object's record, which cuts its inline bytes there. Errors: as [`update`].
pub async fn set_size<W: BlockWrite, S: NodeSupply>(
    w: &mut W,
    supply: &mut S,
    object: ObjectId,
    size: u64,
) -> Result<()> {
    let mut record = expect(w, object).await?;
    record.size = size;
    record.inline.truncate(size.min(INLINE_BYTES_MAX as u64) as usize);
    update(w, supply, object, &record).await
}

/// The inline bytes in an object's record. Errors: `Corrupt` when there is none, and as [`get`].
pub async fn inline<R: BlockRead>(r: &R, object: ObjectId) -> Result<Vec<u8>> {
    Ok(expect(r, object).await?.inline)
}

/// Stores `inline` as the first bytes of the object, in place of its block 0, and sets the size if
/// there is one to set. No bytes: block 0 is elsewhere, or a hole. Errors: as [`update`].
pub async fn set_inline<W: BlockWrite, S: NodeSupply>(
    w: &mut W,
    supply: &mut S,
    object: ObjectId,
    size: Option<u64>,
    inline: &[u8],
) -> Result<()> {
    let mut record = expect(w, object).await?;
    record.size = size.unwrap_or(record.size);
    record.inline = inline.to_vec();
    update(w, supply, object, &record).await
}

/// The attributes in an object's record. Errors: `Corrupt` when there is none, and as [`get`].
pub async fn attributes<R: BlockRead>(r: &R, object: ObjectId) -> Result<Vec<u8>> {
    Ok(expect(r, object).await?.attributes)
}

/// Replaces the attributes in an object's record. Errors: as [`update`].
pub async fn set_attributes<W: BlockWrite, S: NodeSupply>(
    w: &mut W,
    supply: &mut S,
    object: ObjectId,
    attributes: &[u8],
) -> Result<()> {
    let mut record = expect(w, object).await?;
    record.attributes = attributes.to_vec();
    update(w, supply, object, &record).await
}

/// Notes whether extents behind the object's end are still to be removed. Errors: as [`update`].
pub async fn set_trimming<W: BlockWrite, S: NodeSupply>(
    w: &mut W,
    supply: &mut S,
    object: ObjectId,
    trimming: bool,
) -> Result<()> {
    let mut record = expect(w, object).await?;
    let flags = if trimming { record.flags | TRIMMING } else { record.flags & !TRIMMING };
    if flags == record.flags {
        return Ok(());
    }
    record.flags = flags;
    update(w, supply, object, &record).await
}

/// The key of the marker that says that `object` is being removed: longer than any name.
fn removal_key(object: ObjectId) -> Vec<u8> {
    let mut key = vec![0xFF; NAME_BYTES_MAX + 1];
    key.extend(object.0.to_be_bytes());
    key
}

/// Notes that `object` is being removed. Errors: as [`create_as`].
pub async fn mark_removal<W: BlockWrite, S: NodeSupply>(
    w: &mut W,
    supply: &mut S,
    object: ObjectId,
) -> Result<()> {
    let mut names = w.root().names;
    tree::insert(w, supply, &mut names, &removal_key(object), &[]).await?;
    w.root_mut().names = names;
    Ok(())
}

/// Takes the note away. Errors: as [`create_as`].
pub async fn clear_removal<W: BlockWrite, S: NodeSupply>(
    w: &mut W,
    supply: &mut S,
    object: ObjectId,
) -> Result<()> {
    let mut names = w.root().names;
    tree::remove(w, supply, &mut names, &removal_key(object)).await?;
    w.root_mut().names = names;
    Ok(())
}

/// The first object from `from` on whose removal is not finished, if there is one. Errors: as [`get`].
pub async fn next_removal<R: BlockRead>(r: &R, from: ObjectId) -> Result<Option<ObjectId>> {
    let first = removal_key(from);
    let Some((key, _)) = tree::at_or_after(r, r.root().names, &first).await? else {
        return Ok(None);
    };
    let id = key.strip_prefix(&first[..NAME_BYTES_MAX + 1]).and_then(|id| id.try_into().ok());
    let lost = || Error::new(ErrorKind::Corrupt, "a marker behind all names is none of ours");
    id.map(|id| Some(ObjectId(u64::from_be_bytes(id)))).ok_or_else(lost)
}

/// Takes the record of an object away; `false` when there was none.
///
/// Errors: as [`create_as`].
pub async fn remove<W: BlockWrite, S: NodeSupply>(
    w: &mut W,
    supply: &mut S,
    object: ObjectId,
) -> Result<bool> {
    let mut tree_root = w.root().objects;
    let key = object_record::key(object);
    if tree::remove(w, supply, &mut tree_root, &key).await?.is_none() {
        return Ok(false);
    }
    let root = w.root_mut();
    root.objects = tree_root;
    let Some(count) = root.object_count.checked_sub(1) else {
        return Err(Error::new(ErrorKind::Corrupt, "the root counts too few objects"));
    };
    root.object_count = count;
    Ok(true)
}

#[cfg(test)]
/// Makes an object with this record; returns its id, the lowest one. Errors: as [`create_as`].
pub async fn create<W: BlockWrite, S: NodeSupply>(
    w: &mut W,
    supply: &mut S,
    record: &ObjectRecord,
) -> Result<ObjectId> {
    let object = ObjectId(w.root().next_object);
    create_as(w, supply, object, record).await?;
    Ok(object)
}

#[cfg(test)]
/// Up to `limit` objects with ids above `after`, ascending.
///
/// Errors: as [`get`].
pub async fn list<R: BlockRead>(
    r: &R,
    after: Option<ObjectId>,
    limit: usize,
) -> Result<Vec<(ObjectId, ObjectRecord)>> {
    let from = match after.map(|id| id.0.checked_add(1)) {
        None => 0,
        Some(Some(next)) => next,
        Some(None) => return Ok(Vec::new()),
    };
    let from = object_record::key(ObjectId(from));
    let mut objects = Vec::new();
    for (key, value) in tree::scan(r, r.root().objects, &from, limit).await? {
        let object = object_record::decode_key(&key)?;
        objects.push((object, ObjectRecord::decode(object, &value)?));
    }
    Ok(objects)
}

async fn put<W: BlockWrite, S: NodeSupply>(
    w: &mut W,
    supply: &mut S,
    object: ObjectId,
    value: &[u8],
) -> Result<Option<Vec<u8>>> {
    let mut root = w.root().objects;
    let key = object_record::key(object);
    let old = tree::insert(w, supply, &mut root, &key, value).await?;
    w.root_mut().objects = root;
    Ok(old)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::object_record::ObjectKind;
    use crate::format::root::Root;
    use crate::format::root::TreeRoot;
    use crate::meta::view_model::MapView;
    use crate::meta::view_model::Stock;
    use crate::meta::view_model::now;

    fn setup() -> (MapView, Stock) {
        let root = Root { next_object: 1, ..Root::default() };
        (MapView::new(root), Stock::new())
    }

    fn record(size: u64) -> ObjectRecord {
        ObjectRecord {
            kind: ObjectKind::Plain,
            flags: 0,
            size,
            attributes: vec![size as u8; size as usize % 513],
            inline: vec![!size as u8; (size as usize).min(size as usize * 31 % 449)],
        }
    }

    #[test]
    fn objects_are_made_changed_listed_and_removed() {
        let (mut view, mut stock) = setup();
        for size in 0..500 {
            let id = now(create(&mut view, &mut stock, &record(size))).unwrap();
            assert_eq!(id, ObjectId(size + 1));
        }
        assert_eq!((view.root.object_count, view.root.next_object), (500, 501));
        now(update(&mut view, &mut stock, ObjectId(7), &record(1000))).unwrap();
        assert_eq!(now(get(&view, ObjectId(7))).unwrap(), Some(record(1000)));
        assert_eq!(now(get(&view, ObjectId(8))).unwrap(), Some(record(7)));
        assert_eq!(now(get(&view, ObjectId(501))).unwrap(), None);
        let page = now(list(&view, Some(ObjectId(490)), 100)).unwrap();
        let ids: Vec<u64> = page.iter().map(|(id, _)| id.0).collect();
        assert_eq!(ids, (491..=500).collect::<Vec<_>>());
        assert_eq!(now(list(&view, None, 3)).unwrap().len(), 3);
        for id in 1..=500 {
            assert!(now(remove(&mut view, &mut stock, ObjectId(id))).unwrap());
        }
        assert!(!now(remove(&mut view, &mut stock, ObjectId(1))).unwrap());
        assert_eq!((view.root.object_count, view.root.objects), (0, TreeRoot::default()));
        assert!(stock.out.is_empty());
        let id = now(create(&mut view, &mut stock, &record(0))).unwrap();
        assert_eq!(id, ObjectId(501), "an id was used again");
    }

    #[test]
    fn impossible_requests_and_roots_are_errors() {
        let (mut view, mut stock) = setup();
        let missing = now(update(&mut view, &mut stock, ObjectId(3), &record(1))).unwrap_err();
        assert_eq!(missing.kind(), ErrorKind::NotFound);
        assert_eq!(view.root.objects, TreeRoot::default());
        let mut long = record(1);
        long.attributes = vec![1; 513];
        let error = now(create(&mut view, &mut stock, &long)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        let (mut view, mut stock) = setup();
        now(create(&mut view, &mut stock, &record(1))).unwrap();
        view.root.next_object = 1;
        let error = now(create(&mut view, &mut stock, &record(1))).unwrap_err();
        assert!(error.is_corruption());
        view.root.next_object = u64::MAX;
        let error = now(create(&mut view, &mut stock, &record(1))).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::TooLarge);
        view.root.object_count = 0;
        assert!(now(remove(&mut view, &mut stock, ObjectId(1))).unwrap_err().is_corruption());
    }
}
