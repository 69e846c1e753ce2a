//! The log from its writing side to its reading side, over a device in memory.

use std::time::Duration;

use foliant_device::Device;
use foliant_device::Persist;
use foliant_device::backend::mem::MemDevice;
use foliant_device::error::Operation;
use foliant_device::sim::Fault;
use foliant_device::sim::FaultRule;
use foliant_device::sim::SimDisk;
use foliant_device::sim::SimOptions;
use tokio_util::sync::CancellationToken;

use crate::format::journal_header::Slot;
use crate::format::layout::Layout;
use crate::journal::Journal;
use crate::journal::ring::Ring;
use crate::journal::scan::Scan;
use crate::journal::slots;
use crate::kit::canary::Canary;
use crate::kit::canary::break_on_purpose;
use crate::kit::memory::Memory;
use crate::kit::memory::Purpose;
use crate::kit::poison::Poison;
use crate::units::LogPosition;
use crate::units::Lsn;

const VOLUME: u32 = 77;

struct Room {
    device: Device,
    memory: Memory,
    layout: Layout,
}

impl Room {
    async fn new() -> Self {
        Self::over(Device::new(MemDevice::new(4096))).await
    }

    async fn over(device: Device) -> Self {
        let memory = Memory::new(8 << 20).unwrap();
        let layout = Layout::new(4096, 1024).unwrap();
        Journal::format(&device, &memory, &layout, VOLUME).await.unwrap();
        Self { device, memory, layout }
    }

    /// Appends payloads of these sizes, one group each, and waits until they are durable.
    async fn append(&self, slot: Slot, sizes: &[usize]) -> Journal {
        let (device, memory, layout) = (&self.device, &self.memory, &self.layout);
        let poison = Poison::new();
        let journal = Journal::open(device, memory, &poison, layout, VOLUME, slot).await.unwrap();
        let stop = CancellationToken::new();
        let running = tokio::spawn(journal.clone().run(stop.clone()));
        for (i, &size) in sizes.iter().enumerate() {
            journal.wait_for_room(size).await.unwrap();
            let lsn = journal.append(vec![i as u8 + 1; size]);
            assert_eq!(lsn, Lsn(i as u64 + 1));
            journal.durable(lsn).await.unwrap();
        }
        stop.cancel();
        running.await.unwrap();
        journal
    }

    /// First byte and length of each group that a recovery would find.
    async fn found(&self, slot: Slot) -> Vec<(u8, usize)> {
        let ring = Ring::new(self.layout.journal);
        let mut scan = Scan::new(&self.device, &self.memory, ring, VOLUME, slot);
        let mut found = Vec::new();
        while let Some(payload) = scan.next().await.unwrap() {
            found.push((payload[0], payload.len()));
        }
        found
    }
}

fn slot(epoch: u64) -> Slot {
    Slot { sequence: epoch, epoch, tail: LogPosition(0), next_group: 1 }
}

#[tokio::test]
async fn what_was_appended_is_found_in_order() {
    let room = Room::new().await;
    room.append(slot(1), &[10, 5000, 1, 100_000]).await;
    assert_eq!(room.found(slot(1)).await, [(1, 10), (2, 5000), (3, 1), (4, 100_000)]);
}

#[tokio::test]
async fn a_torn_group_ends_the_log_and_what_lies_behind_it_is_not_taken() {
    let room = Room::new().await;
    room.append(slot(1), &[10, 9000, 20]).await;
    let mut buffer = room.memory.allocate(0, Purpose::Reserved).await.unwrap();
    buffer.get_mut().unwrap().fill(0xEE);
    // The third block of the ring is the second one of the second group.
    let at = room.layout.journal.start.0 + 2;
    room.device.write(at, vec![buffer.into()], Persist::Durable).await.unwrap();
    assert_eq!(room.found(slot(1)).await, [(1, 10)]);
}

/// The life before wrote groups where this life writes shorter ones: what is left of it behind them
/// is whole, at its place, and next in number. Only the epoch tells.
#[tokio::test]
async fn groups_of_an_earlier_life_are_not_taken() {
    let room = Room::new().await;
    room.append(slot(1), &[10, 20, 30]).await;
    room.append(slot(2), &[40]).await;
    assert_eq!(room.found(slot(2)).await, [(1, 40)]);
    break_on_purpose(Some(Canary::IgnoreEpoch));
    let broken = room.found(slot(2)).await;
    break_on_purpose(None);
    assert_eq!(broken, [(1, 40), (2, 20), (3, 30)], "the canary was not noticed");
}

#[tokio::test]
async fn the_tail_moves_group_by_group_and_gives_room() {
    let room = Room::new().await;
    let journal = room.append(slot(1), &[10, 5000, 30]).await;
    assert_eq!((journal.sealed(), journal.applied()), (Lsn(3), Lsn(0)));
    journal.advance_tail(Lsn(2)).await.unwrap();
    assert_eq!(journal.applied(), Lsn(2));
    let slot = slots::read(&room.device, &room.memory, VOLUME).await.unwrap();
    assert_eq!(room.found(slot).await, [(3, 30)]);
}

#[tokio::test]
async fn payloads_that_can_never_fit_are_refused() {
    let room = Room::new().await;
    let journal = room.append(slot(1), &[1]).await;
    let most = journal.payload_max() as usize;
    assert!(journal.wait_for_room(most).await.is_ok());
    let refused = journal.wait_for_room(most + 1).await.unwrap_err();
    assert_eq!(refused.kind(), crate::error::ErrorKind::TooLarge);
}

/// Two groups on their way, of which the second one's write ends first: what counts as durable then, and in
/// the end.
async fn overtaken() -> (Lsn, Lsn) {
    let disk = SimDisk::new(4096, SimOptions::default());
    let device = Device::new(disk.attach());
    let room = Room::over(device).await;
    let (memory, poison) = (&room.memory, Poison::new());
    let opened = Journal::open(&room.device, memory, &poison, &room.layout, VOLUME, slot(1)).await;
    let journal = opened.unwrap();
    disk.inject(FaultRule::new(Fault::Delay { ms: 500 }).on(Operation::Write).times(1));
    let stop = CancellationToken::new();
    let running = tokio::spawn(journal.clone().run(stop.clone()));
    for size in [10, 20] {
        journal.append(vec![1; size]);
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(journal.stats().groups, 2, "both are on their way");
    tokio::time::sleep(Duration::from_millis(400)).await;
    let meanwhile = journal.durable_now();
    tokio::time::sleep(Duration::from_millis(200)).await;
    stop.cancel();
    running.await.unwrap();
    (meanwhile, journal.durable_now())
}

#[tokio::test(start_paused = true)]
async fn a_group_counts_only_with_all_before_it() {
    assert_eq!(overtaken().await, (Lsn(0), Lsn(2)));
    break_on_purpose(Some(Canary::AcknowledgeOutOfOrder));
    let broken = overtaken().await;
    break_on_purpose(None);
    assert_eq!(broken, (Lsn(2), Lsn(2)), "the canary acknowledges the second one at once");
}
