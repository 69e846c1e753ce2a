//! Tests of the tree: a sorted map as the model, every node checked, damage injected.

use std::collections::BTreeMap;
use std::collections::BTreeSet;

use super::*;
use crate::format::root::Root;
use crate::meta::view_model::MapView;
use crate::meta::view_model::Random;
use crate::meta::view_model::Stock;
use crate::meta::view_model::now;

struct Tree {
    view: MapView,
    stock: Stock,
    root: TreeRoot,
}

impl Tree {
    fn new() -> Self {
        Self { view: MapView::new(Root::default()), stock: Stock::new(), root: TreeRoot::default() }
    }

    fn insert(&mut self, key: &[u8], value: &[u8]) -> Option<Vec<u8>> {
        now(insert(&mut self.view, &mut self.stock, &mut self.root, key, value)).unwrap()
    }

    fn remove(&mut self, key: &[u8]) -> Option<Vec<u8>> {
        now(remove(&mut self.view, &mut self.stock, &mut self.root, key)).unwrap()
    }

    fn all(&self) -> Vec<Entry> {
        now(scan(&self.view, self.root, b"", usize::MAX)).unwrap()
    }

    /// Walks every node: sound, inside its parent's bounds, and accounted for by the supply.
    fn check(&self) {
        let mut seen = BTreeSet::new();
        if self.root.height > 0 {
            self.check_node(self.root.block, self.root.height - 1, &[], None, &mut seen);
        }
        assert_eq!(seen, self.stock.out, "nodes are lost, or used after they were given back");
        assert_eq!(seen.len(), self.view.blocks.len());
    }

    fn check_node(
        &self,
        at: BlockNo,
        level: u8,
        low: &[u8],
        high: Option<&[u8]>,
        seen: &mut BTreeSet<BlockNo>,
    ) {
        assert!(seen.insert(at), "{at:?} is in the tree twice");
        let body = &self.view.blocks[&at].1;
        let node = Node::open(at, body).unwrap();
        node.check().unwrap();
        assert_eq!(node.level(), level);
        let key = |i: usize| node.entry(i).unwrap().0;
        for i in 0..node.count() {
            if level == 0 {
                assert!(key(i) >= low && high.is_none_or(|high| key(i) < high));
                continue;
            }
            let child_low = if i == 0 { low } else { key(i) };
            let child_high = if i + 1 < node.count() { Some(key(i + 1)) } else { high };
            assert!(child_low >= low && high.is_none_or(|high| child_low < high));
            self.check_node(node.child(i).unwrap(), level - 1, child_low, child_high, seen);
        }
    }

    fn leaves(&self) -> usize {
        self.view.blocks.values().filter(|(_, body)| body[0] == 0).count()
    }
}

fn random_key(random: &mut Random, longest: u64) -> Vec<u8> {
    let len = 1 + random.below(longest);
    // Few different bytes, so that keys share prefixes and are met again.
    (0..len).map(|_| random.below(3) as u8 * 127).collect()
}

fn random_value(random: &mut Random, longest: u64) -> Vec<u8> {
    let len = random.below(longest + 1);
    vec![random.below(256) as u8; len as usize]
}

fn compare_lookups(tree: &Tree, model: &BTreeMap<Vec<u8>, Vec<u8>>, key: &[u8]) {
    let pair = |(k, v): (&Vec<u8>, &Vec<u8>)| (k.clone(), v.clone());
    assert_eq!(now(get(&tree.view, tree.root, key)).unwrap(), model.get(key).cloned());
    let after = now(at_or_after(&tree.view, tree.root, key)).unwrap();
    assert_eq!(after, model.range(key.to_vec()..).next().map(pair));
    let before = now(at_or_before(&tree.view, tree.root, key)).unwrap();
    assert_eq!(before, model.range(..=key.to_vec()).next_back().map(pair));
    let some = now(scan(&tree.view, tree.root, key, 7)).unwrap();
    assert_eq!(some, model.range(key.to_vec()..).take(7).map(pair).collect::<Vec<_>>());
}

#[test]
fn a_range_ends_before_its_upper_key() {
    let mut tree = Tree::new();
    for i in 0..1000u64 {
        tree.insert(&i.to_be_bytes(), &[1; 16]);
    }
    let count = |from: u64, to: u64, limit| {
        let (from, to) = (from.to_be_bytes(), to.to_be_bytes());
        now(scan_range(&tree.view, tree.root, &from, Some(&to), limit)).unwrap().len()
    };
    assert_eq!(count(10, 500, usize::MAX), 490);
    assert_eq!(count(10, 500, 7), 7);
    assert_eq!(count(10, 10, 7), 0);
    assert_eq!(count(990, 5000, 100), 10);
}

fn random_operations(seed: u64, key_bytes: u64, value_bytes: u64, rounds: u64, height: u8) {
    let mut random = Random(seed);
    let mut tree = Tree::new();
    let mut model = BTreeMap::new();
    let mut highest = 0;
    for round in 0..rounds {
        // Growing and shrinking phases, so that both splits and joins come in numbers.
        let inserts = if (round / (rounds / 6)).is_multiple_of(2) { 8 } else { 3 };
        let key = random_key(&mut random, key_bytes);
        if random.below(10) < inserts {
            let value = random_value(&mut random, value_bytes);
            assert_eq!(tree.insert(&key, &value), model.insert(key, value));
        } else {
            let probe = random_key(&mut random, key_bytes);
            let key = model.range(probe..).next().map_or(key, |(k, _)| k.clone());
            assert_eq!(tree.remove(&key), model.remove(&key));
        }
        highest = highest.max(tree.root.height);
        let probe = random_key(&mut random, key_bytes);
        compare_lookups(&tree, &model, &probe);
        if round % 257 == 0 {
            tree.check();
        }
    }
    tree.check();
    assert!(highest >= height, "the tree stayed at height {highest}");
    assert_eq!(tree.all(), model.clone().into_iter().collect::<Vec<_>>());
    let mut keys: Vec<_> = model.into_keys().collect();
    while !keys.is_empty() {
        let key = keys.swap_remove(random.below(keys.len() as u64) as usize);
        assert!(tree.remove(&key).is_some());
    }
    assert_eq!(tree.root, TreeRoot::default());
    tree.check();
}

#[test]
fn behaves_like_a_sorted_map_with_short_entries() {
    random_operations(1, 40, 24, 30_000, 2);
}

#[test]
fn behaves_like_a_sorted_map_with_the_longest_entries() {
    random_operations(2, TREE_KEY_BYTES_MAX as u64, TREE_VALUE_BYTES_MAX as u64, 6_000, 3);
}

#[test]
fn ascending_entries_fill_nodes_completely() {
    let mut tree = Tree::new();
    for i in 0..20_000u64 {
        tree.insert(&i.to_be_bytes(), &[1; 16]);
    }
    tree.check();
    let per_leaf = NODE_ROOM / (2 + 4 + 8 + 16);
    assert_eq!(tree.leaves(), 20_000usize.div_ceil(per_leaf));
    assert_eq!(tree.all().len(), 20_000);
}

#[test]
fn descending_entries_behind_a_full_leaf_do_not_make_one_leaf_each() {
    let mut tree = Tree::new();
    tree.insert(&[255], &[1; 16]);
    for i in 0..1_000u64 {
        tree.insert(&i.to_be_bytes(), &[1; 16]);
    }
    let before = tree.leaves();
    for i in (2_000..20_000u64).rev() {
        tree.insert(&i.to_be_bytes(), &[1; 16]);
    }
    tree.check();
    let half = NODE_ROOM / (2 + 4 + 8 + 16) / 2;
    assert!(tree.leaves() - before <= 18_000 / half + 2, "{} leaves", tree.leaves());
}

#[test]
fn removing_most_entries_gives_most_nodes_back() {
    let mut tree = Tree::new();
    for i in 0..10_000u64 {
        tree.insert(&i.to_be_bytes(), &[1; 16]);
    }
    let before = tree.leaves();
    for i in (0..10_000u64).filter(|i| i % 10 != 0) {
        tree.remove(&i.to_be_bytes());
    }
    tree.check();
    assert!(tree.leaves() * 3 < before, "{} of {before} leaves are left", tree.leaves());
}

#[test]
fn the_same_value_again_changes_nothing() {
    let mut tree = Tree::new();
    tree.insert(b"a", b"1");
    let before = tree.view.clone().blocks;
    assert_eq!(tree.insert(b"a", b"1"), Some(b"1".to_vec()));
    assert_eq!(tree.remove(b"b"), None);
    assert_eq!(tree.view.blocks, before);
}

#[test]
fn impossible_sizes_are_refused() {
    let mut tree = Tree::new();
    let mut put = |key: &[u8], value: &[u8]| {
        let result = now(insert(&mut tree.view, &mut tree.stock, &mut tree.root, key, value));
        result.map_err(|e| e.kind())
    };
    assert_eq!(put(b"", b"1"), Err(ErrorKind::InvalidInput));
    assert_eq!(put(&[1; TREE_KEY_BYTES_MAX + 1], b"1"), Err(ErrorKind::InvalidInput));
    assert_eq!(put(b"1", &[1; TREE_VALUE_BYTES_MAX + 1]), Err(ErrorKind::InvalidInput));
    assert_eq!(put(&[1; TREE_KEY_BYTES_MAX], &[1; TREE_VALUE_BYTES_MAX]), Ok(None));
}

fn three_levels() -> Tree {
    let mut tree = Tree::new();
    for i in 0..600u64 {
        let mut key = [7; 200];
        key[..8].copy_from_slice(&(i * 2).to_be_bytes());
        tree.insert(&key, &[1; 100]);
    }
    assert!(tree.root.height >= 3);
    tree
}

/// Runs every operation at many keys; any outcome but a panic or an endless walk is fine.
fn use_it(tree: &mut Tree, random: &mut Random) -> usize {
    let mut errors = 0;
    for _ in 0..6 {
        let key = (random.below(1_300)).to_be_bytes();
        errors += usize::from(now(get(&tree.view, tree.root, &key)).is_err());
        errors += usize::from(now(at_or_before(&tree.view, tree.root, &key)).is_err());
        errors += usize::from(now(scan(&tree.view, tree.root, &key, 2_000)).is_err());
        let mut supply = Lenient(50_000 + random.below(1 << 40));
        let (view, root) = (&mut tree.view, &mut tree.root);
        if now(insert(view, &mut supply, root, &key, &[2; 300])).is_err() {
            return errors + 1;
        }
        let found = now(at_or_after(view, *root, &key)).ok().flatten();
        let key = found.map_or(key.to_vec(), |(key, _)| key);
        if now(remove(view, &mut supply, root, &key)).is_err() {
            return errors + 1;
        }
    }
    errors
}

/// A supply that believes a damaged tree whatever it gives back.
struct Lenient(u64);

impl NodeSupply for Lenient {
    async fn take<R: BlockRead>(&mut self, _: &R) -> Result<BlockNo> {
        self.0 += 1;
        Ok(BlockNo(self.0))
    }

    fn give_back(&mut self, _: BlockNo) {}
}

#[test]
fn damaged_nodes_with_sound_checksums_never_cause_a_panic_or_an_endless_walk() {
    let whole = three_levels();
    let mut random = Random(5);
    let mut errors = 0;
    for _ in 0..1_500 {
        let mut tree = Tree::new();
        tree.view = whole.view.clone();
        tree.root = whole.root;
        let nodes: Vec<BlockNo> = tree.view.blocks.keys().copied().collect();
        for _ in 0..1 + random.below(3) {
            let at = nodes[random.below(nodes.len() as u64) as usize];
            let other = nodes[random.below(nodes.len() as u64) as usize];
            if random.below(4) == 0 {
                let copy = tree.view.blocks[&other].1.clone();
                tree.view.blocks.get_mut(&at).unwrap().1 = copy;
                continue;
            }
            let body = &mut tree.view.blocks.get_mut(&at).unwrap().1;
            let reach = if random.below(2) == 0 { 60 } else { body.len() as u64 };
            body[random.below(reach) as usize] = random.below(256) as u8;
        }
        errors += use_it(&mut tree, &mut random);
    }
    assert!(errors > 500, "only {errors} errors: the damage was not met");
}

#[test]
fn a_node_that_leads_back_up_is_damage() {
    let mut tree = three_levels();
    let root = tree.root.block;
    let body = &mut tree.view.blocks.get_mut(&root).unwrap().1;
    let mut top = NodeMut::open(root, body).unwrap();
    assert!(top.replace(0, &root.0.to_le_bytes()));
    let error = now(get(&tree.view, tree.root, &[0])).unwrap_err();
    assert!(error.is_corruption());
    let error = now(scan(&tree.view, tree.root, &[], 1)).unwrap_err();
    assert!(error.is_corruption());
}

#[test]
fn an_impossible_root_is_damage() {
    let tree = three_levels();
    let block = tree.root.block;
    for root in [
        TreeRoot { block, height: 0 },
        TreeRoot { block, height: TREE_HEIGHT_MAX + 1 },
        TreeRoot { block, height: tree.root.height + 1 },
        TreeRoot { block: BlockNo(0), height: 1 },
        TreeRoot { block: BlockNo(5), height: 1 },
    ] {
        let error = now(get(&tree.view, root, &[0])).unwrap_err();
        assert!(error.is_corruption(), "{root:?}: {error:?}");
    }
}

#[test]
fn every_failed_read_is_reported() {
    let mut tree = three_levels();
    let key = 600u64.to_be_bytes();
    for left in 0..i64::from(tree.root.height) {
        tree.view.reads_left = left.into();
        let error = now(get(&tree.view, tree.root, &key)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Device);
        tree.view.reads_left = left.into();
        let result = now(insert(&mut tree.view, &mut tree.stock, &mut tree.root, &key, b"1"));
        assert_eq!(result.unwrap_err().kind(), ErrorKind::Device);
    }
}

#[test]
fn an_empty_supply_is_no_space() {
    let mut tree = three_levels();
    tree.stock.limit = tree.stock.out.len();
    let full = (0..10_000u64).find_map(|i| {
        let mut key = [9; 200];
        key[..8].copy_from_slice(&i.to_be_bytes());
        now(insert(&mut tree.view, &mut tree.stock, &mut tree.root, &key, &[1; 100])).err()
    });
    assert!(full.unwrap().is_no_space());
}
