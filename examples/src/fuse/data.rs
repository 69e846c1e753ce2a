//! The bytes of files.
//!
//! | request | verb of the engine |
//! |---|---|
//! | READ | `read_at` up to 64 KiB, above `read`, without a copy |
//! | WRITE | `write_at`: cached, durable at the next fsync |
//! | FSYNC, FSYNCDIR | the times, if they are not stored, and `sync`; nothing else is ever waiting to be stored |
//! | FALLOCATE | `preallocate`, and `truncate` where the file grows |
//! | FALLOCATE with PUNCH_HOLE | `punch` |
//! | FALLOCATE with ZERO_RANGE | `preallocate` and `zero` |
//! | LSEEK | `seek_data`, `seek_hole` |
//!
//! Guarantees that a write that was answered is not refused later for want of room. Called by `filesystem`.

use std::ops::Range;

use bytes::Bytes;
use foliant::Object;
use fuser::Errno;

use crate::fuse::fault::Fault;
use crate::fuse::fault::Outcome;
use crate::fuse::fs::Fs;
use crate::fuse::handles::Handle;
use crate::fuse::limits::READ_COPIED_BYTES_MAX;
use crate::fuse::nodes::Node;
use crate::fuse::stored;

/// `fallocate(2)`: the size stays.
const KEEP_SIZE: i32 = 1;
/// `fallocate(2)`: a hole.
const PUNCH_HOLE: i32 = 2;
/// `fallocate(2)`: zeroes that have room.
const ZERO_RANGE: i32 = 16;
/// `lseek(2)`: the next data.
const SEEK_DATA: i32 = 3;
/// `lseek(2)`: the next hole.
const SEEK_HOLE: i32 = 4;

impl Handle {
    /// Up to `len` bytes; fewer only at the end of the file.
    pub async fn read(&self, offset: u64, len: u32) -> Outcome<Bytes> {
        let left = self.object.size().saturating_sub(offset);
        let len = left.min(len.into());
        if len > READ_COPIED_BYTES_MAX.into() {
            return Ok(self.object.read(offset..offset + len).await?);
        }
        let mut bytes = vec![0; len as usize];
        let read = self.object.read_at(offset, &mut bytes).await?;
        bytes.truncate(read);
        Ok(bytes.into())
    }

    /// The next data or hole. Errors: ENXIO when there is none, EINVAL.
    pub async fn seek(&self, offset: i64, whence: i32) -> Outcome<i64> {
        let offset = u64::try_from(offset).map_err(|_| Fault(Errno::ENXIO))?;
        let found = match whence {
            SEEK_DATA => self.object.seek_data(offset).await?,
            SEEK_HOLE => self.object.seek_hole(offset).await?,
            _ => return Err(Fault(Errno::EINVAL)),
        };
        let found = found.ok_or(Fault(Errno::ENXIO))?;
        i64::try_from(found).map_err(|_| Fault(Errno::EOVERFLOW))
    }
}

impl Fs {
    /// Writes. `kills`: set-user-ID goes, before the bytes come. Errors: ENOSPC, if there is room for neither.
    pub async fn write(
        &self,
        handle: &Handle,
        offset: u64,
        bytes: &[u8],
        kills: bool,
    ) -> Outcome<()> {
        range(offset, bytes.len() as u64)?;
        self.touch(&handle.node, kills).await?;
        self.room
            .twice(self.try_write(handle, offset, bytes), self.try_write(handle, offset, bytes))
            .await
    }

    async fn try_write(&self, handle: &Handle, offset: u64, bytes: &[u8]) -> Outcome<()> {
        self.room.grow().await?;
        Ok(handle.object.write_at(offset, bytes).await?)
    }

    /// All that was answered about this inode becomes durable: bytes, size, record, names.
    ///
    /// A name is made, changed and taken away in one transaction with the record of its directory and of its
    /// inode, so that the sync of either covers it.
    pub async fn sync(&self, node: &Node, only_data: bool) -> Outcome<()> {
        let mut meta = node.lock().await?;
        if meta.gone {
            return Ok(());
        }
        let times = match only_data {
            true => Ok(()),
            false => self.store_times(node, &mut meta).await,
        };
        drop(meta);
        node.object.sync().await?;
        times
    }

    /// Room, holes, zeroes for the bytes `range`. `kills`: set-user-ID goes.
    ///
    /// Errors: EOPNOTSUPP for other modes; ENOSPC before anything is taken.
    pub async fn allocate(
        &self,
        handle: &Handle,
        range: Range<u64>,
        mode: i32,
        kills: bool,
    ) -> Outcome<()> {
        let object = &handle.object;
        match mode & !KEEP_SIZE {
            PUNCH_HOLE if mode & KEEP_SIZE != 0 => {
                self.touch(&handle.node, kills).await?;
                return Ok(object.punch(range).await?);
            }
            0 | ZERO_RANGE => {}
            _ => return Err(Fault(Errno::EOPNOTSUPP)),
        }
        self.room.grow().await?;
        self.check_room(object, &range).await?;
        self.touch(&handle.node, kills).await?;
        object.preallocate(range.clone()).await?;
        if mode & ZERO_RANGE != 0 {
            object.zero(range.clone()).await?;
        }
        if mode & KEEP_SIZE == 0 && range.end > object.size() {
            object.truncate(range.end).await?;
        }
        Ok(())
    }
}

impl Fs {
    /// An allocation that ends for want of room keeps what it got, and a wish that is far too large would fill the
    /// store. So it is refused before.
    async fn check_room(&self, object: &Object, range: &Range<u64>) -> Outcome<()> {
        let (len, free) = (range.end - range.start, self.store.engine.stats().free_bytes);
        if len <= free {
            return Ok(());
        }
        match len - stored::bytes(object, range.clone()).await?.min(len) <= free {
            true => Ok(()),
            false => Err(Fault(Errno::ENOSPC)),
        }
    }
}

/// Errors: EFBIG beyond the largest file.
pub fn range(offset: u64, len: u64) -> Outcome<Range<u64>> {
    let end = offset.checked_add(len).filter(|end| *end <= i64::MAX as u64);
    Ok(offset..end.ok_or(Fault(Errno::EFBIG))?)
}
