//! The simplest provider: a range of the device as one object, offset = address.
//!
//! Guarantees the treaty trivially: mappings never change, so none is ever stale, and every block
//! has its place, so promises cost nothing. With it the data wing is a write-back cache over any
//! device: the proof that the seam does not leak.
//!
//! Does not flush and keeps no size on the device: who needs stability flushes the device after
//! writeback. Called by tests and by who wants a cache over a bare device.

use crate::error::Error;
use crate::error::ErrorKind;
use crate::error::Result;
use crate::iomap::contract::Cookie;
use crate::iomap::contract::MapIntent;
use crate::iomap::contract::MapKind;
use crate::iomap::contract::Mapping;
use crate::iomap::contract::MappingProvider;
use crate::iomap::contract::PlacedRun;
use crate::iomap::contract::Placement;
use crate::iomap::contract::Target;
use crate::kit::sync::atomic::AtomicU64;
use crate::kit::sync::atomic::Ordering;
use crate::units::DeviceSpan;
use crate::units::FileBlocks;

/// Maps an object onto a span of the device.
#[derive(Debug)]
pub struct IdentityProvider {
    span: DeviceSpan,
    size: AtomicU64,
    durable_size: AtomicU64,
    /// Batches written, each in place.
    batches: AtomicU64,
}

impl IdentityProvider {
    /// The blocks of `span` as an object of `size` bytes.
    pub fn new(span: DeviceSpan, size: u64) -> Self {
        Self {
            span,
            size: AtomicU64::new(size),
            durable_size: AtomicU64::new(size),
            batches: AtomicU64::new(0),
        }
    }

    /// Sets a smaller size; called where `Mapped::cut` says.
    pub fn shrink(&self, size: u64) {
        self.size.store(size, Ordering::Release);
        self.durable_size.fetch_min(size, Ordering::AcqRel);
    }
}

impl MappingProvider for IdentityProvider {
    type Batch = ();

    fn size(&self) -> u64 {
        self.size.load(Ordering::Acquire)
    }

    fn durable_size(&self) -> u64 {
        self.durable_size.load(Ordering::Acquire)
    }

    fn publish_size(&self, end: u64) {
        self.size.fetch_max(end, Ordering::AcqRel);
    }

    async fn map_begin(&self, blocks: FileBlocks, intent: MapIntent) -> Result<Mapping> {
        if blocks.end > self.span.blocks {
            let why = format!("the device span ends at block {}", self.span.blocks);
            return Err(Error::new(ErrorKind::NoSpace, why));
        }
        let kind = MapKind::Mapped { at: self.span.start.plus(blocks.start), checksums: None };
        Ok(Mapping {
            blocks,
            kind,
            cookie: Cookie::default(),
            promised: if intent.promises() { blocks.len() } else { 0 },
        })
    }

    fn map_end(&self, _: &Mapping, _: u64) {}

    fn mapping_is_current(&self, _: &Mapping) -> bool {
        true
    }

    fn may_write(&self) -> Result<()> {
        Ok(())
    }

    fn contents_cookie(&self, _: FileBlocks) -> Cookie {
        Cookie(self.batches.load(Ordering::Acquire))
    }

    fn forget_dirty(&self, _: u64) {}

    async fn map_writeback(&self, runs: &[FileBlocks], _: u64) -> Result<((), Vec<Placement>)> {
        let place = |&blocks: &FileBlocks| {
            let target = Target::Device(self.span.start.plus(blocks.start));
            Placement { blocks, target }
        };
        Ok(((), runs.iter().map(place).collect()))
    }

    async fn writeback_done(&self, (): (), _: Vec<PlacedRun>, settled_size: u64) -> Result<()> {
        self.batches.fetch_add(1, Ordering::AcqRel);
        self.durable_size.fetch_max(settled_size, Ordering::AcqRel);
        Ok(())
    }
}
