//! One change of names and inodes: a transaction of the engine, and the records that become true with it.
//!
//! Guarantees that memory and store change together or not at all. Does not lock: who begins a change holds the
//! locks of all inodes in it. Called by the operations.

use std::collections::BTreeMap;
use std::sync::Arc;

use foliant::Object;
use foliant::Transaction;

use crate::fuse::fault::Outcome;
use crate::fuse::fs::Fs;
use crate::fuse::keys;
use crate::fuse::nodes::Locked;
use crate::fuse::nodes::Meta;
use crate::fuse::nodes::Node;
use crate::fuse::record::Home;
use crate::fuse::record::Inode;
use crate::fuse::record::Kind;
use crate::fuse::record::Link;
use crate::fuse::record::Record;
use crate::fuse::room::Room;
use crate::fuse::store::Entry;
use crate::fuse::store::Store;
use crate::fuse::time::Time;

/// A change that is being put together.
#[derive(Debug)]
pub struct Change {
    store: Arc<Store>,
    room: Arc<Room>,
    /// The changes of names that are not of inodes.
    pub transaction: Transaction,
    /// Object and record of each inode that changes.
    inodes: BTreeMap<u64, (Object, Inode)>,
    /// Inodes whose objects go.
    gone: Vec<u64>,
    /// Inodes that are on the list of orphans afterwards.
    orphans: u64,
    /// When it happens, for all the same.
    pub now: Time,
}

impl Change {
    /// An empty one.
    pub fn new(fs: &Fs) -> Self {
        Self {
            store: fs.store.clone(),
            room: fs.room.clone(),
            transaction: fs.store.engine.transaction(),
            inodes: BTreeMap::new(),
            gone: Vec::new(),
            orphans: 0,
            now: Time::now(),
        }
    }

    /// The record of a locked inode as the change leaves it, to be changed further.
    pub fn inode(&mut self, node: &Node, meta: &Meta) -> &mut Inode {
        let fresh = || (node.object.clone(), meta.inode.clone());
        &mut self.inodes.entry(node.ino).or_insert_with(fresh).1
    }

    /// Something came into a directory or left it; `directories` says how many of that were directories.
    pub fn content_changes(&mut self, node: &Node, meta: &Meta, directories: i32) {
        let now = self.now;
        let inode = self.inode(node, meta);
        (inode.mtime, inode.ctime) = (now, now);
        inode.nlink = inode.nlink.saturating_add_signed(directories);
    }

    /// The entry loses its name, and its inode one of its. If that was the last one, a directory is removed, and
    /// anything else goes on the list of orphans: it may be open, or about to be by who found it a moment ago.
    ///
    /// Errors: too much for one transaction.
    pub fn drop_name(&mut self, entry: &Entry, node: &Node, meta: &Meta) -> Outcome<()> {
        self.drop_name_or_all(entry, node, meta, node.kind != Kind::Directory)
    }

    /// As `drop_name`; if that was the last one, and the inode need not `stay`, it is removed at once.
    pub fn drop_name_or_all(
        &mut self,
        entry: &Entry,
        node: &Node,
        meta: &Meta,
        stay: bool,
    ) -> Outcome<()> {
        let now = self.now;
        let from = match &entry.record {
            Record::Inode(_) => entry.key.clone(),
            Record::Link(link) => {
                self.transaction.remove(&entry.key)?;
                keys::alone(link.ino)
            }
        };
        let inode = self.inode(node, meta);
        inode.ctime = now;
        inode.nlink = if inode.is_directory() { 0 } else { inode.nlink.saturating_sub(1) };
        if inode.nlink > 0 {
            return Ok(());
        }
        inode.home = None;
        let has_xattrs = inode.has_xattrs;
        if stay {
            self.transaction.rename(from, keys::orphan(node.ino))?;
            self.orphans += 1;
            return Ok(());
        }
        self.transaction.remove(from)?;
        if has_xattrs {
            self.transaction.remove(keys::xattrs(node.ino))?;
        }
        self.gone.push(node.ino);
        Ok(())
    }

    /// An inode with one name moves under its own number, because it gets another; its name is a link then.
    pub fn set_apart(&mut self, node: &Node, meta: &Meta) -> Outcome<()> {
        let from = self.store.key_of(&meta.inode);
        let inode = self.inode(node, meta);
        if let Some(home) = inode.home.take() {
            let (ino, kind) = (inode.ino, inode.kind);
            self.transaction.rename(&from, keys::alone(ino))?;
            self.add_link(&from, ino, kind, home)?;
        }
        Ok(())
    }

    /// A further name.
    pub fn add_link(&mut self, key: &[u8], ino: u64, kind: Kind, home: Home) -> Outcome<()> {
        let object = self.transaction.create(key)?;
        let link = Link { ino, kind, home };
        self.transaction.set_attributes(&object, &link.encode())?;
        Ok(())
    }

    /// Makes it happen. Readers see it on return; it becomes durable by itself, in its turn.
    ///
    /// Errors: those of a commit, and nothing has happened.
    pub async fn commit(mut self, locked: &mut Locked) -> Outcome<()> {
        for (ino, (object, inode)) in &self.inodes {
            if !self.gone.contains(ino) {
                self.transaction.set_attributes(object, &inode.encode())?;
            }
        }
        self.transaction.commit().await?;
        self.room.orphaned(self.orphans);
        for (ino, (_, inode)) in self.inodes {
            let meta = locked.of(ino);
            meta.gone |= self.gone.contains(&ino);
            meta.inode = inode;
            meta.ahead = false;
            meta.window = None;
        }
        Ok(())
    }

    /// As `commit`, for removals on a store that has no room left, not even for the times of the directory: these
    /// stay in memory for now. Does what nobody can see half of: only objects go.
    pub async fn commit_removals(mut self, locked: &mut Locked) -> Outcome<()> {
        let kept = self.gone.clone();
        for (ino, (object, inode)) in &self.inodes {
            // Fewer names have to be stored with the removal of one, whatever it takes.
            let names = locked.of(*ino).inode.nlink != inode.nlink;
            if !kept.contains(ino) && names {
                self.transaction.set_attributes(object, &inode.encode())?;
            }
        }
        self.transaction.commit().await?;
        self.room.orphaned(self.orphans);
        for (ino, (_, inode)) in self.inodes {
            let meta = locked.of(ino);
            meta.gone |= kept.contains(&ino);
            meta.ahead = !meta.gone;
            meta.inode = inode;
            meta.window = None;
        }
        Ok(())
    }
}
