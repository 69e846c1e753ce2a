//! The two header slots: reading the newer one, writing the older one.
//!
//! Guarantees: a slot is written durably and never over the newest one, so that a torn write leaves the
//! log where it was. Called by `journal::writer`, `meta::recover` and format.

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

/// Writes `slot`; durable on return. Errors: `Device`, `OutOfMemory`.
pub async fn write(device: &Device, memory: &Memory, volume: u32, slot: Slot) -> Result<()> {
    let mut buffer = memory.allocate(0, Purpose::Reserved).await?;
    let bytes = buffer.get_mut().expect("a fresh buffer has one owner");
    slot.encode(volume, &mut bytes[..BLOCK_SIZE]);
    let at = place(slot.sequence);
    Ok(device.write(at.0, vec![buffer.into()], Persist::Durable).await?)
}

/// The newer whole slot. Errors: `Corrupt` when neither is whole, `Device`, `OutOfMemory`.
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
            Err(cause) => why = Some(cause),
        }
    }
    let lost = |why: Option<Error>| {
        let why = why.map_or_else(String::new, |w| w.to_string());
        Error::new(ErrorKind::Corrupt, format!("no journal header is whole: {why}"))
    };
    newest.ok_or_else(|| lost(why))
}
