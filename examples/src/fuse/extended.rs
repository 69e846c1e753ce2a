//! Extended attributes.
//!
//! All of an inode lie in one object beside it, which one transaction makes, replaces or removes together with
//! the record that says so. POSIX ACLs are refused: the kernel would not enforce what is stored.
//!
//! Guarantees that an inode without any costs no look at the store. Called by `filesystem`.

use fuser::Errno;

use crate::fuse::change::Change;
use crate::fuse::fault::Fault;
use crate::fuse::fault::Outcome;
use crate::fuse::fs::Fs;
use crate::fuse::keys;
use crate::fuse::limits::NAME_BYTES_MAX;
use crate::fuse::limits::XATTR_VALUE_BYTES_MAX;
use crate::fuse::limits::XATTRS_BYTES_MAX;
use crate::fuse::nodes::Locked;
use crate::fuse::nodes::Node;
use crate::fuse::xattrs;
use crate::fuse::xattrs::Xattrs;

/// `setxattr(2)`: it must be new.
const CREATE: i32 = 1;
/// `setxattr(2)`: it must be there.
const REPLACE: i32 = 2;

impl Fs {
    /// The value of this name. Errors: ENODATA.
    pub async fn xattr(&self, node: &Node, name: &[u8]) -> Outcome<Vec<u8>> {
        self.xattrs(node).await?.remove(name).ok_or(Fault(Errno::ENODATA))
    }

    /// All names, each with a zero byte behind it.
    pub async fn xattr_names(&self, node: &Node) -> Outcome<Vec<u8>> {
        let all = self.xattrs(node).await?;
        Ok(all
            .into_keys()
            .flat_map(|mut name| {
                name.push(0);
                name
            })
            .collect())
    }

    /// Gives a name a value.
    ///
    /// Errors: EEXIST, ENODATA (flags), E2BIG, ERANGE (one of them is too long), ENOSPC (all together are), EOPNOTSUPP.
    pub async fn set_xattr(
        &self,
        node: &Node,
        name: &[u8],
        value: &[u8],
        flags: i32,
    ) -> Outcome<()> {
        if name.starts_with(b"system.") {
            return Err(Fault(Errno::EOPNOTSUPP));
        }
        if name.is_empty() || name.len() > NAME_BYTES_MAX {
            return Err(Fault(Errno::ERANGE));
        }
        if value.len() > XATTR_VALUE_BYTES_MAX {
            return Err(Fault(Errno::E2BIG));
        }
        self.room.grow().await?;
        self.change_xattrs(node, |all| {
            let known = all.insert(name.to_vec(), value.to_vec()).is_some();
            match known {
                true if flags & CREATE != 0 => Err(Fault(Errno::EEXIST)),
                false if flags & REPLACE != 0 => Err(Fault(Errno::ENODATA)),
                _ => Ok(()),
            }
        })
        .await
    }

    /// Takes a name away. Errors: ENODATA.
    pub async fn remove_xattr(&self, node: &Node, name: &[u8]) -> Outcome<()> {
        if name.starts_with(b"system.") {
            return Err(Fault(Errno::EOPNOTSUPP));
        }
        let change = |all: &mut Xattrs| all.remove(name).map(drop).ok_or(Fault(Errno::ENODATA));
        self.change_xattrs(node, change).await
    }

    async fn xattrs(&self, node: &Node) -> Outcome<Xattrs> {
        let meta = node.lock().await?;
        match meta.inode.has_xattrs && !meta.gone {
            true => self.load_xattrs(node.ino).await,
            false => Ok(Xattrs::new()),
        }
    }

    async fn load_xattrs(&self, ino: u64) -> Outcome<Xattrs> {
        let object = self.store.engine.object(keys::xattrs(ino)).await?;
        let bytes = object.read(0..XATTRS_BYTES_MAX as u64).await?;
        xattrs::decode(&bytes).ok_or_else(|| Fault::damaged("its attributes are not sound", ino))
    }

    async fn change_xattrs(
        &self,
        node: &Node,
        edit: impl FnOnce(&mut Xattrs) -> Outcome<()>,
    ) -> Outcome<()> {
        let mut locked = Locked::all(&[node]).await?;
        let meta = locked.of(node.ino);
        if meta.gone {
            return Err(Fault(Errno::ESTALE));
        }
        let had = meta.inode.has_xattrs;
        let mut all = if had { self.load_xattrs(node.ino).await? } else { Xattrs::new() };
        edit(&mut all)?;
        let bytes = xattrs::encode(&all).ok_or(Fault(Errno::ENOSPC))?;
        let mut change = Change::new(self);
        let key = keys::xattrs(node.ino);
        match (had, all.is_empty()) {
            (true, true) => change.transaction.remove(key)?,
            (true, false) => {
                let object = self.store.engine.object(key).await?;
                change.transaction.truncate(&object, bytes.len() as u64)?;
                change.transaction.write_at(&object, 0, &bytes)?;
            }
            (false, _) => {
                let object = change.transaction.create(key)?;
                change.transaction.write_at(&object, 0, &bytes)?;
            }
        }
        let now = change.now;
        let inode = change.inode(node, locked.of(node.ino));
        inode.has_xattrs = !all.is_empty();
        inode.ctime = now;
        change.commit(&mut locked).await
    }
}
