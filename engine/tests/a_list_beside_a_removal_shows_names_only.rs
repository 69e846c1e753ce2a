//! Names can be listed while an object is being removed.
//!
//! The story: the marker of a removal that is under way lies in the tree of the names, behind all of
//! them. A list that reached the end of the names met it and called the volume damaged.

#![allow(clippy::unwrap_used)] // In helpers of tests as in tests: a failed unwrap is the failed test.

mod support;

use std::time::Duration;

use foliant_device::error::Operation;
use foliant_device::sim::Fault;
use foliant_device::sim::FaultRule;
use foliant_device::sim::SimDisk;
use foliant_device::sim::SimOptions;
use support::BLOCK;

/// More than one step in which extents are removed.
const FRAGMENTS: u64 = 1_200;

#[test]
fn names_are_listed_beside_a_removal() {
    support::simulate(async {
        let disk = SimDisk::new(support::DEVICE_BLOCKS, SimOptions::default());
        support::format(&disk).await;
        let engine = support::open(&disk).await.unwrap();
        let object = engine.create("large").await.unwrap();
        engine.create("other").await.unwrap();
        for block in 0..FRAGMENTS {
            object.write_at(2 * block * BLOCK as u64, &[1; BLOCK]).await.unwrap();
        }
        drop(object);
        engine.close().await.unwrap();
        // Nothing is cached and reading is slow, so that the removal takes a while.
        let engine = support::open(&disk).await.unwrap();
        disk.inject(FaultRule::new(Fault::Delay { ms: 30 }).on(Operation::Read).always());
        let removing = tokio::spawn({
            let engine = engine.clone();
            async move { engine.remove("large").await }
        });
        while !removing.is_finished() {
            let names = engine.list("", 10).await.expect("a list beside a removal");
            assert!(names.contains(&b"other".to_vec()));
            assert!(names.len() <= 2, "{names:?}");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        removing.await.unwrap().unwrap();
        assert_eq!(engine.list("", 10).await.unwrap(), [b"other"]);
        engine.close().await.unwrap();
    });
}
