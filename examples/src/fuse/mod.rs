//! A file system for FUSE: a store as a tree of files, for every program there is.
//!
//! ```sh
//! fuse mount --store files.foliant /mnt
//! ```
//!
//! Bottom up:
//!
//! | file | what it is |
//! |---|---|
//! | `limits`, `fault`, `time` | bounds, failures as programs hear them, points in time |
//! | `record`, `keys`, `xattrs` | bytes to inodes and back, the names of objects: pure |
//! | `store` | superblock, entries, inode numbers |
//! | `nodes`, `room`, `stored` | inodes in memory, room for data, how much a file takes |
//! | `fs` | what is known, and what goes with its last use |
//! | `change` | one transaction, and the records that become true with it |
//! | `make`, `remove`, `rename` | names |
//! | `times`, `attributes`, `extended` | what is said about inodes |
//! | `handles`, `data`, `listing` | open files, their bytes, directories |
//! | `desk`, `answer`, `filesystem` | requests in, answers out |
//! | `options`, `mount`, `helper`, `check` | the commands |

mod answer;
pub mod attributes;
mod change;
pub mod check;
mod data;
mod desk;
pub mod extended;
pub mod fault;
pub mod filesystem;
pub mod fs;
pub mod handles;
pub mod helper;
pub mod keys;
pub mod limits;
mod listing;
pub mod make;
pub mod mount;
pub mod nodes;
pub mod options;
pub mod record;
mod remove;
pub mod rename;
pub mod room;
pub mod store;
mod stored;
pub mod time;
pub mod times;
pub mod xattrs;
