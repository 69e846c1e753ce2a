//! Clean and committed images of metadata blocks, found by address.
//!
//! Guarantees: an image in here is the committed one; eviction drops only images that can be read
//! again (the table keeps the others). A clock with one access bit: a block that was used since the
//! hand passed stays for another round. Does no I/O. Called by `meta`.

use std::collections::HashMap;
use std::collections::VecDeque;

use foliant_device::Buffer;

use crate::units::BlockNo;

#[derive(Debug)]
struct Cached {
    image: Buffer,
    used: bool,
}

/// Images that are looked at for each that shall go.
const LOOKS_PER_IMAGE: usize = 4;

/// The images; look-ups only, so that the order of the map never matters.
#[derive(Debug, Default)]
pub struct ImageCache {
    images: HashMap<BlockNo, Cached>,
    /// Candidates for eviction, oldest first; may name blocks that are gone.
    clock: VecDeque<BlockNo>,
}

/// What an eviction did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Evicted {
    /// Images looked at.
    pub examined: usize,
    /// Images dropped.
    pub freed: usize,
}

impl ImageCache {
    /// The image of `at`, if cached.
    pub fn get(&mut self, at: BlockNo) -> Option<Buffer> {
        let cached = self.images.get_mut(&at)?;
        cached.used = true;
        Some(cached.image.clone())
    }

    /// Puts the committed image of `at` in, in place of an older one.
    pub fn put(&mut self, at: BlockNo, image: Buffer) {
        let fresh = self.images.insert(at, Cached { image, used: false }).is_none();
        if fresh {
            self.clock.push_back(at);
        }
    }

    /// Takes the image of `at` out.
    pub fn remove(&mut self, at: BlockNo) {
        self.images.remove(&at);
    }

    /// Number of images.
    pub fn len(&self) -> usize {
        self.images.len()
    }

    /// Drops up to `count` images for which `may_go` says yes; looks at each at most twice, and at a
    /// number in proportion to `count`: the next call goes on where this one stopped.
    pub fn evict(&mut self, count: usize, may_go: impl Fn(BlockNo) -> bool) -> Evicted {
        let mut evicted = Evicted::default();
        // Random overwrites keep most leaves in the log, where they cannot go: all were looked at in vain
        // whenever somebody wanted a block of memory.
        let most = (self.clock.len() * 2).min(count.saturating_mul(LOOKS_PER_IMAGE));
        while evicted.freed < count && evicted.examined < most {
            let Some(at) = self.clock.pop_front() else { break };
            evicted.examined += 1;
            match self.images.get_mut(&at) {
                None => {}
                Some(cached) if cached.used || !may_go(at) => {
                    cached.used = false;
                    self.clock.push_back(at);
                }
                Some(_) => {
                    self.images.remove(&at);
                    evicted.freed += 1;
                }
            }
        }
        evicted
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use foliant_device::Arena;

    #[test]
    fn used_and_pinned_images_stay() {
        let arena = Arena::new(64 * 4096).expect("an arena");
        let mut cache = ImageCache::default();
        for at in 0..8 {
            cache.put(BlockNo(at), arena.allocate(0).expect("room"));
        }
        cache.get(BlockNo(3)).expect("it is there");
        let evicted = cache.evict(6, |at| at != BlockNo(5));
        assert_eq!(evicted.freed, 6);
        assert!(cache.get(BlockNo(3)).is_some() && cache.get(BlockNo(5)).is_some());
        assert_eq!(cache.evict(9, |_| false).freed, 0);
    }

    /// Each block of memory that was wanted cost a look at every leaf of a large tree, because all of them
    /// were in the log.
    #[test]
    fn looks_are_in_proportion_and_come_round() {
        let arena = Arena::new(64 * 4096).expect("an arena");
        let mut cache = ImageCache::default();
        for at in 0..40 {
            cache.put(BlockNo(at), arena.allocate(0).expect("room"));
        }
        let evicted = cache.evict(2, |at| at == BlockNo(39));
        assert_eq!((evicted.examined, evicted.freed), (2 * LOOKS_PER_IMAGE, 0));
        let freed: usize = (0..5).map(|_| cache.evict(2, |at| at == BlockNo(39)).freed).sum();
        assert_eq!(freed, 1, "the next calls go on where the last one stopped");
    }
}
