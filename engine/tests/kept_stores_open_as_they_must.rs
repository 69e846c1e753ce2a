//! Stores that an earlier build made, kept in `tests/fixtures`: a closed one, one with a log to be replayed, and
//! damaged ones. What opening, check and export say of each stands in the table below.
//!
//! They prove that today's code reads what lies on disks. When the format changes, its version does, and this test
//! fails until they are made anew, by one command:
//!
//! ```sh
//! FOLIANT_FIXTURES=write cargo test -p foliant --test kept_stores_open_as_they_must
//! ```
//!
//! A file is the list of what is not zero on a device (`Sparse`), some KiB.

#![allow(clippy::unwrap_used)] // In helpers of tests as in tests: a failed unwrap is the failed test.

mod support;

use std::collections::BTreeMap;
use std::path::PathBuf;

use foliant::Engine;
use foliant::ErrorKind;
use foliant::check::Fault;
use foliant::check::Options;
use foliant::check::check;
use foliant::check::export;
use foliant_device::Device;
use foliant_device::sim::SimDisk;
use foliant_device::sim::SimOptions;
use support::BLOCK;
use support::DEVICE_BLOCKS_TIGHT;
use support::put;
use support::read_all;
use support::simulate;

const HOW: &str =
    "FOLIANT_FIXTURES=write cargo test -p foliant --test kept_stores_open_as_they_must";
const SUPERBLOCK: u64 = 0;
const HEADERS: [u64; 2] = [8, 9];
const ROOT: u64 = 24;
const JOURNAL: std::ops::Range<u64> = 32..32 + 1024;
const GROUP: u64 = 32 + 1024;
/// Bytes of a file at most.
const FILE_BYTES_MAX: usize = 64 << 10;
/// Zeroes that end a piece.
const GAP: usize = 8;
const MAGIC: &[u8] = b"FOLIANT KEPT 1\n";

type Contents = BTreeMap<Vec<u8>, Vec<u8>>;

/// What is not zero on a device, by block.
struct Sparse {
    blocks: u64,
    images: BTreeMap<u64, Vec<u8>>,
}

impl Sparse {
    /// What a power cut now would leave for sure.
    fn of(disk: &SimDisk) -> Self {
        let blocks = disk.blocks();
        let images = (0..blocks).map(|at| (at, disk.peek(at)));
        let images = images.filter(|(_, bytes)| bytes.iter().any(|&byte| byte != 0)).collect();
        Self { blocks, images }
    }

    fn disk(&self) -> SimDisk {
        let disk = SimDisk::new(self.blocks, SimOptions::default());
        self.images.iter().for_each(|(&at, bytes)| disk.poke(at, bytes));
        disk
    }

    fn block(&mut self, at: u64) -> &mut Vec<u8> {
        self.images.get_mut(&at).expect("the block is not empty")
    }

    /// For each block: its number, its pieces that are not zero, each with its place and length.
    fn encode(&self) -> Vec<u8> {
        let mut out = MAGIC.to_vec();
        out.extend(self.blocks.to_le_bytes());
        for (at, bytes) in &self.images {
            out.extend(at.to_le_bytes());
            let pieces = pieces(bytes);
            out.extend((pieces.len() as u16).to_le_bytes());
            for piece in pieces {
                out.extend((piece.start as u16).to_le_bytes());
                out.extend((piece.len() as u16).to_le_bytes());
                out.extend(&bytes[piece]);
            }
        }
        out
    }

    fn decode(mut bytes: &[u8]) -> Option<Self> {
        fn take<'a>(bytes: &mut &'a [u8], len: usize) -> Option<&'a [u8]> {
            let (head, rest) = bytes.split_at_checked(len)?;
            *bytes = rest;
            Some(head)
        }
        fn number(bytes: &mut &[u8], len: usize) -> Option<u64> {
            let taken = take(bytes, len)?;
            Some(taken.iter().rev().fold(0, |number, &byte| number << 8 | u64::from(byte)))
        }
        let bytes = &mut bytes;
        (take(bytes, MAGIC.len())? == MAGIC).then_some(())?;
        let blocks = number(bytes, 8)?;
        let mut images = BTreeMap::new();
        while !bytes.is_empty() {
            let at = number(bytes, 8)?;
            let mut image = vec![0; BLOCK];
            for _ in 0..number(bytes, 2)? {
                let start = number(bytes, 2)? as usize;
                let len = number(bytes, 2)? as usize;
                image.get_mut(start..start + len)?.copy_from_slice(take(bytes, len)?);
            }
            images.insert(at, image);
        }
        Some(Self { blocks, images })
    }
}

fn pieces(bytes: &[u8]) -> Vec<std::ops::Range<usize>> {
    let mut found: Vec<std::ops::Range<usize>> = Vec::new();
    for at in (0..bytes.len()).filter(|&at| bytes[at] != 0) {
        match found.last_mut() {
            Some(last) if at < last.end + GAP => last.end = at + 1,
            _ => found.push(at..at + 1),
        }
    }
    found
}

fn path(name: &str) -> PathBuf {
    let tests = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    tests.join(format!("{name}.image"))
}

/// Repetitive, so that files are small: a line for each block.
fn text(seed: u8, len: usize) -> Vec<u8> {
    let line = |at: usize| match at % BLOCK {
        place if place < 40 => seed + (at / BLOCK) as u8 + place as u8 % 7,
        _ => 0,
    };
    (0..len).map(line).collect()
}

/// A change whose group in the log can be torn.
fn several_sectors() -> Vec<u8> {
    (0..1_500).map(|i| (i * 7 + i / 50) as u8 | 1).collect()
}

fn long_name() -> Vec<u8> {
    (1..=255).collect()
}

/// What the closed store holds.
fn closed() -> Contents {
    let mut all = Contents::new();
    all.insert(b"plain".to_vec(), text(1, 3 * BLOCK + 77));
    all.insert(b"inline".to_vec(), text(60, 100));
    all.insert(b"sparse".to_vec(), [vec![0; 20 * BLOCK], text(90, BLOCK)].concat());
    all.insert(b"removed".to_vec(), text(120, 2 * BLOCK));
    all.insert(b"old name".to_vec(), text(150, BLOCK + 1));
    all.insert(long_name(), Vec::new());
    all
}

/// What it holds behind so many of the commits in the log.
fn logged(commits: usize) -> Contents {
    let mut all = closed();
    if commits > 0 {
        put(all.get_mut(&b"plain"[..]).unwrap(), 100, &[7; 20]);
    }
    if commits > 1 {
        let moved = all.remove(&b"old name"[..]).unwrap();
        all.insert(b"new name".to_vec(), moved);
        all.insert(b"made".to_vec(), text(30, 300));
    }
    if commits > 2 {
        put(all.get_mut(&b"inline"[..]).unwrap(), 50, &[8; 9]);
        put(all.get_mut(&b"plain"[..]).unwrap(), 2 * BLOCK + 9, &several_sectors());
    }
    if commits > 3 {
        all.remove(&b"removed"[..]);
        all.get_mut(&b"sparse"[..]).unwrap().truncate(20 * BLOCK + 10);
    }
    all
}

async fn commit(engine: &Engine, nth: usize) {
    let mut transaction = engine.transaction();
    let plain = engine.object("plain").await.unwrap();
    match nth {
        0 => transaction.write_at(&plain, 100, &[7; 20]).unwrap(),
        1 => {
            transaction.rename("old name", "new name").unwrap();
            let made = transaction.create("made").unwrap();
            transaction.write_at(&made, 0, &text(30, 300)).unwrap();
        }
        2 => {
            let inline = engine.object("inline").await.unwrap();
            transaction.write_at(&inline, 50, &[8; 9]).unwrap();
            transaction.write_at(&plain, 2 * BLOCK as u64 + 9, &several_sectors()).unwrap();
        }
        _ => {
            transaction.remove("removed").unwrap();
            let sparse = engine.object("sparse").await.unwrap();
            transaction.truncate(&sparse, 20 * BLOCK as u64 + 10).unwrap();
        }
    }
    transaction.commit().await.unwrap().durable().await.unwrap();
}

/// The closed store, the one with a log, and the blocks of the log that hold its third commit.
async fn make() -> (Sparse, Sparse, Vec<u64>) {
    let options = SimOptions { keeps_cuts: true, ..SimOptions::default() };
    let disk = SimDisk::new(DEVICE_BLOCKS_TIGHT, options);
    support::format(&disk).await;
    let engine = support::open(&disk).await.unwrap();
    for (name, bytes) in closed() {
        let object = engine.create(&name).await.unwrap();
        for (at, block) in bytes.chunks(BLOCK).enumerate() {
            if block.iter().any(|&byte| byte != 0) {
                object.write_at((at * BLOCK) as u64, block).await.unwrap();
            }
        }
        object.truncate(bytes.len() as u64).await.unwrap();
        if name == b"sparse" {
            object.preallocate(0..4 * BLOCK as u64).await.unwrap();
        }
        object.sync().await.unwrap();
    }
    engine.close().await.unwrap();
    let clean = Sparse::of(&disk);
    let engine = support::open(&disk).await.unwrap();
    let mut third = Vec::new();
    for nth in 0..4 {
        let before: Vec<_> = JOURNAL.map(|at| disk.peek(at)).collect();
        commit(&engine, nth).await;
        if nth == 2 {
            third = JOURNAL
                .zip(before)
                .filter(|(at, old)| disk.peek(*at) != *old)
                .collect::<Vec<_>>()
                .into_iter()
                .map(|(at, _)| at)
                .collect();
        }
    }
    disk.power_cut();
    drop(engine);
    (clean, Sparse::of(&SimDisk::after(&disk.last_cut().unwrap(), 0)), third)
}

/// The root of a tree: 0 objects, 1 extents, 2 names.
fn tree(store: &Sparse, which: usize) -> u64 {
    let at = 24 + 16 * which;
    u64::from_le_bytes(store.images[&ROOT][at..at + 8].try_into().unwrap())
}

/// All stores, by name.
async fn make_all() -> BTreeMap<&'static str, Sparse> {
    let (_, _, third) = make().await;
    let mut all = BTreeMap::new();
    let clean = || async { make().await.0 };
    let log = || async { make().await.1 };
    all.insert("closed", clean().await);
    all.insert("log", log().await);
    let mut torn = log().await;
    torn.block(SUPERBLOCK)[512..].fill(0x11);
    all.insert("torn-superblock", torn);
    for (name, headers) in [("rotten-header", &HEADERS[..1]), ("rotten-headers", &HEADERS[..])] {
        let mut rotten = log().await;
        headers.iter().for_each(|&at| rotten.block(at)[20] ^= 0x10);
        all.insert(name, rotten);
    }
    for (name, which) in [("rotten-node-of-extents", 1), ("rotten-node-of-names", 2)] {
        let mut rotten = clean().await;
        let at = tree(&rotten, which);
        rotten.block(at)[4_000] ^= 0x10;
        all.insert(name, rotten);
    }
    let mut rotten = clean().await;
    rotten.block(GROUP)[100] ^= 0x10;
    all.insert("rotten-group", rotten);
    let mut torn = log().await;
    let last = *third.last().unwrap();
    // The first sector is new, the others are as they were before.
    assert!(torn.block(last)[512..].iter().any(|&byte| byte != 0), "one sector is never torn");
    torn.block(last)[512..].fill(0);
    all.insert("torn-log", torn);
    all
}

/// What opening says.
enum Opens {
    /// It works; so many transactions are replayed at least; these contents, if objects can be opened and read.
    With {
        replayed: u64,
        contents: Contents,
        readable: bool,
    },
    /// It does not list, but opens.
    WithoutNames,
    Not(ErrorKind),
}

/// One kept store, and what must be said of it.
struct Kept {
    name: &'static str,
    opens: Opens,
    faults: &'static [(Fault, u64)],
    /// What export gives out.
    exports: Contents,
}

fn whole(
    name: &'static str,
    replayed: u64,
    contents: Contents,
    faults: &'static [(Fault, u64)],
) -> Kept {
    let exports = contents.clone();
    Kept { name, opens: Opens::With { replayed, contents, readable: true }, faults, exports }
}

fn without_extents((name, mut bytes): (Vec<u8>, Vec<u8>)) -> (Vec<u8>, Vec<u8>) {
    if name != b"inline" {
        bytes.fill(0);
    }
    (name, bytes)
}

/// The table.
fn kept() -> Vec<Kept> {
    vec![
        whole("closed", 0, closed(), &[]),
        whole("log", 4, logged(4), &[]),
        whole("torn-superblock", 4, logged(4), &[(Fault::Superblock, 1)]),
        whole("rotten-header", 4, logged(4), &[(Fault::JournalHeader, 1)]),
        Kept {
            name: "rotten-headers",
            opens: Opens::Not(ErrorKind::Corrupt),
            faults: &[(Fault::JournalHeader, 2)],
            // As it is without the log.
            exports: closed(),
        },
        Kept {
            name: "torn-log",
            // A group behind the torn one says that it was acknowledged: this was no power cut.
            opens: Opens::Not(ErrorKind::Corrupt),
            faults: &[(Fault::LogGap, 1)],
            exports: logged(2),
        },
        whole("rotten-group", 0, closed(), &[(Fault::Group, 1)]),
        Kept {
            name: "rotten-node-of-extents",
            opens: Opens::With { replayed: 0, contents: closed(), readable: false },
            faults: &[(Fault::Node, 1)],
            // Holes, and the report says so.
            exports: closed().into_iter().map(without_extents).collect(),
        },
        Kept {
            name: "rotten-node-of-names",
            opens: Opens::WithoutNames,
            faults: &[(Fault::Node, 1)],
            // By number.
            exports: closed(),
        },
    ]
}

fn load(name: &str) -> Sparse {
    let bytes = std::fs::read(path(name)).unwrap_or_else(|cause| panic!("{name}: {cause}; {HOW}"));
    Sparse::decode(&bytes).unwrap_or_else(|| panic!("{name} is no kept store; {HOW}"))
}

async fn opens(kept: &Kept, disk: &SimDisk) {
    let name = kept.name;
    let engine = match (support::open(disk).await, &kept.opens) {
        (Err(cause), Opens::Not(kind)) => {
            return assert_eq!(cause.kind(), *kind, "{name}: {cause}");
        }
        (Ok(_), Opens::Not(_)) => panic!("{name} opens"),
        (Err(cause), _) => panic!("{name}: {cause:?}"),
        (Ok(engine), _) => engine,
    };
    match &kept.opens {
        Opens::With { replayed, contents, readable } => {
            let recovery = engine.recovery();
            assert!(recovery.transactions >= *replayed, "{name}: {recovery:?}");
            assert!(*replayed > 0 || recovery.transactions == 0, "{name}: {recovery:?}");
            let names = engine.list("", 99).await.unwrap();
            assert!(names.iter().eq(contents.keys()), "{name}: {names:?}");
            for (object, bytes) in contents {
                let shown = object.escape_ascii().to_string();
                let opened = engine.object(object).await;
                if !readable {
                    let kind = opened.err().map(|cause| cause.kind());
                    assert_eq!(kind, Some(ErrorKind::Corrupt), "{name}: {shown}");
                    continue;
                }
                let found =
                    read_all(&opened.unwrap_or_else(|c| panic!("{name}: {shown}: {c}"))).await;
                assert!(found == *bytes, "{name}: content of {shown}");
            }
        }
        _ => {
            let cause = engine.list("", 99).await.expect_err("the names are lost");
            assert_eq!(cause.kind(), ErrorKind::Corrupt, "{name}: {cause}");
        }
    }
    engine.close().await.unwrap_or_else(|cause| panic!("{name}: {cause}"));
}

fn options() -> Options<'static> {
    Options { memory_bytes: 2 << 20, ..Options::default() }
}

async fn is_checked(kept: &Kept, disk: &SimDisk) {
    let report = check(&Device::new(disk.attach()), &options()).await.unwrap();
    let found: Vec<(Fault, u64)> = report.faults.iter().map(|(&fault, &n)| (fault, n)).collect();
    assert_eq!(found, kept.faults, "{}:\n{report}", kept.name);
}

async fn is_exported(kept: &Kept, disk: &SimDisk) {
    let name = kept.name;
    let dir = std::env::temp_dir().join(format!("foliant-kept-{}-{name}", std::process::id()));
    let outcome = export(&Device::new(disk.attach()), &options(), &dir).await;
    let files = |dir: &PathBuf| {
        let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
        entries.map(|entry| std::fs::read(entry.path()).unwrap()).collect::<Vec<_>>()
    };
    let found = files(&dir);
    let _ = std::fs::remove_dir_all(&dir);
    let exported = outcome.unwrap_or_else(|cause| panic!("{name}: export: {cause}"));
    assert_eq!(exported.objects as usize, kept.exports.len(), "{name}: exported objects");
    assert_eq!(found.len(), kept.exports.len(), "{name}: files");
    for (object, bytes) in &kept.exports {
        assert!(found.contains(bytes), "{name}: {} is not exported", object.escape_ascii());
    }
    // What does not stand in the way of the objects is no business of an export.
    let told = |fault: &(Fault, u64)| exported.report.count(fault.0) == fault.1;
    let in_the_way = kept.faults.iter().filter(|fault| fault.0 != Fault::Group);
    assert!(in_the_way.clone().all(told), "{name}: export says\n{}", exported.report);
}

/// Makes the files anew, if that is asked for; before any test looks at them.
fn write_if_asked() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(write_all_if_asked);
}

fn write_all_if_asked() {
    if std::env::var("FOLIANT_FIXTURES").as_deref() != Ok("write") {
        return;
    }
    std::fs::create_dir_all(path("").parent().unwrap()).unwrap();
    for (name, store) in simulate(make_all()) {
        let bytes = store.encode();
        assert!(bytes.len() < FILE_BYTES_MAX, "{name} has {} bytes", bytes.len());
        assert!(Sparse::decode(&bytes).unwrap().images == store.images, "{name}");
        std::fs::write(path(name), bytes).unwrap();
    }
}

#[test]
fn kept_stores_open_as_they_must() {
    write_if_asked();
    let version = load("closed").images[&SUPERBLOCK][12..16].to_vec();
    let version = u32::from_le_bytes(version.try_into().unwrap());
    let current = foliant::testing::format_version();
    assert_eq!(version, current, "the format has another version than the kept stores; {HOW}");
    let mut failed = Vec::new();
    for kept in kept() {
        let store = load(kept.name);
        let run = || {
            simulate(async {
                is_checked(&kept, &store.disk()).await;
                is_exported(&kept, &store.disk()).await;
                opens(&kept, &store.disk()).await;
            });
        };
        if std::panic::catch_unwind(std::panic::AssertUnwindSafe(run)).is_err() {
            failed.push(kept.name);
        }
    }
    assert!(failed.is_empty(), "{failed:?}; if the format was changed on purpose: {HOW}");
}

#[test]
fn no_file_is_left_over_and_none_is_large() {
    write_if_asked();
    let table: Vec<PathBuf> = kept().iter().map(|kept| path(kept.name)).collect();
    let dir = path("").parent().unwrap().to_owned();
    for entry in std::fs::read_dir(&dir).unwrap_or_else(|cause| panic!("{cause}; {HOW}")) {
        let entry = entry.unwrap();
        assert!(table.contains(&entry.path()), "{} is in no table", entry.path().display());
        let bytes = entry.metadata().unwrap().len() as usize;
        assert!(bytes < FILE_BYTES_MAX, "{} has {bytes} bytes", entry.path().display());
    }
}
