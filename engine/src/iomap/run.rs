//! Joins dirty runs and their places into device writes.
//!
//! Guarantees: every block of every run is written exactly once, at its place, or handed to the
//! provider once; blocks that are
//! neighbours on the device travel in one write of at most `WRITEBACK_RUN_BLOCKS`, whatever their
//! place in the object; checksums are of the bytes that are written. Pure.
//!
//! Does not write and does not choose places. Called by `writeback`.

use foliant_device::Segment;

use crate::iomap::contract::DirtyRun;
use crate::iomap::contract::PlacedRun;
use crate::iomap::contract::Placement;
use crate::iomap::contract::Target;
use crate::kit::checksum;
use crate::limits::WRITEBACK_RUN_BLOCKS;
use crate::units::BLOCK_BYTES;
use crate::units::BlockNo;
use crate::units::FileBlocks;

/// One write to the device.
#[derive(Debug)]
pub struct DeviceWrite {
    /// First device block.
    pub at: BlockNo,
    /// Length in blocks.
    pub blocks: u64,
    /// The bytes.
    pub data: Vec<Segment>,
}

/// What to write, and what to tell the provider afterwards.
#[derive(Debug, Default)]
pub struct Plan {
    /// Disjoint device writes.
    pub writes: Vec<DeviceWrite>,
    /// The placements with the checksums of their blocks, in the order of the placements.
    pub placed: Vec<PlacedRun>,
}

impl Plan {
    /// Appends `piece`, which goes to `at`; gives back how many of its blocks were taken.
    fn push(&mut self, at: BlockNo, piece: &Segment, blocks: u64) -> u64 {
        let joins = self.writes.last().is_some_and(|last| {
            last.at.plus(last.blocks) == at && last.blocks < WRITEBACK_RUN_BLOCKS
        });
        if !joins {
            self.writes.push(DeviceWrite { at, blocks: 0, data: Vec::new() });
        }
        let last = self.writes.last_mut().expect("one was just made");
        let taken = blocks.min(WRITEBACK_RUN_BLOCKS - last.blocks);
        last.data.push(piece.slice(0..taken as usize * BLOCK_BYTES));
        last.blocks += taken;
        taken
    }
}

/// Walks the bytes of the runs in order, in pieces of any number of blocks.
struct Source<'a> {
    segments: Vec<(u64, &'a Segment)>,
    current: usize,
    /// Blocks of the current segment that are used up.
    used: u64,
}

impl<'a> Source<'a> {
    fn new(runs: &'a [DirtyRun]) -> Self {
        let mut segments = Vec::new();
        for run in runs {
            let mut at = run.blocks.start;
            for segment in &run.data {
                assert!(segment.len().is_multiple_of(BLOCK_BYTES), "partial block");
                segments.push((at, segment));
                at += blocks_of(segment);
            }
            assert_eq!(at, run.blocks.end, "a run's bytes and blocks differ");
        }
        Self { segments, current: 0, used: 0 }
    }

    /// The bytes from file block `at` on: at least one block, at most `limit`.
    fn peek(&self, at: u64, limit: u64) -> (Segment, u64) {
        let current = self.segments.get(self.current);
        let &(start, segment) = current.expect("places end where the runs end");
        assert_eq!(start + self.used, at, "places do not follow the runs");
        let blocks = limit.min(blocks_of(segment) - self.used);
        let from = self.used as usize * BLOCK_BYTES;
        (segment.slice(from..from + blocks as usize * BLOCK_BYTES), blocks)
    }

    fn advance(&mut self, blocks: u64) {
        self.used += blocks;
        if self.used == blocks_of(self.segments[self.current].1) {
            self.current += 1;
            self.used = 0;
        }
    }
}

fn blocks_of(segment: &Segment) -> u64 {
    (segment.len() / BLOCK_BYTES) as u64
}

/// Block 0 for the provider, which stores it without the device.
fn keep(source: &mut Source<'_>, placement: Placement) -> PlacedRun {
    assert_eq!(placement.blocks, FileBlocks::new(0, 1), "only block 0 is stored inline");
    let (image, _) = source.peek(0, 1);
    source.advance(1);
    PlacedRun { placement, checksums: Vec::new(), image: Some(image) }
}

/// The writes that bring `runs` to `placements`.
///
/// # Panics
/// If the placements do not cover the runs exactly, in order: the provider broke the treaty.
pub fn plan(runs: &[DirtyRun], placements: &[Placement]) -> Plan {
    let mut plan = Plan::default();
    let mut source = Source::new(runs);
    for placement in placements {
        assert!(!placement.blocks.is_empty(), "a place for nothing");
        let at = match placement.target {
            Target::Device(at) => at,
            Target::Inline => {
                plan.placed.push(keep(&mut source, *placement));
                continue;
            }
        };
        let mut checksums = Vec::with_capacity(placement.blocks.len() as usize);
        let mut done = 0;
        while done < placement.blocks.len() {
            let block = placement.blocks.start + done;
            let (piece, blocks) = source.peek(block, placement.blocks.len() - done);
            let taken = plan.push(at.plus(done), &piece, blocks);
            let bytes = &piece[..taken as usize * BLOCK_BYTES];
            checksums.extend(bytes.chunks(BLOCK_BYTES).map(checksum::of));
            source.advance(taken);
            done += taken;
        }
        plan.placed.push(PlacedRun { placement: *placement, checksums, image: None });
    }
    assert_eq!(source.current, source.segments.len(), "blocks without place");
    plan
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use foliant_device::Arena;

    use super::*;
    use crate::iomap::testkit::Random;

    /// A run whose blocks carry their file block number, in segments of random size.
    fn run(arena: &Arena, random: &mut Random, blocks: FileBlocks) -> DirtyRun {
        let mut data = Vec::new();
        let mut at = blocks.start;
        while at < blocks.end {
            let order = random.below(4) as u8;
            let count = (blocks.end - at).min(1 << order);
            let mut buffer = arena.allocate(order).unwrap();
            let bytes = buffer.get_mut().unwrap();
            for index in 0..count as usize {
                bytes[index * BLOCK_BYTES..][..8]
                    .copy_from_slice(&(at + index as u64).to_le_bytes());
            }
            data.push(buffer.segment(0..count as usize * BLOCK_BYTES));
            at += count;
        }
        DirtyRun { blocks, data }
    }

    /// Places for the runs: contiguous or jumping, split at random.
    fn places(random: &mut Random, runs: &[DirtyRun]) -> Vec<Placement> {
        let mut places = Vec::new();
        let mut at = 1000;
        for run in runs {
            let mut from = run.blocks.start;
            while from < run.blocks.end {
                let count = (1 + random.below(90)).min(run.blocks.end - from);
                places.push(Placement {
                    blocks: FileBlocks::new(from, from + count),
                    target: Target::Device(BlockNo(at)),
                });
                from += count;
                at += count + random.below(2) * 7;
            }
        }
        places
    }

    #[test]
    fn every_block_goes_to_its_place_once_with_its_checksum() {
        let arena = Arena::new(16 << 20).unwrap();
        for seed in 0..50 {
            let mut random = Random::new(seed);
            let mut runs = Vec::new();
            let mut at = 0;
            for _ in 0..1 + random.below(5) {
                at += random.below(9);
                let end = at + 1 + random.below(150);
                runs.push(run(&arena, &mut random, FileBlocks::new(at, end)));
                at = end + 1;
            }
            let places = places(&mut random, &runs);
            let plan = plan(&runs, &places);
            let mut device = BTreeMap::new();
            for write in &plan.writes {
                assert!(write.blocks <= WRITEBACK_RUN_BLOCKS);
                let bytes: Vec<u8> = write.data.iter().flat_map(|s| s.to_vec()).collect();
                assert_eq!(bytes.len() as u64, write.blocks * 4096);
                for (index, block) in bytes.chunks(BLOCK_BYTES).enumerate() {
                    let old = device.insert(write.at.0 + index as u64, block.to_vec());
                    assert!(old.is_none(), "a device block is written twice");
                }
            }
            for placed in &plan.placed {
                let Target::Device(first) = placed.placement.target else {
                    panic!("not asked for")
                };
                for (index, sum) in placed.checksums.iter().enumerate() {
                    let block = &device[&(first.0 + index as u64)];
                    let name = u64::from_le_bytes(block[..8].try_into().unwrap());
                    assert_eq!(name, placed.placement.blocks.start + index as u64);
                    assert_eq!(checksum::of(block), *sum);
                }
            }
            let total: u64 = runs.iter().map(|r| r.blocks.len()).sum();
            assert_eq!(device.len() as u64, total);
        }
    }

    #[test]
    fn scattered_blocks_with_neighbouring_places_travel_together() {
        let arena = Arena::new(1 << 20).unwrap();
        let mut random = Random::new(1);
        let ranges = (0..40).map(|i| FileBlocks::new(10 * i, 10 * i + 1));
        let runs: Vec<_> = ranges.map(|r| run(&arena, &mut random, r)).collect();
        let place = |(index, run): (usize, &DirtyRun)| Placement {
            blocks: run.blocks,
            target: Target::Device(BlockNo(500 + index as u64)),
        };
        let places: Vec<_> = runs.iter().enumerate().map(place).collect();
        let plan = plan(&runs, &places);
        assert_eq!(plan.writes.len(), 1);
        assert_eq!(plan.writes[0].blocks, 40);
    }

    #[test]
    fn what_the_provider_keeps_is_handed_over_and_not_written() {
        let arena = Arena::new(1 << 20).unwrap();
        let mut random = Random::new(1);
        let runs = [run(&arena, &mut random, FileBlocks::new(0, 3))];
        let places = [
            Placement { blocks: FileBlocks::new(0, 1), target: Target::Inline },
            Placement { blocks: FileBlocks::new(1, 3), target: Target::Device(BlockNo(70)) },
        ];
        let plan = plan(&runs, &places);
        let writes: Vec<_> = plan.writes.iter().map(|w| (w.at.0, w.blocks)).collect();
        assert_eq!(writes, [(70, 2)]);
        let image = plan.placed[0].image.as_ref().unwrap();
        assert_eq!(image[..], runs[0].data[0][..BLOCK_BYTES]);
        assert!(plan.placed[0].checksums.is_empty());
        assert_eq!((plan.placed[1].checksums.len(), plan.placed[1].image.is_none()), (2, true));
    }

    #[test]
    #[should_panic(expected = "blocks without place")]
    fn a_place_too_few_is_noticed() {
        let arena = Arena::new(1 << 20).unwrap();
        let mut random = Random::new(1);
        let runs = [run(&arena, &mut random, FileBlocks::new(0, 4))];
        let short = Placement { blocks: FileBlocks::new(0, 3), target: Target::Device(BlockNo(9)) };
        plan(&runs, &[short]);
    }
}
