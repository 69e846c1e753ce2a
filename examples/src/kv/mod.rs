//! A durable, ordered key-value store: a B+tree in one Foliant object, and a server for it.
//!
//! The page cache, atomic commits and recovery are the engine's; the tree has no cache and no log of
//! its own. Bottom up:
//!
//! | file | what it is |
//! |---|---|
//! | `limits`, `units`, `error`, `op` | bounds, words, failures, what is asked for |
//! | `page`, `node`, `meta` | bytes to cells and back: pure |
//! | `draft` | the pages that one batch changes |
//! | `space`, `runs`, `path`, `balance`, `tree` | free pages, large values, the way down, splits and merges, put and delete |
//! | `view`, `snapshot`, `cursor` | readers that never wait for the writer |
//! | `plan`, `writer` | many requests, one transaction; several on their way |
//! | `store` | the map that users see |
//! | `resp`, `command`, `glob`, `scans`, `execute`, `connection`, `server` | RESP2 for Redis clients |
//! | `serve`, `demo` | the two commands |

mod balance;
mod command;
mod connection;
mod cursor;
pub mod demo;
mod draft;
pub mod error;
mod execute;
mod glob;
pub mod limits;
mod meta;
mod node;
pub mod op;
mod page;
mod path;
mod plan;
mod resp;
mod runs;
mod scans;
pub mod serve;
pub mod server;
mod snapshot;
mod space;
pub mod store;
mod tree;
mod units;
mod view;
mod writer;
