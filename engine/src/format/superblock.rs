//! The superblock: what never changes after format, in two copies.
//!
//! ```text
//!   0  magic [8]                       64  root block u64
//!   8  crc u32 of all else             72  first group u64
//!  12  version u32                     80  group blocks u64
//!  16  uuid [16]                       88  place u64: which block this copy was written to
//!  32  compatible features u64         96  volume u32: derived from the uuid
//!  40  read-only compatible u64       100  zero
//!  48  incompatible features u64
//!  56  device blocks u64
//! 104  journal start u64              112  journal blocks u64
//! ```
//!
//! Guarantees: a damaged copy is not believed, and a store that this version cannot read is refused
//! by name rather than misread. Does not read the device. Called by `volume`.

use crate::error::Error;
use crate::error::ErrorKind;
use crate::error::Result;
use crate::format::layout::Layout;
use crate::format::layout::SUPERBLOCKS;
use crate::kit::checksum;
use crate::limits::GROUP_BLOCKS;
use crate::units::BLOCK_BYTES;
use crate::units::BlockNo;

/// The first bytes of a store.
pub const MAGIC: [u8; 8] = *b"FOLIANT\n";
/// The format that this code writes; it reads no other.
pub const VERSION: u32 = 1;
/// Bits of the incompatible feature word that this code knows.
pub const INCOMPATIBLE_KNOWN: u64 = INCOMPATIBLE_INLINE;
/// Incompatible feature: records of objects may hold the bytes of a small object.
pub const INCOMPATIBLE_INLINE: u64 = 1;
/// Bits of the read-only compatible feature word that this code knows.
pub const READ_ONLY_KNOWN: u64 = 0;

/// Feature words: unknown bits in the second mean "read only", in the third "do not open".
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Features {
    /// Harmless to those who do not know them.
    pub compatible: u64,
    /// Harmless to readers who do not know them.
    pub read_only: u64,
    /// Need to be known.
    pub incompatible: u64,
}

/// The decoded superblock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Superblock {
    /// Identity of the volume.
    pub uuid: [u8; 16],
    /// Feature words.
    pub features: Features,
    /// Blocks of the device at format.
    pub device_blocks: u64,
    /// Blocks of the journal ring.
    pub journal_blocks: u64,
}

impl Superblock {
    /// The volume id that every metadata block carries: a digest of the uuid.
    pub fn volume(&self) -> u32 {
        checksum::of(&self.uuid)
    }

    /// The layout that these facts give.
    ///
    /// Errors: as [`Layout::new`].
    pub fn layout(&self) -> Result<Layout> {
        Layout::new(self.device_blocks, self.journal_blocks)
    }

    /// Whether a feature is in use that only readers may ignore.
    pub fn is_read_only(&self) -> bool {
        self.features.read_only & !READ_ONLY_KNOWN != 0
    }

    /// Whether records of objects may hold the bytes of a small object.
    pub fn allows_inline(&self) -> bool {
        self.features.incompatible & INCOMPATIBLE_INLINE != 0
    }

    /// The image of the copy that goes to block `place`.
    ///
    /// Errors: as [`Layout::new`].
    ///
    /// # Panics
    /// If `image` is not one block.
    pub fn encode(&self, place: BlockNo, image: &mut [u8]) -> Result<()> {
        assert_eq!(image.len(), BLOCK_BYTES, "a superblock is one block");
        let layout = self.layout()?;
        image.fill(0);
        image[0..8].copy_from_slice(&MAGIC);
        image[12..16].copy_from_slice(&VERSION.to_le_bytes());
        image[16..32].copy_from_slice(&self.uuid);
        image[96..100].copy_from_slice(&self.volume().to_le_bytes());
        for (at, value) in [
            (32, self.features.compatible),
            (40, self.features.read_only),
            (48, self.features.incompatible),
            (56, self.device_blocks),
            (64, layout.root.0),
            (72, layout.first_group().0),
            (80, GROUP_BLOCKS),
            (88, place.0),
            (104, layout.journal.start.0),
            (112, layout.journal.blocks),
        ] {
            image[at..at + 8].copy_from_slice(&value.to_le_bytes());
        }
        let crc = sum(image);
        image[8..12].copy_from_slice(&crc.to_le_bytes());
        Ok(())
    }

    /// The superblock in `image`, read from block `place`.
    ///
    /// Errors: `NotAStore` without the magic, `Incompatible` for another version or unknown features,
    /// `Corrupt` for anything else that is not as it was written.
    pub fn decode(place: BlockNo, image: &[u8]) -> Result<Self> {
        assert_eq!(image.len(), BLOCK_BYTES, "a superblock is one block");
        if image[0..8] != MAGIC {
            return Err(Error::new(
                ErrorKind::NotAStore,
                format!("block {place} does not start like a store"),
            ));
        }
        let (expected, got) = (get_u32(image, 8), sum(image));
        if expected != got {
            return Err(Error::checksum("superblock", place, expected, got));
        }
        check_version(image)?;
        let mut uuid = [0; 16];
        uuid.copy_from_slice(&image[16..32]);
        let found = Self {
            uuid,
            features: Features {
                compatible: get_u64(image, 32),
                read_only: get_u64(image, 40),
                incompatible: get_u64(image, 48),
            },
            device_blocks: get_u64(image, 56),
            journal_blocks: get_u64(image, 112),
        };
        found.check_places(place, image)?;
        Ok(found)
    }

    /// The places in the image must be those that the sizes lead to.
    fn check_places(&self, place: BlockNo, image: &[u8]) -> Result<()> {
        let layout = self.layout().map_err(|e| Error::corrupt("superblock", place, e))?;
        let same = get_u64(image, 64) == layout.root.0
            && get_u64(image, 72) == layout.first_group().0
            && get_u64(image, 104) == layout.journal.start.0
            && get_u64(image, 88) == place.0
            && get_u32(image, 96) == self.volume();
        match same {
            true => Ok(()),
            false => Err(Error::corrupt("superblock", place, "its places do not fit together")),
        }
    }

    /// The superblock of a device of `device_blocks`, from the images of both copies (`None`: could
    /// not be read). The first sound copy wins, since both say the same for ever.
    ///
    /// Errors: `NotAStore` when no copy looks like a store; `Incompatible`; `Corrupt` when none is sound;
    /// `InvalidInput` when the device became smaller than it was at format.
    pub fn choose(copies: [Option<&[u8]>; 2], device_blocks: u64) -> Result<Self> {
        let mut worst: Option<(u8, Error)> = None;
        for (place, image) in SUPERBLOCKS.into_iter().zip(copies) {
            let (rank, error) = match image.map(|image| Self::decode(place, image)) {
                Some(Ok(found)) => return found.fits(device_blocks),
                Some(Err(error)) => (rank(&error), error),
                None => (UNREADABLE, Error::corrupt("superblock", place, "it could not be read")),
            };
            if worst.as_ref().is_none_or(|(known, _)| rank > *known) {
                worst = Some((rank, error));
            }
        }
        Err(worst.expect("both copies failed").1)
    }

    fn fits(self, device_blocks: u64) -> Result<Self> {
        if device_blocks < self.device_blocks {
            return Err(Error::invalid(format!(
                "the device has {device_blocks} blocks, it had {} when it was formatted",
                self.device_blocks
            )));
        }
        Ok(self)
    }
}

/// How much it says that a copy could not be read: nothing, if the other one could.
const UNREADABLE: u8 = 0;

/// Which of two failures says more: a sound copy of another version, then a damaged store.
fn rank(error: &Error) -> u8 {
    match error.kind() {
        ErrorKind::Incompatible => 3,
        ErrorKind::NotAStore => 1,
        _ => 2,
    }
}

fn check_version(image: &[u8]) -> Result<()> {
    let refuse = |why: String| Err(Error::new(ErrorKind::Incompatible, why));
    let version = get_u32(image, 12);
    if version != VERSION {
        return refuse(format!("the store has format {version}, this is for format {VERSION}"));
    }
    let unknown = get_u64(image, 48) & !INCOMPATIBLE_KNOWN;
    if unknown != 0 {
        return refuse(format!("the store uses unknown features {unknown:#x}"));
    }
    let group_blocks = get_u64(image, 80);
    if group_blocks != GROUP_BLOCKS {
        return refuse(format!("the store has groups of {group_blocks} blocks"));
    }
    Ok(())
}

/// Takes the features out of `image` that stores of the first version did not have, for tests.
#[cfg(feature = "testing")]
pub fn make_older(image: &mut [u8]) {
    image[48..56].fill(0);
    make_sound(image);
}

/// Rewrites the version in `image` to the next one, for tests of refusal.
#[cfg(feature = "testing")]
pub fn make_newer(image: &mut [u8]) {
    image[12..16].copy_from_slice(&(VERSION + 1).to_le_bytes());
    make_sound(image);
}

/// Puts magic and checksum of `image` right, for tests.
#[cfg(feature = "testing")]
pub fn make_sound(image: &mut [u8]) {
    image[0..8].copy_from_slice(&MAGIC);
    let crc = sum(image);
    image[8..12].copy_from_slice(&crc.to_le_bytes());
}

fn sum(image: &[u8]) -> u32 {
    checksum::append(checksum::of(&image[..8]), &image[12..])
}

fn get_u32(image: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(image[at..at + 4].try_into().expect("four bytes"))
}

fn get_u64(image: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(image[at..at + 8].try_into().expect("eight bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Superblock {
        Superblock {
            uuid: *b"0123456789abcdef",
            features: Features { compatible: 5, ..Features::default() },
            device_blocks: 100_000,
            journal_blocks: 1024,
        }
    }

    fn image(place: BlockNo) -> Vec<u8> {
        let mut image = vec![1; BLOCK_BYTES];
        sample().encode(place, &mut image).unwrap();
        image
    }

    fn resealed(place: BlockNo, change: impl Fn(&mut [u8])) -> Vec<u8> {
        let mut image = image(place);
        change(&mut image);
        let crc = sum(&image);
        image[8..12].copy_from_slice(&crc.to_le_bytes());
        image
    }

    fn choose(a: &[u8], b: &[u8]) -> Result<Superblock> {
        Superblock::choose([Some(a), Some(b)], 100_000)
    }

    #[test]
    fn what_was_encoded_is_decoded() {
        for place in SUPERBLOCKS {
            assert_eq!(Superblock::decode(place, &image(place)).unwrap(), sample());
        }
    }

    #[test]
    fn any_changed_byte_is_noticed() {
        for at in 0..BLOCK_BYTES {
            let mut image = image(SUPERBLOCKS[0]);
            image[at] ^= 0x10;
            assert!(Superblock::decode(SUPERBLOCKS[0], &image).is_err(), "byte {at}");
        }
    }

    #[test]
    fn either_copy_suffices() {
        let [a, b] = SUPERBLOCKS.map(image);
        let bad = vec![0; BLOCK_BYTES];
        assert_eq!(choose(&a, &bad).unwrap(), sample());
        assert_eq!(choose(&bad, &b).unwrap(), sample());
        assert_eq!(Superblock::choose([None, Some(&b)], 100_001).unwrap(), sample());
        // A copy that was written to the other's place is not believed.
        assert_eq!(choose(&b, &a).unwrap_err().kind(), ErrorKind::Corrupt);
    }

    #[test]
    fn failures_have_their_own_kinds() {
        let empty = vec![0; BLOCK_BYTES];
        let mut torn = image(SUPERBLOCKS[0]);
        torn[512..].fill(7);
        let kind = |a: &[u8], b: &[u8]| choose(a, b).unwrap_err().kind();
        assert_eq!(kind(&empty, &empty), ErrorKind::NotAStore);
        assert_eq!(kind(&torn, &empty), ErrorKind::Corrupt);
        assert_eq!(kind(&empty, &torn), ErrorKind::Corrupt);
        let sound = image(SUPERBLOCKS[0]);
        let smaller = Superblock::choose([Some(&sound), None], 99_999).unwrap_err();
        assert_eq!(smaller.kind(), ErrorKind::InvalidInput);
        assert!(smaller.to_string().contains("99999"));
    }

    #[test]
    fn newer_stores_are_refused_and_unknown_compatible_features_are_not() {
        let at = SUPERBLOCKS[0];
        let kind = |image: &[u8]| Superblock::decode(at, image).unwrap_err().kind();
        assert_eq!(kind(&resealed(at, |b| b[12] = 2)), ErrorKind::Incompatible);
        assert_eq!(kind(&resealed(at, |b| b[48] = 2)), ErrorKind::Incompatible);
        assert_eq!(kind(&resealed(at, |b| b[80] = 1)), ErrorKind::Incompatible);
        let read_only = Superblock::decode(at, &resealed(at, |b| b[40] = 1)).unwrap();
        assert!(read_only.is_read_only());
        assert!(!Superblock::decode(at, &resealed(at, |b| b[32] = 1)).unwrap().is_read_only());
    }

    #[test]
    fn sound_checksums_over_impossible_facts_are_corruption() {
        let at = SUPERBLOCKS[0];
        for byte in [64, 72, 88, 96, 105, 113, 119] {
            let image = resealed(at, |b| b[byte] ^= 0x80);
            let error = Superblock::decode(at, &image).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Corrupt, "byte {byte}");
        }
    }
}
