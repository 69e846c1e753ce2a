//! Folios, their lock, and what may be dropped: over a cache without objects around it.

use std::sync::Arc;
use std::time::Duration;

use foliant_device::Buffer;

use super::cache::MappingCache;
use super::dirty::DirtyLimits;
use super::evict::Refusal;
use super::evict::try_evict;
use super::lock::FolioLock;
use crate::kit::memory::Memory;
use crate::kit::memory::Purpose;
use crate::units::BLOCK_BYTES;
use crate::units::FileBlocks;
use crate::units::Lsn;
use crate::units::ObjectId;

fn room() -> (MappingCache, Memory, DirtyLimits) {
    let memory = Memory::new(8 << 20).unwrap();
    let limits = DirtyLimits::new(memory.capacity_blocks());
    let cache = MappingCache::new(ObjectId(1), limits.clone(), Arc::new(()));
    (cache, memory, limits)
}

/// A locked folio of 2^order blocks from `block` on, all bytes `value`, up to date and clean.
async fn filled(
    cache: &MappingCache,
    memory: &Memory,
    block: u64,
    order: u8,
    value: u8,
) -> FolioLock {
    let (lock, fresh) = cache.find_or_create(block, order, memory).await.unwrap();
    assert!(fresh);
    lock.write(0, &vec![value; BLOCK_BYTES << order], None);
    lock
}

fn spare(memory: &Memory, order: u8) -> Option<Buffer> {
    Some(memory.try_allocate(order, Purpose::Data).unwrap())
}

fn refusal(cache: &MappingCache, block: u64) -> Refusal {
    try_evict(cache.find(block).unwrap()).unwrap_err()
}

#[tokio::test]
async fn reclaim_drops_a_clean_folio_and_its_memory_comes_back() {
    let (cache, memory, _) = room();
    let before = memory.free_blocks();
    drop(filled(&cache, &memory, 8, 2, 7).await);
    assert_eq!(memory.free_blocks(), before - 4);
    assert_eq!(try_evict(cache.find(8).unwrap()), Ok(4));
    assert_eq!(memory.free_blocks(), before);
    assert!(cache.find(8).is_none());
}

#[tokio::test]
async fn reclaim_respects_the_lock_of_a_folio() {
    let (cache, memory, _) = room();
    let lock = filled(&cache, &memory, 0, 0, 7).await;
    assert_eq!(refusal(&cache, 0), Refusal::Locked);
    drop(lock);
    assert_eq!(try_evict(cache.find(0).unwrap()), Ok(1));
}

#[tokio::test]
async fn reclaim_leaves_what_is_dirty_under_writeback_marked_referenced_or_shared() {
    let (cache, memory, _) = room();
    let lock = filled(&cache, &memory, 0, 0, 7).await;
    assert_eq!(lock.mark_dirty(0..1), 1);
    drop(lock);
    assert_eq!(refusal(&cache, 0), Refusal::Dirty);
    let folio = cache.find(0).unwrap();
    let mut images = Vec::new();
    assert_eq!(folio.lock().await.begin_writeback(0..1, &mut images), 1);
    assert_eq!(refusal(&cache, 0), Refusal::Referenced);
    drop(folio);
    assert_eq!(refusal(&cache, 0), Refusal::Writeback);
    assert_eq!(cache.find(0).unwrap().end_writeback(0..1, true), 0);
    assert_eq!(refusal(&cache, 0), Refusal::Shared, "the device still holds the image");
    drop(images);
    cache.find(0).unwrap().lock().await.mark_journal(0, Lsn(5));
    assert_eq!(refusal(&cache, 0), Refusal::Marked);
    cache.find(0).unwrap().clear_journal(0, Lsn(4));
    assert_eq!(refusal(&cache, 0), Refusal::Marked, "a newer record is not home");
    cache.find(0).unwrap().clear_journal(0, Lsn(5));
    assert_eq!(try_evict(cache.find(0).unwrap()), Ok(1));
}

#[tokio::test]
async fn bytes_never_change_under_a_reader() {
    let (cache, memory, _) = room();
    drop(filled(&cache, &memory, 0, 1, 7).await);
    let folio = cache.find(0).unwrap();
    let pinned = folio.share(100..200).unwrap();
    let mut lock = folio.lock().await;
    assert!(lock.needs_spare());
    assert!(folio.share(0..1).is_none(), "somebody is about to change the bytes");
    lock.write(150, &[9; 10], spare(&memory, 1));
    drop(lock);
    assert!(pinned.iter().all(|&byte| byte == 7));
    let mut now = [0; 100];
    assert!(folio.read_at(100, &mut now));
    assert_eq!((now[49], now[50], now[59], now[60]), (7, 9, 9, 7));
}

#[tokio::test]
async fn an_image_under_writeback_is_not_torn_by_a_writer() {
    let (cache, memory, limits) = room();
    let lock = filled(&cache, &memory, 0, 0, 1).await;
    assert_eq!(lock.mark_dirty(0..1), 1);
    let mut images = Vec::new();
    lock.begin_writeback(0..1, &mut images);
    lock.write(0, &[2; 10], spare(&memory, 0));
    assert_eq!(lock.mark_dirty(0..1), 1, "the newer bytes hold a promise of their own");
    assert!(images[0].1.iter().all(|&byte| byte == 1));
    assert_eq!((limits.dirty(), limits.writeback()), (1, 1));
    assert_eq!(lock.folio().end_writeback(0..1, false), 1, "two promises became one");
    assert_eq!((limits.dirty(), limits.writeback()), (1, 0));
}

#[tokio::test]
#[should_panic(expected = "is changed in part and is not up to date")]
async fn a_part_of_an_unknown_block_cannot_be_changed() {
    let (cache, memory, _) = room();
    let (lock, _) = cache.find_or_create(0, 0, &memory).await.unwrap();
    lock.write(10, &[1; 10], None);
}

#[tokio::test]
async fn a_folio_that_left_while_its_lock_was_waited_for_is_looked_up_again() {
    let (cache, memory, _) = room();
    let lock = filled(&cache, &memory, 3, 0, 7).await;
    let waiting = {
        let cache = cache.clone();
        tokio::spawn(async move { cache.find_locked(3).await.is_some() })
    };
    tokio::time::sleep(Duration::from_millis(5)).await;
    assert_eq!(lock.detach(), 0);
    drop(lock);
    assert!(!waiting.await.unwrap(), "a detached folio was handed out");
}

#[tokio::test]
async fn a_cut_through_a_large_folio_forgets_its_part_and_says_what_was_dirty() {
    let (cache, memory, limits) = room();
    let lock = filled(&cache, &memory, 0, 2, 7).await;
    assert_eq!(lock.mark_dirty(0..4), 4);
    drop(lock);
    let mut dropped = 0;
    let range = FileBlocks::new(2, u64::MAX);
    cache.drop_range_into(range, |blocks| dropped += blocks).await.unwrap();
    assert_eq!((dropped, limits.dirty()), (2, 2));
    let folio = cache.find(0).unwrap();
    assert!(folio.is_uptodate(0..2) && !folio.is_uptodate(2..3));
    drop(folio);
    drop(cache);
    assert_eq!(limits.dirty(), 0, "a cache that goes takes its counts along");
    assert_eq!(memory.free_blocks(), memory.capacity_blocks());
}

/// Writers, readers and reclaim on real threads: nobody ever sees a byte that was not written, and
/// what is dirty is never lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn writers_and_reclaim_on_many_threads_lose_nothing() {
    let (cache, memory, _) = room();
    let written: Vec<_> = (0..4_u64)
        .map(|task| {
            let (cache, memory) = (cache.clone(), memory.clone());
            tokio::spawn(async move {
                for round in 0..500_u64 {
                    let block = task * 8 + round % 8;
                    let (lock, _) = cache.find_or_create(block, 0, &memory).await.unwrap();
                    lock.write(0, &[round as u8; BLOCK_BYTES], spare(&memory, 0));
                    let _ = lock.mark_dirty(0..1);
                    drop(lock);
                    tokio::task::yield_now().await;
                    let folio = cache.find(block).expect("a dirty folio stays");
                    let mut seen = [0; BLOCK_BYTES];
                    assert!(folio.read_at(0, &mut seen), "dirty bytes were dropped");
                    assert!(seen.iter().all(|&byte| byte == round as u8), "bytes of another round");
                    let lock = folio.lock().await;
                    let _ = lock.clear_dirty(0..1);
                }
            })
        })
        .collect();
    let reclaiming = {
        let cache = cache.clone();
        tokio::spawn(async move {
            let mut won = 0;
            for round in 0..20_000_u64 {
                won += cache.find(round % 32).map_or(0, |folio| try_evict(folio).unwrap_or(0));
                if round % 64 == 0 {
                    tokio::task::yield_now().await;
                }
            }
            won
        })
    };
    for task in written {
        task.await.unwrap();
    }
    assert!(reclaiming.await.unwrap() > 0, "reclaim never met a clean folio");
}
