//! Looks whether the device still holds what was stored: stored blocks against their checksums.
//!
//! Guarantees: a block is called damaged only if its mapping was true before and after the read, and if its
//! newest bytes are not in the journal alone; what changes meanwhile is left out. Leaves nothing in
//! the cache, and does not look there for bytes: a cached block is read from the device all the
//! same.
//!
//! Does not repair, pace or walk objects. Called by `api::scrub`.

use std::ops::Range;

use foliant_device::Buffer;
use futures_util::StreamExt;
use futures_util::stream;

use crate::error::Error;
use crate::error::Result;
use crate::iomap::bundle::Mapped;
use crate::iomap::contract::MapIntent;
use crate::iomap::contract::MappingProvider;
use crate::iomap::contract::Transport;
use crate::iomap::iter::Cursor;
use crate::iomap::iter::Lease;
use crate::kit::memory::Purpose;
use crate::limits::READS_IN_FLIGHT;
use crate::units::BLOCK_BYTES;
use crate::units::FileBlocks;

/// What a look at some blocks found.
#[derive(Debug, Default)]
pub struct Looked {
    /// Blocks that were read and are sound.
    pub sound: u64,
    /// Blocks that cannot be read or hold something else, each with the reason.
    pub damaged: Vec<(u64, Error)>,
}

impl<P: MappingProvider, T: Transport> Mapped<P, T> {
    /// Reads what is stored of `blocks`, at most 64, and compares it with the checksums.
    ///
    /// Errors: those of mapping; `OutOfMemory`. A block that cannot be read is a finding, not an error.
    /// Dropping the future has no effect.
    pub async fn look_at_stored(&self, blocks: FileBlocks) -> Result<Looked> {
        assert!(blocks.len() <= READS_IN_FLIGHT as u64, "a look at {blocks:?}");
        // With the range held no commit changes these blocks in place.
        let _held = self.ranges.shared(blocks.start..blocks.end).await;
        let journaled = self.journaled(blocks);
        let leases = Cursor::new(&self.provider, blocks, MapIntent::Read).collect().await?;
        let mut looked = Looked::default();
        for lease in &leases {
            let found = self.look_under(lease).await?;
            if !lease.is_current() {
                continue;
            }
            for (block, outcome) in found {
                match outcome {
                    _ if journaled.contains(&block) => {}
                    Ok(()) => looked.sound += 1,
                    Err(cause) => looked.damaged.push((block, cause)),
                }
            }
        }
        Ok(looked)
    }

    /// Blocks whose newest bytes are not home: what the device holds of them is not what the checksum
    /// says.
    fn journaled(&self, blocks: FileBlocks) -> Vec<u64> {
        let mut found = Vec::new();
        for folio in self.cache.folios(blocks, usize::MAX) {
            let own: Range<u64> = folio.span().start..folio.span().end;
            found.extend(own.filter(|at| folio.is_journaled((at - folio.index()) as usize)));
        }
        found
    }

    /// Reads the stored blocks of one mapping, each by itself, so that a bad one hides no other.
    async fn look_under(&self, lease: &Lease<P>) -> Result<Vec<(u64, Result<()>)>> {
        let span = lease.blocks();
        let mut requests = Vec::new();
        for block in span.start..span.end {
            if let Some((at, sum)) = lease.stored(block) {
                let into: Vec<Buffer> = vec![self.memory.allocate(0, Purpose::Data).await?];
                requests.push((block, at, sum, into));
            }
        }
        let reads = requests.into_iter().map(|(block, at, sum, into)| async move {
            let (buffers, result) = self.transport.read(at, into).await;
            let image = buffers.first().map_or(&[][..], |buffer| &buffer[..BLOCK_BYTES]);
            (block, result.and_then(|()| self.verify(at, image, sum)))
        });
        Ok(stream::iter(reads).buffer_unordered(READS_IN_FLIGHT).collect().await)
    }
}
