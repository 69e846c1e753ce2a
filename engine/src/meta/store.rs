//! The metadata blocks of an open volume.
//!
//! Guarantees: an image that is handed out passed its checksum; readers that hold the shared lock see
//! one committed state; a transaction is installed in the table and in the log in one step, so that no
//! checkpoint can move the tail over a record whose block it does not know.
//!
//! Does not know what blocks mean. Called by everything above; assembled by `volume`.

use std::sync::Arc;

use foliant_device::BLOCK_SIZE;
use foliant_device::Buffer;
use foliant_device::Device;
use foliant_device::Persist;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::sync::RwLock;
use tokio::sync::watch;

use crate::error::Result;
use crate::format::block;
use crate::format::block::BODY;
use crate::format::block::BlockKind;
use crate::format::root::Root;
use crate::journal::Journal;
use crate::kit::memory::Memory;
use crate::kit::memory::Purpose;
use crate::kit::poison::Poison;
use crate::meta::cache::Evicted;
use crate::meta::cache::ImageCache;
use crate::meta::flushes::Flushes;
use crate::meta::readback::Readback;
use crate::meta::table::Table;
use crate::units::BlockNo;
use crate::units::Lsn;

/// What a volume tells its metadata room.
#[derive(Debug, Clone)]
pub struct MetaOptions {
    /// Identity in every block.
    pub volume: u32,
    /// Where the root block is.
    pub root: BlockNo,
    /// Logged images that may be held before a checkpoint starts.
    pub table_blocks_max: usize,
}

impl MetaOptions {
    /// The usual share: logged images hold at most an eighth of the memory.
    pub fn for_volume(volume: u32, root: BlockNo, memory: &Memory) -> Self {
        Self { volume, root, table_blocks_max: memory.capacity_blocks() / 8 }
    }
}

/// Figures of the metadata room.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MetaStats {
    /// Transactions committed since open.
    pub transactions: u64,
    /// Journal groups written since open.
    pub groups: u64,
    /// Bytes of these groups.
    pub log_bytes: u64,
    /// Times the tail moved.
    pub checkpoints: u64,
    /// Metadata images in the cache.
    pub cached_blocks: usize,
    /// Logged images that are not home.
    pub logged_blocks: usize,
}

/// The metadata of an open volume; clones share it.
#[derive(Debug, Clone)]
pub struct Meta {
    pub(super) inner: Arc<Inner>,
}

#[derive(Debug)]
pub(super) struct Inner {
    pub(super) device: Device,
    pub(super) memory: Memory,
    pub(super) journal: Journal,
    pub(super) poison: Poison,
    pub(super) options: MetaOptions,
    /// One transaction, or many readers. Held across reads of blocks, so an async lock; fair, so that
    /// readers do not starve the writer.
    pub(super) lock: Arc<RwLock<()>>,
    /// Look-ups and installs; never across an await.
    pub(super) blocks: Mutex<Blocks>,
    /// One checkpoint at a time, with what it looks at homes with.
    pub(super) checkpoint: tokio::sync::Mutex<Readback>,
    /// Who waits for a flush of data.
    pub(super) flushes: Flushes,
    /// Rung when a checkpoint is worth it.
    pub(super) bell: Notify,
    /// Rounds that the checkpointer's loop has finished.
    pub(super) rounds: watch::Sender<u64>,
}

#[derive(Debug)]
pub(super) struct Blocks {
    pub(super) cache: ImageCache,
    pub(super) table: Table,
    pub(super) root: Arc<Root>,
}

impl Meta {
    /// Writes the first root block. Not durable before the caller's flush.
    ///
    /// Errors: `Device`, `OutOfMemory`.
    pub async fn format_root(
        device: &Device,
        memory: &Memory,
        volume: u32,
        at: BlockNo,
        root: &Root,
    ) -> Result<()> {
        let mut buffer = memory.allocate(0, Purpose::Reserved).await?;
        let image = buffer.get_mut().expect("a fresh buffer has one owner");
        block::init(&mut image[..BLOCK_SIZE], BlockKind::Root, at, volume);
        root.encode(&mut image[BODY..]);
        block::seal(image, at, volume);
        Ok(device.write(at.0, vec![buffer.into()], Persist::Cached).await?)
    }

    /// Opens the metadata after recovery; reads the root.
    ///
    /// Errors: `Corrupt`, `Device`, `OutOfMemory`.
    pub async fn open(
        device: &Device,
        memory: &Memory,
        journal: &Journal,
        poison: &Poison,
        options: MetaOptions,
    ) -> Result<Self> {
        let blocks = Blocks {
            cache: ImageCache::default(),
            table: Table::default(),
            root: Arc::new(Root::default()),
        };
        let inner = Inner {
            device: device.clone(),
            memory: memory.clone(),
            journal: journal.clone(),
            poison: poison.clone(),
            options,
            lock: Arc::new(RwLock::new(())),
            blocks: Mutex::new(blocks),
            checkpoint: tokio::sync::Mutex::new(Readback::new(memory).await?),
            flushes: Flushes::default(),
            bell: Notify::new(),
            rounds: watch::Sender::new(0),
        };
        let meta = Self { inner: Arc::new(inner) };
        let at = meta.inner.options.root;
        let image = meta.load(at, BlockKind::Root).await?;
        let root = Root::decode(&image[BODY..], at)?;
        meta.inner.blocks.lock().root = Arc::new(root);
        Ok(meta)
    }

    /// The committed image of `at`, from the cache, the table or the device.
    ///
    /// The caller holds the lock, shared or exclusive: no commit can fall between the read and the
    /// insertion into the cache. Errors: `Corrupt`, `Device`, `OutOfMemory`.
    pub(super) async fn load(&self, at: BlockNo, kind: BlockKind) -> Result<Buffer> {
        if let Some(image) = self.cached(at) {
            block::check_kind(&image, kind, at)?;
            return Ok(image);
        }
        let geometry = self.inner.device.geometry();
        if at.0 >= geometry.blocks {
            let why =
                format!("something points there, and the device has {} blocks", geometry.blocks);
            return Err(crate::error::Error::corrupt(kind.name(), at, why));
        }
        metrics::counter!("foliant_metadata_reads_total").increment(1);
        let into = vec![self.inner.memory.allocate(0, Purpose::Reserved).await?];
        let (mut buffers, outcome) = self.inner.device.read(at.0, into).await;
        outcome?;
        let image = buffers.pop().expect("a read gives its buffer back");
        block::verify(&image, kind, at, self.inner.options.volume)?;
        self.inner.blocks.lock().cache.put(at, image.clone());
        Ok(image)
    }

    fn cached(&self, at: BlockNo) -> Option<Buffer> {
        let mut blocks = self.inner.blocks.lock();
        match blocks.cache.get(at) {
            Some(image) => Some(image),
            None => blocks.table.image(at),
        }
    }

    /// Waits until the transaction `lsn` is durable. Errors: `WritesStopped`.
    pub async fn durable(&self, lsn: Lsn) -> Result<()> {
        self.inner.journal.durable(lsn).await
    }

    /// Everything up to this transaction is durable.
    pub fn durable_now(&self) -> Lsn {
        self.inner.journal.durable_now()
    }

    /// Everything up to this transaction is home: the tail has passed it.
    pub fn applied_now(&self) -> Lsn {
        self.inner.journal.applied()
    }

    /// Whether a record behind the tail names the block.
    pub fn is_logged(&self, at: BlockNo) -> bool {
        self.inner.blocks.lock().table.is_logged(at)
    }

    #[cfg(feature = "testing")]
    /// Whether nobody has the metadata lock, shared or alone.
    pub fn is_unlocked(&self) -> bool {
        self.inner.lock.try_write().is_ok()
    }

    /// The largest log payload of one transaction in bytes.
    pub fn payload_max(&self) -> u64 {
        self.inner.journal.payload_max()
    }

    /// Drops up to `count` clean metadata images. Never waits.
    pub fn evict(&self, count: usize) -> Evicted {
        let Some(mut blocks) = self.inner.blocks.try_lock() else { return Evicted::default() };
        let Blocks { cache, table, .. } = &mut *blocks;
        // An image that the table holds as well frees nothing by leaving the cache.
        cache.evict(count, |at| table.image(at).is_none())
    }

    /// Figures of this moment.
    pub fn stats(&self) -> MetaStats {
        let log = self.inner.journal.stats();
        let blocks = self.inner.blocks.lock();
        MetaStats {
            transactions: log.transactions,
            groups: log.groups,
            log_bytes: log.bytes,
            checkpoints: log.tail_moves,
            cached_blocks: blocks.cache.len(),
            logged_blocks: blocks.table.images(),
        }
    }
}
