//! Changing parts of large values: APPEND and SETRANGE.
//!
//! Behind the end in the tree nobody reads, so what is appended is written there, small pieces through
//! the log and others in place and synced; the length in the tree makes them part of the value. Bytes
//! before the end change through the log alone, up to `PATCH_BYTES_MAX`; more of them make a copy of the
//! value, which takes its place.
//!
//! Guarantees bounded memory, whatever the value's length. Called by `plan`.

use bytes::Bytes;
use foliant::Object;

use crate::kv::draft::Draft;
use crate::kv::error::Result;
use crate::kv::limits::PATCH_BYTES_MAX;
use crate::kv::limits::PIECE_BYTES;
use crate::kv::op::Expiry;
use crate::kv::op::When;
use crate::kv::page::LargeRef;
use crate::kv::shelf::Staged;
use crate::kv::tree;
use crate::kv::tree::How;
use crate::kv::tree::NewValue;
use crate::kv::units::Millis;
use crate::kv::value::New;
use crate::kv::value::Value;

/// Puts `part` into the value of `key` as it is at `now`, from `at` on.
pub async fn patch(
    draft: &mut Draft<'_>,
    key: &[u8],
    at: usize,
    part: &New,
    now: Millis,
) -> Result<()> {
    let Some(large) = tree::large(draft, key, now).await? else {
        return make(draft, key, at, part, now).await;
    };
    let end = at + part.len();
    if at >= large.bytes as usize {
        extend(draft, large, at, part).await?;
    } else {
        match part {
            New::Bytes(bytes) if bytes.len() <= most_logged(draft) => {
                draft.patch(large, at, bytes.clone()).await?;
            }
            _ => return copy(draft, key, large, at, part, now).await,
        }
    }
    tree::resize(draft, key, end.max(large.bytes as usize)).await
}

fn most_logged(draft: &Draft<'_>) -> usize {
    PATCH_BYTES_MAX.min(4 * draft.shelf().logged_max())
}

/// A small value, or none, becomes a large one.
async fn make(draft: &mut Draft<'_>, key: &[u8], at: usize, part: &New, now: Millis) -> Result<()> {
    let old = tree::get(draft, key, true).await?.filter(|entry| entry.is_live(now));
    let old = match old.map(|entry| entry.value) {
        Some(Value::Bytes(bytes)) => bytes,
        _ => Bytes::new(),
    };
    let staged = draft.shelf().begin().await?;
    staged.write(0, &old).await?;
    write(staged.object(), at, part).await?;
    finish(draft, key, staged, old.len().max(at + part.len()), now).await
}

/// Adds `part` from `at` on, where nothing is.
async fn extend(draft: &mut Draft<'_>, large: LargeRef, at: usize, part: &New) -> Result<()> {
    let object = draft.object(large.id).await?;
    if object.size() > u64::from(large.bytes) {
        // From an attempt that came to nothing. It is gone before the commit, or a crash could bring it
        // back into a gap that has to be zeroes.
        object.truncate(large.bytes.into()).await?;
        object.sync().await?;
    }
    match part {
        New::Bytes(bytes) if bytes.len() <= most_logged(draft) => {
            draft.patch(large, at, bytes.clone()).await
        }
        _ => {
            write(&object, at, part).await?;
            Ok(object.sync().await?)
        }
    }
}

/// The value once more, with `part` in it.
async fn copy(
    draft: &mut Draft<'_>,
    key: &[u8],
    large: LargeRef,
    at: usize,
    part: &New,
    now: Millis,
) -> Result<()> {
    let staged = draft.shelf().begin().await?;
    let (len, mut piece) = (large.bytes as usize, vec![0; PIECE_BYTES]);
    for from in (0..len).step_by(PIECE_BYTES) {
        let piece = &mut piece[..PIECE_BYTES.min(len - from)];
        draft.read_large(large.id, from, piece).await?;
        staged.write(from, piece).await?;
    }
    write(staged.object(), at, part).await?;
    finish(draft, key, staged, len.max(at + part.len()), now).await
}

async fn finish(
    draft: &mut Draft<'_>,
    key: &[u8],
    staged: Staged,
    bytes: usize,
    now: Millis,
) -> Result<()> {
    staged.finish(bytes).await?;
    let how = How { when: When::Always, expires: Expiry::Keep, now };
    tree::put(draft, key, NewValue::Large(staged.refer()), how).await?;
    draft.keep(staged.into());
    Ok(())
}

async fn write(to: &Object, at: usize, part: &New) -> Result<()> {
    match part {
        New::Bytes(bytes) => to.write_at(at as u64, bytes).await?,
        New::Staged(from) => {
            let mut piece = vec![0; PIECE_BYTES];
            for done in (0..from.len()).step_by(PIECE_BYTES) {
                let piece = &mut piece[..PIECE_BYTES.min(from.len() - done)];
                from.object().read_at(done as u64, piece).await?;
                to.write_at((at + done) as u64, piece).await?;
            }
        }
    }
    Ok(())
}
