//! The numbers of the NBD protocol that this server knows, under the protocol's own names.
//!
//! Defines constants and nothing else. Called by the files that read and write bytes.

/// First word of the server.
pub const NBDMAGIC: u64 = 0x4e42_444d_4147_4943;
/// Second word of the server, and first of each option.
pub const IHAVEOPT: u64 = 0x4948_4156_454f_5054;
/// First word of an answer to an option.
pub const OPTION_REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;
/// First word of a request.
pub const REQUEST_MAGIC: u32 = 0x2560_9513;
/// First word of a simple reply.
pub const SIMPLE_REPLY_MAGIC: u32 = 0x6744_6698;
/// First word of a chunk of a structured reply.
pub const STRUCTURED_REPLY_MAGIC: u32 = 0x668e_33ef;

/// The server answers options that it does not know. The client's flag has the same number.
pub const FLAG_FIXED_NEWSTYLE: u32 = 1;
/// `OPT_EXPORT_NAME` is answered without 124 zeroes. The client's flag has the same number.
pub const FLAG_NO_ZEROES: u32 = 2;

/// Chooses an export, without a way to hear an error.
pub const OPT_EXPORT_NAME: u32 = 1;
/// Ends the negotiation.
pub const OPT_ABORT: u32 = 2;
/// Asks for the names of the exports.
pub const OPT_LIST: u32 = 3;
/// Asks for encryption.
pub const OPT_STARTTLS: u32 = 5;
/// Asks about an export.
pub const OPT_INFO: u32 = 6;
/// Asks about an export and chooses it.
pub const OPT_GO: u32 = 7;
/// Asks for replies in chunks.
pub const OPT_STRUCTURED_REPLY: u32 = 8;
/// Asks which kinds of block status there are.
pub const OPT_LIST_META_CONTEXT: u32 = 9;
/// Chooses kinds of block status.
pub const OPT_SET_META_CONTEXT: u32 = 10;

/// The end of a good answer.
pub const REP_ACK: u32 = 1;
/// The name of an export.
pub const REP_SERVER: u32 = 2;
/// Something about an export.
pub const REP_INFO: u32 = 3;
/// A kind of block status.
pub const REP_META_CONTEXT: u32 = 4;
/// The option is not known here.
pub const REP_ERR_UNSUP: u32 = 0x8000_0001;
/// The option is malformed.
pub const REP_ERR_INVALID: u32 = 0x8000_0003;
/// The server could not find out.
pub const REP_ERR_PLATFORM: u32 = 0x8000_0004;
/// There is no such export.
pub const REP_ERR_UNKNOWN: u32 = 0x8000_0006;
/// The server is shutting down.
pub const REP_ERR_SHUTDOWN: u32 = 0x8000_0007;
/// The option is too long.
pub const REP_ERR_TOO_BIG: u32 = 0x8000_0009;

/// Size and flags of an export.
pub const INFO_EXPORT: u16 = 0;
/// The proper name of an export.
pub const INFO_NAME: u16 = 1;
/// Which lengths and places requests may have.
pub const INFO_BLOCK_SIZE: u16 = 3;

/// The other flags mean something.
pub const EXPORT_HAS_FLAGS: u16 = 1;
/// Nothing can be changed.
pub const EXPORT_READ_ONLY: u16 = 1 << 1;
/// `CMD_FLUSH` is known.
pub const EXPORT_SEND_FLUSH: u16 = 1 << 2;
/// `CMD_FLAG_FUA` is known.
pub const EXPORT_SEND_FUA: u16 = 1 << 3;
/// `CMD_TRIM` is known.
pub const EXPORT_SEND_TRIM: u16 = 1 << 5;
/// `CMD_WRITE_ZEROES` is known.
pub const EXPORT_SEND_WRITE_ZEROES: u16 = 1 << 6;
/// `CMD_FLAG_DF` is known.
pub const EXPORT_SEND_DF: u16 = 1 << 7;
/// What one connection has flushed, all have.
pub const EXPORT_CAN_MULTI_CONN: u16 = 1 << 8;
/// `CMD_CACHE` is known.
pub const EXPORT_SEND_CACHE: u16 = 1 << 10;
/// `CMD_FLAG_FAST_ZERO` is known.
pub const EXPORT_SEND_FAST_ZERO: u16 = 1 << 11;

/// Bytes, please.
pub const CMD_READ: u16 = 0;
/// Bytes, here.
pub const CMD_WRITE: u16 = 1;
/// The client goes.
pub const CMD_DISC: u16 = 2;
/// What was answered becomes durable.
pub const CMD_FLUSH: u16 = 3;
/// The bytes are not needed any more.
pub const CMD_TRIM: u16 = 4;
/// The bytes will be read soon.
pub const CMD_CACHE: u16 = 5;
/// The bytes become zero.
pub const CMD_WRITE_ZEROES: u16 = 6;
/// What is stored there?
pub const CMD_BLOCK_STATUS: u16 = 7;

/// Durable before the answer.
pub const CMD_FLAG_FUA: u16 = 1;
/// Zeroes that keep their room.
pub const CMD_FLAG_NO_HOLE: u16 = 1 << 1;
/// The bytes in one chunk.
pub const CMD_FLAG_DF: u16 = 1 << 2;
/// One run of block status, within the request.
pub const CMD_FLAG_REQ_ONE: u16 = 1 << 3;
/// Zeroes only if that is faster than writing them.
pub const CMD_FLAG_FAST_ZERO: u16 = 1 << 4;

/// The last chunk of a reply.
pub const REPLY_FLAG_DONE: u16 = 1;
/// Bytes that were read.
pub const REPLY_OFFSET_DATA: u16 = 1;
/// Runs of block status.
pub const REPLY_BLOCK_STATUS: u16 = 5;
/// A failure.
pub const REPLY_ERROR: u16 = (1 << 15) + 1;

/// The one kind of block status that this server knows.
pub const ALLOCATION: &str = "base:allocation";
/// Its number in replies.
pub const ALLOCATION_ID: u32 = 1;
/// Writing there needs room.
pub const STATE_HOLE: u32 = 1;
/// Reads as zero.
pub const STATE_ZERO: u32 = 2;
