//! What is on the medium, what is only in its cache, and what a power cut leaves of both.
//!
//! The durable image is a sparse map of blocks. On top lie, per block, the versions that are
//! visible and not stable yet, oldest first. Guarantees: a read sees the newest version; making a
//! write stable drops the older versions of its blocks, so none of them can come back; at a cut
//! every write that is not stable is lost, survives, or is torn between sectors of 512 bytes,
//! independently of the others. Pages are shared, so a disk costs what was written to it.
//!
//! Does not know time, requests or faults. Called by `platter`.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use crate::geometry::BLOCK_SIZE;
use crate::sim::rng::Rng;

/// What a medium writes wholly or not at all.
const SECTOR_BYTES: usize = 512;

const SECTORS_PER_BLOCK: u64 = (BLOCK_SIZE / SECTOR_BYTES) as u64;

/// The bytes of a block; `None` reads as zero.
pub(super) type Page = Option<Arc<[u8; BLOCK_SIZE]>>;

/// Names a change; later ones have larger numbers.
pub(super) type WriteId = u64;

/// What a request does to a run of blocks.
#[derive(Debug, Clone)]
pub(super) enum Change {
    /// Each block gets its page.
    Pages(Vec<Page>),
    /// This many blocks read as zero.
    Zero(u64),
}

impl Change {
    /// The number of blocks.
    pub(super) fn len(&self) -> u64 {
        match self {
            Self::Pages(pages) => pages.len() as u64,
            Self::Zero(count) => *count,
        }
    }

    /// Changes one bit of all that it writes, counted round.
    pub(super) fn flip(&mut self, bit: u64) {
        if self.len() == 0 {
            return;
        }
        if let Self::Zero(count) = *self {
            *self = Self::Pages(vec![None; count as usize]);
        }
        let at = bit / 8 % (self.len() * BLOCK_SIZE as u64);
        if let Self::Pages(pages) = self {
            let page = &mut pages[at as usize / BLOCK_SIZE];
            let mut bytes = page.as_ref().map_or([0; BLOCK_SIZE], |page| **page);
            bytes[at as usize % BLOCK_SIZE] ^= 1 << (bit % 8);
            *page = Some(Arc::new(bytes));
        }
    }
}

/// A page from bytes.
///
/// # Panics
/// If it is not one block.
pub(super) fn page(bytes: &[u8]) -> Page {
    let page: Arc<[u8; BLOCK_SIZE]> = Arc::new(bytes.try_into().expect("a page is one block"));
    Some(page)
}

#[derive(Debug, Clone)]
struct Version {
    write: WriteId,
    /// Where the block lies in its write, for a write that is torn in the middle.
    index: u64,
    page: Page,
}

/// The two contents of one disk.
#[derive(Debug, Clone, Default)]
pub(super) struct Image {
    durable: BTreeMap<u64, Arc<[u8; BLOCK_SIZE]>>,
    cached: BTreeMap<u64, Vec<Version>>,
    /// The blocks of every write that has versions in `cached`.
    extents: BTreeMap<WriteId, Range<u64>>,
}

impl Image {
    /// What a read finds.
    pub(super) fn read(&self, block: u64) -> Page {
        match self.cached.get(&block).and_then(|versions| versions.last()) {
            Some(newest) => newest.page.clone(),
            None => self.read_durable(block),
        }
    }

    /// What would be found if the cache were empty.
    pub(super) fn read_durable(&self, block: u64) -> Page {
        self.durable.get(&block).cloned()
    }

    /// Makes a change visible, and not stable.
    pub(super) fn apply(&mut self, write: WriteId, block: u64, change: &Change) {
        let end = block + change.len();
        self.extents.insert(write, block..end);
        match change {
            Change::Pages(pages) => {
                for (index, page) in (0..).zip(pages) {
                    let version = Version { write, index, page: page.clone() };
                    self.cached.entry(block + index).or_default().push(version);
                }
            }
            Change::Zero(_) => {
                // What nobody ever wrote is zero already.
                let mut blocks: Vec<u64> = self.durable.range(block..end).map(|b| *b.0).collect();
                blocks.extend(self.cached.range(block..end).map(|b| *b.0));
                blocks.sort_unstable();
                blocks.dedup();
                for at in blocks {
                    let version = Version { write, index: at - block, page: None };
                    self.cached.entry(at).or_default().push(version);
                }
            }
        }
    }

    /// Makes a write stable.
    pub(super) fn stabilize(&mut self, write: WriteId) {
        let Some(extent) = self.extents.remove(&write) else { return };
        let Self { durable, cached, .. } = self;
        let mut emptied = Vec::new();
        for (&block, versions) in cached.range_mut(extent) {
            // A newer write that became stable first has dropped this version.
            let Some(at) = versions.iter().position(|v| v.write == write) else { continue };
            let version = versions.drain(..=at).next_back().expect("just found");
            set(durable, block, version.page);
            if versions.is_empty() {
                emptied.push(block);
            }
        }
        for block in emptied {
            cached.remove(&block);
        }
    }

    /// Takes the power away: what was not stable meets its fate.
    pub(super) fn cut(&mut self, rng: &mut Rng) {
        let mood = Mood::draw(rng);
        let extents = std::mem::take(&mut self.extents);
        let fates: BTreeMap<WriteId, Fate> =
            extents.iter().map(|(&write, extent)| (write, mood.fate(extent, rng))).collect();
        for (block, versions) in std::mem::take(&mut self.cached) {
            for version in versions {
                // Every version's write has an extent, until it is stable and has no versions.
                let below = self.read_durable(block);
                let page = fates[&version.write].outcome(version.index, &version.page, below, rng);
                set(&mut self.durable, block, page);
            }
        }
    }

    /// What a cut leaves of which exactly these writes survive whole.
    pub(super) fn survived(&self, survivors: impl Fn(WriteId) -> bool) -> Self {
        let mut durable = self.durable.clone();
        for (&block, versions) in &self.cached {
            for version in versions.iter().filter(|version| survivors(version.write)) {
                set(&mut durable, block, version.page.clone());
            }
        }
        Self { durable, ..Self::default() }
    }

    /// The writes that a cut could undo, oldest first.
    pub(super) fn undoable(&self) -> Vec<WriteId> {
        self.extents.keys().copied().collect()
    }

    /// Tears a change as a cut would, against what is visible now.
    pub(super) fn torn(&self, block: u64, change: &Change, rng: &mut Rng) -> Change {
        let fate = Mood::draw(rng).fate(&(block..block + change.len()), rng);
        let Change::Pages(pages) = change else { return change.clone() };
        let mut tear =
            |(index, page): (u64, &Page)| fate.outcome(index, page, self.read(block + index), rng);
        Change::Pages((0..).zip(pages).map(&mut tear).collect())
    }

    /// Replaces what is durable, and drops what is cached of that block.
    pub(super) fn poke(&mut self, block: u64, page: Page) {
        self.cached.remove(&block);
        set(&mut self.durable, block, page);
    }

    /// Flips a bit in every copy of a block.
    pub(super) fn flip(&mut self, block: u64, byte: usize, bit: u8) {
        let flipped = |page: &Page| {
            let mut bytes = page.as_ref().map_or([0; BLOCK_SIZE], |page| **page);
            bytes[byte] ^= 1 << bit;
            Some(Arc::new(bytes))
        };
        let durable = flipped(&self.read_durable(block));
        set(&mut self.durable, block, durable);
        for version in self.cached.get_mut(&block).into_iter().flatten() {
            version.page = flipped(&version.page);
        }
    }

    /// Writes that a cut could undo.
    pub(super) fn unstable_writes(&self) -> usize {
        self.extents.len()
    }
}

fn set(durable: &mut BTreeMap<u64, Arc<[u8; BLOCK_SIZE]>>, block: u64, page: Page) {
    match page {
        Some(page) => drop(durable.insert(block, page)),
        None => drop(durable.remove(&block)),
    }
}

/// How kind a cut is. Extremes are drawn on purpose: many faults in an engine show only when
/// everything is lost, or everything but one write survives.
struct Mood {
    survive_permille: u64,
    torn_permille: u64,
}

impl Mood {
    fn draw(rng: &mut Rng) -> Self {
        let survive_permille = [0, 100, 500, 500, 900, 1000][rng.below(6) as usize];
        let torn_permille = [0, 300, 800][rng.below(3) as usize];
        Self { survive_permille, torn_permille }
    }

    fn fate(&self, extent: &Range<u64>, rng: &mut Rng) -> Fate {
        let sectors = (extent.end - extent.start) * SECTORS_PER_BLOCK;
        if !rng.chance(self.survive_permille) {
            return Fate::Lost;
        }
        if sectors == 0 || !rng.chance(self.torn_permille) {
            return Fate::Whole;
        }
        let edge = rng.below(sectors);
        match rng.below(3) {
            0 => Fate::Only(0..edge),
            1 => Fate::Only(edge..sectors),
            _ => Fate::AnySector,
        }
    }
}

/// What becomes of one write.
enum Fate {
    Lost,
    Whole,
    /// These sectors of it arrive.
    Only(Range<u64>),
    /// Each sector arrives or not.
    AnySector,
}

impl Fate {
    /// What is found afterwards in block `index` of the write, which held `below`.
    fn outcome(&self, index: u64, page: &Page, below: Page, rng: &mut Rng) -> Page {
        let first = index * SECTORS_PER_BLOCK;
        match self {
            Self::Lost => below,
            Self::Whole => page.clone(),
            Self::Only(sectors) => merge(page, below, |s| sectors.contains(&(first + s))),
            Self::AnySector => {
                let arrived = rng.next_u64();
                merge(page, below, |s| arrived >> s & 1 == 1)
            }
        }
    }
}

fn merge(page: &Page, below: Page, arrived: impl Fn(u64) -> bool) -> Page {
    let mut bytes = below.map_or([0; BLOCK_SIZE], |below| *below);
    for sector in (0..SECTORS_PER_BLOCK).filter(|&s| arrived(s)) {
        let range = sector as usize * SECTOR_BYTES..(sector as usize + 1) * SECTOR_BYTES;
        match page {
            Some(page) => bytes[range.clone()].copy_from_slice(&page[range]),
            None => bytes[range].fill(0),
        }
    }
    Some(Arc::new(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn full_of(byte: u8) -> Page {
        page(&[byte; BLOCK_SIZE])
    }

    fn first_byte(page: Page) -> u8 {
        page.map_or(0, |page| page[0])
    }

    fn both(image: &Image, block: u64) -> (u8, u8) {
        (first_byte(image.read(block)), first_byte(image.read_durable(block)))
    }

    #[test]
    fn older_bytes_cannot_come_back_over_stable_ones() {
        let mut image = Image::default();
        image.apply(1, 5, &Change::Pages(vec![full_of(1), full_of(1)]));
        image.apply(2, 5, &Change::Pages(vec![full_of(2)]));
        assert_eq!(both(&image, 5), (2, 0));
        image.stabilize(2);
        assert_eq!((both(&image, 5), both(&image, 6)), ((2, 2), (1, 0)));
        image.stabilize(1);
        assert_eq!((both(&image, 5), both(&image, 6)), ((2, 2), (1, 1)));
        assert_eq!(image.unstable_writes(), 0);
    }

    #[test]
    fn each_subset_of_what_a_cut_could_undo_can_be_asked_for() {
        let mut image = Image::default();
        image.apply(1, 5, &Change::Pages(vec![full_of(1), full_of(1)]));
        image.stabilize(1);
        image.apply(2, 5, &Change::Pages(vec![full_of(2)]));
        image.apply(3, 5, &Change::Pages(vec![full_of(3), full_of(3)]));
        assert_eq!(image.undoable(), [2, 3]);
        let found = |survivors: &[WriteId]| {
            let left = image.survived(|write| survivors.contains(&write));
            (both(&left, 5), both(&left, 6))
        };
        assert_eq!(found(&[]), ((1, 1), (1, 1)));
        assert_eq!(found(&[2]), ((2, 2), (1, 1)));
        assert_eq!(found(&[3]), ((3, 3), (3, 3)));
        assert_eq!(found(&[2, 3]), ((3, 3), (3, 3)));
    }

    #[test]
    fn zeroing_makes_pages_only_where_there_are_bytes() {
        let mut image = Image::default();
        image.apply(1, 7, &Change::Pages(vec![full_of(1)]));
        image.stabilize(1);
        image.apply(2, 8, &Change::Pages(vec![full_of(2)]));
        image.apply(3, 0, &Change::Zero(1 << 60));
        assert_eq!(image.cached.len(), 2);
        assert_eq!((both(&image, 7), both(&image, 8)), ((0, 1), (0, 0)));
        image.stabilize(3);
        assert!(image.durable.is_empty() && image.cached.is_empty());
    }

    #[test]
    fn a_cut_empties_the_cache_and_keeps_what_is_stable() {
        for seed in 0..200 {
            let mut image = Image::default();
            image.apply(1, 0, &Change::Pages(vec![full_of(1); 4]));
            image.stabilize(1);
            image.apply(2, 1, &Change::Pages(vec![full_of(2); 2]));
            image.cut(&mut Rng::new(seed));
            assert!(image.cached.is_empty() && image.extents.is_empty());
            assert_eq!((both(&image, 0), both(&image, 3)), ((1, 1), (1, 1)));
            let found = image.read(1).expect("written");
            assert!(found.chunks(SECTOR_BYTES).all(|s| s == [1; 512] || s == [2; 512]));
        }
    }

    #[test]
    fn a_flipped_bit_is_in_every_copy() {
        let mut image = Image::default();
        image.apply(1, 0, &Change::Pages(vec![full_of(4)]));
        image.flip(0, 0, 0);
        assert_eq!(both(&image, 0), (5, 1));
        image.flip(0, 0, 0);
        assert_eq!(both(&image, 0), (4, 0));
        image.poke(0, full_of(9));
        assert_eq!(both(&image, 0), (9, 9));
    }
}
