//! What this crate's own integration tests need to know of the format, and their deliberate faults. Not part of the API.
//!
//! Does nothing in production: it exists with the feature `testing` alone.

use crate::format::layout::SUPERBLOCKS;
use crate::format::superblock;

pub mod fuzz;
pub mod holdings;

pub use crate::kit::canary::Canary;
pub use crate::kit::canary::break_on_purpose;
pub use crate::kit::stop;

#[cfg(not(test))]
pub use crate::iomap::pause::Canary as MapCanary;
#[cfg(not(test))]
pub use crate::iomap::pause::Point;
#[cfg(not(test))]
pub use crate::iomap::pause::break_on_purpose as break_mapping_on_purpose;
#[cfg(not(test))]
pub use crate::iomap::pause::hits as point_hits;
#[cfg(not(test))]
pub use crate::iomap::pause::sway;

/// The blocks of the superblock's copies.
pub fn superblocks() -> [u64; 2] {
    SUPERBLOCKS.map(|at| at.0)
}

/// The version of the format that this build writes.
pub fn format_version() -> u32 {
    superblock::VERSION
}

/// Makes the superblock in `image` one of the next, unknown format version, with a right checksum.
pub fn make_superblock_newer(image: &mut [u8]) {
    superblock::make_newer(image);
}

/// Makes the superblock in `image` one of a store whose records hold no small objects, with a right
/// checksum.
pub fn make_superblock_older(image: &mut [u8]) {
    superblock::make_older(image);
}

/// Puts the right checksum into `image`, a metadata block of `volume` that was changed at `at`.
pub fn seal_metadata(image: &mut [u8], at: u64, volume: u32) {
    crate::format::block::seal(image, crate::units::BlockNo(at), volume);
}
