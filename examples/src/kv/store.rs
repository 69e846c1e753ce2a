//! The store: an ordered map of byte strings in one object of an engine.
//!
//! Guarantees: `write` returns when its changes are durable, and each group of changes is seen whole
//! or not at all, by readers and after a crash. A read shows the state of one commit; that commit may
//! be younger than the last durable one. Readers do not wait for writers. Dropping the future of a
//! write that waits in the queue or later does not stop the write.
//!
//! Entries carry the time at which they end, but the store knows no time: an ended entry is there until
//! somebody takes it away, and who reads says what it means.
//!
//! Does not cache: the engine does. Called by `execute`, `sweep` and `demo`.

use std::sync::Arc;

use bytes::Bytes;
use foliant::Engine;
use foliant::ErrorKind;
use foliant::Object;
use futures_util::StreamExt;
use futures_util::stream;
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::kv::cursor::Cursor;
use crate::kv::error::Error;
use crate::kv::error::Result;
use crate::kv::ground::Ground;
use crate::kv::limits::PAGE_BYTES;
use crate::kv::limits::QUEUE_REQUESTS_MAX;
use crate::kv::limits::READ_RETRIES_MAX;
use crate::kv::limits::STAGED_AT_ONCE;
use crate::kv::limits::UPPERS_OF_BUDGET;
use crate::kv::meta::META_BYTES;
use crate::kv::meta::Meta;
use crate::kv::meta::ROOT_FIRST;
use crate::kv::node::NodeMut;
use crate::kv::op::Entry;
use crate::kv::op::Group;
use crate::kv::op::Op;
use crate::kv::op::Outcome;
use crate::kv::op::Promise;
use crate::kv::op::check_key;
use crate::kv::page::Kind;
use crate::kv::page::blank;
use crate::kv::removal;
use crate::kv::shelf::Shelf;
use crate::kv::snapshot::Snapshot;
use crate::kv::units::Millis;
use crate::kv::upper::Uppers;
use crate::kv::value::New;
use crate::kv::value::Value;
use crate::kv::view::Current;
use crate::kv::view::Views;
use crate::kv::watch::Watches;
use crate::kv::writer::Answer;
use crate::kv::writer::Request;
use crate::kv::writer::Writer;

/// An open store. Cheap to clone; all clones are the same store.
#[derive(Debug, Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    engine: Engine,
    ground: Ground,
    views: Current,
    watches: Arc<Watches>,
    /// The writer's queue; none after `close`. Held to clone the sender, never over an await.
    queue: Mutex<Option<mpsc::Sender<Request>>>,
    /// The writer task; taken by the one `close` that waits for it.
    writer: Mutex<Option<JoinHandle<()>>>,
}

/// Keys and values of one step of a scan, and whether the last key was reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scanned<V = Bytes> {
    /// Ascending.
    pub entries: Vec<(Bytes, V)>,
    /// When each of them ends.
    pub expires: Vec<Option<Millis>>,
    /// There is nothing behind them.
    pub at_end: bool,
}

impl Store {
    /// Opens the store in the object `name`, which is made if it is missing.
    ///
    /// Errors: `NotAStore`, `Engine`.
    pub async fn open(engine: &Engine, name: &str) -> Result<Self> {
        Self::open_with(engine, name, Promise::Durable).await
    }

    /// As `open`; `promise` is what a returned write stands for.
    pub async fn open_with(engine: &Engine, name: &str, promise: Promise) -> Result<Self> {
        let object = match engine.object(name).await {
            Err(cause) if cause.kind() == ErrorKind::NotFound => engine.create(name).await?,
            found => found?,
        };
        let meta = match object.size() {
            // Made, and not filled before a crash.
            0 => make(engine, &object).await?,
            _ => load(engine, &object).await?,
        };
        let views = Views::new(meta);
        let current = views.current();
        let (sender, queue) = mpsc::channel(QUEUE_REQUESTS_MAX);
        let watches = Arc::new(Watches::default());
        let shelf = Arc::new(Shelf::new(engine.clone(), name, &meta));
        let [unfinished, old, earlier] = shelf.leftovers(meta.epoch);
        // Their numbers may be given again.
        removal::purge(engine, unfinished).await?;
        shelf.bury(old);
        shelf.bury(earlier);
        let budget = engine.stats().memory_budget_bytes as usize;
        let uppers = Arc::new(Uppers::new(budget / UPPERS_OF_BUDGET / (2 * PAGE_BYTES)));
        let ground = Ground { object, shelf, uppers };
        let state = (views, meta);
        let writer = Writer::new(engine.clone(), ground.clone(), state, watches.clone(), promise);
        let task = tokio::spawn(writer.run(queue));
        let inner = Inner {
            engine: engine.clone(),
            ground,
            views: current,
            watches,
            queue: Mutex::new(Some(sender)),
            writer: Mutex::new(Some(task)),
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// The engine that the store lives in.
    pub fn engine(&self) -> &Engine {
        &self.inner.engine
    }

    /// Number of keys.
    pub fn len(&self) -> u64 {
        self.inner.views.get().meta().keys
    }

    /// Of which end at some time, or have ended and are still there.
    pub fn expiring(&self) -> u64 {
        self.inner.views.get().meta().expiring
    }

    /// Of which have a large value, which is an object of its own.
    pub fn larges(&self) -> u64 {
        self.inner.views.get().meta().larges
    }

    /// Where large values lie.
    pub fn shelf(&self) -> Arc<Shelf> {
        self.inner.ground.shelf.clone()
    }

    /// Who is told of changes.
    pub fn watches(&self) -> Arc<Watches> {
        self.inner.watches.clone()
    }

    /// Whether there is no key.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn snapshot(&self) -> Snapshot<'_> {
        Snapshot::new(&self.inner.ground, self.inner.views.get())
    }

    /// The value of a key, all of it in memory.
    ///
    /// Errors: `KeyLength`, `Damaged`, `LargeMissing`, `Engine`. Dropping the future has no effect.
    pub async fn get(&self, key: &[u8]) -> Result<Option<Bytes>> {
        match self.entry(key, true).await?.map(|entry| entry.value) {
            Some(value) => Ok(Some(in_memory(value).await?)),
            None => Ok(None),
        }
    }

    /// What a key stands for, ended or not; without its value (empty) if that is not wanted.
    ///
    /// Errors: as `get`.
    pub async fn entry(&self, key: &[u8], wants_value: bool) -> Result<Option<Entry>> {
        check_key(key)?;
        for _ in 0..READ_RETRIES_MAX {
            match self.snapshot().get(key, wants_value).await {
                Err(Error::ViewExpired) => continue,
                answer => return answer,
            }
        }
        Err(Error::ViewExpired)
    }

    /// Whether the key is there.
    ///
    /// Errors: as `get`.
    pub async fn contains(&self, key: &[u8]) -> Result<bool> {
        Ok(self.entry(key, false).await?.is_some())
    }

    /// A key somewhere, none if there is none; `dice` gives numbers to choose it by.
    ///
    /// Errors: `Damaged`, `Engine`.
    pub async fn any_key(&self, mut dice: impl FnMut() -> u64) -> Result<Option<Bytes>> {
        for _ in 0..READ_RETRIES_MAX {
            match self.snapshot().any_key(&mut dice).await {
                Err(Error::ViewExpired) => continue,
                answer => return answer,
            }
        }
        Err(Error::ViewExpired)
    }

    /// Up to `limit` keys from `from` on, in order, with values of up to about `bytes_max` bytes
    /// together, all in memory; all of one commit. A large value is read whole.
    ///
    /// Errors: `Damaged`, `LargeMissing`, `Engine`. Dropping the future has no effect.
    pub async fn scan(&self, from: &[u8], limit: usize, bytes_max: usize) -> Result<Scanned> {
        let Scanned { entries, expires, at_end } = self.scan_values(from, limit, bytes_max).await?;
        let mut held = Vec::with_capacity(entries.len());
        for (key, value) in entries {
            held.push((key, in_memory(value).await?));
        }
        Ok(Scanned { entries: held, expires, at_end })
    }

    /// As `scan`; large values are not read, and take 4 KiB of `bytes_max`.
    pub async fn scan_values(
        &self,
        from: &[u8],
        limit: usize,
        bytes_max: usize,
    ) -> Result<Scanned<Value>> {
        for _ in 0..READ_RETRIES_MAX {
            match self.scan_once(from, limit, bytes_max, true).await {
                Err(Error::ViewExpired) => continue,
                answer => return answer,
            }
        }
        Err(Error::ViewExpired)
    }

    /// As `scan`, with empty values: overflow pages are not read.
    pub async fn scan_keys(&self, from: &[u8], limit: usize) -> Result<Scanned<Value>> {
        for _ in 0..READ_RETRIES_MAX {
            match self.scan_once(from, limit, usize::MAX, false).await {
                Err(Error::ViewExpired) => continue,
                answer => return answer,
            }
        }
        Err(Error::ViewExpired)
    }

    async fn scan_once(
        &self,
        from: &[u8],
        limit: usize,
        bytes_max: usize,
        values: bool,
    ) -> Result<Scanned<Value>> {
        let snapshot = self.snapshot();
        let mut cursor = Cursor::seek(&snapshot, from).await?;
        let (mut entries, mut ends) = (Vec::new(), Vec::new());
        let mut bytes = 0;
        while entries.len() < limit && bytes < bytes_max {
            let Some((key, stored, end)) = cursor.next().await? else {
                return Ok(Scanned { entries, expires: ends, at_end: true });
            };
            let key = Bytes::copy_from_slice(key);
            let value = if values { snapshot.value(stored).await? } else { Value::default() };
            bytes += value.held();
            entries.push((key, value));
            ends.push(end);
        }
        let at_end = cursor.next().await?.is_none();
        Ok(Scanned { entries, expires: ends, at_end })
    }

    /// Applies groups of changes in order, each atomically; durable on return.
    ///
    /// The answer has one entry per group: `KeyLength` and `ValueLength` before anything of the
    /// group was done; `TooLarge`, `Damaged`, `Full` and `Engine`: the group has no effect, unless
    /// the engine stopped its writes while the group was on its way to the device. Error of the
    /// whole: `Closed`.
    pub async fn write(&self, groups: Vec<Group>) -> Result<Answer> {
        let mut faults = Vec::with_capacity(groups.len());
        let mut sound = Vec::with_capacity(groups.len());
        for checked in self.staged(groups).await {
            match checked {
                Ok(group) => {
                    faults.push(None);
                    sound.push(group);
                }
                Err(cause) => faults.push(Some(cause)),
            }
        }
        let mut answers = self.send(sound).await?.into_iter();
        let merge = |fault: Option<Error>| match fault {
            Some(cause) => Err(cause),
            None => answers.next().unwrap_or(Err(Error::Closed)),
        };
        Ok(faults.into_iter().map(merge).collect())
    }

    /// Checks groups, and writes their large values to their objects, those of several groups at once.
    async fn staged(&self, groups: Vec<Group>) -> Vec<Result<Group>> {
        let shelf = &self.inner.ground.shelf;
        let check = |group: &Group| group.iter().try_for_each(Op::check);
        if !groups.iter().flatten().any(|op| is_for(shelf, op)) {
            return groups.into_iter().map(|group| check(&group).map(|()| group)).collect();
        }
        let each = groups.into_iter().map(|mut group| async move {
            check(&group)?;
            stage(shelf, &mut group).await?;
            Ok(group)
        });
        stream::iter(each).buffered(STAGED_AT_ONCE).collect().await
    }

    async fn send(&self, groups: Vec<Group>) -> Result<Answer> {
        let queue = self.inner.queue.lock().clone().ok_or(Error::Closed)?;
        let (reply, answer) = oneshot::channel();
        let request = Request { groups, reply };
        queue.send(request).await.map_err(|_| Error::Closed)?;
        drop(queue);
        answer.await.map_err(|_| Error::Closed)
    }

    async fn write_one(&self, op: Op) -> Result<Outcome> {
        let mut answer = self.write(vec![vec![op]]).await?;
        let outcomes = answer.pop().unwrap_or(Err(Error::Closed))?;
        outcomes.into_iter().next().ok_or(Error::Closed)
    }

    /// Stores a value; durable on return.
    ///
    /// Errors: as `write`.
    pub async fn put(&self, key: &[u8], value: &[u8]) -> Result<()> {
        let op = Op::put(Bytes::copy_from_slice(key), Bytes::copy_from_slice(value));
        self.write_one(op).await.map(|_| ())
    }

    /// Takes a key away and says whether it was there; durable on return.
    ///
    /// Errors: as `write`.
    pub async fn delete(&self, key: &[u8]) -> Result<bool> {
        let outcome = self.write_one(Op::delete(Bytes::copy_from_slice(key))).await?;
        Ok(outcome == Outcome::Deleted(true))
    }

    /// Takes all keys away; durable on return.
    ///
    /// Errors: as `write`.
    pub async fn clear(&self) -> Result<()> {
        self.write_one(Op::Clear).await.map(|_| ())
    }

    /// Finishes what was accepted and stops the writer. The engine stays open. Other clones fail
    /// with `Closed` when they write afterwards.
    pub async fn close(&self) {
        drop(self.inner.queue.lock().take());
        let task = self.inner.writer.lock().take();
        if let Some(task) = task
            && let Err(cause) = task.await
        {
            tracing::error!("the writer ended badly: {cause}");
        }
    }
}

/// Whether the operation has a large value that is not on the shelf yet.
fn is_for(shelf: &Shelf, op: &Op) -> bool {
    matches!(op, Op::Put { value: New::Bytes(bytes), .. } if bytes.len() > shelf.logged_max())
}

/// Writes the large values of a group to their objects.
async fn stage(shelf: &Arc<Shelf>, group: &mut Group) -> Result<()> {
    for op in group.iter_mut().filter(|op| is_for(shelf, op)) {
        if let Op::Put { value, .. } = op
            && let New::Bytes(bytes) = value
        {
            *value = New::Staged(shelf.stage(bytes).await?);
        }
    }
    Ok(())
}

async fn in_memory(value: Value) -> Result<Bytes> {
    match value {
        Value::Bytes(bytes) => Ok(bytes),
        Value::Large(large) => large.to_bytes().await,
    }
}

/// An empty tree, durable.
async fn make(engine: &Engine, object: &Object) -> Result<Meta> {
    let meta = Meta::empty();
    let mut first = blank();
    first[..META_BYTES].copy_from_slice(&meta.encode());
    let mut root = blank();
    NodeMut::format(ROOT_FIRST, &mut root, Kind::Leaf, 0);
    let mut transaction = engine.transaction();
    transaction.write_at(object, 0, &first[..])?;
    transaction.write_at(object, PAGE_BYTES as u64, &root[..])?;
    transaction.commit().await?.durable().await?;
    Ok(meta)
}

async fn load(engine: &Engine, object: &Object) -> Result<Meta> {
    let mut bytes = [0; META_BYTES];
    if object.read_at(0, &mut bytes).await? < META_BYTES {
        return Err(Error::NotAStore { why: "the object is too short" });
    }
    let meta = Meta::decode(&bytes)?;
    let end = u64::from(meta.pages) * PAGE_BYTES as u64;
    if object.size() > end {
        // In version 2 a large value whose commit did not come before the crash.
        object.truncate(end).await?;
        object.sync().await?;
    }
    if Meta::is_old(&bytes) {
        // From now on pages may hold what an older program does not know.
        let mut transaction = engine.transaction();
        transaction.write_at(object, 0, &meta.encode())?;
        transaction.commit().await?.durable().await?;
    }
    Ok(meta)
}

#[cfg(test)]
mod tests;
