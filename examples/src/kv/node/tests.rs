//! Nodes against a sorted list, and against bytes that are no node.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::kv::page::Stored;
use crate::kv::page::blank;
use crate::kv::page::inner_cell;
use crate::kv::page::leaf_cell;

#[derive(Debug, Clone)]
enum Step {
    Put(Vec<u8>, Vec<u8>),
    Remove(usize),
    Cut(usize),
}

fn step() -> impl Strategy<Value = Step> {
    let key = prop_oneof![
        8 => prop::collection::vec(0_u8..4, 1..5),
        1 => prop::collection::vec(any::<u8>(), 300..512),
    ];
    let value = prop::collection::vec(any::<u8>(), 0..300);
    prop_oneof![
        12 => (key, value).prop_map(|(key, value)| Step::Put(key, value)),
        4 => (0_usize..1000).prop_map(Step::Remove),
        1 => (0_usize..1000).prop_map(Step::Cut),
    ]
}

type Model = BTreeMap<Vec<u8>, Vec<u8>>;

fn put(node: &mut NodeMut<'_>, model: &mut Model, key: Vec<u8>, value: Vec<u8>) {
    let cell = leaf_cell(&key, Stored::Inline(&value), None);
    let found = node.node().search(&key).unwrap();
    assert_eq!(found.is_ok(), model.contains_key(&key));
    let index = match found {
        Ok(index) if node.overwrite(index, &cell).unwrap() => {
            model.insert(key, value);
            return;
        }
        Ok(index) => {
            node.remove(index).unwrap();
            model.remove(&key);
            index
        }
        Err(index) => index,
    };
    let used: usize = model.iter().map(|(k, v)| 8 + k.len() + v.len()).sum();
    let fits = HEADER + used + cell.len() + 2 <= PAGE_BYTES;
    assert_eq!(node.insert(index, &cell).unwrap(), fits, "{used} used, {} more", cell.len());
    if fits {
        model.insert(key, value);
    }
}

fn check(node: Node<'_>, model: &Model) {
    assert_eq!(node.len(), model.len());
    for (index, (key, value)) in model.iter().enumerate() {
        assert_eq!(node.key(index).unwrap(), &key[..]);
        assert_eq!(node.value(index).unwrap(), Stored::Inline(value));
    }
    let used: usize = model.iter().map(|(k, v)| 8 + k.len() + v.len()).sum();
    assert_eq!(node.used(), used);
}

fn run(steps: Vec<Step>) {
    let mut page = blank();
    let mut model = Model::new();
    NodeMut::format(7, &mut page, Kind::Leaf, 0);
    for step in steps {
        let mut node = NodeMut::open(7, &mut page).unwrap();
        match step {
            Step::Put(key, value) => put(&mut node, &mut model, key, value),
            Step::Remove(at) if !model.is_empty() => {
                let at = at % model.len();
                node.remove(at).unwrap();
                let key = model.keys().nth(at).unwrap().clone();
                model.remove(&key);
            }
            Step::Remove(_) => {}
            Step::Cut(at) => {
                let at = at % (model.len() + 1);
                node.cut(at).unwrap();
                model = model.into_iter().take(at).collect();
            }
        }
        check(Node::open(7, &page).unwrap(), &model);
    }
}

/// Everything that can be done with a page whose bytes come from outside.
fn poke(page: &mut Page, index: usize, key: &[u8]) {
    let Ok(node) = Node::open(7, page) else { return };
    let _ = node.search(key);
    let _ = node.position(key);
    let _ = cells_of(node);
    let index = index % (node.len() + 1);
    let _ = node.child(index);
    if index < node.len() {
        let _ = node.value(index);
        let mut copy = *page;
        let _ = NodeMut::open(7, &mut copy).unwrap().remove(index);
        let _ = Node::open(7, &copy).unwrap();
    }
    let cell = leaf_cell(key, Stored::Inline(&[1; 300]), Some(7));
    let mut node = NodeMut::open(7, page).unwrap();
    let _ = node.insert(index, &cell);
    let _ = node.cut(index / 2);
    Node::open(7, page).unwrap();
}

/// The story: the child's number of an inner node, taken for a value's length, may say that the value
/// lies elsewhere; where it says so there are no bytes.
#[test]
fn an_inner_node_has_no_values() {
    let mut page = blank();
    let mut node = NodeMut::format(7, &mut page, Kind::Inner, 1);
    assert!(node.insert(0, &inner_cell(b"key", u32::MAX)).unwrap());
    assert!(Node::open(7, &page).unwrap().value(0).is_err());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn a_node_is_a_sorted_list(steps in prop::collection::vec(step(), 0..120)) {
        run(steps);
    }

    #[test]
    fn wrong_bytes_are_an_error_and_never_a_panic(
        steps in prop::collection::vec(step(), 0..40),
        flips in prop::collection::vec((0_usize..PAGE_BYTES, any::<u8>()), 1..40),
        header in any::<Option<[u8; 6]>>(),
        index in any::<usize>(),
    ) {
        let mut page = blank();
        let mut model = Model::new();
        let mut node = NodeMut::format(7, &mut page, Kind::Leaf, 0);
        for step in steps {
            if let Step::Put(key, value) = step {
                put(&mut node, &mut model, key, value);
            }
        }
        for (at, byte) in flips {
            // Half of them into header and slots, where they hurt.
            page[if byte & 1 == 0 { at } else { at % 64 }] = byte;
        }
        if let Some(header) = header {
            page[2..8].copy_from_slice(&header);
        }
        put_u32(&mut page[..], 12, 7);
        for kind in [Kind::Leaf, Kind::Inner] {
            let mut copy = page.clone();
            copy[0] = kind as u8;
            poke(&mut copy, index, b"some key");
        }
    }
}
