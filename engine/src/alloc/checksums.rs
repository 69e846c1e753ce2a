//! Checksums of data blocks, kept in the group of the blocks.
//!
//! Guarantees that what was stored in a committed transaction is read again, and that a checksum
//! block nobody wrote is an error, not zeros. Does not compute or compare checksums. Called by `object`.

use crate::alloc::ready::ensure_ready;
use crate::alloc::space::Space;
use crate::error::Error;
use crate::error::ErrorKind;
use crate::error::Result;
use crate::format::block::BODY;
use crate::format::block::BlockKind;
use crate::format::checksum_block;
use crate::format::group_block;
use crate::limits::CHECKSUMS_PER_BLOCK;
use crate::meta::view::BlockRead;
use crate::meta::view::BlockWrite;
use crate::units::BlockNo;
use crate::units::DeviceSpan;

impl Space {
    /// The checksum of each block of `span`.
    ///
    /// Errors: `Corrupt` when the span cannot hold data or its checksums were never stored; what reading
    /// gives. Dropping the future has no effect.
    pub async fn checksums<R: BlockRead>(&self, r: &R, span: DeviceSpan) -> Result<Vec<u32>> {
        self.check_data(span)?;
        let mut sums = Vec::with_capacity(span.blocks as usize);
        while (sums.len() as u64) < span.blocks {
            let done = sums.len() as u64;
            let (at, first, count) = self.piece(span.start.plus(done), span.blocks - done);
            let image = r.block(at, BlockKind::Checksums).await?;
            sums.extend(checksum_block::get(&image[BODY..], first, count));
        }
        Ok(sums)
    }

    /// Stores the checksums of the blocks from `at` on; they must lie in one group.
    ///
    /// Errors: `Corrupt` when they cannot hold data; what reading gives. Then, or when the future is
    /// dropped, the transaction must be dropped.
    pub async fn store_checksums<W: BlockWrite>(
        &self,
        w: &mut W,
        at: BlockNo,
        sums: &[u32],
    ) -> Result<()> {
        if sums.is_empty() {
            return Ok(());
        }
        self.check_data(DeviceSpan::new(at, sums.len() as u64))?;
        let mut done = 0;
        while done < sums.len() {
            let left = (sums.len() - done) as u64;
            let (block, first, count) = self.piece(at.plus(done as u64), left);
            let body = self.open_for_change(w, block).await?;
            checksum_block::put(body, first, &sums[done..done + count]);
            done += count;
        }
        Ok(())
    }

    fn check_data(&self, span: DeviceSpan) -> Result<()> {
        match self.layout().is_data(span) {
            true => Ok(()),
            false => Err(Error::new(
                ErrorKind::Corrupt,
                format!("{} blocks at block {} cannot hold data", span.blocks, span.start),
            )),
        }
    }

    /// The checksum block of `block`, the place in it, and how many of `blocks` it covers.
    fn piece(&self, block: BlockNo, blocks: u64) -> (BlockNo, usize, usize) {
        let place = self.layout().checksum_place(block);
        let (at, first) = place.expect("it was checked to be data");
        let room = CHECKSUMS_PER_BLOCK as usize - first;
        (at, first, room.min(blocks as usize))
    }

    /// The body of a checksum block, made if this is its first use.
    async fn open_for_change<'w, W: BlockWrite>(
        &self,
        w: &'w mut W,
        block: BlockNo,
    ) -> Result<&'w mut [u8]> {
        let (group, index) = self.layout().group_of(block).expect("it lies in a group");
        ensure_ready(w, self.layout(), group).await?;
        let at = self.layout().group_block(group);
        let image = w.block(at, BlockKind::Group).await?;
        let is_there = group_block::has_checksums(&image[BODY..], index - 1);
        drop(image);
        if is_there {
            return w.modify(block, BlockKind::Checksums).await;
        }
        let body = w.modify(at, BlockKind::Group).await?;
        group_block::set_has_checksums(body, index - 1);
        w.create(block, BlockKind::Checksums).await
    }
}
