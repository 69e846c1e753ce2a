//! Objects with their extents, in the order of their ids, from two trees at once.
//!
//! Guarantees that an object's record comes before its extents, and these in the order of the object's
//! blocks; entries that do not decode become findings. Does not compare anything. Called by
//! `survey` and `export`.

use crate::check::report::Fault;
use crate::check::report::Place;
use crate::check::walk::Entry;
use crate::check::walk::Look;
use crate::check::walk::Tree;
use crate::check::walk::Walk;
use crate::error::Result;
use crate::format::extent_record;
use crate::format::extent_record::Extent;
use crate::format::object_record::ObjectRecord;
use crate::units::ObjectId;

/// One entry of either tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Item {
    /// An object; without a record when that does not decode.
    Object(ObjectId, Option<ObjectRecord>),
    /// An extent of an object, which may not exist.
    Extent(ObjectId, Extent),
}

/// The merged walk.
#[derive(Debug)]
pub struct Items {
    objects: Walk,
    extents: Walk,
    object: Option<(ObjectId, Option<ObjectRecord>)>,
    extent: Option<(ObjectId, Extent)>,
}

impl Items {
    /// Before the first object.
    ///
    /// Errors: as [`Walk::next`].
    pub async fn new(look: &mut Look<'_>) -> Result<Self> {
        let objects = Walk::new(look.source, Tree::Objects);
        let extents = Walk::new(look.source, Tree::Extents);
        let mut items = Self { objects, extents, object: None, extent: None };
        items.object = items.next_object(look).await?;
        items.extent = items.next_extent(look).await?;
        Ok(items)
    }

    /// The next item.
    ///
    /// Errors: as [`Walk::next`].
    pub async fn next(&mut self, look: &mut Look<'_>) -> Result<Option<Item>> {
        let extent_first = match (&self.object, &self.extent) {
            (Some((object, _)), Some((owner, _))) => owner < object,
            (None, Some(_)) => true,
            (_, None) => false,
        };
        if extent_first {
            let next = self.next_extent(look).await?;
            let now = std::mem::replace(&mut self.extent, next);
            return Ok(now.map(|(id, extent)| Item::Extent(id, extent)));
        }
        let next = self.next_object(look).await?;
        let now = std::mem::replace(&mut self.object, next);
        Ok(now.map(|(id, record)| Item::Object(id, record)))
    }

    async fn next_object(
        &mut self,
        look: &mut Look<'_>,
    ) -> Result<Option<(ObjectId, Option<ObjectRecord>)>> {
        while let Some(Entry { leaf, key, value, .. }) = self.objects.next(look).await? {
            let Ok(id) = <[u8; 8]>::try_from(key.as_slice()) else {
                let words = format!("an object's key has {} bytes", key.len());
                look.report.add(Fault::Record, Place::block(leaf), words);
                continue;
            };
            let id = ObjectId(u64::from_be_bytes(id));
            return match ObjectRecord::decode(id, &value) {
                Ok(record) => Ok(Some((id, Some(record)))),
                Err(cause) => {
                    let place = Place::object(id).at(leaf);
                    look.report.add_failure(Fault::Record, place, cause)?;
                    Ok(Some((id, None)))
                }
            };
        }
        Ok(None)
    }

    async fn next_extent(&mut self, look: &mut Look<'_>) -> Result<Option<(ObjectId, Extent)>> {
        while let Some(Entry { leaf, key, value, .. }) = self.extents.next(look).await? {
            match extent_record::decode(&key, &value) {
                Ok(found) => return Ok(Some(found)),
                Err(cause) => {
                    look.report.add_failure(Fault::Extent, Place::block(leaf), cause)?;
                    // What it held is not known to be used.
                    look.lost.push(Tree::Extents);
                }
            }
        }
        Ok(None)
    }
}
