//! The two header slots: reading the newer one, writing the older one.
//!
//! Guarantees: a change goes into both slots, one after the other, each durable, the older one first.
//! So a torn write leaves the log where it was; and whichever slot is lost to rot or to a device that
//! cannot read it, the other one leads to a log that can be replayed, because what the older one
//! still needs is given up only when both have changed. Called by `journal::writer`, `meta::recover` and format.

use foliant_device::BLOCK_SIZE;
use foliant_device::Device;
use foliant_device::Persist;

use crate::error::Error;
use crate::error::ErrorKind;
use crate::error::Result;
use crate::format::journal_header::Slot;
use crate::format::layout::JOURNAL_HEADERS;
use crate::kit::memory::Memory;
use crate::kit::memory::Purpose;
use crate::units::BlockNo;

/// The block that the slot with this sequence number is written to.
fn place(sequence: u64) -> BlockNo {
    JOURNAL_HEADERS[(sequence % 2) as usize]
}

/// Writes what follows `slot` into both slots; durable on return. The answer is the newest one.
///
/// Errors: `Device`, `OutOfMemory`: the log may start at the old place or at the new one.
pub async fn write_both(device: &Device, memory: &Memory, volume: u32, slot: Slot) -> Result<Slot> {
    let (slot, outcome) = try_both(device, memory, volume, slot).await;
    outcome.map(|()| slot)
}

/// The same; the answer holds the newest durable slot also after an error. Who tries again must go on
/// from that one: the next write must never go over the only slot that is whole.
pub async fn try_both(
    device: &Device,
    memory: &Memory,
    volume: u32,
    mut slot: Slot,
) -> (Slot, Result<()>) {
    for _ in JOURNAL_HEADERS {
        let next = Slot { sequence: slot.sequence + 1, ..slot };
        if let Err(cause) = write(device, memory, volume, next).await {
            return (slot, Err(cause));
        }
        slot = next;
    }
    (slot, Ok(()))
}

async fn write(device: &Device, memory: &Memory, volume: u32, slot: Slot) -> Result<()> {
    let mut buffer = memory.allocate(0, Purpose::Reserved).await?;
    let bytes = buffer.get_mut().expect("a fresh buffer has one owner");
    slot.encode(volume, &mut bytes[..BLOCK_SIZE]);
    let at = place(slot.sequence);
    Ok(device.write(at.0, vec![buffer.into()], Persist::Durable).await?)
}

/// The newer whole slot.
///
/// Errors: `Corrupt` when neither is whole, `Device` when none is and one cannot be read, `OutOfMemory`.
pub async fn read(device: &Device, memory: &Memory, volume: u32) -> Result<Slot> {
    let mut newest: Option<Slot> = None;
    let mut why = None;
    for at in JOURNAL_HEADERS {
        let into = vec![memory.allocate(0, Purpose::Reserved).await?];
        let (buffers, outcome) = device.read(at.0, into).await;
        let decoded = match outcome {
            Ok(()) => Slot::decode(&buffers[0], at, volume),
            Err(cause) => Err(cause.into()),
        };
        match decoded {
            Ok(slot) if newest.is_none_or(|n| n.sequence < slot.sequence) => newest = Some(slot),
            Ok(_) => {}
            Err(cause) => {
                tracing::warn!(%cause, "a journal header is lost, the other one must do");
                // That it cannot be read says more than that the other one is damaged.
                if why.as_ref().is_none_or(Error::is_corruption) {
                    why = Some(cause);
                }
            }
        }
    }
    let lost = || match why {
        Some(cause) if !cause.is_corruption() => cause,
        why => {
            let why = why.map_or_else(String::new, |w| w.to_string());
            Error::new(ErrorKind::Corrupt, format!("no journal header is whole: {why}"))
        }
    };
    newest.ok_or_else(lost)
}
