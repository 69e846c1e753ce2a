//! What runs beside a verb that is dropped: writers, readers, commits, syncs and names, each with a model of
//! what it was told to be done.
//!
//! Guarantees that the load touches nothing but the first bytes of the target, and names that begin with `load`.
//! Called by `harness`.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;

use foliant::Engine;
use foliant::ErrorKind;
use foliant::Object;
use foliant::testing::holdings::forget_metadata;
use foliant_device::sim::Rng;
use tokio::task::JoinHandle;

use crate::harness::Beside;
use crate::harness::LEN;
use crate::harness::LOADED;
use crate::harness::bounded;
use crate::harness::rest;
use crate::support;
use crate::support::BLOCK;

/// The load's part of the volume.
#[derive(Debug, Default)]
pub struct Loaded {
    /// The first bytes of the target.
    pub region: Vec<u8>,
    pub names: BTreeMap<Vec<u8>, Vec<u8>>,
}

impl Loaded {
    pub fn assert_is(&self, found: &Self, what: &str) {
        let names = |loaded: &Self| loaded.names.keys().cloned().collect::<Vec<_>>();
        assert_eq!(names(self), names(found), "{what}: names of the load");
        assert!(self.names == found.names, "{what}: contents of the load's objects");
        // Without a load it is as it was made.
        let own = if self.region.is_empty() { &vec![0; LOADED] } else { &self.region };
        let at = own.iter().zip(&found.region).position(|(a, b)| a != b);
        assert_eq!(at, None, "{what}: a byte of the load beside it");
    }
}

/// Tasks beside a verb.
pub struct Load {
    stop: Arc<AtomicBool>,
    writer: Option<JoinHandle<Vec<u8>>>,
    committer: Option<JoinHandle<(Vec<u8>, Vec<u8>)>>,
    namer: Option<JoinHandle<BTreeMap<Vec<u8>, Vec<u8>>>>,
    readers: Vec<JoinHandle<()>>,
    hog: Option<JoinHandle<Vec<u8>>>,
}

const WRITTEN: Range<usize> = 0..8 * BLOCK;
const COMMITTED: Range<usize> = 8 * BLOCK..LOADED;

impl Load {
    fn none() -> Self {
        Self {
            stop: Arc::default(),
            writer: None,
            committer: None,
            namer: None,
            readers: Vec::new(),
            hog: None,
        }
    }

    pub async fn start(engine: &Engine, beside: Beside, seed: u64) -> Self {
        if beside == Beside::Nobody {
            return Self::none();
        }
        let stop = Arc::new(AtomicBool::new(false));
        let target = engine.object("target").await.unwrap();
        let other = engine.create("load").await.unwrap();
        let rng = |n: u64| Rng::new(seed * 10 + n);
        let writer = tokio::spawn(write(target.clone(), stop.clone(), rng(1)));
        let objects = (target.clone(), other);
        let committer = tokio::spawn(commit(engine.clone(), objects, stop.clone(), rng(2)));
        let namer = tokio::spawn(name(engine.clone(), stop.clone(), rng(3)));
        let reader = read(engine.clone(), target.clone(), stop.clone(), rng(4));
        let direct = read_direct(engine.clone(), target, stop.clone(), rng(5));
        let readers = vec![tokio::spawn(reader), tokio::spawn(direct)];
        let hog = match beside {
            Beside::Hog => {
                let object = engine.create("load-hog").await.unwrap();
                Some(tokio::spawn(hog(object, stop.clone(), rng(6))))
            }
            _ => None,
        };
        Self {
            stop,
            writer: Some(writer),
            committer: Some(committer),
            namer: Some(namer),
            readers,
            hog,
        }
    }

    /// Ends the load; what it leaves.
    pub async fn stop(self) -> Loaded {
        self.stop.store(true, Ordering::SeqCst);
        let mut loaded = Loaded::default();
        let (Some(writer), Some(committer)) = (self.writer, self.committer) else { return loaded };
        loaded.names = bounded("the load's names", self.namer.unwrap()).await.unwrap();
        loaded.region = bounded("the load's writes", writer).await.unwrap();
        let (region, object) = bounded("the load's commits", committer).await.unwrap();
        loaded.region.extend(region);
        loaded.names.insert(b"load".to_vec(), object);
        for reader in self.readers {
            bounded("the load's reads", reader).await.unwrap();
        }
        if let Some(hog) = self.hog {
            let bytes = bounded("the load's large object", hog).await.unwrap();
            loaded.names.insert(b"load-hog".to_vec(), bytes);
        }
        loaded
    }

    /// Ends the load, in the middle of whatever it does.
    pub fn give_up(self) {
        self.writer.iter().for_each(JoinHandle::abort);
        self.committer.iter().for_each(JoinHandle::abort);
        self.namer.iter().for_each(JoinHandle::abort);
        self.readers.iter().for_each(JoinHandle::abort);
        self.hog.iter().for_each(JoinHandle::abort);
    }
}

fn is_over(stop: &AtomicBool) -> bool {
    stop.load(Ordering::SeqCst)
}

async fn write(target: Object, stop: Arc<AtomicBool>, mut rng: Rng) -> Vec<u8> {
    let mut model = vec![0; WRITTEN.len()];
    while !is_over(&stop) {
        let len = rng.below(9_000) as usize + 1;
        let at = rng.below((model.len() - len) as u64) as usize;
        let data = support::bytes(&mut rng, len);
        bounded("a write of the load", target.write_at(at as u64, &data)).await.unwrap();
        model[at..at + len].copy_from_slice(&data);
        if rng.below(4) == 0 {
            bounded("a sync of the load", target.sync()).await.unwrap();
        }
        rest(rng.below(4)).await;
    }
    model
}

async fn commit(
    engine: Engine,
    (target, beside): (Object, Object),
    stop: Arc<AtomicBool>,
    mut rng: Rng,
) -> (Vec<u8>, Vec<u8>) {
    let (mut model, mut other) = (vec![0; COMMITTED.len()], Vec::new());
    while !is_over(&stop) {
        let mut transaction = engine.transaction();
        let len = rng.below(3_000) as usize + 1;
        let at = rng.below((model.len() - len) as u64) as usize;
        let data = support::bytes(&mut rng, len);
        transaction.write_at(&target, (COMMITTED.start + at) as u64, &data).unwrap();
        transaction.write_at(&beside, at as u64, &data).unwrap();
        let commit = bounded("a commit of the load", transaction.commit()).await.unwrap();
        model[at..at + len].copy_from_slice(&data);
        support::put(&mut other, at, &data);
        if rng.below(3) == 0 {
            bounded("a durable commit of the load", commit.durable()).await.unwrap();
        }
        rest(rng.below(4)).await;
    }
    (model, other)
}

async fn name(engine: Engine, stop: Arc<AtomicBool>, mut rng: Rng) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut names = BTreeMap::new();
    while !is_over(&stop) {
        // Now and then it is read again, with the metadata lock held by whoever comes first.
        if rng.below(2) == 0 {
            forget_metadata(&engine);
        }
        let name = format!("load-{:03}", rng.below(9)).into_bytes();
        if names.remove(&name).is_some() {
            bounded("a removal of the load", engine.remove(&name)).await.unwrap();
        } else {
            let object = bounded("a new name of the load", engine.create(&name)).await.unwrap();
            let len = [100, 9_000][rng.below(2) as usize];
            let data = support::bytes(&mut rng, len);
            bounded("a write of the load", object.write_at(0, &data)).await.unwrap();
            names.insert(name, data);
        }
        rest(rng.below(6)).await;
    }
    names
}

/// Reads what the verb works on: it only has to go on.
async fn read(engine: Engine, target: Object, stop: Arc<AtomicBool>, mut rng: Rng) {
    let mut into = vec![0; 20 * BLOCK];
    while !is_over(&stop) {
        let at = rng.below(LEN as u64);
        bounded("a read of the load", target.read_at(at, &mut into)).await.unwrap();
        bounded("a look of the load", target.extents(0..LEN as u64, 9)).await.unwrap();
        match bounded("a look of the load", engine.object("old")).await {
            Ok(old) => {
                let read = bounded("a read of the load", old.read_at(0, &mut into)).await;
                let gone = |kind| kind == ErrorKind::Closed;
                assert!(read.is_ok() || read.is_err_and(|cause| gone(cause.kind())));
            }
            Err(cause) => assert_eq!(cause.kind(), ErrorKind::NotFound, "{cause}"),
        }
        rest(rng.below(4)).await;
    }
}

/// Holds the range of the target while the device reads.
async fn read_direct(engine: Engine, target: Object, stop: Arc<AtomicBool>, mut rng: Rng) {
    let buffer = bounded("a buffer of the load", engine.direct_buffer(20 * BLOCK)).await;
    let mut buffer = buffer.unwrap();
    while !is_over(&stop) {
        let at = rng.below(60) * BLOCK as u64;
        let len = buffer.len();
        let read = bounded("a direct read of the load", target.read_direct(at, buffer, 0..len));
        let outcome;
        (buffer, outcome) = read.await;
        outcome.unwrap();
        // What is cached is not waited for.
        rest(1).await;
    }
}

/// Writes so much that writers must wait, and that little of the target stays in memory.
async fn hog(object: Object, stop: Arc<AtomicBool>, mut rng: Rng) -> Vec<u8> {
    const PIECE: usize = 32 * BLOCK;
    let mut model = Vec::new();
    let mut into = vec![0; PIECE];
    while !is_over(&stop) {
        let at = rng.below(48) as usize * PIECE;
        let data = support::bytes(&mut rng, PIECE);
        bounded("a large write of the load", object.write_at(at as u64, &data)).await.unwrap();
        support::put(&mut model, at, &data);
        let at = rng.below(48) * PIECE as u64;
        bounded("a large read of the load", object.read_at(at, &mut into)).await.unwrap();
        rest(1).await;
    }
    model
}
