//! Gets and puts of folios, mappings, promises and locks balance whatever fails: each provider call, each
//! read, stale mappings, and drops at every await. Afterwards every folio can be locked.

use std::future::Future;
use std::pin::Pin;

use crate::error::ErrorKind;
use crate::error::Result;
use crate::iomap::contract::MapIntent;
use crate::iomap::grip::Grip;
use crate::iomap::guard::FolioGuard;
use crate::iomap::guard::FolioHook;
use crate::iomap::iter::Cursor;
use crate::iomap::mock::MockProvider;
use crate::iomap::pause::Canary;
use crate::iomap::testkit::Room;
use crate::iomap::testkit::block_on;
use crate::iomap::testkit::poll_times;
use crate::iomap::testkit::small_room;
use crate::kit::sync::atomic::AtomicU64;
use crate::kit::sync::atomic::Ordering;
use crate::units::BLOCK;
use crate::units::FileBlocks;

/// Counts, and sees that the folio is locked each time.
#[derive(Default)]
struct Ledger {
    gets: AtomicU64,
    puts: AtomicU64,
}

impl Ledger {
    fn count(counter: &AtomicU64, folio: &Grip) {
        assert!(folio.folio().try_lock().is_none(), "a folio without its lock");
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// How many there were, of each.
    fn balance(&self) -> u64 {
        let (gets, puts) = (self.gets.load(Ordering::Relaxed), self.puts.load(Ordering::Relaxed));
        assert_eq!(gets, puts, "gets and puts");
        gets
    }
}

impl FolioHook for Ledger {
    fn get(&self, folio: &Grip) {
        Self::count(&self.gets, folio);
    }

    fn attach(&self, _: &Grip, _: FileBlocks) {}

    fn put(&self, folio: &Grip, _: usize) {
        Self::count(&self.puts, folio);
    }
}

/// What goes wrong, the n-th time.
#[derive(Debug, Clone, Copy)]
enum Wrong {
    Begin(ErrorKind),
    Edge,
    Stale,
    Dropped,
}

const START: u64 = 3 * BLOCK + 100;
const LEN: usize = 30 * BLOCK as usize;

/// An object whose blocks are partly stored, dirty, and missing, with short mappings.
async fn prepared() -> Room<MockProvider> {
    let room = small_room();
    room.provider.script(|s| s.longest_answer = 7);
    room.mapped.write_at(0, &vec![1; 40 * BLOCK as usize]).await.unwrap();
    room.settle().await;
    room.provider.unmap(FileBlocks::new(8, 12));
    room.evict();
    room.mapped.write_at(20 * BLOCK, &[1; 100]).await.unwrap();
    room.yield_everywhere();
    room
}

type Write<'a> = Pin<Box<dyn Future<Output = Result<()>> + 'a>>;

/// One write with the n-th thing going wrong; whether it still did, and the folios that were got.
async fn one(wrong: Wrong, nth: u64) -> (bool, u64) {
    let room = prepared().await;
    let ledger = Ledger::default();
    let bytes = vec![2; LEN];
    let edges = [START / BLOCK, (START + LEN as u64) / BLOCK];
    let mut polls = usize::MAX;
    match wrong {
        Wrong::Begin(kind) => room.provider.fail_begin_after(nth, kind),
        Wrong::Edge => {
            if let Some(&edge) = edges.get(nth as usize) {
                let at = room.provider.stored(edge).unwrap().at;
                room.transport.with(|t| t.bad_reads.insert(at));
            }
        }
        Wrong::Stale => room.provider.script(|s| s.stale_answers = nth + 1),
        Wrong::Dropped => polls = nth as usize,
    }
    let mut write: Write<'_> = Box::pin(room.mapped.write_with(START, &bytes, &ledger));
    let outcome = match polls {
        usize::MAX => Some(write.as_mut().await),
        polls => poll_times(&mut write, polls),
    };
    drop(write);
    let gets = ledger.balance();
    room.expect_balance();
    let went_wrong = match wrong {
        Wrong::Stale => nth < 20,
        _ => !matches!(outcome, Some(Ok(()))),
    };
    assert!(went_wrong || gets > 0, "{wrong:?} {nth}: a whole write got no folio");
    (went_wrong, gets)
}

#[test]
fn on_every_path_out_of_a_write() {
    let kinds = [Wrong::Begin(ErrorKind::Device), Wrong::Begin(ErrorKind::NoSpace)];
    for wrong in kinds.into_iter().chain([Wrong::Edge, Wrong::Stale, Wrong::Dropped]) {
        let mut ways = 0;
        while block_on(one(wrong, ways)).0 {
            ways += 1;
        }
        let (_, gets) = block_on(one(wrong, ways));
        println!("race: {wrong:?} in {ways} places, {gets} gets and puts when nothing did");
        assert!(ways > 1, "{wrong:?} never happened");
    }
}

#[test]
fn a_guard_that_forgets_its_put_is_noticed() {
    for broken in [false, true] {
        block_on(async {
            let room = small_room();
            if broken {
                room.mapped.pauses().break_on_purpose(Canary::SkipPut);
            }
            let ledger = Ledger::default();
            let blocks = FileBlocks::new(0, 2);
            let cursor = Cursor::new(&room.provider, blocks, MapIntent::Write);
            let leases = cursor.collect().await.unwrap();
            let (cache, memory) = (room.mapped.cache(), &room.mapped.memory);
            let (folio, _) = cache.find_or_create(0, 1, memory).await.unwrap();
            let pauses = room.mapped.pauses();
            drop(FolioGuard::new(folio.into(), blocks.bytes(), None, &ledger, pauses));
            drop(leases);
            room.expect_balance();
            let (gets, puts) = (ledger.gets.into_inner(), ledger.puts.into_inner());
            assert_eq!(gets == puts, !broken, "the canary survived");
        });
    }
}
