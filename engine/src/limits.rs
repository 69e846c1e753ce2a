//! Every bound of the engine in one place, with the relations between them asserted at compile time.
//!
//! Guarantees that a limit has one name and one value. Does not enforce: the rooms do. Used by
//! every room that sizes a queue, a cache, a wait or a structure.

use std::time::Duration;

use crate::units::BLOCK;

/// Largest size of an object in bytes.
pub const OBJECT_BYTES_MAX: u64 = i64::MAX as u64;
/// Longest name in bytes; the shortest is 1.
pub const NAME_BYTES_MAX: usize = 255;
/// Longest key of a metadata tree.
pub const TREE_KEY_BYTES_MAX: usize = 272;
/// Longest value of a metadata tree.
pub const TREE_VALUE_BYTES_MAX: usize = 1024;
/// Bytes of an object that its record can hold in place of a block.
pub const INLINE_BYTES_MAX: usize = 448;
/// Bytes of an object's attributes.
pub const ATTRIBUTE_BYTES_MAX: usize = 512;
/// A tree deeper than this is damaged.
pub const TREE_HEIGHT_MAX: u8 = 12;

/// Blocks in an allocation group: what one group block's bitmap can describe.
pub const GROUP_BLOCKS: u64 = 32_256;
/// Checksum blocks at the start of each group, behind the group block.
pub const GROUP_CHECKSUM_BLOCKS: u64 = 32;
/// Checksums in one checksum block.
pub const CHECKSUMS_PER_BLOCK: u64 = 1016;

/// Smallest journal in bytes.
pub const JOURNAL_BYTES_MIN: u64 = 4 << 20;
/// Largest payload of one transaction in bytes (smaller with a small journal).
pub const TRANSACTION_BYTES_MAX: u64 = 1 << 20;
/// Journal groups in flight at once.
pub const JOURNAL_GROUPS_IN_FLIGHT: usize = 4;

/// Smallest memory budget in bytes.
pub const MEMORY_BYTES_MIN: u64 = 8 << 20;
/// Blocks that one accepted piece of a write covers at most: it is applied whole or not at all.
pub const WRITE_PIECE_BLOCKS: u64 = 256;
/// Blocks in one writeback batch with little memory: one flush and one metadata transaction pay for all of
/// them.
pub const WRITEBACK_BATCH_BLOCKS: u64 = 1024;
/// The same with plenty: a batch changes at most as many metadata blocks as it has blocks, and their images
/// are held until it has committed.
pub const WRITEBACK_BATCH_BLOCKS_MAX: u64 = 4096;
/// The part of the memory that one batch may have blocks as.
pub const WRITEBACK_BATCH_SHARE: u64 = 16;
/// Batches of one object on their way at once: while one is flushed and mapped, the device writes the
/// others.
pub const WRITEBACK_BATCHES: usize = 4;
/// Blocks in one device write of writeback (256 KiB: beyond the knee there is no gain).
pub const WRITEBACK_RUN_BLOCKS: u64 = 64;
/// Device writes of one batch in flight at once.
pub const WRITEBACK_WRITES_IN_FLIGHT: usize = 16;
/// Blocks that are moved to another place at once (4 MiB): read, written, flushed and mapped together.
pub const MOVE_BLOCKS_MAX: u64 = 1024;
/// The part of the memory that blocks on their way to another place may have.
pub const MOVE_MEMORY_SHARE: u64 = 32;
/// Largest read that hands out shared memory: the largest piece of memory there is.
pub const SHARED_READ_BYTES_MAX: u64 = 512 * BLOCK;
/// Largest read-ahead window in blocks (2 MiB: one folio of the largest order).
pub const READ_AHEAD_BLOCKS_MAX: u64 = 512;
/// Blocks that one read miss fetches at once (1 MiB); a longer read misses again.
pub const READ_MISS_BLOCKS_MAX: u64 = 256;
/// Read-ahead requests of one object on their way at once.
pub const FLIGHTS_MAX: usize = 32;
/// Largest buffer for direct I/O: the largest piece of memory there is. One batch of writeback.
pub const DIRECT_BUFFER_BYTES_MAX: usize = 512 * BLOCK as usize;
/// Pieces of one read miss, each with its own place on the device, in flight at once.
pub const READS_IN_FLIGHT: usize = 64;
/// Extents that one call reports at most.
pub const EXTENTS_PER_CALL_MAX: usize = 4096;
/// How often an operation remaps after a stale mapping before it holds writeback still to do so.
pub const STALE_RETRIES_MAX: u32 = 16;

/// How long a request waits for memory before it fails with a named reason.
pub const MEMORY_WAIT: Duration = Duration::from_secs(30);
/// How long a writer waits for writeback when too much is dirty.
pub const DIRTY_WAIT: Duration = Duration::from_secs(60);
/// How long who lacks room on the device waits for the next batch of writeback, which may give back
/// the old places of what was overwritten.
pub const ROOM_WAIT: Duration = Duration::from_secs(10);
/// How long a read waits for another one to land read-ahead that carries its block, before it reads that for
/// itself. Longer than a device that works takes; whoever lands may be dropped late, or not be polled.
pub const LANDING_WAIT: Duration = Duration::from_secs(5);
/// How long the writeback of a folio may take before who waits for it hears an error.
pub const WRITEBACK_WAIT: Duration = Duration::from_secs(60);
/// How long closing waits for a device that is asked for nothing new any more, in each of its steps. At
/// most twice as long, because it looks that often.
pub const CLOSE_STALL_WAIT: Duration = Duration::from_secs(30);
/// A request that takes longer is told as a stall of the device.
pub const STALL_TOLD: Duration = Duration::from_secs(10);
/// A write or a flush that takes longer stops writes. Longer than what kernels try by themselves before they give
/// an error (30 s, several times).
pub const DEVICE_STALL_MAX: Duration = Duration::from_secs(180);
/// How long a change waits for the metadata. Others hold it while they read nodes, and while one waits for room in
/// the log.
pub const METADATA_WAIT: Duration = Duration::from_secs(180);
/// How long who wants to move blocks waits for who is at it.
pub const CLEANER_WAIT: Duration = Duration::from_secs(60);
/// How long a commit waits for room in the log.
pub const LOG_ROOM_WAIT: Duration = Duration::from_secs(60);

const _: () = assert!(GROUP_CHECKSUM_BLOCKS * CHECKSUMS_PER_BLOCK >= GROUP_BLOCKS);
const _: () = assert!(GROUP_BLOCKS.div_ceil(8) + 64 <= BLOCK);
const _: () = assert!(CHECKSUMS_PER_BLOCK * 4 + 24 <= BLOCK);
const _: () = assert!(TREE_KEY_BYTES_MAX > NAME_BYTES_MAX);
const _: () = assert!(3 * (TREE_KEY_BYTES_MAX + TREE_VALUE_BYTES_MAX + 16) < BLOCK as usize);
const _: () = assert!(DIRECT_BUFFER_BYTES_MAX as u64 <= WRITEBACK_BATCH_BLOCKS * BLOCK);
const _: () = assert!(JOURNAL_BYTES_MIN.is_multiple_of(BLOCK));
