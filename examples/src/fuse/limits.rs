//! Every bound of the file system, with the relations between them asserted at compile time.
//!
//! Guarantees that a limit has one name and one value. Does not enforce: the users of a limit do.
//! Called by the files of `fuse`.

use std::time::Duration;

/// Longest name of a file, in bytes of any value but `/` and zero.
pub const NAME_BYTES_MAX: usize = 255;
/// Longest target of a symbolic link.
pub const TARGET_BYTES_MAX: usize = 4095;
/// Names that one inode may have.
pub const LINKS_MAX: u32 = 65_000;
/// Longest value of an extended attribute; the kernel refuses longer ones itself.
pub const XATTR_VALUE_BYTES_MAX: usize = 64 << 10;
/// All extended attributes of an inode, as they are stored: one transaction replaces them.
pub const XATTRS_BYTES_MAX: usize = 80 << 10;

/// Longest write of one request. The kernel cuts longer ones; an accepted piece of the engine is as long.
pub const WRITE_BYTES_MAX: u32 = 1 << 20;
/// What the kernel reads ahead at most.
pub const READ_AHEAD_BYTES_MAX: u32 = 1 << 20;
/// Up to here a read is copied out of the cache; a longer one is answered from where the bytes lie.
pub const READ_COPIED_BYTES_MAX: u32 = 64 << 10;
/// Requests that the kernel sends without somebody waiting for them (read-ahead, direct I/O) at once.
pub const BACKGROUND_MAX: u16 = 64;
/// Requests that have begun and wait for something, at once. Who comes behind them waits in the kernel.
pub const REQUESTS_IN_FLIGHT_MAX: usize = 256;
/// Threads that read requests. A request that is answered from memory is answered by them; two are enough to
/// keep a runtime busy, more than four only wake one another.
pub const READERS_MAX: usize = 4;

/// Entries that are asked of the engine at once: about what the smallest buffer of the kernel takes.
pub const ENTRIES_PER_PAGE: usize = 32;
/// Extents that are counted for `st_blocks`; what lies behind them is taken to be like them.
pub const EXTENTS_COUNTED: usize = 64;
/// Inode numbers that are taken at once: after a crash as many are skipped at most.
pub const INOS_PER_GRANT: u64 = 4096;
/// How often a change looks again for what changed while it waited for locks. The kernel locks the same
/// directories before it asks, so that once is the rule.
pub const ATTEMPTS_MAX: usize = 16;

/// How long the kernel believes what it was told. It is the only one through which anything changes.
pub const TTL: Duration = Duration::from_secs(3600);
/// How long writes are covered by one stored time: [`times`](crate::fuse::times) says why.
pub const TIMES_WINDOW: Duration = Duration::from_secs(1);
/// How long a stopping server waits until nobody uses the file system any more.
pub const STOP_WAIT: Duration = Duration::from_secs(5);

/// The part of the store that is kept for names when data has taken all.
pub const RESERVE_SHARE: u64 = 64;
/// The least of it.
pub const RESERVE_BYTES_MIN: u64 = 1 << 20;
/// The most of it.
pub const RESERVE_BYTES_MAX: u64 = 16 << 20;
/// How long who finds no room waits for orphans that are on their way out.
pub const ORPHAN_WAIT: Duration = Duration::from_millis(300);
/// How long between two looks.
pub const ORPHAN_PAUSE: Duration = Duration::from_millis(5);

const _: () = assert!(XATTR_VALUE_BYTES_MAX + NAME_BYTES_MAX + 64 < XATTRS_BYTES_MAX);
const _: () = assert!(READ_COPIED_BYTES_MAX <= WRITE_BYTES_MAX);
const _: () = assert!(RESERVE_BYTES_MIN <= RESERVE_BYTES_MAX);
