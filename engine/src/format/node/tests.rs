//! Tests of tree nodes: a sorted map as the model, and damage of every kind.

use std::collections::BTreeMap;

use super::*;

const AT: BlockNo = BlockNo(77);

struct Random(u64);

impl Random {
    fn below(&mut self, below: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) % below as u64) as usize
    }

    fn bytes(&mut self, len: usize) -> Vec<u8> {
        (0..len).map(|_| self.below(256) as u8).collect()
    }
}

fn entries(body: &[u8]) -> Vec<(Vec<u8>, Vec<u8>)> {
    let Ok(node) = Node::open(AT, body) else {
        return Vec::new();
    };
    node.check().unwrap();
    (0..node.count())
        .map(|i| node.entry(i).unwrap())
        .map(|(k, v)| (k.to_vec(), v.to_vec()))
        .collect()
}

#[test]
fn behaves_like_a_sorted_map_until_it_is_full() {
    let mut random = Random(1);
    let mut body = vec![0; NODE_BYTES];
    let mut node = NodeMut::format(AT, &mut body, 0);
    let mut model: BTreeMap<Vec<u8>, Vec<u8>> = BTreeMap::new();
    let mut refused = 0;
    for _ in 0..20_000 {
        let key_bytes = 1 + random.below(2);
        let key = random.bytes(key_bytes).iter().map(|b| b % 8).collect::<Vec<_>>();
        let value_bytes = random.below(200);
        let value = random.bytes(value_bytes);
        let found = match model.is_empty() {
            true => Err(0),
            false => node.view().search(&key).unwrap(),
        };
        assert_eq!(found.is_ok(), model.contains_key(&key));
        let done = match (found, random.below(3)) {
            (Ok(i), 0) => {
                node.remove(i);
                model.remove(&key);
                continue;
            }
            (Ok(i), _) => node.replace(i, &value),
            (Err(i), _) => node.insert(i, &key, &value),
        };
        let mut with = model.clone();
        with.insert(key, value);
        let need: usize = with.iter().map(|(k, v)| cost(k.len(), v.len())).sum();
        assert_eq!(done, need <= NODE_ROOM, "an entry is refused only when there is no room");
        if done {
            model = with;
        }
        refused += usize::from(!done);
        if !model.is_empty() {
            node.view().check().unwrap();
        }
    }
    assert!(refused > 100, "the node was never full");
    assert_eq!(entries(&body), model.into_iter().collect::<Vec<_>>());
}

fn filled(level: u8, key: impl Fn(usize) -> Vec<u8>, value: &[u8]) -> (Vec<u8>, usize) {
    let mut body = vec![0; NODE_BYTES];
    let mut node = NodeMut::format(AT, &mut body, level);
    let mut count = 0;
    while node.insert(count, &key(count), value) {
        count += 1;
    }
    (body, count)
}

#[test]
fn a_split_keeps_every_entry_on_the_right_side_of_the_separator() {
    let mut random = Random(2);
    for round in 0..300 {
        let mut body = vec![0; NODE_BYTES];
        let mut node = NodeMut::format(AT, &mut body, 0);
        let mut model: BTreeMap<Vec<u8>, Vec<u8>> = BTreeMap::new();
        let longest = [30, 300, 1024][round % 3];
        let split = loop {
            let key_bytes = 1 + random.below(TREE_KEY_BYTES_MAX);
            let key = random.bytes(key_bytes);
            let value_bytes = random.below(longest + 1);
            let value = random.bytes(value_bytes);
            let place = if model.is_empty() { Err(0) } else { node.view().search(&key).unwrap() };
            let Err(i) = place else { continue };
            model.insert(key.clone(), value.clone());
            if !node.insert(i, &key, &value) {
                break node.insert_and_split(i, &key, &value, round % 2 == 0);
            }
        };
        let (left, right) = (entries(&body), entries(&split.right));
        assert!(left.iter().all(|(k, _)| *k < split.separator));
        assert!(right.iter().all(|(k, _)| *k >= split.separator));
        let all: Vec<_> = left.into_iter().chain(right).collect();
        assert_eq!(all, model.into_iter().collect::<Vec<_>>());
    }
}

#[test]
fn entries_in_order_leave_full_nodes_behind() {
    let (mut body, count) = filled(0, |i| (i as u32).to_be_bytes().to_vec(), &[7; 16]);
    let next = (count as u32).to_be_bytes();
    let split =
        NodeMut::open(AT, &mut body).unwrap().insert_and_split(count, &next, &[7; 16], true);
    assert!(split.append);
    assert_eq!(entries(&body).len(), count);
    assert_eq!(entries(&split.right).len(), 1);
    let mut lowest = (count as u32 - 1).to_be_bytes().to_vec();
    lowest.push(0);
    assert_eq!(split.separator, lowest, "nothing can come between the old node and the new one");
}

#[test]
fn an_interior_split_moves_the_middle_key_up() {
    let key = |i: usize| match i {
        0 => Vec::new(),
        _ => (i as u32).to_be_bytes().to_vec(),
    };
    let (mut body, count) = filled(1, key, &9u64.to_le_bytes());
    let new = [0, 0, 0, 3, 1];
    let split =
        NodeMut::open(AT, &mut body).unwrap().insert_and_split(4, &new, &5u64.to_le_bytes(), false);
    let (left, right) = (entries(&body), entries(&split.right));
    assert_eq!(left.len() + right.len(), count + 1);
    assert!(right[0].0.is_empty());
    assert!(left.last().unwrap().0 < split.separator && split.separator < right[1].0);
    let mut joined = body.clone();
    let mut node = NodeMut::open(AT, &mut joined).unwrap();
    node.truncate(3);
    let mut few = split.right.clone();
    NodeMut::open(AT, &mut few).unwrap().truncate(5);
    node.absorb(&Node::open(AT, &few).unwrap(), &split.separator).unwrap();
    assert_eq!(entries(&joined)[3].0, split.separator);
    assert_eq!(entries(&joined).len(), 8);
}

#[test]
fn removing_the_first_child_leaves_an_empty_first_key() {
    let key = |i: usize| {
        if i == 0 { Vec::new() } else { (i as u16).to_be_bytes().to_vec() }
    };
    let (mut body, count) = filled(2, key, &9u64.to_le_bytes());
    NodeMut::open(AT, &mut body).unwrap().remove_child(0);
    let left = entries(&body);
    assert_eq!(left.len(), count - 1);
    assert_eq!(left[0].0, b"");
    assert_eq!(left[1].0, [0, 2]);
}

#[test]
fn an_insert_changes_few_bytes() {
    let (mut body, count) = filled(0, |i| (i as u32).to_be_bytes().to_vec(), &[7; 40]);
    let mut node = NodeMut::open(AT, &mut body).unwrap();
    node.truncate(count / 2);
    let before = node.body.to_vec();
    assert!(node.insert(count / 2, &[0, 0, 1, 0], &[8; 40]));
    let changed = before.iter().zip(node.body.iter()).filter(|(a, b)| a != b).count();
    assert!(changed < 64, "{changed} bytes changed for an entry of 44");
}

#[test]
fn any_bytes_are_an_error_or_a_node_but_never_a_panic() {
    let (whole, count) = filled(0, |i| (i as u32).to_be_bytes().to_vec(), &[7; 16]);
    let mut random = Random(3);
    let mut sound = 0;
    for round in 0..40_000 {
        let mut body = whole.clone();
        let reach = if round % 4 == 0 { NODE_BYTES } else { SLOTS + 2 * count };
        for _ in 0..1 + random.below(4) {
            let at = random.below(reach);
            body[at] = random.below(256) as u8;
        }
        if let Ok(node) = Node::open(AT, &body) {
            let _ = node.search(&[0, 0, 0, 9]);
            let _ = node.used();
            if node.level() > 0 {
                let _ = node.child_index(&[1]);
                let _ = node.child(0);
            }
        }
        if let Ok(mut node) = NodeMut::open(AT, &mut body) {
            sound += 1;
            node.remove(0);
            assert!(node.insert(0, &[0], &[1; 8]));
            node.compact();
        }
    }
    assert!(sound > 0, "no damage was harmless: the test reaches nothing");
    for _ in 0..2_000 {
        let body = random.bytes(NODE_BYTES);
        if let Ok(node) = Node::open(AT, &body) {
            assert!(node.check().is_err());
        }
    }
}

#[test]
fn overlapping_cells_are_damage() {
    let mut body = vec![0; NODE_BYTES];
    let mut node = NodeMut::format(AT, &mut body, 0);
    // The first value looks like a cell with key "b": a second slot points into it.
    assert!(node.insert(0, b"a", &[1, 0, 1, 0, b'b', 9]));
    let cell = node.heap();
    put_u16(&mut body, SLOTS + 2, cell + CELL_HEADER + 1);
    put_u16(&mut body, 2, 2);
    assert_eq!(Node::open(AT, &body).unwrap().entry(1).unwrap().0, b"b");
    let error = NodeMut::open(AT, &mut body).unwrap_err();
    assert!(error.to_string().contains("overlap"), "{error}");
}

#[test]
fn damage_is_named_with_its_block() {
    let error = Node::open(AT, &vec![0; NODE_BYTES]).unwrap_err();
    assert!(error.is_corruption());
    assert!(error.to_string().contains("block 77"), "{error}");
}
