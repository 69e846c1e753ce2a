//! A plain map that stands in for the metadata store in unit tests.
//!
//! Guarantees what `meta::view` asks of implementers, without disk, log or waiting. Can be told to
//! fail reads and to run out of node blocks. Not part of the engine. Called by the tests of
//! `meta::tree`, `alloc`, `extent`, `object` and `namespace`.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::future::Future;
use std::sync::atomic::AtomicI64;
use std::sync::atomic::Ordering;

use foliant_device::Arena;
use foliant_device::Buffer;
use futures_util::FutureExt;

use super::view::BlockRead;
use super::view::BlockWrite;
use super::view::NodeSupply;
use crate::error::Error;
use crate::error::ErrorKind;
use crate::error::Result;
use crate::format::block::BODY;
use crate::format::block::BlockKind;
use crate::format::root::Root;
use crate::units::BLOCK_BYTES;
use crate::units::BlockNo;

/// The result of a future that has nothing to wait for.
pub fn now<F: Future>(future: F) -> F::Output {
    future.now_or_never().expect("nothing waits in the model")
}

/// Random numbers that depend on the seed alone (splitmix64).
pub struct Random(pub u64);

impl Random {
    /// The next number below `below`.
    pub fn below(&mut self, below: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)) % below
    }
}

/// Metadata blocks in a map; a clone is a snapshot.
pub struct MapView {
    arena: Arena,
    pub blocks: BTreeMap<BlockNo, (BlockKind, Vec<u8>)>,
    pub root: Root,
    /// Reads that still succeed; negative: all.
    pub reads_left: AtomicI64,
}

impl MapView {
    pub fn new(root: Root) -> Self {
        Self {
            arena: Arena::new(64 * BLOCK_BYTES).unwrap(),
            blocks: BTreeMap::new(),
            root,
            reads_left: AtomicI64::new(-1),
        }
    }

    /// How many blocks of `kind` there are.
    pub fn count(&self, kind: BlockKind) -> usize {
        self.blocks.values().filter(|(k, _)| *k == kind).count()
    }

    fn check(&self, at: BlockNo, kind: BlockKind) -> Result<()> {
        match self.reads_left.load(Ordering::Relaxed) {
            0 => return Err(Error::new(ErrorKind::Device, format!("injected at {at}"))),
            left if left > 0 => self.reads_left.store(left - 1, Ordering::Relaxed),
            _ => {}
        }
        match self.blocks.get(&at) {
            Some((found, _)) if *found == kind => Ok(()),
            Some((found, _)) => Err(Error::corrupt("block", at, format!("it is a {found:?}"))),
            None => Err(Error::corrupt("block", at, "nothing was written there")),
        }
    }
}

impl Clone for MapView {
    fn clone(&self) -> Self {
        Self {
            arena: self.arena.clone(),
            blocks: self.blocks.clone(),
            root: self.root.clone(),
            reads_left: AtomicI64::new(-1),
        }
    }
}

impl BlockRead for MapView {
    async fn block(&self, at: BlockNo, kind: BlockKind) -> Result<Buffer> {
        self.check(at, kind)?;
        let mut buffer = self.arena.allocate(0).expect("no test holds 64 blocks");
        let bytes = buffer.get_mut().expect("a fresh buffer is not shared");
        bytes[..BODY].fill(0);
        bytes[BODY..].copy_from_slice(&self.blocks[&at].1);
        Ok(buffer)
    }

    fn root(&self) -> &Root {
        &self.root
    }
}

impl BlockWrite for MapView {
    async fn modify(&mut self, at: BlockNo, kind: BlockKind) -> Result<&mut [u8]> {
        self.check(at, kind)?;
        let (_, body) = self.blocks.get_mut(&at).expect("checked");
        Ok(body)
    }

    async fn create(&mut self, at: BlockNo, kind: BlockKind) -> Result<&mut [u8]> {
        let body = vec![0; BLOCK_BYTES - BODY];
        let old = self.blocks.insert(at, (kind, body));
        assert!(old.is_none(), "{at:?} was metadata already");
        Ok(&mut self.blocks.get_mut(&at).expect("inserted").1)
    }

    fn forget(&mut self, at: BlockNo) {
        let old = self.blocks.remove(&at);
        assert!(old.is_some(), "{at:?} was not metadata");
    }

    fn root_mut(&mut self) -> &mut Root {
        &mut self.root
    }
}

/// Counts node blocks out and back in.
pub struct Stock {
    next: u64,
    pub out: BTreeSet<BlockNo>,
    /// How many may be out at once.
    pub limit: usize,
}

impl Stock {
    pub fn new() -> Self {
        Self { next: 1000, out: BTreeSet::new(), limit: usize::MAX }
    }
}

impl NodeSupply for Stock {
    async fn take<R: BlockRead>(&mut self, _: &R) -> Result<BlockNo> {
        if self.out.len() >= self.limit {
            return Err(Error::new(ErrorKind::NoSpace, "the stock is empty"));
        }
        self.next += 1;
        self.out.insert(BlockNo(self.next));
        Ok(BlockNo(self.next))
    }

    fn give_back(&mut self, at: BlockNo) {
        assert!(self.out.remove(&at), "{at:?} was not taken");
    }
}
