//! Group blocks of the store: read as bitmaps, and made when a group is used for the first time.
//!
//! Guarantees that groups become ready in ascending order, so that one number in the root says
//! which are. Does not know claims. Called by `alloc::{space, ticket, checksums}`.

use crate::error::Error;
use crate::error::Result;
use crate::format::block::BODY;
use crate::format::block::BlockKind;
use crate::format::group_block;
use crate::format::layout::GROUP_HEAD_BLOCKS;
use crate::format::layout::Layout;
use crate::kit::bitset::BitSet;
use crate::meta::view::BlockRead;
use crate::meta::view::BlockWrite;

/// The used blocks of `group`, as `r` sees them.
///
/// Errors: `Corrupt`, `Device`, `OutOfMemory`.
pub async fn read_used<R: BlockRead>(r: &R, layout: &Layout, group: u64) -> Result<BitSet> {
    let span = layout.group_span(group);
    if group >= r.root().groups_ready {
        let mut used = BitSet::new(span.blocks as usize);
        used.set(0..GROUP_HEAD_BLOCKS as usize);
        return Ok(used);
    }
    let image = r.block(span.start, BlockKind::Group).await?;
    group_block::decode(&image[BODY..], span.start, span.blocks)
}

/// Makes `group`, and all virgin groups before it, ready.
///
/// Errors: as creating a block; `Corrupt` when the root counts more groups than there are.
pub async fn ensure_ready<W: BlockWrite>(w: &mut W, layout: &Layout, group: u64) -> Result<()> {
    while w.root().groups_ready <= group {
        let span = layout.group_span(w.root().groups_ready);
        let body = w.create(span.start, BlockKind::Group).await?;
        group_block::format(body, span.blocks);
        w.root_mut().groups_ready += 1;
    }
    match w.root().groups_ready <= layout.groups() {
        true => Ok(()),
        false => Err(Error::corrupt("root", layout.root, "it counts more groups than there are")),
    }
}
