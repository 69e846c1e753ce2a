//! A promise of room that goes back by itself.
//!
//! Guarantees that every early exit of a transaction returns what it reserved. Does not know what
//! the room is for. Called by `object::journaled` and `object::resize`.

use crate::alloc::Space;
use crate::error::Result;

/// Blocks reserved until dropped.
#[derive(Debug)]
pub struct Reservation {
    space: Space,
    blocks: u64,
}

impl Reservation {
    /// Reserves `blocks`. Errors: `NoSpace`.
    pub fn new(space: &Space, blocks: u64) -> Result<Self> {
        space.reserve(blocks)?;
        Ok(Self { space: space.clone(), blocks })
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.space.unreserve(self.blocks);
    }
}
