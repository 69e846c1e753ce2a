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
//!
//! # How a tree lies in a store
//!
//! An inode is one object; what `stat` says of it are the object's attributes, and its bytes are the object's
//! bytes. An inode with one name lies under a name made of its directory and a hash of its own, so it *is* its
//! entry: making, renaming and removing it is one step in the engine's tree of names, a directory is a range of
//! that tree, and an inode can neither miss its entry nor an entry its inode. What gets a second name moves under
//! its number, and each of its names is a small object that points there. `record` and `keys` say every byte.
//!
//! # What is promised
//!
//! * **A change of names is one transaction**, with the inodes, link counts and times that belong to it; renames that
//!   replace or exchange, too. After a crash the tree is one that was there, without contradictions, and no check is
//!   needed before the next mount.
//! * **fsync and fsyncdir mean durable**: bytes, size, times, and the names that were made, changed or taken away in
//!   transactions with that inode or directory. Other changes become durable by themselves, names in their order.
//! * **Times and bytes belong together**: `times` says how.
//! * **Open files stay** when they lose their last name. They are on a list in the store, and what a killed server
//!   leaves there gives its room back at the next mount.
//! * **A full store says ENOSPC when something is written**, not later; names can still be changed and taken away.
//!   Through a memory map the kernel learns it when it writes back, and msync or fsync tells.
//! * **Direct I/O and memory maps agree**: that is the kernel's page cache, which nobody else writes around.
//! * **Who may do what** is the kernel's to say, by the bits that are kept here (`default_permissions`), for all users.
//!   Who changes a program of another, by a write, a hole or a cut, takes set-user-ID away before it can run again.
//!
//! Not here: `O_TMPFILE` and `syncfs` (the crate does not carry them: `sync` on a mount is not durability, fsync
//! is), access times other than asked for, POSIX ACLs, quotas, reflinks, handles for NFS. The crate takes times before
//! 1970 for others (`time` puts them right), and must not be asked for the earliest second there is in a debug build.
//!
//! # Bounds
//!
//! 256 requests of up to 1 MiB wait at once, in memory beside the engine's budget. So is an inode that the kernel
//! knows, with 3.2 KiB (3.1 GiB for a million files that were just made); the kernel decides how many these are, and
//! forgets them when memory is short (`echo 2 > /proc/sys/vm/drop_caches` tells it to). All bounds are in [`limits`].
//!
//! # Who was asked
//!
//! By `a_mounted_store_is_a_file_system`, `a_mounted_file_behaves_like_plain_bytes`,
//! `a_killed_file_system_keeps_what_was_synced` and `programs_work_on_a_mounted_store` (Linux 6.18; GNU tar 1.34, rsync 3.2.7, git 2.47,
//! SQLite 3.40, fio 3.33), which run again wherever there is root, `/dev/fuse` and the tool; the larger counts by hand.
//!
//! | client | what was run | result |
//! |---|---|---|
//! | own exerciser, as `fsx` | reads and writes buffered, direct and mapped, truncate, punch, zero, allocate, fsync, closing, four mounts; 8 MiB of memory; a million operations over five seeds | each byte and each size as in memory, both checkers clean |
//! | `fsx` 0.3.2 | files small, large and of 1 MiB, maps; a loop device with direct I/O on a file; a million operations over four kinds and four seeds | no difference, both checkers clean |
//! | own calls by four users | 3,000 on a mount and the same on ext4: kinds, modes, owners, links, sizes, bytes, errors | the same |
//! | own writers, SIGKILL | 40 kills under three writers that sync, link, rename, remove, swap files | all synced files whole, `check` of both kinds clean after each |
//! | own writers, SIGKILL | 40 open files without a name; times that were seen, and bytes written behind them | all room back; no time over other bytes than were seen with it |
//! | own walker | 65,000 links of one inode, a tree deeper than a path, all names; a directory of a million files, made, looked at and listed beside builds | as expected; 760 us, 12 us, 269 us each. The removal of the million was not waited for |
//! | `tar`, `cp -a`, `rsync -c` | the sources of the engine, there and back | identical |
//! | `cp --sparse` | `never`, `always`, `auto` of a file with 4 KiB in 50 MiB | identical, holes are holes |
//! | `git` | `clone` with and without hard links, `gc`, `checkout`, `fsck --full --strict`, another mount | no errors, clean status |
//! | `cargo` | this repository cloned; `cargo test -p foliant-device --lib` with sources and results on the mount | 40 tests passed; 2,562 inodes, `check` clean |
//! | SQLite | WAL and rollback journal, `synchronous=full`, SIGKILL of the server | `integrity_check` ok, all commits there that were told |
//! | `fio` | `--verify=crc32c`: buffered, direct at depth 8, `mmap`, mixed sizes | no errors |
//! | `mount(8)` helper | `DEV DIR -o OPTIONS`, a store that is none | mounted, refused |

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
