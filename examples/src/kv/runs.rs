//! Values that do not fit a cell: written, walked and freed as runs of consecutive pages.
//!
//! ```text
//! first page of a run:  0 kind  4 first page of the next run  8 its length  12 own number  16 bytes...
//! ```
//! All following pages of the run hold bytes only, so that a run is one read. The last run ends with
//! zeroes.
//!
//! Guarantees that a walk ends: each run must carry bytes that are still missing. Does not decide
//! which values come here: those that the log takes, and in stores of version 2 all that fit no cell. Called
//! by `tree` and `snapshot`.

use bytes::Bytes;
use bytes::BytesMut;

use crate::kv::draft::Draft;
use crate::kv::error::Result;
use crate::kv::error::damaged;
use crate::kv::limits::PAGE_BYTES;
use crate::kv::limits::RUN_VALUE_BYTES_MAX;
use crate::kv::page::HEADER;
use crate::kv::page::Kind;
use crate::kv::page::RunRef;
use crate::kv::page::check_kind;
use crate::kv::page::put_u32;
use crate::kv::page::u32_at;
use crate::kv::space;
use crate::kv::units::Page;
use crate::kv::units::PageNo;

/// Consecutive pages: the first one and how many.
pub type Run = (PageNo, u32);

/// Bytes that a run of `pages` pages carries.
pub fn capacity(pages: u32) -> usize {
    pages as usize * PAGE_BYTES - HEADER
}

/// Whether `run` can be part of a value of which `missing` bytes are left.
pub fn check(run: RunRef, missing: usize, pages_end: u32) -> Result<()> {
    let bytes = run.bytes as usize;
    let end = run.first.checked_add(run.pages);
    if run.first == 0 || run.pages == 0 || end.is_none_or(|end| end > pages_end) {
        return damaged(run.first, "an overflow run lies outside");
    }
    // A longer run would have been cut, a value over the limit never written.
    if bytes > RUN_VALUE_BYTES_MAX || capacity(run.pages) >= missing + PAGE_BYTES {
        return damaged(run.first, "an overflow run is longer than its value");
    }
    Ok(())
}

/// The run that follows the one whose first page is `page`.
pub fn next(run: RunRef, page: &Page) -> Result<RunRef> {
    check_kind(run.first, page, Kind::Run)?;
    Ok(RunRef { first: u32_at(page, 4), pages: u32_at(page, 8), bytes: run.bytes })
}

/// Writes a value through the draft, page by page.
pub async fn write_logged(draft: &mut Draft<'_>, value: &[u8]) -> Result<RunRef> {
    let mut pages = Vec::new();
    while space_of(&group(&pages)) < value.len() {
        pages.push(space::allocate(draft).await?);
        pages.sort_unstable();
    }
    let mut runs = group(&pages);
    give_back(draft, &mut runs, value.len()).await?;
    for (run, bytes) in images(&runs, value) {
        for (index, chunk) in bytes.chunks(PAGE_BYTES).enumerate() {
            draft.edit(run.0 + index as u32, PAGE_BYTES).copy_from_slice(chunk);
        }
    }
    Ok(reference(&runs, value))
}

/// Frees pages at the end of the runs that the value does not need.
async fn give_back(draft: &mut Draft<'_>, runs: &mut Vec<Run>, bytes: usize) -> Result<()> {
    while let Some(&(first, count)) = runs.last() {
        let one_less = if count == 1 { 0 } else { capacity(count - 1) };
        if space_of(&runs[..runs.len() - 1]) + one_less < bytes {
            return Ok(());
        }
        space::free(draft, first + count - 1).await?;
        match count {
            1 => drop(runs.pop()),
            _ => runs.last_mut().expect("there is a last run").1 -= 1,
        }
    }
    Ok(())
}

/// A value as it is after the changes so far.
pub async fn read(draft: &mut Draft<'_>, first: RunRef) -> Result<Bytes> {
    let mut value = BytesMut::new();
    let (mut run, mut missing) = (first, first.bytes as usize);
    while missing > 0 {
        check(run, missing, draft.meta.pages)?;
        draft.load(run.first).await?;
        let following = next(run, draft.page(run.first))?;
        let mut skip = HEADER;
        for no in run.first..run.first + run.pages {
            draft.load(no).await?;
            let part = missing.min(PAGE_BYTES - skip);
            value.extend_from_slice(&draft.page(no)[skip..skip + part]);
            (missing, skip) = (missing - part, 0);
        }
        run = following;
    }
    Ok(value.freeze())
}

/// Gives all pages of a value back.
pub async fn free(draft: &mut Draft<'_>, first: RunRef) -> Result<()> {
    let (mut run, mut missing) = (first, first.bytes as usize);
    while missing > 0 {
        check(run, missing, draft.meta.pages)?;
        draft.load(run.first).await?;
        let following = next(run, draft.page(run.first))?;
        for no in run.first..run.first + run.pages {
            space::free(draft, no).await?;
        }
        missing = missing.saturating_sub(capacity(run.pages));
        run = following;
    }
    Ok(())
}

fn group(pages: &[PageNo]) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    for &no in pages {
        match runs.last_mut() {
            Some(last) if last.0 + last.1 == no => last.1 += 1,
            _ => runs.push((no, 1)),
        }
    }
    runs
}

fn space_of(runs: &[Run]) -> usize {
    runs.iter().map(|run| capacity(run.1)).sum()
}

fn reference(runs: &[Run], value: &[u8]) -> RunRef {
    let (first, pages) = runs[0];
    RunRef { first, pages, bytes: value.len() as u32 }
}

/// The bytes of each run, whole pages.
fn images<'v>(runs: &[Run], value: &'v [u8]) -> impl Iterator<Item = (Run, Vec<u8>)> + 'v {
    let following = runs.iter().skip(1).copied().chain([(0, 0)]);
    let pairs: Vec<(Run, Run)> = runs.iter().copied().zip(following).collect();
    let mut at = 0;
    pairs.into_iter().map(move |(run, next)| {
        let part = &value[at..value.len().min(at + capacity(run.1))];
        assert!(!part.is_empty(), "a run without bytes");
        at += part.len();
        let mut bytes = vec![0; run.1 as usize * PAGE_BYTES];
        bytes[0] = Kind::Run as u8;
        put_u32(&mut bytes, 4, next.0);
        put_u32(&mut bytes, 8, next.1);
        put_u32(&mut bytes, 12, run.0);
        bytes[HEADER..HEADER + part.len()].copy_from_slice(part);
        (run, bytes)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_maximal_and_carry_all_bytes() {
        let runs = group(&[3, 4, 5, 9, 11, 12]);
        assert_eq!(runs, [(3, 3), (9, 1), (11, 2)]);
        let value: Vec<u8> = (0..20_000).map(|i| i as u8).collect();
        let mut back = Vec::new();
        for (_, bytes) in images(&runs, &value) {
            back.extend_from_slice(&bytes[HEADER..]);
        }
        assert!(back.starts_with(&value));
        assert!(back[value.len()..].iter().all(|&b| b == 0));
    }

    #[test]
    fn an_impossible_run_is_refused() {
        let run = |first, pages, bytes| RunRef { first, pages, bytes };
        assert!(check(run(1, 1, 4080), 4080, 2).is_ok());
        assert!(check(run(1, 2, 4080), 4080, 9).is_err());
        assert!(check(run(0, 1, 4080), 4080, 2).is_err());
        assert!(check(run(u32::MAX, 2, 5000), 5000, u32::MAX).is_err());
    }
}
