//! Every bound of the NBD server, with the relations between them asserted at compile time.
//!
//! Guarantees that a limit has one name and one value. Does not enforce: the users of a limit do.
//! Called by the files of `nbd`.

use std::time::Duration;

/// Longest read or write; clients that ask hear it before they choose an export. 32 MiB is what
/// clients may assume that do not ask.
pub const PAYLOAD_BYTES_MAX: u32 = 32 << 20;
/// What clients had best align to: a block of the engine. Any other place works and costs the
/// engine the rest of the block.
pub const BLOCK_BYTES_PREFERRED: u32 = 4096;
/// Room that is taken for a payload before it has come; beyond, it grows with what comes.
pub const PAYLOAD_BYTES_AT_ONCE: usize = 2 << 20;
/// Longest option; the longest that makes sense has a name of 4 KiB and some queries.
pub const OPTION_BYTES_MAX: u32 = 64 << 10;
/// Longest name of an export: the longest of an object.
pub const NAME_BYTES_MAX: usize = 255;
/// Names that are asked of the engine at once.
pub const NAMES_PER_PAGE: usize = 256;

/// Requests of one connection that are served at once; a client that sends more waits to be read.
pub const REQUESTS_IN_FLIGHT_MAX: usize = 64;
/// Bytes of their reads and writes together.
pub const BYTES_IN_FLIGHT_MAX: u32 = PAYLOAD_BYTES_MAX;
/// Replies that are gathered before they are sent.
pub const REPLY_BYTES_GATHERED: usize = 256 << 10;
/// Payloads from this size on are sent from where they lie, without being gathered.
pub const REPLY_BYTES_ALONE: usize = 32 << 10;
/// Longest read that is sent from where the engine has it; longer ones are copied out.
pub const PINNED_READ_BYTES_MAX: u64 = 2 << 20;
/// Of the engine's memory, at most this part is pinned by replies of all clients; what comes beyond is copied.
/// What they pin is missing to everybody.
pub const PINNED_SHARE: u64 = 8;
/// Extents that one BLOCK_STATUS looks at; the client asks again from where the answer ends.
pub const STATUS_EXTENTS_MAX: usize = 4096;
/// As much, if only the first run is wanted.
pub const STATUS_EXTENTS_ONE: usize = 64;
/// Bytes that one CACHE request brings in at most, in pieces.
pub const CACHE_BYTES_MAX: u64 = 32 << 20;
/// Each of the pieces.
pub const CACHE_PIECE_BYTES: u64 = 1 << 20;
/// A FUA write up to this size is a transaction of its own; a longer one is a write and a sync. The
/// figures stand at `export`.
pub const FUA_LOGGED_BYTES_MAX: usize = 64 << 10;

/// Clients at once, unless the command line says otherwise.
pub const CONNECTIONS_DEFAULT: usize = 64;
/// How long a negotiation may take.
pub const HANDSHAKE_WAIT: Duration = Duration::from_secs(30);
/// How long the rest of a request that has begun may keep the server waiting, piece by piece.
pub const FRAME_WAIT: Duration = Duration::from_secs(30);
/// How long a client may take for what it is sent from the engine's memory; a slower one is sent copies. Much less
/// than anybody waits for memory.
pub const PIN_WAIT: Duration = Duration::from_secs(1);
/// How long a client may take to receive a piece (256 KiB) of what was sent to it: 9 KiB/s at least.
pub const SEND_WAIT: Duration = Duration::from_secs(30);
/// How long a stopping server still answers, and always with ESHUTDOWN.
pub const STOP_NOTICE: Duration = Duration::from_millis(200);
/// How long it waits for requests that it had begun before.
pub const STOP_WAIT: Duration = Duration::from_secs(20);

/// Lines that clients can make the server log at each place in `LINES_WITHIN`; the next one says how many
/// were left out.
pub const LINES_MAX: u32 = 20;
/// See `LINES_MAX`.
pub const LINES_WITHIN: Duration = Duration::from_secs(10);

const _: () = assert!(PIN_WAIT.as_secs() < SEND_WAIT.as_secs());
const _: () = assert!(BYTES_IN_FLIGHT_MAX >= PAYLOAD_BYTES_MAX);
const _: () = assert!(PAYLOAD_BYTES_AT_ONCE <= PAYLOAD_BYTES_MAX as usize);
const _: () = assert!(REPLY_BYTES_ALONE as u64 <= PINNED_READ_BYTES_MAX);
const _: () = assert!(REPLY_BYTES_ALONE <= REPLY_BYTES_GATHERED);
const _: () = assert!(FUA_LOGGED_BYTES_MAX < PAYLOAD_BYTES_MAX as usize);
