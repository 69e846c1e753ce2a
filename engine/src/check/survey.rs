//! The whole look: names, objects, extents and groups against each other.
//!
//! Guarantees that what depends on a part that could not be read is not judged, and said so: one
//! damaged node is one finding, not a thousand. Memory: as [`Options::memory_bytes`] says. Does not
//! change anything. Called by [`check`] and by `repair`.

use foliant_device::Device;

use crate::check::data::Data;
use crate::check::groups;
use crate::check::items::Item;
use crate::check::items::Items;
use crate::check::owners::Owners;
use crate::check::report::Fault;
use crate::check::report::Place;
use crate::check::report::Report;
use crate::check::source::Options;
use crate::check::source::Source;
use crate::check::walk::Look;
use crate::check::walk::Tree;
use crate::check::walk::Walk;
use crate::error::Result;
use crate::format::block::BODY;
use crate::format::block::BlockKind;
use crate::format::extent_record::Extent;
use crate::format::node::Node;
use crate::format::object_record::ObjectRecord;
use crate::limits::NAME_BYTES_MAX;
use crate::meta::view::BlockRead;
use crate::units::BLOCK;
use crate::units::BlockNo;
use crate::units::DeviceSpan;
use crate::units::ObjectId;

/// Looks at everything in the store on `device`, as it would be after recovery, and changes nothing.
///
/// The device is read only; nobody may write to it meanwhile. Time: all metadata is read, and with
/// [`Options::data`] everything that is stored.
///
/// Errors: only what keeps it from looking: `NotAStore`, `Incompatible`, `InvalidInput`, `NoSpace` (the log
/// needs more than [`Options::replay_bytes`]), `OutOfMemory`, `Device` when the superblock cannot be
/// read. Damage is in the report. Dropping the future has no effect.
pub async fn check(device: &Device, options: &Options<'_>) -> Result<Report> {
    let mut report = Report::new(options.findings_max);
    if let Some(source) = Source::open(device, options, &mut report).await? {
        survey(&source, options, &mut report).await?;
    }
    Ok(report)
}

/// What repair needs to know.
#[derive(Debug)]
pub struct Survey {
    /// Which blocks belong to somebody.
    pub owners: Owners,
    /// Checksum blocks that data needs, as bits per group.
    pub needed: groups::Needed,
    /// Keys of the name tree that lead to nothing.
    pub dangling: Vec<Vec<u8>>,
    /// Objects without a name.
    pub nameless: Vec<ObjectId>,
    /// Objects with a record.
    pub objects: u64,
    /// The highest id that is in use.
    pub highest: u64,
    /// Whether what nobody owns is free.
    pub is_exact: bool,
    /// Whether the tree of objects was reached.
    pub has_all_objects: bool,
}

/// Looks at everything behind the root.
pub async fn survey(source: &Source, options: &Options<'_>, report: &mut Report) -> Result<Survey> {
    let mut look = Look::new(source, options, report);
    let named = names(&mut look).await?;
    let mut objects = Objects::new(&look, named);
    objects.run(&mut look).await?;
    let Objects { dangling, nameless, highest, needed, .. } = objects;
    let objects = look.report.counts.objects;
    let is_exact = look.is_exact();
    let has_all_objects = look.is_whole(Tree::Objects);
    counts(&mut look, highest);
    groups::compare(&mut look, &needed).await?;
    let owners = look.owners;
    Ok(Survey { owners, needed, dangling, nameless, objects, highest, is_exact, has_all_objects })
}

/// The counts in the root that objects decide.
fn counts(look: &mut Look<'_>, highest: u64) {
    let (root, place) = (&look.source.root, Place::block(look.source.layout.root));
    if root.next_object <= highest {
        let words = format!("the next object is {}, and there is {highest}", root.next_object);
        look.report.add_mendable(Fault::Count, place.clone(), words);
    }
    let found = look.report.counts.objects;
    if look.is_whole(Tree::Objects) && root.object_count != found {
        let words = format!("the root counts {} objects, there are {found}", root.object_count);
        look.report.add_mendable(Fault::Count, place, words);
    }
}

/// A name or a marker, without its bytes: they are read again when they are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Named {
    id: u64,
    marker: bool,
    leaf: BlockNo,
    index: u16,
}

/// The object of an entry of the name tree, and whether it is a marker of removal.
pub fn decode_name(key: &[u8], value: &[u8]) -> Option<(ObjectId, bool)> {
    match key.strip_prefix(&[0xFF; NAME_BYTES_MAX + 1]) {
        Some(id) if value.is_empty() => {
            Some((ObjectId(u64::from_be_bytes(id.try_into().ok()?)), true))
        }
        None if key.len() <= NAME_BYTES_MAX => {
            Some((ObjectId(u64::from_le_bytes(value.try_into().ok()?)), false))
        }
        _ => None,
    }
}

/// All names, by object.
async fn names(look: &mut Look<'_>) -> Result<Vec<Named>> {
    let mut named = Vec::new();
    let mut walk = Walk::new(look.source, Tree::Names);
    while let Some(entry) = walk.next(look).await? {
        let Some((id, marker)) = decode_name(&entry.key, &entry.value) else {
            let words = format!("the entry of a name is {} bytes long", entry.value.len());
            look.report.add(Fault::Name, Place::name(&entry.key).at(entry.leaf), words);
            // Whose name it was is not known.
            look.lost.push(Tree::Names);
            continue;
        };
        match marker {
            true => look.report.counts.removals += 1,
            false => look.report.counts.names += 1,
        }
        named.push(Named { id: id.0, marker, leaf: entry.leaf, index: entry.index as u16 });
    }
    named.sort_unstable();
    Ok(named)
}

/// The key of an entry of the name tree, read again.
async fn key_of(look: &Look<'_>, named: Named) -> Result<Vec<u8>> {
    let image = look.source.block(named.leaf, BlockKind::Node).await?;
    let node = Node::open(named.leaf, &image[BODY..])?;
    Ok(node.entry(usize::from(named.index))?.0.to_vec())
}

/// The object whose extents come now.
struct Current {
    id: ObjectId,
    record: Option<ObjectRecord>,
    /// The block behind its last extent.
    end: u64,
}

/// The merged look at objects, extents and names.
struct Objects {
    named: std::iter::Peekable<std::vec::IntoIter<Named>>,
    dangling: Vec<Vec<u8>>,
    nameless: Vec<ObjectId>,
    highest: u64,
    needed: groups::Needed,
    current: Option<Current>,
    data: Option<Data>,
}

impl Objects {
    fn new(look: &Look<'_>, named: Vec<Named>) -> Self {
        Self {
            named: named.into_iter().peekable(),
            dangling: Vec::new(),
            nameless: Vec::new(),
            highest: 0,
            needed: groups::Needed::default(),
            current: None,
            data: look.options.data.then(|| Data::new(look.source)),
        }
    }

    async fn run(&mut self, look: &mut Look<'_>) -> Result<()> {
        let mut items = Items::new(look).await?;
        let mut dangling = Vec::new();
        while let Some(item) = items.next(look).await? {
            match item {
                Item::Object(id, record) => {
                    dangling.extend(self.names_before(id.0));
                    self.object(look, id, record);
                }
                Item::Extent(id, extent) => self.extent(look, id, extent).await?,
            }
        }
        dangling.extend(self.names_before(u64::MAX));
        dangling.extend(self.named.by_ref());
        if let Some(data) = &mut self.data {
            data.finish(look).await?;
        }
        if look.is_whole(Tree::Objects) {
            return self.note_dangling(look, dangling).await;
        }
        look.report.unjudged.push("whether each name leads to an object".into());
        Ok(())
    }

    /// Names that lead to ids below `id` and were not asked for.
    fn names_before(&mut self, id: u64) -> Vec<Named> {
        std::iter::from_fn(|| self.named.next_if(|named| named.id < id)).collect()
    }

    async fn note_dangling(&mut self, look: &mut Look<'_>, dangling: Vec<Named>) -> Result<()> {
        for named in dangling {
            let key = key_of(look, named).await?;
            let id = ObjectId(named.id);
            let (what, place) = match named.marker {
                true => ("a marker of removal", Place::object(id)),
                false => ("a name", Place::name(&key).of(id)),
            };
            let words = format!("{what} leads to an object that does not exist");
            look.report.add_mendable(Fault::NameOfNothing, place, words);
            self.dangling.push(key);
        }
        Ok(())
    }

    fn object(&mut self, look: &mut Look<'_>, id: ObjectId, record: Option<ObjectRecord>) {
        look.report.counts.objects += 1;
        self.highest = self.highest.max(id.0);
        let (mut names, mut markers) = (0, 0);
        while let Some(named) = self.named.next_if(|named| named.id == id.0) {
            *(if named.marker { &mut markers } else { &mut names }) += 1;
        }
        match (names, markers) {
            (1, 0) | (0, 1) => {}
            (0, 0) if look.is_whole(Tree::Names) => {
                let words = "it has no name, and is not being removed";
                look.report.add_mendable(Fault::NoName, Place::object(id), words);
                self.nameless.push(id);
            }
            (0, 0) => {}
            _ => {
                let words = format!("it has {names} names and {markers} markers of removal");
                look.report.add(Fault::NamedTwice, Place::object(id), words);
            }
        }
        let inline = record.as_ref().is_some_and(|record| !record.inline.is_empty());
        if inline && !look.source.superblock.allows_inline() {
            let words = "its record holds bytes, and the superblock says that none does";
            look.report.add(Fault::Record, Place::object(id), words);
        }
        self.current = Some(Current { id, record, end: 0 });
    }

    async fn extent(&mut self, look: &mut Look<'_>, id: ObjectId, extent: Extent) -> Result<()> {
        let current = match &mut self.current {
            Some(current) if current.id == id => current,
            other => {
                if look.is_whole(Tree::Objects) {
                    let words = "it has extents and no record";
                    look.report.add(Fault::ExtentOwner, Place::object(id).at(extent.start), words);
                }
                self.highest = self.highest.max(id.0);
                other.insert(Current { id, record: None, end: 0 })
            }
        };
        let place = Place::object(id).at(extent.start);
        if extent.at < current.end {
            let words = format!("it has two extents at its block {}", extent.at);
            look.report.add(Fault::Extent, place.clone(), words);
        }
        current.end = current.end.max(extent.end());
        count(look, current.record.as_ref(), &extent);
        let inline = current.record.as_ref().is_some_and(|record| !record.inline.is_empty());
        if inline && extent.at == 0 && !extent.unwritten {
            let words = "its block 0 is in its record and on the device";
            look.report.add(Fault::InlineTwice, place.clone(), words);
        }
        let span = DeviceSpan::new(extent.start, extent.blocks);
        let usable = look.claim(span, place, &format!("block {} of {id}", extent.at));
        if !usable || extent.unwritten || current.record.as_ref().is_some_and(groups::has_no_sums) {
            return Ok(());
        }
        self.needed.note(&look.source.layout, span);
        match &mut self.data {
            Some(data) => data.compare(look, id, &extent).await,
            None => Ok(()),
        }
    }
}

fn count(look: &mut Look<'_>, record: Option<&ObjectRecord>, extent: &Extent) {
    let counts = &mut look.report.counts;
    counts.extents += 1;
    counts.data_blocks += extent.blocks;
    if extent.unwritten {
        counts.unwritten_blocks += extent.blocks;
    } else if let Some(record) = record {
        let end = record.size.div_ceil(BLOCK);
        counts.stale_blocks += extent.end().saturating_sub(extent.at.max(end));
    }
}
