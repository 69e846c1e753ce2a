//! The table: every public async verb of an open engine, in the situations that have waits of their own.
//!
//! Guarantees nothing by itself: `inventory` holds it against the sources, `harness` runs it.

use foliant::Durability;
use foliant_device::DeviceErrorKind;
use foliant_device::error::Operation;
use foliant_device::sim::FaultRule;

use crate::harness::Beside;
use crate::harness::Crash;
use crate::harness::Hands;
use crate::harness::LEN;
use crate::harness::LOADED;
use crate::harness::State;
use crate::harness::Verb;
use crate::harness::Work;
use crate::harness::reads;
use crate::support;
use crate::support::BLOCK;

const MIB: usize = 1 << 20;

fn with(state: &State, change: impl FnOnce(&mut Vec<u8>)) -> State {
    let mut new = state.clone();
    change(new.get_mut(&b"target"[..]).unwrap());
    new
}

/// A write after each of its pieces, which end at whole MiB.
fn pieces(old: &State, at: usize, data: &[u8]) -> Vec<State> {
    let mut states = Vec::new();
    let mut end = at;
    while end < at + data.len() {
        end = ((end / MIB + 1) * MIB).min(at + data.len());
        states.push(with(old, |bytes| support::put(bytes, at, &data[..end - at])));
    }
    states
}

fn written(old: &State, data: &[u8]) -> Vec<State> {
    pieces(old, LOADED + 5_000, &data[..9_000])
}

fn zeroed(old: &State, range: std::ops::Range<usize>) -> State {
    with(old, |bytes| bytes[range].fill(0))
}

/// Behind the end of the target.
const FAR: usize = LEN + 50_000;

fn transaction(hands: &Hands) -> foliant::Transaction {
    let Hands { engine, target, data, .. } = hands;
    let mut transaction = engine.transaction();
    transaction.write_at(target, (LOADED + 5_000) as u64, &data[..9_000]).unwrap();
    transaction.write_at(target, FAR as u64, &data[..500]).unwrap();
    transaction
}

fn transacted(old: &State, data: &[u8]) -> Vec<State> {
    vec![with(old, |bytes| {
        support::put(bytes, LOADED + 5_000, &data[..9_000]);
        support::put(bytes, FAR, &data[..500]);
    })]
}

/// Cuts, zeroes, removes, makes and renames; so much that blocks must be stored before, if `large`.
fn of_everything(hands: &Hands, large: bool) -> foliant::Transaction {
    let Hands { engine, target, data, .. } = hands;
    let mut transaction = engine.transaction();
    transaction.truncate(target, (40 * BLOCK + 77) as u64).unwrap();
    transaction.zero(target, (LOADED + 5_000) as u64..(LOADED + 9_000) as u64).unwrap();
    for block in 13..if large { 40 } else { 16 } {
        transaction.write_at(target, (block * BLOCK + 9) as u64, &data[..5]).unwrap();
    }
    transaction.remove("old").unwrap();
    let made = transaction.create("made").unwrap();
    transaction.write_at(&made, 100, &data[..5_000]).unwrap();
    transaction.rename("made", "new").unwrap();
    transaction
}

fn everything(old: &State, data: &[u8], large: bool) -> Vec<State> {
    let mut new = with(old, |bytes| {
        bytes.truncate(40 * BLOCK + 77);
        bytes[LOADED + 5_000..LOADED + 9_000].fill(0);
        for block in 13..if large { 40 } else { 16 } {
            support::put(bytes, block * BLOCK + 9, &data[..5]);
        }
    });
    new.remove(&b"old"[..]);
    let made = [vec![0; 100], data[..5_000].to_vec()].concat();
    new.insert(b"new".to_vec(), made);
    vec![new]
}

fn renamed(old: &State, _: &[u8]) -> Vec<State> {
    let mut new = old.clone();
    let moved = new.remove(&b"old"[..]).unwrap();
    new.insert(b"new".to_vec(), moved);
    vec![new]
}

fn removed(old: &State, _: &[u8]) -> Vec<State> {
    let mut new = old.clone();
    new.remove(&b"old"[..]).unwrap();
    vec![new]
}

fn noted(old: &State, _: &[u8]) -> Vec<State> {
    let mut new = old.clone();
    new.insert(b"target attributes".to_vec(), b"noted".to_vec());
    vec![new]
}

fn created(old: &State, _: &[u8]) -> Vec<State> {
    let mut new = old.clone();
    new.insert(b"new".to_vec(), Vec::new());
    vec![new]
}

/// Whole blocks first, then one edge after the other.
fn punched(old: &State, _: &[u8]) -> Vec<State> {
    let whole = zeroed(old, LOADED + BLOCK..LOADED + 17 * BLOCK);
    let first = zeroed(&whole, LOADED + 3_000..LOADED + BLOCK);
    vec![whole, first, zeroed(old, LOADED + 3_000..LOADED + 70_000)]
}

fn write_before(hands: Hands) -> Work {
    Box::pin(
        async move { hands.target.write_at((LOADED + 5_000) as u64, &hands.data[..9_000]).await },
    )
}

/// A flush fails, so that writes are stopped; what was written before is in memory.
fn stop_writes(hands: Hands) -> Work {
    Box::pin(async move {
        write_before(hands.clone()).await?;
        let rule = FaultRule::fail(DeviceErrorKind::Io).on(Operation::Flush).always();
        let rule = hands.disk.inject(rule);
        assert!(hands.engine.sync().await.is_err());
        hands.disk.withdraw(rule);
        let stopped = hands.engine.create("never").await;
        assert!(stopped.is_err() && hands.engine.health().stopped.is_some());
        Ok(())
    })
}

async fn direct(hands: Hands, at: usize, len: usize) -> foliant::Result<()> {
    let mut buffer = hands.engine.direct_buffer(len + 5_000).await?;
    let start = at % BLOCK;
    buffer[start..start + len].copy_from_slice(&hands.data[..len]);
    hands.target.write_direct(at as u64, buffer, start..start + len).await.1
}

/// A verb that goes on by itself when it was polled once.
fn goes_on(
    name: &'static str,
    case: &'static str,
    run: fn(Hands) -> Work,
    states: fn(&State, &[u8]) -> Vec<State>,
) -> Verb {
    Verb { states, goes_on: true, ..reads(name, case, run) }
}

fn commits(
    name: &'static str,
    case: &'static str,
    run: fn(Hands) -> Work,
    states: fn(&State, &[u8]) -> Vec<State>,
) -> Verb {
    Verb { states, durable: true, crash: Crash::Atomic, ..reads(name, case, run) }
}

/// Verbs that look.
fn looks() -> Vec<Verb> {
    let whole = 0..LEN as u64;
    assert!(whole.end > LOADED as u64);
    vec![
        reads("Object::read_at", "", |hands| {
            Box::pin(async move {
                let mut into = vec![0; LEN];
                hands.target.read_at(0, &mut into).await.map(|_| ())
            })
        }),
        reads("Object::read", "", |hands| {
            Box::pin(async move { hands.target.read(3_000..LEN as u64).await.map(|_| ()) })
        }),
        reads("Object::read_pieces", "", |hands| {
            Box::pin(async move { hands.target.read_pieces(3_000..LEN as u64).await.map(|_| ()) })
        }),
        reads("Object::seek_data", "", |hands| {
            Box::pin(async move { hands.target.seek_data(LOADED as u64).await.map(|_| ()) })
        }),
        reads("Object::seek_hole", "", |hands| {
            Box::pin(async move { hands.target.seek_hole(LOADED as u64).await.map(|_| ()) })
        }),
        reads("Object::extents", "", |hands| {
            Box::pin(async move { hands.target.extents(0..LEN as u64, 99).await.map(|_| ()) })
        }),
        reads("Object::attributes", "", |hands| {
            Box::pin(async move { hands.target.attributes().await.map(|_| ()) })
        }),
        reads("Transaction::attributes", "", |hands| {
            Box::pin(async move { transaction(&hands).attributes(&hands.target).await.map(|_| ()) })
        }),
        reads("Object::read_direct", "", |hands| {
            Box::pin(async move {
                let buffer = hands.engine.direct_buffer(LEN + 5_000).await?;
                hands.target.read_direct(3_000, buffer, 3_000..LEN).await.1.map(|_| ())
            })
        }),
        reads("Engine::direct_buffer", "of the largest size", |hands| {
            Box::pin(async move { hands.engine.direct_buffer(2 * MIB).await.map(|_| ()) })
        }),
        reads("Engine::object", "", |hands| {
            Box::pin(async move { hands.engine.object("small").await.map(|_| ()) })
        }),
        reads("Engine::list", "", |hands| {
            Box::pin(async move { hands.engine.list("", 99).await.map(|_| ()) })
        }),
        reads("Engine::free_space", "", |hands| {
            Box::pin(async move { hands.engine.free_space().await.map(|_| ()) })
        }),
        reads("Engine::clean", "", |hands| {
            Box::pin(async move { hands.engine.clean().await.map(|_| ()) })
        }),
        reads("Object::defragment", "", |hands| {
            Box::pin(async move { hands.target.defragment().await.map(|_| ()) })
        }),
        reads("Transaction::read_at", "", |hands| {
            Box::pin(async move {
                let mut into = vec![0; LEN];
                let transaction = transaction(&hands);
                transaction.read_at(&hands.target, 0, &mut into).await.map(|_| ())
            })
        }),
        Verb {
            // It looks at what the load makes, too, which takes long and is the same again and again.
            beside: Beside::Nobody,
            ..reads("Scrub::run", "", |hands| {
                Box::pin(async move {
                    let scrub = hands.engine.scrub().bytes_per_second(1 << 30);
                    let report = scrub.run().await?;
                    assert_eq!(report.damaged_bytes, 0);
                    Ok(())
                })
            })
        },
    ]
}

/// Verbs of objects that change something.
fn changes() -> Vec<Verb> {
    vec![
        Verb {
            states: written,
            in_order: Some((LOADED + 5_000, LOADED + 14_000)),
            ..reads("Object::write_at", "within blocks", write_before)
        },
        Verb {
            states: |old, data| pieces(old, MIB - 5_000, data),
            in_order: Some((MIB - 5_000, 3 * MIB + 5_000)),
            ..reads("Object::write_at", "over pieces, beyond the end", |hands| {
                let at = (MIB - 5_000) as u64;
                Box::pin(async move { hands.target.write_at(at, &hands.data).await })
            })
        },
        Verb {
            states: |old, _| vec![zeroed(old, LOADED + 3_000..LOADED + 70_000)],
            in_order: Some((LOADED + 3_000, LOADED + 70_000)),
            ..reads("Object::zero", "", |hands| {
                let range = (LOADED + 3_000) as u64..(LOADED + 70_000) as u64;
                Box::pin(async move { hands.target.zero(range).await })
            })
        },
        goes_on(
            "Object::truncate",
            "shorter",
            |hands| Box::pin(async move { hands.target.truncate((20 * BLOCK + 77) as u64).await }),
            |old, _| vec![with(old, |bytes| bytes.truncate(20 * BLOCK + 77))],
        ),
        goes_on(
            "Object::truncate",
            "longer",
            |hands| Box::pin(async move { hands.target.truncate(FAR as u64).await }),
            |old, _| vec![with(old, |bytes| bytes.resize(FAR, 0))],
        ),
        goes_on(
            "Object::punch",
            "",
            |hands| {
                let range = (LOADED + 3_000) as u64..(LOADED + 70_000) as u64;
                Box::pin(async move { hands.target.punch(range).await })
            },
            punched,
        ),
        goes_on(
            "Object::preallocate",
            "",
            |hands| Box::pin(async move { hands.target.preallocate(0..FAR as u64 + 90_000).await }),
            crate::harness::same,
        ),
        Verb {
            durable: false,
            ..commits(
                "Object::set_attributes",
                "",
                |hands| Box::pin(async move { hands.target.set_attributes(b"noted").await }),
                noted,
            )
        },
        Verb {
            prepare: write_before,
            states: written,
            durable: true,
            ..goes_on(
                "Object::sync",
                "",
                |hands| Box::pin(async move { hands.target.sync().await }),
                written,
            )
        },
        Verb {
            goes_on: false,
            ..goes_on(
                "Object::write_direct",
                "",
                |hands| Box::pin(direct(hands, LOADED + 5_000, 60_000)),
                |old, data| direct_states(old, data, LOADED + 5_000, 60_000),
            )
        },
        Verb {
            goes_on: false,
            ..goes_on(
                "Object::write_direct",
                "beyond the end",
                |hands| Box::pin(direct(hands, LEN - 9_000, 30_000)),
                |old, data| direct_states(old, data, LEN - 9_000, 30_000),
            )
        },
    ]
}

/// The bytes before whole blocks, these, and those behind them.
fn direct_states(old: &State, data: &[u8], at: usize, len: usize) -> Vec<State> {
    let ends = [at.next_multiple_of(BLOCK), (at + len) / BLOCK * BLOCK, at + len];
    let state = |end: usize| with(old, |bytes| support::put(bytes, at, &data[..end - at]));
    ends.map(state).to_vec()
}

/// Verbs of names, transactions, and of everything.
fn of_the_engine() -> Vec<Verb> {
    vec![
        commits(
            "Engine::create",
            "",
            |hands| Box::pin(async move { hands.engine.create("new").await.map(|_| ()) }),
            created,
        ),
        commits(
            "Engine::rename",
            "",
            |hands| Box::pin(async move { hands.engine.rename("old", "new").await }),
            renamed,
        ),
        Verb {
            goes_on: true,
            ..commits(
                "Engine::remove",
                "",
                |hands| Box::pin(async move { hands.engine.remove("old").await }),
                removed,
            )
        },
        Verb {
            prepare: write_before,
            durable: true,
            states: written,
            ..reads("Engine::sync", "", |hands| Box::pin(async move { hands.engine.sync().await }))
        },
        Verb {
            durable: false,
            ..commits(
                "Transaction::commit",
                "",
                |hands| Box::pin(async move { transaction(&hands).commit().await.map(|_| ()) }),
                transacted,
            )
        },
        Verb {
            durable: false,
            goes_on: true,
            ..commits(
                "Transaction::commit",
                "of everything",
                |hands| {
                    Box::pin(async move { of_everything(&hands, false).commit().await.map(|_| ()) })
                },
                |old, data| everything(old, data, false),
            )
        },
        commits(
            "Transaction::commit_with",
            "",
            |hands| {
                let commit = transaction(&hands).commit_with(Durability::Durable);
                Box::pin(async move { commit.await.map(|_| ()) })
            },
            transacted,
        ),
        Verb {
            goes_on: true,
            ..commits(
                "Transaction::commit_with",
                "of everything",
                |hands| {
                    let commit = of_everything(&hands, true).commit_with(Durability::Durable);
                    Box::pin(async move { commit.await.map(|_| ()) })
                },
                |old, data| everything(old, data, true),
            )
        },
        commits(
            "Commit::durable",
            "",
            |hands| Box::pin(async move { transaction(&hands).commit().await?.durable().await }),
            transacted,
        ),
        Verb {
            prepare: stop_writes,
            beside: Beside::Nobody,
            ..goes_on(
                "Engine::recover",
                "",
                |hands| Box::pin(async move { hands.engine.recover().await.map(|_| ()) }),
                written,
            )
        },
    ]
}

/// All of them.
pub fn all() -> Vec<Verb> {
    [looks(), changes(), of_the_engine()].into_iter().flatten().collect()
}
