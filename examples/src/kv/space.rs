//! Free pages: where new ones come from and where old ones go.
//!
//! The free list is a chain of trunk pages, each with the numbers of up to 1020 other free pages.
//! The content of those others means nothing, so freeing a run of 256 pages logs 1 KiB.
//!
//! ```text
//!  0 kind  2 count  4 next trunk  12 own number  16 number 0, number 1, ...
//! ```
//! Guarantees that a damaged list gives `Damaged`: numbers outside, and pages that the batch itself
//! uses. Does not notice a free number that a page outside of the batch uses. Called by `tree`,
//! `balance` and `runs`.

use crate::kv::draft::Draft;
use crate::kv::error::Error;
use crate::kv::error::Result;
use crate::kv::error::damaged;
use crate::kv::limits::PAGE_BYTES;
use crate::kv::page::HEADER;
use crate::kv::page::Kind;
use crate::kv::page::check_kind;
use crate::kv::page::put_u16;
use crate::kv::page::put_u32;
use crate::kv::page::u16_at;
use crate::kv::page::u32_at;
use crate::kv::units::PageNo;

const ENTRIES_MAX: usize = (PAGE_BYTES - HEADER) / 4;

/// A page to use, in the draft and ready to be changed.
pub async fn allocate(draft: &mut Draft<'_>) -> Result<PageNo> {
    match take_free(draft).await? {
        Some(no) => {
            draft.load(no).await?;
            draft.claim(no);
            Ok(no)
        }
        None => {
            let no = take_end(draft, 1)?;
            draft.add_fresh(no);
            Ok(no)
        }
    }
}

/// The number of a free page, which is the caller's from now on.
async fn take_free(draft: &mut Draft<'_>) -> Result<Option<PageNo>> {
    let head = draft.meta.free_head;
    if head == 0 {
        return Ok(None);
    }
    let count = open_trunk(draft, head).await?;
    if count > 0 {
        return Ok(Some(pop(draft, head, count)?));
    }
    draft.meta.free_head = u32_at(draft.page(head), 4);
    count_down(draft)?;
    if (draft.meta.free_head == 0) != (draft.meta.free_count == 0) {
        return damaged(head, "the free list does not end where it should");
    }
    Ok(Some(head))
}

fn pop(draft: &mut Draft<'_>, head: PageNo, count: usize) -> Result<PageNo> {
    let no = u32_at(draft.page(head), HEADER + 4 * (count - 1));
    put_u16(draft.edit(head, 2), 2, count - 1);
    count_down(draft)?;
    check_free(draft, head, no)
}

fn check_free(draft: &Draft<'_>, trunk: PageNo, no: PageNo) -> Result<PageNo> {
    if no == 0 || no >= draft.meta.pages || draft.is_in_use(no) {
        return damaged(trunk, "it calls a page free that is not");
    }
    Ok(no)
}

fn count_down(draft: &mut Draft<'_>) -> Result<()> {
    match draft.meta.free_count.checked_sub(1) {
        Some(left) => draft.meta.free_count = left,
        None => return damaged(0, "its free list is counted wrong"),
    }
    Ok(())
}

/// The numbers of `count` pages behind the last one; the first is returned.
pub fn take_end(draft: &mut Draft<'_>, count: u32) -> Result<PageNo> {
    let first = draft.meta.pages;
    draft.meta.pages = first.checked_add(count).ok_or(Error::Full)?;
    Ok(first)
}

/// Gives a page back.
pub async fn free(draft: &mut Draft<'_>, no: PageNo) -> Result<()> {
    if no == 0 || no >= draft.meta.pages {
        return damaged(no, "a link leads to it, and it is outside of the tree");
    }
    let head = draft.meta.free_head;
    draft.meta.free_count += 1;
    if draft.meta.free_count >= draft.meta.pages {
        return damaged(0, "its free list is counted wrong");
    }
    if head != 0 {
        let count = open_trunk(draft, head).await?;
        if count < ENTRIES_MAX {
            let trunk = draft.edit(head, 6);
            put_u32(trunk, HEADER + 4 * count, no);
            put_u16(trunk, 2, count + 1);
            draft.release(no);
            return Ok(());
        }
    }
    draft.load(no).await?;
    let trunk = draft.edit(no, HEADER);
    trunk[..HEADER].fill(0);
    trunk[0] = Kind::Trunk as u8;
    put_u32(trunk, 4, head);
    put_u32(trunk, 12, no);
    draft.meta.free_head = no;
    Ok(())
}

async fn open_trunk(draft: &mut Draft<'_>, no: PageNo) -> Result<usize> {
    draft.load(no).await?;
    let page = draft.page(no);
    check_kind(no, page, Kind::Trunk)?;
    let count = u16_at(page, 2) as usize;
    if count > ENTRIES_MAX || u32_at(page, 4) >= draft.meta.pages {
        return damaged(no, "a free list page contradicts itself");
    }
    Ok(count)
}
