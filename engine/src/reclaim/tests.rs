//! Reclaim over real folios: what goes first, what stays, and that it is bounded.

use std::sync::Arc;

use crate::folio::cache::MappingCache;
use crate::folio::dirty::DirtyLimits;
use crate::kit::memory::Memory;
use crate::kit::memory::Purpose;
use crate::kit::memory::Reclaimer;
use crate::reclaim::Reclaim;
use crate::units::BLOCK_BYTES;
use crate::units::ObjectId;

struct Room {
    memory: Memory,
    reclaim: Arc<Reclaim>,
    cache: MappingCache,
}

fn room() -> Room {
    let memory = Memory::new(8 << 20).unwrap();
    let limits = DirtyLimits::new(memory.capacity_blocks());
    let reclaim = Reclaim::new(memory.clone());
    let cache = MappingCache::new(ObjectId(1), limits, reclaim.residents());
    Room { memory, reclaim, cache }
}

impl Room {
    async fn fill(&self, block: u64) {
        let (lock, fresh) = self.cache.find_or_create(block, 0, &self.memory).await.unwrap();
        assert!(fresh);
        lock.write(0, &[block as u8; BLOCK_BYTES], None);
    }

    /// Reads the block if it is cached.
    fn read(&self, block: u64) -> bool {
        self.cache.read_hit(block * BLOCK_BYTES as u64, &mut [0; 16])
    }
}

#[tokio::test]
async fn a_scan_does_not_drive_out_what_is_used_again_and_again() {
    let room = room();
    for block in 0..100 {
        room.fill(block).await;
    }
    for _ in 0..3 {
        assert!((0..100).all(|block| room.read(block)));
    }
    // Twice the memory passes by, each block once; the allocator reclaims as it goes.
    for block in 1_000..1_000 + 2 * room.memory.capacity_blocks() as u64 {
        room.fill(block).await;
    }
    let kept = (0..100).filter(|&block| room.read(block)).count();
    assert!(kept >= 90, "only {kept} of 100 hot folios survived a scan");
    assert!(room.reclaim.stats().evicted > room.memory.capacity_blocks() as u64 / 2);
}

#[tokio::test]
async fn dirty_folios_stay_and_a_call_looks_at_a_bounded_number() {
    let room = room();
    for block in 0..1_500 {
        room.fill(block).await;
        let lock = room.cache.find_locked(block).await.unwrap();
        assert_eq!(lock.mark_dirty(0..1), 1);
    }
    assert_eq!(room.reclaim.reclaim(32), 0);
    let stats = room.reclaim.stats();
    assert!(stats.unclean > 0 && stats.examined <= 1_024, "{stats:?}");
    let cleaned = room.cache.find_locked(7).await.unwrap().clear_dirty(0..1);
    assert_eq!(cleaned, 1);
    let freed: usize = (0..4).map(|_| room.reclaim.reclaim(1)).sum();
    assert_eq!(freed, 1, "the clean one is found within a few calls");
    assert!(!room.read(7) && room.read(8));
}

/// Random overwrites beyond the memory spent 60 % of the processor on folios that were dirty or on their
/// way: whoever waited for memory looked at a thousand of them whenever anything was freed.
#[tokio::test]
async fn when_every_folio_was_met_in_vain_looks_are_short_until_one_goes() {
    let room = room();
    for block in 0..1_200 {
        room.fill(block).await;
        let lock = room.cache.find_locked(block).await.unwrap();
        assert_eq!(lock.mark_dirty(0..1), 1);
    }
    let look = |blocks| {
        let before = room.reclaim.stats().examined;
        let freed = room.reclaim.reclaim(blocks);
        (freed, room.reclaim.stats().examined - before)
    };
    assert_eq!(look(32), (0, 1_024), "long at first: clean ones may be behind these");
    (0..4).for_each(|_| _ = look(32));
    assert_eq!(look(32), (0, 64), "all were met, hot ones often enough");
    let cleaned = room.cache.find_locked(7).await.unwrap().clear_dirty(0..1);
    assert_eq!(cleaned, 1);
    let in_vain = (0..4 * 1_200 / 64).take_while(|_| look(1).0 == 0).count();
    assert!(in_vain < 4 * 1_200 / 64, "short looks come to the clean one all the same");
    assert_eq!(look(32), (0, 1_024), "and then they are long again");
}

#[tokio::test]
async fn the_budget_is_never_exceeded_and_waiting_allocations_are_served_by_reclaim() {
    let room = room();
    for block in 0..10_000 {
        room.fill(block).await;
        let used = room.memory.capacity_blocks() - room.memory.free_blocks();
        assert!(used <= room.memory.capacity_blocks() - room.memory.reserve_blocks());
    }
    let order = 6;
    let large = room.memory.allocate(order, Purpose::Reserved).await.unwrap();
    assert_eq!(large.blocks(), 1 << order);
}
