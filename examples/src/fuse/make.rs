//! Making inodes and names: files, directories, symbolic links, devices, hard links.
//!
//! Guarantees one transaction each: the new inode, its entry, and the times of its directory. Called by
//! `filesystem`.

use fuser::Errno;

use crate::fuse::change::Change;
use crate::fuse::fault::Fault;
use crate::fuse::fault::Outcome;
use crate::fuse::fs::Fs;
use crate::fuse::fs::Held;
use crate::fuse::keys;
use crate::fuse::limits::LINKS_MAX;
use crate::fuse::limits::TARGET_BYTES_MAX;
use crate::fuse::nodes::Locked;
use crate::fuse::nodes::Meta;
use crate::fuse::record::Home;
use crate::fuse::record::Inode;
use crate::fuse::record::Kind;
use crate::fuse::record::PERMISSIONS;
use crate::fuse::store::check_name;
use crate::fuse::time::Time;

const SET_GROUP_ID: u32 = 0o2000;

/// What is to be made.
#[derive(Debug, Clone)]
pub struct New {
    /// What it is.
    pub kind: Kind,
    /// Its permission bits; the kernel has applied the umask.
    pub mode: u32,
    /// Whose it is.
    pub uid: u32,
    /// Whose group's, unless the directory says otherwise.
    pub gid: u32,
    /// Which device.
    pub rdev: u32,
    /// Where a symbolic link leads.
    pub target: Vec<u8>,
}

/// Errors: ENOENT in a directory that was removed.
pub fn check_present(meta: &Meta) -> Outcome<()> {
    match meta.gone || meta.inode.nlink == 0 {
        true => Err(Fault(Errno::ENOENT)),
        false => Ok(()),
    }
}

impl New {
    /// The inode as it begins. A directory with set-group-ID passes its group on.
    fn inode(&self, ino: u64, parent: &Inode, home: Home, now: Time) -> Inode {
        let (mut mode, mut gid) = (self.mode & PERMISSIONS, self.gid);
        if parent.mode & SET_GROUP_ID != 0 {
            gid = parent.gid;
            if self.kind == Kind::Directory {
                mode |= SET_GROUP_ID;
            }
        }
        let inode = Inode::new(ino, self.kind, mode, (self.uid, gid), now);
        Inode { rdev: self.rdev, home: Some(home), ..inode }
    }
}

impl Fs {
    /// Makes an inode; gives it, held.
    ///
    /// Errors: EEXIST, ENOENT (the directory was removed), ENAMETOOLONG, ENOSPC, those of a commit.
    pub async fn make(&self, parent: u64, name: &[u8], new: &New) -> Outcome<Held> {
        self.room.twice(self.try_make(parent, name, new), self.try_make(parent, name, new)).await
    }

    async fn try_make(&self, parent: u64, name: &[u8], new: &New) -> Outcome<Held> {
        check_name(name)?;
        self.room.grow().await?;
        if new.target.len() > TARGET_BYTES_MAX {
            return Err(Fault(Errno::ENAMETOOLONG));
        }
        let directory = self.directory(parent)?;
        let mut locked = Locked::all(&[&directory]).await?;
        check_present(locked.of(parent))?;
        let place = match self.store.spot(parent, name).await? {
            (Some(_), _) => return Err(Fault(Errno::EEXIST)),
            (None, place) => place.ok_or(Fault(Errno::ENOSPC))?,
        };
        let ino = self.store.next_ino().await?;
        let mut change = Change::new(self);
        let home = Home { parent, probe: place.probe_of(), name: name.to_vec() };
        let inode = new.inode(ino, &locked.of(parent).inode, home, change.now);
        let object = change.transaction.create(keys::entry(parent, place))?;
        change.transaction.write_at(&object, 0, &new.target)?;
        change.transaction.set_attributes(&object, &inode.encode())?;
        let directories = i32::from(new.kind == Kind::Directory);
        change.content_changes(&directory, locked.of(parent), directories);
        // Known before it can be found, so that whoever finds it meets this node.
        let held = self.hold_fresh(inode, object);
        change.commit(&mut locked).await?;
        Ok(held)
    }

    /// Gives an inode a further name.
    ///
    /// Errors: EPERM for a directory, EMLINK, and as [`Fs::make`].
    pub async fn link(&self, ino: u64, parent: u64, name: &[u8]) -> Outcome<Held> {
        self.room.twice(self.try_link(ino, parent, name), self.try_link(ino, parent, name)).await
    }

    async fn try_link(&self, ino: u64, parent: u64, name: &[u8]) -> Outcome<Held> {
        check_name(name)?;
        self.room.grow().await?;
        let (node, directory) = (self.nodes.get(ino)?, self.directory(parent)?);
        if node.kind == Kind::Directory {
            return Err(Fault(Errno::EPERM));
        }
        let mut locked = Locked::all(&[&node, &directory]).await?;
        check_present(locked.of(ino))?;
        check_present(locked.of(parent))?;
        if locked.of(ino).inode.nlink >= LINKS_MAX {
            return Err(Fault(Errno::EMLINK));
        }
        let place = match self.store.spot(parent, name).await? {
            (Some(_), _) => return Err(Fault(Errno::EEXIST)),
            (None, place) => place.ok_or(Fault(Errno::ENOSPC))?,
        };
        let mut change = Change::new(self);
        change.set_apart(&node, locked.of(ino))?;
        let home = Home { parent, probe: place.probe_of(), name: name.to_vec() };
        change.add_link(&keys::entry(parent, place), ino, node.kind, home)?;
        let now = change.now;
        let inode = change.inode(&node, locked.of(ino));
        inode.nlink += 1;
        inode.ctime = now;
        change.content_changes(&directory, locked.of(parent), 0);
        change.commit(&mut locked).await?;
        drop(locked);
        Ok(self.hold_known(&node))
    }
}
