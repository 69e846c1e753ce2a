//! Remembers keys that were evicted not long ago, without their values.
//!
//! Guarantees: fixed memory (8 bytes per remembered key), constant cost. A key can be forgotten
//! early (its bucket is full of younger ones) or confused with another (1 in 2^32 per entry); both
//! only make a hint wrong. Called by `lru`.

/// Keys with the same bucket number compete for this many places.
const WAYS: usize = 4;

/// A set-associative table of fingerprints with the time of their eviction.
#[derive(Debug)]
pub struct Ghost {
    /// Fingerprint in the upper half, time in the lower; 0 is empty.
    places: Vec<[u64; WAYS]>,
    /// Counts evictions; wraps after 2^32, when at worst stale entries look young once.
    now: u32,
}

/// Mixes all bits of `value` (the finaliser of splitmix64).
pub fn mix(value: u64) -> u64 {
    let mut z = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

impl Ghost {
    /// Room for about `keys` keys.
    pub fn new(keys: usize) -> Self {
        let buckets = keys.div_ceil(WAYS).next_power_of_two();
        Self { places: vec![[0; WAYS]; buckets], now: 0 }
    }

    fn locate(&self, hash: u64) -> (usize, u64) {
        let bucket = hash as usize & (self.places.len() - 1);
        (bucket, (hash >> 32).max(1))
    }

    fn age(&self, place: u64) -> u32 {
        self.now.wrapping_sub(place as u32)
    }

    /// Remembers a key by its hash, at the cost of the oldest key of its bucket.
    pub fn insert(&mut self, hash: u64) {
        self.now = self.now.wrapping_add(1);
        let (bucket, print) = self.locate(hash);
        let places = self.places[bucket];
        let rank = |way: &usize| match places[*way] {
            0 => u64::MAX,
            place if place >> 32 == print => u64::MAX,
            place => u64::from(self.age(place)),
        };
        let way = (0..WAYS).max_by_key(rank).expect("there are ways");
        self.places[bucket][way] = print << 32 | u64::from(self.now);
    }

    /// Forgets the key; whether it was among the last `window` evictions.
    pub fn take(&mut self, hash: u64, window: usize) -> bool {
        let (bucket, print) = self.locate(hash);
        let found = self.places[bucket].iter().position(|p| p >> 32 == print);
        let Some(way) = found else { return false };
        let place = std::mem::take(&mut self.places[bucket][way]);
        self.age(place) as usize <= window
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_remembered_within_the_window_and_taken_once() {
        let mut ghost = Ghost::new(64);
        for key in 0..10 {
            ghost.insert(mix(key));
        }
        assert!(ghost.take(mix(9), 0));
        assert!(!ghost.take(mix(9), 100), "taken twice");
        assert!(!ghost.take(mix(0), 8), "nine evictions ago");
        ghost.insert(mix(0));
        assert!(ghost.take(mix(0), 8));
        assert!(!ghost.take(mix(77), 1000), "never evicted");
    }

    #[test]
    fn a_full_bucket_forgets_its_oldest_key() {
        let mut ghost = Ghost::new(WAYS);
        let key = |n: u64| n << 32;
        for n in 1..=5 {
            ghost.insert(key(n));
        }
        assert!(!ghost.take(key(1), 100));
        assert!((2..=5).all(|n| ghost.take(key(n), 100)));
    }
}
