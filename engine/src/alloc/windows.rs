//! Where free space is scattered: windows of groups, and what emptying them would give.
//!
//! Guarantees that counts are those of one moment per group. Does not know who owns what is busy, and does not
//! choose. Called by `object::clean`; the cost is a look at each free run of the groups asked for.

use std::ops::Range;

use crate::alloc::group::Group;
use crate::alloc::inner::Inner;
use crate::alloc::space::Space;
use crate::error::ErrorKind;
use crate::error::Result;
use crate::meta::view::BlockRead;
use crate::units::DeviceSpan;

/// Blocks of a window (256 KiB): what one device write of writeback takes.
pub const WINDOW_BLOCKS: u64 = 64;
/// A free run that is shorter makes device writes small (64 KiB).
const SHORT_BLOCKS: usize = 16;

/// A part of a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// Its blocks.
    pub span: DeviceSpan,
    /// How many of them are not free.
    pub busy: u64,
    /// How many are free, in short runs.
    pub scattered: u64,
}

/// How free space lies.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct FreeRuns {
    /// Free blocks.
    pub blocks: u64,
    /// Runs in which they lie.
    pub runs: u64,
    /// Free blocks in runs of a window's length and more.
    pub long_blocks: u64,
}

impl std::ops::AddAssign for FreeRuns {
    fn add_assign(&mut self, other: Self) {
        self.blocks += other.blocks;
        self.runs += other.runs;
        self.long_blocks += other.long_blocks;
    }
}

impl Space {
    /// Groups that were ever used.
    pub fn groups_opened(&self) -> u64 {
        self.with(|inner| inner.opened)
    }

    /// Whether more than `percent` of all blocks are in use.
    pub fn is_fuller_than(&self, percent: u64) -> bool {
        self.with(|inner| {
            let total = inner.layout.data_blocks();
            let free = inner.usable + inner.holds.blocks() + inner.discarding;
            (total - free.min(total)) * 100 > total * percent
        })
    }

    /// The windows of `groups` that were ever used, ascending, and how free space lies in these groups. One that
    /// cannot be read is passed by.
    ///
    /// Errors: `OutOfMemory`. Dropping the future has no effect.
    pub async fn windows<R: BlockRead>(
        &self,
        r: &R,
        groups: Range<u64>,
    ) -> Result<(Vec<Window>, FreeRuns)> {
        let (mut windows, mut runs) = (Vec::new(), FreeRuns::default());
        for group in groups.start..groups.end.min(self.groups_opened()) {
            let start = self.layout().group_span(group).start;
            let look = |inner: &mut Inner| {
                let state = inner.group(group).expect("it was loaded for this");
                look_at(state, |at| start.plus(at as u64))
            };
            match self.with_group(r, group, look).await {
                Ok((own, lie)) => {
                    windows.extend(own);
                    runs += lie;
                }
                Err(cause) if matches!(cause.kind(), ErrorKind::Corrupt | ErrorKind::Device) => {}
                Err(cause) => return Err(cause),
            }
        }
        Ok((windows, runs))
    }
}

fn look_at(
    group: &Group,
    place: impl Fn(usize) -> crate::units::BlockNo,
) -> (Vec<Window>, FreeRuns) {
    let size = WINDOW_BLOCKS as usize;
    let count = (group.len() - Inner::FIRST) / size;
    let window = |i: usize| {
        let span = DeviceSpan::new(place(Inner::FIRST + i * size), WINDOW_BLOCKS);
        Window { span, busy: WINDOW_BLOCKS, scattered: 0 }
    };
    let mut windows: Vec<Window> = (0..count).map(window).collect();
    let mut lie = FreeRuns::default();
    let mut at = Inner::FIRST;
    while let Some(run) = group.find(at, 1) {
        at = run.end;
        lie.runs += 1;
        lie.blocks += run.len() as u64;
        if run.len() >= size {
            lie.long_blocks += run.len() as u64;
        }
        let short = run.len() < SHORT_BLOCKS;
        let mut from = run.start - Inner::FIRST;
        let end = run.end - Inner::FIRST;
        while from < end {
            let to = (from / size + 1).saturating_mul(size).min(end);
            if let Some(window) = windows.get_mut(from / size) {
                let blocks = (to - from) as u64;
                window.busy -= blocks;
                window.scattered += if short { blocks } else { 0 };
            }
            from = to;
        }
    }
    (windows, lie)
}
