//! Repair of what has one right answer, through the journal like any other change.
//!
//! | finding | repair |
//! |---|---|
//! | one bad copy of the superblock | written again from the other |
//! | one bad journal header | replay writes both |
//! | acknowledged groups that are missing | the log ends before them: that state is whole, and no other is |
//! | a leak; blocks that are used and marked as free; a bad group block | the bitmap that the trees say |
//! | a checksum block that is there and not flagged | flagged |
//! | counts in the root | counted |
//! | a name or marker that leads to nothing | removed |
//! | an object without a name | gets the name `lost+ID` |
//!
//! Guarantees that nothing else is touched, that nothing is taken for free while a part of the trees
//! cannot be reached, and that each step is a transaction: a power cut leaves it done or not, and
//! repair can run again. Does not guess. Called by users and by the command `foliant`.

use std::sync::Arc;

use foliant_device::BLOCK_SIZE;
use foliant_device::Device;
use foliant_device::Persist;
use futures_util::future::join3;
use tokio_util::sync::CancellationToken;

use crate::alloc::Space;
use crate::alloc::Ticket;
use crate::alloc::space::NODES_PER_CHANGE;
use crate::check::owners::only_in;
use crate::check::report::Fault;
use crate::check::report::Report;
use crate::check::source::Options;
use crate::check::source::Source;
use crate::check::source::read;
use crate::check::survey;
use crate::check::survey::Survey;
use crate::error::Error;
use crate::error::ErrorKind;
use crate::error::Result;
use crate::format::block::BODY;
use crate::format::block::BlockKind;
use crate::format::group_block;
use crate::format::layout::GROUP_HEAD_BLOCKS;
use crate::format::layout::Layout;
use crate::format::layout::SUPERBLOCKS;
use crate::format::superblock::Superblock;
use crate::journal::Journal;
use crate::kit::bitset::BitSet;
use crate::kit::memory::Memory;
use crate::kit::memory::Purpose;
use crate::kit::poison::Poison;
use crate::limits::GROUP_CHECKSUM_BLOCKS;
use crate::limits::MEMORY_BYTES_MIN;
use crate::meta::Meta;
use crate::meta::MetaOptions;
use crate::meta::MetaTxn;
use crate::meta::recover;
use crate::meta::recover::Gap;
use crate::meta::tree;
use crate::meta::view::BlockRead;
use crate::meta::view::BlockWrite;
use crate::namespace;
use crate::object::ground::VolumeLog;
use crate::units::ObjectId;

/// What repair found, did and left.
#[derive(Debug, Clone)]
pub struct Repaired {
    /// The store before.
    pub before: Report,
    /// Each repair in a sentence.
    pub done: Vec<String>,
    /// The store afterwards; the same as before when nothing could be done.
    pub after: Report,
}

/// Images that leave the metadata cache behind each step.
const EVICT: usize = 64;

/// Mends what has one right answer in the store on `device`, and looks again. A sound store is not touched.
///
/// Uses [`Options::memory_bytes`] twice, the second time at least 8 MiB. Errors: as [`check`](crate::check::check)
/// (nothing was changed then), and `Device`, `WritesStopped`, `TimedOut`, `OutOfMemory`, `NoSpace` when a repair could
/// not be written: run it again; `Incompatible` for a store that may only be read. The future must be driven to its end: its writes go on if it is dropped.
pub async fn repair(device: &Device, options: &Options<'_>) -> Result<Repaired> {
    let mut before = Report::new(options.findings_max);
    let Some(source) = Source::open(device, options, &mut before).await? else {
        return Ok(Repaired { after: before.clone(), done: Vec::new(), before });
    };
    let survey = survey::survey(&source, options, &mut before).await?;
    if before.mendable == 0 {
        return Ok(Repaired { after: before.clone(), done: Vec::new(), before });
    }
    if source.superblock.is_read_only() {
        let why = "the store uses features that this version may only read";
        return Err(Error::new(ErrorKind::Incompatible, why));
    }
    let mut done = Vec::new();
    let memory = Memory::new(options.memory_bytes.max(MEMORY_BYTES_MIN))?;
    superblocks(device, &memory, &source.superblock, &mut done).await?;
    // Without the log's end nobody knows what the metadata is; then it stays as it is.
    if before.count(Fault::Log) == 0 && source.slots.iter().any(Option::is_some) {
        behind_the_log(device, &memory, &source, &survey, &mut done).await?;
    }
    let after = survey::check(device, options).await?;
    Ok(Repaired { before, done, after })
}

/// Writes copies that are not sound again.
async fn superblocks(
    device: &Device,
    memory: &Memory,
    superblock: &Superblock,
    done: &mut Vec<String>,
) -> Result<()> {
    for at in SUPERBLOCKS {
        let image = match read(device, memory, at).await {
            Ok(image) => image,
            // It is a finding of its own, and the other copy does.
            Err(cause) if cause.kind() == ErrorKind::Device => continue,
            Err(cause) => return Err(cause),
        };
        let kind = Superblock::decode(at, &image).err().map(|cause| cause.kind());
        if kind.is_none_or(|kind| kind == ErrorKind::Incompatible) {
            continue;
        }
        let mut buffer = memory.allocate(0, Purpose::Reserved).await?;
        let bytes = buffer.get_mut().expect("a fresh buffer has one owner");
        superblock.encode(at, &mut bytes[..BLOCK_SIZE])?;
        device.write(at.0, vec![buffer.into()], Persist::Durable).await?;
        done.push(format!("the superblock at block {at} was written again from the other copy"));
    }
    Ok(())
}

/// Replays the log for good, and mends what is journaled.
async fn behind_the_log(
    device: &Device,
    memory: &Memory,
    source: &Source,
    survey: &Survey,
    done: &mut Vec<String>,
) -> Result<()> {
    device.flush().await?;
    let (layout, volume) = (&source.layout, source.superblock.volume());
    let recovered = recover::recover(device, memory, layout, volume, Gap::Accept).await?;
    if source.slots.iter().any(Option::is_none) {
        done.push("both journal headers were written again".into());
    }
    if let Some(lost) = &recovered.lost {
        let (first, last) = (lost.start(), lost.end());
        done.push(format!(
            "the log ends before its groups {first} to {last}, which the device has lost or damaged; what \
             they and later ones changed is as it was before them"
        ));
    }
    let poison = Poison::new();
    let journal = Journal::open(device, memory, &poison, layout, volume, recovered.slot).await?;
    let options = MetaOptions::for_volume(volume, layout.root, memory);
    let meta = Meta::open(device, memory, &journal, &poison, options).await?;
    let (stop, log) = (CancellationToken::new(), CancellationToken::new());
    let work = async {
        let mended = Mend { meta: &meta, source, survey, done }.run().await;
        // A failed step leaves what was committed before it, which is right by itself.
        let home = meta.checkpoint().await;
        stop.cancel();
        log.cancel();
        mended.and(home)
    };
    let (outcome, (), ()) =
        join3(work, journal.clone().run(log.clone()), meta.clone().run(stop.clone())).await;
    outcome
}

/// The repairs that are transactions.
struct Mend<'a> {
    meta: &'a Meta,
    source: &'a Source,
    survey: &'a Survey,
    done: &'a mut Vec<String>,
}

/// The state of a group as it is and as it should be.
struct Group {
    group: u64,
    is_sound: bool,
    used: BitSet,
    flags: u32,
    target: BitSet,
    target_flags: u32,
}

impl Mend<'_> {
    async fn run(mut self) -> Result<()> {
        let ready = self.meta.read().await.root().groups_ready;
        let owned = self.survey.owners.last_group().map_or(0, |last| last + 1);
        let mut free = Some(0);
        for group in 0..self.source.layout.groups() {
            let blocks = self.source.layout.group_span(group).blocks;
            let now = match group < ready.max(owned) {
                true => self.group(group).await?,
                false => Some(blocks - GROUP_HEAD_BLOCKS),
            };
            free = free.zip(now).map(|(sum, now)| sum + now);
        }
        self.root(free).await?;
        self.names().await
    }

    async fn commit(&mut self, txn: MetaTxn, words: String) -> Result<()> {
        let lsn = txn.prepare().await?.commit();
        self.meta.durable(lsn).await?;
        self.meta.evict(EVICT);
        self.done.push(words);
        Ok(())
    }

    /// Makes the bitmap of a group what the trees say; the answer is how many blocks are free, if known.
    async fn group(&mut self, group: u64) -> Result<Option<u64>> {
        let mut txn = self.meta.begin().await?;
        let Some(found) = self.look_at(&txn, group).await? else { return Ok(None) };
        let free = (found.target.len() - found.target.count()) as u64;
        let ready = group < txn.root().groups_ready;
        let same = found.used == found.target && found.flags == found.target_flags;
        if ready && found.is_sound && same {
            return Ok(Some(free));
        }
        let span = self.source.layout.group_span(group);
        let body = match ready && found.is_sound {
            true => txn.modify(span.start, BlockKind::Group).await?,
            false => txn.create(span.start, BlockKind::Group).await?,
        };
        group_block::format(body, span.blocks);
        let mut head = BitSet::new(found.target.len());
        head.set(0..GROUP_HEAD_BLOCKS as usize);
        for run in only_in(&found.target, &head) {
            group_block::take(body, span.start, run)?;
        }
        for index in (0..GROUP_CHECKSUM_BLOCKS).filter(|i| found.target_flags >> i & 1 == 1) {
            group_block::set_has_checksums(body, index);
        }
        let root = txn.root_mut();
        root.groups_ready = root.groups_ready.max(group + 1);
        self.commit(txn, found.words()).await?;
        Ok(Some(free))
    }

    /// `None`: it cannot be told what the group should be.
    async fn look_at(&self, txn: &MetaTxn, group: u64) -> Result<Option<Group>> {
        let layout = &self.source.layout;
        let span = layout.group_span(group);
        let mut head = BitSet::new(span.blocks as usize);
        head.set(0..GROUP_HEAD_BLOCKS as usize);
        let (mut used, mut flags, mut is_sound) = (head, 0, true);
        if group < txn.root().groups_ready {
            let read = txn.block(span.start, BlockKind::Group).await;
            let decoded = read.and_then(|image| {
                let flag = |i: u64| u32::from(group_block::has_checksums(&image[BODY..], i)) << i;
                flags = (0..GROUP_CHECKSUM_BLOCKS).map(flag).sum();
                group_block::decode(&image[BODY..], span.start, span.blocks)
            });
            match decoded {
                Ok(found) => used = found,
                Err(cause) if !cause.is_corruption() => return Err(cause),
                Err(_) if !self.survey.is_exact => return Ok(None),
                Err(_) => (flags, is_sound) = (0, false),
            }
        }
        let owned = self.survey.owners.of_group(group);
        let mut target = owned.clone();
        if !self.survey.is_exact {
            only_in(&used, &owned).into_iter().for_each(|run| _ = target.set(run));
        }
        let mut target_flags = flags;
        for index in 0..GROUP_CHECKSUM_BLOCKS {
            let wanted = !is_sound || self.survey.needed.has(group, index);
            if wanted && is_there(self.source, layout, group, index).await? {
                target_flags |= 1 << index;
            }
        }
        Ok(Some(Group { group, is_sound, used, flags, target, target_flags }))
    }

    /// Makes the counts in the root what was counted.
    async fn root(&mut self, free: Option<u64>) -> Result<()> {
        let mut txn = self.meta.begin().await?;
        let before = txn.root().clone();
        let root = txn.root_mut();
        root.free_blocks = free.unwrap_or(root.free_blocks);
        root.next_object = root.next_object.max(self.survey.highest.saturating_add(1));
        if self.survey.has_all_objects {
            root.object_count = self.survey.objects;
        }
        let changes = [
            ("free blocks", before.free_blocks, root.free_blocks),
            ("next object", before.next_object, root.next_object),
            ("objects", before.object_count, root.object_count),
        ];
        let changed: Vec<String> = changes
            .iter()
            .filter(|(_, old, new)| old != new)
            .map(|(what, old, new)| format!("{what} {old} -> {new}"))
            .collect();
        if changed.is_empty() {
            return Ok(());
        }
        self.commit(txn, format!("counts of the root: {}", changed.join(", "))).await
    }

    async fn names(&mut self) -> Result<()> {
        let space = Space::new(self.source.layout.clone(), Arc::new(VolumeLog(self.meta.clone())));
        space.load(self.meta.read().await.root())?;
        for key in &self.survey.dangling {
            let mut txn = self.meta.begin().await?;
            let mut ticket = Ticket::new(&space);
            let mut root = txn.root().names;
            tree::remove(&mut txn, &mut ticket, &mut root, key).await?;
            txn.root_mut().names = root;
            let words = format!("\"{}\" led to nothing and was removed", key.escape_ascii());
            self.settle(txn, ticket, words).await?;
        }
        for &id in &self.survey.nameless {
            space.reserve(NODES_PER_CHANGE)?;
            let named = self.name(&space, id).await;
            space.unreserve(NODES_PER_CHANGE);
            named?;
        }
        Ok(())
    }

    async fn settle(&mut self, mut txn: MetaTxn, mut ticket: Ticket, words: String) -> Result<()> {
        ticket.record(&mut txn).await?;
        let lsn = txn.prepare().await?.commit();
        ticket.settle(lsn);
        self.meta.durable(lsn).await?;
        self.meta.evict(EVICT);
        self.done.push(words);
        Ok(())
    }

    /// Gives an object the first name of `lost+ID`, `lost+ID.1`, ... that is free.
    async fn name(&mut self, space: &Space, id: ObjectId) -> Result<()> {
        let mut txn = self.meta.begin().await?;
        let mut name = format!("lost+{}", id.0);
        let mut tries = 0;
        while namespace::tree::get(&txn, name.as_bytes()).await?.is_some() {
            tries += 1;
            name = format!("lost+{}.{tries}", id.0);
        }
        let mut ticket = Ticket::new(space);
        namespace::tree::insert(&mut txn, &mut ticket, name.as_bytes(), id).await?;
        self.settle(txn, ticket, format!("{id} had no name and is \"{name}\" now")).await
    }
}

impl Group {
    fn words(&self) -> String {
        let blocks = |a, b| only_in(a, b).iter().map(ExactSizeIterator::len).sum::<usize>();
        let (leaked, lost) = (blocks(&self.used, &self.target), blocks(&self.target, &self.used));
        let flagged = (self.target_flags & !self.flags).count_ones();
        match self.is_sound {
            true => format!(
                "group {}: {leaked} blocks freed, {lost} marked as used, {flagged} checksum blocks flagged",
                self.group
            ),
            false => format!("group {}: its block was made again from the trees", self.group),
        }
    }
}

/// Whether a checksum block is sound.
async fn is_there(source: &Source, layout: &Layout, group: u64, index: u64) -> Result<bool> {
    let at = layout.checksum_block(group, index);
    match source.block(at, BlockKind::Checksums).await {
        Ok(_) => Ok(true),
        Err(cause) if cause.is_corruption() || cause.kind() == ErrorKind::Device => Ok(false),
        Err(cause) => Err(cause),
    }
}
