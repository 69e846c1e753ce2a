//! Changing what `stat` says: permissions, owner, size, times.
//!
//! Guarantees that a size changes behind the stored time of it, and behind the removal of set-user-ID, as
//! [`times`](crate::fuse::times) wants. The kernel has checked who may. Called by `filesystem`.

use fuser::Errno;

use crate::fuse::fault::Fault;
use crate::fuse::fault::Outcome;
use crate::fuse::fs::Fs;
use crate::fuse::nodes::Node;
use crate::fuse::record::Inode;
use crate::fuse::record::Kind;
use crate::fuse::record::PERMISSIONS;
use crate::fuse::time::Time;
use crate::fuse::times::drop_privileges;

/// What is to change.
#[derive(Debug, Clone, Copy, Default)]
pub struct Wanted {
    /// Permission bits.
    pub mode: Option<u32>,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// Size.
    pub size: Option<u64>,
    /// Time of access.
    pub atime: Option<Time>,
    /// Time of modification.
    pub mtime: Option<Time>,
    /// Time of change.
    pub ctime: Option<Time>,
    /// Whether a change of size takes set-user-ID away: everybody but root does that.
    pub kills: bool,
}

impl Wanted {
    fn apply(&self, inode: &mut Inode, now: Time) {
        if self.uid.is_some() || self.gid.is_some() || self.size.is_some() && self.kills {
            drop_privileges(inode);
        }
        inode.uid = self.uid.unwrap_or(inode.uid);
        inode.gid = self.gid.unwrap_or(inode.gid);
        inode.mode = self.mode.map_or(inode.mode, |mode| mode & PERMISSIONS);
        inode.atime = self.atime.unwrap_or(inode.atime);
        if self.size.is_some() {
            inode.mtime = now;
        }
        inode.mtime = self.mtime.unwrap_or(inode.mtime);
        inode.ctime = self.ctime.unwrap_or(now);
    }
}

/// Who may do what.
fn rights(inode: &Inode) -> (u32, u32, u32) {
    (inode.mode, inode.uid, inode.gid)
}

impl Fs {
    /// Changes an inode.
    ///
    /// Errors: ESTALE, EISDIR and EINVAL (the size of something else than a file), those of a commit and of a
    /// truncation; then all but the size has changed. ENOSPC, and nothing has changed, if more than times had to be
    /// stored for it.
    pub async fn set(&self, node: &Node, wanted: &Wanted) -> Outcome<()> {
        match (wanted.size, node.kind) {
            (Some(_), Kind::Directory) => return Err(Fault(Errno::EISDIR)),
            (Some(size), Kind::File) if size > i64::MAX as u64 => {
                return Err(Fault(Errno::EFBIG));
            }
            (None, _) | (Some(_), Kind::File) => {}
            _ => return Err(Fault(Errno::EINVAL)),
        }
        let mut meta = node.lock().await?;
        if meta.gone {
            return Err(Fault(Errno::ESTALE));
        }
        let before = (meta.inode.clone(), meta.ahead);
        wanted.apply(&mut meta.inode, Time::now());
        meta.ahead = true;
        let only_times = rights(&meta.inode) == rights(&before.0);
        match self.store_times(node, &mut meta).await {
            // A file can be cut on a full store: that is how it becomes less full. But not while a crash could give
            // set-user-ID back to what is left of it.
            Err(full) if full.is_no_space() && wanted.size.is_some() && only_times => {}
            Err(cause) => {
                (meta.inode, meta.ahead) = before;
                return Err(cause);
            }
            Ok(()) => {}
        }
        if let Some(size) = wanted.size {
            node.object.truncate(size).await?;
        }
        Ok(())
    }
}
