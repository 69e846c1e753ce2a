//! Tests that promises of space hold when extents, names and bitmaps really compete for it.
//!
//! Uses space, extents, names and records together over the model of the metadata store.

use std::sync::Arc;

use crate::alloc::release::LogState;
use crate::alloc::space::NODES_PER_CHANGE;
use crate::alloc::space::Space;
use crate::alloc::ticket::Ticket;
use crate::error::Result;
use crate::extent::Extent;
use crate::extent::lookup::list;
use crate::extent::replace::replace;
use crate::format::block::BlockKind;
use crate::format::layout::Layout;
use crate::format::object_record::ObjectRecord;
use crate::format::root::TreeRoot;
use crate::meta::view_model::MapView;
use crate::meta::view_model::Random;
use crate::meta::view_model::now;
use crate::namespace::tree as names;
use crate::object::records;
use crate::units::BlockNo;
use crate::units::DeviceSpan;
use crate::units::FileBlocks;
use crate::units::Lsn;
use crate::units::ObjectId;

/// A log that is always as far as it can be.
struct Idle;

impl LogState for Idle {
    fn is_logged(&self, _: BlockNo) -> bool {
        true
    }

    fn durable(&self) -> Lsn {
        Lsn(u64::MAX)
    }

    fn applied(&self) -> Lsn {
        Lsn(u64::MAX)
    }
}

struct Volume {
    space: Space,
    view: MapView,
    random: Random,
}

impl Volume {
    fn new(blocks: u64, seed: u64) -> Self {
        let layout = Layout::new(32 + 1024 + blocks, 1024).unwrap();
        let view = MapView::new(layout.initial_root());
        let space = Space::new(layout, Arc::new(Idle));
        space.load(&view.root).unwrap();
        Self { space, view, random: Random(seed) }
    }

    fn commit(&mut self, mut ticket: Ticket, gone: Vec<DeviceSpan>) {
        gone.into_iter().for_each(|span| ticket.free(span));
        now(ticket.record(&mut self.view)).unwrap();
        ticket.settle(Lsn(1));
    }

    fn replace(&mut self, ticket: &mut Ticket, at: u64, new: &[Extent]) -> Vec<DeviceSpan> {
        let range = FileBlocks::new(at, at + 1);
        now(replace(&mut self.view, ticket, ObjectId(1), range, new)).unwrap()
    }

    /// Writes single blocks all over an object, as writeback of random writes would.
    fn write(&mut self, batch: u64, file_blocks: u64) -> Result<()> {
        self.space.reserve(batch)?;
        let mut ticket = Ticket::new(&self.space);
        let spans = now(ticket.claim(&self.view, batch)).expect("it was promised");
        let mut places: Vec<BlockNo> = spans.iter().flat_map(|span| span.iter()).collect();
        let mut gone = Vec::new();
        while let Some(start) = places.pop() {
            // Every second block only, so that no two can be joined.
            let at = self.random.below(file_blocks) * 2;
            let extent = Extent { at, start, blocks: 1, unwritten: false };
            for span in self.replace(&mut ticket, at, &[extent]) {
                // Overwritten in the same batch: not to be freed, but never used.
                match spans.iter().any(|own| own.contains(span.start)) {
                    true => ticket.unclaim(span),
                    false => gone.push(span),
                }
            }
        }
        self.commit(ticket, gone);
        self.space.unreserve(batch);
        Ok(())
    }

    fn punch(&mut self, at: u64) -> u64 {
        let mut ticket = Ticket::new(&self.space);
        let gone = self.replace(&mut ticket, at, &[]);
        let blocks = gone.iter().map(|span| span.blocks).sum();
        self.commit(ticket, gone);
        self.space.release();
        blocks
    }

    fn nodes(&self) -> u64 {
        self.view.count(BlockKind::Node) as u64
    }
}

#[test]
fn promised_blocks_can_be_written_as_scattered_as_they_like() {
    for seed in 0..4 {
        let mut volume = Volume::new(3_000, seed);
        let mut written = 0;
        while volume.write(1 + (seed * 40), 100_000).is_ok() {
            written += 1 + seed * 40;
        }
        assert!(written > 2_500, "only {written} blocks could be written");
        let stats = volume.space.stats();
        assert!(stats.available < 1 + seed * 40);
        assert_eq!(stats.usable + stats.held, volume.view.root.free_blocks);
    }
}

#[test]
fn the_largest_promise_covers_the_nodes_of_the_worst_overwrites() {
    let mut volume = Volume::new(12_000, 5);
    let half = volume.space.stats().available / 2;
    volume.space.reserve(half).unwrap();
    let mut ticket = Ticket::new(&volume.space);
    let start = now(ticket.claim(&volume.view, half)).unwrap()[0].start;
    let long = Extent { at: 0, start, blocks: half, unwritten: false };
    let range = FileBlocks::new(0, half);
    now(replace(&mut volume.view, &mut ticket, ObjectId(1), range, &[long])).unwrap();
    volume.commit(ticket, Vec::new());
    volume.space.unreserve(half);
    // Each block splits an extent into three; nothing but the promise is left for them.
    let all = volume.space.stats().available;
    assert!(all > 4_000);
    volume.space.reserve(all).unwrap();
    volume.space.reserve(4).unwrap_err();
    volume.space.unreserve(all);
    let nodes = volume.nodes();
    volume.write(all, half / 2).unwrap();
    assert!(volume.nodes() - nodes > all / 200, "the overwrites needed no nodes");
    let stats = volume.space.stats();
    assert!(stats.usable >= stats.total / 128, "overwrites dug into the metadata reserve");
}

#[test]
fn punches_into_long_extents_work_on_a_full_volume() {
    let mut volume = Volume::new(5_000, 1);
    let blocks = volume.space.stats().available;
    volume.space.reserve(blocks).unwrap();
    let mut ticket = Ticket::new(&volume.space);
    let spans = now(ticket.claim(&volume.view, blocks)).unwrap();
    let mut at = 0;
    let extents: Vec<Extent> = spans
        .iter()
        .map(|span| {
            at += span.blocks;
            Extent {
                at: at - span.blocks,
                start: span.start,
                blocks: span.blocks,
                unwritten: false,
            }
        })
        .collect();
    let all = FileBlocks::new(0, blocks);
    now(replace(&mut volume.view, &mut ticket, ObjectId(1), all, &extents)).unwrap();
    volume.commit(ticket, Vec::new());
    volume.space.unreserve(blocks);
    // Something fills the rest, so that only the metadata reserve is left.
    let rest = volume.space.stats().available;
    volume.space.reserve(rest).unwrap();
    let mut hog = Ticket::new(&volume.space);
    now(hog.claim(&volume.view, rest)).unwrap();
    for at in (0..blocks).step_by(2) {
        assert_eq!(volume.punch(at), 1);
    }
    assert!(volume.nodes() > 20, "the punches split nothing");
    for at in (1..blocks).step_by(2) {
        assert_eq!(volume.punch(at), 1);
    }
    assert_eq!(volume.view.root.extents, TreeRoot::default());
    drop(hog);
    volume.space.unreserve(rest);
    let stats = volume.space.stats();
    assert_eq!((stats.usable, stats.held), (stats.total, 0));
}

#[test]
fn objects_come_until_there_is_no_space_and_go_without_a_trace() {
    let mut volume = Volume::new(400, 1);
    let record = ObjectRecord { attributes: vec![7; 300], ..ObjectRecord::default() };
    let mut made = Vec::new();
    while volume.space.reserve(NODES_PER_CHANGE).is_ok() {
        let mut ticket = Ticket::new(&volume.space);
        let id = now(records::create(&mut volume.view, &mut ticket, &record)).unwrap();
        let name = format!("{:0>200}", id.0 * 7919 % 10_007);
        now(names::insert(&mut volume.view, &mut ticket, name.as_bytes(), id)).unwrap();
        volume.commit(ticket, Vec::new());
        volume.space.unreserve(NODES_PER_CHANGE);
        volume.space.release();
        made.push((name, id));
    }
    assert!(made.len() > 1_000, "only {} objects fitted", made.len());
    for (name, id) in made {
        let mut ticket = Ticket::new(&volume.space);
        let named = now(names::remove(&mut volume.view, &mut ticket, name.as_bytes())).unwrap();
        assert_eq!(named, Some(id));
        assert!(now(records::remove(&mut volume.view, &mut ticket, id)).unwrap());
        volume.commit(ticket, Vec::new());
        volume.space.release();
    }
    assert_eq!(volume.nodes(), 0);
    let stats = volume.space.stats();
    assert_eq!((stats.usable, stats.held), (stats.total, 0));
    assert!(now(list(&volume.view, ObjectId(1), FileBlocks::new(0, 9), 9)).unwrap().is_empty());
}
