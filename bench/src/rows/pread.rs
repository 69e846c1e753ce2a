//! Peers of cached reads: `pread` from the kernel's page cache, and loads from plain memory.
//!
//! Guarantees that the file is in the page cache before the first block. Called by `cached.rs`.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::time::Duration;
use std::time::Instant;

use anyhow::Context;
use anyhow::Result;
use anyhow::ensure;
use foliant_device::BLOCK_SIZE;

use crate::data::Random;
use crate::measure::cpu_seconds;
use crate::rows::contest::Reading;
use crate::rows::contest::Side;
use crate::rows::line::LINE;
use crate::rows::line::LINES;
use crate::rows::line::ROUND;
use crate::rows::line::choose;
use crate::rows::line::says_block;
use crate::rows::line::touch;

/// `pread` of a number of bytes at random.
pub struct Pread {
    file: File,
    blocks: u64,
    /// A block, or one line of it.
    bytes: usize,
}

impl Pread {
    /// On a file of `blocks` blocks that some `Buffered` target filled; reads it once.
    pub fn new(path: &std::path::Path, blocks: u64, bytes: usize) -> Result<Self> {
        let file = File::open(path).with_context(|| format!("opening {}", path.display()))?;
        let mut scratch = vec![0; 1 << 20];
        let end = blocks * BLOCK_SIZE as u64;
        for at in (0..end).step_by(scratch.len()) {
            let len = scratch.len().min((end - at) as usize);
            file.read_exact_at(&mut scratch[..len], at)?;
        }
        Ok(Self { file, blocks, bytes })
    }
}

impl Side for Pread {
    fn name(&self) -> String {
        format!("pread of {} bytes", self.bytes)
    }

    fn block(&mut self, time: Duration, stretch: u64) -> Result<Reading> {
        let mut random = Random::new(stretch);
        let mut scratch = vec![0; self.bytes];
        let whole = self.bytes == BLOCK_SIZE;
        let mut last = 0;
        timed(time, self.bytes, || {
            let block = choose(&mut random, last, self.blocks);
            let line = if whole { 0 } else { random.below(LINES) };
            let at = block * BLOCK_SIZE as u64 + line * LINE as u64;
            self.file.read_exact_at(&mut scratch, at)?;
            std::hint::black_box(&scratch);
            if !whole {
                last = touch(&scratch);
            }
            Ok(line != 0 || says_block(&scratch, block))
        })
    }
}

/// Loads of one line from memory of this process.
pub struct Load {
    memory: Vec<u8>,
}

impl Load {
    /// As much memory as the store has data, every page touched.
    pub fn new(blocks: u64) -> Self {
        let mut memory = vec![0; blocks as usize * BLOCK_SIZE];
        for (block, bytes) in memory.chunks_exact_mut(BLOCK_SIZE).enumerate() {
            bytes.fill(block as u8);
            bytes[..8].copy_from_slice(&(block as u64).to_le_bytes());
        }
        Self { memory }
    }
}

impl Side for Load {
    fn name(&self) -> String {
        "load of 64 bytes".to_owned()
    }

    fn block(&mut self, time: Duration, stretch: u64) -> Result<Reading> {
        let mut random = Random::new(stretch);
        let blocks = (self.memory.len() / BLOCK_SIZE) as u64;
        let mut last = 0;
        timed(time, LINE, || {
            let (block, line) = (choose(&mut random, last, blocks), random.below(LINES));
            let at = block as usize * BLOCK_SIZE + line as usize * LINE;
            let bytes = &self.memory[at..at + LINE];
            last = touch(bytes);
            Ok(line != 0 || says_block(bytes, block))
        })
    }
}

/// Repeats `once` for `time`; it says whether it saw the right bytes.
fn timed(time: Duration, bytes: usize, mut once: impl FnMut() -> Result<bool>) -> Result<Reading> {
    let (cpu, start) = (cpu_seconds(), Instant::now());
    let (mut ops, mut wrong) = (0_u64, 0_u64);
    while start.elapsed() < time {
        for _ in 0..ROUND {
            wrong += u64::from(!once()?);
        }
        ops += ROUND;
    }
    let seconds = start.elapsed().as_secs_f64();
    ensure!(wrong == 0, "{wrong} of {ops} reads gave wrong bytes");
    let cpu_seconds = cpu.zip(cpu_seconds()).map(|(before, after)| after - before);
    Ok(Reading { ops: ops as f64, bytes: ops as f64 * bytes as f64, seconds, cpu_seconds })
}
