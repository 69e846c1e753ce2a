//! Commands to the store, outcomes to replies.
//!
//! A command that only reads runs its procedure on the state of the last commit, without the writer.
//! It sees nothing of an entry that has ended, and tells the sweep of it.
//!
//! Guarantees replies that hold at most `REPLY_BYTES_MAX` bytes of values; large ones are read when they
//! are sent. Does not parse and does not know
//! sockets. Called by `connection`.

use std::hash::BuildHasher;
use std::hash::RandomState;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::kv::ask::Command;
use crate::kv::ask::Range;
use crate::kv::ask::Scan;
use crate::kv::error::Error;
use crate::kv::error::Result;
use crate::kv::glob;
use crate::kv::info;
use crate::kv::info::Tally;
use crate::kv::info::count;
use crate::kv::limits::REPLY_BYTES_MAX;
use crate::kv::limits::WATCHED_KEYS_MAX;
use crate::kv::op::Entry;
use crate::kv::op::Procedure;
use crate::kv::op::check_key;
use crate::kv::op::is_live;
use crate::kv::options::Options;
use crate::kv::reply::OK;
use crate::kv::reply::Reply;
use crate::kv::scans::Scans;
use crate::kv::shelf::Shelf;
use crate::kv::store::Store;
use crate::kv::units::Millis;
use crate::kv::watch::Watch;
use crate::kv::writes::Writes;
use crate::kv::writes::failure;

/// How often RANDOMKEY tries again when it meets a key that has ended.
const RANDOM_TRIES: usize = 100;

/// Serves the commands of all clients.
#[derive(Debug, Clone)]
pub struct Executor {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    store: Store,
    scans: Scans,
    options: Options,
    tally: Tally,
    /// What one transaction may take.
    log_bytes: u64,
    /// Keys that have ended, for the sweep.
    lapsed: mpsc::Sender<Bytes>,
}

impl Executor {
    /// Serves from `store`; names ended keys to `lapsed`.
    pub fn new(store: Store, options: Options, lapsed: mpsc::Sender<Bytes>) -> Self {
        let tally = Tally { since: options.clock.now(), ..Tally::default() };
        let log_bytes = store.engine().transaction().log_bytes_max();
        let inner = Inner { store, scans: Scans::new(), options, tally, log_bytes, lapsed };
        Self { inner: Arc::new(inner) }
    }

    /// What the user chose.
    pub fn options(&self) -> &Options {
        &self.inner.options
    }

    /// The counters.
    pub fn tally(&self) -> &Tally {
        &self.inner.tally
    }

    /// The time.
    pub fn now(&self) -> Millis {
        self.inner.options.clock.now()
    }

    /// What is served.
    pub fn store(&self) -> &Store {
        &self.inner.store
    }

    /// Where long arguments go.
    pub fn shelf(&self) -> Arc<Shelf> {
        self.inner.store.shelf()
    }

    /// An empty list of writes.
    pub fn writes(&self) -> Writes {
        Writes::new(self.inner.log_bytes)
    }

    /// Makes the writes durable and gives their replies.
    pub async fn write(&self, mut writes: Writes) -> Vec<Reply> {
        let groups = writes.take_groups();
        let answer = match groups.is_empty() {
            true => Ok(Vec::new()),
            false => {
                let begun = Instant::now();
                let answer = self.inner.store.write(groups).await;
                metrics::histogram!("kv_write_seconds").record(begun.elapsed());
                answer
            }
        };
        writes.replies(answer)
    }

    /// Serves a command that changes nothing.
    pub async fn read(&self, command: Command) -> Reply {
        let (store, options, tally) = (&self.inner.store, self.options(), self.tally());
        let reply = match command {
            Command::Read(procedure) => self.look(&procedure).await,
            Command::Scan(scan) => self.scan(scan).await,
            Command::Range(range) => self.range(range).await,
            Command::RandomKey => self.random_key().await,
            Command::DbSize => Ok(Reply::Integer(store.len() as i64)),
            Command::Info(sections) => Ok(info::info(&sections, store, options, tally)),
            Command::ConfigGet(patterns) => Ok(info::config(&patterns, store, options)),
            other => Ok(Reply::err(format_args!("{other:?} is not served here"))),
        };
        reply.unwrap_or_else(|cause| failure(&cause))
    }

    async fn look(&self, procedure: &Procedure) -> Result<Reply> {
        let mut found = Vec::with_capacity(procedure.keys().len());
        let mut bytes = 0;
        for key in procedure.keys() {
            let entry = self.entry(key, procedure.wants_values(), procedure.now()).await?;
            count(if entry.is_some() { &self.tally().hits } else { &self.tally().misses });
            bytes += entry.as_ref().map_or(0, |entry| entry.value.held());
            if bytes > REPLY_BYTES_MAX {
                return Err(Error::ReplyTooLong);
            }
            found.push(entry);
        }
        Ok(procedure.run(found).reply)
    }

    /// What `key` stands for at `now`.
    async fn entry(&self, key: &Bytes, wants_value: bool, now: Millis) -> Result<Option<Entry>> {
        let entry = self.inner.store.entry(key, wants_value).await?;
        Ok(entry.filter(|entry| self.is_live(key, entry.expires, now)))
    }

    /// Whether it is still there; the sweep hears of it if not.
    fn is_live(&self, key: &Bytes, end: Option<Millis>, now: Millis) -> bool {
        let live = is_live(end, now);
        if !live {
            count(&self.tally().lapsed);
            // The walk finds it later if there is no room.
            let _ = self.inner.lapsed.try_send(key.clone());
        }
        live
    }

    /// WATCH: adds keys to those that a client watches.
    pub async fn watch(&self, watch: &mut Option<Watch>, keys: Vec<Bytes>) -> Reply {
        let watch = watch.get_or_insert_with(|| Watch::new(self.inner.store.watches()));
        if watch.len() + keys.len() > WATCHED_KEYS_MAX {
            return Reply::err(format_args!("more than {WATCHED_KEYS_MAX} watched keys"));
        }
        for key in keys {
            if let Err(cause) = check_key(&key) {
                return failure(&cause);
            }
            // First: a change behind the look is noticed then.
            watch.add(key.clone());
            match self.entry(&key, false, self.now()).await {
                Ok(Some(Entry { expires: Some(end), .. })) => watch.add_end(end),
                Ok(_) => {}
                Err(cause) => return failure(&cause),
            }
        }
        OK
    }

    async fn scan(&self, scan: Scan) -> Result<Reply> {
        let Some(from) = self.inner.scans.find(scan.cursor) else {
            return Ok(Reply::err("invalid cursor"));
        };
        let found = self.inner.store.scan_keys(&from, scan.count).await?;
        let cursor = match found.entries.last() {
            Some((last, _)) if !found.at_end => {
                // The least key behind the last one.
                let next = [&last[..], &[0]].concat();
                self.inner.scans.remember(next.into())
            }
            _ => 0,
        };
        let fits =
            |key: &Bytes| !scan.none && scan.pattern.as_ref().is_none_or(|p| glob::matches(p, key));
        let all = found.entries.into_iter().zip(found.expires);
        let live = all.filter(|((key, _), end)| self.is_live(key, *end, scan.now));
        let keys = live.map(|((key, _), _)| key).filter(fits).map(Reply::Bulk);
        let keys = Reply::Array(keys.collect());
        Ok(Reply::Array(vec![cursor.to_string().into(), keys]))
    }

    /// Ends before `count` keys where their values are `REPLY_BYTES_MAX` together; empty only if there
    /// are no more.
    async fn range(&self, range: Range) -> Result<Reply> {
        let (mut from, mut replies) = (range.from, Vec::new());
        let store = &self.inner.store;
        while replies.is_empty() {
            let found = match range.values {
                true => store.scan_values(&from, range.count, REPLY_BYTES_MAX).await?,
                false => store.scan_keys(&from, range.count).await?,
            };
            let Some((last, _)) = found.entries.last() else { break };
            from = [&last[..], &[0]].concat().into();
            let is_inside = |key: &Bytes| match &range.to {
                None => true,
                Some(to) => key < to || (range.to_inclusive && key == to),
            };
            let is_last = found.at_end || !is_inside(last);
            for ((key, value), end) in found.entries.into_iter().zip(found.expires) {
                if is_inside(&key) && self.is_live(&key, end, range.now) {
                    replies.push(Reply::Bulk(key));
                    replies.extend(range.values.then_some(Reply::from(value)));
                }
            }
            if is_last {
                break;
            }
        }
        Ok(Reply::Array(replies))
    }

    async fn random_key(&self) -> Result<Reply> {
        let state = RandomState::new();
        let mut turn = 0;
        for _ in 0..RANDOM_TRIES {
            let dice = || {
                turn += 1;
                state.hash_one(turn)
            };
            let Some(key) = self.inner.store.any_key(dice).await? else { break };
            if self.entry(&key, false, self.now()).await?.is_some() {
                return Ok(Reply::Bulk(key));
            }
        }
        Ok(Reply::Null)
    }
}
