//! Large values: each is an object of the engine, which the tree refers to by its number.
//!
//! ```text
//!  kv.new/NUMBER          being written; the tree does not know it
//!  kv.val/EPOCH/NUMBER    the tree refers to it
//!  kv.old/NUMBER          the tree has let go of it; somebody may still read it
//! ```
//! Its bytes are written and synced under the first name. Each further step is a rename in the very
//! transaction that changes the tree, so what a crash leaves under the first or the last name is nobody's:
//! opening removes it. FLUSHALL changes the epoch alone; what bears an older one is nobody's either.
//!
//! An object never gets shorter and its bytes up to the length in the tree are changed through the log
//! alone (SETRANGE), so a reader needs a lock for neither: who replaces bytes first gives the old ones to
//! everybody who reads the object, as `view` does with pages.
//!
//! ```text
//!  reader                                        writer
//!  registers, and takes what commits behind      under the same lock: gives the bytes that its commit
//!   its view have replaced (one lock)             replaces to all who are registered, and to the view
//!  reads the object: old, new or mixed           commits
//!  puts the old bytes over it
//! ```
//! So a reader may take its time, and hold no view meanwhile: a slow client keeps one object, not the
//! state of the tree.
//!
//! Guarantees that a large value is removed when neither the tree nor a reader wants it, at the latest
//! when the store is opened next. Does not know the tree. Called by `store`, `draft`, `plan`, `snapshot`,
//! `writer`; `removal` does the removing.

use std::collections::HashMap;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;

use foliant::Engine;
use foliant::ErrorKind;
use foliant::Object;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::timeout;

use crate::kv::error::Error;
use crate::kv::error::Result;
use crate::kv::limits::GRAVES_MAX;
use crate::kv::limits::GRAVES_WAIT;
use crate::kv::limits::LOGGED_VALUE_BYTES_MAX;
use crate::kv::limits::PIECE_BYTES;
use crate::kv::meta::Meta;
use crate::kv::page::LargeRef;
use crate::kv::pinned::Pinned;
use crate::kv::pinned::Registered;
use crate::kv::pinned::Slot;
use crate::kv::units::LargeId;
use crate::kv::view::Old;
use crate::kv::view::View;

/// The large values of a store.
#[derive(Debug)]
pub struct Shelf {
    engine: Engine,
    /// The name of the tree's object.
    name: String,
    /// The number of the next one.
    next: AtomicU64,
    logged_max: usize,
    /// Held for look-ups and pushes, never over an await.
    state: Mutex<State>,
    /// There is something to remove, or never will be again.
    work: Notify,
    /// Something was removed.
    done: Notify,
}

#[derive(Debug, Default)]
struct State {
    readers: HashMap<LargeId, Vec<Arc<Slot>>>,
    /// Nobody wants them but their readers.
    held: HashMap<LargeId, Vec<u8>>,
    graves: VecDeque<Grave>,
    /// What is being removed; nobody may begin to read it.
    removing: Option<LargeId>,
    busy: bool,
    closed: bool,
}

/// What is to be removed.
#[derive(Debug)]
pub enum Grave {
    /// This one.
    One(LargeId, Vec<u8>),
    /// All names behind `after` and before `end`.
    Names {
        /// The last name that was looked at.
        after: Vec<u8>,
        /// The first name that stays.
        end: Vec<u8>,
    },
}

impl Shelf {
    /// The large values of the store in the object `name`, whose state is `meta`.
    pub fn new(engine: Engine, name: &str, meta: &Meta) -> Self {
        // A small memory makes a small log buffer; several values must fit it.
        let log_bytes = engine.transaction().log_bytes_max() as usize;
        Self {
            engine,
            name: name.to_owned(),
            next: AtomicU64::new(meta.large_next),
            logged_max: LOGGED_VALUE_BYTES_MAX.min(log_bytes / 16),
            state: Mutex::default(),
            work: Notify::new(),
            done: Notify::new(),
        }
    }

    /// The engine.
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    /// Longest value that goes through the log.
    pub fn logged_max(&self) -> usize {
        self.logged_max
    }

    /// The name while it is written.
    pub fn name_new(&self, id: LargeId) -> String {
        format!("{}.new/{id:016x}", self.name)
    }

    /// The name while the tree refers to it.
    pub fn name_live(&self, epoch: u64, id: LargeId) -> String {
        format!("{}.val/{epoch:016x}/{id:016x}", self.name)
    }

    /// The name when the tree has let go of it.
    pub fn name_old(&self, id: LargeId) -> String {
        format!("{}.old/{id:016x}", self.name)
    }

    /// All that nobody wants when the store opens; the first of them has to go before numbers are given.
    pub fn leftovers(&self, epoch: u64) -> [Grave; 3] {
        let names = |after: String, end: String| Grave::Names {
            after: after.into_bytes(),
            end: end.into_bytes(),
        };
        // The byte behind the slash ends a folder.
        let all =
            |kind: &str| names(format!("{}.{kind}/", self.name), format!("{}.{kind}0", self.name));
        let before = format!("{}.val/{epoch:016x}/", self.name);
        [all("new"), all("old"), names(format!("{}.val/", self.name), before)]
    }

    /// A new one, empty, that the tree does not know.
    ///
    /// Errors: `Engine`. Dropping the future leaves nothing.
    pub async fn begin(self: &Arc<Self>) -> Result<Staged> {
        // Numbers only have to differ.
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let mut transaction = self.engine.transaction();
        let object = transaction.create(self.name_new(id))?;
        let bytes = AtomicUsize::new(0);
        // Made before the commit: it takes the object away whatever becomes of this future.
        let staged =
            Staged { shelf: self.clone(), id, object, bytes, kept: AtomicBool::new(false) };
        transaction.commit().await?;
        Ok(staged)
    }

    /// A new one with these bytes, synced.
    ///
    /// Errors: `Engine`.
    pub async fn stage(self: &Arc<Self>, bytes: &[u8]) -> Result<Arc<Staged>> {
        let staged = self.begin().await?;
        staged.write(0, bytes).await?;
        staged.finish(bytes.len()).await?;
        Ok(Arc::new(staged))
    }

    /// The object of a large value that the tree refers to, or referred to.
    ///
    /// Errors: `LargeMissing`, `Engine`.
    pub async fn open(&self, epoch: u64, id: LargeId) -> Result<Object> {
        for name in [self.name_live(epoch, id), self.name_old(id)] {
            match self.engine.object(name).await {
                Err(cause) if cause.kind() == ErrorKind::NotFound => continue,
                found => return Ok(found?),
            }
        }
        Err(Error::LargeMissing { id })
    }

    /// A large value as it is in `view`, to be read at leisure.
    ///
    /// Errors: `ViewExpired`, `LargeMissing`, `Engine`.
    pub async fn pin(self: &Arc<Self>, view: &View, large: LargeRef) -> Result<Pinned> {
        let slot = {
            let mut state = self.state.lock();
            if state.removing == Some(large.id) {
                return Err(Error::ViewExpired);
            }
            let slot = Arc::new(Slot::new(large.id, view.replaced(large.id)?, 0));
            state.readers.entry(large.id).or_default().push(slot.clone());
            Guard { shelf: self.clone(), slot }
        };
        match self.open(view.meta().epoch, large.id).await {
            // It was removed; then a commit had let go of it before.
            Err(Error::LargeMissing { .. }) if !view.is_current() => Err(Error::ViewExpired),
            Err(cause) => Err(cause),
            Ok(object) => Ok(Pinned::new(slot, object, large.bytes as usize)),
        }
    }

    /// A large value as it is after the first `skip` replacements of the commit that is being planned.
    pub fn pin_planned(self: &Arc<Self>, object: Object, large: LargeRef, skip: usize) -> Pinned {
        let slot = Arc::new(Slot::new(large.id, Vec::new(), skip));
        self.state.lock().readers.entry(large.id).or_default().push(slot.clone());
        let guard = Guard { shelf: self.clone(), slot };
        Pinned::new(guard, object, large.bytes as usize)
    }

    /// To be called before the commit that replaces these bytes: gives them to all who read, and calls
    /// `publish`, at once for who begins to read.
    pub fn replace(&self, replaced: &[Old], publish: impl FnOnce()) {
        let state = self.state.lock();
        for id in replaced.iter().map(|old| old.id) {
            let slots = state.readers.get(&id).into_iter().flatten();
            slots.for_each(|slot| slot.replace(replaced));
        }
        publish();
    }

    /// To be called when the commit that was planned has happened, or not, with what it replaces or has
    /// pinned: what is planned from now on is another one.
    pub fn planned(&self, ids: impl IntoIterator<Item = LargeId>) {
        let state = self.state.lock();
        for id in ids {
            state.readers.get(&id).into_iter().flatten().for_each(|slot| slot.settle());
        }
    }

    fn leave(&self, slot: &Arc<Slot>) {
        let mut state = self.state.lock();
        let Some(slots) = state.readers.get_mut(&slot.id()) else { return };
        slots.retain(|other| !Arc::ptr_eq(other, slot));
        if !slots.is_empty() {
            return;
        }
        state.readers.remove(&slot.id());
        if let Some(name) = state.held.remove(&slot.id()) {
            state.graves.push_back(Grave::One(slot.id(), name));
            self.work.notify_one();
        }
    }

    /// Names what nobody wants any more.
    pub fn bury(&self, grave: Grave) {
        self.state.lock().graves.push_back(grave);
        self.work.notify_one();
    }

    /// Waits until there is not too much to remove.
    pub async fn breathe(&self) {
        loop {
            let removed = self.done.notified();
            if self.state.lock().graves.len() < GRAVES_MAX {
                return;
            }
            removed.await;
        }
    }

    /// Waits until all that may be removed is removed.
    pub async fn settled(&self) {
        loop {
            let removed = self.done.notified();
            {
                let state = self.state.lock();
                if state.graves.is_empty() && !state.busy {
                    return;
                }
            }
            removed.await;
        }
    }

    /// What is to be removed next; none when the store is closed. For `removal`.
    pub async fn next_grave(&self) -> Option<Grave> {
        loop {
            {
                let mut state = self.state.lock();
                state.removing = None;
                state.busy = !state.graves.is_empty();
                self.done.notify_waiters();
                if let Some(grave) = state.graves.pop_front() {
                    return Some(grave);
                }
                if state.closed {
                    return None;
                }
            }
            self.work.notified().await;
        }
    }

    /// Whether `id` may be removed now. From then on nobody begins to read it; who reads it already
    /// keeps it, and buries it again.
    pub fn may_remove(&self, id: LargeId, name: &[u8]) -> bool {
        let mut state = self.state.lock();
        if state.readers.contains_key(&id) {
            state.held.insert(id, name.to_vec());
            return false;
        }
        state.removing = Some(id);
        true
    }

    /// There will be nothing more to remove.
    pub fn close(&self) {
        self.state.lock().closed = true;
        self.work.notify_one();
    }
}

/// Who reads a large value is registered as long as this is there.
#[derive(Debug)]
struct Guard {
    shelf: Arc<Shelf>,
    slot: Arc<Slot>,
}

impl Registered for Guard {
    fn slot(&self) -> &Slot {
        &self.slot
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.shelf.leave(&self.slot);
    }
}

/// A large value that the tree does not know yet. Goes with the last handle, unless the tree has come to
/// know it.
#[derive(Debug)]
pub struct Staged {
    shelf: Arc<Shelf>,
    id: LargeId,
    object: Object,
    bytes: AtomicUsize,
    kept: AtomicBool,
}

impl Staged {
    /// What the tree is to say.
    pub fn refer(&self) -> LargeRef {
        LargeRef { id: self.id, bytes: self.len() as u32 }
    }

    /// Its bytes are in there.
    pub fn object(&self) -> &Object {
        &self.object
    }

    /// Bytes of the value.
    pub fn len(&self) -> usize {
        // Written before the handle was shared.
        self.bytes.load(Ordering::Relaxed)
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Writes bytes at `at`. If the store is full, what is being removed is waited for.
    ///
    /// Errors: `Engine`.
    pub async fn write(&self, at: usize, bytes: &[u8]) -> Result<()> {
        for (index, piece) in bytes.chunks(PIECE_BYTES).enumerate() {
            let at = (at + index * PIECE_BYTES) as u64;
            match self.object.write_at(at, piece).await {
                Err(cause) if cause.is_no_space() => {
                    // After that it is full in earnest.
                    let _ = timeout(GRAVES_WAIT, self.shelf.settled()).await;
                    self.object.write_at(at, piece).await?;
                }
                written => written?,
            }
        }
        Ok(())
    }

    /// It has `bytes` bytes, zeroes where nothing was written; they are durable.
    ///
    /// Errors: `Engine`.
    pub async fn finish(&self, bytes: usize) -> Result<()> {
        if self.object.size() < bytes as u64 {
            self.object.truncate(bytes as u64).await?;
        }
        self.bytes.store(bytes, Ordering::Relaxed);
        Ok(self.object.sync().await?)
    }

    /// The tree knows it.
    pub fn keep(&self) {
        self.kept.store(true, Ordering::Relaxed);
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        if !self.kept.load(Ordering::Relaxed) {
            self.shelf.bury(Grave::One(self.id, self.shelf.name_new(self.id).into_bytes()));
        }
    }
}
