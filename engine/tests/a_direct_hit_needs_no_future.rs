//! `try_read_at` and `peek`: what the cache holds, without waiting; `None` where the device would be asked.

#![allow(clippy::unwrap_used)] // In helpers of tests as in tests: a failed unwrap is the failed test.

mod support;

use std::ops::Range;

use foliant::ErrorKind;
use foliant_device::sim::SimDisk;
use foliant_device::sim::SimOptions;
use futures_util::FutureExt;
use support::BLOCK;
use support::DEVICE_BLOCKS;

#[test]
fn a_direct_read_gives_what_is_cached_and_never_more_than_the_object_has() {
    support::simulate(async {
        let disk = SimDisk::new(DEVICE_BLOCKS, SimOptions::default());
        support::format(&disk).await;
        let engine = support::open(&disk).await.unwrap();
        let object = engine.create("one").await.unwrap();
        let data: Vec<u8> = (0..3 * BLOCK + 100).map(|at| (at / 7) as u8 | 1).collect();
        object.write_at(0, &data).await.unwrap();
        let mut got = vec![0; data.len()];
        for (offset, len) in [(0, data.len()), (BLOCK - 3, 2 * BLOCK), (data.len() - 1, 1)] {
            let read = object.try_read_at(offset as u64, &mut got[..len]).unwrap();
            assert_eq!(read, Some(len), "{len} bytes at {offset}");
            assert_eq!(got[..len], data[offset..offset + len]);
        }
        let end = data.len() as u64;
        assert_eq!(object.try_read_at(end - 10, &mut got).unwrap(), Some(10));
        assert_eq!(object.try_read_at(end, &mut got).unwrap(), Some(0));
        assert_eq!(object.try_read_at(end + 1, &mut got).unwrap(), Some(0));
        let absurd = object.try_read_at(u64::MAX, &mut got).unwrap_err();
        assert_eq!(absurd.kind(), ErrorKind::InvalidInput);
        engine.close().await.unwrap();
        let closed = object.try_read_at(0, &mut got).unwrap_err();
        assert_eq!(closed.kind(), ErrorKind::Closed);
    });
}

#[test]
fn a_direct_read_of_something_missing_is_none_until_somebody_read_it() {
    support::simulate(async {
        let disk = SimDisk::new(DEVICE_BLOCKS, SimOptions::default());
        support::format(&disk).await;
        let engine = support::open(&disk).await.unwrap();
        let object = engine.create("one").await.unwrap();
        object.write_at(0, &vec![7; 4 * BLOCK]).await.unwrap();
        object.sync().await.unwrap();
        engine.close().await.unwrap();
        let engine = support::open(&disk).await.unwrap();
        let object = engine.object("one").await.unwrap();
        let mut got = vec![0; 4 * BLOCK];
        let before = engine.stats();
        assert_eq!(object.try_read_at(0, &mut got[..BLOCK]).unwrap(), None);
        assert_eq!(object.peek(0..8, |_| panic!("nothing is there")).unwrap(), None::<()>);
        let after = engine.stats();
        assert_eq!(before.device_bytes_read, after.device_bytes_read, "it asked the device");
        object.read_at(0, &mut got).await.unwrap();
        assert_eq!(object.try_read_at(0, &mut got).unwrap(), Some(4 * BLOCK));
        assert!(got.iter().all(|&byte| byte == 7));
        engine.close().await.unwrap();
    });
}

#[test]
fn a_look_at_one_block_sees_its_bytes_and_nothing_behind_the_end() {
    support::simulate(async {
        let disk = SimDisk::new(DEVICE_BLOCKS, SimOptions::default());
        support::format(&disk).await;
        let engine = support::open(&disk).await.unwrap();
        let object = engine.create("one").await.unwrap();
        let data: Vec<u8> = (0..BLOCK + 100).map(|at| (at / 7) as u8 | 1).collect();
        for (block, bytes) in data.chunks(BLOCK).enumerate() {
            object.write_at((block * BLOCK) as u64, bytes).await.unwrap();
        }
        for range in [0..BLOCK, 5..9, BLOCK - 1..BLOCK, BLOCK..BLOCK + 100, 7..7] {
            let bytes = range.start as u64..range.end as u64;
            let seen = object.peek(bytes.clone(), |bytes| bytes.to_vec()).unwrap();
            assert_eq!(seen.as_deref(), Some(&data[range]), "{bytes:?}");
        }
        let end = data.len() as u64;
        let behind = object.peek(end - 1..end + 1, |_| panic!("it goes behind the end"));
        assert_eq!(behind.unwrap(), None::<()>);
        for absurd in [Range { start: 9, end: 8 }, 0..u64::MAX, u64::MAX - 8..u64::MAX] {
            let error = object.peek(absurd, |_| ()).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidInput);
        }
        // A write beside the look replaces the memory: what was seen does not change under the eyes.
        let writer = object.clone();
        let (before, after) = object
            .peek(0..8, |bytes| {
                let before = bytes.to_vec();
                let write = writer.write_at(0, &[0; 8]).now_or_never();
                assert!(matches!(write, Some(Ok(()))), "a write waits for who looks");
                (before, bytes.to_vec())
            })
            .unwrap()
            .unwrap();
        assert_eq!(before, after);
        assert_eq!(object.peek(0..8, |bytes| bytes.to_vec()).unwrap().unwrap(), [0; 8]);
        object.write_at(8 * BLOCK as u64, &[1; 8 * BLOCK]).await.unwrap();
        let place = 8 * BLOCK as u64..8 * BLOCK as u64 + 8;
        let seen = object.peek(place, |_| panic!("who writes would copy all of the folio"));
        assert_eq!(seen.unwrap(), None::<()>);
        object.truncate(4).await.unwrap();
        assert_eq!(object.peek(0..8, |_| ()).unwrap(), None);
        engine.close().await.unwrap();
        assert_eq!(object.peek(0..4, |_| ()).unwrap_err().kind(), ErrorKind::Closed);
    });
}
