//! Figures that an engine gives on request.
//!
//! Guarantees that reading them costs no lock that a hot path waits for. Does not reset anything:
//! counters count since open. Called by users; the same events go to the `metrics` crate where they
//! happen.

use crate::api::handle::Inner;
use crate::object::ground::Moves;
use crate::units::BLOCK;

/// Figures of one moment; counters count since open.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stats {
    /// The budget given at open.
    pub memory_budget_bytes: u64,
    /// Of which in use now.
    pub memory_used_bytes: u64,
    /// Pieces of reads (each within one folio) that the cache had.
    pub cache_hits: u64,
    /// Reads that found something missing and went to the device.
    pub cache_misses: u64,
    /// Bytes fetched for readers, read-ahead and direct reads included.
    pub fetched_bytes: u64,
    /// Of which nobody had asked for yet.
    pub read_ahead_bytes: u64,
    /// Bytes of data written back or written directly (metadata and journal not counted).
    pub written_back_bytes: u64,
    /// Mappings that changed between being asked for and being used.
    pub stale_mappings: u64,
    /// Bytes of folios dropped by reclaim.
    pub reclaimed_bytes: u64,
    /// Bytes that other caches (metadata) gave back to reclaim.
    pub shrunk_bytes: u64,
    /// Bytes read from the device.
    pub device_bytes_read: u64,
    /// Bytes written to the device, journal and metadata included.
    pub device_bytes_written: u64,
    /// Flushes, durable writes not counted.
    pub device_flushes: u64,
    /// Transactions in the log, metadata transactions of writeback included.
    pub commits: u64,
    /// Device writes that these took.
    pub commit_groups: u64,
    /// Times the log's tail moved.
    pub checkpoints: u64,
    /// Bytes that were moved to other places, by [`Engine::clean`](crate::Engine::clean),
    /// [`Object::defragment`](crate::Object::defragment) and in the background.
    pub moved_bytes: u64,
    /// Device writes that this took.
    pub move_writes: u64,
    /// Bytes that were copied for it in vain, because they changed meanwhile.
    pub moves_overtaken_bytes: u64,
    /// Passes over parts of the volume that made free space contiguous.
    pub cleaning_passes: u64,
    /// Ranges of objects that were put into one piece.
    pub restored_ranges: u64,
    /// Bytes that the device was told to forget.
    pub discarded_bytes: u64,
    /// Room for new data.
    pub free_bytes: u64,
    /// Room for data when empty.
    pub capacity_bytes: u64,
    /// Written by users, not yet by the engine.
    pub dirty_bytes: u64,
    /// Objects that are in memory: with a handle, with unwritten data, or kept for the sake of their cached data
    /// (at most some thousand of these). Each takes some hundred bytes beside the budget.
    pub open_objects: u64,
}

impl Stats {
    pub(super) fn of(inner: &Inner) -> Self {
        let table = &inner.volume.table;
        let (ground, wing) = (table.ground(), table.wing());
        let memory = &wing.memory;
        let device = inner.counters.snapshot();
        let log = ground.meta.stats();
        let reads = table.totals();
        let reclaim = inner.volume.reclaim_stats();
        let used = memory.capacity_blocks() - memory.free_blocks();
        Self {
            memory_budget_bytes: inner.memory_bytes,
            memory_used_bytes: used as u64 * BLOCK,
            cache_hits: reads.hits,
            cache_misses: reads.misses,
            fetched_bytes: reads.blocks_read * BLOCK,
            read_ahead_bytes: reads.blocks_read_ahead * BLOCK,
            written_back_bytes: reads.blocks_written * BLOCK,
            stale_mappings: reads.stale_retries,
            reclaimed_bytes: reclaim.evicted * BLOCK,
            shrunk_bytes: reclaim.shrinker_freed * BLOCK,
            device_bytes_read: device.bytes_read,
            device_bytes_written: device.bytes_written,
            device_flushes: device.flushes,
            commits: log.transactions,
            commit_groups: log.groups,
            checkpoints: log.checkpoints,
            moved_bytes: Moves::get(&ground.moves.blocks) * BLOCK,
            move_writes: Moves::get(&ground.moves.writes),
            moves_overtaken_bytes: Moves::get(&ground.moves.overtaken) * BLOCK,
            cleaning_passes: Moves::get(&ground.moves.passes),
            restored_ranges: Moves::get(&ground.moves.restored),
            discarded_bytes: Moves::get(&ground.moves.discarded) * BLOCK,
            free_bytes: ground.space.available() * BLOCK,
            capacity_bytes: inner.volume.data_blocks * BLOCK,
            dirty_bytes: (wing.dirty.dirty() + wing.dirty.writeback()) * BLOCK,
            open_objects: table.count() as u64,
        }
    }
}

/// What an opening had to recover.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RecoveryReport {
    /// Groups found in the log.
    pub groups: u64,
    /// Transactions found in them.
    pub transactions: u64,
    /// Bytes of log that were replayed.
    pub bytes_replayed: u64,
    /// Blocks that were written to their homes.
    pub blocks_written_home: u64,
    /// Logged data blocks that could not be restored, because the device had lost what the log builds
    /// upon: reading them fails with `Corrupt`.
    pub blocks_damaged: u64,
    /// Why the log ended where it ended, in words.
    pub log_ended: String,
    /// How long the opening took, recovery included.
    pub elapsed_ns: u64,
}

impl RecoveryReport {
    pub(super) fn of(inner: &Inner) -> Self {
        let recovered = &inner.volume.recovered;
        Self {
            groups: recovered.groups,
            transactions: recovered.transactions,
            bytes_replayed: recovered.bytes,
            blocks_written_home: recovered.blocks_home,
            blocks_damaged: recovered.damaged,
            log_ended: recovered.stopped.clone(),
            elapsed_ns: inner.opened_in.as_nanos() as u64,
        }
    }
}
