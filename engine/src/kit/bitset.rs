//! A set of small numbers as bits, searched a word at a time.
//!
//! Guarantees that bits outside the set's size are never seen or changed. Does not grow and does
//! not lock. Called by `alloc`.

use std::ops::Range;

const WORD: usize = u64::BITS as usize;

/// Bits `0..len`, each set or clear.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BitSet {
    words: Box<[u64]>,
    len: usize,
}

impl BitSet {
    /// All of `len` bits clear.
    pub fn new(len: usize) -> Self {
        Self { words: vec![0; len.div_ceil(WORD)].into_boxed_slice(), len }
    }

    /// `len` bits as they lie in `bytes`: bit `i` is bit `i % 8` of byte `i / 8`.
    ///
    /// # Panics
    /// If `bytes` is too short.
    pub fn from_bytes(len: usize, bytes: &[u8]) -> Self {
        assert!(bytes.len() * 8 >= len, "too few bytes for {len} bits");
        let mut set = Self::new(len);
        for (at, &byte) in bytes[..len.div_ceil(8)].iter().enumerate() {
            set.words[at / 8] |= u64::from(byte) << (at % 8 * 8);
        }
        if !len.is_multiple_of(WORD) {
            set.words[len / WORD] &= (1 << (len % WORD)) - 1;
        }
        set
    }

    /// Number of bits.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Number of set bits.
    pub fn count(&self) -> usize {
        self.words.iter().map(|w| w.count_ones() as usize).sum()
    }

    #[cfg(test)]
    /// Whether bit `at` is set.
    ///
    /// # Panics
    /// If `at` is outside.
    pub fn get(&self, at: usize) -> bool {
        assert!(at < self.len, "bit {at} of {}", self.len);
        self.words[at / WORD] >> (at % WORD) & 1 == 1
    }

    /// Sets the bits of `range`; returns how many were clear.
    ///
    /// # Panics
    /// If the range is not inside.
    pub fn set(&mut self, range: Range<usize>) -> usize {
        let mut changed = 0;
        for (word, mask) in self.masks(range) {
            changed += (mask & !self.words[word]).count_ones() as usize;
            self.words[word] |= mask;
        }
        changed
    }

    /// Clears the bits of `range`; returns how many were set.
    ///
    /// # Panics
    /// If the range is not inside.
    pub fn clear(&mut self, range: Range<usize>) -> usize {
        let mut changed = 0;
        for (word, mask) in self.masks(range) {
            changed += (mask & self.words[word]).count_ones() as usize;
            self.words[word] &= !mask;
        }
        changed
    }

    /// The first set bit at or after `from`.
    pub fn next_set(&self, from: usize) -> Option<usize> {
        self.next(from, 0)
    }

    /// The first clear bit at or after `from`.
    pub fn next_clear(&self, from: usize) -> Option<usize> {
        self.next(from, u64::MAX)
    }

    /// The first bit at or after `from` whose word, xored with `flip`, shows it set.
    fn next(&self, from: usize, flip: u64) -> Option<usize> {
        if from >= self.len {
            return None;
        }
        let mut word = from / WORD;
        let mut bits = (self.words[word] ^ flip) & (u64::MAX << (from % WORD));
        while bits == 0 {
            word += 1;
            bits = *self.words.get(word)? ^ flip;
        }
        let at = word * WORD + bits.trailing_zeros() as usize;
        (at < self.len).then_some(at)
    }

    /// The words that `range` touches, each with the mask of its bits.
    fn masks(&self, range: Range<usize>) -> impl Iterator<Item = (usize, u64)> + use<> {
        assert!(
            range.start <= range.end && range.end <= self.len,
            "bits {range:?} of {}",
            self.len
        );
        let words =
            if range.is_empty() { 0..0 } else { range.start / WORD..(range.end - 1) / WORD + 1 };
        words.map(move |word| {
            let first = range.start.max(word * WORD) - word * WORD;
            let last = range.end.min((word + 1) * WORD) - 1 - word * WORD;
            let mask = (u64::MAX << first) & (u64::MAX >> (WORD - 1 - last));
            (word, mask)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn model_next(model: &[bool], from: usize, value: bool) -> Option<usize> {
        (from..model.len()).find(|&at| model[at] == value)
    }

    #[test]
    fn behaves_like_a_list_of_flags() {
        let mut seed = 7u64;
        let mut random = move |below: usize| {
            seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (seed >> 33) as usize % below
        };
        for len in [1, 63, 64, 65, 200, 1000] {
            let mut set = BitSet::new(len);
            let mut model = vec![false; len];
            for _ in 0..300 {
                let start = random(len + 1);
                let end = start + random(len + 1 - start);
                let value = random(2) == 0;
                let expected = model[start..end].iter().filter(|&&b| b != value).count();
                let changed = if value { set.set(start..end) } else { set.clear(start..end) };
                model[start..end].fill(value);
                assert_eq!(changed, expected);
                let from = random(len + 2);
                assert_eq!(set.next_set(from), model_next(&model, from, true));
                assert_eq!(set.next_clear(from), model_next(&model, from, false));
                assert_eq!(set.count(), model.iter().filter(|&&b| b).count());
                assert_eq!(set.get(start.min(len - 1)), model[start.min(len - 1)]);
            }
        }
    }

    #[test]
    fn bits_of_bytes_are_least_significant_first_and_cut_at_the_length() {
        let set = BitSet::from_bytes(10, &[0b0000_0101, 0xff]);
        let bits: Vec<usize> = (0..10).filter(|&at| set.get(at)).collect();
        assert_eq!(bits, [0, 2, 8, 9]);
        assert_eq!(set.count(), 4);
    }
}
