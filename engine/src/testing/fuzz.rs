//! What a fuzzer calls: arbitrary bytes as each structure of the format, and as a whole store.
//!
//! Guarantees: an entry point returns for any input, or panics because it found a bug; checksums are made
//! right where the fuzzer could not guess them. The same functions run over the kept corpus in the
//! ordinary tests.
//!
//! Does not search: `engine/fuzz/` and its driver do. Called by the fuzz targets and by `tests/the_corpus`.

use std::sync::OnceLock;

use foliant_device::Device;
use foliant_device::sim::Cut;
use foliant_device::sim::SimDisk;
use foliant_device::sim::SimOptions;

use crate::Engine;
use crate::error::Result;
use crate::format::block;
use crate::format::extent_record;
use crate::format::group_block;
use crate::format::journal_header::GROUP_HEADER;
use crate::format::journal_header::GroupHeader;
use crate::format::journal_header::Slot;
use crate::format::layout::JOURNAL_HEADERS;
use crate::format::layout::SUPERBLOCKS;
use crate::format::log_record;
use crate::format::node::NODE_BYTES;
use crate::format::node::Node;
use crate::format::node::NodeMut;
use crate::format::object_record::ObjectRecord;
use crate::format::root::Root;
use crate::format::superblock;
use crate::format::superblock::Superblock;
use crate::limits::TREE_KEY_BYTES_MAX;
use crate::limits::TREE_VALUE_BYTES_MAX;
use crate::units::BLOCK_BYTES;
use crate::units::BlockNo;
use crate::units::LogPosition;
use crate::units::ObjectId;

/// The input, taken from the front; zeroes behind its end.
struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn byte(&mut self) -> u8 {
        self.take(1).first().copied().unwrap_or(0)
    }

    fn half(&mut self) -> usize {
        usize::from(self.byte()) | usize::from(self.byte()) << 8
    }

    fn take(&mut self, count: usize) -> &'a [u8] {
        let (head, tail) = self.0.split_at(count.min(self.0.len()));
        self.0 = tail;
        head
    }
}

/// `bytes` at the start of a block.
fn block_of(bytes: &[u8]) -> Vec<u8> {
    let mut image = vec![0; BLOCK_BYTES];
    let len = bytes.len().min(BLOCK_BYTES);
    image[..len].copy_from_slice(&bytes[..len]);
    image
}

/// Superblocks: as they are, and with magic and checksum put right.
pub fn superblock(bytes: &[u8]) {
    let mut image = block_of(bytes);
    for place in SUPERBLOCKS {
        let _ = Superblock::decode(place, &image);
    }
    superblock::make_sound(&mut image);
    for place in SUPERBLOCKS {
        if let Ok(found) = Superblock::decode(place, &image) {
            let mut again = vec![0; BLOCK_BYTES];
            found.encode(place, &mut again).expect("what was decoded has a layout");
            assert_eq!(Superblock::decode(place, &again).expect("sound"), found);
            let _ = Superblock::choose([Some(&image), None], found.device_blocks);
        }
    }
}

/// Records, root and group block, each decoded from the same bytes, and encoded again if they are sound.
pub fn records(bytes: &[u8]) {
    let id = ObjectId(7);
    if let Ok(record) = ObjectRecord::decode(id, bytes) {
        let value = record.encode().expect("what was decoded is within the limits");
        assert_eq!(ObjectRecord::decode(id, &value).expect("sound"), record);
    }
    let (key, value) = bytes.split_at(bytes.len().min(16));
    if let Ok((object, extent)) = extent_record::decode(key, value) {
        let key = extent_record::key(object, extent.at);
        let again = extent_record::decode(&key, &extent_record::value(&extent));
        assert_eq!(again.expect("sound"), (object, extent));
    }
    let image = block_of(bytes);
    let body = &image[block::BODY..];
    if let Ok(root) = Root::decode(body, BlockNo(1)) {
        let mut again = vec![0; body.len()];
        root.encode(&mut again);
        assert_eq!(Root::decode(&again, BlockNo(1)).expect("sound"), root);
    }
    for blocks in [300, crate::limits::GROUP_BLOCKS] {
        let _ = group_block::decode(body, BlockNo(1), blocks);
    }
    let mut rest = bytes;
    while let Ok((count, mut records)) = log_record::next_transaction(&mut rest) {
        for _ in 0..count {
            let Ok(record) = log_record::next_record(&mut records) else { break };
            record.apply(&mut vec![0; BLOCK_BYTES]);
        }
    }
}

/// A tree node, read in every way, then changed as the rest of the input says: a node that was sound
/// stays so.
pub fn node(bytes: &[u8]) {
    let mut input = Input(bytes);
    let mut body = vec![0; NODE_BYTES];
    let own = input.half() % (NODE_BYTES + 1);
    let start = input.take(own);
    body[..start.len()].copy_from_slice(start);
    // Cells grow from the end, and the fuzzer should reach them.
    let cells = input.half() % (NODE_BYTES + 1);
    let end = input.take(cells);
    body[NODE_BYTES - end.len()..].copy_from_slice(end);
    look_at(&body);
    let at = BlockNo(9);
    let Ok(mut node) = NodeMut::open(at, &mut body) else { return };
    while !input.0.is_empty() {
        let (verb, key_len, value_len) = (input.byte(), input.half(), input.half());
        let key = input.take(key_len % (TREE_KEY_BYTES_MAX + 1));
        let value = input.take(value_len % (TREE_VALUE_BYTES_MAX + 1));
        let Ok(place) = node.view().search(key) else { return };
        let leaf = node.view().level() == 0;
        match (verb % 4, place) {
            (0, Err(i)) if leaf && !key.is_empty() && !node.insert(i, key, value) => {
                let split = node.insert_and_split(i, key, value, verb & 128 != 0);
                Node::open(at, &split.right).and_then(|n| n.check()).expect("a sound half");
            }
            (1, Ok(i)) if leaf => _ = node.replace(i, value),
            (2, Ok(i) | Err(i)) if i < node.view().count() && node.view().count() > 1 => {
                if leaf {
                    node.remove(i)
                } else {
                    node.remove_child(i)
                }
            }
            _ => {}
        }
        node.view().check().expect("a sound node stays sound");
    }
}

fn look_at(body: &[u8]) {
    let Ok(node) = Node::open(BlockNo(9), body) else { return };
    for i in 0..node.count() {
        let Ok((key, _)) = node.entry(i) else { continue };
        let _ = node.search(key);
        let _ = node.child_index(key);
        if node.level() > 0 {
            let _ = node.child(i);
        }
    }
    let _ = (node.used(), node.check());
}

/// 5 MiB with a journal of the smallest size.
const DEVICE_BLOCKS: u64 = 32 + 1024 + 33 + 260;
const UUID: [u8; 16] = [7; 16];

/// A small store in use, cut off with a log that is not empty.
struct Base {
    cut: Cut,
    /// Blocks that hold something, and whether each has the header of metadata.
    used: Vec<(u64, bool)>,
    volume: u32,
    slot: Slot,
}

fn block_on<T>(work: impl Future<Output = T>) -> T {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    let runtime = builder.enable_time().start_paused(true).build();
    runtime.expect("a runtime can be made").block_on(work)
}

async fn open(disk: &SimDisk) -> Result<Engine> {
    Engine::open_device(Device::new(disk.attach())).memory_bytes(8 << 20).run().await
}

fn base() -> &'static Base {
    static BASE: OnceLock<Base> = OnceLock::new();
    BASE.get_or_init(|| block_on(make_base()).expect("a small store can be made"))
}

async fn make_base() -> Result<Base> {
    let options = SimOptions { keeps_cuts: true, latency_ms_max: 0, ..SimOptions::default() };
    let disk = SimDisk::new(DEVICE_BLOCKS, options);
    let format = Engine::format_device(Device::new(disk.attach()));
    format.journal_bytes(4 << 20).uuid(UUID).run().await?;
    let engine = open(&disk).await?;
    for i in 0..40_u64 {
        let object = engine.create(format!("object-{i}")).await?;
        object.write_at(i * 1000, &vec![i as u8 + 1; i as usize * 300 + 5]).await?;
        if i % 3 == 0 {
            object.sync().await?;
        }
    }
    engine.sync().await?;
    engine.close().await?;
    let engine = open(&disk).await?;
    let mut transaction = engine.transaction();
    for i in 0..5 {
        let object = engine.object(format!("object-{i}")).await?;
        transaction.write_at(&object, 50, b"in the log alone")?;
    }
    transaction.commit().await?.durable().await?;
    disk.power_cut();
    drop(engine);
    let cut = disk.last_cut().expect("the disk keeps its cuts");
    let disk = SimDisk::after(&cut, 0);
    let volume = crate::kit::checksum::of(&UUID);
    let is_used = |at: &u64| disk.peek(*at).iter().any(|&byte| byte != 0);
    let has_header = |at: u64| {
        let image = disk.peek(at);
        image[..4] == block::sum(&image, BlockNo(at), volume).to_le_bytes()
    };
    let used = (0..DEVICE_BLOCKS).filter(is_used).map(|at| (at, has_header(at))).collect();
    let newest =
        JOURNAL_HEADERS.iter().filter_map(|&at| Slot::decode(&disk.peek(at.0), at, volume).ok());
    let slot = newest.max_by_key(|slot| slot.sequence).expect("a store has a journal");
    Ok(Base { cut, used, volume, slot })
}

/// Opens what is there and does a little of everything. Errors are fine.
fn use_store(disk: &SimDisk) {
    block_on(async {
        let Ok(engine) = open(disk).await else { return };
        let _ = try_everything(&engine).await;
        let _ = engine.close().await;
    });
}

async fn try_everything(engine: &Engine) -> Result<()> {
    let names = engine.list("", 64).await.unwrap_or_default();
    let mut bytes = vec![0; 20_000];
    for name in names {
        let Ok(object) = engine.object(&name).await else { continue };
        let _ = object.read_at(0, &mut bytes).await;
        let _ = object.read_at(object.size().saturating_sub(10_000), &mut bytes).await;
        let _ = object.extents(0..u64::MAX / 2, 100).await;
        let _ = object.seek_hole(0).await;
        let _ = object.write_at(object.size() / 2, &[7; 5000]).await;
        let _ = object.sync().await;
    }
    let mut transaction = engine.transaction();
    if let Ok(object) = engine.object("object-3").await {
        transaction.write_at(&object, 100, &[9; 300])?;
    }
    let _ = transaction.commit().await?.durable().await;
    let _ = engine.create("another").await;
    for n in [1, 5, 30] {
        let name = format!("object-{n}");
        if let Ok(object) = engine.object(&name).await {
            let _ = object.truncate(100).await;
            let _ = object.punch(0..50_000).await;
        }
        let _ = engine.remove(&name).await;
    }
    engine.sync().await
}

/// A whole store, with some of its blocks changed behind right checksums. Bytes: which block, where in
/// it, how many, and these; again and again.
pub fn image(bytes: &[u8]) {
    let base = base();
    let disk = SimDisk::after(&base.cut, 0);
    let mut input = Input(bytes);
    while !input.0.is_empty() {
        let (at, has_header) = base.used[input.half() % base.used.len()];
        let offset = input.half() % BLOCK_BYTES;
        let count = usize::from(input.byte() % 32) + 1;
        let change = input.take(count.min(BLOCK_BYTES - offset));
        let mut image = disk.peek(at);
        image[offset..offset + change.len()].copy_from_slice(change);
        if has_header {
            block::seal(&mut image, BlockNo(at), base.volume);
        } else if SUPERBLOCKS.contains(&BlockNo(at)) {
            superblock::make_sound(&mut image);
        }
        disk.poke(at, &image);
    }
    use_store(&disk);
}

/// A store whose log is the input: a header of the journal with fields of its choice, and one sound group
/// whose payload is the rest.
pub fn journal(bytes: &[u8]) {
    let base = base();
    let disk = SimDisk::after(&base.cut, 0);
    let mut input = Input(bytes);
    let mut slot = base.slot;
    let mut field = |value: &mut u64, chosen: bool| {
        if chosen {
            *value = u64::from_le_bytes(block_of(input.take(8))[..8].try_into().expect("eight"));
        }
    };
    let chosen = bytes.last().copied().unwrap_or(0);
    field(&mut slot.epoch, chosen & 1 != 0);
    field(&mut slot.tail.0, chosen & 2 != 0);
    field(&mut slot.next_group, chosen & 4 != 0);
    field(&mut slot.sequence, chosen & 8 != 0);
    let mut image = vec![0; BLOCK_BYTES];
    for at in JOURNAL_HEADERS {
        slot.encode(base.volume, &mut image);
        disk.poke(at.0, &image);
    }
    let payload = input.take(16 * BLOCK_BYTES);
    put_group(&disk, base, &slot, payload);
    use_store(&disk);
}

fn put_group(disk: &SimDisk, base: &Base, slot: &Slot, payload: &[u8]) {
    let (epoch, sequence, payload_len) = (slot.epoch, slot.next_group, payload.len() as u32);
    let lsn = slot.tail;
    let header = GroupHeader { epoch, sequence, lsn, payload: payload_len, acknowledged: 0 };
    let mut group = vec![0; (GROUP_HEADER + payload.len()).next_multiple_of(BLOCK_BYTES)];
    group[GROUP_HEADER..GROUP_HEADER + payload.len()].copy_from_slice(payload);
    header.encode(base.volume, &mut group);
    let superblock = Superblock::decode(SUPERBLOCKS[0], &disk.peek(SUPERBLOCKS[0].0));
    let layout = superblock.and_then(|found| found.layout()).expect("the base is sound");
    let LogPosition(tail) = slot.tail;
    for (n, image) in group.chunks(BLOCK_BYTES).enumerate() {
        let index = (tail / BLOCK_BYTES as u64 + n as u64) % layout.journal.blocks;
        disk.poke(layout.journal.start.0 + index, image);
    }
}
