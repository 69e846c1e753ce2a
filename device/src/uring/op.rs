//! One request: what it wants, the entry for what is left of it, and what a result means.
//!
//! Guarantees: whole or error. A short transfer goes on where it stopped; a transfer of nothing at
//! the end of a cut-off file is an error, not a loop; every retry is counted against a bound. Does
//! not talk to the kernel (`ring` does) and owns no queue (`slot` does). Called by `driver`.

use io_uring::opcode;
use io_uring::squeue::Entry;
use io_uring::types;

use crate::buffer::Buffer;
use crate::buffer::Segment;
use crate::error::DeviceError;
use crate::error::DeviceErrorKind;
use crate::error::Operation;
use crate::error::Result;
use crate::uring::ring::Prepared;
use crate::uring::ring::Ring;
use crate::uring::ring::Vectors;

/// The kernel takes at most this many pieces of memory in one entry (`UIO_MAXIOV`).
const VECTORS_MAX: usize = 1024;

/// Bytes of one entry; the kernel's own bound is a page less than 2 GiB.
const ENTRY_BYTES_MAX: u64 = 1 << 30;

/// How often a request is tried again without having moved.
const TRIES_MAX: u32 = 64;

/// What zeroes are written from where the store cannot make them itself.
#[repr(C, align(4096))]
struct Zeroes([u8; ZEROES_BYTES]);

const ZEROES_BYTES: usize = 64 << 10;

static ZEROES: Zeroes = Zeroes([0; ZEROES_BYTES]);

/// Aligned zeroes that live for ever.
pub(crate) fn zeroes() -> &'static [u8] {
    &ZEROES.0
}

/// How a range is made to read as zero; tried in this order until the store knows one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ZeroWay {
    /// The store zeroes a range and keeps it allocated.
    Range,
    /// The store takes the range out; a hole reads as zero.
    Punch,
    /// Zeroes are written from memory.
    Write,
}

impl ZeroWay {
    /// The next way when the store does not know this one.
    pub(crate) fn next(self) -> Option<Self> {
        match self {
            Self::Range => Some(Self::Punch),
            Self::Punch => Some(Self::Write),
            Self::Write => None,
        }
    }
}

/// What to do, with the memory it needs.
#[derive(Debug)]
pub(crate) enum Work {
    /// Fill the buffers, one after the other.
    Read(Vec<Buffer>),
    /// Write the segments, one after the other; `durable` makes each part stable on completion.
    Write { from: Vec<Segment>, durable: bool },
    /// Make all completed writes stable.
    Flush,
    /// A hint that the range holds nothing of value.
    Discard,
    /// Make the range read as zero.
    Zero(ZeroWay),
}

/// What a completion means for its request.
#[derive(Debug)]
pub(crate) enum Verdict {
    /// It is over.
    Finished(Result<()>),
    /// What is left must be handed to the kernel again.
    Again,
}

/// A request from its acceptance to its end. Offsets and lengths in bytes of the store.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) work: Work,
    offset: u64,
    len: u64,
    done: u64,
    /// Bytes that the entry in flight asks for.
    asked: u64,
    tries: u32,
    vectors: Vectors,
}

impl Request {
    /// A request over `len` bytes at `offset`, both checked by the handle.
    pub(crate) fn new(work: Work, offset: u64, len: u64) -> Self {
        Self { work, offset, len, done: 0, asked: 0, tries: 0, vectors: Vectors::default() }
    }

    /// What this is, for errors and counters.
    pub(crate) fn operation(&self) -> Operation {
        match self.work {
            Work::Read(_) => Operation::Read,
            Work::Write { .. } => Operation::Write,
            Work::Flush => Operation::Flush,
            Work::Discard => Operation::Discard,
            Work::Zero(_) => Operation::WriteZeroes,
        }
    }

    /// Whether it is a write that is stable on completion.
    pub(crate) fn is_durable_write(&self) -> bool {
        matches!(self.work, Work::Write { durable: true, .. })
    }

    /// Length in bytes.
    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    /// The same request without memory, to report with when the memory cannot come back.
    pub(crate) fn hollow(&self) -> Self {
        let work = match &self.work {
            Work::Read(_) => Work::Read(Vec::new()),
            Work::Write { durable, .. } => Work::Write { from: Vec::new(), durable: *durable },
            Work::Flush => Work::Flush,
            Work::Discard => Work::Discard,
            Work::Zero(way) => Work::Zero(*way),
        };
        Self::new(work, self.offset, self.len)
    }

    /// An error with this request's place.
    pub(crate) fn error(&self, kind: DeviceErrorKind, detail: impl Into<String>) -> DeviceError {
        DeviceError::new(self.operation(), self.offset, self.len, kind, detail)
    }

    /// The entry for what is left. The request must stay where the slot table keeps it, untouched,
    /// until the result of the entry has been judged.
    pub(crate) fn prepare(&mut self, ring: &Ring) -> Prepared {
        assert!(self.done < self.len || self.len == 0, "nothing is left to do");
        let entry = match ring.registered_file() {
            Some(file) => self.entry(file, ring),
            None => self.entry(ring.plain_file(), ring),
        };
        Prepared::new(entry)
    }

    fn entry<F: UseFile>(&mut self, file: F, ring: &Ring) -> Entry {
        let (at, left) = (self.offset + self.done, self.len - self.done);
        match &self.work {
            Work::Read(_) | Work::Write { .. } | Work::Zero(ZeroWay::Write) => {
                self.gather();
                self.transfer(file, ring, at)
            }
            Work::Flush => file.fsync(),
            Work::Discard => file.fallocate(at, left, PUNCH),
            Work::Zero(ZeroWay::Range) => file.fallocate(at, left, ZERO),
            Work::Zero(ZeroWay::Punch) => file.fallocate(at, left, PUNCH),
        }
    }

    /// Lists the memory of what is left, as far as one entry can carry.
    fn gather(&mut self) {
        self.vectors.clear();
        let mut skip = self.done;
        let mut budget = ENTRY_BYTES_MAX.min(self.len - self.done);
        self.asked = 0;
        if matches!(self.work, Work::Zero(_)) {
            // The pieces before `done` are all the same, so none has to be skipped.
            skip = 0;
        }
        let mut add = |at: *const u8, bytes: usize| {
            let skipped = skip.min(bytes as u64);
            skip -= skipped;
            let take = (bytes as u64 - skipped).min(budget);
            if take > 0 {
                self.vectors.push(at.wrapping_add(skipped as usize), take as usize);
                budget -= take;
                self.asked += take;
            }
            budget > 0 && self.vectors.len() < VECTORS_MAX
        };
        match &self.work {
            Work::Read(into) => {
                into.iter().all(|b| add(b.as_raw(), b.len()));
            }
            Work::Write { from, .. } => {
                from.iter().all(|s| add(s.as_raw(), s.len()));
            }
            Work::Zero(_) => {
                let pieces = (self.len - self.done).div_ceil(ZEROES_BYTES as u64);
                (0..pieces).all(|_| add(ZEROES.0.as_ptr(), ZEROES_BYTES));
            }
            Work::Flush | Work::Discard => unreachable!("these move no bytes"),
        }
    }

    fn transfer<F: UseFile>(&self, file: F, ring: &Ring, at: u64) -> Entry {
        let flags = match self.work {
            Work::Write { durable: true, .. } => libc::RWF_DSYNC,
            _ => 0,
        };
        let index = ring.buffer_index(&self.vectors);
        if self.vectors.len() > 1 {
            return match (&self.work, index) {
                (Work::Read(_), Some(index)) => file.readv_fixed(&self.vectors, at, index),
                (Work::Read(_), None) => file.readv(&self.vectors, at),
                (_, Some(index)) => file.writev_fixed(&self.vectors, at, index, flags),
                (_, None) => file.writev(&self.vectors, at, flags),
            };
        }
        let (memory, len) = self.first_piece();
        match (&self.work, index) {
            (Work::Read(_), Some(index)) => file.read_fixed(memory.cast_mut(), len, at, index),
            (Work::Read(_), None) => file.read(memory.cast_mut(), len, at),
            (_, Some(index)) => file.write_fixed(memory, len, at, index, flags),
            (_, None) => file.write(memory, len, at, flags),
        }
    }

    fn first_piece(&self) -> (*const u8, u32) {
        let (memory, len) =
            self.vectors.first().expect("a transfer of nothing was completed early");
        (memory, u32::try_from(len).expect("an entry carries at most ENTRY_BYTES_MAX"))
    }

    /// Judges the result of the entry in flight. `granule` is what offsets must be multiples of.
    pub(crate) fn judge(&mut self, result: i32, granule: u64) -> Verdict {
        if result < 0 {
            return self.judge_error(-result);
        }
        match self.work {
            Work::Read(_) | Work::Write { .. } | Work::Zero(ZeroWay::Write) => {
                self.judge_moved(result as u64, granule)
            }
            _ => Verdict::Finished(Ok(())),
        }
    }

    fn judge_moved(&mut self, moved: u64, granule: u64) -> Verdict {
        assert!(moved <= self.asked, "the kernel moved more than was asked");
        if moved == 0 && matches!(self.work, Work::Read(_)) {
            let detail = format!("the store ends at byte {} or before", self.offset + self.done);
            return Verdict::Finished(Err(self.error(DeviceErrorKind::Io, detail)));
        }
        // What is left must start aligned, so a crooked end is transferred again.
        let kept = if moved == self.asked { moved } else { moved - moved % granule };
        self.done += kept;
        if self.done == self.len {
            return Verdict::Finished(Ok(()));
        }
        if kept > 0 {
            self.tries = 0;
            return Verdict::Again;
        }
        self.try_again("the store moves nothing")
    }

    fn judge_error(&mut self, number: i32) -> Verdict {
        match number {
            // A request is cancelled when the thread that entered it ends before a kernel worker
            // took it up; it has not been done then.
            libc::EINTR | libc::EAGAIN | libc::ECANCELED => {
                self.try_again("interrupted again and again")
            }
            libc::EOPNOTSUPP | libc::ENOSYS => match self.work {
                Work::Discard => Verdict::Finished(Ok(())),
                Work::Zero(way) if way.next().is_some() => {
                    self.work = Work::Zero(way.next().expect("just looked"));
                    Verdict::Again
                }
                _ => self.failed(number),
            },
            _ => self.failed(number),
        }
    }

    fn failed(&self, number: i32) -> Verdict {
        let cause = std::io::Error::from_raw_os_error(number);
        let error = DeviceError::from_io(self.operation(), self.offset, self.len, &cause);
        Verdict::Finished(Err(error))
    }

    /// Stands in for `prepare` where no ring is at hand.
    #[cfg(test)]
    pub(crate) fn set_asked_for_tests(&mut self, asked: u64) {
        self.asked = asked;
    }

    fn try_again(&mut self, complaint: &str) -> Verdict {
        self.tries += 1;
        if self.tries <= TRIES_MAX {
            return Verdict::Again;
        }
        Verdict::Finished(Err(self.error(DeviceErrorKind::Io, complaint)))
    }
}

const PUNCH: i32 = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
const ZERO: i32 = libc::FALLOC_FL_ZERO_RANGE | libc::FALLOC_FL_KEEP_SIZE;

/// The rows of the table: one entry per operation, for both ways of naming the file.
trait UseFile: Sized {
    fn read(self, at: *mut u8, len: u32, offset: u64) -> Entry;
    fn read_fixed(self, at: *mut u8, len: u32, offset: u64, index: u16) -> Entry;
    fn readv(self, vectors: &Vectors, offset: u64) -> Entry;
    fn readv_fixed(self, vectors: &Vectors, offset: u64, index: u16) -> Entry;
    fn write(self, at: *const u8, len: u32, offset: u64, flags: i32) -> Entry;
    fn write_fixed(self, at: *const u8, len: u32, offset: u64, index: u16, flags: i32) -> Entry;
    fn writev(self, vectors: &Vectors, offset: u64, flags: i32) -> Entry;
    fn writev_fixed(self, vectors: &Vectors, offset: u64, index: u16, flags: i32) -> Entry;
    fn fsync(self) -> Entry;
    fn fallocate(self, offset: u64, len: u64, mode: i32) -> Entry;
}

macro_rules! rows {
    ($file:ty) => {
        impl UseFile for $file {
            fn read(self, at: *mut u8, len: u32, offset: u64) -> Entry {
                opcode::Read::new(self, at, len).offset(offset).build()
            }
            fn read_fixed(self, at: *mut u8, len: u32, offset: u64, index: u16) -> Entry {
                opcode::ReadFixed::new(self, at, len, index).offset(offset).build()
            }
            fn readv(self, vectors: &Vectors, offset: u64) -> Entry {
                let count = vectors.len() as u32;
                opcode::Readv::new(self, vectors.as_ptr(), count).offset(offset).build()
            }
            fn readv_fixed(self, vectors: &Vectors, offset: u64, index: u16) -> Entry {
                let count = vectors.len() as u32;
                let row = opcode::ReadvFixed::new(self, vectors.as_ptr(), count, index);
                row.offset(offset).build()
            }
            fn write(self, at: *const u8, len: u32, offset: u64, flags: i32) -> Entry {
                opcode::Write::new(self, at, len).offset(offset).rw_flags(flags).build()
            }
            fn write_fixed(
                self,
                at: *const u8,
                len: u32,
                offset: u64,
                index: u16,
                flags: i32,
            ) -> Entry {
                let row = opcode::WriteFixed::new(self, at, len, index);
                row.offset(offset).rw_flags(flags).build()
            }
            fn writev(self, vectors: &Vectors, offset: u64, flags: i32) -> Entry {
                let row = opcode::Writev::new(self, vectors.as_ptr(), vectors.len() as u32);
                row.offset(offset).rw_flags(flags).build()
            }
            fn writev_fixed(self, vectors: &Vectors, offset: u64, index: u16, flags: i32) -> Entry {
                let count = vectors.len() as u32;
                let row = opcode::WritevFixed::new(self, vectors.as_ptr(), count, index);
                row.offset(offset).rw_flags(flags).build()
            }
            fn fsync(self) -> Entry {
                opcode::Fsync::new(self).flags(types::FsyncFlags::DATASYNC).build()
            }
            fn fallocate(self, offset: u64, len: u64, mode: i32) -> Entry {
                opcode::Fallocate::new(self, len).offset(offset).mode(mode).build()
            }
        }
    };
}

rows!(types::Fixed);
rows!(types::Fd);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::buffer::Arena;
    use crate::geometry::BLOCK_SIZE;
    use proptest::prelude::*;

    /// A read into as many buffers, no two of which touch.
    fn read_of(blocks: usize) -> Request {
        let arena = Arena::new(2 * blocks * BLOCK_SIZE).unwrap();
        let mut all: Vec<Buffer> = (0..2 * blocks).map(|_| arena.allocate(0).unwrap()).collect();
        all.sort_by_key(|buffer| buffer.as_raw());
        let into = all.into_iter().step_by(2).collect();
        Request::new(Work::Read(into), 0, (blocks * BLOCK_SIZE) as u64)
    }

    /// The addresses that the next entry would name, as (address, length).
    fn asked(request: &mut Request) -> Vec<(usize, usize)> {
        request.gather();
        request.vectors.pieces().collect()
    }

    proptest! {
        /// Whatever the kernel's short counts, every byte is transferred to its own place, in
        /// order, with an aligned start, and the request ends exactly when all are there.
        #[test]
        fn short_transfers_cover_every_byte_once(counts in prop::collection::vec(1_u64..9000, 1..40)) {
            let mut request = read_of(5);
            let whole: Vec<usize> =
                asked(&mut request).iter().flat_map(|&(at, len)| at..at + len).collect();
            let mut position = 0;
            for count in counts {
                let memory: Vec<usize> =
                    asked(&mut request).iter().flat_map(|&(at, len)| at..at + len).collect();
                prop_assert_eq!(&memory[..], &whole[position..]);
                let moved = count.min(memory.len() as u64);
                match request.judge(moved as i32, 512) {
                    Verdict::Finished(result) => {
                        prop_assert!(result.is_ok());
                        prop_assert_eq!(position + moved as usize, whole.len());
                        return Ok(());
                    }
                    Verdict::Again => position = request.done as usize,
                }
                prop_assert_eq!(position % 512, 0);
            }
        }
    }

    #[test]
    fn more_pieces_than_the_kernel_takes_go_in_several_entries() {
        let mut request = read_of(VECTORS_MAX + 7);
        assert_eq!(asked(&mut request).len(), VECTORS_MAX);
        let moved = (VECTORS_MAX * BLOCK_SIZE) as i32;
        assert!(matches!(request.judge(moved, 512), Verdict::Again));
        assert_eq!(asked(&mut request).len(), 7);
        let moved = (7 * BLOCK_SIZE) as i32;
        assert!(matches!(request.judge(moved, 512), Verdict::Finished(Ok(()))));
    }

    #[test]
    fn memory_that_touches_is_one_piece() {
        let arena = Arena::new(8 * BLOCK_SIZE).unwrap();
        let whole = Segment::from(arena.allocate(3).unwrap());
        let part = |from: usize, to: usize| whole.slice(from * BLOCK_SIZE..to * BLOCK_SIZE);
        let from = vec![part(0, 1), part(1, 4), part(6, 7), part(4, 6), part(6, 8)];
        let work = Work::Write { from, durable: false };
        let mut request = Request::new(work, 0, 9 * BLOCK_SIZE as u64);
        let lengths: Vec<usize> = asked(&mut request).iter().map(|p| p.1 / BLOCK_SIZE).collect();
        assert_eq!(lengths, [4, 1, 4]);
        assert!(matches!(request.judge(5 * BLOCK_SIZE as i32, 512), Verdict::Again));
        assert_eq!(asked(&mut request).len(), 1, "what is left touches");
    }

    #[test]
    fn the_end_of_a_cut_off_file_is_an_error() {
        let mut request = read_of(2);
        request.gather();
        assert!(matches!(request.judge(4096, 512), Verdict::Again));
        request.gather();
        let Verdict::Finished(Err(error)) = request.judge(0, 512) else { panic!("went on") };
        assert_eq!(error.kind, DeviceErrorKind::Io);
        assert_eq!((error.offset, error.len), (0, 8192));
    }

    #[test]
    fn retries_are_bounded_and_progress_renews_them() {
        for number in [libc::EINTR, libc::EAGAIN, libc::ECANCELED] {
            let mut request = read_of(2);
            request.gather();
            for _ in 0..TRIES_MAX {
                assert!(matches!(request.judge(-number, 512), Verdict::Again));
            }
            assert!(matches!(request.judge(-number, 512), Verdict::Finished(Err(_))));
        }
        let mut request = read_of(2);
        request.gather();
        (0..TRIES_MAX).for_each(|_| drop(request.judge(-libc::EAGAIN, 512)));
        assert!(matches!(request.judge(4096, 512), Verdict::Again));
        request.gather();
        assert!(matches!(request.judge(-libc::EAGAIN, 512), Verdict::Again));
    }

    #[test]
    fn zeroing_falls_back_until_a_way_works_and_discard_is_a_hint() {
        let mut request = Request::new(Work::Zero(ZeroWay::Range), 4096, 200 << 10);
        for way in [ZeroWay::Range, ZeroWay::Punch] {
            assert!(matches!(request.work, Work::Zero(w) if w == way));
            assert!(matches!(request.judge(-libc::EOPNOTSUPP, 512), Verdict::Again));
        }
        request.gather();
        assert_eq!(request.asked, 200 << 10);
        assert!(matches!(request.judge(100 << 10, 512), Verdict::Again));
        request.gather();
        assert_eq!(request.asked, 100 << 10);
        let mut request = Request::new(Work::Discard, 0, 4096);
        assert!(matches!(request.judge(-libc::EOPNOTSUPP, 512), Verdict::Finished(Ok(()))));
        let mut request = Request::new(Work::Flush, 0, 0);
        let verdict = request.judge(-libc::EIO, 512);
        assert!(matches!(verdict, Verdict::Finished(Err(e)) if e.kind == DeviceErrorKind::Io));
    }
}
