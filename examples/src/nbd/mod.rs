//! Network block devices: the objects of a store as disks, for virtual machines and kernels.
//!
//! ```sh
//! nbd create --store disks.foliant vm 20GiB
//! nbd serve --store disks.foliant --listen unix:/run/nbd.sock
//! qemu-img convert -n disk.qcow2 'nbd+unix:///vm?socket=/run/nbd.sock'
//! ```
//!
//! Bottom up:
//!
//! | file | what it is |
//! |---|---|
//! | `limits`, `wire`, `errno` | bounds, the protocol's numbers, failures as clients hear them |
//! | `pins` | how much of the engine's memory replies may keep |
//! | `request`, `option`, `reply` | bytes to questions, answers to bytes: pure |
//! | `stream` | a client's bytes in both directions, each wait bounded |
//! | `status`, `export`, `catalog` | what is stored where, an object as a disk, the objects of a store |
//! | `outbox`, `running`, `session` | replies out, what waits, requests in |
//! | `handshake` | which export, and how |
//! | `listen`, `server` | where clients come in, and who they are together |
//! | `serve`, `manage` | the commands |
//!
//! # What a disk promises
//!
//! * **Durable means durable.** A flush, and a write with FUA, is answered when the device has it: after a
//!   crash of the server, the kernel or the power it is there. Other writes are cached, and go in any
//!   subset.
//! * **No block is torn.** A write goes beside what it replaces, and its mapping changes in one
//!   transaction. So each 4 KiB block of a disk is, after a crash, one that was written, whole, whatever
//!   the sectors of the device are. A database with pages of 4 KiB needs no double-write buffer here;
//!   larger pages may come back with old and new blocks, unless they were written with FUA in one
//!   request of up to 64 KiB, which is one transaction.
//! * **Several connections are one client.** What one has flushed, all have: `export` says why.
//! * **Sparse.** A disk takes the room of what was written to it. Trim and zeroing give room back, and cost
//!   what is stored, not what is named. A store that is full says ENOSPC, loses nothing, and goes on
//!   when something is trimmed.
//! * **Errors stay.** What the device did not take remains in memory, and each flush fails until it is
//!   taken; nothing turns a failed flush into a good one.
//!
//! Not here: encryption and authentication (a socket file is its owner's, an address other than
//! loopback needs `--allow-remote`), extended headers, resizing of a disk in use.
//!
//! # Bounds
//!
//! A connection has up to 64 requests and 32 MiB on their way, in memory beside the engine's budget; with
//! 64 connections that is 2 GiB at worst, and `--connections` sets it. Reads of 32 KiB to 2 MiB are sent from
//! the engine's own memory, of which all clients together keep an eighth at most, and each for a second at most while
//! it does not fetch them: what is more, or later, is copied. Who sends more is not read; who does not fetch 256 KiB
//! of its replies in 30 s is let go. What clients can make the server log is 20 lines in 10 s of each kind; the next
//! one says how many were left out. All bounds are in [`limits`].
//!
//! # Threads
//!
//! All that a client asks for is done by its own task, on one thread at a time: what is cached is answered where it
//! was read, and what waits for the device by whoever finds that it came. So one connection uses one processor,
//! and more of them use more, up to `--threads` (half of the processors unless told otherwise, for the
//! clients need some as well).
//!
//! # Who was asked
//!
//! By `block_device_clients_are_served` and `a_file_system_on_an_export_survives_a_kill` (libnbd
//! 1.14, QEMU 10.0, Linux 6.18); both run again wherever the tools are there, the second with root and
//! `FOLIANT_BLOCK_DEVICE=1`, and with fewer operations of `fsx` unless `FOLIANT_FSX_OPERATIONS` says how many.
//!
//! | client | what was run | result |
//! |---|---|---|
//! | `nbdinfo` | `--list` of two exports, `--map`, `--size` | names, flags, block sizes, one hole of 1 GiB |
//! | `nbdcopy` | 48 MiB there, 4 connections, `--flush`; SIGKILL; back | every byte the same, holes are holes |
//! | `qemu-img` | `convert -n` with `-W -m 8` and with `-S 0`, `compare` after each, `info`, `map` | identical |
//! | `qemu-img`, `qemu-io` | a QCOW2 image in an export: `create`, `write`, `check` | no errors |
//! | `qemu-io` | `write -P`, `-f`, `-z`, `-z -u`, `-z -n -u`, `discard`, `aio_write`, odd offsets, `read -P` of each | as written |
//! | `qemu-io` | reads beyond the end, opening a read-only export for writing | refused |
//! | fio 3.33, its engine `nbd` | random writes of 4 KiB, and of 512 bytes to 64 KiB, depth 16, `--verify=crc32c`; a flush by another client, SIGKILL, verified again | no errors |
//! | `nbdfuse`, loop driver, ext4 | `fsx` 0.3.2 with all its verbs, five seeds of 100,000 operations | as in its memory, `e2fsck -fn` clean |
//! | the same | fio with and without `--direct=1`; this repository cloned, `git fsck --strict`, `foliant-device` built there | no errors, `e2fsck -fn` clean |
//! | `nbdfuse`, loop driver, the bare device | `fsx` in block mode, aligned to 512 bytes, five seeds of 100,000 | as in its memory |
//! | `nbdfuse`, loop driver, ext4 | files written and synced, SIGKILL, mounted again, three times | `e2fsck -fn` clean, all synced files whole |
//! | `nbdfuse`, loop driver, XFS | the same | `xfs_repair -n` clean, all synced files whole |

pub mod catalog;
pub mod errno;
pub mod export;
mod handshake;
pub mod limits;
pub mod listen;
pub mod manage;
pub mod option;
mod outbox;
pub mod pins;
pub mod reply;
pub mod request;
mod running;
pub mod serve;
pub mod server;
mod session;
mod status;
mod stream;
pub mod wire;
