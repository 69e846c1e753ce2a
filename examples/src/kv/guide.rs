//! Where a key leads from an inner page, without a look at the page: its keys shortened to four bytes each.
//!
//! The keys of one page mostly begin alike. A guide has what they all begin with once, and of each key the
//! four bytes behind it as a number, beside the child that it leads to; so a search touches a few lines of memory
//! that lie together, where one in the page touches another one with each key that it compares. Keys whose
//! numbers are the same are compared in the page.
//!
//! Guarantees the answers of `Node::position`. Does not keep the page. Called by `upper`.

use std::cmp::Ordering;

use crate::kv::error::Result;
use crate::kv::error::damaged;
use crate::kv::page::Node;
use crate::kv::units::Page;
use crate::kv::units::PageNo;

/// The keys and children of an inner page.
#[derive(Debug)]
pub struct Guide {
    no: PageNo,
    /// What all keys begin with.
    shared: Box<[u8]>,
    /// The child before all keys.
    first: PageNo,
    /// Of each key the bytes behind what is shared, and the child behind it. Ascending.
    keys: Box<[Key]>,
}

/// A key, shortened. Eight of them are a line of memory, child included.
#[derive(Debug)]
struct Key {
    /// The first byte highest, zeroes behind the key's end.
    head: u32,
    child: PageNo,
}

impl Guide {
    /// The guide of `page`. Errors: `Damaged`, also if it is a leaf or its keys are out of order.
    pub fn new(no: PageNo, page: &Page) -> Result<Self> {
        let node = Node::open(no, page)?;
        node.check_level(1)?;
        let keys = (0..node.len()).map(|index| node.key(index)).collect::<Result<Vec<_>>>()?;
        if !keys.is_sorted_by(|a, b| a < b) {
            return damaged(no, "its keys are out of order");
        }
        let shared = match (keys.first(), keys.last()) {
            (Some(first), Some(last)) => &first[..common(first, last)],
            _ => &[],
        };
        let key = |(index, key): (usize, &&[u8])| {
            let child = node.child(index + 1)?;
            Ok(Key { head: head(&key[shared.len()..]), child })
        };
        let short = keys.iter().enumerate().map(key).collect::<Result<_>>()?;
        Ok(Self { no, shared: shared.into(), first: node.child(0)?, keys: short })
    }

    /// The child under which `key` belongs. `page` is the one that this was made of.
    pub fn child(&self, page: &Page, key: &[u8]) -> Result<PageNo> {
        let position = match key[..key.len().min(self.shared.len())].cmp(&self.shared) {
            Ordering::Less => 0,
            Ordering::Greater => self.keys.len(),
            Ordering::Equal => {
                let wanted = head(&key[self.shared.len()..]);
                let low = self.keys.partition_point(|key| key.head < wanted);
                match self.keys.get(low) {
                    // What the numbers do not say, the page does.
                    Some(same) if same.head == wanted => {
                        Node::open(self.no, page)?.position(key)?
                    }
                    _ => low,
                }
            }
        };
        Ok(position.checked_sub(1).map_or(self.first, |behind| self.keys[behind].child))
    }
}

/// How many bytes both begin with.
fn common(one: &[u8], other: &[u8]) -> usize {
    one.iter().zip(other).take_while(|(a, b)| a == b).count()
}

/// The first four bytes as a number that is ordered like them.
fn head(bytes: &[u8]) -> u32 {
    let mut head = [0; 4];
    let len = bytes.len().min(4);
    head[..len].copy_from_slice(&bytes[..len]);
    u32::from_be_bytes(head)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;
    use crate::kv::node::NodeMut;
    use crate::kv::page::Kind;
    use crate::kv::page::blank;
    use crate::kv::page::inner_cell;

    fn page_of(keys: &BTreeSet<Vec<u8>>) -> Box<Page> {
        let mut page = blank();
        let mut node = NodeMut::format(7, &mut page, Kind::Inner, 100);
        for (index, key) in keys.iter().enumerate() {
            // What finds no room is left out.
            let _ = node.insert(index, &inner_cell(key, 101 + index as PageNo)).unwrap();
        }
        page
    }

    /// Keys that differ early, late, in their length alone, or by a zero at their end.
    fn key() -> impl Strategy<Value = Vec<u8>> {
        let short = prop::collection::vec(0_u8..3, 1..5);
        let begun = |begin: &'static str| {
            prop::collection::vec(0_u8..3, 0..12)
                .prop_map(move |rest| [begin.as_bytes(), &rest].concat())
        };
        prop_oneof![short, begun("key:0000"), begun("key:00001234567")]
    }

    proptest! {
        #[test]
        fn a_guide_leads_where_the_page_does(
            keys in prop::collection::btree_set(key(), 0..60),
            wanted in prop::collection::vec(key(), 1..40),
        ) {
            let page = page_of(&keys);
            let node = Node::open(7, &page).unwrap();
            let guide = Guide::new(7, &page).unwrap();
            for key in wanted.iter().chain(&keys) {
                let child = node.child(node.position(key).unwrap()).unwrap();
                prop_assert_eq!(guide.child(&page, key).unwrap(), child, "{:?}", key);
            }
        }
    }

    #[test]
    fn keys_that_begin_alike_are_told_apart_without_the_page() {
        let keys = (0..100).map(|n| format!("key:{n:012}").into_bytes()).collect();
        let guide = Guide::new(7, &page_of(&keys)).unwrap();
        assert_eq!(&*guide.shared, b"key:0000000000");
        // It does not open this one.
        let other = blank();
        assert_eq!(guide.child(&other, b"key:0000000000420").unwrap(), 143);
        assert_eq!(guide.child(&other, b"key").unwrap(), 100);
        assert_eq!(guide.child(&other, b"kez").unwrap(), 200);
        assert!(guide.child(&other, b"key:000000000042").is_err(), "it looks at this one");
    }

    #[test]
    fn what_is_no_inner_page_has_no_guide() {
        let mut leaf = blank();
        NodeMut::format(7, &mut leaf, Kind::Leaf, 0);
        assert!(Guide::new(7, &leaf).is_err());
        assert!(Guide::new(8, &page_of(&BTreeSet::from([vec![1]]))).is_err());
        let mut page = page_of(&BTreeSet::from([vec![1], vec![2]]));
        page.swap(16, 18);
        assert!(Guide::new(7, &page).is_err(), "its keys are out of order");
    }
}
