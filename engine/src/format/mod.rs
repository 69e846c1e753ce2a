//! Bytes on disk and back: every structure, with its checksum and its version.

pub mod block;
pub mod checksum_block;
pub mod extent_record;
pub mod group_block;
pub mod journal_header;
pub mod layout;
pub mod log_record;
pub mod node;
pub mod object_record;
pub mod root;
pub mod superblock;
