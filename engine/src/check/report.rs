//! What looking at a store found: findings with their places, and what was counted on the way.
//!
//! Guarantees that every finding is counted, also those that are not kept, and that one that is kept
//! says structure, place and fault in words. Does not look at anything. Called by the rest of the room.

use std::collections::BTreeMap;
use std::fmt;

use crate::error::Error;
use crate::error::ErrorKind;
use crate::error::Result;
use crate::units::BLOCK;
use crate::units::BlockNo;
use crate::units::ObjectId;

/// What is wrong. The page [`doc::check`](crate::doc::check) says what each one means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Fault {
    /// A copy of the superblock is not sound.
    Superblock,
    /// Both copies are sound, and say different things.
    SuperblocksDiffer,
    /// A journal header is not sound.
    JournalHeader,
    /// The log cannot be replayed.
    Log,
    /// Groups of the log that were acknowledged are missing: what they changed is as it was before.
    LogGap,
    /// The root block is not sound, or counts what cannot be.
    Root,
    /// A count in the root is not what was counted.
    Count,
    /// A node is not sound, or not of the level or the keys that its parent says.
    Node,
    /// A group block is not sound, or its count is not that of its bitmap.
    Group,
    /// A checksum block is not sound, or was never written although data needs it.
    Checksums,
    /// Something points to a block that can hold neither data nor nodes.
    Outside,
    /// A block has two owners.
    OwnedTwice,
    /// Blocks are marked as used, and nothing owns them.
    Leak,
    /// Blocks are owned, and marked as free.
    UsedButFree,
    /// The record of an object is not sound.
    Record,
    /// An entry of the extent tree is not sound, or overlaps the one before.
    Extent,
    /// Extents belong to an object that does not exist.
    ExtentOwner,
    /// Block 0 of an object is in its record and on the device.
    InlineTwice,
    /// An entry of the name tree is not sound.
    Name,
    /// A name, or a marker of removal, leads to an object that does not exist.
    NameOfNothing,
    /// An object has neither a name nor a marker of removal.
    NoName,
    /// An object has more than one name, or a name and a marker of removal.
    NamedTwice,
    /// A block of an object does not match its checksum.
    Data,
    /// The device cannot read a place.
    Unreadable,
}

/// Where something is wrong, as far as that can be said.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Place {
    /// The block of the device, or the first one of several.
    pub block: Option<BlockNo>,
    /// The object.
    pub object: Option<ObjectId>,
    /// The name.
    pub name: Option<Vec<u8>>,
}

impl Place {
    /// A block of the device.
    pub fn block(at: BlockNo) -> Self {
        Self { block: Some(at), ..Self::default() }
    }

    /// An object.
    pub fn object(id: ObjectId) -> Self {
        Self { object: Some(id), ..Self::default() }
    }

    /// A name.
    pub fn name(name: &[u8]) -> Self {
        Self { name: Some(name.to_vec()), ..Self::default() }
    }

    /// The same with a block.
    pub fn at(self, at: BlockNo) -> Self {
        Self { block: Some(at), ..self }
    }

    /// The same with an object.
    pub fn of(self, id: ObjectId) -> Self {
        Self { object: Some(id), ..self }
    }
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// What kind of thing.
    pub fault: Fault,
    /// Where.
    pub place: Place,
    /// A sentence.
    pub words: String,
    /// Whether [`repair`](crate::check::repair) mends it: it has one right answer.
    pub mendable: bool,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { fault, place, words, mendable } = self;
        write!(f, "{fault:?}: {words}")?;
        if let Some(name) = &place.name {
            write!(f, " [name \"{}\"]", name.escape_ascii())?;
        }
        if let Some(id) = place.object {
            write!(f, " [{id}]")?;
        }
        if let Some(at) = place.block {
            write!(f, " [block {at}]")?;
        }
        if *mendable { write!(f, " (can be repaired)") } else { Ok(()) }
    }
}

/// What was looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Objects with a record.
    pub objects: u64,
    /// Names.
    pub names: u64,
    /// Objects whose removal is not finished.
    pub removals: u64,
    /// Extents.
    pub extents: u64,
    /// Blocks that hold nodes of trees.
    pub node_blocks: u64,
    /// Blocks that belong to extents.
    pub data_blocks: u64,
    /// Of these, blocks that were allocated and never written.
    pub unwritten_blocks: u64,
    /// Written blocks behind the end of their object: legal, they go when it is opened.
    pub stale_blocks: u64,
    /// Data blocks whose checksum was compared.
    pub summed_blocks: u64,
    /// Groups in use.
    pub groups: u64,
    /// Transactions that replay found in the log.
    pub replayed: u64,
}

/// The outcome of a look at a store.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// What is wrong, up to the bound of the options, in the order in which it was found.
    pub findings: Vec<Finding>,
    /// How often each fault was found.
    pub faults: BTreeMap<Fault, u64>,
    /// How many of them have one right answer, and can be repaired.
    pub mendable: u64,
    /// What was looked at.
    pub counts: Counts,
    /// What could not be judged, because damage stood in the way.
    pub unjudged: Vec<String>,
    pub(super) findings_max: usize,
}

impl Report {
    /// A report that keeps `findings_max` findings.
    pub(super) fn new(findings_max: usize) -> Self {
        Self { findings_max, ..Self::default() }
    }

    /// Whether nothing is wrong.
    pub fn is_sound(&self) -> bool {
        self.faults.is_empty()
    }

    /// How many things are wrong.
    pub fn total(&self) -> u64 {
        self.faults.values().sum()
    }

    /// How often `fault` was found.
    pub fn count(&self, fault: Fault) -> u64 {
        self.faults.get(&fault).copied().unwrap_or_default()
    }

    pub(super) fn add(&mut self, fault: Fault, place: Place, words: impl Into<String>) {
        self.put(Finding { fault, place, words: words.into(), mendable: false });
    }

    pub(super) fn add_mendable(&mut self, fault: Fault, place: Place, words: impl Into<String>) {
        self.put(Finding { fault, place, words: words.into(), mendable: true });
    }

    /// Notes a failure to read or to decode: damage as `fault`, what the device refused as itself.
    ///
    /// Errors: what says nothing about the store, like a lack of memory.
    pub(super) fn add_failure(&mut self, fault: Fault, place: Place, cause: Error) -> Result<()> {
        match cause.kind() {
            ErrorKind::Corrupt | ErrorKind::Incompatible => {
                self.add(fault, place, cause.to_string())
            }
            ErrorKind::Device => self.add(Fault::Unreadable, place, cause.to_string()),
            _ => return Err(cause),
        }
        Ok(())
    }

    fn put(&mut self, finding: Finding) {
        self.mendable += u64::from(finding.mendable);
        *self.faults.entry(finding.fault).or_default() += 1;
        if self.findings.len() < self.findings_max {
            self.findings.push(finding);
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for finding in &self.findings {
            writeln!(f, "{finding}")?;
        }
        let more = self.total() - self.findings.len() as u64;
        if more > 0 {
            writeln!(f, "and {more} more")?;
        }
        for what in &self.unjudged {
            writeln!(f, "not judged: {what}")?;
        }
        let c = &self.counts;
        let mib = |blocks: u64| blocks * BLOCK / (1 << 20);
        writeln!(
            f,
            "{} objects, {} names, {} unfinished removals",
            c.objects, c.names, c.removals
        )?;
        writeln!(
            f,
            "{} extents over {} blocks ({} MiB), {} of them unwritten, {} behind an end",
            c.extents,
            c.data_blocks,
            mib(c.data_blocks),
            c.unwritten_blocks,
            c.stale_blocks
        )?;
        writeln!(f, "{} nodes, {} groups in use", c.node_blocks, c.groups)?;
        writeln!(
            f,
            "{} checksums compared, {} transactions replayed",
            c.summed_blocks, c.replayed
        )?;
        match self.total() {
            0 => write!(f, "sound"),
            1 => write!(f, "1 thing is wrong"),
            n => write!(f, "{n} things are wrong"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_kept_is_counted() {
        let mut report = Report::new(2);
        assert!(report.is_sound() && report.to_string().ends_with("sound"));
        for at in 0..5 {
            report.add_mendable(Fault::Leak, Place::block(BlockNo(at)), "it leaks");
        }
        report.add(Fault::Name, Place::name(b"a\n").of(ObjectId(7)), "it is odd");
        assert_eq!((report.findings.len(), report.total(), report.count(Fault::Leak)), (2, 6, 5));
        let words = report.to_string();
        assert!(words.contains("Leak: it leaks [block 0] (can be repaired)\n"), "{words}");
        assert!(words.contains("and 4 more") && words.ends_with("6 things are wrong"), "{words}");
        let mut report = Report::new(9);
        report.add(Fault::Name, Place::name(b"a\n").of(ObjectId(7)), "it is odd");
        assert!(report.to_string().starts_with("Name: it is odd [name \"a\\n\"] [object 7]\n"));
    }

    #[test]
    fn a_lack_of_memory_is_no_finding() {
        let mut report = Report::new(9);
        let memory = Error::new(ErrorKind::OutOfMemory, "none");
        assert!(report.add_failure(Fault::Node, Place::default(), memory).is_err());
        let device = Error::new(ErrorKind::Device, "gone");
        report.add_failure(Fault::Node, Place::default(), device).unwrap();
        assert_eq!(report.count(Fault::Unreadable), 1);
    }
}
