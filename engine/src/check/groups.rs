//! The free map: each group block against what was reached, and its checksum blocks.
//!
//! Guarantees that blocks that nobody owns are told from blocks that are owned and marked as free, and
//! that the first are not judged when a part of the trees could not be reached. Does not change
//! anything. Called by `survey` and `repair`.

use std::collections::BTreeMap;

use crate::check::owners::only_in;
use crate::check::report::Fault;
use crate::check::report::Place;
use crate::check::walk::Look;
use crate::error::Result;
use crate::format::block::BODY;
use crate::format::block::BlockKind;
use crate::format::group_block;
use crate::format::layout::GROUP_HEAD_BLOCKS;
use crate::format::layout::Layout;
use crate::format::object_record::ObjectKind;
use crate::format::object_record::ObjectRecord;
use crate::kit::bitset::BitSet;
use crate::limits::CHECKSUMS_PER_BLOCK;
use crate::limits::GROUP_CHECKSUM_BLOCKS;
use crate::meta::view::BlockRead;
use crate::units::BlockNo;
use crate::units::DeviceSpan;

/// Whether the blocks of the object have no checksums.
pub fn has_no_sums(record: &ObjectRecord) -> bool {
    record.kind == ObjectKind::InPlace
}

/// Which checksum blocks data needs: a bit for each, by group.
#[derive(Debug, Default)]
pub struct Needed(BTreeMap<u64, u32>);

impl Needed {
    /// Notes data at `span`, which lies in one group behind its head.
    pub fn note(&mut self, layout: &Layout, span: DeviceSpan) {
        let (group, index) = layout.group_of(span.start).expect("it is data");
        let last = index + span.blocks - 1;
        let bits = self.0.entry(group).or_default();
        for at in index / CHECKSUMS_PER_BLOCK..=last / CHECKSUMS_PER_BLOCK {
            *bits |= 1 << at;
        }
    }

    /// Whether data needs checksum block `index` of `group`.
    pub fn has(&self, group: u64, index: u64) -> bool {
        self.0.get(&group).is_some_and(|bits| bits >> index & 1 == 1)
    }
}

/// Compares all groups with what was reached, and their sum with the root.
pub async fn compare(look: &mut Look<'_>, needed: &Needed) -> Result<()> {
    let source = look.source;
    let mut free = 0;
    let mut all_known = true;
    for group in 0..source.layout.groups() {
        let blocks = source.layout.group_span(group).blocks;
        if group >= source.root.groups_ready {
            free += blocks - GROUP_HEAD_BLOCKS;
            virgin(look, group);
            continue;
        }
        look.report.counts.groups += 1;
        match one(look, group, needed).await? {
            Some(used) => free += (used.len() - used.count()) as u64,
            None => all_known = false,
        }
    }
    if all_known && free != source.root.free_blocks {
        let words =
            format!("the root counts {} free blocks, there are {free}", source.root.free_blocks);
        look.report.add_mendable(Fault::Count, Place::block(source.layout.root), words);
    }
    if !look.lost.is_empty() {
        look.report.unjudged.push("whether used blocks belong to anybody".into());
    }
    Ok(())
}

/// A group that was never used must have no owners.
fn virgin(look: &mut Look<'_>, group: u64) {
    let owned = look.owners.of_group(group);
    let start = look.source.layout.group_block(group);
    if let Some(first) = owned.next_set(GROUP_HEAD_BLOCKS as usize) {
        let count = owned.count() - GROUP_HEAD_BLOCKS as usize;
        let words = format!("{count} blocks of group {group} are owned, and it was never used");
        look.report.add_mendable(Fault::UsedButFree, Place::block(start.plus(first as u64)), words);
    }
}

/// Compares one group; the answer is which of its blocks are used, if it can be told.
async fn one(look: &mut Look<'_>, group: u64, needed: &Needed) -> Result<Option<BitSet>> {
    let span = look.source.layout.group_span(group);
    let read = look.source.block(span.start, BlockKind::Group).await;
    let decoded = read.and_then(|image| {
        let used = group_block::decode(&image[BODY..], span.start, span.blocks)?;
        Ok((used, image))
    });
    let (used, image) = match decoded {
        Ok((used, image)) => (Some(used), Some(image)),
        Err(cause) if cause.is_corruption() && look.is_exact() => {
            let place = Place::block(span.start);
            look.report.add_mendable(Fault::Group, place, cause.to_string());
            (None, None)
        }
        Err(cause) => {
            look.report.add_failure(Fault::Group, Place::block(span.start), cause)?;
            (None, None)
        }
    };
    for index in 0..GROUP_CHECKSUM_BLOCKS {
        let flag = image.as_ref().map(|image| group_block::has_checksums(&image[BODY..], index));
        checksums(look, group, index, flag, needed.has(group, index)).await?;
    }
    if let Some(used) = &used {
        free_map(look, group, used);
    }
    Ok(used)
}

/// Looks at a checksum block that is flagged (unknown without the group's block) or needed.
async fn checksums(
    look: &mut Look<'_>,
    group: u64,
    index: u64,
    flag: Option<bool>,
    needed: bool,
) -> Result<()> {
    if flag != Some(true) && !needed {
        return Ok(());
    }
    let at = look.source.layout.checksum_block(group, index);
    match look.source.block(at, BlockKind::Checksums).await {
        Err(cause) => look.report.add_failure(Fault::Checksums, Place::block(at), cause),
        Ok(_) if flag == Some(false) => {
            let words = "data needs it, and the group block says that it was never written";
            look.report.add_mendable(Fault::Checksums, Place::block(at), words);
            Ok(())
        }
        Ok(_) => Ok(()),
    }
}

fn free_map(look: &mut Look<'_>, group: u64, used: &BitSet) {
    let start = look.source.layout.group_block(group);
    let owned = look.owners.of_group(group);
    let place = |at: usize| -> BlockNo { start.plus(at as u64) };
    for run in only_in(&owned, used) {
        let words = format!("{} blocks have an owner, and are marked as free", run.len());
        look.report.add_mendable(Fault::UsedButFree, Place::block(place(run.start)), words);
    }
    if !look.lost.is_empty() {
        return;
    }
    for run in only_in(used, &owned) {
        let words = format!("{} blocks are marked as used, and nothing owns them", run.len());
        let place = Place::block(place(run.start));
        match look.is_exact() {
            true => look.report.add_mendable(Fault::Leak, place, words),
            false => look.report.add(Fault::Leak, place, words),
        }
    }
}
