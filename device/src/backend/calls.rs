//! The blocking calls that move blocks: whole or error.
//!
//! Guarantees: a short transfer goes on where it stopped, at an aligned place; an interrupted call is
//! repeated; what moves nothing again and again is an error, not a loop. Does not choose threads.
//! Called by `threads`, on a thread that may block.

use std::fs::File;
use std::io::IoSlice;
use std::io::IoSliceMut;

use rustix::fs::FallocateFlags;
use rustix::io::Errno;
use rustix::io::ReadWriteFlags;

use crate::buffer::Buffer;
use crate::buffer::Segment;
use crate::uring::op::ZeroWay;
use crate::uring::op::zeroes;

/// Pieces of memory in one system call; the kernel takes 1024.
const VECTORS_MAX: usize = 1024;

/// How often a call is repeated without having moved anything.
const TRIES_MAX: u32 = 64;

type Outcome<T> = Result<T, Errno>;

/// Calls `step` with the number of bytes that are through, until all `len` are. What it moves is
/// rounded down to `granule`, except at the end: direct transfers must start aligned.
fn whole(len: usize, granule: usize, mut step: impl FnMut(usize) -> Outcome<usize>) -> Outcome<()> {
    let (mut done, mut idle) = (0, 0);
    while done < len {
        let kept = match step(done) {
            // The capacity was checked: an end inside means that the file was cut off.
            Ok(0) => return Err(Errno::IO),
            Ok(moved) if moved == len - done => moved,
            Ok(moved) => moved - moved % granule,
            Err(Errno::INTR | Errno::AGAIN) => 0,
            Err(e) => return Err(e),
        };
        assert!(kept <= len - done, "the kernel moved more than was asked");
        done += kept;
        idle = if kept > 0 { 0 } else { idle + 1 };
        if idle > TRIES_MAX {
            return Err(Errno::IO);
        }
    }
    Ok(())
}

/// Fills the buffers, one after the other, from `offset` on.
pub(super) fn read(file: &File, offset: u64, into: &mut [Buffer], granule: usize) -> Outcome<()> {
    let len = into.iter().map(|b| b.len()).sum();
    whole(len, granule, |done| {
        let mut skip = done;
        let mut pieces = Vec::with_capacity(into.len().min(VECTORS_MAX));
        for buffer in into.iter_mut() {
            let bytes = buffer.get_mut().expect("the handle checked that it is unique");
            let skipped = skip.min(bytes.len());
            skip -= skipped;
            if skipped < bytes.len() {
                pieces.push(IoSliceMut::new(&mut bytes[skipped..]));
            }
            if pieces.len() == VECTORS_MAX {
                break;
            }
        }
        rustix::io::preadv(file, &mut pieces, offset + done as u64)
    })
}

/// Writes the segments, one after the other, from `offset` on.
pub(super) fn write(
    file: &File,
    offset: u64,
    from: &[Segment],
    flags: ReadWriteFlags,
    granule: usize,
) -> Outcome<()> {
    let len = from.iter().map(|s| s.len()).sum();
    whole(len, granule, |done| {
        let mut skip = done;
        let mut pieces = Vec::with_capacity(from.len().min(VECTORS_MAX));
        for segment in from {
            let skipped = skip.min(segment.len());
            skip -= skipped;
            if skipped < segment.len() {
                pieces.push(IoSlice::new(&segment[skipped..]));
            }
            if pieces.len() == VECTORS_MAX {
                break;
            }
        }
        rustix::io::pwritev2(file, &pieces, offset + done as u64, flags)
    })
}

/// Makes completed writes stable.
pub(super) fn flush(file: &File) -> Outcome<()> {
    repeat(|| rustix::fs::fdatasync(file))
}

/// Gives the range back; a store that cannot loses nothing by keeping it.
pub(super) fn discard(file: &File, offset: u64, len: u64) -> Outcome<()> {
    match punch(file, offset, len) {
        Err(Errno::OPNOTSUPP | Errno::NOSYS) => Ok(()),
        outcome => outcome,
    }
}

/// Makes the range read as zero, in the first way that the store knows.
pub(super) fn zero(file: &File, offset: u64, len: u64, granule: usize) -> Outcome<()> {
    let mut way = ZeroWay::Range;
    loop {
        let outcome = match way {
            ZeroWay::Range => {
                let flags = FallocateFlags::ZERO_RANGE | FallocateFlags::KEEP_SIZE;
                repeat(|| rustix::fs::fallocate(file, flags, offset, len))
            }
            ZeroWay::Punch => punch(file, offset, len),
            ZeroWay::Write => write_zeroes(file, offset, len, granule),
        };
        match (outcome, way.next()) {
            (Err(Errno::OPNOTSUPP | Errno::NOSYS), Some(next)) => way = next,
            (outcome, _) => return outcome,
        }
    }
}

fn punch(file: &File, offset: u64, len: u64) -> Outcome<()> {
    let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    repeat(|| rustix::fs::fallocate(file, flags, offset, len))
}

fn write_zeroes(file: &File, offset: u64, len: u64, granule: usize) -> Outcome<()> {
    let (mut at, end) = (offset, offset + len);
    while at < end {
        let piece = zeroes();
        let piece = &piece[..piece.len().min((end - at) as usize)];
        whole(piece.len(), granule, |done| {
            rustix::io::pwrite(file, &piece[done..], at + done as u64)
        })?;
        at += piece.len() as u64;
    }
    Ok(())
}

fn repeat(mut call: impl FnMut() -> Outcome<()>) -> Outcome<()> {
    for _ in 0..TRIES_MAX {
        match call() {
            Err(Errno::INTR | Errno::AGAIN) => {}
            outcome => return outcome,
        }
    }
    Err(Errno::IO)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs `whole` against results of the kernel; returns the places it asked for.
    fn places(len: usize, results: &[Outcome<usize>]) -> (Vec<usize>, Outcome<()>) {
        let mut asked = Vec::new();
        let mut results = results.iter();
        let outcome = whole(len, 512, |done| {
            asked.push(done);
            *results.next().expect("it asked too often")
        });
        (asked, outcome)
    }

    #[test]
    fn short_transfers_go_on_at_an_aligned_place() {
        let (asked, outcome) = places(4096, &[Ok(700), Err(Errno::INTR), Ok(512), Ok(3072)]);
        assert_eq!((&asked[..], outcome), (&[0, 512, 512, 1024][..], Ok(())));
        let (asked, outcome) = places(4096, &[Ok(100), Err(Errno::AGAIN), Ok(4096)]);
        assert_eq!((&asked[..], outcome), (&[0, 0, 0][..], Ok(())));
    }

    #[test]
    fn an_error_or_an_end_inside_ends_the_transfer() {
        assert_eq!(places(4096, &[Ok(512), Err(Errno::NOSPC)]).1, Err(Errno::NOSPC));
        assert_eq!(places(4096, &[Ok(512), Ok(0)]).1, Err(Errno::IO));
        assert_eq!(places(0, &[]).1, Ok(()));
    }

    #[test]
    fn what_never_moves_ends() {
        let endless = vec![Err(Errno::INTR); TRIES_MAX as usize + 1];
        assert_eq!(places(4096, &endless).1, Err(Errno::IO));
        assert_eq!(repeat(|| Err(Errno::INTR)), Err(Errno::IO));
    }
}
