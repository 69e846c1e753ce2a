//! The fault controls of the simulated disk, one by one, and its trace.

#![allow(clippy::unwrap_used)] // In helpers, too: a failed unwrap is the failed test.

mod support;

use std::time::Duration;

use foliant_device::Arena;
use foliant_device::Device;
use foliant_device::DeviceErrorKind;
use foliant_device::Persist;
use foliant_device::error::Operation;
use foliant_device::sim::Fault;
use foliant_device::sim::FaultRule;
use foliant_device::sim::SimDisk;
use foliant_device::sim::SimOptions;
use futures_util::future::join_all;
use support::read;
use support::write;

fn with_disk<F: Future<Output = ()>>(seed: u64, story: impl Fn(SimDisk, Device, Arena) -> F) {
    support::simulate(async {
        let disk = SimDisk::new(64, SimOptions { seed, ..SimOptions::default() });
        let device = Device::new(disk.attach());
        story(disk, device, support::arena(64)).await;
    });
}

#[test]
fn the_nth_request_fails_once_or_for_ever() {
    with_disk(1, async |disk, device, arena| {
        let once = FaultRule::fail(DeviceErrorKind::Io).on(Operation::Write).after(2);
        let once = disk.inject(once);
        let outcomes = [0, 1, 2, 3].map(|block| write(&device, &arena, block, 1));
        let failed: Vec<bool> = join_all(outcomes).await.iter().map(Result::is_err).collect();
        assert_eq!(failed, [false, false, true, false]);
        assert_eq!(disk.struck(once), 1);

        let sticky = FaultRule::fail(DeviceErrorKind::NoSpace).blocks(10..12).always();
        let sticky = disk.inject(sticky.on(Operation::Write));
        for _ in 0..3 {
            let error = write(&device, &arena, 11, 1).await.unwrap_err();
            assert_eq!(error.kind, DeviceErrorKind::NoSpace);
            assert_eq!((error.op, error.offset, error.len), (Operation::Write, 11 * 4096, 4096));
            write(&device, &arena, 12, 1).await.unwrap();
            read(&device, &arena, 11).await.unwrap();
        }
        disk.withdraw(sticky);
        write(&device, &arena, 11, 1).await.unwrap();

        disk.inject(FaultRule::fail(DeviceErrorKind::Gone).always());
        assert_eq!(device.flush().await.unwrap_err().kind, DeviceErrorKind::Gone);
        assert_eq!(read(&device, &arena, 0).await.unwrap_err().kind, DeviceErrorKind::Gone);
        disk.withdraw_all();
        device.flush().await.expect("it came back");
    });
}

#[test]
fn a_failed_write_lands_wholly_partly_or_not_at_all() {
    let mut found = std::collections::BTreeSet::new();
    for seed in 0..60 {
        let landed = std::cell::Cell::new(0);
        with_disk(seed, async |disk, device, arena| {
            disk.inject(FaultRule::fail(DeviceErrorKind::Io));
            write(&device, &arena, 5, 1).await.unwrap_err();
            let bytes = read(&device, &arena, 5).await.unwrap();
            landed.set(bytes.iter().map(|&b| usize::from(b)).sum());
        });
        found.insert(landed.get());
    }
    assert!(found.contains(&0) && found.contains(&4096) && found.len() > 3, "{found:?}");
}

#[test]
fn a_lost_write_is_acknowledged_and_never_there() {
    with_disk(2, async |disk, device, arena| {
        write(&device, &arena, 5, 1).await.unwrap();
        disk.inject(FaultRule::new(Fault::Lose).on(Operation::Write));
        write(&device, &arena, 5, 2).await.unwrap();
        device.flush().await.unwrap();
        assert_eq!(read(&device, &arena, 5).await.unwrap(), vec![1; 4096]);
        disk.power_cut();
        assert_eq!(disk.peek(5), vec![1; 4096]);
    });
}

#[test]
fn misdirected_requests_go_elsewhere() {
    with_disk(3, async |disk, device, arena| {
        disk.inject(FaultRule::new(Fault::Misdirect { to: 9 }).on(Operation::Write));
        write(&device, &arena, 5, 1).await.unwrap();
        assert_eq!(read(&device, &arena, 5).await.unwrap(), vec![0; 4096]);
        disk.inject(FaultRule::new(Fault::Misdirect { to: 9 }).on(Operation::Read));
        assert_eq!(read(&device, &arena, 5).await.unwrap(), vec![1; 4096]);
        device.flush().await.unwrap();
        assert_eq!((disk.peek(5), disk.peek(9)), (vec![0; 4096], vec![1; 4096]));
    });
}

#[test]
fn a_bit_changes_on_the_way_to_the_disk_or_back() {
    with_disk(9, async |disk, device, arena| {
        write(&device, &arena, 5, 1).await.unwrap();
        let (bit, mut changed) = ((4096 + 7) * 8 + 2, vec![1; 4096]);
        changed[7] ^= 4;
        disk.inject(FaultRule::new(Fault::Flip { bit }).on(Operation::Read));
        assert_eq!(read(&device, &arena, 5).await.unwrap(), changed);
        assert_eq!(read(&device, &arena, 5).await.unwrap(), vec![1; 4096], "on the way only");
        disk.inject(FaultRule::new(Fault::Flip { bit }).on(Operation::Write));
        write(&device, &arena, 6, 1).await.unwrap();
        device.flush().await.unwrap();
        assert_eq!(read(&device, &arena, 6).await.unwrap(), changed);
        assert_eq!(disk.peek(6), changed);
        disk.inject(FaultRule::new(Fault::Flip { bit }).on(Operation::WriteZeroes));
        device.write_zeroes(6, 2).await.unwrap();
        assert_eq!(read(&device, &arena, 6).await.unwrap(), vec![0; 4096]);
        assert_eq!(read(&device, &arena, 7).await.unwrap()[7], 4);
    });
}

#[test]
fn the_power_can_go_and_stay_away() {
    with_disk(10, async |disk, device, arena| {
        write(&device, &arena, 5, 1).await.unwrap();
        disk.power_off();
        assert!(!disk.is_powered());
        let gone = read(&device, &arena, 5).await.unwrap_err();
        assert_eq!(gone.kind, DeviceErrorKind::Gone);
        let dead = Device::new(disk.attach());
        assert_eq!(dead.flush().await.unwrap_err().kind, DeviceErrorKind::Gone);
        disk.power_cut();
        Device::new(disk.attach()).flush().await.expect("the power is back");
    });
}

#[test]
fn delays_reorder_and_hangs_wait_for_their_release() {
    with_disk(4, async |disk, device, arena| {
        disk.inject(FaultRule::new(Fault::Delay { ms: 5_000 }).blocks(1..2));
        let slow = tokio::spawn({
            let (device, arena) = (device.clone(), arena.clone());
            async move { write(&device, &arena, 1, 1).await }
        });
        tokio::task::yield_now().await;
        write(&device, &arena, 2, 1).await.unwrap();
        assert!(!slow.is_finished());
        slow.await.unwrap().unwrap();

        disk.inject(FaultRule::new(Fault::Hang).on(Operation::Flush));
        let flush = tokio::spawn(device.flush());
        tokio::time::sleep(Duration::from_secs(86_400)).await;
        assert!(!flush.is_finished());
        write(&device, &arena, 3, 1).await.expect("others are not held up");
        disk.release();
        flush.await.unwrap().unwrap();

        disk.inject(FaultRule::new(Fault::Hang).on(Operation::Flush));
        let flush = tokio::spawn(device.flush());
        tokio::task::yield_now().await;
        disk.power_cut();
        let outcome = tokio::time::timeout(Duration::from_secs(1), flush).await;
        let gone = outcome.expect("a cut ends what hangs").unwrap().unwrap_err();
        assert_eq!(gone.kind, DeviceErrorKind::Gone);
    });
}

#[test]
fn bytes_can_be_seen_damaged_and_replaced_from_outside() {
    with_disk(5, async |disk, device, arena| {
        write(&device, &arena, 5, 0x0F).await.unwrap();
        assert_eq!(disk.peek_cached(5), vec![0x0F; 4096]);
        assert_eq!(disk.peek(5), vec![0; 4096], "not flushed yet");
        assert_eq!(disk.unstable_writes(), 1);
        device.flush().await.unwrap();
        assert_eq!((disk.unstable_writes(), disk.in_flight()), (0, 0));
        disk.flip(5, 100, 7);
        let mut expected = vec![0x0F; 4096];
        expected[100] = 0x8F;
        assert_eq!(read(&device, &arena, 5).await.unwrap(), expected);
        assert_eq!(disk.peek(5), expected);
        disk.poke(5, &[3; 4096]);
        assert_eq!(read(&device, &arena, 5).await.unwrap(), vec![3; 4096]);
        disk.flip(6, 0, 0);
        assert_eq!(read(&device, &arena, 6).await.unwrap()[..2], [1, 0]);
    });
}

#[test]
fn a_disk_can_come_back_smaller() {
    with_disk(6, async |disk, device, arena| {
        write(&device, &arena, 40, 1).await.unwrap();
        device.flush().await.unwrap();
        device.close().await.unwrap();
        disk.resize(20);
        let device = Device::new(disk.attach());
        assert_eq!((device.geometry().blocks, disk.blocks()), (20, 20));
        let error = read(&device, &arena, 40).await.unwrap_err();
        assert_eq!(error.kind, DeviceErrorKind::OutOfRange);
    });
}

#[test]
fn the_trace_tells_what_was_over_before_what() {
    with_disk(7, async |disk, device, arena| {
        disk.clear_trace();
        let from = vec![support::block_of(&arena, 1).into(), support::block_of(&arena, 2).into()];
        device.write(7, from, Persist::Durable).await.unwrap();
        device.flush().await.unwrap();
        let mut unordered = Vec::new();
        for block in 0..20 {
            unordered.push(device.write_zeroes(block, 1));
        }
        join_all(unordered).await;
        let trace = disk.trace();
        let (write, flush) = (&trace[0], &trace[1]);
        assert_eq!((write.operation, write.block, write.count), (Operation::Write, 7, 2));
        assert_eq!((write.persist, flush.persist), (Some(Persist::Durable), None));
        assert!(write.ended.unwrap() < flush.started);
        assert!(flush.ended.unwrap() < trace[2].started && !flush.failed);
        let ends: Vec<_> = trace[2..].iter().map(|r| r.ended.unwrap()).collect();
        assert!(!ends.is_sorted(), "completions come in any order");
        assert_eq!(disk.requests(), 22);
    });
}

#[test]
fn a_caller_that_overlaps_its_requests_is_noticed() {
    with_disk(8, async |disk, device, arena| {
        disk.inject(FaultRule::new(Fault::Hang).times(4));
        let pair = || vec![arena.allocate(1).unwrap()];
        let mut kept = vec![device.read(10, pair()), device.read(11, pair())];
        assert_eq!(disk.overlaps(), 0, "reads may overlap");
        let writing = write(&device, &arena, 12, 1);
        let zeroing = device.write_zeroes(20, 5);
        assert_eq!(disk.overlaps(), 0, "not polled yet, and elsewhere");
        kept.push(device.read(24, pair()));
        assert_eq!(disk.overlaps(), 1);
        let (written, zeroed) = futures_util::future::join(writing, async {
            tokio::task::yield_now().await;
            disk.release();
            zeroing.await
        })
        .await;
        written.and(zeroed).unwrap();
        assert_eq!(disk.overlaps(), 2, "the second read covered block 12");
        join_all(kept).await;
        write(&device, &arena, 12, 1).await.unwrap();
        assert_eq!(disk.overlaps(), 2);
    });
}
