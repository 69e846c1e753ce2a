//! Looks whether blocks that were written home are there, while the log still has them.
//!
//! A disk can lose a write that it acknowledged and flushed, put it elsewhere or change it. Trees are changed
//! in place, so that the old block that lies there then is whole, at its place, and would be believed; while the
//! log holds the records, the damage can still be undone. (A tree that is never changed in place finds it by
//! the sum of each child in its parent; here that would log and write every parent with each change.)
//!
//! Guarantees: each block that differs, or cannot be read, is named. Costs one read per block, 32 at
//! once. Cannot see a write that a disk shows from a volatile cache and loses behind its flush. Does not
//! write. Called by `meta::checkpoint` and `meta::recover` before they move the log's tail.

use foliant_device::Buffer;
use foliant_device::Device;
use futures_util::future::join_all;

use crate::error::Error;
use crate::error::Result;
use crate::kit::canary::Canary;
use crate::kit::canary::is_broken;
use crate::kit::memory::Memory;
use crate::kit::memory::Purpose;
use crate::units::BlockNo;

/// Blocks that are read at once.
const AT_ONCE: usize = 32;

/// The memory that looking takes; held from the start, so that a checkpoint never waits for it: who holds memory
/// may be waiting for the checkpoint.
#[derive(Debug)]
pub struct Readback {
    memory: Memory,
    buffers: Vec<Buffer>,
}

impl Readback {
    /// Takes its memory. Errors: `OutOfMemory`. Dropping the future has no effect.
    pub async fn new(memory: &Memory) -> Result<Self> {
        let mut readback = Self { memory: memory.clone(), buffers: Vec::new() };
        readback.fill().await?;
        Ok(readback)
    }

    /// Buffers of a look that was dropped are gone.
    async fn fill(&mut self) -> Result<()> {
        while self.buffers.len() < AT_ONCE {
            self.buffers.push(self.memory.allocate(0, Purpose::Reserved).await?);
        }
        Ok(())
    }

    /// Those of `images` (ascending) that the device does not hold: they are to be written once more, and then
    /// [`Readback::insist`]ed on.
    ///
    /// Errors: `OutOfMemory`. Dropping the future has no effect.
    pub async fn missing(
        &mut self,
        device: &Device,
        mut images: Vec<(BlockNo, Buffer)>,
    ) -> Result<Vec<(BlockNo, Buffer)>> {
        if is_broken(Canary::BelieveHomes) {
            return Ok(Vec::new());
        }
        let differing = self.differing(device, &images).await?;
        let Some((_, cause)) = differing.first() else { return Ok(Vec::new()) };
        let count = differing.len() as u64;
        tracing::warn!(count, %cause, "what was written home is not there, and is written again");
        metrics::counter!("foliant_homes_written_again_total").increment(count);
        images.retain(|(at, _)| differing.binary_search_by_key(at, |&(at, _)| at).is_ok());
        Ok(images)
    }

    /// Errors: what the device holds in place of one of `images`; `OutOfMemory`. Dropping the future has no effect.
    pub async fn insist(&mut self, device: &Device, images: &[(BlockNo, Buffer)]) -> Result<()> {
        match self.differing(device, images).await?.pop() {
            None => Ok(()),
            Some((_, cause)) => Err(cause),
        }
    }

    /// The places, ascending, where the device does not hold the image that is given with them, with the reason.
    /// `images` ascend.
    ///
    /// Errors: `OutOfMemory`. Dropping the future has no effect.
    async fn differing(
        &mut self,
        device: &Device,
        images: &[(BlockNo, Buffer)],
    ) -> Result<Vec<(BlockNo, Error)>> {
        let mut differing = Vec::new();
        for wave in images.chunks(AT_ONCE) {
            self.fill().await?;
            let reads = wave.chunk_by(|(at, _), (next, _)| at.plus(1) == *next).map(|run| {
                let mut into = self.buffers.split_off(self.buffers.len() - run.len());
                // A read that never happens must not find what an earlier look left here.
                for ((_, image), buffer) in run.iter().zip(&mut into) {
                    buffer.get_mut().expect("a buffer that nobody reads")[0] = !image[0];
                }
                async move { (run, device.read(run[0].0.0, into).await) }
            });
            let reads: Vec<_> = reads.collect();
            for (run, (buffers, outcome)) in join_all(reads).await {
                for ((at, image), found) in run.iter().zip(&buffers) {
                    let why = match &outcome {
                        Ok(()) if image[..] == found[..] => continue,
                        Ok(()) => Error::corrupt("block", *at, "a write to it has not arrived"),
                        Err(cause) => cause.clone().into(),
                    };
                    differing.push((*at, why));
                }
                self.buffers.extend(buffers);
            }
        }
        Ok(differing)
    }
}

#[cfg(test)]
mod tests {
    use foliant_device::Persist;
    use foliant_device::error::DeviceErrorKind;
    use foliant_device::sim::Fault;
    use foliant_device::sim::FaultRule;
    use foliant_device::sim::SimDisk;
    use foliant_device::sim::SimOptions;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_has_not_arrived_is_named() {
        let disk = SimDisk::new(256, SimOptions::default());
        let device = Device::new(disk.attach());
        let memory = Memory::new(8 << 20).expect("memory");
        let places: Vec<u64> = (3..60).chain([70, 72]).chain(100..164).collect();
        let mut images = Vec::new();
        for at in places {
            let mut image = memory.allocate(0, Purpose::Reserved).await.expect("memory");
            image.get_mut().expect("a fresh buffer").fill(at as u8 | 1);
            images.push((BlockNo(at), image));
        }
        for at in [5, 72, 163] {
            disk.inject(FaultRule::new(Fault::Lose).blocks(at..at + 1).times(1));
        }
        for (at, image) in &images {
            let written = device.write(at.0, vec![image.clone().into()], Persist::Cached);
            written.await.expect("acknowledged");
        }
        device.flush().await.expect("a flush");
        disk.inject(FaultRule::new(Fault::Fail(DeviceErrorKind::Io)).blocks(110..111).times(1));
        let free = memory.free_blocks();
        let mut readback = Readback::new(&memory).await.expect("memory");
        let named = readback.differing(&device, &images).await.expect("it looks");
        let places: Vec<u64> = named.iter().map(|(at, _)| at.0).collect();
        // A request that fails says nothing about any of its blocks.
        let run: Vec<u64> = places.iter().copied().filter(|at| (100..163).contains(at)).collect();
        assert!(run.contains(&110) && run.len() <= AT_ONCE, "{run:?}");
        let lost: Vec<u64> = places.into_iter().filter(|at| !run.contains(at)).collect();
        assert_eq!(lost, [5, 72, 163]);
        let again = readback.differing(&device, &images).await.expect("it looks");
        assert_eq!(again.len(), 3, "the read that failed once works now");
        drop(readback);
        assert_eq!(memory.free_blocks(), free);
    }
}
