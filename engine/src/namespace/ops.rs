//! Names to objects: create, look up, rename, remove, list; each one transaction.
//!
//! Guarantees: a name leads to one object; a create or rename is visible and durable whole or not
//! at all; a removed name is free at once, its object's space comes back behind it. Does not wait
//! for durability except where it says so. Called by `api::engine`.

use std::sync::Arc;

use crate::alloc::Ticket;
use crate::alloc::space::NODES_PER_CHANGE;
use crate::error::Error;
use crate::error::ErrorKind;
use crate::error::Result;
use crate::format::object_record::ObjectRecord;
use crate::meta::MetaTxn;
use crate::namespace::tree;
use crate::object::open::OpenObject;
use crate::object::records;
use crate::object::table::Table;
use crate::units::Lsn;
use crate::units::ObjectId;

fn shown(name: &[u8]) -> String {
    String::from_utf8_lossy(name).into_owned()
}

fn not_found(name: &[u8]) -> Error {
    Error::new(ErrorKind::NotFound, format!("no object is named {:?}", shown(name)))
}

/// Makes an empty object. Durable when `meta.durable(lsn)`.
///
/// Errors: `AlreadyExists`, `InvalidInput`, `NoSpace`, `WritesStopped`, `Device`. Dropping the
/// future before it is done: no effect.
pub async fn create(table: &Table, name: &[u8]) -> Result<(Arc<OpenObject>, Lsn)> {
    tree::check(name)?;
    let ground = table.ground();
    let reserved = ground.reserve(NODES_PER_CHANGE).await?;
    let mut txn = ground.meta.begin().await?;
    let mut ticket = ground.ticket();
    let object = table.prepare();
    let id = object.state().id();
    records::create_as(&mut txn, &mut ticket, id, &ObjectRecord::default()).await?;
    insert(&mut txn, &mut ticket, name, id).await?;
    ticket.record(&mut txn).await?;
    // Nothing waits behind the commit: whoever opens the object by its name finds what its sync must wait for.
    let lsn = txn.prepare().await?.commit_with(|lsn| {
        object.state().committed(lsn, None, &[]);
        table.adopt(&object);
    });
    ticket.settle(lsn);
    reserved.settle();
    Ok((object, lsn))
}

/// Gives `id` the name, inside of a transaction. Errors: `AlreadyExists`, and those of the trees; then the
/// transaction must be dropped.
pub async fn insert(
    txn: &mut MetaTxn,
    ticket: &mut Ticket,
    name: &[u8],
    id: ObjectId,
) -> Result<()> {
    if tree::get(txn, name).await?.is_some() {
        let why = format!("the name {:?} is taken", shown(name));
        return Err(Error::new(ErrorKind::AlreadyExists, why));
    }
    tree::insert(txn, ticket, name, id).await
}

/// Gives an object another name, inside of a transaction. Errors: `NotFound`, and as [`insert`].
pub async fn rename_in(
    txn: &mut MetaTxn,
    ticket: &mut Ticket,
    from: &[u8],
    to: &[u8],
) -> Result<()> {
    let id = tree::get(txn, from).await?.ok_or_else(|| not_found(from))?;
    insert(txn, ticket, to, id).await?;
    tree::remove(txn, ticket, from).await?;
    Ok(())
}

/// Takes the name away and marks its object for removal, inside of a transaction. Errors: `NotFound`, and
/// those of the trees.
pub async fn remove_in(txn: &mut MetaTxn, ticket: &mut Ticket, name: &[u8]) -> Result<ObjectId> {
    let removed = tree::remove(txn, ticket, name).await?;
    let id = removed.ok_or_else(|| not_found(name))?;
    records::mark_removal(txn, ticket, id).await?;
    Ok(id)
}

/// Opens the object with this name.
///
/// Errors: `NotFound`, `InvalidInput`, `Corrupt`, `Device`.
pub async fn open(table: &Table, name: &[u8]) -> Result<Arc<OpenObject>> {
    tree::check(name)?;
    let id = {
        let view = table.ground().meta.read().await;
        tree::get(&view, name).await?
    };
    table.open(id.ok_or_else(|| not_found(name))?).await
}

/// Gives the object another name; a name in the way is an error.
///
/// Errors: `NotFound`, `AlreadyExists`, `InvalidInput`, `NoSpace`, `WritesStopped`, `Device`.
pub async fn rename(table: &Table, from: &[u8], to: &[u8]) -> Result<Lsn> {
    tree::check(from)?;
    tree::check(to)?;
    let ground = table.ground();
    let reserved = ground.reserve(NODES_PER_CHANGE).await?;
    let mut txn = ground.meta.begin().await?;
    let mut ticket = ground.ticket();
    rename_in(&mut txn, &mut ticket, from, to).await?;
    ticket.record(&mut txn).await?;
    let lsn = txn.prepare().await?.commit();
    ticket.settle(lsn);
    reserved.settle();
    Ok(lsn)
}

/// Takes the name away and marks its object for removal; [`Table::finish_removal`] does the rest.
///
/// Errors: `NotFound`, `InvalidInput`, `WritesStopped`, `Device`.
pub async fn remove(table: &Table, name: &[u8]) -> Result<(ObjectId, Lsn)> {
    tree::check(name)?;
    let ground = table.ground();
    let mut txn = ground.meta.begin().await?;
    let mut ticket = ground.ticket();
    let id = remove_in(&mut txn, &mut ticket, name).await?;
    ticket.record(&mut txn).await?;
    let lsn = txn.prepare().await?.commit();
    ticket.settle(lsn);
    Ok((id, lsn))
}

/// Up to `limit` names behind `after`, in byte order.
///
/// Errors: `Corrupt`, `Device`.
pub async fn list(table: &Table, after: &[u8], limit: usize) -> Result<Vec<Vec<u8>>> {
    let view = table.ground().meta.read().await;
    let after = (!after.is_empty()).then_some(after);
    let found = tree::list(&view, after, limit).await?;
    Ok(found.into_iter().map(|(name, _)| name).collect())
}
