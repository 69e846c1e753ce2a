//! One object over the mock provider, small, with the engine's own reclaim.
//!
//! Guarantees nothing of its own. Called by the models.

use std::sync::Arc;

use foliant_device::Arena;

use crate::folio::cache::MappingCache;
use crate::folio::dirty::DirtyLimits;
use crate::iomap::bundle::Mapped;
use crate::iomap::bundle::Parts;
use crate::iomap::contract::MappingProvider;
use crate::iomap::mock::MockProvider;
use crate::iomap::testkit::Room;
use crate::iomap::testkit::TestTransport;
use crate::iomap::testkit::give_way;
use crate::kit::memory::Memory;
use crate::kit::memory::Reclaimer;
use crate::kit::range_lock::RangeLock;
use crate::reclaim::shrink::Reclaim;
use crate::units::BLOCK;
use crate::units::BLOCK_BYTES;
use crate::units::FileBlocks;
use crate::units::ObjectId;

const DEVICE_BLOCKS: u64 = 64;
const MEMORY_BLOCKS: usize = 64;

/// A budget as small as a run needs: its pages are made anew for each schedule.
pub fn small_memory() -> Memory {
    Memory::over(Arena::new(MEMORY_BLOCKS * BLOCK_BYTES).unwrap())
}

/// All blocks.
pub const ALL: FileBlocks = FileBlocks { start: 0, end: u64::MAX };

/// The scenery of one run.
pub struct Stage {
    /// The object.
    pub room: Room<MockProvider>,
    /// The engine's reclaim over its folios.
    pub reclaim: Arc<Reclaim>,
    /// Their budget.
    pub memory: Memory,
}

impl Stage {
    /// An empty object.
    pub fn new() -> Arc<Self> {
        let memory = small_memory();
        let reclaim = Reclaim::new(memory.clone());
        let provider = Arc::new(MockProvider::new(DEVICE_BLOCKS));
        let transport = TestTransport::new(DEVICE_BLOCKS);
        let dirty = DirtyLimits::new(memory.capacity_blocks());
        let parts = Parts {
            provider: Arc::clone(&provider),
            cache: MappingCache::new(ObjectId(1), dirty.clone(), reclaim.residents()),
            ranges: RangeLock::new(),
            transport: transport.clone(),
            memory: memory.clone(),
            dirty,
        };
        let room = Room { mapped: Arc::new(Mapped::new(parts)), provider, transport };
        Arc::new(Self { room, reclaim, memory })
    }

    /// The object becomes `blocks` blocks of `byte`, on the device and not in the cache.
    pub async fn fill(&self, blocks: u64, byte: u8) {
        let bytes = vec![byte; (blocks * BLOCK) as usize];
        self.room.mapped.write_at(0, &bytes).await.unwrap();
        self.room.settle().await;
        self.room.evict();
        assert!(self.room.mapped.cache().find(0).is_none(), "a clean folio stays");
    }

    /// What the object holds must be `expected`: now, and when it is read from the device.
    pub async fn expect(&self, expected: &[u8]) {
        assert_eq!(self.room.provider.size(), expected.len() as u64, "the size");
        assert!(self.room.content().await == expected, "bytes in the cache");
        self.room.settle().await;
        self.room.evict();
        assert!(self.room.content().await == expected, "bytes from the device");
        self.expect_balance();
    }

    /// Nothing is locked, open, claimed or promised.
    pub fn expect_balance(&self) {
        self.room.expect_balance();
        assert_eq!(self.room.provider.counts().promised, 0, "promises at rest");
    }

    /// Reclaims what can be, `times` times.
    pub async fn reclaim(&self, times: usize) {
        for _ in 0..times {
            self.reclaim.reclaim(1);
            give_way().await;
        }
    }

    /// Writes back, `times` times, whatever the device says.
    pub async fn write_back(&self, times: usize) {
        for _ in 0..times {
            let _ = self.room.mapped.write_back_batch(ALL).await;
        }
    }
}
