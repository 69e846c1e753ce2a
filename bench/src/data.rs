//! What the blocks hold: incompressible, unique per block and generation, and self-describing.
//!
//! Guarantees that a block which passes [`Pattern::check`] holds exactly the bytes that
//! [`Pattern::fill`] made for that block and generation: every byte is compared. Does not do I/O.
//! Called by the clients of a run and by the verification.

use std::sync::Mutex;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;

use foliant_device::BLOCK_SIZE;

const WORD: usize = 8;
const WORDS: usize = BLOCK_SIZE / WORD;
/// Block number, generation with magic, seed, hash.
const HEADER_WORDS: usize = 4;
const MAGIC: u64 = 0x464f_4c49;

/// A small, fast generator (splitmix64); one seed gives one sequence.
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }

    /// Evenly from `0..bound`.
    ///
    /// # Panics
    /// If `bound` is zero.
    pub fn below(&mut self, bound: u64) -> u64 {
        assert!(bound > 0, "a choice out of nothing");
        ((u128::from(self.next()) * u128::from(bound)) >> 64) as u64
    }
}

fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// Makes and judges the content of blocks. 4 KiB, shared by all clients.
#[derive(Debug)]
pub struct Pattern {
    seed: u64,
    noise: Box<[u64]>,
}

impl Pattern {
    pub fn new(seed: u64) -> Self {
        let mut random = Random::new(seed ^ 0x6e_6f69_7365);
        let noise = (0..WORDS).map(|_| random.next()).collect();
        Self { seed, noise }
    }

    fn header(&self, block: u64, generation: u32) -> [u64; HEADER_WORDS] {
        let tag = MAGIC << 32 | u64::from(generation);
        let hash = mix(mix(mix(block) ^ tag) ^ self.seed);
        [block, tag, self.seed, hash]
    }

    /// Fills whole blocks, the first of which is `block`.
    ///
    /// # Panics
    /// If `out` is not whole blocks.
    pub fn fill(&self, block: u64, generation: u32, out: &mut [u8]) {
        assert!(out.len().is_multiple_of(BLOCK_SIZE), "a partial block");
        for (at, bytes) in out.chunks_exact_mut(BLOCK_SIZE).enumerate() {
            let header = self.header(block + at as u64, generation);
            // One key per block over common noise: as fast as a copy, and no two blocks alike.
            let key = header[HEADER_WORDS - 1];
            for (word, noise) in bytes.chunks_exact_mut(WORD).zip(&self.noise) {
                word.copy_from_slice(&(noise ^ key).to_le_bytes());
            }
            for (word, value) in bytes.chunks_exact_mut(WORD).zip(header) {
                word.copy_from_slice(&value.to_le_bytes());
            }
        }
    }

    /// Whether one block is what `fill` made; the error says what it is instead.
    ///
    /// # Panics
    /// If `bytes` is not one block.
    pub fn check(&self, block: u64, generation: u32, bytes: &[u8]) -> Result<(), String> {
        assert_eq!(bytes.len(), BLOCK_SIZE, "one block at a time");
        let header = self.header(block, generation);
        let key = header[HEADER_WORDS - 1];
        let (head, body) = bytes.split_at(HEADER_WORDS * WORD);
        let words = body.chunks_exact(WORD).zip(&self.noise[HEADER_WORDS..]);
        // Differences are gathered without a branch, so that this runs at memory speed.
        let difference = words.fold(0, |all, (word, noise)| all | (word_of(word) ^ noise ^ key));
        let same_head = head.chunks_exact(WORD).map(word_of).eq(header);
        if same_head && difference == 0 {
            return Ok(());
        }
        Err(self.describe(block, generation, bytes))
    }

    /// Whether one block has the head that `fill` made.
    pub fn is_headed(&self, block: u64, generation: u32, bytes: &[u8]) -> bool {
        let head = bytes.chunks_exact(WORD).take(HEADER_WORDS).map(word_of);
        head.eq(self.header(block, generation))
    }

    /// The generation that a block says it has, if it says that this run made it.
    fn claimed(&self, bytes: &[u8]) -> Option<u32> {
        let tag = word_of(&bytes[WORD..2 * WORD]);
        let seed = word_of(&bytes[2 * WORD..3 * WORD]);
        (tag >> 32 == MAGIC && seed == self.seed).then_some(tag as u32)
    }

    fn describe(&self, block: u64, generation: u32, bytes: &[u8]) -> String {
        let wanted = format!("block {block} should hold generation {generation}");
        if bytes.iter().all(|&b| b == 0) {
            return format!("{wanted}; it is all zero");
        }
        let words: Vec<u64> = bytes.chunks_exact(WORD).take(HEADER_WORDS).map(word_of).collect();
        let (tag, found) = (words[1] >> 32, words[1] as u32);
        if tag != MAGIC || words[2] != self.seed {
            return format!("{wanted}; it holds bytes that this run did not write");
        }
        let mut right = vec![0; BLOCK_SIZE];
        self.fill(words[0], found, &mut right);
        let wrong = right.iter().zip(bytes).filter(|(a, b)| a != b).count();
        format!(
            "{wanted}; it says block {}, generation {found}, and {wrong} bytes differ from that",
            words[0]
        )
    }
}

fn word_of(bytes: &[u8]) -> u64 {
    u64::from_le_bytes(bytes.try_into().expect("chunks of eight bytes"))
}

/// What every block must hold, and what was found wrong.
#[derive(Debug)]
pub struct Ledger {
    pub pattern: Pattern,
    /// Generation by block; empty when all blocks are in generation 1.
    generations: Vec<AtomicU32>,
    checked: AtomicU64,
    mismatches: AtomicU64,
    /// Written on the first mismatch only, so a plain mutex.
    first: Mutex<Option<String>>,
}

impl Ledger {
    /// For `blocks` blocks that may be rewritten: 4 bytes of memory per block.
    pub fn rewritten(seed: u64, blocks: u64) -> Self {
        let mut ledger = Self::written_once(seed);
        ledger.generations.resize_with(blocks as usize, || AtomicU32::new(1));
        ledger
    }

    /// For blocks that stay in generation 1: no memory per block.
    pub fn written_once(seed: u64) -> Self {
        Self {
            pattern: Pattern::new(seed),
            generations: Vec::new(),
            checked: AtomicU64::new(0),
            mismatches: AtomicU64::new(0),
            first: Mutex::new(None),
        }
    }

    /// The generation that `block` must hold.
    pub fn generation(&self, block: u64) -> u32 {
        let known = self.generations.get(block as usize);
        known.map_or(1, |g| g.load(Ordering::Acquire))
    }

    /// Puts new content for whole blocks into `out` and expects it from then on.
    ///
    /// Only the one client that owns these blocks may call it.
    pub fn renew(&self, block: u64, out: &mut [u8]) {
        for (at, bytes) in out.chunks_exact_mut(BLOCK_SIZE).enumerate() {
            let block = block + at as u64;
            let next = self.generation(block) + 1;
            if let Some(known) = self.generations.get(block as usize) {
                known.store(next, Ordering::Release);
            }
            self.pattern.fill(block, next, bytes);
        }
    }

    /// Expects the next generation of `block` without making it: somebody else wrote it.
    pub fn advance(&self, block: u64) {
        if let Some(known) = self.generations.get(block as usize) {
            known.fetch_add(1, Ordering::AcqRel);
        }
    }

    /// Compares every byte of one block, which may be up to `slack` generations newer than expected;
    /// whether it is newer.
    pub fn check_since(&self, block: u64, bytes: &[u8], slack: u32) -> bool {
        self.checked.fetch_add(1, Ordering::Relaxed);
        let known = self.generation(block);
        // A block that is not of this run is named as such by the comparison with what is expected.
        let found = self.pattern.claimed(bytes).unwrap_or(known);
        let allowed = (known..=known.saturating_add(slack)).contains(&found);
        let wanted = if allowed { found } else { known };
        match self.pattern.check(block, wanted, bytes) {
            Ok(()) => found > known,
            Err(what) => {
                self.mismatch(what);
                false
            }
        }
    }

    /// Compares the heads of whole blocks only, for reads that are as fast as a comparison.
    pub fn glance(&self, block: u64, bytes: &[u8]) {
        for (block, bytes) in (block..).zip(bytes.chunks_exact(BLOCK_SIZE)) {
            if !self.pattern.is_headed(block, self.generation(block), bytes) {
                self.check(block, bytes);
            }
        }
    }

    /// Compares every byte of whole blocks and keeps the count.
    pub fn check(&self, block: u64, bytes: &[u8]) {
        assert!(bytes.len().is_multiple_of(BLOCK_SIZE), "a partial block");
        let blocks = bytes.chunks_exact(BLOCK_SIZE);
        self.checked.fetch_add(blocks.len() as u64, Ordering::Relaxed);
        for (at, bytes) in blocks.enumerate() {
            let block = block + at as u64;
            if let Err(what) = self.pattern.check(block, self.generation(block), bytes) {
                self.mismatch(what);
            }
        }
    }

    /// Counts one wrong finding and keeps the first.
    pub fn mismatch(&self, what: String) {
        self.mismatches.fetch_add(1, Ordering::Relaxed);
        let mut first = self.first.lock().unwrap_or_else(|e| e.into_inner());
        first.get_or_insert(what);
    }

    /// Blocks compared so far.
    pub fn checked(&self) -> u64 {
        self.checked.load(Ordering::Relaxed)
    }

    /// Blocks that were not what they must be.
    pub fn mismatches(&self) -> u64 {
        self.mismatches.load(Ordering::Relaxed)
    }

    /// The first wrong finding.
    pub fn first_mismatch(&self) -> Option<String> {
        self.first.lock().unwrap_or_else(|e| e.into_inner()).clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_flipped_bit_is_noticed() {
        let pattern = Pattern::new(7);
        let mut block = vec![0; BLOCK_SIZE];
        pattern.fill(42, 3, &mut block);
        assert_eq!(pattern.check(42, 3, &block), Ok(()));
        for at in 0..BLOCK_SIZE {
            block[at] ^= 1 << (at % 8);
            assert!(pattern.check(42, 3, &block).is_err(), "byte {at}");
            block[at] ^= 1 << (at % 8);
        }
    }

    #[test]
    fn a_wrong_place_generation_or_seed_is_named() {
        let pattern = Pattern::new(7);
        let mut block = vec![0; BLOCK_SIZE];
        pattern.fill(42, 3, &mut block);
        let elsewhere = pattern.check(43, 3, &block).unwrap_err();
        assert!(elsewhere.contains("says block 42, generation 3, and 0 bytes"), "{elsewhere}");
        assert!(pattern.check(42, 4, &block).unwrap_err().contains("generation 3"));
        let foreign = Pattern::new(8).check(42, 3, &block).unwrap_err();
        assert!(foreign.contains("did not write"), "{foreign}");
        assert!(pattern.check(42, 3, &vec![0; BLOCK_SIZE]).unwrap_err().contains("all zero"));
    }

    #[test]
    fn no_two_blocks_or_generations_share_a_word_in_place() {
        let pattern = Pattern::new(7);
        let mut blocks = vec![0; 3 * BLOCK_SIZE];
        pattern.fill(0, 1, &mut blocks[..2 * BLOCK_SIZE]);
        pattern.fill(0, 2, &mut blocks[2 * BLOCK_SIZE..]);
        for at in (HEADER_WORDS * WORD..BLOCK_SIZE).step_by(WORD) {
            let word = |b: usize| word_of(&blocks[b * BLOCK_SIZE + at..][..WORD]);
            assert!(word(0) != word(1) && word(0) != word(2) && word(1) != word(2));
        }
    }

    #[test]
    fn the_ledger_expects_the_newest_content() {
        let ledger = Ledger::rewritten(1, 4);
        let mut old = vec![0; BLOCK_SIZE];
        ledger.pattern.fill(2, 1, &mut old);
        ledger.check(2, &old);
        assert_eq!((ledger.checked(), ledger.mismatches()), (1, 0));
        let mut new = vec![0; BLOCK_SIZE];
        ledger.renew(2, &mut new);
        ledger.check(2, &new);
        ledger.check(2, &old);
        assert_eq!((ledger.checked(), ledger.mismatches()), (3, 1));
        assert!(ledger.first_mismatch().unwrap().contains("generation 2"));
    }

    #[test]
    fn newer_generations_pass_older_and_far_ones_do_not() {
        let ledger = Ledger::rewritten(3, 4);
        let mut block = vec![0; BLOCK_SIZE];
        ledger.advance(2);
        let mut try_generation = |generation, slack| {
            let before = ledger.mismatches();
            ledger.pattern.fill(2, generation, &mut block);
            let newer = ledger.check_since(2, &block, slack);
            (newer, ledger.mismatches() - before)
        };
        assert_eq!(try_generation(2, 1), (false, 0));
        assert_eq!(try_generation(3, 1), (true, 0));
        assert_eq!(try_generation(1, 1), (false, 1), "an acknowledged write is lost");
        assert_eq!(try_generation(4, 1), (false, 1), "nobody wrote that");
        ledger.pattern.fill(2, 3, &mut block);
        block[4000] ^= 1;
        assert!(!ledger.check_since(2, &block, 1));
        assert_eq!(ledger.mismatches(), 3, "a torn block is no newer block");
    }

    #[test]
    fn a_glance_sees_a_wrong_head() {
        let ledger = Ledger::rewritten(3, 4);
        let mut block = vec![0; BLOCK_SIZE];
        ledger.pattern.fill(1, 1, &mut block);
        ledger.glance(1, &block);
        assert_eq!((ledger.checked(), ledger.mismatches()), (0, 0));
        ledger.glance(0, &block);
        assert_eq!((ledger.checked(), ledger.mismatches()), (1, 1));
    }
}
