//! The file system in memory: which inodes are known, what is asked about them, and what goes with the last use.
//!
//! Guarantees that an inode without a name goes with its last use, and with it its room. Does not change
//! names. Called by the operations, which are further files with methods of [`Fs`].

use std::sync::Arc;
use std::sync::OnceLock;

use foliant::Object;
use fuser::Errno;
use fuser::FileAttr;
use fuser::FileType;
use fuser::INodeNo;
use fuser::Notifier;
use tokio_util::task::TaskTracker;

use crate::fuse::fault::Fault;
use crate::fuse::fault::Outcome;
use crate::fuse::keys;
use crate::fuse::nodes::Meta;
use crate::fuse::nodes::Node;
use crate::fuse::nodes::Nodes;
use crate::fuse::record::Inode;
use crate::fuse::record::Kind;
use crate::fuse::room::Room;
use crate::fuse::store::Entry;
use crate::fuse::store::Store;
use crate::fuse::stored;

/// What `st_blksize` says, and the unit of `statfs`.
pub const BLOCK: u32 = 4096;

/// A mounted file system. Cheap to clone; all clones are the same.
#[derive(Debug, Clone)]
pub struct Fs {
    /// What is stored.
    pub store: Arc<Store>,
    /// What is known.
    pub nodes: Arc<Nodes>,
    /// What may be written.
    pub room: Arc<Room>,
    /// Held while a directory may move to another one; before all other locks.
    pub tree: Arc<tokio::sync::Mutex<()>>,
    /// What goes on behind replies.
    pub tasks: TaskTracker,
    /// How the kernel hears what it did not ask for; set before it asks for anything.
    pub kernel: Arc<OnceLock<Notifier>>,
}

impl Fs {
    /// Shows what is in `store`. Errors: there is no root.
    pub async fn new(store: Store) -> Outcome<Self> {
        let root = store.engine.object(keys::ROOT).await?;
        let room = Arc::new(Room::new(&store.engine).await?);
        let nodes = Arc::new(Nodes::default());
        nodes.hold(keys::ROOT_INO, || Node::stored(keys::ROOT_INO, Kind::Directory, root));
        let (store, tree) = (Arc::new(store), Arc::default());
        Ok(Self { store, nodes, room, tree, tasks: TaskTracker::new(), kernel: Arc::default() })
    }

    /// The node of an inode that the kernel names, which must be a directory. Errors: ESTALE, ENOTDIR.
    pub fn directory(&self, ino: u64) -> Outcome<Arc<Node>> {
        let node = self.nodes.get(ino)?;
        if node.kind != Kind::Directory {
            return Err(Fault(Errno::ENOTDIR));
        }
        Ok(node)
    }

    /// The entry of this name, and its inode, held. Errors: ENOENT.
    pub async fn find(&self, directory: u64, name: &[u8]) -> Outcome<(Entry, Held)> {
        for attempt in Store::attempts() {
            attempt?;
            let entry = self.store.find(directory, name).await?.ok_or(Fault(Errno::ENOENT))?;
            match self.hold(&entry).await {
                Err(Fault(Errno::ESTALE)) => {}
                held => return Ok((entry, held?)),
            }
        }
        Err(Fault(Errno::EAGAIN))
    }

    /// The inode of an entry, held, and known. Errors: ESTALE if it went meanwhile.
    pub async fn hold(&self, entry: &Entry) -> Outcome<Held> {
        let (ino, kind) = (entry.record.ino(), entry.record.kind());
        let object = self.store.inode_of(entry).await?;
        let node = self.nodes.hold(ino, || Node::stored(ino, kind, object));
        let held = Held { fs: self.clone(), node };
        drop(held.node.lock().await?);
        Ok(held)
    }

    /// Holds a node that is in the table.
    pub fn hold_known(&self, node: &Arc<Node>) -> Held {
        Held { fs: self.clone(), node: self.nodes.hold_again(node) }
    }

    /// Holds the node of an inode that is being made.
    pub fn hold_fresh(&self, inode: Inode, object: Object) -> Held {
        let node = self.nodes.hold(inode.ino, || Node::fresh(inode, object));
        Held { fs: self.clone(), node }
    }

    /// Takes holds back. An orphan that nobody holds any more is removed behind it.
    pub fn forget(&self, ino: u64, holds: u64) {
        if let Some(node) = self.nodes.forget(ino, holds) {
            let fs = self.clone();
            self.tasks.spawn(async move { fs.leave(&node).await });
        }
    }

    /// What is left to do for an inode that left the table.
    async fn leave(&self, node: &Node) {
        let Ok(mut meta) = node.lock().await else { return };
        let done = match meta.inode.nlink {
            0 if !meta.gone => self.remove_orphan(&meta.inode).await,
            _ => self.store_times(node, &mut meta).await,
        };
        if let Err(cause) = done {
            // An orphan is found again by the next mount; times are at most as old as their window.
            tracing::warn!(ino = node.ino, ?cause, "what was left to do for an inode is not done");
        }
    }

    /// Removes what lies on the list of orphans.
    pub async fn remove_orphan(&self, inode: &Inode) -> Outcome<()> {
        let mut transaction = self.store.engine.transaction();
        transaction.remove(keys::orphan(inode.ino))?;
        if inode.has_xattrs {
            transaction.remove(keys::xattrs(inode.ino))?;
        }
        transaction.commit().await?;
        self.room.reclaimed();
        Ok(())
    }

    /// Stores times that are only in memory, on a full store, too.
    pub async fn store_times(&self, node: &Node, meta: &mut Meta) -> Outcome<()> {
        match self.try_store_times(node, meta).await {
            Err(full) if full.is_no_space() && self.room.lend().await? => {
                self.try_store_times(node, meta).await
            }
            done => done,
        }
    }

    /// As `store_times`, but leaves the reserve alone.
    pub async fn try_store_times(&self, node: &Node, meta: &mut Meta) -> Outcome<()> {
        if meta.ahead && !meta.gone {
            node.object.set_attributes(&meta.inode.encode()).await?;
            meta.ahead = false;
        }
        meta.window = None;
        Ok(())
    }

    /// The kernel forgets what it was told of an inode, and asks before it relies on it again.
    pub fn distrust(&self, ino: u64) {
        // A negative offset: its pages stay.
        let told = self.kernel.get().map(|kernel| kernel.inval_inode(INodeNo(ino), -1, 0));
        if let Some(Err(cause)) = told {
            tracing::debug!(ino, %cause, "the kernel does not know the inode any more");
        }
    }

    /// What `stat` says. Whoever reads times has seen them: the next write needs others.
    pub async fn attr(&self, node: &Node) -> Outcome<FileAttr> {
        let mut meta = node.lock().await?;
        meta.window = None;
        let inode = meta.inode.clone();
        let gone = meta.gone;
        drop(meta);
        let (size, blocks) = match inode.kind {
            Kind::File | Kind::Symlink => {
                let size = node.object.size();
                let stored = match gone {
                    true => 0,
                    // What is removed right now, or damaged, still has all else that is asked for.
                    false => stored::bytes(&node.object, 0..u64::MAX >> 1).await.unwrap_or(0),
                };
                (size, stored.div_ceil(512))
            }
            Kind::Directory => (BLOCK.into(), 0),
            _ => (0, 0),
        };
        Ok(attr_of(&inode, size, blocks))
    }
}

/// A node that cannot leave the table meanwhile.
#[derive(Debug)]
pub struct Held {
    fs: Fs,
    /// The node.
    pub node: Arc<Node>,
}

impl Held {
    /// The kernel holds it now, too.
    pub fn give(&self) {
        self.fs.nodes.hold_again(&self.node);
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.fs.forget(self.node.ino, 1);
    }
}

/// The kernel's kinds.
pub fn file_type(kind: Kind) -> FileType {
    match kind {
        Kind::File => FileType::RegularFile,
        Kind::Directory => FileType::Directory,
        Kind::Symlink => FileType::Symlink,
        Kind::Pipe => FileType::NamedPipe,
        Kind::Socket => FileType::Socket,
        Kind::Char => FileType::CharDevice,
        Kind::Block => FileType::BlockDevice,
    }
}

fn attr_of(inode: &Inode, size: u64, blocks: u64) -> FileAttr {
    FileAttr {
        ino: INodeNo(inode.ino),
        size,
        blocks,
        atime: inode.atime.into(),
        mtime: inode.mtime.into(),
        ctime: inode.ctime.into(),
        crtime: inode.btime.into(),
        kind: file_type(inode.kind),
        perm: inode.mode as u16,
        nlink: inode.nlink,
        uid: inode.uid,
        gid: inode.gid,
        rdev: inode.rdev,
        blksize: BLOCK,
        flags: 0,
    }
}
