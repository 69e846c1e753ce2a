//! Tests of extents: one list of blocks per object as the model.

use std::collections::BTreeSet;

use crate::error::ErrorKind;
use crate::extent::Extent;
use crate::extent::lookup::Lookup;
use crate::extent::lookup::NO_END;
use crate::extent::lookup::list;
use crate::extent::lookup::lookup;
use crate::extent::lookup::next_extent_at_or_after;
use crate::extent::remap;
use crate::extent::replace::replace;
use crate::extent::unwritten_in;
use crate::format::extent_record;
use crate::format::extent_record::FILE_BLOCKS_MAX;
use crate::format::root::Root;
use crate::format::root::TreeRoot;
use crate::meta::tree;
use crate::meta::view_model::MapView;
use crate::meta::view_model::Random;
use crate::meta::view_model::Stock;
use crate::meta::view_model::now;
use crate::units::BlockNo;
use crate::units::FileBlocks;
use crate::units::ObjectId;

const BLOCKS: u64 = 300;

type Model = Vec<Option<(u64, bool)>>;

struct Objects {
    view: MapView,
    stock: Stock,
    models: Vec<Model>,
    random: Random,
    next_device_block: u64,
}

impl Objects {
    fn new(seed: u64, objects: usize) -> Self {
        Self {
            view: MapView::new(Root::default()),
            stock: Stock::new(),
            models: vec![vec![None; BLOCKS as usize]; objects],
            random: Random(seed),
            next_device_block: 1 << 20,
        }
    }

    /// Extents for a part of `range`: fresh blocks, or those that lie there, in the other state.
    fn invent(&mut self, model: &Model, range: FileBlocks) -> Vec<Extent> {
        let mut new: Vec<Extent> = Vec::new();
        let mut at = range.start;
        while at < range.end {
            let blocks = (1 + self.random.below(20)).min(range.end - at);
            let unwritten = self.random.below(3) == 0;
            match (self.random.below(5), model[at as usize]) {
                (0, _) => {}
                (1, Some((start, old))) => {
                    // A conversion: as long as the device blocks follow each other.
                    let same = (0..blocks)
                        .take_while(|i| model[(at + i) as usize] == Some((start + i, old)))
                        .count() as u64;
                    let start = BlockNo(start);
                    new.push(Extent { at, start, blocks: same, unwritten: !old });
                    at += same;
                    continue;
                }
                _ => {
                    // Often right behind the last one, so that extents can be joined.
                    self.next_device_block += self.random.below(2) * 3;
                    let start = BlockNo(self.next_device_block);
                    self.next_device_block += blocks;
                    new.push(Extent { at, start, blocks, unwritten });
                }
            }
            at += blocks;
        }
        new
    }

    fn change(&mut self) {
        let which = self.random.below(self.models.len() as u64) as usize;
        let model = self.models[which].clone();
        let start = self.random.below(BLOCKS + 1);
        let end = (start + self.random.below(60)).min(BLOCKS);
        let range = FileBlocks::new(start, end);
        let new = match self.random.below(4) {
            0 => Vec::new(),
            _ => self.invent(&model, range),
        };
        let object = ObjectId(which as u64);
        let gone = now(replace(&mut self.view, &mut self.stock, object, range, &new)).unwrap();
        let model = &mut self.models[which];
        let mut expected: BTreeSet<u64> =
            model[start as usize..end as usize].iter().flatten().map(|b| b.0).collect();
        model[start as usize..end as usize].fill(None);
        for extent in &new {
            for i in 0..extent.blocks {
                let block = extent.start.0 + i;
                model[(extent.at + i) as usize] = Some((block, extent.unwritten));
                expected.remove(&block);
            }
        }
        let returned: Vec<u64> = gone.iter().flat_map(|s| s.iter().map(|b| b.0)).collect();
        assert_eq!(returned.len(), expected.len());
        assert_eq!(returned.into_iter().collect::<BTreeSet<_>>(), expected);
    }

    fn check(&mut self) {
        for (which, model) in self.models.iter().enumerate() {
            let object = ObjectId(which as u64);
            let all = FileBlocks::new(0, FILE_BLOCKS_MAX);
            let extents = now(list(&self.view, object, all, usize::MAX)).unwrap();
            assert_eq!(*model, spread(&extents));
            let joinable = |pair: &[Extent]| {
                pair[0].end() == pair[1].at
                    && pair[0].start.plus(pair[0].blocks) == pair[1].start
                    && pair[0].unwritten == pair[1].unwritten
            };
            assert!(!extents.windows(2).any(joinable), "extents were not joined");
            let start = self.random.below(BLOCKS);
            let end = start + self.random.below(BLOCKS - start + 1);
            let part = now(list(&self.view, object, FileBlocks::new(start, end), 1000)).unwrap();
            let (start, end) = (start as usize, end as usize);
            assert_eq!(spread(&part)[start..end], model[start..end]);
            assert!(part.iter().all(|e| e.at >= start as u64 && e.end() <= end as u64));
            check_lookup(&self.view, object, model, start);
        }
    }
}

fn check_lookup(view: &MapView, object: ObjectId, model: &Model, at: usize) {
    let next = (at..model.len()).find(|&i| model[i].is_some()).map(|i| i as u64);
    let found = now(next_extent_at_or_after(view, object, at as u64)).unwrap();
    assert_eq!(found.map(|extent| extent.at), next);
    match (now(lookup(view, object, at as u64)).unwrap(), model[at]) {
        (Lookup::Extent(extent), Some((block, unwritten))) => {
            assert_eq!((extent.at, extent.start.0), (at as u64, block));
            assert_eq!(extent.unwritten, unwritten);
        }
        (Lookup::Hole { until }, None) => assert_eq!(until, next.unwrap_or(NO_END)),
        (found, expected) => panic!("{found:?} instead of {expected:?}"),
    }
}

fn spread(extents: &[Extent]) -> Model {
    let mut model = vec![None; BLOCKS as usize];
    for extent in extents {
        for i in 0..extent.blocks {
            model[(extent.at + i) as usize] = Some((extent.start.0 + i, extent.unwritten));
        }
    }
    model
}

#[test]
fn behaves_like_a_list_of_blocks_per_object() {
    for seed in 0..4 {
        let mut objects = Objects::new(seed, 5);
        for round in 0..1_500 {
            objects.change();
            if round % 3 == 0 {
                objects.check();
            }
        }
        assert!(objects.view.root.extents.height > 1, "the tree never grew");
        for which in 0..objects.models.len() as u64 {
            let all = FileBlocks::new(0, FILE_BLOCKS_MAX);
            let (view, stock) = (&mut objects.view, &mut objects.stock);
            now(replace(view, stock, ObjectId(which), all, &[])).unwrap();
        }
        assert_eq!(objects.view.root.extents, TreeRoot::default());
        assert!(objects.stock.out.is_empty());
    }
}

fn simple(at: u64, start: u64, blocks: u64) -> Extent {
    Extent { at, start: BlockNo(start), blocks, unwritten: false }
}

#[test]
fn writing_in_order_makes_one_extent() {
    let mut objects = Objects::new(1, 1);
    for i in 0..100 {
        let new = [simple(i, 5_000 + i, 1)];
        let range = FileBlocks::new(i, i + 1);
        now(replace(&mut objects.view, &mut objects.stock, ObjectId(7), range, &new)).unwrap();
    }
    let all = now(list(&objects.view, ObjectId(7), FileBlocks::new(0, 1000), 9)).unwrap();
    assert_eq!(all, [simple(0, 5_000, 100)]);
}

#[test]
fn the_limit_of_a_list_is_kept() {
    let mut objects = Objects::new(1, 1);
    let new: Vec<Extent> = (0..50).map(|i| simple(i * 2, 9_000 + i * 5, 1)).collect();
    let range = FileBlocks::new(0, 100);
    now(replace(&mut objects.view, &mut objects.stock, ObjectId(7), range, &new)).unwrap();
    for limit in [0, 1, 2, 49, 50, 51] {
        let found = now(list(&objects.view, ObjectId(7), range, limit)).unwrap();
        assert_eq!(found, new[..limit.min(50)]);
    }
    assert_eq!(now(list(&objects.view, ObjectId(6), range, 9)).unwrap(), []);
    assert_eq!(now(list(&objects.view, ObjectId(8), range, 9)).unwrap(), []);
    assert_eq!(
        now(lookup(&objects.view, ObjectId(7), u64::MAX)).unwrap(),
        Lookup::Hole { until: NO_END }
    );
}

#[test]
fn overlapping_and_damaged_entries_are_corruption() {
    let mut objects = Objects::new(1, 1);
    let object = ObjectId(1);
    let mut root = TreeRoot::default();
    for extent in [simple(0, 5_000, 10), simple(5, 6_000, 10)] {
        let key = extent_record::key(object, extent.at);
        let value = extent_record::value(&extent);
        now(tree::insert(&mut objects.view, &mut objects.stock, &mut root, &key, &value)).unwrap();
    }
    objects.view.root.extents = root;
    let range = FileBlocks::new(0, 20);
    let error = now(list(&objects.view, object, range, 9)).unwrap_err();
    assert!(error.is_corruption());
    let error =
        now(replace(&mut objects.view, &mut objects.stock, object, range, &[])).unwrap_err();
    assert!(error.is_corruption());
    let key = extent_record::key(object, 5);
    now(tree::insert(&mut objects.view, &mut objects.stock, &mut root, &key, &[0; 16])).unwrap();
    assert!(now(lookup(&objects.view, object, 6)).unwrap_err().is_corruption());
}

#[test]
fn failed_reads_are_reported() {
    let mut objects = Objects::new(3, 2);
    (0..200).for_each(|_| objects.change());
    let range = FileBlocks::new(10, 200);
    for left in 0..2 {
        objects.view.reads_left = left.into();
        let error = now(list(&objects.view, ObjectId(0), range, 9)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Device);
        objects.view.reads_left = left.into();
        let result = replace(&mut objects.view, &mut objects.stock, ObjectId(0), range, &[]);
        assert_eq!(now(result).unwrap_err().kind(), ErrorKind::Device);
    }
}

#[test]
#[should_panic(expected = "out of order")]
fn extents_out_of_order_are_our_mistake() {
    let mut objects = Objects::new(1, 1);
    let new = [simple(5, 100, 2), simple(6, 200, 1)];
    let range = FileBlocks::new(0, 10);
    let _ = now(replace(&mut objects.view, &mut objects.stock, ObjectId(0), range, &new));
}

#[test]
#[should_panic(expected = "same device blocks")]
fn extents_that_share_device_blocks_are_our_mistake() {
    let mut objects = Objects::new(1, 1);
    let new = [simple(5, 100, 2), simple(7, 101, 1)];
    let range = FileBlocks::new(0, 10);
    let _ = now(replace(&mut objects.view, &mut objects.stock, ObjectId(0), range, &new));
}

/// Compiles only when the futures can be spawned.
#[test]
fn futures_of_extents_are_send() {
    fn is_send<T: Send>(_: &T) {}
    let mut objects = Objects::new(1, 1);
    let (object, range) = (ObjectId(1), FileBlocks::new(0, 1));
    is_send(&replace(&mut objects.view, &mut objects.stock, object, range, &[]));
    is_send(&list(&objects.view, object, range, 1));
    is_send(&lookup(&objects.view, object, 1));
}

/// Two objects of many short extents, several leaves long.
fn two_objects(random: &mut Random, view: &mut MapView, stock: &mut Stock) {
    for object in 0..2 {
        let (mut at, mut start) = (0, 1 << 24 | object << 20);
        while at < 2_000 {
            let blocks = 1 + random.below(8) / 6;
            let unwritten = random.below(9) == 0;
            let range = FileBlocks::new(at, at + blocks);
            let new = [Extent { at, start: BlockNo(start), blocks, unwritten }];
            now(replace(view, stock, ObjectId(object), range, &new)).unwrap();
            at += blocks + random.below(5) / 4;
            start += blocks + random.below(4);
        }
    }
}

/// Scattered extents with fresh places, some behind each other and some where an old one begins.
fn scattered(random: &mut Random, place: &mut u64) -> Vec<Extent> {
    let (mut new, mut at) = (Vec::new(), random.below(60));
    while at < 2_010 {
        let blocks = 1 + random.below(6) / 5;
        *place += random.below(2);
        new.push(Extent { at, start: BlockNo(*place), blocks, unwritten: false });
        *place += blocks;
        at += blocks + [0, 1, random.below(90)][random.below(3) as usize];
    }
    new
}

#[test]
fn many_extents_at_once_become_what_they_become_one_by_one() {
    let mut random = Random(7);
    let mut views = [MapView::new(Root::default()), MapView::new(Root::default())];
    let mut stocks = [Stock::new(), Stock::new()];
    for (view, stock) in views.iter_mut().zip(&mut stocks) {
        two_objects(&mut Random(3), view, stock);
    }
    let mut place = 1 << 32;
    for _ in 0..60 {
        let object = ObjectId(random.below(2));
        let new = scattered(&mut random, &mut place);
        let runs: Vec<FileBlocks> = new.iter().map(|e| FileBlocks::new(e.at, e.end())).collect();
        let unwritten = now(unwritten_in(&views[0], object, &runs)).unwrap();
        let each = runs.iter().flat_map(|&run| now(list(&views[0], object, run, 99)).unwrap());
        let expected: Vec<Extent> = each.filter(|extent| extent.unwritten).collect();
        assert_eq!(unwritten, expected);
        let mut gone = now(remap(&mut views[0], &mut stocks[0], object, &new)).unwrap();
        let mut one_by_one = Vec::new();
        for extent in &new {
            let range = FileBlocks::new(extent.at, extent.end());
            let (view, stock) = (&mut views[1], &mut stocks[1]);
            one_by_one.extend(now(replace(view, stock, object, range, &[*extent])).unwrap());
        }
        gone.sort_unstable();
        one_by_one.sort_unstable();
        assert_eq!(gone, one_by_one);
        for object in [0, 1].map(ObjectId) {
            let all = FileBlocks::new(0, FILE_BLOCKS_MAX);
            let [left, right] = [0, 1].map(|i| now(list(&views[i], object, all, usize::MAX)));
            assert!(left.unwrap() == right.unwrap(), "{object} is mapped otherwise");
        }
    }
}
