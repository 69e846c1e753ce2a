//! The two ways to look at metadata blocks: a shared view, and a transaction that changes them.
//!
//! Guarantees of implementers: a reader sees one committed state, or inside a transaction that
//! state plus the transaction's own changes; every returned image passed its checksum. Does not
//! say where blocks come from. Implemented by `meta::txn`, and by a plain map in unit tests of
//! the trees above; called by `meta::tree`, `alloc`, `extent`, `object`, `namespace`.

use std::future::Future;

use foliant_device::Buffer;

use crate::error::Result;
use crate::format::block::BlockKind;
use crate::format::root::Root;
use crate::units::BlockNo;

/// Reads metadata blocks of one consistent state.
pub trait BlockRead: Sync {
    /// The whole image of `at` (header included), verified as `kind`.
    ///
    /// Errors: `Corrupt`, `Device`, `OutOfMemory`. Dropping the future has no effect.
    fn block(&self, at: BlockNo, kind: BlockKind) -> impl Future<Output = Result<Buffer>> + Send;

    /// The decoded root block.
    fn root(&self) -> &Root;
}

/// Changes metadata blocks privately, until the transaction commits.
pub trait BlockWrite: BlockRead + Send {
    /// The body (behind the header) of `at`, to be changed in place.
    fn modify(
        &mut self,
        at: BlockNo,
        kind: BlockKind,
    ) -> impl Future<Output = Result<&mut [u8]>> + Send;

    /// The zeroed body of a block that held no metadata before.
    fn create(
        &mut self,
        at: BlockNo,
        kind: BlockKind,
    ) -> impl Future<Output = Result<&mut [u8]>> + Send;

    /// Says that `at` is no longer metadata: its image leaves the cache when this commits.
    fn forget(&mut self, at: BlockNo);

    /// The root, to be changed; it is logged with the rest.
    fn root_mut(&mut self) -> &mut Root;
}

/// Where trees get node blocks from and give them back to, inside a transaction.
pub trait NodeSupply: Send {
    /// A free block for a node. Errors: `NoSpace`, or a failed read of a group block.
    fn take<R: BlockRead>(&mut self, view: &R) -> impl Future<Output = Result<BlockNo>> + Send;

    /// A node block that the tree no longer uses.
    fn give_back(&mut self, at: BlockNo);
}
