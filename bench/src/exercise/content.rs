//! The bytes of a model, in chunks that clones share until one of them changes.
//!
//! Guarantees to behave like a vector of bytes that grows with zeroes; a clone costs a few words
//! for each chunk, so that an outcome can be tried without a copy of everything. Does not know
//! blocks or operations. Used by `oracle`.

use std::ops::Range;
use std::sync::Arc;

/// Bytes of a chunk.
const CHUNK: u64 = 64 << 10;
/// Bytes that are looked at together: the loop over them has no branch.
const LANE: usize = 256;

/// Bytes.
#[derive(Debug, Clone, Default)]
pub struct Content {
    len: u64,
    /// What is `None` is zero, and so is everything behind `len`.
    chunks: Vec<Option<Arc<[u8]>>>,
}

/// The pieces of `range` by chunk, with their place inside of it.
fn pieces(range: Range<u64>) -> impl Iterator<Item = (usize, Range<usize>)> {
    let chunks = range.start / CHUNK..range.end.div_ceil(CHUNK);
    chunks.map(move |chunk| {
        let base = chunk * CHUNK;
        let start = range.start.max(base) - base;
        (chunk as usize, start as usize..(range.end.min(base + CHUNK) - base) as usize)
    })
}

fn all_zero(bytes: &[u8]) -> bool {
    bytes.chunks(LANE).all(|lane| lane.iter().fold(0, |all, byte| all | byte) == 0)
}

impl Content {
    /// How many bytes.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    fn clip(&self, range: Range<u64>) -> Range<u64> {
        let end = range.end.min(self.len);
        range.start.min(end)..end
    }

    /// The bytes of `range` below the end.
    pub fn read(&self, range: Range<u64>) -> Vec<u8> {
        let range = self.clip(range);
        let mut bytes = Vec::with_capacity((range.end - range.start) as usize);
        for (chunk, within) in pieces(range) {
            match &self.chunks[chunk] {
                Some(chunk) => bytes.extend_from_slice(&chunk[within]),
                None => bytes.resize(bytes.len() + within.len(), 0),
            }
        }
        bytes
    }

    /// Whether the bytes of `range` below the end are all zero.
    pub fn is_zero(&self, range: Range<u64>) -> bool {
        let zero = |(chunk, within): (usize, Range<usize>)| match &self.chunks[chunk] {
            Some(chunk) => all_zero(&chunk[within]),
            None => true,
        };
        pieces(self.clip(range)).all(zero)
    }

    /// Cuts the end off, or adds zeroes.
    pub fn resize(&mut self, len: u64) {
        if len < self.len {
            self.zero(len..self.len);
        }
        self.len = len;
        self.chunks.resize(len.div_ceil(CHUNK) as usize, None);
    }

    fn chunk(&mut self, at: usize) -> &mut [u8] {
        let chunk = self.chunks[at].get_or_insert_with(|| vec![0; CHUNK as usize].into());
        Arc::make_mut(chunk)
    }

    /// Replaces bytes, all of them below the end.
    pub fn write(&mut self, at: u64, mut bytes: &[u8]) {
        for (chunk, within) in pieces(at..at + bytes.len() as u64) {
            let (now, rest) = bytes.split_at(within.len());
            self.chunk(chunk)[within].copy_from_slice(now);
            bytes = rest;
        }
    }

    /// Zeroes the bytes of `range` below the end.
    pub fn zero(&mut self, range: Range<u64>) {
        for (chunk, within) in pieces(self.clip(range)) {
            match self.chunks[chunk] {
                None => {}
                Some(_) if within.len() as u64 == CHUNK => self.chunks[chunk] = None,
                Some(_) => self.chunk(chunk)[within].fill(0),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use foliant_device::sim::Rng;

    #[test]
    fn it_behaves_like_a_vector_and_clones_stay_as_they_are() {
        let mut rng = Rng::new(3);
        let (mut content, mut model) = (Content::default(), Vec::new());
        for round in 0..2_000_u32 {
            let (before, kept) = (content.clone(), model.clone());
            let at = rng.below(5 * CHUNK);
            let end = at + rng.below(2 * CHUNK);
            let inside = |len: usize| (at as usize).min(len)..(end as usize).min(len);
            match rng.below(4) {
                0 => {
                    content.resize(at);
                    model.resize(at as usize, 0);
                }
                1 => {
                    content.zero(at..end);
                    let range = inside(model.len());
                    model[range].fill(0);
                }
                _ => {
                    let range = inside(model.len());
                    let bytes = vec![round as u8 | 1; range.len()];
                    content.write(range.start as u64, &bytes);
                    model[range].copy_from_slice(&bytes);
                }
            }
            assert_eq!(content.len(), model.len() as u64);
            assert_eq!(content.read(at..end), model[inside(model.len())]);
            assert_eq!(
                content.is_zero(at..end),
                model[inside(model.len())].iter().all(|&b| b == 0)
            );
            assert_eq!(before.read(0..u64::MAX), kept);
            assert_eq!(content.read(0..u64::MAX), model);
        }
    }
}
