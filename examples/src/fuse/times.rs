//! When a file was written, as its inode says it.
//!
//! A write does not store its time: that would be a transaction each. But a crash may not leave new bytes under
//! a time that somebody has seen with the old ones, or a backup passes the file over. So:
//!
//! * The first write stores its time, and only then hands its bytes to the engine. Commits become durable in
//!   their order, and bytes become durable with a later one. So durable bytes have a durable time that is newer
//!   than the one before them.
//! * Writes within [`TIMES_WINDOW`] behind it change the time in memory alone. It is stored by fsync, by the last
//!   close, and when the kernel forgets the inode.
//! * Whoever asks for the times closes the window: the next write stores its time first, again. So no time that
//!   was ever seen, and is there after a crash, stands over bytes that were written after it was seen.
//!
//! Who writes without the right to it takes set-user-ID away. That is stored before his bytes are let through, from the
//! reserve if there is no other room; if it cannot be, he is refused: else a crash would give the bit back over the
//! new bytes, fdatasync or not. And the kernel is told so: it learns it neither from the answer nor when it begins a
//! program.
//!
//! The size needs nothing of this: it is the object's, and the engine keeps it with the bytes.
//!
//! Called by `data`.

use fuser::Errno;
use tokio::time::Instant;

use crate::fuse::fault::Fault;
use crate::fuse::fault::Outcome;
use crate::fuse::fs::Fs;
use crate::fuse::limits::TIMES_WINDOW;
use crate::fuse::nodes::Meta;
use crate::fuse::nodes::Node;
use crate::fuse::record::Inode;
use crate::fuse::time::Time;

const SET_USER_ID: u32 = 0o4000;
const SET_GROUP_ID: u32 = 0o2000;
const GROUP_EXECUTES: u32 = 0o0010;

/// Takes set-user-ID away, and set-group-ID where it means execution. Gives whether there was any.
pub fn drop_privileges(inode: &mut Inode) -> bool {
    let before = inode.mode;
    if inode.is_directory() {
        return false;
    }
    inode.mode &= !SET_USER_ID;
    if inode.mode & GROUP_EXECUTES != 0 {
        inode.mode &= !SET_GROUP_ID;
    }
    inode.mode != before
}

impl Fs {
    /// The content changes now; to be called before it does. `kills`: with less privilege than the file gives.
    ///
    /// Errors: ESTALE; those of a commit. On a full store a time is stored later, but ENOSPC says that set-user-ID
    /// could not be taken away: the content must stay as it is.
    pub async fn touch(&self, node: &Node, kills: bool) -> Outcome<()> {
        let mut meta = node.lock().await?;
        if meta.gone {
            return Err(Fault(Errno::ESTALE));
        }
        let (now, mode) = (Time::now(), meta.inode.mode);
        (meta.inode.mtime, meta.inode.ctime) = (now, now);
        let killed = kills && drop_privileges(&mut meta.inode);
        meta.ahead = true;
        if killed {
            // It has learned nothing of that by itself, and a program that is begun is not looked at anew: it
            // would run the new bytes with the rights of the old ones.
            self.distrust(node.ino);
        }
        if !killed && meta.window.is_some_and(|end| Instant::now() < end) {
            return Ok(());
        }
        let stored = match killed {
            true => self.store_times(node, &mut meta).await,
            false => self.try_store_times(node, &mut meta).await,
        };
        match stored {
            Err(full) if full.is_no_space() && !killed => Ok(()),
            Err(cause) => {
                // It is as it was, so that the next write takes it away again, and stores that.
                meta.inode.mode = mode;
                Err(cause)
            }
            Ok(()) => {
                open_window(&mut meta);
                Ok(())
            }
        }
    }
}

fn open_window(meta: &mut Meta) {
    meta.window = Some(Instant::now() + TIMES_WINDOW);
}
