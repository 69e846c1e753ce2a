//! Scrubbing: reads everything that is stored, at a set rate, and says what is damaged.
//!
//! Guarantees: beside readers and writers nothing sound is called damaged; what is called damaged is
//! named by object and range. Does not repair, and does not run by itself: a future that the caller
//! drives, in a task of its own as a rule. Called by users.

use std::ops::Range;
use std::time::Duration;

use tokio::time::Instant;

use crate::api::engine::Engine;
use crate::api::object::ExtentState;
use crate::api::object::Object;
use crate::error::Error;
use crate::error::ErrorKind;
use crate::error::Result;
use crate::limits::READS_IN_FLIGHT;
use crate::units::BLOCK;
use crate::units::FileBlocks;

/// Names and extents that are asked for at once.
const PAGE: usize = 256;
/// Damaged ranges that a report names; more are only counted.
const DAMAGES_MAX: usize = 1000;
/// Unless it is told otherwise: about a terabyte in a day.
const BYTES_PER_SECOND: u64 = 16 << 20;

/// A scrub to be started, made by [`Engine::scrub`].
#[derive(Debug, Clone)]
pub struct Scrub {
    engine: Engine,
    bytes_per_second: u64,
}

/// A damaged range of an object.
#[derive(Debug, Clone)]
pub struct Damage {
    /// The name under which the object was found.
    pub name: Vec<u8>,
    /// Bytes of it, whole blocks.
    pub range: Range<u64>,
    /// What is wrong with the first of them.
    pub cause: Error,
}

/// What a scrub found.
#[derive(Debug, Clone, Default)]
pub struct ScrubReport {
    /// Objects that were looked at.
    pub objects: u64,
    /// Bytes that were read and are sound.
    pub sound_bytes: u64,
    /// Bytes that cannot be read, or are not what was stored.
    pub damaged_bytes: u64,
    /// Where these are, the first thousand ranges.
    pub damages: Vec<Damage>,
}

impl Engine {
    /// A scrub of all stored data at 16 MiB per second.
    pub fn scrub(&self) -> Scrub {
        Scrub { engine: self.clone(), bytes_per_second: BYTES_PER_SECOND }
    }
}

impl Scrub {
    /// How much is read, in bytes per second on average; at least 4096.
    pub fn bytes_per_second(mut self, rate: u64) -> Self {
        self.bytes_per_second = rate.max(BLOCK);
        self
    }

    /// Looks at every object that has a name, in the order of names. What is cached is read from the device
    /// all the same; what changes meanwhile, and what is in the journal and not home yet, is left out.
    ///
    /// Damage is a finding, not an error. Errors: `Closed`, `OutOfMemory`, `Corrupt` and `Device` in the
    /// metadata, without which the rest cannot be found. Dropping the future ends the scrub.
    pub async fn run(self) -> Result<ScrubReport> {
        let mut report = ScrubReport::default();
        let start = Instant::now();
        let mut after = Vec::new();
        loop {
            let names = self.engine.list(&after, PAGE).await?;
            let Some(last) = names.last() else { return Ok(report) };
            after.clone_from(last);
            for name in names {
                match self.engine.object(&name).await {
                    Ok(object) => self.look_at(start, &name, &object, &mut report).await?,
                    // Removed or renamed since it was listed.
                    Err(cause) if cause.kind() == ErrorKind::NotFound => {}
                    Err(cause) => return Err(cause),
                }
            }
        }
    }

    async fn look_at(
        &self,
        start: Instant,
        name: &[u8],
        object: &Object,
        report: &mut ScrubReport,
    ) -> Result<()> {
        report.objects += 1;
        let mut from = 0;
        loop {
            let found = match object.extents(from..i64::MAX as u64, PAGE).await {
                Err(cause) if cause.kind() == ErrorKind::Closed && !self.is_closed() => {
                    return Ok(());
                }
                found => found?,
            };
            let Some(last) = found.last() else { return Ok(()) };
            from = last.range.end;
            for extent in found.iter().filter(|extent| extent.state == ExtentState::Mapped) {
                let mut at = extent.range.start / BLOCK;
                let end = extent.range.end.div_ceil(BLOCK);
                while at < end {
                    let blocks = FileBlocks::new(at, end.min(at + READS_IN_FLIGHT as u64));
                    self.look_at_blocks(name, object, blocks, report).await?;
                    self.pace(start, report).await;
                    at = blocks.end;
                }
            }
        }
    }

    async fn look_at_blocks(
        &self,
        name: &[u8],
        object: &Object,
        blocks: FileBlocks,
        report: &mut ScrubReport,
    ) -> Result<()> {
        object.volume().check_open()?;
        let looked = object.opened().core().look_at_stored(blocks).await?;
        report.sound_bytes += looked.sound * BLOCK;
        let mut damaged = looked.damaged;
        damaged.sort_by_key(|(block, _)| *block);
        for (block, cause) in damaged {
            report.damaged_bytes += BLOCK;
            let range = block * BLOCK..(block + 1) * BLOCK;
            tracing::error!(name = %name.escape_ascii(), ?range, %cause, "damaged data");
            let is_full = report.damages.len() == DAMAGES_MAX;
            match report.damages.last_mut() {
                Some(last) if last.name == name && last.range.end == range.start => {
                    last.range.end = range.end;
                }
                _ if is_full => {}
                _ => report.damages.push(Damage { name: name.to_vec(), range, cause }),
            }
        }
        Ok(())
    }

    fn is_closed(&self) -> bool {
        self.engine.inner.volume.is_closed()
    }

    /// Sleeps as long as more was read than the rate allows.
    async fn pace(&self, start: Instant, report: &ScrubReport) {
        let read = report.sound_bytes + report.damaged_bytes;
        let due = Duration::from_secs_f64(read as f64 / self.bytes_per_second as f64);
        tokio::time::sleep_until(start + due).await;
    }
}
