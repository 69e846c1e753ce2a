//! The things under measurement, and the counted device that all of them stand on.
//!
//! Guarantees that every target's requests are counted by the same decorator, so that flushes and
//! bytes of two targets can be compared. Called by `main.rs`.

pub mod buffered;
pub mod foliant;
pub mod raw;

use std::sync::Arc;

use anyhow::Context;
use anyhow::Result;
use anyhow::ensure;
use foliant_device::Arena;
use foliant_device::BLOCK_SIZE;
use foliant_device::Device;
use foliant_device::Persist;
use foliant_device::backend;
use foliant_device::wrap::count::CountDevice;
use foliant_device::wrap::count::Counters as Counted;
use futures_util::stream::FuturesUnordered;
use futures_util::stream::StreamExt;

use crate::data::Pattern;
use crate::progress::Progress;
use crate::target::Place;
use crate::workload::PIECE_MAX;

/// Opens what stands at `place`; a file is made and grown to `bytes` first.
async fn open_counted(place: &Place, bytes: Option<u64>) -> Result<(Device, Arc<Counted>)> {
    let mut options = backend::OpenOptions::new(&place.path);
    if let Some(bytes) = bytes.filter(|_| !place.device) {
        options = options.create_bytes(bytes.next_multiple_of(BLOCK_SIZE as u64));
    }
    let device = options.open().await;
    let device = device.with_context(|| format!("opening {}", place.path.display()))?;
    let counting = CountDevice::new(device);
    let counters = counting.counters();
    Ok((Device::new(counting), counters))
}

/// Pieces in flight while a file is written out.
const WRITE_OUT_DEPTH: usize = 8;

/// Writes the whole file once, if the place wants that: the first write into allocated but
/// unwritten space costs a file system more than a later one, and a store is measured in steady state.
pub async fn write_out(place: &Place) -> Result<()> {
    if !place.write_out {
        return Ok(());
    }
    let (device, _) = open_counted(place, Some(place.store)).await?;
    let arena = Arena::new(WRITE_OUT_DEPTH * PIECE_MAX)?;
    let pattern = Pattern::new(0);
    let piece_blocks = (PIECE_MAX / BLOCK_SIZE) as u64;
    let order = piece_blocks.ilog2() as u8;
    let end = device.geometry().blocks / piece_blocks * piece_blocks;
    let bar = Progress::new("allocate", end * BLOCK_SIZE as u64);
    let (mut flying, mut at) = (FuturesUnordered::new(), 0);
    while at < end || !flying.is_empty() {
        if at < end && flying.len() < WRITE_OUT_DEPTH {
            let mut buffer =
                arena.allocate(order).context("one buffer for each write in flight")?;
            pattern.fill(at, 1, buffer.get_mut().context("a fresh buffer is unique")?);
            flying.push(device.write(at, vec![buffer.into()], Persist::Cached));
            at += piece_blocks;
            bar.at(at * BLOCK_SIZE as u64);
        } else if let Some(written) = flying.next().await {
            written?;
        }
    }
    ensure!(end > 0, "the file is smaller than one piece");
    device.flush().await?;
    Ok(device.close().await?)
}
