//! The read-ahead detector of one handle: from the blocks that missed it guesses what comes next.
//!
//! Guarantees: a read that continues nothing starts nothing; a stream, forward or backward, gets
//! windows that double from [`WINDOW_MIN`] to `READ_AHEAD_BLOCKS_MAX` blocks, then several of them at
//! once; reads at equal distances get the next few places of the same distance; up to four
//! interleaved streams are told apart, and random reads between them do not push them out. Pure: no
//! clock, no I/O, constant size.
//!
//! Does not know about end of object, memory or what is cached: `flight` clips. Only misses are
//! reported, so a hit costs nothing. Called by `read`.

use crate::kit::sync::Mutex;
use crate::limits::READ_AHEAD_BLOCKS_MAX;
use crate::units::FileBlocks;

/// The first window of a stream in blocks.
pub const WINDOW_MIN: u64 = 4;
/// Interleaved streams of one handle that are told apart.
const STREAMS: usize = 4;
/// Windows of the largest size that an established stream keeps on their way: while one is copied
/// out, the device works on the others.
const WINDOWS_ON_THEIR_WAY: u64 = 3;
/// Places of a strided reader that are fetched ahead.
const STRIDES_MAX: u64 = 16;
/// A stream that was not continued for this many misses may be replaced like a chance read.
const FORGET_AFTER: u64 = 64;

/// What one handle has read lately; whoever reads through the same handle shares the guesses.
#[derive(Debug, Default)]
pub struct Reader {
    /// A look-up of constant size per miss; never held across an await, so a plain mutex.
    guesses: Mutex<Guesses>,
}

impl Reader {
    /// A read of `demand` blocks missed at block `at`, which is on its way already (`carried`) or is
    /// not: what else should be on its way now, nearest first.
    pub fn miss(&self, at: u64, demand: u64, carried: bool) -> Vec<FileBlocks> {
        self.guesses.lock().miss(at, demand, carried)
    }
}

/// Which way a stream goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Forward,
    Backward,
}

/// One guess. A chance read has no way yet; who continues it gives it one.
#[derive(Debug, Clone, Copy, Default)]
struct Stream {
    /// The last demand.
    start: u64,
    end: u64,
    way: Option<Way>,
    /// How far the stream was fetched ahead: behind its end, or before its start.
    reach: u64,
    window: u64,
    /// When it was last fed, in misses.
    fed: u64,
}

impl Stream {
    /// Which way a demand continues this stream. An established stream may have met cached blocks on
    /// its way; a young one must fit exactly.
    fn continued_by(&self, at: u64, demand: u64) -> Option<Way> {
        let end = at.saturating_add(demand);
        let (forward, backward) = match self.way {
            None => (at == self.end && self.fed > 0, end == self.start && self.fed > 0),
            Some(Way::Forward) => {
                let furthest = self.reach.saturating_add(self.window);
                ((self.end..=furthest).contains(&at), false)
            }
            Some(Way::Backward) => {
                let lowest = self.reach.saturating_sub(self.window);
                (false, (lowest..=self.start).contains(&end))
            }
        };
        match (forward, backward) {
            (true, _) => Some(Way::Forward),
            (_, true) => Some(Way::Backward),
            _ => None,
        }
    }

    /// Moves on to a demand that continues it; gives back what to fetch.
    fn go_on(&mut self, way: Way, at: u64, demand: u64, carried: bool) -> Vec<FileBlocks> {
        (self.start, self.end) = (at, at.saturating_add(demand));
        if self.way.is_none() || !carried {
            // Nothing is on its way, or what was did not come: for want of memory, or it changed.
            self.reach = if way == Way::Forward { self.end } else { self.start };
        }
        self.way = Some(way);
        let doubled = (2 * self.window.max(demand)).next_power_of_two();
        self.window = doubled.clamp(WINDOW_MIN, READ_AHEAD_BLOCKS_MAX);
        let windows = if self.window == READ_AHEAD_BLOCKS_MAX { WINDOWS_ON_THEIR_WAY } else { 1 };
        let distance = windows * self.window;
        let mut pieces = Vec::new();
        // Pieces end at multiples of the window, so that whole folios fit into them.
        match way {
            Way::Forward => {
                self.reach = self.reach.max(self.end);
                while self.reach < self.end.saturating_add(distance) {
                    let next = (self.reach / self.window + 1).saturating_mul(self.window);
                    pieces.push(FileBlocks::new(self.reach, next));
                    self.reach = next;
                }
            }
            Way::Backward => {
                self.reach = self.reach.min(self.start);
                while self.reach > self.start.saturating_sub(distance) {
                    let next = (self.reach - 1) / self.window * self.window;
                    pieces.push(FileBlocks::new(next, self.reach));
                    self.reach = next;
                }
            }
        }
        pieces
    }
}

/// Reads at equal distances.
#[derive(Debug, Clone, Copy, Default)]
struct Stride {
    last: u64,
    step: i64,
    /// How often the step was the same as the one before.
    same: u32,
    /// Steps behind `last` that are on their way.
    ahead: u64,
}

impl Stride {
    /// Notes a demand; gives back what to fetch if the distance was the same three times.
    fn miss(&mut self, at: u64, demand: u64, carried: bool) -> Vec<FileBlocks> {
        let step = at.wrapping_sub(self.last) as i64;
        if step != self.step || step.unsigned_abs() <= demand {
            *self = Self { last: at, step, same: 0, ahead: 0 };
            return Vec::new();
        }
        self.last = at;
        self.same = self.same.saturating_add(1);
        self.ahead = if carried { self.ahead.saturating_sub(1) } else { 0 };
        let grown = 1 << self.same.min(STRIDES_MAX.ilog2());
        let wanted = STRIDES_MAX.min(grown).min((READ_AHEAD_BLOCKS_MAX / demand).max(1));
        let place = |steps: u64| at.checked_add_signed(step.checked_mul(steps as i64)?);
        let ahead = (self.ahead + 1)..=wanted;
        self.ahead = self.ahead.max(wanted);
        let places = ahead.filter_map(place);
        places.map(|from| FileBlocks::new(from, from.saturating_add(demand))).collect()
    }
}

/// What is known of a handle's reads.
#[derive(Debug, Default)]
struct Guesses {
    streams: [Stream; STREAMS],
    stride: Stride,
    misses: u64,
}

impl Guesses {
    fn miss(&mut self, at: u64, demand: u64, carried: bool) -> Vec<FileBlocks> {
        self.misses += 1;
        let misses = self.misses;
        for stream in &mut self.streams {
            if let Some(way) = stream.continued_by(at, demand) {
                stream.fed = misses;
                return stream.go_on(way, at, demand, carried);
            }
        }
        let strides = self.stride.miss(at, demand, carried);
        if self.stride.same > 0 {
            return strides;
        }
        let rank = |stream: &Stream| {
            let alive = stream.way.is_some() && stream.fed + FORGET_AFTER > misses;
            (alive, stream.fed)
        };
        let oldest = self.streams.iter_mut().min_by_key(|stream| rank(stream));
        let oldest = oldest.expect("there is at least one stream");
        let end = at.saturating_add(demand);
        *oldest = Stream { start: at, end, fed: misses, ..Stream::default() };
        Vec::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn total(pieces: &[FileBlocks]) -> u64 {
        pieces.iter().map(|piece| piece.len()).sum()
    }

    /// Reads whatever is not fetched, block by block, from 0 on; gives back the window sizes.
    fn stream_forward(guesses: &mut Guesses, blocks: u64) -> Vec<u64> {
        let mut windows = Vec::new();
        let mut fetched: Vec<FileBlocks> = Vec::new();
        let mut at = 0;
        while at < blocks {
            let landed = fetched.iter().position(|piece| piece.start == at);
            let pieces = guesses.miss(at, 1, landed.is_some());
            windows.push(total(&pieces));
            fetched.extend(pieces);
            // What is on its way is landed piece by piece: each first block misses.
            at = landed.map_or(at + 1, |index| fetched.swap_remove(index).end);
        }
        windows
    }

    #[test]
    fn a_forward_stream_grows_to_several_large_windows_and_never_fetches_twice() {
        let mut guesses = Guesses::default();
        let windows = stream_forward(&mut guesses, 20_000);
        assert_eq!(windows[0], 0, "a chance read starts nothing");
        assert!(windows.iter().any(|&w| w >= 2 * READ_AHEAD_BLOCKS_MAX), "{windows:?}");
        let fetched: u64 = windows.iter().sum();
        let ahead = WINDOWS_ON_THEIR_WAY * READ_AHEAD_BLOCKS_MAX;
        assert!((20_000 - 2..=20_000 + 2 * ahead).contains(&fetched), "{fetched}");
        assert!(windows.len() < 60, "{} misses", windows.len());
    }

    #[test]
    fn a_backward_stream_is_fetched_downwards_to_the_first_block() {
        let mut guesses = Guesses::default();
        assert!(guesses.miss(1000, 2, false).is_empty());
        let mut pieces = guesses.miss(998, 2, false);
        assert_eq!(pieces.first().map(|p| p.end), Some(998));
        let mut lowest = 998;
        while lowest > 0 {
            assert!(!pieces.is_empty(), "the stream was lost at {lowest}");
            for piece in &pieces {
                assert_eq!(piece.end, lowest, "a gap or an overlap");
                lowest = piece.start;
            }
            let at = lowest.saturating_sub(2);
            pieces = guesses.miss(at, (lowest - at).max(1), true);
            lowest = at;
        }
    }

    #[test]
    fn equal_distances_are_continued_and_unequal_ones_are_not() {
        let mut guesses = Guesses::default();
        for at in [100, 150] {
            assert!(guesses.miss(at, 1, false).is_empty());
        }
        let mut fetched = Vec::new();
        for at in [200, 250, 300, 350] {
            fetched.extend(guesses.miss(at, 1, at > 200).iter().map(|p| (p.start, p.len())));
        }
        let expected: Vec<_> = (250..=350 + 16 * 50).step_by(50).map(|at| (at, 1)).collect();
        assert_eq!(fetched, expected);
        let mut downwards = Guesses::default();
        let last = [900, 800, 700].map(|at| downwards.miss(at, 3, false)).pop_last();
        assert_eq!(last, [FileBlocks::new(600, 603), FileBlocks::new(500, 503)]);
        let mut uneven = Guesses::default();
        for at in [100, 150, 210, 255, 301, 351] {
            assert!(uneven.miss(at, 1, false).is_empty(), "at {at}");
        }
    }

    trait PopLast<T> {
        fn pop_last(self) -> T;
    }

    impl<T, const N: usize> PopLast<T> for [T; N] {
        fn pop_last(self) -> T {
            self.into_iter().last().expect("not empty")
        }
    }

    #[test]
    fn random_reads_are_never_enlarged() {
        let mut guesses = Guesses::default();
        let mut seed = 9_u64;
        for _ in 0..10_000 {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let at = 10 * (seed >> 40);
            assert!(guesses.miss(at, 3, false).is_empty(), "at {at}");
        }
    }

    #[test]
    fn interleaved_streams_keep_their_windows_among_random_reads() {
        let mut guesses = Guesses::default();
        let mut at = [0, 1_000_000, 2_000_000];
        let mut last = [0; 3];
        let mut seed = 3_u64;
        for _ in 0..8 {
            for (at, last) in at.iter_mut().zip(&mut last) {
                let pieces = guesses.miss(*at, 1, *last > 0);
                *last = total(&pieces);
                *at = pieces.last().map_or(*at + 1, |piece| piece.end);
            }
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            assert!(guesses.miss((seed >> 20) * 10, 1, false).is_empty());
        }
        assert!(last.iter().all(|&blocks| blocks >= 64), "{last:?}");
    }

    #[test]
    fn what_did_not_come_is_fetched_again_from_where_the_reader_is() {
        let mut guesses = Guesses::default();
        guesses.miss(0, 1, false);
        let pieces = guesses.miss(1, 1, false);
        let last = pieces.last().map_or(0, |piece| piece.end);
        assert!(last > 3);
        let again = guesses.miss(3, 1, false);
        assert_eq!(again.first().map(|piece| piece.start), Some(4));
    }

    #[test]
    fn a_large_demand_gets_windows_at_once() {
        let mut guesses = Guesses::default();
        assert!(guesses.miss(0, 256, false).is_empty());
        assert!(total(&guesses.miss(256, 256, false)) >= READ_AHEAD_BLOCKS_MAX);
    }

    #[test]
    fn the_ends_of_the_largest_object_do_not_overflow() {
        let mut guesses = Guesses::default();
        let last = u64::MAX / 4096;
        for at in [last - 3, last - 2, last - 1, last] {
            guesses.miss(at, 1, false);
        }
        for at in [u64::MAX - 2, u64::MAX - 1, u64::MAX] {
            guesses.miss(at, 1, false);
        }
        for at in [2, 1, 0] {
            guesses.miss(at, 1, false);
        }
    }
}
