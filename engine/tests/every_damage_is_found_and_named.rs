//! A table of damages, each with the findings that a look at the store must have: these and no
//! others. Where the point is a contradiction between structures, checksums are right. What has one right
//! answer is repaired, and the store is sound then and opens; what has none is left as it is.

#![allow(clippy::unwrap_used)] // In helpers of tests as in tests: a failed unwrap is the failed test.

mod support;

use std::collections::BTreeMap;

use foliant::check::Fault;
use foliant::check::Options;
use foliant::check::Report;
use foliant::check::check;
use foliant::check::export;
use foliant::check::repair;
use foliant_device::Device;
use foliant_device::DeviceErrorKind;
use foliant_device::error::Operation;
use foliant_device::sim::FaultRule;
use foliant_device::sim::SimDisk;
use foliant_device::sim::SimOptions;
use support::BLOCK;
use support::DEVICE_BLOCKS;
use support::format;
use support::is_sound;
use support::open;
use support::simulate;

const BODY: usize = 24;
const ROOT: u64 = 24;
const GROUP: u64 = 32 + 1024;
const HEAD: u64 = 33;
/// So many that the trees have inner nodes.
const SMALL: usize = 300;

/// A store in which everything occurs, and where things are.
struct Store {
    disk: SimDisk,
    volume: u32,
    contents: BTreeMap<Vec<u8>, Vec<u8>>,
}

fn text(seed: u64, len: usize) -> Vec<u8> {
    (0..len as u64).map(|i| (i * 31 + seed * 7 + i / 4096) as u8 | 1).collect()
}

impl Store {
    async fn new() -> Self {
        let disk = SimDisk::new(DEVICE_BLOCKS, SimOptions::default());
        format(&disk).await;
        let engine = open(&disk).await.unwrap();
        let mut contents = BTreeMap::new();
        for i in 0..SMALL {
            let name = format!("small-{i:03}").into_bytes();
            let object = engine.create(&name).await.unwrap();
            let bytes = if i % 20 == 0 { text(i as u64, i) } else { Vec::new() };
            object.write_at(0, &bytes).await.unwrap();
            contents.insert(name, bytes);
        }
        // Three neighbours: one mapped, one that is gone, one in its record.
        let mapped = engine.create("mapped").await.unwrap();
        mapped.write_at(0, &text(1, 9_000)).await.unwrap();
        engine.create("gone").await.unwrap();
        engine.remove("gone").await.unwrap();
        let other = engine.create("other").await.unwrap();
        other.write_at(0, &text(2, 9_000)).await.unwrap();
        engine.create("inline").await.unwrap().write_at(0, &text(3, 99)).await.unwrap();
        let scattered = engine.create("scattered").await.unwrap();
        let mut bytes = vec![0; 41 * BLOCK];
        for at in [0, 10, 20, 30, 40] {
            let piece = text(at as u64, BLOCK);
            scattered.write_at((at * BLOCK) as u64, &piece).await.unwrap();
            bytes[at * BLOCK..(at + 1) * BLOCK].copy_from_slice(&piece);
        }
        scattered.preallocate(50 * BLOCK as u64..90 * BLOCK as u64).await.unwrap();
        engine.close().await.unwrap();
        contents.insert(b"mapped".to_vec(), text(1, 9_000));
        contents.insert(b"other".to_vec(), text(2, 9_000));
        contents.insert(b"inline".to_vec(), text(3, 99));
        contents.insert(b"scattered".to_vec(), bytes);
        let superblock = disk.peek(0);
        let volume = u32::from_le_bytes(superblock[96..100].try_into().unwrap());
        Self { disk, volume, contents }
    }

    async fn look(&self) -> Report {
        let options = Options { memory_bytes: 2 << 20, ..Options::default() };
        check(&Device::new(self.disk.attach()), &options).await.unwrap()
    }

    /// Changes a metadata block and gives it the right checksum.
    fn change(&self, at: u64, change: impl FnOnce(&mut [u8])) {
        let mut image = self.disk.peek(at);
        change(&mut image[BODY..]);
        foliant::testing::seal_metadata(&mut image, at, self.volume);
        self.disk.poke(at, &image);
    }

    fn add(&self, at: u64, place: usize, by: i64) {
        self.change(at, |body| {
            let old = long(body, place);
            body[place..place + 8].copy_from_slice(&old.wrapping_add_signed(by).to_le_bytes());
        });
    }

    /// The free counts of group and root.
    fn add_free(&self, by: i32) {
        self.change(GROUP, |body| {
            let old = u32::from_le_bytes(body[0..4].try_into().unwrap());
            body[0..4].copy_from_slice(&old.wrapping_add_signed(by).to_le_bytes());
        });
        self.add(ROOT, 56, i64::from(by));
    }

    fn flip_bit(&self, block: u64) {
        let index = (block - GROUP) as usize;
        self.change(GROUP, |body| body[40 + index / 8] ^= 1 << (index % 8));
    }

    /// The leaf of a tree (0 objects, 1 extents, 2 names) with a key, and where its cell is.
    fn find(&self, tree: usize, key: &[u8]) -> (u64, usize) {
        let root = self.disk.peek(ROOT);
        let mut level = vec![long(&root[BODY..], 16 * tree)];
        loop {
            let mut below = Vec::new();
            for at in level {
                let image = self.disk.peek(at);
                let body = &image[BODY..];
                for i in 0..half(body, 2) {
                    let cell = half(body, 16 + 2 * i);
                    let value = cell + 4 + half(body, cell);
                    if body[0] > 0 {
                        below.push(long(body, value));
                    } else if body[cell + 4..value].starts_with(key) {
                        return (at, cell);
                    }
                }
            }
            assert!(!below.is_empty(), "no entry {key:?}");
            level = below;
        }
    }

    fn id(&self, name: &[u8]) -> u64 {
        let (at, cell) = self.find(2, name);
        let image = self.disk.peek(at);
        long(&image[BODY..], cell + 4 + name.len())
    }

    /// Changes the entry of a tree: its key, then its value.
    fn entry(&self, tree: usize, key: &[u8], change: impl FnOnce(&mut [u8], &mut [u8])) {
        let (at, cell) = self.find(tree, key);
        self.change(at, |body| {
            let (keys, values) = (half(body, cell), half(body, cell + 2));
            let (key, rest) = body[cell + 4..].split_at_mut(keys);
            change(key, &mut rest[..values]);
        });
    }

    fn extent_of(&self, name: &[u8], change: impl FnOnce(&mut [u8], &mut [u8])) {
        self.entry(1, &self.id(name).to_be_bytes(), change);
    }

    fn start_of(&self, name: &[u8]) -> u64 {
        let mut start = 0;
        self.extent_of(name, |_, value| start = long(value, 0));
        start
    }

    /// Every object but these is what it was.
    async fn others_are_right(&self, except: &[&[u8]]) {
        let engine = open(&self.disk).await.expect("the store opens");
        for (name, bytes) in self.contents.iter().filter(|(n, _)| !except.contains(&&n[..])) {
            let object = engine.object(name).await.unwrap();
            let mut found = vec![0; object.size() as usize];
            object.read_at(0, &mut found).await.unwrap();
            assert!(found == *bytes, "{} changed", name.escape_ascii());
        }
        engine.close().await.unwrap();
    }
}

fn half(bytes: &[u8], at: usize) -> usize {
    usize::from(u16::from_le_bytes([bytes[at], bytes[at + 1]]))
}

fn long(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}

/// Damages a store as `damage` does; the findings must be `expected`, and if they can be repaired, the
/// store is sound afterwards and everything but `lost` is as it was.
fn damaged(
    damage: impl FnOnce(&Store),
    expected: &[(Fault, u64)],
    mendable: bool,
    renamed: &[&[u8]],
) {
    simulate(async {
        let store = Store::new().await;
        is_sound(&store.disk, true).await;
        damage(&store);
        let before: Vec<Vec<u8>> =
            (0..DEVICE_BLOCKS).map(|at| store.disk.peek_cached(at)).collect();
        let report = store.look().await;
        let found: Vec<(Fault, u64)> = report.faults.clone().into_iter().collect();
        assert_eq!(found, expected, "\n{report}");
        let same = (0..DEVICE_BLOCKS).all(|at| store.disk.peek_cached(at) == before[at as usize]);
        assert!(same, "a look changed the store");
        assert_eq!(report.mendable == report.total(), mendable, "\n{report}");
        let options = Options::default();
        let repaired = repair(&Device::new(store.disk.attach()), &options).await.unwrap();
        assert_eq!(repaired.after.is_sound(), mendable, "{:?}\n{}", repaired.done, repaired.after);
        if report.mendable == 0 {
            assert!(repaired.done.is_empty(), "{:?}", repaired.done);
            let same = |at: u64| store.disk.peek_cached(at) == before[at as usize];
            assert!((0..DEVICE_BLOCKS).all(same), "something was changed that has no right answer");
        }
        if mendable {
            assert!(!repaired.done.is_empty());
            is_sound(&store.disk, true).await;
            store.others_are_right(renamed).await;
            is_sound(&store.disk, true).await;
        }
    });
}

#[test]
fn damaged_superblocks_and_headers() {
    use Fault::*;
    damaged(|s| s.disk.flip(16, 70, 1), &[(Superblock, 1)], true, &[]);
    damaged(|s| s.disk.flip(0, 3, 1), &[(Superblock, 1)], true, &[]);
    damaged(|s| s.disk.flip(8, 20, 1), &[(JournalHeader, 1)], true, &[]);
    damaged(|s| s.disk.flip(9, 20, 1), &[(JournalHeader, 1)], true, &[]);
    let both = |s: &Store| [8, 9].iter().for_each(|&at| s.disk.flip(at, 20, 1));
    damaged(both, &[(JournalHeader, 2)], false, &[]);
    let both = |s: &Store| [0, 16].iter().for_each(|&at| s.disk.flip(at, 70, 1));
    damaged(both, &[(Superblock, 2)], false, &[]);
    let older = |s: &Store| {
        let mut image = s.disk.peek(16);
        foliant::testing::make_superblock_older(&mut image);
        s.disk.poke(16, &image);
    };
    damaged(older, &[(SuperblocksDiffer, 1)], false, &[]);
}

#[test]
fn damaged_roots_and_counts() {
    use Fault::*;
    damaged(|s| s.disk.flip(ROOT, 100, 1), &[(Root, 1)], false, &[]);
    damaged(|s| s.add(ROOT, 64, 9), &[(Root, 1)], false, &[]);
    damaged(|s| s.add(ROOT, 56, 9), &[(Count, 1)], true, &[]);
    damaged(|s| s.add(ROOT, 48, -2), &[(Count, 1)], true, &[]);
    damaged(|s| s.add(ROOT, 72, -2), &[(Count, 1)], true, &[]);
    let virgin = |s: &Store| s.add(ROOT, 64, -1);
    damaged(virgin, &[(Count, 1), (UsedButFree, 1)], true, &[]);
}

#[test]
fn one_damaged_node_is_one_finding() {
    use Fault::*;
    for (tree, key) in [(0, &b""[..]), (1, b""), (2, b"small-100")] {
        damaged(|s| s.disk.flip(s.find(tree, key).0, 3000, 1), &[(Node, 1)], false, &[]);
    }
    // Two slots the wrong way round, with a right checksum.
    let swap = |s: &Store| s.change(s.find(2, b"small-100").0, |b| b[16..20].rotate_left(2));
    damaged(swap, &[(Node, 1)], false, &[]);
    // A leaf under another tree: every key is out of place there.
    let cross = |s: &Store| s.change(ROOT, |b| b.copy_within(16..32, 32));
    simulate(async {
        let store = Store::new().await;
        cross(&store);
        let report = store.look().await;
        assert!(report.count(OwnedTwice) > 0 && !report.is_sound(), "\n{report}");
    });
}

#[test]
fn damaged_free_maps() {
    use Fault::*;
    damaged(|s| s.disk.flip(GROUP, 500, 1), &[(Group, 1)], true, &[]);
    damaged(|s| s.change(GROUP, |b| b[0] ^= 1), &[(Group, 1)], true, &[]);
    let leak = |s: &Store| {
        (0..3).for_each(|i| s.flip_bit(GROUP + 5_000 + i));
        s.add_free(-3);
    };
    damaged(leak, &[(Leak, 1)], true, &[]);
    let free = |s: &Store| {
        s.flip_bit(s.start_of(b"mapped"));
        s.add_free(1);
    };
    damaged(free, &[(UsedButFree, 1)], true, &[]);
    damaged(|s| s.disk.flip(GROUP + 1, 500, 1), &[(Checksums, 1)], false, &[]);
    damaged(|s| s.change(GROUP, |b| b[4] ^= 1), &[(Checksums, 1)], true, &[]);
}

#[test]
fn extents_that_contradict_others() {
    use Fault::*;
    let steal = |s: &Store| {
        let start = s.start_of(b"other");
        s.extent_of(b"mapped", |_, value| value[..8].copy_from_slice(&start.to_le_bytes()));
    };
    damaged(steal, &[(OwnedTwice, 1), (Leak, 1)], false, &[]);
    let outside = |s: &Store| s.extent_of(b"mapped", |_, value| value[..8].fill(0x11));
    damaged(outside, &[(Outside, 1), (Leak, 1)], false, &[]);
    let head = |s: &Store| {
        let start = (GROUP + HEAD - 1).to_le_bytes();
        s.extent_of(b"mapped", |_, value| value[..8].copy_from_slice(&start));
    };
    damaged(head, &[(Outside, 1), (Leak, 1)], false, &[]);
    damaged(|s| s.extent_of(b"mapped", |_, v| v[12] |= 4), &[(Extent, 1)], false, &[]);
    damaged(|s| s.extent_of(b"mapped", |_, v| v[8..12].fill(0)), &[(Extent, 1)], false, &[]);
    let gone = |s: &Store| {
        let id = s.id(b"mapped") + 1;
        s.extent_of(b"mapped", |key, _| key[..8].copy_from_slice(&id.to_be_bytes()));
    };
    damaged(gone, &[(ExtentOwner, 1)], false, &[]);
    let inline = |s: &Store| {
        let id = s.id(b"inline");
        s.extent_of(b"other", |key, _| key[..8].copy_from_slice(&id.to_be_bytes()));
    };
    damaged(inline, &[(InlineTwice, 1)], false, &[]);
    // Unwritten space is taken for the block before it, and grows into what follows on the device.
    simulate(async {
        let store = Store::new().await;
        store.extent_of(b"scattered", |_, value| value[8] += 10);
        let report = store.look().await;
        assert_eq!(report.count(Extent), 1, "\n{report}");
    });
}

#[test]
fn records_and_names_that_lead_nowhere() {
    use Fault::*;
    let version = |s: &Store| s.entry(0, &s.id(b"inline").to_be_bytes(), |_, value| value[0] = 9);
    damaged(version, &[(Record, 1)], false, &[]);
    let size = |s: &Store| s.entry(0, &s.id(b"inline").to_be_bytes(), |_, value| value[8] = 5);
    damaged(size, &[(Record, 1)], false, &[]);
    let nothing = |s: &Store| {
        let gone = s.id(b"mapped") + 1;
        s.entry(2, b"small-007", |_, value| value.copy_from_slice(&gone.to_le_bytes()));
    };
    let expected = [(NameOfNothing, 1), (NoName, 1)];
    damaged(nothing, &expected, true, &[b"small-007"]);
    let twice = |s: &Store| {
        let other = s.id(b"small-008");
        s.entry(2, b"small-007", |_, value| value.copy_from_slice(&other.to_le_bytes()));
    };
    damaged(twice, &[(NoName, 1), (NamedTwice, 1)], false, &[]);
    let short = |s: &Store| {
        let (at, cell) = s.find(2, b"small-007");
        s.change(at, |body| {
            body[cell + 2] -= 1;
            let dead = half(body, 6) as u16 + 1;
            body[6..8].copy_from_slice(&dead.to_le_bytes());
        });
    };
    damaged(short, &[(Name, 1)], false, &[]);
}

#[test]
fn damaged_data_is_one_finding_for_each_block() {
    use Fault::*;
    damaged(|s| s.disk.flip(s.start_of(b"mapped") + 1, 77, 1), &[(Data, 1)], false, &[]);
    simulate(async {
        let store = Store::new().await;
        let at = store.start_of(b"mapped");
        let rule = FaultRule::fail(DeviceErrorKind::Io).on(Operation::Read).blocks(at..at + 1);
        store.disk.inject(rule.always());
        let report = store.look().await;
        assert_eq!((report.total(), report.count(Unreadable)), (1, 1), "\n{report}");
        assert_eq!(report.findings[0].place.block.unwrap().0, at);
    });
}

#[test]
fn a_log_that_cannot_be_replayed() {
    simulate(async {
        let store = Store::new().await;
        let engine = open(&store.disk).await.unwrap();
        let object = engine.create("late").await.unwrap();
        object.write_at(0, &text(9, 20_000)).await.unwrap();
        object.sync().await.unwrap();
        store.disk.power_cut();
        drop(engine);
        is_sound(&store.disk, true).await;
        // Not among the bytes that the log holds, but under the sum of the whole block.
        store.disk.flip(GROUP, BODY + 20, 1);
        let report = store.look().await;
        assert_eq!(report.count(Fault::Log), 1, "\n{report}");
        let repaired = repair(&Device::new(store.disk.attach()), &Options::default()).await;
        assert!(repaired.unwrap().done.is_empty());
    });
}

/// A folder that goes away with the test.
struct Folder(std::path::PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Exports, and gives the names of the files that are not what the object was.
fn wrong_after(name: &str, damage: impl FnOnce(&Store)) -> Vec<String> {
    simulate(async {
        let path = std::env::temp_dir().join(format!("foliant-{name}-{}", std::process::id()));
        let folder = Folder(path);
        let store = Store::new().await;
        damage(&store);
        let device = Device::new(store.disk.attach());
        let exported = export(&device, &Options::default(), &folder.0).await.unwrap();
        assert!(!exported.report.is_sound(), "the damage is not told");
        let mut wrong = Vec::new();
        for (name, bytes) in &store.contents {
            let name = String::from_utf8_lossy(name).into_owned();
            match std::fs::read(folder.0.join(&name)) {
                Ok(found) if found == *bytes => {}
                _ => wrong.push(name),
            }
        }
        wrong
    })
}

#[test]
fn everything_but_the_damage_is_exported() {
    let data = |s: &Store| s.disk.flip(s.start_of(b"mapped") + 1, 77, 1);
    assert_eq!(wrong_after("export-data", data), ["mapped"]);
    let record = |s: &Store| s.entry(0, &s.id(b"inline").to_be_bytes(), |_, value| value[0] = 9);
    assert_eq!(wrong_after("export-record", record), ["inline"]);
    let sums = |s: &Store| s.disk.flip(GROUP + 1, 500, 1);
    assert!(wrong_after("export-sums", sums).is_empty());
    // A leaf of names is lost: the objects come out under their ids, the others under their names.
    let names = |s: &Store| s.disk.flip(s.find(2, b"small-000").0, 3000, 1);
    let wrong = wrong_after("export-names", names);
    assert!(
        wrong.len() < SMALL && wrong.iter().all(|name| name.as_str() < "small-299"),
        "{wrong:?}"
    );
}

#[test]
fn what_is_lost_is_a_hole_and_told_with_its_range() {
    simulate(async {
        let store = Store::new().await;
        store.disk.flip(store.start_of(b"mapped") + 1, 77, 1);
        let device = Device::new(store.disk.attach());
        let mut bytes = Vec::new();
        let which = foliant::check::Which::Name(b"mapped");
        let options = Options::default();
        let exported = foliant::check::export_object(&device, &options, which, &mut bytes).await;
        let exported = exported.unwrap();
        assert_eq!((exported.objects, exported.bytes, bytes.len()), (1, 9_000 - 4096, 9_000));
        let mut expected = text(1, 9_000);
        expected[BLOCK..2 * BLOCK].fill(0);
        assert!(bytes == expected);
        let words = exported.report.to_string();
        assert!(words.contains("its bytes 4096..8192 are lost"), "{words}");
        let none = foliant::check::Which::Name(b"nobody");
        let none = foliant::check::export_object(&device, &options, none, &mut Vec::new()).await;
        assert_eq!(none.unwrap_err().kind(), foliant::ErrorKind::NotFound);
    });
}
