//! Open files.
//!
//! Each has a handle of its own on its object, because the engine's read-ahead belongs to handles. Guarantees that
//! an inode that lost its last name stays as long as one is open. Called by `data` and `filesystem`.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;

use foliant::Object;
use fuser::Errno;
use parking_lot::Mutex;

use crate::fuse::fault::Fault;
use crate::fuse::fault::Outcome;
use crate::fuse::fs::Fs;
use crate::fuse::nodes::Node;
use crate::fuse::record::Kind;

/// An open file.
#[derive(Debug)]
pub struct Handle {
    /// What is open.
    pub node: Arc<Node>,
    /// A handle of its own.
    pub object: Object,
}

/// All open files, by the numbers that the kernel knows.
#[derive(Debug, Default)]
pub struct Handles {
    next: AtomicU64,
    /// Held for the time of a look.
    open: Mutex<HashMap<u64, Arc<Handle>>>,
}

impl Handles {
    /// Opens a file; gives the number of the handle.
    ///
    /// Errors: ESTALE (the kernel looks the path up again), EISDIR, EINVAL.
    pub async fn open(&self, node: Arc<Node>) -> Outcome<u64> {
        match node.kind {
            Kind::File => {}
            Kind::Directory => return Err(Fault(Errno::EISDIR)),
            _ => return Err(Fault(Errno::EINVAL)),
        }
        let mut meta = node.lock().await?;
        if meta.gone {
            return Err(Fault(Errno::ESTALE));
        }
        meta.opens += 1;
        drop(meta);
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let object = node.object.clone();
        self.open.lock().insert(number, Arc::new(Handle { node, object }));
        Ok(number)
    }

    /// The handle of this number. Errors: EBADF.
    pub fn get(&self, number: u64) -> Outcome<Arc<Handle>> {
        self.open.lock().get(&number).cloned().ok_or(Fault(Errno::EBADF))
    }

    /// Closes one. With the last one of a file its times are stored. Errors: EBADF, those of a commit.
    pub async fn close(&self, fs: &Fs, number: u64) -> Outcome<()> {
        let handle = self.open.lock().remove(&number).ok_or(Fault(Errno::EBADF))?;
        let mut meta = handle.node.lock().await?;
        meta.opens = meta.opens.saturating_sub(1);
        match meta.opens {
            0 => fs.store_times(&handle.node, &mut meta).await,
            _ => Ok(()),
        }
    }
}
