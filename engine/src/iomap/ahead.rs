//! The read-ahead detector: from the blocks that missed it guesses what will be read next.
//!
//! Guarantees: a read that does not continue an earlier one is never enlarged; a stream's window
//! grows by doubling from [`WINDOW_MIN`] to `READ_AHEAD_BLOCKS_MAX` blocks; several interleaved
//! streams are told apart. Pure: no clock, no I/O, constant size.
//!
//! Does not know about end of object or memory: the caller clips. Only misses are reported, so a
//! hit costs nothing. Called by `read`.

use crate::limits::READ_AHEAD_BLOCKS_MAX;

/// The first window of a stream in blocks.
pub const WINDOW_MIN: u64 = 4;
/// Interleaved streams of one object that are told apart.
const STREAMS: usize = 4;

/// One guess: who continues at `next` is this stream.
#[derive(Debug, Clone, Copy, Default)]
struct Stream {
    /// The block behind the last fetched one.
    next: u64,
    /// Blocks of the last fetch.
    window: u64,
    /// Whether it was continued at least once.
    established: bool,
    /// When it was last fed, in fetches; the oldest is replaced.
    fed: u64,
}

impl Stream {
    /// An established stream may have met cached blocks on its way; a young one must fit exactly.
    fn continues_at(&self, at: u64) -> bool {
        let slack = if self.established { self.window } else { 0 };
        self.window > 0 && (self.next..=self.next + slack).contains(&at)
    }
}

/// What is known of an object's readers.
#[derive(Debug, Default)]
pub struct ReadAhead {
    streams: [Stream; STREAMS],
    fetches: u64,
}

impl ReadAhead {
    /// A read of `demand` blocks missed at block `at`: how many blocks to fetch, at least `demand`.
    pub fn miss(&mut self, at: u64, demand: u64) -> u64 {
        self.fetches += 1;
        let found = self.streams.iter_mut().find(|s| s.continues_at(at));
        let (stream, window, established) = match found {
            Some(stream) => {
                let doubled = (2 * stream.window).clamp(WINDOW_MIN, READ_AHEAD_BLOCKS_MAX);
                (stream, doubled.max(demand), true)
            }
            None => {
                let oldest = self.streams.iter_mut().min_by_key(|s| s.fed);
                let oldest = oldest.expect("there is at least one stream");
                (oldest, demand, false)
            }
        };
        *stream =
            Stream { next: at.saturating_add(window), window, established, fed: self.fetches };
        window
    }

    /// The fetch at `at`, planned to end at `at + planned`, ended after `done` blocks.
    pub fn fetched(&mut self, at: u64, planned: u64, done: u64) {
        let planned_end = at.saturating_add(planned);
        let found = self.streams.iter_mut().find(|s| s.next == planned_end);
        if let Some(stream) = found {
            stream.next = at + done;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sequential_reader_gets_doubling_windows_up_to_the_limit() {
        let mut ahead = ReadAhead::default();
        let mut at = 0;
        let mut windows = Vec::new();
        for _ in 0..10 {
            let window = ahead.miss(at, 1);
            windows.push(window);
            at += window;
        }
        assert_eq!(windows, [1, 4, 8, 16, 32, 64, 128, 256, 256, 256]);
    }

    #[test]
    fn random_reads_are_never_enlarged() {
        let mut ahead = ReadAhead::default();
        let mut seed = 9_u64;
        for _ in 0..10_000 {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let at = 10 * (seed >> 40);
            assert_eq!(ahead.miss(at, 3), 3, "at {at}");
        }
    }

    #[test]
    fn interleaved_streams_keep_their_windows() {
        let mut ahead = ReadAhead::default();
        let mut at = [0, 1_000_000, 2_000_000, 3_000_000];
        let mut last = [0; 4];
        for _ in 0..6 {
            for (at, last) in at.iter_mut().zip(&mut last) {
                *last = ahead.miss(*at, 1);
                *at += *last;
            }
        }
        assert_eq!(last, [64; 4]);
    }

    #[test]
    fn a_fetch_cut_short_is_continued_where_it_ended() {
        let mut ahead = ReadAhead::default();
        assert_eq!(ahead.miss(0, 1), 1);
        assert_eq!(ahead.miss(1, 1), 4);
        ahead.fetched(1, 4, 2);
        assert_eq!(ahead.miss(3, 1), 8);
    }

    #[test]
    fn a_demand_larger_than_the_window_is_served_whole() {
        let mut ahead = ReadAhead::default();
        assert_eq!(ahead.miss(0, 300), 300);
        assert_eq!(ahead.miss(300, 300), 300);
    }
}
