//! Where the tree lies, and what is kept of it beside.
//!
//! Does nothing. Made by `store`, handed down to whoever reads or changes the tree.

use std::sync::Arc;

use foliant::Object;

use crate::kv::shelf::Shelf;
use crate::kv::upper::Uppers;

/// Where a tree lies. Cheap to clone; all clones are the same tree.
#[derive(Debug, Clone)]
pub struct Ground {
    /// Its pages.
    pub object: Object,
    /// Its large values.
    pub shelf: Arc<Shelf>,
    /// Its inner pages, as far as they are kept in memory.
    pub uppers: Arc<Uppers>,
}
