//! Free space that the device is to be told of.
//!
//! Guarantees: a block is handed to a discard only when it is usable, so its freeing is durable and no record that
//! can be replayed names it; while the discard is on its way nobody can claim it; afterwards it is usable
//! again, and is not handed out for that a second time before somebody used it. A batch has
//! [`BATCH_BLOCKS_MIN`] and more, in runs of [`RUN_BLOCKS_MIN`] and more, and is taken only if so much is left
//! beside it that nobody will miss it.
//!
//! Does not discard; remembers nothing of free space that is older than the opening. Called by `volume`.

use crate::alloc::inner::Inner;
use crate::alloc::space::Space;
use crate::alloc::spans::SpanSet;
use crate::units::DeviceSpan;

/// Blocks in a batch at least (1 MiB): less is not worth the device's time.
pub const BATCH_BLOCKS_MIN: u64 = 256;
/// Blocks in a batch at most (64 MiB): they are missing as long as it takes.
const BATCH_BLOCKS_MAX: u64 = 16_384;
/// Shorter runs are left alone (64 KiB): they are written again before the device can do much with them.
const RUN_BLOCKS_MIN: u64 = 16;

impl Space {
    /// Remembers from now on what becomes usable, for [`Space::take_for_discard`].
    pub fn remember_stale(&self) {
        self.with(|inner| inner.stale = Some(SpanSet::default()));
    }

    /// Free blocks that were in use since they were discarded, if there are enough for a batch. They are usable
    /// again when the answer is dropped.
    pub fn take_for_discard(&self) -> Option<Discards> {
        let spans = self.with(|inner| {
            let spans = choose(inner);
            for &span in &spans {
                let (group, range) = inner.locate(span);
                inner.take(group, range);
                inner.discarding += span.blocks;
            }
            spans
        });
        (!spans.is_empty()).then(|| Discards { space: self.clone(), spans })
    }
}

fn choose(inner: &mut Inner) -> Vec<DeviceSpan> {
    let beside = inner.layout.data_blocks() / 32 + inner.metadata_reserve();
    let most = (inner.available().saturating_sub(beside) / 2).min(BATCH_BLOCKS_MAX);
    let runs = inner.stale.iter().flat_map(SpanSet::iter).filter(|s| s.blocks >= RUN_BLOCKS_MIN);
    let runs: Vec<DeviceSpan> = runs.collect();
    let (mut blocks, mut chosen) = (0, Vec::new());
    for run in runs {
        let (group, _) = inner.locate(run);
        let part = run.blocks.min(most - blocks);
        // A group of which nothing is pinned may have left memory; its turn comes when it is back.
        if part > 0 && inner.group(group).is_some() {
            blocks += part;
            chosen.push(DeviceSpan::new(run.start, part));
        }
    }
    if blocks < BATCH_BLOCKS_MIN { Vec::new() } else { chosen }
}

/// Spans that nobody uses and nobody can claim; dropping this makes them usable.
#[derive(Debug)]
pub struct Discards {
    space: Space,
    spans: Vec<DeviceSpan>,
}

impl Discards {
    /// The spans.
    pub fn spans(&self) -> &[DeviceSpan] {
        &self.spans
    }

    #[cfg(test)]
    /// How many blocks they have.
    pub fn blocks(&self) -> u64 {
        self.spans.iter().map(|span| span.blocks).sum()
    }
}

impl Drop for Discards {
    fn drop(&mut self) {
        self.space.with(|inner| {
            for &span in &self.spans {
                inner.give_fresh(span);
                inner.discarding -= span.blocks;
            }
        });
    }
}
