//! The format room.
pub mod block;
pub mod checksum_block;
pub mod extent_record;
pub mod group_block;
pub mod layout;
pub mod node;
pub mod object_record;
pub mod root;
pub mod superblock;
