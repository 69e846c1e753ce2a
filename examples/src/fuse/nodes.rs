//! The inodes that the kernel knows, or that a request is at.
//!
//! A node is in the table as long as the kernel has looked it up more often than forgotten it, or a request
//! holds it. What it says in memory is what counts; the store is asked once, under the node's lock, when the
//! node is in the table already: so no change can fall between reading and entering it.
//!
//! Guarantees one node per inode. Does not write. Called by `fs` and the operations.

use std::collections::BTreeMap;
use std::collections::HashMap;
use std::sync::Arc;

use foliant::ErrorKind;
use foliant::Object;
use fuser::Errno;
use parking_lot::Mutex;
use tokio::sync::OwnedMappedMutexGuard;
use tokio::sync::OwnedMutexGuard;
use tokio::time::Instant;

use crate::fuse::fault::Fault;
use crate::fuse::fault::Outcome;
use crate::fuse::keys::ROOT_INO;
use crate::fuse::record::Inode;
use crate::fuse::record::Kind;
use crate::fuse::record::Record;

/// What is true of an inode now.
#[derive(Debug)]
pub struct Meta {
    /// Its record, newer than the stored one if `ahead`.
    pub inode: Inode,
    /// Open files.
    pub opens: u32,
    /// Its object is gone; only who still holds it sees the record.
    pub gone: bool,
    /// The record has times that are not stored yet.
    pub ahead: bool,
    /// Until when writes need no other stored time.
    pub window: Option<Instant>,
}

/// An inode in memory.
#[derive(Debug)]
pub struct Node {
    /// Its number.
    pub ino: u64,
    /// What it is.
    pub kind: Kind,
    /// Its object.
    pub object: Object,
    /// Held across commits, so it has to be one for tasks. Empty until it was asked for.
    meta: Arc<tokio::sync::Mutex<Option<Meta>>>,
}

/// The lock of one node, and what is under it.
pub type Guard = OwnedMappedMutexGuard<Option<Meta>, Meta>;

impl Node {
    /// A node for an object that is stored.
    pub fn stored(ino: u64, kind: Kind, object: Object) -> Self {
        Self { ino, kind, object, meta: Arc::default() }
    }

    /// A node for one that is being made.
    pub fn fresh(inode: Inode, object: Object) -> Self {
        let (ino, kind) = (inode.ino, inode.kind);
        let meta = Meta { inode, opens: 0, gone: false, ahead: false, window: None };
        Self { ino, kind, object, meta: Arc::new(Some(meta).into()) }
    }

    /// Waits for the lock. Errors: ESTALE if the inode is gone before it was known; those of a read.
    pub async fn lock(&self) -> Outcome<Guard> {
        let mut guard = self.meta.clone().lock_owned().await;
        if guard.is_none() {
            let inode = self.load().await?;
            *guard = Some(Meta { inode, opens: 0, gone: false, ahead: false, window: None });
        }
        OwnedMutexGuard::try_map(guard, Option::as_mut).map_err(|_| Fault(Errno::EIO))
    }

    async fn load(&self) -> Outcome<Inode> {
        let bytes = match self.object.attributes().await {
            Err(cause) if cause.kind() == ErrorKind::Closed => return Err(Fault(Errno::ESTALE)),
            read => read?,
        };
        match Record::decode(&bytes) {
            Some(Record::Inode(inode)) if inode.ino == self.ino => Ok(inode),
            _ => Err(Fault::damaged("the record of an inode is not sound", self.ino)),
        }
    }
}

/// The locks of several nodes.
#[derive(Debug)]
pub struct Locked(BTreeMap<u64, Guard>);

impl Locked {
    /// Locks nodes in the order of their numbers, so that no two changes wait for each other.
    pub async fn all(nodes: &[&Node]) -> Outcome<Self> {
        let sorted: BTreeMap<u64, &Node> = nodes.iter().map(|node| (node.ino, *node)).collect();
        let mut locked = BTreeMap::new();
        for (ino, node) in sorted {
            locked.insert(ino, node.lock().await?);
        }
        Ok(Self(locked))
    }

    /// What is under the lock of this inode, which must be one of those.
    pub fn of(&mut self, ino: u64) -> &mut Meta {
        self.0.get_mut(&ino).expect("only what was locked is asked for")
    }
}

/// All nodes.
#[derive(Debug, Default)]
pub struct Nodes {
    /// Held for the time of a look, never across a wait.
    seats: Mutex<HashMap<u64, Seat>>,
}

#[derive(Debug)]
struct Seat {
    node: Arc<Node>,
    /// Lookups of the kernel, and holds of requests.
    holds: u64,
}

impl Nodes {
    /// The node of an inode that the kernel names. Errors: ESTALE for one that it does not know.
    pub fn get(&self, ino: u64) -> Outcome<Arc<Node>> {
        let seats = self.seats.lock();
        seats.get(&ino).map(|seat| seat.node.clone()).ok_or(Fault(Errno::ESTALE))
    }

    /// The node of this inode, held once more; `make` is entered if there is none.
    pub fn hold(&self, ino: u64, make: impl FnOnce() -> Node) -> Arc<Node> {
        let mut seats = self.seats.lock();
        let seat = seats.entry(ino).or_insert_with(|| Seat { node: Arc::new(make()), holds: 0 });
        seat.holds += 1;
        seat.node.clone()
    }

    /// A node once more; it comes back into the table if it had left that.
    pub fn hold_again(&self, node: &Arc<Node>) -> Arc<Node> {
        let mut seats = self.seats.lock();
        let fresh = || Seat { node: node.clone(), holds: 0 };
        let seat = seats.entry(node.ino).or_insert_with(fresh);
        seat.holds += 1;
        seat.node.clone()
    }

    /// Takes holds back; gives the node if it left the table with that.
    pub fn forget(&self, ino: u64, holds: u64) -> Option<Arc<Node>> {
        let mut seats = self.seats.lock();
        let seat = seats.get_mut(&ino)?;
        seat.holds = seat.holds.saturating_sub(holds);
        // The root is never out of use.
        if seat.holds > 0 || ino == ROOT_INO {
            return None;
        }
        seats.remove(&ino).map(|seat| seat.node)
    }

    /// All of this moment.
    pub fn all(&self) -> Vec<Arc<Node>> {
        self.seats.lock().values().map(|seat| seat.node.clone()).collect()
    }
}
