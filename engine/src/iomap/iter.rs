//! The cursor over mappings: asks the provider piece by piece and gives every answer back.
//!
//! Guarantees: each successful `map_begin` has exactly one `map_end`, also when the future that
//! holds the answer is dropped; answers that break the treaty are caught before anyone uses them.
//!
//! Does not lock, read or write anything. Called by `read`, `write`, `zero` and `eof`.

use std::sync::Arc;

use crate::error::Result;
use crate::iomap::contract::MapIntent;
use crate::iomap::contract::MapKind;
use crate::iomap::contract::Mapping;
use crate::iomap::contract::MappingProvider;
use crate::units::BLOCK_BYTES;
use crate::units::BlockNo;
use crate::units::FileBlocks;

/// One answer of the provider, given back when this is dropped.
pub struct Lease<P: MappingProvider> {
    provider: Arc<P>,
    mapping: Mapping,
    dirtied: u64,
}

impl<P: MappingProvider> Lease<P> {
    /// The answer.
    pub fn mapping(&self) -> &Mapping {
        &self.mapping
    }

    /// Which blocks it is about.
    pub fn blocks(&self) -> FileBlocks {
        self.mapping.blocks
    }

    /// Whether the answer is still true. Only a check made with the folio locked means something.
    pub fn is_current(&self) -> bool {
        self.provider.mapping_is_current(&self.mapping)
    }

    /// Where `block` is stored on the device, and its checksum if there is one; without a place it
    /// reads as zero, but for [`Lease::inline`].
    ///
    /// # Panics
    /// If the answer is not about `block`.
    pub fn stored(&self, block: u64) -> Option<(BlockNo, Option<u32>)> {
        let blocks = self.mapping.blocks;
        assert!(
            blocks.start <= block && block < blocks.end,
            "block {block} asked of a mapping of {blocks:?}"
        );
        let index = block - blocks.start;
        match &self.mapping.kind {
            MapKind::Hole | MapKind::Unwritten { .. } | MapKind::Inline { .. } => None,
            MapKind::Mapped { at, checksums } => {
                let sum = checksums.as_ref().map(|sums| sums[index as usize]);
                Some((at.plus(index), sum))
            }
        }
    }

    /// The checksums of the blocks that are stored, when the provider keeps them.
    pub fn checksums(&self) -> Option<Vec<u32>> {
        match &self.mapping.kind {
            MapKind::Mapped { checksums, .. } => checksums.clone(),
            MapKind::Hole | MapKind::Unwritten { .. } | MapKind::Inline { .. } => None,
        }
    }

    /// The first bytes of block 0, if the provider stores them itself and the answer is about them.
    pub fn inline(&self) -> Option<&[u8]> {
        match &self.mapping.kind {
            MapKind::Inline { bytes } => Some(bytes),
            _ => None,
        }
    }

    /// Keeps the promise of `blocks` more blocks: they have become dirty.
    ///
    /// # Panics
    /// If more blocks are dirtied than were promised.
    pub fn keep_promises(&mut self, blocks: u64) {
        self.dirtied += blocks;
        assert!(
            self.dirtied <= self.mapping.promised,
            "dirtied {} blocks on {} promises",
            self.dirtied,
            self.mapping.promised
        );
    }
}

impl<P: MappingProvider> Drop for Lease<P> {
    fn drop(&mut self) {
        self.provider.map_end(&self.mapping, self.dirtied);
    }
}

/// Walks a range, one answer at a time.
pub struct Cursor<'a, P: MappingProvider> {
    provider: &'a Arc<P>,
    rest: FileBlocks,
    intent: MapIntent,
}

impl<'a, P: MappingProvider> Cursor<'a, P> {
    /// A cursor at the start of `blocks`.
    pub fn new(provider: &'a Arc<P>, blocks: FileBlocks, intent: MapIntent) -> Self {
        Self { provider, rest: blocks, intent }
    }

    /// The next answer, or `None` behind the last block.
    ///
    /// Errors: those of `map_begin`. Dropping the future leaves no promise behind.
    pub async fn next(&mut self) -> Result<Option<Lease<P>>> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let mapping = self.provider.map_begin(self.rest, self.intent).await?;
        let lease = Lease { provider: Arc::clone(self.provider), mapping, dirtied: 0 };
        check_answer(self.rest, self.intent, lease.mapping());
        self.rest.start = lease.blocks().end;
        Ok(Some(lease))
    }

    /// The answers for all the rest of the range, in order.
    pub async fn collect(mut self) -> Result<Vec<Lease<P>>> {
        let mut leases = Vec::new();
        while let Some(lease) = self.next().await? {
            leases.push(lease);
        }
        Ok(leases)
    }
}

/// The treaty's promises about one answer; a provider that breaks them is our own mistake.
fn check_answer(asked: FileBlocks, intent: MapIntent, mapping: &Mapping) {
    let blocks = mapping.blocks;
    assert_eq!(blocks.start, asked.start, "a mapping starts elsewhere");
    assert!(!blocks.is_empty(), "a mapping of nothing");
    assert!(blocks.end <= asked.end, "a mapping longer than asked");
    let promised = if intent.promises() { blocks.len() } else { 0 };
    assert_eq!(mapping.promised, promised, "promises for {intent:?}");
    if let MapKind::Mapped { checksums: Some(sums), .. } = &mapping.kind {
        assert_eq!(sums.len() as u64, blocks.len(), "one checksum per block");
    }
    if let MapKind::Inline { bytes } = &mapping.kind {
        assert_eq!(blocks, FileBlocks::new(0, 1), "only block 0 is stored inline");
        assert!(bytes.len() <= BLOCK_BYTES, "more than a block inline");
    }
}

/// The lease that is about `block`.
///
/// # Panics
/// If none is: the caller mapped every block that it touches.
pub fn lease_of<P: MappingProvider>(leases: &mut [Lease<P>], block: u64) -> &mut Lease<P> {
    let at = leases.partition_point(|lease| lease.blocks().end <= block);
    let lease = leases.get_mut(at);
    lease.expect("every touched block was mapped")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::iomap::mock::MockProvider;
    use crate::iomap::testkit::block_on;

    #[test]
    fn every_answer_goes_back_once_also_when_dropped_half_way() {
        for taken in 0..6 {
            let provider = Arc::new(MockProvider::new(64));
            provider.script(|s| s.longest_answer = 3);
            block_on(async {
                let mut cursor = Cursor::new(&provider, FileBlocks::new(2, 20), MapIntent::Write);
                let mut held = Vec::new();
                for _ in 0..taken {
                    held.push(cursor.next().await.unwrap().unwrap());
                }
                assert_eq!(provider.counts().open, taken);
                assert_eq!(provider.counts().promised, 3 * taken);
            });
            assert_eq!(provider.counts().open, 0);
            assert_eq!(provider.counts().promised, 0);
        }
    }

    #[test]
    fn the_answers_cover_the_range_in_order() {
        let provider = Arc::new(MockProvider::new(64));
        provider.script(|s| s.longest_answer = 5);
        let cursor = Cursor::new(&provider, FileBlocks::new(1, 22), MapIntent::Read);
        let leases = block_on(cursor.collect()).unwrap();
        let mut at = 1;
        for lease in &leases {
            assert_eq!(lease.blocks().start, at);
            at = lease.blocks().end;
        }
        assert_eq!(at, 22);
    }

    #[test]
    fn kept_promises_stay_with_the_provider() {
        let provider = Arc::new(MockProvider::new(64));
        let cursor = Cursor::new(&provider, FileBlocks::new(0, 8), MapIntent::Write);
        let mut leases = block_on(cursor.collect()).unwrap();
        lease_of(&mut leases, 3).keep_promises(2);
        drop(leases);
        assert_eq!(provider.counts().promised, 2);
    }
}
