//! The bits of a folio: up to date, dirty, under writeback, and journal marks, per block.
//!
//! Guarantees: a dirty block is up to date; counts returned by changes are exact. Pure: no locks,
//! no memory, no accounting. Called by `folio` and `lock`, which hold the content lock.

use std::ops::Range;

use foliant_device::buffer::ORDER_MAX;

use crate::units::Lsn;

/// Bits in a word. Small words, because almost every folio is one block.
const WORD: usize = 32;
/// Words for the largest order.
const WORDS_MAX: usize = (1 << ORDER_MAX) / WORD;

/// One of the three bit sets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BlockSet {
    /// The memory holds what the object holds.
    Uptodate = 0,
    /// Changed and not yet on its way to the device.
    Dirty = 1,
    /// On its way to the device.
    Writeback = 2,
}

/// Blocks whose newest bytes are in the journal and not home.
#[derive(Debug, Default)]
enum Marks {
    #[default]
    None,
    One(u16, Lsn),
    /// Ascending by block. A plain vector keeps the enum at three words.
    Many(Vec<(u16, Lsn)>),
}

/// What a finished writeback changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Ended {
    /// Blocks that were under writeback.
    pub ended: u64,
    /// Of these: blocks that are dirty again because the writeback failed.
    pub dirtied: u64,
    /// Of these: failed blocks that had been dirtied anew meanwhile; one of their two promises is
    /// spare.
    pub doubled: u64,
}

/// The state of 2^order blocks; block numbers count from the folio's first block.
#[derive(Debug)]
pub struct FolioState {
    order: u8,
    /// One word per set, used up to order 5.
    small: [u32; 3],
    large: Option<Box<[[u32; WORDS_MAX]; 3]>>,
    marks: Marks,
}

/// The bits of `range` that fall into word number `word`.
fn mask(word: usize, range: &Range<usize>) -> u32 {
    let first = range.start.saturating_sub(word * WORD).min(WORD);
    let end = range.end.saturating_sub(word * WORD).min(WORD);
    if first >= end {
        return 0;
    }
    ((1u64 << end) - (1u64 << first)) as u32
}

fn words_of(range: &Range<usize>) -> Range<usize> {
    range.start / WORD..range.end.div_ceil(WORD)
}

impl FolioState {
    /// Nothing up to date, nothing dirty.
    ///
    /// # Panics
    /// If `order` is over 9.
    pub fn new(order: u8) -> Self {
        assert!(order <= ORDER_MAX, "order {order} is over the largest one");
        let large = (1 << order > WORD).then(|| Box::new([[0; WORDS_MAX]; 3]));
        Self { order, small: [0; 3], large, marks: Marks::None }
    }

    /// Number of blocks.
    pub fn blocks(&self) -> usize {
        1 << self.order
    }

    fn words(&self, set: BlockSet) -> &[u32] {
        match &self.large {
            Some(large) => &large[set as usize],
            None => std::slice::from_ref(&self.small[set as usize]),
        }
    }

    fn words_mut(&mut self, set: BlockSet) -> &mut [u32] {
        match &mut self.large {
            Some(large) => &mut large[set as usize],
            None => std::slice::from_mut(&mut self.small[set as usize]),
        }
    }

    fn check(&self, range: &Range<usize>) {
        assert!(
            range.start <= range.end && range.end <= self.blocks(),
            "blocks {range:?} are not inside a folio of {}",
            self.blocks()
        );
    }

    /// Whether `block` is in `set`.
    pub fn has(&self, set: BlockSet, block: usize) -> bool {
        self.check(&(block..block + 1));
        self.words(set)[block / WORD] & (1 << (block % WORD)) != 0
    }

    /// Whether all of `range` is in `set`.
    pub fn all(&self, set: BlockSet, range: Range<usize>) -> bool {
        self.count(set, range.clone()) == range.len()
    }

    /// Blocks of `range` in `set`.
    pub fn count(&self, set: BlockSet, range: Range<usize>) -> usize {
        self.check(&range);
        let words = self.words(set);
        words_of(&range).map(|w| (words[w] & mask(w, &range)).count_ones() as usize).sum()
    }

    /// Blocks in `set`.
    pub fn total(&self, set: BlockSet) -> usize {
        self.count(set, 0..self.blocks())
    }

    /// Whether any block is in `set`.
    pub fn any(&self, set: BlockSet) -> bool {
        self.words(set).iter().any(|&word| word != 0)
    }

    /// Whether any block is in both sets.
    pub fn any_in_both(&self, one: BlockSet, other: BlockSet) -> bool {
        self.words(one).iter().zip(self.words(other)).any(|(a, b)| a & b != 0)
    }

    #[cfg(test)]
    /// The first run of blocks in `set` at or after `from`, ending at `end` at the latest.
    pub fn next_run(&self, set: BlockSet, from: usize, end: usize) -> Option<Range<usize>> {
        self.check(&(from.min(end)..end));
        let first = (from..end).find(|&block| self.has(set, block))?;
        let stop = (first..end).find(|&block| !self.has(set, block));
        Some(first..stop.unwrap_or(end))
    }

    fn add(&mut self, set: BlockSet, range: Range<usize>) -> u64 {
        self.check(&range);
        let before = self.count(set, range.clone());
        let words = self.words_mut(set);
        for w in words_of(&range) {
            words[w] |= mask(w, &range);
        }
        (range.len() - before) as u64
    }

    fn remove(&mut self, set: BlockSet, range: Range<usize>) -> u64 {
        let before = self.count(set, range.clone());
        let words = self.words_mut(set);
        for w in words_of(&range) {
            words[w] &= !mask(w, &range);
        }
        before as u64
    }

    /// The bytes of `range` are what the object holds.
    pub fn set_uptodate(&mut self, range: Range<usize>) {
        self.add(BlockSet::Uptodate, range);
    }

    /// The bytes of `range` mean nothing any more.
    ///
    /// # Panics
    /// If one of the blocks is dirty: its bytes would be lost.
    pub fn clear_uptodate(&mut self, range: Range<usize>) {
        assert_eq!(self.count(BlockSet::Dirty, range.clone()), 0, "forgetting dirty bytes");
        self.remove(BlockSet::Uptodate, range);
    }

    /// Makes `range` dirty; returns how many blocks were not. A block under writeback can be dirty
    /// as well: then newer bytes wait behind those in flight.
    ///
    /// # Panics
    /// If a block is not up to date: writeback would store arbitrary bytes.
    pub fn mark_dirty(&mut self, range: Range<usize>) -> u64 {
        assert!(
            self.all(BlockSet::Uptodate, range.clone()),
            "dirtying blocks {range:?} that are not up to date"
        );
        self.add(BlockSet::Dirty, range)
    }

    /// Makes `range` clean; returns how many blocks were dirty.
    pub fn clear_dirty(&mut self, range: Range<usize>) -> u64 {
        self.remove(BlockSet::Dirty, range)
    }

    /// The next run at or after `from` that is dirty and not already under writeback (two writes
    /// of one block in flight could land in the wrong order).
    pub fn next_writable(&self, from: usize, end: usize) -> Option<Range<usize>> {
        let ready = |block: &usize| {
            self.has(BlockSet::Dirty, *block) && !self.has(BlockSet::Writeback, *block)
        };
        let first = (from..end).find(ready)?;
        let stop = (first..end).find(|block| !ready(block));
        Some(first..stop.unwrap_or(end))
    }

    /// Moves dirty blocks to writeback.
    ///
    /// # Panics
    /// If one of them is clean or already under writeback.
    pub fn begin_writeback(&mut self, range: Range<usize>) {
        let dirty = self.remove(BlockSet::Dirty, range.clone());
        assert_eq!(dirty as usize, range.len(), "writeback of clean blocks");
        let fresh = self.add(BlockSet::Writeback, range.clone());
        assert_eq!(fresh as usize, range.len(), "writeback of blocks in writeback");
    }

    /// Ends the writeback of `range`; after a failure the blocks are dirty again.
    ///
    /// # Panics
    /// If one of them is not under writeback.
    pub fn end_writeback(&mut self, range: Range<usize>, ok: bool) -> Ended {
        let ended = self.remove(BlockSet::Writeback, range.clone());
        assert_eq!(ended as usize, range.len(), "ending a writeback that did not begin");
        if ok {
            return Ended { ended, ..Ended::default() };
        }
        let dirtied = self.add(BlockSet::Dirty, range);
        Ended { ended, dirtied, doubled: ended - dirtied }
    }

    /// Notes that the newest bytes of `block` are in the journal up to `lsn`. A later mark of the
    /// same block replaces an earlier one.
    pub fn mark_journal(&mut self, block: usize, lsn: Lsn) {
        self.check(&(block..block + 1));
        let block = block as u16;
        match &mut self.marks {
            Marks::None => self.marks = Marks::One(block, lsn),
            Marks::One(at, old) if *at == block => *old = lsn.max(*old),
            Marks::One(at, old) => {
                let mut both = vec![(*at, *old), (block, lsn)];
                both.sort_unstable_by_key(|mark| mark.0);
                self.marks = Marks::Many(both);
            }
            Marks::Many(all) => match all.binary_search_by_key(&block, |mark| mark.0) {
                Ok(place) => all[place].1 = lsn.max(all[place].1),
                Err(place) => all.insert(place, (block, lsn)),
            },
        }
    }

    /// The record up to `lsn` of `block` is home. A newer mark stays. Whether the mark went away.
    pub fn clear_journal(&mut self, block: usize, lsn: Lsn) -> bool {
        let Some(old) = self.journal_mark(block).filter(|&old| old <= lsn) else {
            return false;
        };
        match &mut self.marks {
            Marks::Many(all) if all.len() > 1 => {
                all.retain(|&mark| mark != (block as u16, old));
            }
            _ => self.marks = Marks::None,
        }
        true
    }

    /// The journal position of `block`, if it is marked.
    pub fn journal_mark(&self, block: usize) -> Option<Lsn> {
        match &self.marks {
            Marks::One(at, lsn) if usize::from(*at) == block => Some(*lsn),
            Marks::Many(all) => {
                let place = all.binary_search_by_key(&block, |mark| usize::from(mark.0));
                place.ok().map(|place| all[place].1)
            }
            _ => None,
        }
    }

    /// Whether any block is marked.
    pub fn is_marked(&self) -> bool {
        !matches!(self.marks, Marks::None)
    }

    /// Drops the marks of `range`: its bytes no longer belong to the object.
    pub fn forget_marks(&mut self, range: Range<usize>) {
        if self.is_marked() {
            for block in range {
                self.clear_journal(block, Lsn(u64::MAX));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kit::dice::Dice;

    /// One entry per block: (up to date, dirty, writeback, mark).
    #[derive(Clone, Copy, Default)]
    struct Block {
        set: [bool; 3],
        mark: Option<u64>,
    }

    fn compare(state: &FolioState, model: &[Block]) {
        for (at, block) in model.iter().enumerate() {
            for set in [BlockSet::Uptodate, BlockSet::Dirty, BlockSet::Writeback] {
                assert_eq!(state.has(set, at), block.set[set as usize], "{set:?} {at}");
            }
            assert_eq!(state.journal_mark(at), block.mark.map(Lsn), "mark {at}");
        }
        let marked = model.iter().any(|block| block.mark.is_some());
        assert_eq!(state.is_marked(), marked);
        for (set, slot) in [(BlockSet::Dirty, 1), (BlockSet::Writeback, 2)] {
            let total = model.iter().filter(|block| block.set[slot]).count();
            assert_eq!((state.total(set), state.any(set)), (total, total > 0));
        }
    }

    fn end_in_model(model: &mut [Block], range: Range<usize>, ok: bool) -> Ended {
        let mut ended = Ended::default();
        for block in &mut model[range] {
            ended.ended += 1;
            block.set[2] = false;
            if !ok {
                ended.dirtied += u64::from(!block.set[1]);
                ended.doubled += u64::from(block.set[1]);
                block.set[1] = true;
            }
        }
        ended
    }

    fn step(state: &mut FolioState, model: &mut [Block], dice: &mut Dice) {
        let range = dice.range(model.len() as u64);
        let range = range.start as usize..range.end as usize;
        let at = range.start;
        let lsn = dice.roll(50);
        match dice.roll(7) {
            0 => {
                state.set_uptodate(range.clone());
                model[range].iter_mut().for_each(|b| b.set[0] = true);
            }
            1 if model[range.clone()].iter().all(|b| b.set[0]) => {
                let fresh = model[range.clone()].iter().filter(|b| !b.set[1]).count();
                assert_eq!(state.mark_dirty(range.clone()), fresh as u64);
                model[range].iter_mut().for_each(|b| b.set[1] = true);
            }
            2 => {
                let dirty = model[range.clone()].iter().filter(|b| b.set[1]).count();
                assert_eq!(state.clear_dirty(range.clone()), dirty as u64);
                model[range].iter_mut().for_each(|b| b.set[1] = false);
            }
            3 => {
                let ready = |b: &Block| b.set[1] && !b.set[2];
                let first = range.clone().find(|&b| ready(&model[b]));
                let run = state.next_writable(range.start, range.end);
                assert_eq!(run.as_ref().map(|run| run.start), first);
                let Some(run) = run else { return };
                assert!(run.end == range.end || !ready(&model[run.end]));
                state.begin_writeback(run.clone());
                for block in &mut model[run] {
                    assert!(ready(block));
                    block.set = [true, false, true];
                }
            }
            4 => {
                let Some(run) = state.next_run(BlockSet::Writeback, range.start, range.end) else {
                    return;
                };
                let ok = dice.roll(2) == 0;
                let expected = end_in_model(model, run.clone(), ok);
                assert_eq!(state.end_writeback(run, ok), expected);
            }
            5 => {
                state.mark_journal(at, Lsn(lsn));
                model[at].mark = model[at].mark.max(Some(lsn));
            }
            _ => {
                let goes = model[at].mark.is_some_and(|old| old <= lsn);
                assert_eq!(state.clear_journal(at, Lsn(lsn)), goes);
                model[at].mark = model[at].mark.filter(|_| !goes);
            }
        }
    }

    #[test]
    fn bits_and_marks_behave_like_a_table_for_every_order() {
        for order in 0..=ORDER_MAX {
            let mut dice = Dice::new(u64::from(order));
            let mut state = FolioState::new(order);
            let mut model = vec![Block::default(); 1 << order];
            for _ in 0..400 {
                step(&mut state, &mut model, &mut dice);
                compare(&state, &model);
            }
        }
    }

    #[test]
    #[should_panic(expected = "not up to date")]
    fn a_block_that_is_not_up_to_date_cannot_become_dirty() {
        let mut state = FolioState::new(2);
        state.set_uptodate(0..3);
        state.mark_dirty(2..4);
    }

    #[test]
    fn a_single_block_costs_few_bytes() {
        assert!(size_of::<FolioState>() <= 56, "{}", size_of::<FolioState>());
    }
}
