//! All that a power cut could have left, to be tried one by one.
//!
//! Guarantees: the disk of each subset is a disk of its own; the one of no write is what was durable.
//! Writes are lost or whole here: torn ones are what [`super::SimDisk::power_cut`] draws. Called by
//! tests that are exhaustive where others are random.

use crate::sim::image::Image;
use crate::sim::image::WriteId;
use crate::sim::options::SimOptions;

/// A disk at the moment of a cut, and the writes that the cut could undo.
#[derive(Debug)]
pub struct Cut {
    image: Image,
    writes: Vec<WriteId>,
    pub(super) blocks: u64,
    pub(super) options: SimOptions,
}

impl Cut {
    pub(super) fn new(image: Image, blocks: u64, options: SimOptions) -> Self {
        Self { writes: image.undoable(), image, blocks, options }
    }

    /// How many writes could be undone, those in flight included.
    pub fn writes(&self) -> usize {
        self.writes.len()
    }

    /// What is on the disk if the writes survived whose bit is set.
    pub(super) fn survived(&self, survivors: u64) -> Image {
        assert!(self.writes.len() <= 64, "{} writes have no mask", self.writes.len());
        self.image.survived(|write| {
            let bit = self.writes.binary_search(&write).expect("every version has a write");
            survivors >> bit & 1 == 1
        })
    }
}
