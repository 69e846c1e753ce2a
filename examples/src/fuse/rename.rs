//! Renaming: into place, without replacing, exchanging, leaving a whiteout.
//!
//! Guarantees one transaction whatever it is: after a crash, and for every reader, both names are old or both are
//! new. A directory never comes to lie in itself. Called by `filesystem`.

use fuser::Errno;
use fuser::RenameFlags;

use crate::fuse::change::Change;
use crate::fuse::fault::Fault;
use crate::fuse::fault::Outcome;
use crate::fuse::fs::Fs;
use crate::fuse::fs::Held;
use crate::fuse::keys;
use crate::fuse::keys::Place;
use crate::fuse::make::check_present;
use crate::fuse::nodes::Locked;
use crate::fuse::nodes::Node;
use crate::fuse::record::Home;
use crate::fuse::record::Inode;
use crate::fuse::record::Kind;
use crate::fuse::record::Link;
use crate::fuse::record::Record;
use crate::fuse::store::Entry;
use crate::fuse::store::Store;
use crate::fuse::store::check_name;

/// What is asked for.
#[derive(Debug, Clone, Copy)]
pub struct Ask<'a> {
    /// The directory of the old name.
    pub from: u64,
    /// The old name.
    pub name: &'a [u8],
    /// The directory of the new name.
    pub to: u64,
    /// The new name.
    pub new_name: &'a [u8],
    /// How.
    pub flags: RenameFlags,
    /// Who asks: a whiteout is theirs.
    pub by: (u32, u32),
}

/// Who takes part.
struct Cast<'a> {
    from: &'a Node,
    to: &'a Node,
    source: &'a (Entry, Held),
    target: &'a Option<(Entry, Held)>,
}

impl Ask<'_> {
    fn has(&self, flag: RenameFlags) -> bool {
        self.flags.contains(flag)
    }

    /// Errors: EINVAL for flags that are unknown or exclude each other.
    fn check(&self) -> Outcome<()> {
        check_name(self.name)?;
        check_name(self.new_name)?;
        let exchange = self.has(RenameFlags::RENAME_EXCHANGE);
        let others = RenameFlags::RENAME_NOREPLACE | RenameFlags::RENAME_WHITEOUT;
        let unknown = RenameFlags::from_bits(self.flags.bits()).is_none();
        match unknown || exchange && self.flags.intersects(others) {
            true => Err(Fault(Errno::EINVAL)),
            false => Ok(()),
        }
    }

    fn home(&self, place: Place) -> Home {
        Home { parent: self.to, probe: place.probe_of(), name: self.new_name.to_vec() }
    }
}

impl Fs {
    /// Renames.
    ///
    /// Errors: ENOENT, EEXIST, ENOTDIR, EISDIR, ENOTEMPTY, EINVAL (a directory into itself), those of a commit.
    pub async fn rename(&self, ask: Ask<'_>) -> Outcome<()> {
        ask.check()?;
        let (from, to) = (self.directory(ask.from)?, self.directory(ask.to)?);
        // Who is above whom may not change while it is looked at.
        let _tree = match ask.from == ask.to {
            true => None,
            false => Some(self.tree.lock().await),
        };
        for attempt in Store::attempts() {
            attempt?;
            let source = self.find(ask.from, ask.name).await?;
            let target = match self.find(ask.to, ask.new_name).await {
                Err(Fault(Errno::ENOENT)) => None,
                found => Some(found?),
            };
            let cast = Cast { from: &from, to: &to, source: &source, target: &target };
            if let Some((entry, _)) = &target
                && entry.record.ino() == source.0.record.ino()
                && !ask.has(RenameFlags::RENAME_NOREPLACE)
            {
                // Two names of one inode: both stay.
                return Ok(());
            }
            self.check_loops(&ask, &cast).await?;
            let mut nodes: Vec<&Node> = vec![&from, &to, &source.1.node];
            nodes.extend(target.iter().map(|(_, held)| &*held.node));
            let mut locked = Locked::all(&nodes).await?;
            if !self.is_as_found(&ask, &cast, &mut locked).await? {
                continue;
            }
            check_present(locked.of(ask.to))?;
            return match self.rename_locked(&ask, &cast, &mut locked).await {
                Err(full) if full.is_no_space() && self.room.lend().await? => {
                    self.rename_locked(&ask, &cast, &mut locked).await
                }
                done => done,
            };
        }
        Err(Fault(Errno::EAGAIN))
    }

    async fn is_as_found(
        &self,
        ask: &Ask<'_>,
        cast: &Cast<'_>,
        locked: &mut Locked,
    ) -> Outcome<bool> {
        let (entry, held) = cast.source;
        if !self.is_still(ask.from, entry, locked.of(held.node.ino)).await? {
            return Ok(false);
        }
        match cast.target {
            Some((entry, held)) => self.is_still(ask.to, entry, locked.of(held.node.ino)).await,
            None => Ok(self.store.find(ask.to, ask.new_name).await?.is_none()),
        }
    }

    /// Errors: EINVAL when a directory would come to lie in itself.
    async fn check_loops(&self, ask: &Ask<'_>, cast: &Cast<'_>) -> Outcome<()> {
        let source = &cast.source.1.node;
        if source.kind == Kind::Directory && self.lies_in(ask.to, source.ino).await? {
            return Err(Fault(Errno::EINVAL));
        }
        let Some((_, target)) = cast.target else { return Ok(()) };
        let is_directory = target.node.kind == Kind::Directory;
        if is_directory && self.lies_in(ask.from, target.node.ino).await? {
            let exchange = ask.has(RenameFlags::RENAME_EXCHANGE);
            return Err(Fault(if exchange { Errno::EINVAL } else { Errno::ENOTEMPTY }));
        }
        Ok(())
    }

    /// Whether a directory is another one, or lies in it. The kernel knows all directories above one that it
    /// knows.
    async fn lies_in(&self, directory: u64, above: u64) -> Outcome<bool> {
        let mut at = directory;
        while at != above {
            let node = self.nodes.get(at)?;
            let Some(home) = node.lock().await?.inode.home.clone() else { return Ok(false) };
            at = home.parent;
        }
        Ok(true)
    }

    async fn rename_locked(
        &self,
        ask: &Ask<'_>,
        cast: &Cast<'_>,
        locked: &mut Locked,
    ) -> Outcome<()> {
        let (source, target) = (&cast.source.0, cast.target.as_ref().map(|(entry, _)| entry));
        let is_directory = |entry: &Entry| entry.record.kind() == Kind::Directory;
        let mut change = Change::new(self);
        match target {
            None if ask.has(RenameFlags::RENAME_EXCHANGE) => return Err(Fault(Errno::ENOENT)),
            Some(_) if ask.has(RenameFlags::RENAME_NOREPLACE) => {
                return Err(Fault(Errno::EEXIST));
            }
            Some(target) if ask.has(RenameFlags::RENAME_EXCHANGE) => {
                self.exchange(&mut change, cast, target, locked)?;
                return change.commit(locked).await;
            }
            Some(target) => self.check_removable(target, is_directory(source)).await?,
            None => {}
        }
        let place = match target {
            Some(target) => target.place,
            None => {
                let (_, free) = self.store.spot(ask.to, ask.new_name).await?;
                free.ok_or(Fault(Errno::ENOSPC))?
            }
        };
        if let Some((entry, held)) = cast.target {
            change.drop_name(entry, &held.node, locked.of(held.node.ino))?;
        }
        let key = keys::entry(ask.to, place);
        change.transaction.rename(&source.key, key)?;
        self.settle(&mut change, cast.source, ask.home(place), locked)?;
        if ask.has(RenameFlags::RENAME_WHITEOUT) {
            self.whiteout(&mut change, ask, source).await?;
        }
        let moved = i32::from(is_directory(source));
        let replaced = i32::from(target.is_some_and(is_directory));
        change.content_changes(cast.from, locked.of(ask.from), -moved);
        change.content_changes(cast.to, locked.of(ask.to), moved - replaced);
        change.commit(locked).await
    }

    /// The entry stands elsewhere now.
    fn settle(
        &self,
        change: &mut Change,
        (entry, held): &(Entry, Held),
        home: Home,
        locked: &mut Locked,
    ) -> Outcome<()> {
        let now = change.now;
        let inode = change.inode(&held.node, locked.of(held.node.ino));
        inode.ctime = now;
        match &entry.record {
            Record::Inode(_) => inode.home = Some(home),
            Record::Link(link) => {
                let link = Link { home, ..link.clone() };
                change.transaction.set_attributes(&entry.object, &link.encode())?;
            }
        }
        Ok(())
    }

    fn exchange(
        &self,
        change: &mut Change,
        cast: &Cast<'_>,
        target: &Entry,
        locked: &mut Locked,
    ) -> Outcome<()> {
        let source = &cast.source.0;
        let between = keys::between(source.record.ino());
        change.transaction.rename(&source.key, &between)?;
        change.transaction.rename(&target.key, &source.key)?;
        change.transaction.rename(&between, &target.key)?;
        let homes = (source.record.home().cloned(), target.record.home().cloned());
        if let ((Some(old), Some(new)), Some(other)) = (homes, cast.target) {
            self.settle(change, cast.source, new, locked)?;
            self.settle(change, other, old, locked)?;
        }
        let count = |entry: &Entry| i32::from(entry.record.kind() == Kind::Directory);
        let gained = count(target) - count(source);
        change.content_changes(cast.from, locked.of(cast.from.ino), gained);
        change.content_changes(cast.to, locked.of(cast.to.ino), -gained);
        Ok(())
    }

    /// A character device 0/0 where the entry stood: overlays read it as "there is nothing".
    async fn whiteout(&self, change: &mut Change, ask: &Ask<'_>, source: &Entry) -> Outcome<()> {
        let now = change.now;
        let home =
            Home { parent: ask.from, probe: source.place.probe_of(), name: ask.name.to_vec() };
        let ino = self.store.next_ino().await?;
        let inode = Inode { home: Some(home), ..Inode::new(ino, Kind::Char, 0, ask.by, now) };
        let object = change.transaction.create(&source.key)?;
        change.transaction.set_attributes(&object, &inode.encode())?;
        Ok(())
    }
}
