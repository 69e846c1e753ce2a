//! A change of a folio whose memory a reader shares, with no other piece of that size to be had: it goes on as
//! soon as the reader lets go.
//!
//! The reader was a client of a server, slow to fetch its answer from a folio of 2 MiB. Who changed a byte of
//! that folio waited for 2 MiB in one piece, and failed after thirty seconds, although the memory of the folio
//! had been its own again all the while.

use std::time::Duration;

use foliant_device::Segment;
use tokio::time::Instant;

use crate::iomap::ahead::Reader;
use crate::iomap::mock::MockProvider;
use crate::iomap::testkit::Room;
use crate::iomap::testkit::block_on;
use crate::iomap::testkit::small_room;
use crate::kit::memory::Purpose;
use crate::units::BLOCK;
use crate::units::BLOCK_BYTES;

const ORDER: u8 = 4;
const BYTES: usize = BLOCK_BYTES << ORDER;
const HOLD: Duration = Duration::from_secs(1);

/// A clean folio of sixteen blocks, pinned, and not one piece of that size free: only single blocks.
async fn pinned(room: &Room<MockProvider>) -> (Segment, Vec<foliant_device::Buffer>) {
    room.mapped.write_at(0, &vec![5; BYTES]).await.unwrap();
    room.settle().await;
    let folio = room.mapped.cache().find(0).expect("it was just written");
    assert_eq!(folio.order(), ORDER);
    let pin = room.mapped.read_shared(&Reader::default(), 0..BLOCK).await.unwrap().unwrap();
    let memory = &room.mapped.memory;
    let mut taken: Vec<_> =
        std::iter::from_fn(|| memory.try_at_once(0, Purpose::Reserved)).collect();
    // Every second one of some, so that changes of other kinds find their blocks.
    let mut kept = taken.split_off(taken.len() / 2);
    kept.extend(taken.into_iter().step_by(2));
    assert!(memory.try_at_once(ORDER, Purpose::Reserved).is_none(), "a large piece is free");
    (pin, kept)
}

/// Runs `change` beside a reader who lets go after [`HOLD`]: it waits for that, and for nothing else.
async fn expect_prompt(pin: Segment, change: impl Future<Output = ()>) {
    let start = Instant::now();
    let reader = async {
        tokio::time::sleep(HOLD).await;
        assert_eq!(pin[0], 5, "pinned bytes never change");
        drop(pin);
    };
    tokio::join!(reader, change);
    let took = start.elapsed();
    assert!(took >= HOLD, "it did not need the reader's memory: {took:?}");
    assert!(took < 2 * HOLD, "it waited for memory that it did not need: {took:?}");
}

#[test]
fn a_write_goes_on() {
    block_on(async {
        let room = small_room();
        let (pin, _taken) = pinned(&room).await;
        let write = async { room.mapped.write_at(10, &[7; 10]).await.map(drop).unwrap() };
        expect_prompt(pin, write).await;
        let mut bytes = [0; 30];
        room.mapped.read_at(0, &mut bytes).await.unwrap();
        assert_eq!(bytes, [[5; 10], [7; 10], [5; 10]].concat()[..]);
    });
}

#[test]
fn a_truncate_goes_on() {
    block_on(async {
        let room = small_room();
        let (pin, _taken) = pinned(&room).await;
        expect_prompt(pin, room.truncate(100)).await;
        room.truncate(200).await;
        let mut bytes = [9; 200];
        assert_eq!(room.mapped.read_at(0, &mut bytes).await.unwrap(), 200);
        assert_eq!(bytes, [[5; 100], [0; 100]].concat()[..]);
    });
}
