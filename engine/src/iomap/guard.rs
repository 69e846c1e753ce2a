//! The guard of one folio that is being written: lock, reference and hook in one value.
//!
//! Guarantees the order of a commit: bytes, marks, attach, size, put, unlock. The guard owns the
//! folio's lock and gives it up only by being consumed, so "unlock, then touch private state"
//! cannot be written down. A guard that is dropped counts as a commit of zero bytes: its hook is
//! put all the same, exactly once, with the folio locked.
//!
//! Does not wait: everything that needs an await happened before. Called by `write`.

use std::ops::Range;

use foliant_device::Buffer;

use crate::iomap::contract::MappingProvider;
use crate::iomap::grip::Grip;
use crate::iomap::iter::Lease;
use crate::iomap::iter::lease_of;
use crate::iomap::pause::Canary;
use crate::iomap::pause::Pauses;
use crate::iomap::pause::Point;
use crate::units::BLOCK_BYTES;
use crate::units::FileBlocks;

/// What somebody may do with each folio of a write while it is locked.
pub trait FolioHook: Send + Sync {
    /// The folio is locked and will be written; exactly one `put` follows.
    fn get(&self, _: &Grip) {}

    /// The blocks (of the object) are dirty and belong to the write: join them to a transaction.
    fn attach(&self, folio: &Grip, blocks: FileBlocks);

    /// The guard is done with the folio, which is still locked; `accepted` bytes were taken.
    fn put(&self, folio: &Grip, accepted: usize);
}

/// Nobody is interested.
impl FolioHook for () {
    fn attach(&self, _: &Grip, _: FileBlocks) {}
    fn put(&self, _: &Grip, _: usize) {}
}

/// A locked folio between "mapped" and "committed".
pub struct FolioGuard<'a, H: FolioHook> {
    folio: Grip,
    hook: &'a H,
    pauses: &'a Pauses,
    /// The bytes of the object that are written through this guard; inside the folio.
    range: Range<u64>,
    spare: Option<Buffer>,
    put: bool,
}

impl<'a, H: FolioHook> FolioGuard<'a, H> {
    /// Takes over a locked folio for writing the bytes `range` of the object.
    ///
    /// `spare` replaces the memory if that is shared when bytes change.
    ///
    /// # Panics
    /// If the range is empty or leaves the folio.
    pub fn new(
        folio: Grip,
        range: Range<u64>,
        spare: Option<Buffer>,
        hook: &'a H,
        pauses: &'a Pauses,
    ) -> Self {
        let bytes = folio.span().bytes();
        assert!(range.start < range.end, "a guard for no bytes");
        assert!(
            bytes.start <= range.start && range.end <= bytes.end,
            "bytes {range:?} lie outside of folio {bytes:?}"
        );
        hook.get(&folio);
        Self { folio, hook, pauses, range, spare, put: false }
    }

    fn within(&self, at: u64) -> usize {
        (at - self.folio.span().bytes().start) as usize
    }

    /// Zeroes whole blocks (of the object) before bytes are copied into them; they are up to date.
    pub fn zero_blocks(&mut self, blocks: FileBlocks) {
        let bytes = blocks.bytes();
        let range = self.within(bytes.start)..self.within(bytes.end);
        self.folio.zero(range, &mut self.spare);
        self.folio.set_uptodate(blocks);
    }

    /// Puts the bytes that the device holds into a block that is not up to date.
    pub fn fill_block(&mut self, block: u64, image: &[u8]) {
        assert_eq!(image.len(), BLOCK_BYTES, "an image is one block");
        let at = self.within(block * BLOCK_BYTES as u64);
        self.folio.write(at, image, &mut self.spare);
        self.folio.set_uptodate(FileBlocks::new(block, block + 1));
    }

    /// Copies bytes to the start of the guard's range; of a short copy only what will be accepted.
    pub fn copy(&mut self, src: &[u8]) {
        let room = (self.range.end - self.range.start) as usize;
        assert!(src.len() <= room, "more bytes than the guard is for");
        let accepted = self.accepted(src.len() as u64) as usize;
        let at = self.within(self.range.start);
        self.folio.write(at, &src[..accepted], &mut self.spare);
    }

    /// Zeroes all of the guard's range.
    pub fn zero(&mut self) {
        let range = self.within(self.range.start)..self.within(self.range.end);
        self.folio.zero(range, &mut self.spare);
    }

    /// How many of `copied` bytes count: a block that is not up to date and was not copied whole
    /// holds bytes of nobody, so the copy ends before it.
    fn accepted(&self, copied: u64) -> u64 {
        let end = self.range.start + copied;
        let last = end / BLOCK_BYTES as u64;
        let partial = !end.is_multiple_of(BLOCK_BYTES as u64) && copied > 0;
        let broken = self.pauses.is_broken(Canary::AcceptShort);
        if partial && !broken && !self.folio.is_uptodate(last) {
            return (last * BLOCK_BYTES as u64).max(self.range.start) - self.range.start;
        }
        copied
    }

    /// Accepts the first `copied` bytes, in the order marks, attach, size, put, unlock.
    ///
    /// `publish` runs, with the folio locked, if all bytes of the range were accepted. Gives back
    /// how many bytes were.
    pub fn commit<P: MappingProvider>(
        mut self,
        copied: usize,
        leases: &mut [Lease<P>],
        publish: impl FnOnce(),
    ) -> usize {
        let whole = self.range.end - self.range.start;
        let accepted = self.accepted(copied as u64);
        assert!(accepted <= whole, "more accepted than asked");
        self.pauses.visit(Point::BetweenCopyAndAttach);
        let end = self.range.start + accepted;
        let blocks = FileBlocks::covering(&(self.range.start..end));
        if !blocks.is_empty() {
            self.mark(blocks, leases);
            if !self.pauses.is_broken(Canary::SkipAttach) {
                self.hook.attach(&self.folio, blocks);
            }
        }
        if accepted == 0 && self.pauses.is_broken(Canary::KeepPromises) {
            lease_of(leases, self.range.start / BLOCK_BYTES as u64).keep_promises(1);
        }
        if accepted == whole {
            publish();
        }
        self.put = true;
        self.hook.put(&self.folio, accepted as usize);
        accepted as usize
    }

    /// Marks the blocks up to date and dirty; each newly dirty one keeps its promise.
    fn mark<P: MappingProvider>(&mut self, blocks: FileBlocks, leases: &mut [Lease<P>]) {
        self.folio.set_uptodate(blocks);
        let mut rest = blocks;
        while !rest.is_empty() {
            let lease = lease_of(leases, rest.start);
            let part = rest.intersect(lease.blocks());
            let newly = self.folio.mark_dirty(part);
            lease.keep_promises(newly);
            rest.start = part.end;
        }
    }
}

impl<H: FolioHook> Drop for FolioGuard<'_, H> {
    fn drop(&mut self) {
        if !self.put && !self.pauses.is_broken(Canary::SkipPut) {
            self.hook.put(&self.folio, 0);
        }
    }
}
