//! The registry of open objects, and the life of an object record: make, open, remove.
//!
//! Guarantees: one `OpenObject` per object at a time; an object with unwritten data stays open,
//! whatever its users drop; a removed object's space comes back even when a crash interrupts the
//! removal (a marker in the name tree is removed last, and [`Table::finish_removals`] looks for markers at open).
//!
//! Does not know names (it only stores the markers). Called by `namespace`, `volume`, `api`.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::error::Error;
use crate::error::ErrorKind;
use crate::error::Result;
use crate::extent;
use crate::extent::Lookup;
use crate::iomap::bundle::Totals;
use crate::meta::view::BlockRead;
use crate::object::ground::Ground;
use crate::object::open::OpenObject;
use crate::object::open::Wing;
use crate::object::records;
use crate::object::resize;
use crate::object::state::ObjectState;
use crate::units::BLOCK;
use crate::units::FileBlocks;
use crate::units::ObjectId;

/// Open objects that nobody uses are kept up to this number, for the sake of their cached folios.
const IDLE_OBJECTS_MAX: usize = 1024;

/// Extents behind the end of an object that are looked at when it is opened.
const STALE_EXTENTS_MAX: usize = 64;

/// The open objects, those in use and those that are idle.
#[derive(Debug)]
struct Open {
    objects: BTreeMap<ObjectId, Arc<OpenObject>>,
    /// When there are so many, idle ones are closed at once: the flusher's rounds are too rare for who opens
    /// thousands in between. A quarter more than the last look left, so that looking costs an opening a constant.
    look_at: usize,
}

impl Open {
    fn new() -> Self {
        Self { objects: BTreeMap::new(), look_at: 2 * IDLE_OBJECTS_MAX }
    }

    /// Closes objects that nobody uses and that have nothing unwritten, beyond a fair number; what they counted.
    fn close_idle(&mut self) -> Totals {
        let mut surplus = self.objects.len().saturating_sub(IDLE_OBJECTS_MAX);
        let mut closed = Totals::default();
        self.objects.retain(|_, object| {
            let close = surplus > 0 && Arc::strong_count(object) == 1 && object.is_at_rest();
            surplus -= usize::from(close);
            if close {
                closed += object.core().counts().totals();
            }
            !close
        });
        let left = self.objects.len();
        self.look_at = left + (left / 4).max(IDLE_OBJECTS_MAX);
        closed
    }
}

/// The objects of a volume.
#[derive(Debug)]
pub struct Table {
    ground: Ground,
    wing: Wing,
    /// Touched for a map look-up at open and close of an object, never across an await.
    open: Mutex<Open>,
    /// The lowest id that nobody has, in hand or in a record; never across an await.
    next_id: Mutex<u64>,
    /// What objects that were closed since had counted.
    closed: Mutex<Totals>,
}

impl Table {
    /// A registry without open objects, of a volume whose root says `next_object`.
    pub fn new(ground: Ground, wing: Wing, next_object: u64) -> Self {
        let open = Mutex::new(Open::new());
        let next_id = Mutex::new(next_object);
        Self { ground, wing, open, next_id, closed: Mutex::default() }
    }

    /// The parts below.
    pub fn ground(&self) -> &Ground {
        &self.ground
    }

    /// The data wing's shared parts.
    pub fn wing(&self) -> &Wing {
        &self.wing
    }

    /// The open object `id`, opened if need be; a truncate that a crash interrupted is finished.
    ///
    /// Errors: `NotFound`, `Corrupt`, `Device`. Dropping the future has no effect.
    pub async fn open(&self, id: ObjectId) -> Result<Arc<OpenObject>> {
        if let Some(found) = self.open.lock().objects.get(&id) {
            return Ok(found.clone());
        }
        let view = self.ground.meta.read().await;
        let record = records::get(&view, id).await?;
        let record = record
            .ok_or_else(|| Error::new(ErrorKind::NotFound, format!("{id} does not exist")))?;
        // Entered with the view held: nobody can change the record, and then close the object, in
        // between; its size would be an old one.
        if !record.inline.is_empty() {
            check_inline(&view, id).await?;
        }
        let object = self.enter(id, record.size, !record.inline.is_empty());
        // A batch may have mapped more than it could record; these bytes were never promised, and
        // must not come to light when the object grows.
        let behind = FileBlocks::new(record.size.div_ceil(BLOCK), resize::BLOCKS_END);
        let stored = extent::list(&view, id, behind, STALE_EXTENTS_MAX).await?;
        let stale = stored.iter().any(|extent| !extent.unwritten);
        drop(view);
        if stale || record.flags & records::TRIMMING != 0 {
            self.finish_trim(&object, record.size).await?;
        }
        Ok(object)
    }

    async fn finish_trim(&self, object: &Arc<OpenObject>, size: u64) -> Result<()> {
        let behind = FileBlocks::new(size.div_ceil(BLOCK), resize::BLOCKS_END);
        let held = object.core().ranges().exclusive(behind.start..u64::MAX).await;
        // Somebody who opened it at the same time may have written behind the end by now.
        if object.state().size() == size {
            object.core().drop_cached(&held, behind).await?;
            resize::trim(object, behind).await?;
        }
        Ok(())
    }

    fn enter(&self, id: ObjectId, size: u64, inline: bool) -> Arc<OpenObject> {
        let mut open = self.open.lock();
        let make = || {
            let state = ObjectState::new(id, size);
            state.set_inline(inline);
            Arc::new(OpenObject::new(self.ground.clone(), &self.wing, state))
        };
        let object = open.objects.entry(id).or_insert_with(make).clone();
        self.make_room(&mut open);
        object
    }

    /// Closes idle objects when there are many.
    fn make_room(&self, open: &mut Open) {
        if open.objects.len() >= open.look_at {
            *self.closed.lock() += open.close_idle();
        }
    }

    /// An object that a transaction is going to make: it has an id and nothing else, and nobody can open it
    /// before [`Table::adopt`].
    pub fn prepare(&self) -> Arc<OpenObject> {
        // Here and not in `adopt`, which runs with locks of the metadata.
        self.make_room(&mut self.open.lock());
        let state = ObjectState::new(self.take_id(), 0);
        state.set_pending(true);
        Arc::new(OpenObject::new(self.ground.clone(), &self.wing, state))
    }

    /// The transaction that makes the prepared object is committed. Called while nobody can look at it.
    pub fn adopt(&self, object: &Arc<OpenObject>) {
        object.state().set_pending(false);
        let before = self.open.lock().objects.insert(object.state().id(), object.clone());
        assert!(before.is_none(), "an object was open before it was made");
    }

    fn take_id(&self) -> ObjectId {
        let mut next = self.next_id.lock();
        let id = *next;
        // The last one is refused by `records`.
        *next = id.saturating_add(1);
        ObjectId(id)
    }

    /// What the objects counted since the volume was opened.
    pub fn totals(&self) -> Totals {
        let open = self.open.lock();
        let mut totals = *self.closed.lock();
        open.objects.values().for_each(|object| totals += object.core().counts().totals());
        totals
    }

    /// How many objects are open, in use or idle.
    pub fn count(&self) -> usize {
        self.open.lock().objects.len()
    }

    /// Every open object, ascending by id.
    pub fn all(&self) -> Vec<Arc<OpenObject>> {
        self.open.lock().objects.values().cloned().collect()
    }

    /// The same for who must not wait, not even for a short lock.
    pub fn try_all(&self) -> Option<Vec<Arc<OpenObject>>> {
        Some(self.open.try_lock()?.objects.values().cloned().collect())
    }

    /// Closes objects that nobody uses and that have nothing unwritten, beyond a fair number.
    pub fn close_idle(&self) {
        let mut open = self.open.lock();
        *self.closed.lock() += open.close_idle();
    }

    /// Frees what the removed object `id` held, then its record and its marker.
    ///
    /// The caller has committed the removal of the name and the marker. Runs in a tracked task.
    pub async fn finish_removal(&self, id: ObjectId) -> Result<()> {
        let object = {
            let known = self.open.lock().objects.get(&id).cloned();
            known.unwrap_or_else(|| self.enter(id, 0, false))
        };
        object.state().mark_removed();
        let everything = FileBlocks::new(0, resize::BLOCKS_END);
        let held = object.core().ranges().exclusive(0..u64::MAX).await;
        object.core().drop_cached(&held, everything).await?;
        let _still = object.core().hold_writeback().await;
        resize::trim(&object, everything).await?;
        let mut txn = self.ground.meta.begin().await?;
        let mut ticket = self.ground.ticket();
        records::remove(&mut txn, &mut ticket, id).await?;
        records::clear_removal(&mut txn, &mut ticket, id).await?;
        ticket.record(&mut txn).await?;
        let prepared = txn.prepare().await?;
        let lsn = prepared.commit_with(|lsn| object.state().committed(lsn, None, &[]));
        ticket.settle(lsn);
        self.open.lock().objects.remove(&id);
        Ok(())
    }

    /// Finishes removals that a crash, a close or a failing device interrupted; the answer is how many. One that
    /// is on its way beside it is waited for, and finished once.
    pub async fn finish_removals(&self) -> Result<u64> {
        let mut finished = 0;
        let mut from = ObjectId(0);
        loop {
            let next = {
                let view = self.ground.meta.read().await;
                records::next_removal(&view, from).await?
            };
            let Some(id) = next else { return Ok(finished) };
            self.finish_removal(id).await?;
            finished += 1;
            from = ObjectId(id.0.saturating_add(1));
        }
    }
}

/// Block 0 must not be stored twice. Errors: `Corrupt` when it is, and those of a look-up.
async fn check_inline<R: BlockRead>(view: &R, id: ObjectId) -> Result<()> {
    match extent::lookup(view, id, 0).await? {
        Lookup::Extent(e) if !e.unwritten => {
            let why = format!("{id} has its block 0 in its record and on the device");
            Err(Error::new(ErrorKind::Corrupt, why))
        }
        _ => Ok(()),
    }
}
