//! Short writes beside writers of the same folios: the clean-up takes back only the promises of blocks
//! that the short write itself brought and did not dirty; everybody's bytes survive.

use std::sync::Arc;

use crate::iomap::contract::MapIntent;
use crate::iomap::grip::Grip;
use crate::iomap::guard::FolioGuard;
use crate::iomap::iter::Cursor;
use crate::iomap::mock::MockProvider;
use crate::iomap::pause::Canary;
use crate::iomap::testkit::Random;
use crate::iomap::testkit::Room;
use crate::iomap::testkit::block_on;
use crate::iomap::testkit::small_room;
use crate::units::BLOCK;
use crate::units::FileBlocks;

const ALL: FileBlocks = FileBlocks { start: 0, end: u64::MAX };
const FOLIOS: u64 = 6;
const FOLIO: u64 = 16;
/// The upper half of each folio belongs to the short writer, the lower one to the small writers.
const HALF: u64 = FOLIO / 2;

#[derive(Default)]
struct Seen {
    short: u64,
    empty: u64,
    whole: u64,
}

/// One copy of a random part of a random range of blocks in the upper half of a folio.
async fn short(room: &Room<MockProvider>, random: &mut Random, model: &mut [u8], seen: &mut Seen) {
    let first = random.below(FOLIOS) * FOLIO + HALF + random.below(HALF);
    let end = (first / FOLIO + 1) * FOLIO;
    let blocks = FileBlocks::new(first, first + 1 + random.below(end - first));
    let _held = room.mapped.ranges().exclusive(blocks.start..blocks.end).await;
    let byte = 1 + random.below(250) as u8;
    let (mut guard, mut leases) = loop {
        let cursor = Cursor::new(&room.provider, blocks, MapIntent::Write);
        let leases = cursor.collect().await.unwrap();
        let head = first / FOLIO * FOLIO;
        let (cache, memory) = (room.mapped.cache(), &room.mapped.memory);
        let (folio, _) = cache.find_or_create(head, 4, memory).await.unwrap();
        let mut folios = [Grip::from(folio)];
        let spare = room.mapped.spares(&mut folios).await.unwrap().pop().unwrap();
        let [folio] = folios;
        let fits = folio.span().end >= blocks.end;
        assert!(fits, "the folios of this test have sixteen blocks");
        if leases.iter().all(|lease| lease.is_current()) {
            let pauses = room.mapped.pauses();
            break (FolioGuard::new(folio, blocks.bytes(), spare, &(), pauses), leases);
        }
    };
    let len = (blocks.len() * BLOCK) as usize;
    let copied = [len, 0, random.below(len as u64 + 1) as usize][random.below(3) as usize];
    if random.below(5) == 0 {
        // Dropped with its bytes in it: a copy of nothing. Nothing was marked, so nobody may see them.
        seen.empty += 1;
        return;
    }
    guard.copy(&vec![byte; copied]);
    let accepted = guard.commit(copied, &mut leases, || {});
    model[first as usize * BLOCK as usize..][..accepted].fill(byte);
    let kind = match accepted {
        0 => &mut seen.empty,
        _ if accepted < len => &mut seen.short,
        _ => &mut seen.whole,
    };
    *kind += 1;
}

/// Writes bytes of its own into the lower halves; gives back what they are in the end.
async fn small(room: Arc<Room<MockProvider>>, writer: u64, seed: u64) -> Vec<(u64, u8)> {
    const STRIDE: u64 = 1100;
    let mut random = Random::new(seed + writer);
    let mut last = std::collections::BTreeMap::new();
    for _ in 0..150 {
        let slot = random.below(HALF * BLOCK / STRIDE / 3) * 3 + writer;
        let at = random.below(FOLIOS) * FOLIO * BLOCK + slot * STRIDE;
        let byte = 1 + random.below(250) as u8;
        room.mapped.write_at(at, &[byte; STRIDE as usize]).await.unwrap();
        last.insert(at, byte);
    }
    last.into_iter().collect()
}

async fn run(seed: u64, canary: Option<Canary>) -> (Arc<Room<MockProvider>>, Seen) {
    let room = Arc::new(small_room());
    let mut model = vec![9; (FOLIOS * FOLIO * BLOCK) as usize];
    room.mapped.write_at(0, &model).await.unwrap();
    room.settle().await;
    room.yield_everywhere();
    if let Some(canary) = canary {
        room.mapped.pauses().break_on_purpose(canary);
    }
    let writers: Vec<_> =
        (0..3).map(|writer| tokio::spawn(small(Arc::clone(&room), writer, seed * 10))).collect();
    let mut random = Random::new(seed);
    let mut seen = Seen::default();
    for _ in 0..100 {
        short(&room, &mut random, &mut model, &mut seen).await;
        if random.below(4) == 0 {
            room.mapped.write_back(ALL).await.unwrap();
        }
        tokio::task::yield_now().await;
    }
    if canary.is_some() {
        return (room, seen);
    }
    room.expect_balance();
    for writer in writers {
        for (at, byte) in writer.await.unwrap() {
            let mut bytes = [0; 1100];
            room.mapped.read_at(at, &mut bytes).await.unwrap();
            assert!(bytes.iter().all(|&b| b == byte), "a small writer's bytes at {at}");
        }
    }
    for folio in 0..FOLIOS {
        let upper = FileBlocks::new(folio * FOLIO + HALF, (folio + 1) * FOLIO).bytes();
        let mut bytes = vec![0; (HALF * BLOCK) as usize];
        room.mapped.read_at(upper.start, &mut bytes).await.unwrap();
        assert!(bytes == model[upper.start as usize..upper.end as usize], "accepted bytes");
    }
    (room, seen)
}

#[test]
fn promises_and_bytes_beside_random_short_copies() {
    for seed in 0..4 {
        block_on(async {
            let (room, seen) = run(seed, None).await;
            let Seen { short, empty, whole } = seen;
            println!("race: seed {seed}: {short} short, {empty} empty, {whole} whole copies");
            assert!(short > 5 && empty > 5 && whole > 5);
            assert_eq!(room.provider.counts().promised, room.unsettled());
            room.settle().await;
            assert_eq!(room.provider.counts().promised, 0, "promises of nobody");
            room.expect_balance();
        });
    }
}

#[test]
fn promises_that_a_short_copy_keeps_are_noticed() {
    block_on(async {
        let (room, _) = run(1, Some(Canary::KeepPromises)).await;
        room.mapped.write_back(ALL).await.unwrap();
        assert!(room.provider.counts().promised > room.unsettled(), "the canary survived");
    });
}

/// A block that is not up to date and was not copied whole holds bytes of nobody.
#[test]
fn bytes_of_nobody_are_not_accepted() {
    for broken in [false, true] {
        block_on(async {
            let room = small_room();
            if broken {
                room.mapped.pauses().break_on_purpose(Canary::AcceptShort);
            }
            let blocks = FileBlocks::new(0, 2);
            let cursor = Cursor::new(&room.provider, blocks, MapIntent::Write);
            let mut leases = cursor.collect().await.unwrap();
            let (cache, memory) = (room.mapped.cache(), &room.mapped.memory);
            let (folio, _) = cache.find_or_create(0, 1, memory).await.unwrap();
            let pauses = room.mapped.pauses();
            let run = std::panic::AssertUnwindSafe(|| {
                let mut guard = FolioGuard::new(folio.into(), blocks.bytes(), None, &(), pauses);
                guard.copy(&[7; 5000]);
                guard.commit(5000, &mut leases, || {})
            });
            let outcome = std::panic::catch_unwind(run);
            // Broken, the folio itself refuses: a part of a block that is not up to date.
            assert_eq!(outcome.ok(), (!broken).then_some(BLOCK as usize));
        });
    }
}
