//! Foliant itself: one object of a store, through the public API alone.

use std::sync::Arc;

use anyhow::Context;
use anyhow::Result;
use anyhow::ensure;
use foliant::Engine;
use foliant::ErrorKind;
use foliant::Object;
use foliant_device::wrap::count::Counters as Counted;

use crate::target::Counters;
use crate::target::Place;
use crate::target::Recovery;
use crate::target::Target;
use crate::targets::open_counted;

const OBJECT: &str = "bench";

/// An open store and its one object.
#[derive(Clone)]
pub struct Foliant {
    engine: Engine,
    object: Object,
    counted: Arc<Counted>,
}

impl Foliant {
    /// The one object, for loops that are too short for a harness around each operation.
    pub fn object(&self) -> &Object {
        &self.object
    }

    /// The engine, for its figures.
    pub fn engine(&self) -> &Engine {
        &self.engine
    }
}

impl Target for Foliant {
    const NAME: &'static str = "foliant";
    const CACHES: bool = true;

    async fn make(place: &Place) -> Result<()> {
        let format = Engine::format(&place.path).force(true);
        let format = match place.device {
            true => format,
            false => format.size_bytes(place.store),
        };
        format.run().await.context("formatting the store")
    }

    async fn open(place: &Place) -> Result<Self> {
        let (device, counted) = open_counted(place, None).await?;
        let options = Engine::open_device(device).memory_bytes(place.memory);
        let engine = options.run().await.context("opening the store")?;
        let object = match engine.object(OBJECT).await {
            Err(e) if e.kind() == ErrorKind::NotFound => engine.create(OBJECT).await,
            found => found,
        };
        let object = object.context("opening the object")?;
        Ok(Self { engine, object, counted })
    }

    fn size(&self) -> u64 {
        self.object.size()
    }

    async fn read<F>(&self, offset: u64, scratch: &mut [u8], see: F) -> Result<()>
    where
        F: FnOnce(&[u8]) + Send,
    {
        let count = self.object.read_at(offset, scratch).await?;
        ensure!(count == scratch.len(), "short read of {count} bytes at byte {offset}");
        see(scratch);
        Ok(())
    }

    async fn write<F>(&self, offset: u64, scratch: &mut [u8], fill: F) -> Result<()>
    where
        F: FnOnce(&mut [u8]) + Send,
    {
        fill(scratch);
        Ok(self.object.write_at(offset, scratch).await?)
    }

    async fn commit<F>(&self, offset: u64, scratch: &mut [u8], fill: F) -> Result<()>
    where
        F: FnOnce(&mut [u8]) + Send,
    {
        fill(scratch);
        let mut transaction = self.engine.transaction();
        transaction.write_at(&self.object, offset, scratch)?;
        let commit = transaction.commit().await?;
        Ok(commit.durable().await?)
    }

    async fn sync(&self) -> Result<()> {
        Ok(self.object.sync().await?)
    }

    fn counters(&self) -> Counters {
        let stats = self.engine.stats();
        Counters {
            device: Some(self.counted.snapshot()),
            cache_hits: Some(stats.cache_hits),
            cache_misses: Some(stats.cache_misses),
            commits: Some(stats.commits),
            commit_groups: Some(stats.commit_groups),
            checkpoints: Some(stats.checkpoints),
        }
    }

    fn backend(&self) -> String {
        let info = self.engine.backend();
        format!("{} ({})", info.name, info.reason)
    }

    fn recovery(&self) -> Option<Recovery> {
        let report = self.engine.recovery();
        Some(Recovery {
            transactions: report.transactions,
            bytes_replayed: report.bytes_replayed,
            blocks_written_home: report.blocks_written_home,
            elapsed_ms: report.elapsed_ns as f64 / 1e6,
        })
    }

    async fn close(self) -> Result<()> {
        drop(self.object);
        self.engine.close().await.context("closing the store")
    }
}
