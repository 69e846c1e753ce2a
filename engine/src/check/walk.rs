//! A walk over a tree that may be damaged: every entry that can be reached, in order.
//!
//! Guarantees that each node is visited once, whatever the blocks say: a node is claimed before it is
//! read, and one that has an owner is not entered. What is wrong becomes a finding and the entries
//! behind it are passed by. Up to [`AHEAD`] leaves are read at once. Does not know what entries mean.
//! Called by `items` and `survey`.

use std::collections::VecDeque;

use foliant_device::Buffer;
use futures_util::StreamExt;
use futures_util::stream;

use crate::check::owners::Claim;
use crate::check::owners::Owners;
use crate::check::report::Fault;
use crate::check::report::Place;
use crate::check::report::Report;
use crate::check::source::Options;
use crate::check::source::Source;
use crate::error::Error;
use crate::error::Result;
use crate::format::block::BODY;
use crate::format::block::BlockKind;
use crate::format::node::Node;
use crate::meta::view::BlockRead;
use crate::units::BlockNo;
use crate::units::DeviceSpan;

/// Leaves that are read at once.
const AHEAD: usize = 32;

/// Blocks between two words on progress.
const TELL: u64 = 256;

/// The trees of a volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tree {
    /// Records of objects.
    Objects,
    /// Extents.
    Extents,
    /// Names and markers of removals.
    Names,
}

impl Tree {
    fn name(self) -> &'static str {
        match self {
            Self::Objects => "tree of objects",
            Self::Extents => "tree of extents",
            Self::Names => "tree of names",
        }
    }
}

/// What a look has in hand.
pub struct Look<'a> {
    /// The store.
    pub source: &'a Source,
    /// What the caller wants.
    pub options: &'a Options<'a>,
    /// What was found.
    pub report: &'a mut Report,
    /// Which blocks belong to somebody.
    pub owners: Owners,
    /// Trees of which a part could not be reached.
    pub lost: Vec<Tree>,
    /// Blocks of the last word on progress.
    told: u64,
}

impl<'a> Look<'a> {
    /// A look at `source`, at its start.
    pub fn new(source: &'a Source, options: &'a Options<'a>, report: &'a mut Report) -> Self {
        let owners = Owners::new(source.layout.clone());
        Self { source, options, report, owners, lost: Vec::new(), told: 0 }
    }

    /// Whether all of `tree` was reached.
    pub fn is_whole(&self, tree: Tree) -> bool {
        !self.lost.contains(&tree)
    }

    /// Whether everything was reached and nothing contradicts: then what nobody owns is free. A block
    /// that nobody owns beside a damaged extent may be what that one should lead to.
    pub fn is_exact(&self) -> bool {
        let doubts = [Fault::OwnedTwice, Fault::Outside, Fault::Extent];
        self.lost.is_empty() && doubts.iter().all(|&fault| self.report.count(fault) == 0)
    }

    /// Claims blocks; findings say what is wrong with it. Whether they are usable at all.
    pub fn claim(&mut self, span: DeviceSpan, place: Place, whose: &str) -> bool {
        let claim = self.owners.claim(span);
        match claim {
            Claim::Fresh => {}
            Claim::Twice(at) => {
                let words = format!("{whose} lies at block {at}, which has another owner");
                self.report.add(Fault::OwnedTwice, place.at(at), words);
            }
            Claim::Outside => {
                let (start, blocks) = (span.start, span.blocks);
                let words =
                    format!("{whose} lies at {blocks} blocks from {start}, no place for it");
                self.report.add(Fault::Outside, place.at(start), words);
            }
        }
        if self.owners.blocks() >= self.told + TELL {
            self.told = self.owners.blocks();
            let used =
                self.source.layout.data_blocks().saturating_sub(self.source.root.free_blocks);
            self.options.tell(self.owners.blocks(), used.max(self.owners.blocks()));
        }
        claim != Claim::Outside
    }
}

/// A child to visit, and the keys that belong into it.
#[derive(Debug)]
struct Child {
    at: BlockNo,
    low: Vec<u8>,
    high: Option<Vec<u8>>,
}

/// Children of one node that are still to be visited, and their level.
#[derive(Debug)]
struct Frame {
    level: u8,
    children: VecDeque<Child>,
}

/// One entry of a leaf.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The leaf.
    pub leaf: BlockNo,
    /// The place in it.
    pub index: usize,
    /// Its key.
    pub key: Vec<u8>,
    /// Its value.
    pub value: Vec<u8>,
}

/// A walk that goes on with each call of [`Walk::next`].
#[derive(Debug)]
pub struct Walk {
    tree: Tree,
    frames: Vec<Frame>,
    ready: VecDeque<(BlockNo, Buffer)>,
    index: usize,
}

impl Walk {
    /// At the start of `tree`.
    pub fn new(source: &Source, tree: Tree) -> Self {
        let root = match tree {
            Tree::Objects => source.root.objects,
            Tree::Extents => source.root.extents,
            Tree::Names => source.root.names,
        };
        let top = Child { at: root.block, low: Vec::new(), high: None };
        let frame = root.height.checked_sub(1).map(|level| Frame { level, children: [top].into() });
        Self { tree, frames: frame.into_iter().collect(), ready: VecDeque::new(), index: 0 }
    }

    /// The next entry that can be reached.
    ///
    /// Errors: `OutOfMemory`; damage and failures of the device become findings.
    pub async fn next(&mut self, look: &mut Look<'_>) -> Result<Option<Entry>> {
        loop {
            if let Some((leaf, image)) = self.ready.front() {
                let node = Node::open(*leaf, &image[BODY..])?;
                if self.index < node.count() {
                    let (key, value) = node.entry(self.index)?;
                    let (key, value) = (key.to_vec(), value.to_vec());
                    self.index += 1;
                    return Ok(Some(Entry { leaf: *leaf, index: self.index - 1, key, value }));
                }
                self.index = 0;
                self.ready.pop_front();
                continue;
            }
            let Some(frame) = self.frames.last_mut() else { return Ok(None) };
            let level = frame.level;
            let count = if level == 0 { AHEAD.min(frame.children.len()) } else { 1 };
            if frame.children.is_empty() {
                self.frames.pop();
                continue;
            }
            let children: Vec<Child> = frame.children.drain(..count).collect();
            self.visit(look, level, children).await?;
        }
    }

    /// Reads children and makes leaves ready, or an inner node the next frame.
    async fn visit(&mut self, look: &mut Look<'_>, level: u8, children: Vec<Child>) -> Result<()> {
        let before = look.report.total();
        let mut known = Vec::new();
        for child in children {
            if self.enter(look, &child) {
                known.push(child);
            }
        }
        let source = look.source;
        let reads = known.into_iter().map(async |child| {
            let image = source.block(child.at, BlockKind::Node).await;
            (child, image)
        });
        let mut reads = stream::iter(reads).buffered(AHEAD);
        while let Some((child, image)) = reads.next().await {
            let opened = image.and_then(|image| Ok((open(&child, level, &image)?, image)));
            match opened {
                Ok((_, image)) if level == 0 => self.ready.push_back((child.at, image)),
                Ok((children, _)) => self.frames.push(Frame { level: level - 1, children }),
                Err(cause) => self.lose(look, &child, cause)?,
            }
        }
        if look.report.total() > before && look.is_whole(self.tree) {
            look.lost.push(self.tree);
        }
        Ok(())
    }

    /// Whether the child is a node that nobody has seen yet.
    fn enter(&self, look: &mut Look<'_>, child: &Child) -> bool {
        let known = look.owners.blocks();
        let whose = format!("a node of the {}", self.tree.name());
        let usable = look.claim(DeviceSpan::new(child.at, 1), Place::default(), &whose);
        let fresh = look.owners.blocks() > known;
        look.report.counts.node_blocks += u64::from(fresh);
        usable && fresh
    }

    fn lose(&self, look: &mut Look<'_>, child: &Child, cause: Error) -> Result<()> {
        let mut place = Place::block(child.at);
        if let (Tree::Objects | Tree::Extents, Some(id)) = (self.tree, child.low.first_chunk()) {
            place = place.of(crate::units::ObjectId(u64::from_be_bytes(*id)));
        }
        let (low, high) = (&child.low, child.high.as_deref().unwrap_or(b"(the end)"));
        let (low, high) = (low.escape_ascii(), high.escape_ascii());
        let name = self.tree.name();
        let what = format!("the {name} from key \"{low}\" up to \"{high}\"");
        look.report.unjudged.push(what);
        look.report.add_failure(Fault::Node, place, cause)
    }
}

/// The children of the node in `image`, after a check of all of it; none for a leaf.
fn open(child: &Child, level: u8, image: &Buffer) -> Result<VecDeque<Child>> {
    let damaged = |why: &str| Error::corrupt("tree node", child.at, why);
    let node = Node::open(child.at, &image[BODY..])?;
    if node.level() != level {
        return Err(damaged("it is not of the level expected there"));
    }
    node.check()?;
    let first = usize::from(level > 0);
    if first < node.count() {
        let (low, high) = (node.entry(first)?.0, node.entry(node.count() - 1)?.0);
        let above = low > child.low.as_slice() || (level == 0 && low == child.low);
        if !above || child.high.as_deref().is_some_and(|end| high >= end) {
            return Err(damaged("its keys lie outside their neighbours' order"));
        }
    }
    let mut children = VecDeque::new();
    if level == 0 {
        return Ok(children);
    }
    for i in 0..node.count() {
        let low = if i == 0 { child.low.clone() } else { node.entry(i)?.0.to_vec() };
        let high = match i + 1 < node.count() {
            true => Some(node.entry(i + 1)?.0.to_vec()),
            false => child.high.clone(),
        };
        children.push_back(Child { at: node.child(i)?, low, high });
    }
    Ok(children)
}
