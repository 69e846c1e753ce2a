//! A durable, ordered key-value store: a B+tree in one Foliant object, and a server for it.
//!
//! The page cache, atomic commits and recovery are the engine's; the tree has no cache and no log of
//! its own. Bottom up:
//!
//! | file | what it is |
//! |---|---|
//! | `limits`, `units`, `error`, `op` | bounds, words, failures, what is asked for |
//! | `image`, `page`, `node`, `meta` | pages in memory; bytes to cells and back: pure |
//! | `value`, `pinned`, `shelf`, `removal` | large values: objects of their own, who reads them, and how they go |
//! | `draft` | what one batch changes: pages, and large values |
//! | `space`, `runs`, `path`, `balance`, `tree` | free pages, values in pages, the way down, splits and merges, put and delete |
//! | `larges` | APPEND and SETRANGE on large values |
//! | `guide`, `upper`, `ground` | the way through an inner page; inner pages in memory; where the tree lies |
//! | `view`, `snapshot`, `cursor` | readers that never wait for the writer |
//! | `plan`, `writer` | many requests, one transaction; several on their way |
//! | `store` | the map that users see |
//! | `watch` | who is told of changed keys |
//! | `reply`, `resp` | replies as data, RESP2 and RESP3 as bytes |
//! | `ask`, `arguments`, `strings`, `keyspace`, `service`, `command` | commands out of words |
//! | `clock`, `options`, `glob`, `scans`, `sweep`, `info`, `exposition` | what the server needs besides |
//! | `writes`, `uploads`, `execute`, `session`, `connection`, `server` | the server for Redis clients |
//! | `serve`, `demo` | the two commands |
//!
//! # The server
//!
//! Strings of Redis 7.0, in one database, in the order of their keys. [`command`] has the list. What is
//! its own: `KEYRANGE min max [COUNT n] [VALUES]` gives keys in order, between `[key` (with it), `(key`
//! (without it), `-` and `+`; one goes on with `(` and the last key, until the reply is empty.
//!
//! What is different: a key has 1 to 512 bytes. DEL and MSET of more than 64 keys are atomic in pieces,
//! unless they stand in a transaction; with less than 64 MiB of memory the pieces of DEL are shorter, and
//! those of MSET with large values are half as long. In MULTI stand commands on
//! keys by name; SCAN, KEYRANGE, DBSIZE, RANDOMKEY, INFO, FLUSHALL and the like spoil it. A transaction
//! has to fit the log as a whole, otherwise it does nothing and says so: 1 MiB, or a 64th of a memory of
//! less than 64 MiB; a large value takes 12 KiB of it, and 24 KiB where it replaces another one. Of all arguments only values may have more than
//! 1 MiB. A cursor of SCAN is forgotten after 16,384 later ones. INCRBYFLOAT counts in 64 bits (Redis in
//! 80). There are no lists, sets, hashes, streams, scripts, channels, replicas.
//!
//! With `--durability always` a reply means that the change is on the device; EXEC is one transaction of
//! the engine. With `everysec` a reply means that it is visible, and a power cut takes the last second or
//! so: whole commits, the latest. The time at which an entry ends is stored beside it.
//!
//! One client makes the server hold at most: one command of 16 MiB (16 KiB a word and 10 words before
//! the password), one transaction of 16 MiB, 4096 watched keys, and replies of 64 MiB; of large values a
//! piece.
//!
//! # Large values
//!
//! A value of more than 32 KiB, up to 512 MiB, is an object of its own ([`shelf`] tells how). It is there
//! whole or not at all, as its key is; it is never in memory as a whole; and it goes with its key, by
//! whatever command, or when its time ends. GET and GETRANGE send it piece by piece, as it was when the
//! command came, whatever becomes of it meanwhile. APPEND and SETRANGE cost what they write, except a
//! SETRANGE of more than 128 KiB over bytes that are there: that copies the value.
//!
//! # Figures
//!
//! `--metrics-listen 127.0.0.1:9121` serves them to Prometheus; `examples/dashboards/kv.json` is a dashboard
//! for Grafana. INFO has the same in the form of Redis.
//!
//! # Clients that were tried
//!
//! `tests/redis_tools_find_a_redis` runs all of it where the packages are installed (Debian: redis-server,
//! redis-tools, python3-redis), and says SKIPPED where not.
//!
//! | client | what was run | result |
//! |---|---|---|
//! | redis-server 7.0.15 as the oracle | 20,000 random commands on five keys, transactions and WATCH among them, to both | the same replies, errors included; INCRBYFLOAT only with sums exact in binary |
//! | redis-benchmark 7.0.15 | `-t ping,set,get,incr,mset -n 2000 -q`, alone and with `-P 16`, `--durability` always and everysec | runs to its end without errors |
//! | redis-cli 7.0.15 | `--pipe` with 100,000 SETs; a script with quoted words, INFO, HELLO 3; `--scan --pattern` | errors: 0, replies: 100000; as expected |
//! | redis-py 4.3.4 | strings, bytes, counters, expiry, scan_iter, pipelines, `transaction()`, WatchError, INFO, CONFIG, CLIENT | as expected |
//! | redis-py 4.3.4 | SET, GET, GETRANGE, SETRANGE, APPEND, RENAME, DEL of 536,870,912 bytes with `--memory 256MiB`; one byte more | the same bytes, 253 MiB resident at most; an error, and for SET the end of the connection |
//!
//! # Beside Redis
//!
//! redis-benchmark 7.0.15 to both servers in turns (A B B A, six pairs) over loopback, files on the same disk,
//! Redis with `appendfsync always`, nothing else at work on two processors, built with `--release`.
//!
//! | what was run | result |
//! |---|---|
//! | `-t set -c 64 -n 200000 -d 150 -r 1000000` | 0.63 (0.55 to 0.73) of Redis; 48 us of processor time of the server each, Redis 21. The aim is 2, which these two processors do not carry with any store: PING alone is 1.8 times the SETs of Redis |
//! | `-t get -P 16 -c 50 -n 1000000 -d 150 -r 1000000` | 0.83 (0.75 to 0.91), 0.75 and 0.78 in three runs of 6, 10 and 6 pairs; 3.8 to 5.7 us and 2.1 to 3.3. The aim is 0.8 |
//! | `-t set -P 16 -c 50 -n 300000 -d 150 -r 1000000` | 0.63 (0.53 to 0.81) |
//! | `-t mset -c 50 -n 30000 -d 150 -r 1000000` | 0.74 (0.58 to 0.83) |
//! | `redis-cli --pipe`, a million SETs, beside builds | errors: 0, replies: 1000000; 6.6 s, Redis 15.1 s, once each |
//!
//! The performance page of the engine's documentation says where the time goes.

mod arguments;
mod ask;
mod balance;
pub mod clock;
pub(crate) mod command;
mod connection;
mod cursor;
pub mod demo;
mod draft;
pub mod error;
mod execute;
mod exposition;
mod glob;
mod ground;
mod guide;
mod image;
mod info;
mod keyspace;
mod larges;
pub mod limits;
mod meta;
mod node;
pub mod op;
pub mod options;
mod page;
mod path;
pub mod pinned;
mod plan;
mod removal;
pub mod reply;
pub(crate) mod resp;
mod runs;
mod scans;
pub mod serve;
pub mod server;
mod service;
mod session;
pub mod shelf;
mod snapshot;
mod space;
pub mod store;
mod strings;
mod sweep;
mod tree;
mod units;
mod uploads;
mod upper;
pub mod value;
mod view;
mod watch;
mod writer;
mod writes;
