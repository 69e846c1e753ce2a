//! Writes an empty volume.
//!
//! Guarantees: the superblocks are the last thing written, and the first thing erased when an old
//! volume is replaced, so that a device on which this was interrupted opens as "not a store" and
//! never as a half-made one. Writes the whole journal region, so that a commit is a pure overwrite.
//! Costs the journal's size, whatever the device's: groups are made when they are first used.
//!
//! Does not size or create files. Called by `api::options`.

use foliant_device::BLOCK_SIZE;
use foliant_device::Device;
use foliant_device::Persist;

use crate::error::Error;
use crate::error::ErrorKind;
use crate::error::Result;
use crate::format::layout::Layout;
use crate::format::layout::SUPERBLOCKS;
use crate::format::superblock;
use crate::format::superblock::Features;
use crate::format::superblock::INCOMPATIBLE_INLINE;
use crate::format::superblock::Superblock;
use crate::journal::Journal;
use crate::kit::canary::Canary;
use crate::kit::canary::is_broken;
use crate::kit::memory::Memory;
use crate::kit::memory::Purpose;
use crate::limits::JOURNAL_BYTES_MIN;
use crate::limits::MEMORY_BYTES_MIN;
use crate::meta::Meta;
use crate::units::BLOCK;
use crate::units::BlockNo;

/// Largest journal that is chosen without being asked for.
const JOURNAL_BYTES_DEFAULT_MAX: u64 = 128 << 20;

/// What an empty volume shall be like.
#[derive(Debug, Clone)]
pub struct MakeOptions {
    /// Bytes of journal; chosen by the size of the device when `None`.
    pub journal_bytes: Option<u64>,
    /// Replace a store that is already there.
    pub force: bool,
    /// Identity of the volume.
    pub uuid: [u8; 16],
}

/// Makes an empty volume on `device`; durable on return.
///
/// Errors: `AlreadyExists` when a store is there and `force` is not set, `InvalidInput` for a device
/// or a journal that is too small, `Device`.
pub async fn make(device: &Device, options: &MakeOptions) -> Result<()> {
    let memory = Memory::new(MEMORY_BYTES_MIN)?;
    let blocks = device.geometry().blocks;
    let journal = journal_blocks(blocks, options.journal_bytes)?;
    let layout = Layout::new(blocks, journal)?;
    if !options.force {
        refuse_existing(device, &memory).await?;
    }
    let superblock = Superblock {
        uuid: options.uuid,
        features: Features { incompatible: INCOMPATIBLE_INLINE, ..Features::default() },
        device_blocks: blocks,
        journal_blocks: journal,
    };
    for at in SUPERBLOCKS {
        write_block(device, &memory, at, &[0; BLOCK_SIZE]).await?;
    }
    device.flush().await?;
    Journal::format(device, &memory, &layout, superblock.volume()).await?;
    let root = layout.initial_root();
    Meta::format_root(device, &memory, superblock.volume(), layout.root, &root).await?;
    if !is_broken(Canary::PublishUnflushed) {
        device.flush().await?;
    }
    for at in SUPERBLOCKS.into_iter().rev() {
        let mut bytes = [0; BLOCK_SIZE];
        superblock.encode(at, &mut bytes)?;
        write_block(device, &memory, at, &bytes).await?;
    }
    device.flush().await?;
    tracing::info!(blocks, journal, "made a volume");
    Ok(())
}

fn journal_blocks(device_blocks: u64, asked: Option<u64>) -> Result<u64> {
    let bytes = match asked {
        None => {
            let share = device_blocks * BLOCK / 64;
            share.clamp(JOURNAL_BYTES_MIN, JOURNAL_BYTES_DEFAULT_MAX)
        }
        Some(bytes) if bytes < JOURNAL_BYTES_MIN => {
            let why = format!("a journal of {bytes} bytes; at least {JOURNAL_BYTES_MIN}");
            return Err(Error::invalid(why));
        }
        Some(bytes) => bytes,
    };
    Ok(bytes / BLOCK)
}

async fn refuse_existing(device: &Device, memory: &Memory) -> Result<()> {
    for at in SUPERBLOCKS {
        if at.0 >= device.geometry().blocks {
            continue;
        }
        let into = vec![memory.allocate(0, Purpose::Reserved).await?];
        let (buffers, outcome) = device.read(at.0, into).await;
        outcome?;
        if buffers[0].starts_with(&superblock::MAGIC) {
            let why = "the device holds a store already; force is needed to replace it";
            return Err(Error::new(ErrorKind::AlreadyExists, why));
        }
    }
    Ok(())
}

async fn write_block(device: &Device, memory: &Memory, at: BlockNo, bytes: &[u8]) -> Result<()> {
    let mut buffer = memory.allocate(0, Purpose::Reserved).await?;
    buffer.get_mut().expect("a fresh buffer has one owner").copy_from_slice(bytes);
    device.write(at.0, vec![buffer.into()], Persist::Cached).await?;
    Ok(())
}
