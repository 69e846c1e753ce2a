//! Seeded numbers for tests: the same seed throws the same dice. Does not exist outside tests.

/// A splitmix64 generator.
pub struct Dice(u64);

impl Dice {
    /// Starts from `seed`.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// A number below `sides`.
    pub fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % sides
    }

    /// A non-empty range below `end`.
    pub fn range(&mut self, end: u64) -> std::ops::Range<u64> {
        let start = self.roll(end);
        start..start + 1 + self.roll(end - start)
    }
}
