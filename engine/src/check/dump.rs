//! Any structure of a store in words, as it would be after recovery.
//!
//! Guarantees that what is shown was read through its checksum, and that damage is an error or a line
//! that says so. Does not judge. Called by users and by the command `foliant`.

use std::io::Write;

use foliant_device::Buffer;
use foliant_device::Device;

use crate::check::report::Report;
use crate::check::source::Options;
use crate::check::source::Source;
use crate::check::source::read;
use crate::check::survey::decode_name;
use crate::check::walk::Look;
use crate::check::walk::Tree;
use crate::check::walk::Walk;
use crate::error::Error;
use crate::error::ErrorKind;
use crate::error::Result;
use crate::extent;
use crate::format::block::BODY;
use crate::format::block::BlockKind;
use crate::format::extent_record;
use crate::format::extent_record::FILE_BLOCKS_MAX;
use crate::format::group_block;
use crate::format::journal_header::GroupHeader;
use crate::format::layout::JOURNAL_HEADERS;
use crate::format::layout::SUPERBLOCKS;
use crate::format::node::Node;
use crate::format::object_record::ObjectRecord;
use crate::format::root::TreeRoot;
use crate::kit::checksum;
use crate::limits::CHECKSUMS_PER_BLOCK;
use crate::limits::GROUP_CHECKSUM_BLOCKS;
use crate::meta::tree;
use crate::meta::view::BlockRead;
use crate::units::BLOCK;
use crate::units::BlockNo;
use crate::units::FileBlocks;
use crate::units::ObjectId;

/// Extents that are fetched at once.
const PAGE: usize = 512;
/// Bytes of a block of data, a key or a value that are shown.
const SHOWN: usize = 64;

/// What to show.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Structure {
    /// The superblock.
    Superblock,
    /// The journal's headers and what replay found.
    Journal,
    /// The root block.
    Root,
    /// A group: its free map.
    Group(u64),
    /// Whatever lies at a block: a node with its entries, or what the block is.
    Block(BlockNo),
    /// The record of an object.
    Object(ObjectId),
    /// The extents of an object.
    Extents(ObjectId),
    /// All names and markers of removals.
    Names,
}

fn said(outcome: std::io::Result<()>) -> Result<()> {
    outcome.map_err(|cause| Error::new(ErrorKind::Device, format!("printing failed: {cause}")))
}

macro_rules! say {
    ($out:expr, $($arg:tt)*) => { said(writeln!($out, $($arg)*)) };
}

async fn look(device: &Device, options: &Options<'_>) -> Result<(Source, Report)> {
    let mut report = Report::new(options.findings_max);
    match Source::open(device, options, &mut report).await? {
        Some(source) => Ok((source, report)),
        None => {
            let words = report.findings.first().map_or_else(String::new, ToString::to_string);
            Err(Error::new(ErrorKind::Corrupt, words))
        }
    }
}

/// The store in a few lines: identity, layout, features, journal, counts.
///
/// Errors: as [`check`](crate::check::check); `Corrupt` when not even the root can be read.
pub async fn info(
    device: &Device,
    options: &Options<'_>,
    out: &mut (dyn Write + Send),
) -> Result<()> {
    let (source, report) = look(device, options).await?;
    superblock(&source, out)?;
    journal(&source, &report, out)?;
    root(&source, out)?;
    for finding in &report.findings {
        say!(out, "{finding}")?;
    }
    Ok(())
}

/// One structure in words.
///
/// Errors: `NotFound` for an object that does not exist, `InvalidInput` for a group or a block that does not;
/// `Corrupt` when the structure is damaged, and as [`check`](crate::check::check).
pub async fn dump(
    device: &Device,
    options: &Options<'_>,
    what: Structure,
    out: &mut (dyn Write + Send),
) -> Result<()> {
    let (source, mut report) = look(device, options).await?;
    match what {
        Structure::Superblock => superblock(&source, out),
        Structure::Journal => journal(&source, &report, out),
        Structure::Root => root(&source, out),
        Structure::Group(at) => group(&source, at, out).await,
        Structure::Block(at) => block(&source, at, out).await,
        Structure::Object(id) => object(&source, id, out).await,
        Structure::Extents(id) => extents(&source, id, out).await,
        Structure::Names => names(&source, options, &mut report, out).await,
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn superblock(source: &Source, out: &mut (dyn Write + Send)) -> Result<()> {
    let (superblock, layout) = (&source.superblock, &source.layout);
    let features = superblock.features;
    let [first, second] = SUPERBLOCKS;
    say!(out, "superblock      at blocks {first} and {second}")?;
    say!(out, "uuid            {}", hex(&superblock.uuid))?;
    say!(out, "volume          {:#010x}", superblock.volume())?;
    say!(out, "device          {} blocks", superblock.device_blocks)?;
    say!(out, "journal         {} blocks from {}", layout.journal.blocks, layout.journal.start)?;
    say!(out, "root            at block {}", layout.root)?;
    say!(out, "groups          {} from block {}", layout.groups(), layout.first_group())?;
    say!(out, "features        compatible {:#x}", features.compatible)?;
    say!(out, "                read-only compatible {:#x}", features.read_only)?;
    say!(out, "                incompatible {:#x}", features.incompatible)?;
    let inline = if superblock.allows_inline() { "may" } else { "do not" };
    say!(out, "records         {inline} hold the bytes of small objects")
}

fn journal(source: &Source, report: &Report, out: &mut (dyn Write + Send)) -> Result<()> {
    for (at, slot) in JOURNAL_HEADERS.into_iter().zip(source.slots) {
        match slot {
            Some(slot) => say!(
                out,
                "journal header  at block {at}: sequence {}, epoch {}, tail {}, next group {}",
                slot.sequence,
                slot.epoch,
                slot.tail,
                slot.next_group
            )?,
            None => say!(out, "journal header  at block {at}: damaged")?,
        }
    }
    match report.counts.replayed {
        0 => say!(out, "log             empty"),
        n => say!(out, "log             {n} transactions to replay"),
    }
}

fn root(source: &Source, out: &mut (dyn Write + Send)) -> Result<()> {
    let root = &source.root;
    let total = source.layout.data_blocks();
    let used = total.saturating_sub(root.free_blocks);
    say!(out, "objects         {}, the next one is {}", root.object_count, root.next_object)?;
    let mib = |blocks: u64| blocks * BLOCK / (1 << 20);
    say!(out, "blocks          {total} ({} MiB), {used} used ({} MiB)", mib(total), mib(used))?;
    say!(out, "groups in use   {}", root.groups_ready)?;
    let trees = [("objects", root.objects), ("extents", root.extents), ("names", root.names)];
    for (name, TreeRoot { block, height }) in trees {
        say!(out, "tree of {name:7} height {height}, root at block {block}")?;
    }
    Ok(())
}

async fn group(source: &Source, group: u64, out: &mut (dyn Write + Send)) -> Result<()> {
    let groups = source.layout.groups();
    if group >= groups {
        return Err(Error::invalid(format!("there is no group {group} of {groups}")));
    }
    let span = source.layout.group_span(group);
    say!(out, "group {group}: {} blocks from {}", span.blocks, span.start)?;
    if group >= source.root.groups_ready {
        return say!(out, "it was never used");
    }
    let image = source.block(span.start, BlockKind::Group).await?;
    let used = group_block::decode(&image[BODY..], span.start, span.blocks)?;
    let flags: Vec<u64> = (0..GROUP_CHECKSUM_BLOCKS)
        .filter(|&index| group_block::has_checksums(&image[BODY..], index))
        .collect();
    say!(out, "{} blocks free", group_block::free(&image[BODY..]))?;
    say!(out, "checksum blocks in use: {flags:?}")?;
    let mut at = 0;
    while let Some(start) = used.next_set(at) {
        at = used.next_clear(start).unwrap_or(used.len());
        let (first, last) = (span.start.plus(start as u64), span.start.plus(at as u64 - 1));
        say!(out, "used {first} to {last} ({} blocks)", at - start)?;
    }
    Ok(())
}

async fn block(source: &Source, at: BlockNo, out: &mut (dyn Write + Send)) -> Result<()> {
    let blocks = source.device.geometry().blocks;
    if at.0 >= blocks {
        return Err(Error::invalid(format!("the device has {blocks} blocks")));
    }
    let image = read(&source.device, &source.memory, at).await?;
    if SUPERBLOCKS.contains(&at) {
        return say!(out, "block {at}: a copy of the superblock");
    }
    if JOURNAL_HEADERS.contains(&at) {
        return say!(out, "block {at}: a journal header");
    }
    if source.layout.journal.contains(at) {
        return match GroupHeader::peek(&image, source.superblock.volume()) {
            Ok(header) => say!(out, "block {at}: in the journal, {header:?}"),
            Err(_) => say!(out, "block {at}: in the journal, not the start of a group"),
        };
    }
    for kind in [BlockKind::Root, BlockKind::Group, BlockKind::Checksums, BlockKind::Node] {
        if crate::format::block::verify(&image, kind, at, source.superblock.volume()).is_ok() {
            say!(out, "block {at}: a sound {}", kind.name())?;
            return match kind {
                BlockKind::Root => root(source, out),
                BlockKind::Node => node(at, &image, out),
                BlockKind::Group | BlockKind::Checksums => Ok(()),
            };
        }
    }
    let place = match source.layout.group_of(at) {
        Some((group, index)) => format!("block {index} of group {group}"),
        None => "in no group".to_owned(),
    };
    say!(out, "block {at}: {place}; no metadata of this store")?;
    say!(out, "checksum {:#010x}", checksum::of(&image))?;
    if let Some((sums, slot)) = source.layout.checksum_place(at)
        && let Ok(image) = source.block(sums, BlockKind::Checksums).await
    {
        let mut stored = crate::format::checksum_block::get(&image[BODY..], slot, 1);
        let stored = stored.next().unwrap_or_default();
        let of = CHECKSUMS_PER_BLOCK;
        say!(out, "stored   {stored:#010x} (entry {slot} of {of} in block {sums})")?;
    }
    say!(out, "{}", image[..SHOWN].escape_ascii())
}

fn node(at: BlockNo, image: &Buffer, out: &mut (dyn Write + Send)) -> Result<()> {
    let node = Node::open(at, &image[BODY..])?;
    node.check()?;
    let used = node.used()?;
    say!(out, "level {}, {} entries, {used} bytes in use", node.level(), node.count())?;
    for i in 0..node.count() {
        let (key, value) = node.entry(i)?;
        if node.level() > 0 {
            say!(out, "{i:4}  \"{}\" -> block {}", key.escape_ascii(), node.child(i)?)?;
            continue;
        }
        let short = &value[..value.len().min(SHOWN)];
        say!(out, "{i:4}  \"{}\" = {}", key.escape_ascii(), described(key, value, short))?;
    }
    Ok(())
}

/// The value of a leaf's entry, by what its key and its length fit.
fn described(key: &[u8], value: &[u8], short: &[u8]) -> String {
    if let Ok((id, extent)) = extent_record::decode(key, value) {
        return format!("{id}: {extent:?}");
    }
    if let Ok(id) = <[u8; 8]>::try_from(key) {
        let id = ObjectId(u64::from_be_bytes(id));
        if let Ok(record) = ObjectRecord::decode(id, value) {
            return format!("{id}: {} bytes, {} inline", record.size, record.inline.len());
        }
    }
    match decode_name(key, value) {
        Some((id, true)) => format!("{id} is being removed"),
        Some((id, false)) => format!("{id}"),
        None => hex(short),
    }
}

async fn object(source: &Source, id: ObjectId, out: &mut (dyn Write + Send)) -> Result<()> {
    let key = id.0.to_be_bytes();
    let value = tree::get(source, source.root.objects, &key).await?;
    let value =
        value.ok_or_else(|| Error::new(ErrorKind::NotFound, format!("{id} does not exist")))?;
    let record = ObjectRecord::decode(id, &value)?;
    say!(out, "{id}: {:?}, {} bytes, flags {:#x}", record.kind, record.size, record.flags)?;
    say!(out, "attributes \"{}\"", record.attributes.escape_ascii())?;
    match record.inline.len() {
        0 => say!(out, "its bytes are on the device"),
        n => say!(out, "{n} bytes are in the record: \"{}\"", record.inline.escape_ascii()),
    }
}

async fn extents(source: &Source, id: ObjectId, out: &mut (dyn Write + Send)) -> Result<()> {
    let mut from = 0;
    loop {
        let range = FileBlocks::new(from, FILE_BLOCKS_MAX);
        let page = extent::list(source, id, range, PAGE).await?;
        for extent in &page {
            let kind = if extent.unwritten { "unwritten" } else { "written" };
            let (at, end) = (extent.at, extent.end());
            say!(out, "{at}..{end} at block {} ({} blocks, {kind})", extent.start, extent.blocks)?;
        }
        match page.last() {
            Some(last) if page.len() == PAGE => from = last.end(),
            _ => return Ok(()),
        }
    }
}

async fn names(
    source: &Source,
    options: &Options<'_>,
    report: &mut Report,
    out: &mut (dyn Write + Send),
) -> Result<()> {
    let mut look = Look::new(source, options, report);
    let mut walk = Walk::new(source, Tree::Names);
    while let Some(entry) = walk.next(&mut look).await? {
        match decode_name(&entry.key, &entry.value) {
            Some((id, true)) => say!(out, "{id} is being removed")?,
            Some((id, false)) => say!(out, "\"{}\" {id}", entry.key.escape_ascii())?,
            None => say!(out, "\"{}\" is damaged", entry.key.escape_ascii())?,
        }
    }
    for finding in &look.report.findings {
        say!(out, "{finding}")?;
    }
    Ok(())
}
