//! A read sees a commit entirely or not at all, within each object.
//!
//! Guarantees: a read that ran beside the moment in which a commit shows its blocks is not given out; it
//! is made again, and after a few times it keeps commits of its object out while it runs. So no reader
//! starves, and a read that meets no commit pays two loads.
//!
//! A commit takes [`Mapped::may_publish`] before it locks anything of the object, and without it cannot
//! begin to show its blocks. Does not order plain writes: each block of those is seen for itself. Called
//! by the reads of this room, and by `object`'s journaled writes.

use crate::iomap::bundle::Mapped;
use crate::iomap::contract::MappingProvider;
use crate::iomap::contract::Transport;
use crate::iomap::publish::MayPublish;
use crate::iomap::publish::Passed;
use crate::iomap::publish::Publications;
use crate::iomap::publish::Seen;

/// How often a read is made beside commits before it keeps them out.
const READS_BESIDE_COMMITS: usize = 3;

/// The attempts of one read.
pub(super) struct Looks<'a> {
    publications: &'a Publications,
    begun: usize,
    seen: Seen,
    alone: Option<Passed<'a>>,
}

impl Looks<'_> {
    /// To be called before each attempt; before the last one it waits for commits that are under way.
    pub(super) async fn begin(&mut self) {
        if self.begun == READS_BESIDE_COMMITS {
            metrics::counter!("foliant_reads_beside_commits_total").increment(1);
            self.alone = Some(self.publications.keep_out().await);
        }
        self.begun += 1;
        self.seen = self.publications.seen();
    }

    /// Whether the attempt met no commit. One that kept them out did not.
    pub(super) fn is_whole(&self) -> bool {
        let whole = self.publications.is_whole(self.seen);
        assert!(whole || self.alone.is_none(), "a commit shows itself without a right to");
        whole
    }
}

impl<P: MappingProvider, T: Transport> Mapped<P, T> {
    /// The right to show the blocks of a commit. Waits while a reader keeps commits out: for one read.
    ///
    /// The caller holds nothing of any object, or such rights of objects before this one. Dropping the
    /// future has no effect.
    pub async fn may_publish(&self) -> MayPublish<'_> {
        self.publications.may_publish().await
    }

    /// The attempts of a read that must not show half of a commit. While they live the caller may hold
    /// ranges only between `begin` and `is_whole`.
    pub(super) fn looks(&self) -> Looks<'_> {
        let publications = &self.publications;
        Looks { publications, begun: 0, seen: publications.seen(), alone: None }
    }
}
