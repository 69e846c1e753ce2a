//! Taking names away, and with the last one the inode.
//!
//! Guarantees one transaction: the entry, its inode, the times of its directory. An open file lies on the list of
//! orphans until its last use; whatever else loses its last name is removed at once, with its room. Works on a
//! full store. Called by `filesystem`, `rename` and `serve`.

use fuser::Errno;

use crate::fuse::change::Change;
use crate::fuse::fault::Fault;
use crate::fuse::fault::Outcome;
use crate::fuse::fs::Fs;
use crate::fuse::keys;
use crate::fuse::limits::ENTRIES_PER_PAGE;
use crate::fuse::nodes::Locked;
use crate::fuse::nodes::Meta;
use crate::fuse::record::Record;
use crate::fuse::store::Entry;
use crate::fuse::store::Store;
use crate::fuse::store::check_name;

impl Fs {
    /// Takes a name away: that of a directory if `is_rmdir`, else of anything else.
    ///
    /// Errors: ENOENT, ENOTDIR, EISDIR, ENOTEMPTY, those of a commit.
    pub async fn remove(&self, parent: u64, name: &[u8], is_rmdir: bool) -> Outcome<()> {
        check_name(name)?;
        let directory = self.directory(parent)?;
        for attempt in Store::attempts() {
            attempt?;
            let (entry, held) = self.find(parent, name).await?;
            let node = &held.node;
            let mut locked = Locked::all(&[&directory, node]).await?;
            if !self.is_still(parent, &entry, locked.of(node.ino)).await? {
                continue;
            }
            self.check_removable(&entry, is_rmdir).await?;
            let change = |locked: &mut Locked, stay: bool| {
                let mut change = Change::new(self);
                change.drop_name_or_all(&entry, node, locked.of(node.ino), stay)?;
                change.content_changes(&directory, locked.of(parent), -i32::from(is_rmdir));
                Ok::<Change, Fault>(change)
            };
            for _ in 0..2 {
                match change(&mut locked, !is_rmdir)?.commit(&mut locked).await {
                    Err(full) if full.is_no_space() && self.room.lend().await? => {}
                    Err(full) if full.is_no_space() => break,
                    done => return done,
                }
            }
            // The least that can be done, and it works on a full volume.
            let stay = locked.of(node.ino).opens > 0;
            return change(&mut locked, stay)?.commit_removals(&mut locked).await;
        }
        Err(Fault(Errno::EAGAIN))
    }

    /// Whether the entry is, now that its inode is locked, what it was when it was found.
    pub async fn is_still(&self, parent: u64, entry: &Entry, meta: &Meta) -> Outcome<bool> {
        match &entry.record {
            Record::Inode(inode) => Ok(!meta.gone && meta.inode.home == inode.home),
            Record::Link(link) => {
                let found = self.store.find(parent, &link.home.name).await?;
                Ok(found.is_some_and(|f| f.key == entry.key && f.record == entry.record))
            }
        }
    }

    /// Errors: ENOTDIR, EISDIR, ENOTEMPTY.
    pub async fn check_removable(&self, entry: &Entry, as_directory: bool) -> Outcome<()> {
        let is_directory = matches!(&entry.record, Record::Inode(inode) if inode.is_directory());
        match (is_directory, as_directory) {
            (true, false) => Err(Fault(Errno::EISDIR)),
            (false, true) => Err(Fault(Errno::ENOTDIR)),
            (true, true) if !self.store.is_empty(entry.record.ino()).await? => {
                Err(Fault(Errno::ENOTEMPTY))
            }
            _ => Ok(()),
        }
    }

    /// Removes what a killed server left on the list of orphans; gives how many that were.
    pub async fn reclaim_orphans(&self) -> Outcome<u64> {
        let mut count = 0;
        loop {
            let names = self.store.engine.list(keys::ORPHANS, ENTRIES_PER_PAGE).await?;
            let orphans = names.iter().map_while(|key| match keys::parse_numbered(key) {
                Some((b'o', ino)) => Some((key, ino)),
                _ => None,
            });
            let orphans: Vec<(&Vec<u8>, u64)> = orphans.collect();
            if orphans.is_empty() {
                return Ok(count);
            }
            for (key, ino) in orphans {
                let bytes = self.store.engine.object(key).await?.attributes().await?;
                let Some(Record::Inode(inode)) = Record::decode(&bytes) else {
                    return Err(Fault::damaged("the record of an orphan is not sound", ino));
                };
                self.remove_orphan(&inode).await?;
                count += 1;
            }
        }
    }
}
