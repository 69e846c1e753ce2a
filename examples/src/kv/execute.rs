//! Commands to store operations, outcomes to replies.
//!
//! Write commands are gathered: `Writes` holds those that a client has sent in a row, they go to the
//! writer as one request, and their replies come in order when all of them are durable. Each command
//! is atomic (DEL and MSET of more than `ATOMIC_KEYS_MAX` keys are cut). A read runs behind the
//! writes that its client sent before it.
//!
//! Does not parse and does not know sockets. Called by `connection`.

use std::fmt::Write;
use std::sync::Arc;

use bytes::Bytes;

use crate::kv::command::Command;
use crate::kv::command::Scan;
use crate::kv::error::Error;
use crate::kv::glob;
use crate::kv::limits::ATOMIC_KEYS_MAX;
use crate::kv::limits::REPLY_BYTES_MAX;
use crate::kv::op::Group;
use crate::kv::op::Op;
use crate::kv::op::Outcome;
use crate::kv::op::When;
use crate::kv::resp;
use crate::kv::resp::Reply;
use crate::kv::scans::Scans;
use crate::kv::store::Store;

/// Serves the commands of all clients.
#[derive(Debug, Clone)]
pub struct Executor {
    store: Store,
    scans: Arc<Scans>,
}

/// Write commands of one client that were not sent to the writer yet.
#[derive(Debug, Default)]
pub struct Writes {
    groups: Vec<Group>,
    /// What to reply, in order, and how many groups each reply is about.
    replies: Vec<(Shape, usize)>,
    bytes: usize,
}

#[derive(Debug)]
enum Shape {
    /// `+OK`, or nil where a condition did not hold.
    Stored,
    /// How many keys were there.
    Count,
    /// Known already.
    Ready(Reply),
}

impl Writes {
    /// Takes a write command; gives any other one back.
    pub fn take(&mut self, command: Command) -> Option<Command> {
        match command {
            Command::Set(key, value, when) => {
                self.add(Shape::Stored, [Op::Put { key, value, when }]);
            }
            Command::MSet(pairs) => {
                let put = |(key, value)| Op::Put { key, value, when: When::Always };
                self.add(Shape::Stored, pairs.into_iter().map(put));
            }
            Command::Del(keys) => {
                self.add(Shape::Count, keys.into_iter().map(|key| Op::Delete { key }));
            }
            Command::Flush => self.add(Shape::Stored, [Op::Clear]),
            other => return Some(other),
        }
        None
    }

    fn add(&mut self, shape: Shape, ops: impl IntoIterator<Item = Op>) {
        let before = self.groups.len();
        let mut ops = ops.into_iter().inspect(|op| self.bytes += op.bytes());
        loop {
            let group: Group = ops.by_ref().take(ATOMIC_KEYS_MAX).collect();
            if group.is_empty() {
                break;
            }
            self.groups.push(group);
        }
        drop(ops);
        self.replies.push((shape, self.groups.len() - before));
    }

    /// Takes a reply that must come behind those of the writes.
    pub fn take_reply(&mut self, reply: Reply) {
        self.replies.push((Shape::Ready(reply), 0));
    }

    /// Commands in it.
    pub fn len(&self) -> usize {
        self.replies.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.replies.is_empty()
    }

    /// Bytes of keys and values in it.
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Executor {
    /// Serves from `store`.
    pub fn new(store: Store) -> Self {
        Self { store, scans: Arc::new(Scans::new()) }
    }

    /// Makes the writes durable and gives their replies.
    pub async fn write(&self, writes: Writes) -> Vec<Reply> {
        let answer = match writes.groups.is_empty() {
            true => Ok(Vec::new()),
            false => self.store.write(writes.groups).await,
        };
        let mut outcomes = match answer {
            Ok(answer) => answer.into_iter(),
            Err(cause) => {
                let reply = |_| failure(&cause);
                return writes.replies.iter().map(reply).collect();
            }
        };
        let mut replies = Vec::with_capacity(writes.replies.len());
        for (shape, groups) in writes.replies {
            let of_one: Result<Vec<Vec<Outcome>>, Error> = outcomes.by_ref().take(groups).collect();
            replies.push(match (shape, of_one) {
                (Shape::Ready(reply), _) => reply,
                (_, Err(cause)) => failure(&cause),
                (Shape::Count, Ok(all)) => {
                    let gone = all.iter().flatten().filter(|o| **o == Outcome::Deleted(true));
                    Reply::Integer(gone.count() as i64)
                }
                (Shape::Stored, Ok(all)) if all == [[Outcome::Refused]] => Reply::Null,
                (Shape::Stored, Ok(_)) => resp::ok(),
            });
        }
        replies
    }

    /// Serves a command that changes nothing.
    pub async fn read(&self, command: Command) -> Reply {
        let reply = match command {
            Command::Get(key) => self.get(&key).await,
            Command::MGet(keys) => self.mget(&keys).await,
            Command::Exists(keys) => self.exists(&keys).await,
            Command::Scan(scan) => self.scan(scan).await,
            other => Ok(self.about_server(other)),
        };
        reply.unwrap_or_else(|cause| failure(&cause))
    }

    fn about_server(&self, command: Command) -> Reply {
        match command {
            Command::Ping(None) => resp::simple("PONG"),
            Command::Ping(Some(text)) | Command::Echo(text) => resp::bulk(text),
            Command::DbSize => Reply::Integer(self.store.len() as i64),
            Command::Info => resp::bulk(self.info()),
            Command::EmptyList => Reply::Array(Vec::new()),
            Command::CountCommands => Reply::Integer(0),
            Command::ConfigGet(names) => {
                let pair = |name: Bytes| [resp::bulk(name), resp::bulk(Bytes::new())];
                Reply::Array(names.into_iter().flat_map(pair).collect())
            }
            Command::Hello => hello(),
            Command::Ok | Command::Quit => resp::ok(),
            write => unreachable!("{write:?} goes to the writer"),
        }
    }

    async fn get(&self, key: &[u8]) -> Result<Reply, Error> {
        Ok(self.store.get(key).await?.map_or(Reply::Null, Reply::BulkString))
    }

    async fn mget(&self, keys: &[Bytes]) -> Result<Reply, Error> {
        let mut values = Vec::with_capacity(keys.len());
        let mut bytes = 0;
        for key in keys {
            let value = self.store.get(key).await?;
            bytes += value.as_ref().map_or(0, Bytes::len);
            if bytes > REPLY_BYTES_MAX {
                return Ok(resp::err("the values are too long for one reply"));
            }
            values.push(value.map_or(Reply::Null, Reply::BulkString));
        }
        Ok(Reply::Array(values))
    }

    async fn exists(&self, keys: &[Bytes]) -> Result<Reply, Error> {
        let mut count = 0;
        for key in keys {
            count += i64::from(self.store.contains(key).await?);
        }
        Ok(Reply::Integer(count))
    }

    async fn scan(&self, scan: Scan) -> Result<Reply, Error> {
        let Some(from) = self.scans.find(scan.cursor) else {
            return Ok(resp::err("invalid cursor"));
        };
        let found = self.store.scan_keys(&from, scan.count).await?;
        let cursor = match found.entries.last() {
            Some((last, _)) if !found.at_end => {
                // The least key behind the last one.
                let next = [&last[..], &[0]].concat();
                self.scans.remember(next.into())
            }
            _ => 0,
        };
        let fits = |key: &Bytes| scan.pattern.as_ref().is_none_or(|p| glob::matches(p, key));
        let keys = found.entries.into_iter().map(|(key, _)| key).filter(fits).map(resp::bulk);
        let keys = Reply::Array(keys.collect());
        Ok(Reply::Array(vec![resp::bulk(cursor.to_string()), keys]))
    }

    fn info(&self) -> String {
        let (engine, mut text) = (self.store.engine(), String::new());
        let (stats, backend) = (engine.stats(), engine.backend());
        let keys = self.store.len();
        // Writing to a string does not fail.
        let _ = write!(
            text,
            "# Server\r\nredis_version:7.0.0\r\nserver_name:foliant-kv\r\nbackend:{}\r\n\
             # Memory\r\nused_memory:{}\r\nmaxmemory:{}\r\n\
             # Stats\r\ncache_hits:{}\r\ncache_misses:{}\r\ncommits:{}\r\ncommit_groups:{}\r\n\
             device_bytes_read:{}\r\ndevice_bytes_written:{}\r\nfree_bytes:{}\r\n\
             # Keyspace\r\ndb0:keys={keys},expires=0,avg_ttl=0\r\n",
            backend.name,
            stats.memory_used_bytes,
            stats.memory_budget_bytes,
            stats.cache_hits,
            stats.cache_misses,
            stats.commits,
            stats.commit_groups,
            stats.device_bytes_read,
            stats.device_bytes_written,
            stats.free_bytes,
        );
        text
    }
}

fn hello() -> Reply {
    let text = |text: &'static str| resp::bulk(Bytes::from_static(text.as_bytes()));
    Reply::Array(vec![
        text("server"),
        text("foliant-kv"),
        text("version"),
        text("7.0.0"),
        text("proto"),
        Reply::Integer(2),
        text("mode"),
        text("standalone"),
        text("role"),
        text("master"),
        text("modules"),
        Reply::Array(Vec::new()),
    ])
}

fn failure(cause: &Error) -> Reply {
    match cause {
        Error::Engine(cause) if cause.is_no_space() => resp::error(format_args!("OOM {cause}")),
        Error::Engine(cause) => resp::error(format_args!("ERR {:?}: {cause}", cause.kind())),
        other => resp::err(other),
    }
}
