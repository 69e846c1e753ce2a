//! Every bound of the key-value store, with the relations between them asserted at compile time.
//!
//! Guarantees that a limit has one name and one value. Does not enforce: the users of a limit do.
//! Called by every file of `kv`.

use std::time::Duration;

/// Bytes of a page: one block of the engine, so that a page is read, logged and checked alone.
pub const PAGE_BYTES: usize = 4096;
/// Longest key; the shortest is 1. Seven of the longest still fit one inner page.
pub const KEY_BYTES_MAX: usize = 512;
/// Longest value: that of Redis.
pub const VALUE_BYTES_MAX: usize = 512 << 20;
/// Longest cell: four of them fit one page, so that a split always makes room.
pub const CELL_BYTES_MAX: usize = 1018;
/// A tree deeper than this is damaged: with seven children a page it would hold 10^10 pages.
pub const HEIGHT_MAX: u8 = 12;
/// Values up to this size (eight pages) go through the log, together with the tree. A larger one is an
/// object of its own, which costs two changes of names, some hundred bytes of log each, and a sync of its
/// bytes; logging it would write every byte twice, and a log of 1 MiB a transaction holds few.
pub const LOGGED_VALUE_BYTES_MAX: usize = 32 << 10;
/// Longest value in pages: that of stores of version 2, which had no objects for values.
pub const RUN_VALUE_BYTES_MAX: usize = 4 << 20;
/// Bytes of a large value that change in place, through the log; more are changed in a copy of it.
pub const PATCH_BYTES_MAX: usize = 128 << 10;
/// Piece in which a large value is copied, received and sent.
pub const PIECE_BYTES: usize = 256 << 10;
/// Groups of one request whose large values are written to their objects at once: their syncs share flushes.
pub const STAGED_AT_ONCE: usize = 8;
/// Large values that wait to be removed; a writer that makes more waits.
pub const GRAVES_MAX: usize = 1024;
/// Names that are looked at in one step of removing all large values.
pub const GRAVE_NAMES: usize = 256;
/// How long who finds the store full waits for the removals that are on their way.
pub const GRAVES_WAIT: Duration = Duration::from_secs(10);

/// Write requests that wait for the writer; who comes later waits to get in.
pub const QUEUE_REQUESTS_MAX: usize = 1024;
/// Requests that the writer takes at once.
pub const BATCH_REQUESTS_MAX: usize = 512;
/// Commits that are accepted and not yet durable. The log has four groups in flight; a few more
/// commits fill the next group meanwhile.
pub const COMMITS_IN_FLIGHT_MAX: usize = 6;
/// Pages that the writer fetches at once for the keys of a batch. One after the other they would
/// cost a device read each, and the planning of a batch of 500 keys 50 ms.
pub const WARM_READS_MAX: usize = 32;
/// How long commits may be answered and not durable, where the user has chosen that.
pub const SETTLE_PAUSE: Duration = Duration::from_secs(1);
/// Old page images that are kept for readers of old views; readers behind that start again.
pub const VIEWS_BYTES_MAX: usize = 16 << 20;
/// Commits that a view may be behind: a reader asks each of them for each page.
pub const VIEWS_BEHIND_MAX: usize = 512;
/// Inner pages that are kept in memory, beside the engine, and the guides through them, which are smaller: at most
/// its budget divided by this.
pub const UPPERS_OF_BUDGET: usize = 16;
/// Unused pages that a thread keeps for its next ones: as many as its processor may have in its own cache.
pub const IMAGES_SPARE: usize = 128;
/// How often a read that was overtaken by that many commits starts again.
pub const READ_RETRIES_MAX: u32 = 16;

/// Clients at once, unless the user says otherwise.
pub const CONNECTIONS_MAX: usize = 1024;
/// Arguments of one command.
pub const ARGUMENTS_MAX: usize = 1 << 16;
/// A longer argument goes into an object as it comes; the command without it is held in memory.
pub const LONG_BYTES: usize = 1 << 20;
/// How long a client may say nothing in the middle of a long argument.
pub const LONG_WAIT: Duration = Duration::from_secs(30);
/// Bytes of one command, long arguments not counted.
pub const FRAME_BYTES_MAX: usize = 16 << 20;
/// Bytes of a command in plain words instead of RESP.
pub const INLINE_BYTES_MAX: usize = 16 << 10;
/// The version of Redis whose commands and words the server has.
pub const REDIS_VERSION: &str = "7.0.15";
/// Arguments of a command of a client that has not said the password.
pub const UNKNOWN_ARGUMENTS_MAX: usize = 10;
/// Bytes of one of them.
pub const UNKNOWN_BULK_BYTES_MAX: usize = 16 << 10;
/// Commands of one transaction.
pub const TRANSACTION_COMMANDS_MAX: usize = 16 << 10;
/// Bytes of their keys and values.
pub const TRANSACTION_BYTES_MAX: usize = 16 << 20;
/// Keys that one client watches.
pub const WATCHED_KEYS_MAX: usize = 4096;
/// Keys that were found ended and wait to be taken away; more are left to the sweep.
pub const LAPSED_KEYS_MAX: usize = 1024;
/// Keys that one step of the sweep looks at: some ten pages.
pub const SWEEP_KEYS: usize = 500;
/// Pause between two steps of the sweep, unless the last one found much.
pub const SWEEP_PAUSE: Duration = Duration::from_millis(100);
/// Write commands of one client that go to the writer in one request.
pub const PIPELINE_COMMANDS_MAX: usize = 1024;
/// Bytes of values that they carry together; one larger command goes alone.
pub const PIPELINE_BYTES_MAX: usize = 1 << 20;
/// Keys of one DEL or MSET that are changed atomically; longer ones are cut into such pieces.
pub const ATOMIC_KEYS_MAX: usize = 64;
/// Log bytes that a large value takes at most which comes or goes: its name, its cell, its pages.
pub const LARGE_LOG_BYTES: usize = 14 << 10;
/// Replies that are gathered before they are sent.
pub const REPLY_BYTES_GATHERED: usize = 256 << 10;
/// Bytes of values in the reply of one MGET.
pub const REPLY_BYTES_MAX: usize = 64 << 20;
/// Keys that one SCAN step looks at.
pub const SCAN_COUNT_MAX: usize = 10_000;
/// SCAN cursors that are remembered.
pub const SCAN_CURSORS_MAX: usize = 16_384;
/// How long a client may take to receive what was sent to it.
pub const SEND_WAIT: Duration = Duration::from_secs(30);
/// How long a stopping server waits for its clients' last commands.
pub const STOP_WAIT: Duration = Duration::from_secs(10);

const _: () = assert!(4 * (CELL_BYTES_MAX + 2) <= PAGE_BYTES - 16);
const _: () = assert!(6 + KEY_BYTES_MAX + 8 <= CELL_BYTES_MAX);
const _: () = assert!(FRAME_BYTES_MAX > LONG_BYTES + KEY_BYTES_MAX + 64);
const _: () = assert!(LONG_BYTES > LOGGED_VALUE_BYTES_MAX);
const _: () = assert!(VALUE_BYTES_MAX <= u32::MAX as usize);
const _: () = assert!(RUN_VALUE_BYTES_MAX < 1 << 30);
const _: () = assert!(BATCH_REQUESTS_MAX <= QUEUE_REQUESTS_MAX);
