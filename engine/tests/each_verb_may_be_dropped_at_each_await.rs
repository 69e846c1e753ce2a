//! Every public async verb, dropped at every place where it waits, under load, on a slow disk.
//!
//! A run polls the future of a verb N times and drops it, for N = 1, 2, 3 ... until it completes by itself, and
//! once more after N milliseconds of the disk's time, which finds the states of the work that goes on behind it.
//! Behind the drop either time passes, or the same range is written at once, or the power goes. What must hold
//! then stands in `drops/harness`; the table of verbs in `drops/verbs` and `drops/offline`, and it is complete.

#![allow(clippy::unwrap_used)] // In helpers of tests as in tests: a failed unwrap is the failed test.

#[path = "drops/harness.rs"]
mod harness;
#[path = "drops/inventory.rs"]
mod inventory;
#[path = "drops/load.rs"]
mod load;
#[path = "drops/offline.rs"]
mod offline;
mod support;
#[path = "drops/verbs.rs"]
mod verbs;

use std::collections::BTreeSet;

use foliant::testing::Canary;
use foliant::testing::break_on_purpose;
use foliant_device::DeviceErrorKind;
use foliant_device::error::Operation;
use foliant_device::sim::FaultRule;
use foliant_device::sim::SimDisk;
use foliant_device::sim::SimOptions;
use harness::Behind;
use harness::Cut;
use harness::Verb;
use harness::every_cut;

fn every_verb(behind: Behind, by_ms: bool) {
    let mut failed = Vec::new();
    for verb in verbs::all().iter().filter(|verb| fits(verb, behind)) {
        // All situations once; the tightest one costs most.
        let seeds = match behind {
            _ if by_ms => 1..3,
            Behind::Look => 0..harness::SITUATIONS,
            _ => 0..harness::SITUATIONS - 1,
        };
        let cuts = |seed| every_cut(verb, seed, behind, by_ms);
        match std::panic::catch_unwind(|| seeds.map(cuts).collect::<Vec<_>>()) {
            Ok(cuts) => println!("{:>26} {:<28} {cuts:?}", verb.name, verb.case),
            Err(_) => failed.push((verb.name, verb.case)),
        }
    }
    assert!(failed.is_empty(), "{failed:?}");
}

/// While writes are stopped nobody can write behind the drop.
fn fits(verb: &Verb, behind: Behind) -> bool {
    verb.name != "Engine::recover" || behind != Behind::Write
}

#[test]
fn contents_are_before_or_behind() {
    every_verb(Behind::Look, false);
}

#[test]
fn contents_are_before_or_behind_also_when_it_is_dropped_by_time() {
    every_verb(Behind::Look, true);
}

#[test]
fn what_was_dropped_does_not_come_behind_a_later_write() {
    every_verb(Behind::Write, false);
}

#[test]
fn the_power_may_go_with_the_drop() {
    every_verb(Behind::PowerCut, false);
}

#[test]
fn the_power_may_go_with_a_drop_by_time() {
    every_verb(Behind::PowerCut, true);
}

#[test]
fn verbs_without_an_engine_let_go_of_the_device() {
    offline::every_verb_named("");
}

/// The canary: a promise of room that a dropped verb does not give back. Nothing is wrong while every verb ends by
/// itself, and everything is written and read as before.
#[test]
fn a_promise_that_is_forgotten_with_its_verb_gets_noticed() {
    let all = verbs::all();
    let verb = all.iter().find(|verb| verb.name == "Engine::create").unwrap();
    break_on_purpose(Some(Canary::ForgetPromises));
    let run = |polls| {
        let run = || support::simulate(harness::one(verb, 2, Cut::Polls(polls), Behind::Look));
        std::panic::catch_unwind(run)
    };
    let (whole, cut) = (run(1_000), run(1));
    break_on_purpose(None);
    assert!(whole.is_ok_and(|done| done), "it is noticed without a drop");
    let cause = cut.expect_err("nobody noticed");
    let words = cause.downcast::<String>().unwrap();
    assert!(words.contains("holds Holdings { promised: 24,"), "{words}");
}

/// Halves of several kinds, in an engine that is broken on purpose.
#[test]
fn commits_that_are_applied_in_part_get_noticed() {
    let all = verbs::all();
    for (canary, name) in [
        (Canary::LeaveCutSize, "Transaction::commit"),
        (Canary::KeepPunched, "Object::punch"),
        (Canary::AcknowledgeAtOnce, "Transaction::commit_with"),
    ] {
        break_on_purpose(Some(canary));
        let run = |behind| {
            let cuts = |verb| (0..4).map(move |seed| every_cut(verb, seed, behind, false));
            let run = || all.iter().filter(|verb| verb.name == name).flat_map(cuts).sum::<u64>();
            std::panic::catch_unwind(run)
        };
        let noticed = run(Behind::Look).is_err() || run(Behind::PowerCut).is_err();
        break_on_purpose(None);
        assert!(noticed, "{canary:?} is not noticed by drops of {name}");
    }
}

/// Verbs that a test of their own drops, below.
const ON_FILES: [&str; 1] = ["check::open"];

#[test]
fn the_table_has_every_public_async_verb() {
    let known = verbs::all().into_iter().map(|verb| verb.name);
    let known = known.chain(offline::all().into_iter().map(|verb| verb.name)).chain(ON_FILES);
    let known: BTreeSet<String> = known.map(str::to_owned).collect();
    let found = inventory::public_verbs();
    assert!(found.len() > 30, "only {} verbs: is the search right?", found.len());
    let missing: Vec<_> = found.difference(&known).collect();
    assert!(missing.is_empty(), "no test drops {missing:?}: add them to drops/verbs or offline");
    let gone: Vec<_> = known.difference(&found).collect();
    assert!(gone.is_empty(), "no such verbs any more: {gone:?}");
}

#[test]
fn a_new_verb_is_found() {
    let source = "impl Engine {\n    pub async fn old(&self) {}\n}\n\nimpl<T> Deref for Other<T> {\n    \
                  pub fn new(\n        self,\n    ) -> impl Future<Output = ()> {\n    }\n    pub fn no() {\n    \
                  }\n}\npub async fn free<T>(t: T) {}\n";
    let found: Vec<_> = inventory::verbs_of_types(source).into_iter().collect();
    assert_eq!(found, ["Engine::old", "Other::new", "free"]);
}

/// The story: the power went while much was dirty. Each batch of the flusher failed before it was sent, its blocks
/// were dirty again, and as they were more than the flusher lets lie, that rang for it at once: it ran without
/// end, at the cost of a core, until somebody opened the store again or called `recover`.
#[test]
fn regression_the_flusher_rests_while_writes_are_stopped() {
    let (told, hears) = std::sync::mpsc::channel();
    // A thread of its own: virtual time stands still while somebody spins.
    let run = move || {
        support::simulate(async {
            let disk = SimDisk::new(support::DEVICE_BLOCKS, SimOptions::default());
            support::format(&disk).await;
            let engine = support::open(&disk).await.unwrap();
            let object = engine.create("object").await.unwrap();
            disk.inject(FaultRule::fail(DeviceErrorKind::Io).on(Operation::Flush).always());
            object.write_at(0, &vec![1; 600 * support::BLOCK]).await.unwrap();
            harness::rest(60_000).await;
            assert!(engine.health().stopped.is_some());
            disk.withdraw_all();
            engine.recover().await.unwrap();
            harness::rest(60_000).await;
            assert_eq!(engine.stats().dirty_bytes, 0, "nobody writes back behind a recovery");
            drop(object);
            engine.close().await.unwrap();
        });
        told.send(()).unwrap();
    };
    std::thread::spawn(run);
    hears.recv_timeout(std::time::Duration::from_secs(60)).expect("the flusher spins");
}

/// The story: a direct write with parts of blocks at its edges locked the range of one part after the other. Its
/// caller went away after the first one, wrote the same bytes again, and then found older ones at the end.
#[test]
fn regression_a_dropped_direct_write_is_one_place_in_the_line() {
    support::simulate(async {
        let (mut world, _) = harness::World::new(0, false, false).await;
        let hands = world.hands().await;
        let mut buffer = hands.engine.direct_buffer(60_000).await.unwrap();
        buffer.fill(7);
        let direct = hands.target.write_direct(5_000, buffer, 904..59_000);
        assert!(harness::cut(direct, Cut::Polls(1)).await.is_none());
        let fresh = vec![8; 70_000];
        hands.target.write_at(0, &fresh).await.unwrap();
        world.holds_nothing().await;
        let mut found = vec![0; 70_000];
        hands.target.read_at(0, &mut found).await.unwrap();
        assert!(found == fresh, "older bytes came behind newer ones");
    });
}

/// The story: `create` waited once more behind its commit, to open what it had made, and only then noted on the
/// object which transaction that was. Whoever was dropped there left an object whose `sync` waited for nothing: it
/// said "durable", and after a power cut the object was gone.
#[test]
fn regression_a_sync_of_what_a_dropped_create_made_is_true() {
    let mut dropped = 0;
    for seed in 0..8 {
        for polls in 1..9 {
            support::simulate(async {
                let (mut world, _) = harness::World::new(seed, true, false).await;
                foliant::testing::holdings::forget_metadata(&world.engine);
                for n in 0..5 {
                    let engine = world.engine.clone();
                    tokio::spawn(async move {
                        // Before and behind the one that is dropped.
                        harness::rest(n % 2).await;
                        engine.create(format!("beside-{n}")).await
                    });
                }
                tokio::task::yield_now().await;
                let create = world.engine.create("new");
                dropped += u64::from(harness::cut(create, Cut::Polls(polls)).await.is_none());
                let Ok(object) = world.engine.object("new").await else { return };
                object.sync().await.unwrap();
                world.disk.power_cut();
                drop(object);
                world.engine = support::open(&world.disk).await.unwrap();
                let found = world.engine.object("new").await;
                assert!(found.is_ok(), "seed {seed}, {polls} polls: synced, and not there");
            });
        }
    }
    assert!(dropped > 8, "only {dropped} were dropped");
}

/// The story: who dropped the future of an opening while it finished removals left the loops of the engine behind,
/// without an owner; they kept the device, and a file its lock, as long as the process lived.
#[test]
fn regression_a_dropped_opening_lets_go_of_the_device() {
    offline::every_verb_named("OpenOptions::run");
}

/// A file in the temporary directory that goes away with the test.
struct Scratch(std::path::PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// On a file the lock must be free again, soon: a device that is let go of ends what it has begun.
async fn is_unlocked(path: &std::path::Path) {
    for _ in 0..500 {
        match foliant::check::open(path).await {
            Ok(device) => return device.close().await.unwrap(),
            Err(cause) => {
                assert_eq!(cause.kind(), foliant::ErrorKind::Locked);
                tokio::time::sleep(std::time::Duration::from_millis(10)).await;
            }
        }
    }
    panic!("the file stays locked");
}

#[tokio::test]
async fn verbs_on_a_file_let_go_of_its_lock() {
    let name = format!("foliant-drops-{}", std::process::id());
    let scratch = Scratch(std::env::temp_dir().join(name));
    let path = &scratch.0;
    let format = || foliant::Engine::format(path).size_bytes(8 << 20).force(true);
    let open = || foliant::Engine::open(path).memory_bytes(8 << 20).threads_backend(true);
    let mut dropped = 0;
    for verb in 0..3 {
        for polls in 1.. {
            format().run().await.unwrap();
            let done = match verb {
                0 => harness::cut(async { format().run().await.is_ok() }, Cut::Polls(polls)).await,
                1 => {
                    let work = async { open().run().await.unwrap().close().await.is_ok() };
                    harness::cut(work, Cut::Polls(polls)).await
                }
                _ => {
                    let work =
                        async { foliant::check::open(path).await.unwrap().close().await.is_ok() };
                    harness::cut(work, Cut::Polls(polls)).await
                }
            };
            assert!(done != Some(false));
            is_unlocked(path).await;
            if done.is_some() {
                break;
            }
            dropped += 1;
        }
    }
    assert!(dropped > 10, "only {dropped} drops");
    open().run().await.unwrap().close().await.unwrap();
}
