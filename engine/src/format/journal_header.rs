//! The journal's header slots and the header of a group.
//!
//! ```text
//! slot   0  magic [8]     8  crc u32 of all else   12  volume u32
//!       16  sequence u64  24  epoch u64            32  tail lsn u64   40  next group u64
//! group  0  magic [8]     8  crc u32 of header and payload without this field
//!       12  volume u32   16  epoch u64             24  sequence u64   32  lsn u64
//!       40  payload u32  44  distance u32 to the last group before it that was acknowledged; 0: not told
//!       48  payload
//! ```
//!
//! Guarantees: a slot or group that decodes was written whole, by this volume. Whether a group is the
//! one that is expected (epoch, sequence, lsn) is the caller's question. Called by `journal`.

use crate::error::Error;
use crate::error::ErrorKind;
use crate::error::Result;
use crate::kit::checksum;
use crate::units::BLOCK_BYTES;
use crate::units::BlockNo;
use crate::units::LogPosition;

const SLOT_MAGIC: [u8; 8] = *b"FOLJSLOT";
const GROUP_MAGIC: [u8; 8] = *b"FOLJGRUP";
const SLOT_BYTES: usize = 48;
/// Bytes in front of a group's payload.
pub const GROUP_HEADER: usize = 48;

/// Where the log starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slot {
    /// The slot with the higher number is the newer one.
    pub sequence: u64,
    /// Groups of another epoch are not ours.
    pub epoch: u64,
    /// Everything below is home.
    pub tail: LogPosition,
    /// Number of the group that starts at the tail.
    pub next_group: u64,
}

/// The header of a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GroupHeader {
    /// The epoch in which it was written.
    pub epoch: u64,
    /// Its number.
    pub sequence: u64,
    /// Where it starts.
    pub lsn: LogPosition,
    /// Bytes of payload behind the header.
    pub payload: u32,
    /// Every group up to this number was durable when this one was sealed: where one of them is missing, the
    /// device has lost it. 0: not told.
    pub acknowledged: u64,
}

fn long(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("a slice of eight bytes"))
}

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("a slice of four bytes"))
}

fn crc(bytes: &[u8]) -> u32 {
    checksum::append(checksum::of(&bytes[..8]), &bytes[12..])
}

impl Slot {
    /// The slot as a block.
    pub fn encode(&self, volume: u32, block: &mut [u8]) {
        assert_eq!(block.len(), BLOCK_BYTES, "a slot is one block");
        block.fill(0);
        block[0..8].copy_from_slice(&SLOT_MAGIC);
        block[12..16].copy_from_slice(&volume.to_le_bytes());
        let fields = [self.sequence, self.epoch, self.tail.0, self.next_group];
        for (i, field) in fields.iter().enumerate() {
            block[16 + 8 * i..24 + 8 * i].copy_from_slice(&field.to_le_bytes());
        }
        let sum = crc(&block[..SLOT_BYTES]);
        block[8..12].copy_from_slice(&sum.to_le_bytes());
    }

    /// The slot in `block`, read from `at`. Errors: `Corrupt`.
    pub fn decode(block: &[u8], at: BlockNo, volume: u32) -> Result<Self> {
        assert_eq!(block.len(), BLOCK_BYTES, "a slot is one block");
        let (expected, got) = (word(block, 8), crc(&block[..SLOT_BYTES]));
        if block[0..8] != SLOT_MAGIC || expected != got {
            return Err(Error::checksum("journal header", at, expected, got));
        }
        if word(block, 12) != volume {
            return Err(Error::corrupt("journal header", at, "it belongs to another volume"));
        }
        Ok(Self {
            sequence: long(block, 16),
            epoch: long(block, 24),
            tail: LogPosition(long(block, 32)),
            next_group: long(block, 40),
        })
    }
}

impl GroupHeader {
    /// Puts the header in front of the payload that already stands in `group`.
    pub fn encode(&self, volume: u32, group: &mut [u8]) {
        let end = GROUP_HEADER + self.payload as usize;
        assert!(group.len() >= end, "the payload is not there");
        group[..GROUP_HEADER].fill(0);
        group[0..8].copy_from_slice(&GROUP_MAGIC);
        group[12..16].copy_from_slice(&volume.to_le_bytes());
        group[16..24].copy_from_slice(&self.epoch.to_le_bytes());
        group[24..32].copy_from_slice(&self.sequence.to_le_bytes());
        group[32..40].copy_from_slice(&self.lsn.0.to_le_bytes());
        group[40..44].copy_from_slice(&self.payload.to_le_bytes());
        group[44..48].copy_from_slice(&self.distance().to_le_bytes());
        let sum = crc(&group[..end]);
        group[8..12].copy_from_slice(&sum.to_le_bytes());
    }

    fn distance(&self) -> u32 {
        assert!(
            self.acknowledged == 0 || self.acknowledged < self.sequence,
            "a group is not acknowledged before it is sealed"
        );
        match self.acknowledged {
            0 => 0,
            last => u32::try_from(self.sequence - last).unwrap_or(0),
        }
    }

    /// The header in the first block of a group, checksum not verified yet: it covers the payload.
    ///
    /// Errors: `Corrupt` when this is no group of this volume.
    pub fn peek(block: &[u8], volume: u32) -> Result<Self> {
        if block.len() < GROUP_HEADER || block[0..8] != GROUP_MAGIC || word(block, 12) != volume {
            return Err(Error::new(ErrorKind::Corrupt, "no journal group of this volume"));
        }
        let sequence = long(block, 24);
        let acknowledged = match word(block, 44) {
            0 => 0,
            distance => sequence.saturating_sub(u64::from(distance)),
        };
        Ok(Self {
            epoch: long(block, 16),
            sequence,
            lsn: LogPosition(long(block, 32)),
            payload: word(block, 40),
            acknowledged,
        })
    }

    /// The payload of a group that was read whole. Errors: `Corrupt` when the checksum says no.
    pub fn payload<'a>(&self, group: &'a [u8]) -> Result<&'a [u8]> {
        let end = GROUP_HEADER + self.payload as usize;
        let whole = group.get(..end);
        let whole = whole.ok_or_else(|| Error::new(ErrorKind::Corrupt, "journal group cut off"))?;
        let (expected, got) = (word(whole, 8), crc(whole));
        if expected != got {
            let why = format!("journal group at {}: checksum {got:#010x}", self.lsn);
            return Err(Error::new(
                ErrorKind::Corrupt,
                format!("{why}, expected {expected:#010x}"),
            ));
        }
        Ok(&whole[GROUP_HEADER..])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_and_a_group_survive_the_round_trip() {
        let slot = Slot { sequence: 3, epoch: 9, tail: LogPosition(8192), next_group: 12 };
        let mut block = vec![0; BLOCK_BYTES];
        slot.encode(7, &mut block);
        assert_eq!(Slot::decode(&block, BlockNo(8), 7).expect("sound"), slot);
        assert!(Slot::decode(&block, BlockNo(8), 6).is_err());
        let lsn = LogPosition(8192);
        let header = GroupHeader { epoch: 9, sequence: 12, lsn, payload: 5, acknowledged: 9 };
        let mut group = vec![0; BLOCK_BYTES];
        group[GROUP_HEADER..GROUP_HEADER + 5].copy_from_slice(b"hello");
        for acknowledged in [0, 1, 11] {
            let header = GroupHeader { acknowledged, ..header };
            header.encode(7, &mut group);
            assert_eq!(GroupHeader::peek(&group, 7).expect("sound"), header);
        }
        header.encode(7, &mut group);
        assert_eq!(GroupHeader::peek(&group, 7).expect("sound"), header);
        assert_eq!(header.payload(&group).expect("sound"), b"hello");
        group[GROUP_HEADER + 1] ^= 1;
        assert!(header.payload(&group).is_err());
    }
}
