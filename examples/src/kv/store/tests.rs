//! Reads from the middle of a commit, where no schedule of threads has to be lucky.

use foliant_device::Device;
use foliant_device::backend::mem::MemDevice;

use super::*;
use crate::kv::draft::Draft;
use crate::kv::draft::Finished;
use crate::kv::op::Expiry;
use crate::kv::op::When;
use crate::kv::tree;
use crate::kv::tree::How;
use crate::kv::tree::NewValue;
use crate::kv::view::View;

const HOW: How = How { when: When::Always, expires: Expiry::Never, now: 0 };

/// Keys of one commit; those of the commits lie between each other, so that every leaf splits again and again.
fn keys(commit: u32) -> impl Iterator<Item = Vec<u8>> {
    (0..60_u32).map(move |n| format!("key{:05}", (n * 40 + commit) % 2400).into_bytes())
}

/// Asserts that `view` shows the keys of `commits` commits and not those of the next one.
async fn check(ground: &Ground, view: Arc<View>, commits: u32) {
    let snapshot = Snapshot::new(ground, view);
    for commit in 0..=commits {
        for key in keys(commit) {
            let entry = snapshot.get(&key, true).await.unwrap();
            assert_eq!(entry.is_some(), commit < commits, "of {commit}, {commits} were committed");
        }
    }
}

#[tokio::test]
async fn a_read_in_the_middle_of_a_commit_sees_the_state_before() {
    let device = Device::new(MemDevice::new(8192));
    Engine::format_device(device.clone()).run().await.unwrap();
    let engine = Engine::open_device(device).memory_bytes(16 << 20).run().await.unwrap();
    let object = engine.create("kv").await.unwrap();
    let mut meta = make(&engine, &object).await.unwrap();
    let shelf = Arc::new(Shelf::new(engine.clone(), "kv", &meta));
    let ground = Ground { object, shelf, uppers: Arc::new(Uppers::new(64)) };
    let mut views = Views::new(meta);
    for commit in 0..30 {
        let before = views.current().get();
        check(&ground, before.clone(), commit).await;
        let mut draft = Draft::new(&ground, meta);
        for key in keys(commit) {
            tree::put(&mut draft, &key, NewValue::Bytes(&[7; 150]), HOW).await.unwrap();
        }
        let next = draft.meta;
        let Finished { transaction, undo, changed, .. } = draft.into_transaction(&engine).unwrap();
        views.begin(undo);
        ground.uppers.begin();
        transaction.commit().await.unwrap();
        // The leaves are those of the commit, the ways to them not yet.
        check(&ground, before.clone(), commit).await;
        ground.uppers.end(changed);
        // Now both are.
        check(&ground, before.clone(), commit).await;
        meta = next;
        views.advance(meta);
        check(&ground, before, commit).await;
    }
    assert!(meta.height > 1 && meta.pages > 100, "no leaf was ever split");
    check(&ground, views.current().get(), 30).await;
    engine.close().await.unwrap();
}
