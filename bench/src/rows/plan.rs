//! What a row is told: how often, how long, how large, where.
//!
//! Does not read the command line. Made by `rows`, read by the rows.

use std::path::PathBuf;

use crate::rows::contest::Rules;

/// What a row is told.
#[derive(Debug, Clone)]
pub struct Plan {
    pub rules: Rules,
    pub size: Option<u64>,
    pub count: Option<u64>,
    pub folder: Option<PathBuf>,
    pub quick: bool,
    pub alone: bool,
}

impl Plan {
    /// The row's own size, the one that was asked for, or a tiny one.
    pub fn size(&self, own: u64, quick: u64) -> u64 {
        self.size.unwrap_or(if self.quick { quick } else { own })
    }

    /// The same for a number of things.
    pub fn count(&self, own: u64, quick: u64) -> u64 {
        self.count.unwrap_or(if self.quick { quick } else { own })
    }
}
