//! `fuse check`: whether what lies in a store is a file system without contradictions.
//!
//! | looked at | must be |
//! |---|---|
//! | superblock, root | there, of this version |
//! | each entry | in a directory that exists, at the place of its name |
//! | each inode | of a number that was granted, once |
//! | files | as many names as `nlink` says |
//! | directories | reachable from the root; `nlink` is 2 and one for each directory inside |
//! | extended attributes | of an inode that says it has some, and sound |
//! | orphans | without names; they are counted, the next mount removes them |
//!
//! Guarantees to write nothing. Does not look at bytes of files, nor below the names of the store: the command
//! `foliant check` does. Needs memory for each inode. Called by the binary and by tests.

use std::collections::HashMap;
use std::path::PathBuf;

use anyhow::Context;
use anyhow::bail;
use foliant::Engine;

use crate::fuse::keys;
use crate::fuse::keys::ROOT_INO;
use crate::fuse::limits::ENTRIES_PER_PAGE;
use crate::fuse::limits::XATTRS_BYTES_MAX;
use crate::fuse::record::Inode;
use crate::fuse::record::Kind;
use crate::fuse::record::Record;
use crate::fuse::store::Superblock;
use crate::fuse::xattrs;
use crate::opening;
use crate::size;

/// Findings that are told; the others are counted.
const TOLD_MAX: usize = 100;

/// Looks at a file system that is not mounted.
#[derive(Debug, Clone, clap::Args)]
pub struct Arguments {
    /// The store.
    #[arg(long = "store", value_name = "PATH")]
    pub store: PathBuf,
    /// Memory budget of the engine.
    #[arg(long, default_value = "64MiB", value_parser = size::parse)]
    pub memory: u64,
}

/// What was found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// Inodes, the root among them.
    pub inodes: u64,
    /// Of which directories.
    pub directories: u64,
    /// Names in directories.
    pub entries: u64,
    /// Inodes that are to be removed.
    pub orphans: u64,
    /// Contradictions, the first of them in words.
    pub findings: Vec<String>,
    /// How many there are.
    pub found: u64,
}

impl Report {
    fn find(&mut self, what: String) {
        self.found += 1;
        if self.findings.len() < TOLD_MAX {
            self.findings.push(what);
        }
    }
}

/// All that has to be compared.
#[derive(Debug, Default)]
struct Seen {
    report: Report,
    granted: u64,
    seed: Option<keys::Seed>,
    inodes: HashMap<u64, Inode>,
    /// Names of inodes that lie under their number.
    links: HashMap<u64, u32>,
    /// Entries by their directories: how many, and how many directories.
    contents: HashMap<u64, (u64, u32)>,
    /// Inodes with an object of extended attributes.
    with_xattrs: HashMap<u64, ()>,
}

/// Looks, and says what it found.
pub async fn run(arguments: Arguments) -> anyhow::Result<()> {
    let engine = opening::open(&arguments.store, arguments.memory).await?;
    let report = check(&engine).await;
    engine.close().await.context("closing the engine")?;
    let report = report?;
    for finding in &report.findings {
        println!("{finding}");
    }
    let Report { inodes, directories, entries, orphans, found, .. } = report;
    println!(
        "{inodes} inodes, {directories} of them directories, {entries} names, {orphans} orphans"
    );
    match found {
        0 => Ok(()),
        found => bail!("{found} contradictions"),
    }
}

/// Looks at the file system in an engine that nobody changes meanwhile.
pub async fn check(engine: &Engine) -> foliant::Result<Report> {
    let mut seen = Seen::default();
    let mut after = Vec::new();
    loop {
        let names = engine.list(&after, ENTRIES_PER_PAGE).await?;
        for name in &names {
            look(engine, &mut seen, name).await?;
        }
        match names.last() {
            Some(last) if names.len() == ENTRIES_PER_PAGE => after = last.clone(),
            _ => break,
        }
    }
    seen.compare();
    Ok(seen.report)
}

async fn look(engine: &Engine, seen: &mut Seen, key: &[u8]) -> foliant::Result<()> {
    let object = engine.object(key).await?;
    let attributes = object.attributes().await?;
    if key == keys::SUPERBLOCK {
        match Superblock::decode(&attributes) {
            Some(superblock) => {
                (seen.seed, seen.granted) = (Some(superblock.seed), superblock.granted);
            }
            None => seen.report.find("the superblock is not sound".into()),
        }
        return Ok(());
    }
    if key == keys::RESERVE {
        return Ok(());
    }
    if let Some((b'x', ino)) = keys::parse_numbered(key) {
        let bytes = object.read(0..XATTRS_BYTES_MAX as u64).await?;
        if xattrs::decode(&bytes).is_none_or(|all| all.is_empty()) {
            seen.report.find(format!("the extended attributes of inode {ino} are not sound"));
        }
        seen.with_xattrs.insert(ino, ());
        return Ok(());
    }
    match Record::decode(&attributes) {
        Some(record) => seen.take(key, record),
        None => seen.report.find(format!("{}: not a sound record", key.escape_ascii())),
    }
    Ok(())
}

impl Seen {
    fn take(&mut self, key: &[u8], record: Record) {
        let ino = record.ino();
        match (keys::parse_entry(key), keys::parse_numbered(key)) {
            (Some((directory, place)), _) => self.take_entry(directory, place, &record),
            (_, Some((b'i', number))) if number == ino => {}
            (_, Some((b'o', number))) if number == ino => self.report.orphans += 1,
            _ if key == keys::ROOT && ino == ROOT_INO => {}
            _ => self.report.find(format!("{}: inode {ino} has no place here", key.escape_ascii())),
        }
        match record {
            Record::Link(link) => *self.links.entry(link.ino).or_default() += 1,
            Record::Inode(inode) => {
                let is_orphan = key.first() == Some(&b'o');
                let nameless = inode.home.is_none() && ino != ROOT_INO;
                if is_orphan != (nameless && inode.nlink == 0) {
                    self.report.find(format!("inode {ino}: its names and its place disagree"));
                }
                if self.inodes.insert(ino, inode).is_some() {
                    self.report.find(format!("inode {ino} is there twice"));
                }
            }
        }
    }

    fn take_entry(&mut self, directory: u64, place: keys::Place, record: &Record) {
        self.report.entries += 1;
        let (count, directories) = self.contents.entry(directory).or_default();
        *count += 1;
        *directories += u32::from(record.kind() == Kind::Directory);
        let is_here = record.home().is_some_and(|home| {
            let right = self.seed.is_none_or(|s| s.place(&home.name).probe(home.probe) == place);
            home.parent == directory && home.probe == place.probe_of() && right
        });
        if !is_here {
            let ino = record.ino();
            self.report.find(format!("an entry of inode {ino} stands in the wrong place"));
        }
    }

    fn compare(&mut self) {
        if self.seed.is_none() {
            self.report.find("there is no superblock".into());
        }
        if !self.inodes.get(&ROOT_INO).is_some_and(Inode::is_directory) {
            self.report.find("there is no root directory".into());
        }
        let inodes = std::mem::take(&mut self.inodes);
        for inode in inodes.values() {
            self.compare_inode(inode, &inodes);
        }
        for (directory, (count, _)) in &self.contents {
            if !inodes.get(directory).is_some_and(Inode::is_directory) {
                self.report.find(format!("{count} names stand in {directory}, no directory"));
            }
        }
        for (ino, count) in &self.links {
            if !inodes.contains_key(ino) {
                self.report.find(format!("{count} names lead to inode {ino}, which is not there"));
            }
        }
        for ino in self.with_xattrs.keys() {
            if !inodes.get(ino).is_some_and(|inode| inode.has_xattrs) {
                self.report.find(format!("extended attributes of inode {ino}, which has none"));
            }
        }
    }

    fn compare_inode(&mut self, inode: &Inode, inodes: &HashMap<u64, Inode>) {
        let ino = inode.ino;
        self.report.inodes += 1;
        self.report.directories += u64::from(inode.is_directory());
        let is_link = |home| if home { 1 } else { self.links.get(&ino).copied().unwrap_or(0) };
        let names = match inode.kind {
            Kind::Directory => 2 + self.contents.get(&ino).map_or(0, |of| of.1),
            _ => is_link(inode.home.is_some()),
        };
        if names != inode.nlink {
            let nlink = inode.nlink;
            self.report.find(format!("inode {ino}: nlink is {nlink}, it should be {names}"));
        }
        if ino >= self.granted {
            self.report.find(format!("inode {ino} has a number that was never granted"));
        }
        if inode.has_xattrs && !self.with_xattrs.contains_key(&ino) {
            self.report.find(format!("inode {ino} misses its extended attributes"));
        }
        if inode.is_directory() && !is_reachable(inode, inodes) {
            self.report.find(format!("directory {ino} cannot be reached from the root"));
        }
    }
}

fn is_reachable(directory: &Inode, inodes: &HashMap<u64, Inode>) -> bool {
    let mut at = directory;
    // A path has no more steps than there are inodes, unless it goes in a circle.
    for _ in 0..inodes.len() {
        if at.ino == ROOT_INO {
            return true;
        }
        let parent = at.home.as_ref().and_then(|home| inodes.get(&home.parent));
        let Some(parent) = parent.filter(|parent| parent.is_directory()) else { return false };
        at = parent;
    }
    false
}
