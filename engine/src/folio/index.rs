//! An ordered map from block numbers to small values, in chunks of 64 slots, with two tags.
//!
//! Guarantees: a lookup takes one step per 6 bits of the largest key; the smallest tagged key at
//! or after a position is found without visiting untagged ones; memory is proportional to what is
//! inside (occupied slots only).
//!
//! Does not lock and does not know folios. Called by `folio` and `cache`, behind the object's
//! index lock.

/// Bits per level.
const BITS: u32 = 6;
/// Levels above the leaves that 64-bit keys can need.
const HEIGHT_MAX: u32 = 10;

/// A property of a value by which it can be found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tag {
    /// Some block is dirty.
    Dirty = 0,
    /// Some block is under writeback.
    Writeback = 1,
}

/// The map.
#[derive(Debug)]
pub struct Index<T> {
    root: Option<Node<T>>,
    /// Levels above the leaves.
    height: u32,
    len: usize,
}

#[derive(Debug)]
struct Node<T> {
    /// Which of the 64 slots are occupied; the k-th occupied one is `kids[k]`.
    present: u64,
    tags: [u64; 2],
    kids: Kids<T>,
}

#[derive(Debug)]
enum Kids<T> {
    Inner(Vec<Node<T>>),
    Leaf(Vec<T>),
}

/// Which keys a search accepts.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Want {
    Any,
    Tagged(Tag),
    AnyTag,
}

fn slot_of(key: u64, height: u32) -> u32 {
    ((key >> (BITS * height)) & 63) as u32
}

impl<T> Node<T> {
    fn new(height: u32) -> Self {
        let kids = if height == 0 { Kids::Leaf(Vec::new()) } else { Kids::Inner(Vec::new()) };
        Self { present: 0, tags: [0; 2], kids }
    }

    /// Where the slot's value is, if it is occupied.
    fn place(&self, slot: u32) -> Option<usize> {
        (self.present & (1 << slot) != 0).then(|| self.rank(slot))
    }

    fn rank(&self, slot: u32) -> usize {
        (self.present & ((1 << slot) - 1)).count_ones() as usize
    }

    fn accepts(&self, want: Want) -> u64 {
        match want {
            Want::Any => self.present,
            Want::Tagged(tag) => self.tags[tag as usize],
            Want::AnyTag => self.tags[0] | self.tags[1],
        }
    }

    fn insert(&mut self, key: u64, height: u32, value: T) {
        let slot = slot_of(key, height);
        let place = self.rank(slot);
        let occupied = self.place(slot).is_some();
        match &mut self.kids {
            Kids::Leaf(values) => {
                assert!(!occupied, "block {key} is in the index already");
                values.insert(place, value);
            }
            Kids::Inner(nodes) => {
                if !occupied {
                    nodes.insert(place, Self::new(height - 1));
                }
                nodes[place].insert(key, height - 1, value);
            }
        }
        self.present |= 1 << slot;
    }

    fn remove(&mut self, key: u64, height: u32) -> Option<T> {
        let slot = slot_of(key, height);
        let place = self.place(slot)?;
        match &mut self.kids {
            Kids::Leaf(values) => {
                let value = values.remove(place);
                self.vacate(slot);
                Some(value)
            }
            Kids::Inner(nodes) => {
                let node = &mut nodes[place];
                let value = node.remove(key, height - 1)?;
                let (empty, tags) = (node.present == 0, node.tags);
                if empty {
                    nodes.remove(place);
                    self.vacate(slot);
                } else {
                    self.take_over(slot, tags);
                }
                Some(value)
            }
        }
    }

    fn vacate(&mut self, slot: u32) {
        self.present &= !(1 << slot);
        self.take_over(slot, [0; 2]);
    }

    /// Sets this node's tag bits for `slot` to whether the child has any.
    fn take_over(&mut self, slot: u32, child: [u64; 2]) {
        for (mine, theirs) in self.tags.iter_mut().zip(child) {
            *mine = *mine & !(1 << slot) | u64::from(theirs != 0) << slot;
        }
    }

    fn set_tag(&mut self, key: u64, height: u32, tag: Tag, on: bool) -> bool {
        let slot = slot_of(key, height);
        let Some(place) = self.place(slot) else {
            return false;
        };
        let mut bits = [0; 2];
        match &mut self.kids {
            Kids::Leaf(_) => {
                bits = self.tags.map(|word| word & (1 << slot));
                bits[tag as usize] = u64::from(on);
            }
            Kids::Inner(nodes) => {
                if !nodes[place].set_tag(key, height - 1, tag, on) {
                    return false;
                }
                bits.copy_from_slice(&nodes[place].tags);
            }
        }
        self.take_over(slot, bits);
        true
    }

    /// The first accepted key at or after `from`; `base` is this node's first key.
    fn next(&self, from: u64, base: u64, height: u32, want: Want) -> Option<(u64, &T)> {
        let first = if from <= base { 0 } else { slot_of(from, height) };
        let mut open = self.accepts(want) & (u64::MAX << first);
        while open != 0 {
            let slot = open.trailing_zeros();
            open &= open - 1;
            let place = self.rank(slot);
            let at = base | u64::from(slot) << (BITS * height);
            match &self.kids {
                Kids::Leaf(values) => return Some((at, &values[place])),
                Kids::Inner(nodes) => {
                    // Only the first slot can hold keys before `from`.
                    if let Some(found) = nodes[place].next(from, at, height - 1, want) {
                        return Some(found);
                    }
                }
            }
        }
        None
    }
}

impl<T> Node<T> {
    /// The value of the largest key at or before `key`.
    fn floor(&self, key: u64, height: u32) -> Option<&T> {
        let slot = slot_of(key, height);
        if let Some(place) = self.place(slot) {
            let found = match &self.kids {
                Kids::Leaf(values) => Some(&values[place]),
                Kids::Inner(nodes) => nodes[place].floor(key, height - 1),
            };
            if found.is_some() {
                return found;
            }
        }
        // All keys of the slots before this one are smaller: the last one of them is next.
        let mut place = self.rank(slot).checked_sub(1)?;
        let mut node = self;
        loop {
            match &node.kids {
                Kids::Leaf(values) => return values.get(place),
                Kids::Inner(nodes) => {
                    node = &nodes[place];
                    place = node.present.count_ones() as usize - 1;
                }
            }
        }
    }
}

impl<T> Default for Index<T> {
    fn default() -> Self {
        Self { root: None, height: 0, len: 0 }
    }
}

impl<T> Index<T> {
    #[cfg(test)]
    /// Values inside.
    pub fn len(&self) -> usize {
        self.len
    }

    #[cfg(test)]
    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    fn covers(&self, key: u64) -> bool {
        self.height >= HEIGHT_MAX || key >> (BITS * (self.height + 1)) == 0
    }

    /// The value at `key`.
    pub fn get(&self, key: u64) -> Option<&T> {
        if !self.covers(key) {
            return None;
        }
        let mut node = self.root.as_ref()?;
        let mut height = self.height;
        loop {
            let place = node.place(slot_of(key, height))?;
            match &node.kids {
                Kids::Leaf(values) => return Some(&values[place]),
                Kids::Inner(nodes) => node = &nodes[place],
            }
            height -= 1;
        }
    }

    /// The value of the largest key at or before `key`.
    pub fn floor(&self, key: u64) -> Option<&T> {
        let root = self.root.as_ref()?;
        // Behind the last key that this height can hold, every key comes before.
        let key = if self.covers(key) { key } else { (1 << (BITS * (self.height + 1))) - 1 };
        root.floor(key, self.height)
    }

    /// Puts `value` at `key`, untagged.
    ///
    /// # Panics
    /// If `key` is occupied.
    pub fn insert(&mut self, key: u64, value: T) {
        while !self.covers(key) {
            self.height += 1;
            if let Some(old) = self.root.take() {
                let mut root = Node::new(self.height);
                root.present = 1;
                root.take_over(0, old.tags);
                root.kids = Kids::Inner(vec![old]);
                self.root = Some(root);
            }
        }
        let height = self.height;
        let root = self.root.get_or_insert_with(|| Node::new(height));
        root.insert(key, height, value);
        self.len += 1;
    }

    /// Takes the value at `key` out.
    pub fn remove(&mut self, key: u64) -> Option<T> {
        if !self.covers(key) {
            return None;
        }
        let value = self.root.as_mut()?.remove(key, self.height)?;
        self.len -= 1;
        if self.len == 0 {
            *self = Self::default();
        }
        Some(value)
    }

    /// Sets or clears a tag; `false` when nothing is at `key`.
    pub fn set_tag(&mut self, key: u64, tag: Tag, on: bool) -> bool {
        let height = self.height;
        self.covers(key)
            && self.root.as_mut().is_some_and(|root| root.set_tag(key, height, tag, on))
    }

    fn search(&self, from: u64, want: Want) -> Option<(u64, &T)> {
        if !self.covers(from) {
            return None;
        }
        self.root.as_ref()?.next(from, 0, self.height, want)
    }

    /// The first value at or after `from`.
    pub fn next(&self, from: u64) -> Option<(u64, &T)> {
        self.search(from, Want::Any)
    }

    /// The first value at or after `from` with `tag`.
    pub fn next_tagged(&self, from: u64, tag: Tag) -> Option<(u64, &T)> {
        self.search(from, Want::Tagged(tag))
    }

    /// The first value at or after `from` with any tag.
    pub fn next_with_any_tag(&self, from: u64) -> Option<(u64, &T)> {
        self.search(from, Want::AnyTag)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::kit::dice::Dice;

    type Model = BTreeMap<u64, (u32, [bool; 2])>;

    /// Keys in clusters of all heights, so that nodes are shared, grown and emptied.
    fn key(dice: &mut Dice) -> u64 {
        let base = [0, 60, 1 << 6, 1 << 12, (1 << 40) + 5, u64::MAX - 40];
        base[dice.roll(6) as usize] + dice.roll(40)
    }

    fn compare_searches(index: &Index<u32>, model: &Model, from: u64) {
        let first = |accept: &dyn Fn(&[bool; 2]) -> bool| {
            let mut rest = model.range(from..).filter(|(_, (_, tags))| accept(tags));
            rest.next().map(|(at, (value, _))| (*at, *value))
        };
        let plain = |found: Option<(u64, &u32)>| found.map(|(at, value)| (at, *value));
        assert_eq!(plain(index.next(from)), first(&|_| true));
        for tag in [Tag::Dirty, Tag::Writeback] {
            let found = plain(index.next_tagged(from, tag));
            assert_eq!(found, first(&|tags| tags[tag as usize]), "{tag:?} {from}");
        }
        let found = plain(index.next_with_any_tag(from));
        assert_eq!(found, first(&|tags| tags[0] || tags[1]));
    }

    #[test]
    fn the_index_behaves_like_an_ordered_map_with_tags() {
        let mut dice = Dice::new(7);
        let mut index = Index::default();
        let mut model = Model::new();
        for step in 0..20_000 {
            let at = key(&mut dice);
            // Phases of growing and shrinking, down to empty.
            let grow = step / 2000 % 2 == 0;
            match dice.roll(6) {
                0 | 1 if grow => {
                    model.entry(at).or_insert_with(|| {
                        index.insert(at, step);
                        (step, [false; 2])
                    });
                }
                0..=2 => assert_eq!(index.remove(at), model.remove(&at).map(|entry| entry.0)),
                3 => {
                    let tag = [Tag::Dirty, Tag::Writeback][dice.roll(2) as usize];
                    let on = dice.roll(2) == 0;
                    let there = model.get_mut(&at);
                    assert_eq!(index.set_tag(at, tag, on), there.is_some());
                    if let Some((_, tags)) = there {
                        tags[tag as usize] = on;
                    }
                }
                _ => compare_searches(&index, &model, at),
            }
            assert_eq!(index.get(at), model.get(&at).map(|entry| &entry.0));
            assert_eq!(index.len(), model.len());
        }
    }

    #[test]
    fn an_emptied_index_holds_no_memory() {
        let mut index = Index::default();
        for at in [3, 1 << 50, u64::MAX] {
            index.insert(at, ());
        }
        for at in [u64::MAX, 3, 1 << 50] {
            assert_eq!(index.remove(at), Some(()));
        }
        assert!(index.root.is_none() && index.height == 0 && index.is_empty());
    }
}
