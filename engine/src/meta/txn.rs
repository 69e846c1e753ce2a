//! Looking at metadata and changing it: the shared view, the exclusive transaction, its commit.
//!
//! Guarantees: a transaction works on private copies; nothing is visible before
//! [`Prepared::commit_with`], which is synchronous and cannot fail. Everything that can fail or wait
//! happens in [`MetaTxn::prepare`]. Dropping a transaction at any point before means that it never
//! was.
//!
//! Does not wait for durability. Called by `object`, `namespace`, `alloc`, `extent` (through the traits).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use foliant_device::Buffer;
use tokio::sync::OwnedRwLockReadGuard;
use tokio::sync::OwnedRwLockWriteGuard;
use tokio::time::Instant;

use crate::error::Error;
use crate::error::ErrorKind;
use crate::error::Result;
use crate::format::block;
use crate::format::block::BODY;
use crate::format::block::BlockKind;
use crate::format::log_record;
use crate::format::log_record::Delta;
use crate::format::root::Root;
use crate::kit::canary::Canary;
use crate::kit::canary::is_broken;
use crate::kit::lock_order;
use crate::kit::lock_order::Held;
use crate::kit::lock_order::Rank;
use crate::kit::memory::Purpose;
use crate::limits::METADATA_WAIT;
use crate::meta::store::Meta;
use crate::meta::table::HomeMark;
use crate::meta::table::Logged;
use crate::meta::view::BlockRead;
use crate::meta::view::BlockWrite;
use crate::units::BlockNo;
use crate::units::Lsn;

impl Meta {
    /// A shared view of the committed state. Dropping the future has no effect.
    pub async fn read(&self) -> MetaView {
        lock_order::wait(Rank::Metadata);
        let guard = self.inner.lock.clone().read_owned().await;
        let root = self.inner.blocks.lock().root.clone();
        MetaView::new(self.clone(), guard, root)
    }

    /// The exclusive transaction. Errors: `WritesStopped`; `TimedOut` when somebody has held the metadata for
    /// [`METADATA_WAIT`], which takes a device that does not end a read. Dropping the future has no effect.
    pub async fn begin(&self) -> Result<MetaTxn> {
        self.inner.poison.check()?;
        lock_order::wait(Rank::Metadata);
        let guard = match self.inner.lock.clone().try_write_owned() {
            Ok(guard) => {
                metrics::histogram!("foliant_metadata_wait_seconds").record(0.0);
                guard
            }
            Err(_) => self.in_turn().await?,
        };
        self.inner.poison.check()?;
        let root = self.inner.blocks.lock().root.clone();
        Ok(MetaTxn::new(self.clone(), guard, root))
    }

    /// Lets others commit as long as there is no room for these bytes. What the transaction is made of may be
    /// old then: only to show that the order of commits is looked at.
    async fn pass_until_room(
        &self,
        mut guard: OwnedRwLockWriteGuard<()>,
        payload: usize,
    ) -> OwnedRwLockWriteGuard<()> {
        while !self.inner.journal.has_room(payload) {
            drop(guard);
            tokio::time::sleep(Duration::from_millis(1)).await;
            guard = self.inner.lock.clone().write_owned().await;
        }
        guard
    }

    /// The lock behind all who wait for it, shared or alone. Errors: `TimedOut`.
    async fn in_turn(&self) -> Result<OwnedRwLockWriteGuard<()>> {
        let since = Instant::now();
        let waiting = self.inner.lock.clone().write_owned();
        let waited = tokio::time::timeout(METADATA_WAIT, waiting).await;
        let why = "waited too long for the metadata lock";
        let guard = waited.map_err(|_| Error::new(ErrorKind::TimedOut, why))?;
        metrics::histogram!("foliant_metadata_wait_seconds").record(since.elapsed());
        Ok(guard)
    }
}

/// One committed state, shared with other readers.
#[derive(Debug)]
pub struct MetaView {
    meta: Meta,
    root: Arc<Root>,
    _guard: OwnedRwLockReadGuard<()>,
    _order: Held,
}

impl MetaView {
    fn new(meta: Meta, guard: OwnedRwLockReadGuard<()>, root: Arc<Root>) -> Self {
        Self { meta, root, _guard: guard, _order: lock_order::hold(Rank::Metadata) }
    }
}

impl BlockRead for MetaView {
    async fn block(&self, at: BlockNo, kind: BlockKind) -> Result<Buffer> {
        self.meta.load(at, kind).await
    }

    fn root(&self) -> &Root {
        &self.root
    }
}

/// A metadata block that the transaction changes.
#[derive(Debug)]
struct Change {
    /// The committed image, or none for a block that starts from zeroes.
    before: Option<Buffer>,
    after: Buffer,
    kind: BlockKind,
}

/// The new image of a data block, with what a record needs that can be known before the transaction begins.
pub struct DataImage {
    /// One block.
    pub after: Buffer,
    /// Its checksum.
    pub sum: u32,
    /// Its difference to what is committed, or to zeroes.
    pub delta: Delta,
}

/// A data block whose new image is logged.
struct DataChange {
    at: BlockNo,
    image: DataImage,
    mark: Option<Arc<dyn HomeMark>>,
}

/// The one transaction of the volume.
pub struct MetaTxn {
    meta: Meta,
    guard: OwnedRwLockWriteGuard<()>,
    order: Held,
    committed_root: Arc<Root>,
    root: Root,
    changes: BTreeMap<BlockNo, Change>,
    data: Vec<DataChange>,
    /// Bytes of the records in `data`.
    data_bytes: u64,
    forgotten: Vec<BlockNo>,
}

/// A transaction that only has to be committed: its records are encoded and the log has room.
pub struct Prepared {
    txn: MetaTxn,
    payload: Option<Vec<u8>>,
}

impl MetaTxn {
    fn new(meta: Meta, guard: OwnedRwLockWriteGuard<()>, root: Arc<Root>) -> Self {
        Self {
            meta,
            guard,
            order: lock_order::hold(Rank::Metadata),
            root: (*root).clone(),
            committed_root: root,
            changes: BTreeMap::new(),
            data: Vec::new(),
            data_bytes: 0,
            forgotten: Vec::new(),
        }
    }

    /// Logs the new image of the data block `at`, as its difference to what must be committed there, or to
    /// zeroes. `mark` is told when it is home.
    ///
    /// # Panics
    /// If the image is not one block.
    pub fn log_data(&mut self, at: BlockNo, image: DataImage, mark: Option<Arc<dyn HomeMark>>) {
        assert_eq!(image.after.order(), 0, "a logged image is one block");
        assert!(!self.changes.contains_key(&at), "block {at} is metadata in this transaction");
        self.data_bytes += image.delta.record_bytes() as u64;
        self.data.push(DataChange { at, image, mark });
    }

    /// Errors: `TooLarge` when the logged data alone is too much, so that nobody goes on in vain.
    pub fn check_size(&self) -> Result<()> {
        let (bytes, most) = (self.data_bytes, self.meta.payload_max());
        if bytes > most {
            let why = format!("a transaction of {bytes} bytes; the journal takes {most}");
            return Err(Error::new(ErrorKind::TooLarge, why));
        }
        Ok(())
    }

    /// Makes the block's image a private one, to be changed in place.
    async fn copy(&mut self, at: BlockNo, kind: BlockKind) -> Result<()> {
        let before = match self.changes.get(&at) {
            Some(change) if change.after.is_unique() => return Ok(()),
            // Somebody who looks at it still holds it: the image stays his.
            Some(change) => change.after.clone(),
            None => self.meta.load(at, kind).await?,
        };
        let mut after = self.meta.inner.memory.allocate(0, Purpose::Reserved).await?;
        let bytes = after.get_mut().expect("a fresh buffer has one owner");
        bytes.copy_from_slice(&before);
        match self.changes.get_mut(&at) {
            Some(change) => change.after = after,
            None => _ = self.changes.insert(at, Change { before: Some(before), after, kind }),
        }
        Ok(())
    }

    fn body_of(&mut self, at: BlockNo) -> &mut [u8] {
        let change = self.changes.get_mut(&at).expect("the block was copied before");
        let bytes = change.after.get_mut().expect("a private image has one owner");
        &mut bytes[BODY..]
    }

    /// Encodes the records and waits for log room: the last step that can fail or wait.
    ///
    /// Errors: `TooLarge`, `TimedOut`, `WritesStopped`, `OutOfMemory`. Dropping the future: the
    /// transaction never was.
    pub async fn prepare(mut self) -> Result<Prepared> {
        if self.root != *self.committed_root {
            let at = self.meta.inner.options.root;
            self.copy(at, BlockKind::Root).await?;
            let root = self.root.clone();
            root.encode(self.body_of(at));
        }
        let payload = self.encode();
        if let Some(payload) = &payload {
            let journal = &self.meta.inner.journal;
            if !journal.has_room(payload.len()) {
                self.meta.inner.bell.notify_one();
            }
            lock_order::wait(Rank::LogRoom);
            if is_broken(Canary::WaitOutOfTurn) {
                self.guard = self.meta.pass_until_room(self.guard, payload.len()).await;
            }
            journal.wait_for_room(payload.len()).await?;
        }
        self.meta.inner.poison.check()?;
        Ok(Prepared { txn: self, payload })
    }

    /// All records as one transaction; none when nothing changed.
    fn encode(&mut self) -> Option<Vec<u8>> {
        let volume = self.meta.inner.options.volume;
        for at in &self.forgotten {
            self.changes.remove(at);
        }
        let mut deltas = Vec::with_capacity(self.changes.len());
        let mut bytes = self.data_bytes as usize;
        self.changes.retain(|&at, change| {
            let image = change.after.get_mut().expect("a private image has one owner");
            let delta = Delta::between(change.before.as_deref(), image, false);
            let changed = !delta.is_nothing();
            if changed {
                bytes += delta.record_bytes();
                deltas.push((delta, block::seal(image, at, volume)));
            }
            changed
        });
        let count = self.changes.len() + self.data.len();
        if count == 0 {
            return None;
        }
        let mut payload = log_record::begin_transaction(bytes);
        for ((&at, change), (delta, crc)) in self.changes.iter().zip(deltas) {
            delta.encode(&mut payload, at, &change.after, crc);
        }
        for DataChange { at, image, .. } in &self.data {
            image.delta.encode(&mut payload, *at, &image.after, image.sum);
        }
        log_record::end_transaction(&mut payload, count as u32);
        Some(payload)
    }
}

impl BlockRead for MetaTxn {
    async fn block(&self, at: BlockNo, kind: BlockKind) -> Result<Buffer> {
        match self.changes.get(&at) {
            Some(change) => {
                assert_eq!(change.kind, kind, "block {at} is changed as another kind");
                // Shared; `copy` makes another one to change while somebody holds it.
                Ok(change.after.clone())
            }
            None => self.meta.load(at, kind).await,
        }
    }

    fn root(&self) -> &Root {
        &self.root
    }
}

impl BlockWrite for MetaTxn {
    async fn modify(&mut self, at: BlockNo, kind: BlockKind) -> Result<&mut [u8]> {
        self.copy(at, kind).await?;
        let found = self.changes[&at].kind;
        assert_eq!(found, kind, "block {at} is changed as another kind");
        Ok(self.body_of(at))
    }

    async fn create(&mut self, at: BlockNo, kind: BlockKind) -> Result<&mut [u8]> {
        let mut after = self.meta.inner.memory.allocate(0, Purpose::Reserved).await?;
        let bytes = after.get_mut().expect("a fresh buffer has one owner");
        block::init(bytes, kind, at, self.meta.inner.options.volume);
        self.forgotten.retain(|gone| *gone != at);
        self.changes.insert(at, Change { before: None, after, kind });
        Ok(self.body_of(at))
    }

    fn forget(&mut self, at: BlockNo) {
        self.changes.remove(&at);
        self.forgotten.push(at);
    }

    fn root_mut(&mut self) -> &mut Root {
        &mut self.root
    }
}

impl Prepared {
    /// Commits; the number of the transaction. See [`Prepared::commit_with`].
    pub fn commit(self) -> Lsn {
        self.commit_with(|_| {})
    }

    /// Commits, and runs `note` before anybody else can look at the new state.
    ///
    /// Synchronous: there is no moment in which the transaction is accepted and not visible. A
    /// transaction that changed nothing gets the number of the last one.
    pub fn commit_with(self, note: impl FnOnce(Lsn)) -> Lsn {
        let Self { txn, payload } = self;
        let inner = txn.meta.inner.clone();
        let mut blocks = inner.blocks.lock();
        // With the blocks locked: a checkpoint that sees the log's new end also sees these images.
        let lsn = match payload {
            Some(payload) => inner.journal.append(payload),
            None => inner.journal.last(),
        };
        for at in txn.forgotten {
            blocks.cache.remove(at);
        }
        for (at, change) in txn.changes {
            blocks.cache.put(at, change.after.clone());
            blocks.table.put(at, lsn, change.after, Logged::Metadata, None);
        }
        for data in txn.data {
            // The block may have held metadata in an earlier life.
            blocks.cache.remove(data.at);
            blocks.table.put(data.at, lsn, data.image.after, Logged::Data, data.mark);
        }
        if txn.root != *txn.committed_root {
            blocks.root = Arc::new(txn.root);
        }
        let full = blocks.table.images() > inner.options.table_blocks_max;
        note(lsn);
        drop(blocks);
        if full || inner.journal.is_half_full() {
            inner.bell.notify_one();
        }
        drop((txn.guard, txn.order));
        lsn
    }
}
