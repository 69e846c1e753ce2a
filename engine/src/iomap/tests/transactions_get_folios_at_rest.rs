//! `lock_uptodate` gives locked, current folios without writeback in flight, and does not
//! deadlock against a batch that is being collected.

use std::sync::Arc;

use crate::iomap::pause::Point;
use crate::iomap::testkit::block_on;
use crate::iomap::testkit::mock_room;
use crate::units::BLOCK;
use crate::units::FileBlocks;

#[test]
fn chosen_blocks_are_locked_and_hold_the_newest_bytes() {
    block_on(async {
        let room = mock_room();
        for block in 0..40 {
            room.mapped.write_at(block * BLOCK, &[block as u8; BLOCK as usize]).await.unwrap();
        }
        room.settle().await;
        room.evict();
        room.mapped.write_at(7 * BLOCK, &[0x99]).await.unwrap();
        let held = room.mapped.ranges().exclusive(0..40).await;
        let blocks = [1, 2, 7, 30, 31];
        let folios = room.mapped.lock_uptodate(&blocks).await.unwrap();
        for pair in folios.windows(2) {
            assert!(pair[0].span().end <= pair[1].span().start, "ascending");
        }
        for block in blocks {
            let folio = folios.iter().find(|f| f.span().start <= block && block < f.span().end);
            let folio = folio.unwrap();
            assert!(room.mapped.cache().find(block).unwrap().try_lock().is_none());
            let mut bytes = vec![0; BLOCK as usize];
            let within = (block - folio.span().start) * BLOCK;
            assert!(folio.read_at(within as usize, &mut bytes));
            assert_eq!(bytes[0], if block == 7 { 0x99 } else { block as u8 });
            assert_eq!(bytes[4095], block as u8);
        }
        drop((folios, held));
        room.expect_balance();
    });
}

#[test]
fn writeback_in_flight_is_waited_for_and_no_batch_waits_for_us_meanwhile() {
    block_on(async {
        let room = mock_room();
        room.mapped.write_at(0, &[1; BLOCK as usize]).await.unwrap();
        room.mapped.write_at(50 * BLOCK, &[1; BLOCK as usize]).await.unwrap();
        let hold = room.mapped.pauses().hold(Point::BeforeWritebackMapping);
        let mapped = Arc::clone(&room.mapped);
        let all = FileBlocks::new(0, u64::MAX);
        let writeback = tokio::spawn(async move { mapped.write_back(all).await });
        hold.reached().await;
        let mapped = Arc::clone(&room.mapped);
        let locking = tokio::spawn(async move { mapped.lock_uptodate(&[0, 50]).await });
        for _ in 0..20 {
            tokio::task::yield_now().await;
        }
        assert!(!locking.is_finished(), "writeback of block 0 has not ended");
        drop(hold);
        let folios = locking.await.unwrap().unwrap();
        assert_eq!(folios.len(), 2);
        drop(folios);
        writeback.await.unwrap().unwrap();
        room.expect_balance();
    });
}

#[test]
fn a_batch_does_not_wait_for_a_later_folio_while_it_holds_an_earlier_image() {
    block_on(async {
        let room = mock_room();
        room.mapped.write_at(0, &[1; BLOCK as usize]).await.unwrap();
        room.mapped.write_at(50 * BLOCK, &[1; BLOCK as usize]).await.unwrap();
        let later = room.mapped.cache().find(50).unwrap().lock().await;
        let all = FileBlocks::new(0, u64::MAX);
        let first = room.mapped.write_back_batch(all).await.unwrap().unwrap();
        assert_eq!((first.blocks, first.end), (1, 1));
        drop(later);
        room.settle().await;
        room.expect_balance();
    });
}
