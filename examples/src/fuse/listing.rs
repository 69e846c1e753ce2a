//! Reading directories.
//!
//! An entry has the same place as long as it exists, whatever comes and goes around it; so a walk over a
//! directory that changes meets what was there all the time once, and what came or went at most once.
//!
//! Guarantees that what was told with attributes is held for the kernel, and nothing else. Called by
//! `filesystem`.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use fuser::Errno;
use fuser::Generation;
use fuser::INodeNo;
use fuser::ReplyDirectory;
use fuser::ReplyDirectoryPlus;

use crate::fuse::fault::Fault;
use crate::fuse::fault::Outcome;
use crate::fuse::fs::Fs;
use crate::fuse::fs::file_type;
use crate::fuse::keys::Place;
use crate::fuse::keys::ROOT_INO;
use crate::fuse::limits::ENTRIES_PER_PAGE;
use crate::fuse::limits::TTL;
use crate::fuse::nodes::Node;
use crate::fuse::record::Kind;
use crate::fuse::store::Entry;

/// Behind `.`.
const SELF_OFFSET: u64 = 1;
/// Behind `..`.
const PARENT_OFFSET: u64 = 2;

/// Where the next look goes on behind an entry.
fn offset_of(place: Place) -> u64 {
    place.number() + PARENT_OFFSET + 1
}

/// Which entries come behind an offset: those behind a place, or all.
fn place_before(offset: u64) -> Option<Place> {
    offset.checked_sub(PARENT_OFFSET + 1).map(Place::at)
}

impl Fs {
    /// Fills a reply with names, from `offset` on.
    pub async fn list(&self, node: &Node, offset: u64, reply: &mut ReplyDirectory) -> Outcome<()> {
        let dot = (offset < SELF_OFFSET).then_some((node.ino, SELF_OFFSET, "."));
        let dots = (offset < PARENT_OFFSET).then_some(("..", PARENT_OFFSET));
        let parent = self.parent_of(node).await?;
        let both = dot.into_iter().chain(dots.map(|(name, at)| (parent, at, name)));
        for (ino, at, name) in both {
            if reply.add(INodeNo(ino), at, file_type(Kind::Directory), name) {
                return Ok(());
            }
        }
        let mut after = place_before(offset);
        loop {
            let (page, next) = self.store.page(node.ino, after, ENTRIES_PER_PAGE).await?;
            for entry in &page {
                let (ino, kind) = (INodeNo(entry.record.ino()), file_type(entry.record.kind()));
                if reply.add(ino, offset_of(entry.place), kind, name_of(entry)) {
                    return Ok(());
                }
            }
            match next {
                Some(_) => after = next,
                None => return Ok(()),
            }
        }
    }

    /// As `list`, with attributes; each name is a lookup.
    pub async fn list_plus(
        &self,
        node: &Node,
        offset: u64,
        reply: &mut ReplyDirectoryPlus,
    ) -> Outcome<()> {
        let (none, attr) = (Generation(0), self.attr(node).await?);
        // The kernel takes nothing but the names of these two.
        for (at, name) in [(SELF_OFFSET, "."), (PARENT_OFFSET, "..")] {
            if offset < at && reply.add(INodeNo(node.ino), at, name, &TTL, &attr, none) {
                return Ok(());
            }
        }
        let (mut after, mut added) = (place_before(offset), false);
        loop {
            let (page, next) = self.store.page(node.ino, after, ENTRIES_PER_PAGE).await?;
            for entry in &page {
                match self.add_plus(entry, reply).await {
                    Ok(false) => added = true,
                    // What the kernel is told must reach it; it asks again, and then hears of this.
                    Err(_) if added => return Ok(()),
                    Ok(true) => return Ok(()),
                    Err(cause) => return Err(cause),
                }
            }
            match next {
                Some(_) => after = next,
                None => return Ok(()),
            }
        }
    }

    /// Whether it had no room any more.
    async fn add_plus(&self, entry: &Entry, reply: &mut ReplyDirectoryPlus) -> Outcome<bool> {
        let held = match self.hold(entry).await {
            // It went meanwhile.
            Err(Fault(Errno::ESTALE)) => return Ok(false),
            held => held?,
        };
        let attr = self.attr(&held.node).await?;
        let (at, name) = (offset_of(entry.place), name_of(entry));
        let full = reply.add(attr.ino, at, name, &TTL, &attr, Generation(0));
        if !full {
            held.give();
        }
        Ok(full)
    }

    async fn parent_of(&self, node: &Node) -> Outcome<u64> {
        let meta = node.lock().await?;
        Ok(meta.inode.home.as_ref().map_or(ROOT_INO, |home| home.parent))
    }
}

fn name_of(entry: &Entry) -> &OsStr {
    OsStr::from_bytes(entry.record.home().map_or(b"", |home| &home.name))
}
