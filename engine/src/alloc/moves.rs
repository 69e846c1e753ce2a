//! What movers of blocks ask of free space.
//!
//! Guarantees: a loan is given only when plenty is left, so that nobody else meets the end of space because of it,
//! and who does all the same sees in [`SpaceStats::lent`](crate::alloc::space::SpaceStats::lent) that it comes
//! back soon. All guards give back what they stand for when they are dropped. Does not move anything. Called by
//! `object`.

use crate::alloc::space::Space;
use crate::units::BlockNo;
use crate::units::DeviceSpan;

impl Space {
    /// Promises `blocks` to who moves as many, if so much is left beside that nobody will miss them.
    pub fn lend(&self, blocks: u64) -> Option<Loan> {
        self.with(|inner| {
            let beside = blocks + inner.metadata_reserve();
            if inner.available() < blocks + beside || !inner.can_promise(blocks + beside) {
                return None;
            }
            inner.promised += blocks;
            inner.moving.lent += blocks;
            Some(Loan { space: self.clone(), blocks })
        })
    }

    /// Watches places whose content is about to be copied. Until [`Watched::were_read`] no freed block is handed
    /// out: nothing may be written where a read is on its way. Called with a view of the metadata in hand under
    /// which they are in use.
    ///
    /// # Panics
    /// If one is watched already: there is one mover at a time.
    pub fn watch(&self, places: Vec<DeviceSpan>) -> Watched {
        self.with(|inner| {
            for &place in &places {
                assert!(inner.moving.watched.insert(place), "{place:?} is watched twice");
            }
            inner.moving.reading = true;
        });
        Watched { space: self.clone(), places }
    }

    /// Keeps `windows` (ascending, disjoint) from everybody who finds room elsewhere, while the answer lives.
    pub fn close_windows(&self, windows: Vec<DeviceSpan>) -> ClosedWindows {
        self.with(|inner| inner.moving.close(windows));
        ClosedWindows { space: self.clone() }
    }

    /// Takes back what is kept for moves; whether there was anything.
    pub(super) fn open_up(&self) -> bool {
        self.with(|inner| inner.moving.open_up())
    }
}

/// A promise of room, until dropped.
#[derive(Debug)]
#[must_use = "dropping it gives the promise back"]
pub struct Loan {
    space: Space,
    blocks: u64,
}

impl Drop for Loan {
    fn drop(&mut self) {
        self.space.with(|inner| inner.moving.lent -= self.blocks);
        self.space.unreserve(self.blocks);
    }
}

/// Places that are watched until this is dropped.
#[derive(Debug)]
pub struct Watched {
    space: Space,
    places: Vec<DeviceSpan>,
}

impl Watched {
    /// No read of the places is on its way any more.
    pub fn were_read(&self) {
        self.space.with(|inner| inner.moving.reading = false);
    }

    /// Whether `at`, where a mapping points now, has been in use without a break since it was watched.
    pub fn is_still(&self, at: BlockNo) -> bool {
        self.space.with(|inner| inner.moving.watched.contains(at))
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.space.with(|inner| {
            inner.moving.reading = false;
            for &place in &self.places {
                inner.moving.watched.cut(place);
            }
        });
    }
}

/// Windows that are kept from others until this is dropped.
#[derive(Debug)]
pub struct ClosedWindows {
    space: Space,
}

impl ClosedWindows {
    /// Keeps only these (ascending, disjoint) from now on.
    pub fn keep(&self, windows: Vec<DeviceSpan>) {
        self.space.with(|inner| inner.moving.close(windows));
    }
}

impl Drop for ClosedWindows {
    fn drop(&mut self) {
        self.space.with(|inner| inner.moving.close(Vec::new()));
    }
}
