//! The way from the root to a leaf, in a draft.
//!
//! Guarantees that all nodes of a path are loaded and stand at their level. Changes nothing. Called by
//! `tree`; walked upwards by `balance`.

use crate::kv::draft::Draft;
use crate::kv::error::Result;
use crate::kv::units::PageNo;

/// One inner node on the way down.
#[derive(Debug, Clone, Copy)]
pub struct Step {
    /// The inner node.
    pub no: PageNo,
    /// Which of its children was taken.
    pub position: usize,
}

/// The way to a leaf.
#[derive(Debug)]
pub struct Path {
    /// From the root down.
    pub steps: Vec<Step>,
    /// The leaf.
    pub leaf: PageNo,
}

/// The way from the root to the leaf where `key` belongs; all of it is loaded.
pub async fn descend(draft: &mut Draft<'_>, key: &[u8]) -> Result<Path> {
    let mut steps = Vec::with_capacity(draft.meta.height.into());
    let mut no = draft.meta.root;
    for level in (0..draft.meta.height).rev() {
        match level {
            0 => draft.load(no).await?,
            _ => draft.load_inner(no).await?,
        }
        let node = draft.node(no)?;
        node.check_level(level)?;
        if level > 0 {
            let position = node.position(key)?;
            steps.push(Step { no, position });
            no = node.child(position)?;
        }
    }
    Ok(Path { steps, leaf: no })
}
