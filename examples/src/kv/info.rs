//! INFO and CONFIG GET: what the server tells about itself.
//!
//! The figures are the engine's `stats()`, the store's counts and the server's own tally; none is
//! made up. Called by `execute`.

use std::fmt::Write;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;

use bytes::Bytes;

use crate::kv::glob;
use crate::kv::limits::REDIS_VERSION;
use crate::kv::limits::VALUE_BYTES_MAX;
use crate::kv::op::Promise;
use crate::kv::options::Options;
use crate::kv::reply::Reply;
use crate::kv::store::Store;
use crate::kv::units::Millis;

/// What the server has counted.
#[derive(Debug, Default)]
pub struct Tally {
    /// When it started.
    pub since: Millis,
    /// Clients that are there.
    pub clients: AtomicU64,
    /// Clients that ever were; the last one's number.
    pub connections: AtomicU64,
    /// Clients that were turned away because there were too many.
    pub rejected: AtomicU64,
    /// Commands, those of transactions included.
    pub commands: AtomicU64,
    /// Reads that found their key.
    pub hits: AtomicU64,
    /// Reads that did not.
    pub misses: AtomicU64,
    /// Ended keys that somebody met.
    pub lapsed: AtomicU64,
}

/// Adds one and gives the sum.
pub fn count(counter: &AtomicU64) -> u64 {
    // Figures for people: nothing is ordered by them.
    counter.fetch_add(1, Ordering::Relaxed) + 1
}

fn read(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

/// A section's name and its lines.
type Section = (&'static str, fn(&mut String, &Store, &Options, &Tally) -> std::fmt::Result);

const SECTIONS: &[Section] = &[
    ("Server", server),
    ("Clients", clients),
    ("Memory", memory),
    ("Persistence", persistence),
    ("Stats", stats),
    ("Replication", |out, _, _, _| out.write_str("role:master\r\nconnected_slaves:0\r\n")),
    ("Keyspace", keyspace),
];

/// INFO with these sections, all of them if none is named.
pub fn info(wanted: &[Bytes], store: &Store, options: &Options, tally: &Tally) -> Reply {
    let is_all = |name: &Bytes| {
        let all: [&[u8]; 3] = [b"all", b"default", b"everything"];
        all.iter().any(|all| name.eq_ignore_ascii_case(all))
    };
    let all = wanted.is_empty() || wanted.iter().any(is_all);
    let mut text = String::new();
    for (name, lines) in SECTIONS {
        if !all && !wanted.iter().any(|wanted| wanted.eq_ignore_ascii_case(name.as_bytes())) {
            continue;
        }
        let gap = if text.is_empty() { "" } else { "\r\n" };
        // Writing to a string does not fail.
        let _ = write!(text, "{gap}# {name}\r\n");
        let _ = lines(&mut text, store, options, tally);
    }
    Reply::Verbatim(text)
}

fn server(out: &mut String, store: &Store, options: &Options, tally: &Tally) -> std::fmt::Result {
    let backend = store.engine().backend();
    let uptime = options.clock.now().saturating_sub(tally.since) / 1000;
    write!(
        out,
        "redis_version:{REDIS_VERSION}\r\nredis_mode:standalone\r\nserver_name:foliant-kv\r\n\
         foliant_version:{}\r\nprocess_id:{}\r\nuptime_in_seconds:{uptime}\r\nbackend:{}\r\n",
        env!("CARGO_PKG_VERSION"),
        std::process::id(),
        backend.name,
    )
}

fn clients(out: &mut String, _: &Store, options: &Options, tally: &Tally) -> std::fmt::Result {
    let clients = read(&tally.clients);
    write!(out, "connected_clients:{clients}\r\nmaxclients:{}\r\n", options.clients_max)
}

fn memory(out: &mut String, store: &Store, _: &Options, _: &Tally) -> std::fmt::Result {
    let stats = store.engine().stats();
    write!(
        out,
        "used_memory:{}\r\nmaxmemory:{}\r\nmaxmemory_policy:noeviction\r\n\
         reclaimed_bytes:{}\r\ndirty_bytes:{}\r\n",
        stats.memory_used_bytes,
        stats.memory_budget_bytes,
        stats.reclaimed_bytes,
        stats.dirty_bytes,
    )
}

fn persistence(out: &mut String, store: &Store, options: &Options, _: &Tally) -> std::fmt::Result {
    let engine = store.engine();
    let (stats, recovery) = (engine.stats(), engine.recovery());
    write!(
        out,
        "loading:0\r\naof_enabled:1\r\nappendfsync:{}\r\ncommits:{}\r\ncommit_groups:{}\r\n\
         checkpoints:{}\r\ndevice_flushes:{}\r\ndevice_bytes_written:{}\r\nfree_bytes:{}\r\n\
         capacity_bytes:{}\r\nlarge_values:{}\r\nrecovered_transactions:{}\r\nrecovery_ms:{}\r\n",
        fsync(options),
        stats.commits,
        stats.commit_groups,
        stats.checkpoints,
        stats.device_flushes,
        stats.device_bytes_written,
        stats.free_bytes,
        stats.capacity_bytes,
        store.larges(),
        recovery.transactions,
        recovery.elapsed_ns / 1_000_000,
    )
}

fn fsync(options: &Options) -> &'static str {
    match options.promise {
        Promise::Durable => "always",
        Promise::EverySecond => "everysec",
    }
}

fn stats(out: &mut String, store: &Store, _: &Options, tally: &Tally) -> std::fmt::Result {
    let stats = store.engine().stats();
    write!(
        out,
        "total_connections_received:{}\r\ntotal_commands_processed:{}\r\n\
         rejected_connections:{}\r\nkeyspace_hits:{}\r\nkeyspace_misses:{}\r\n\
         expired_keys_met:{}\r\ncache_hits:{}\r\ncache_misses:{}\r\ndevice_bytes_read:{}\r\n",
        read(&tally.connections),
        read(&tally.commands),
        read(&tally.rejected),
        read(&tally.hits),
        read(&tally.misses),
        read(&tally.lapsed),
        stats.cache_hits,
        stats.cache_misses,
        stats.device_bytes_read,
    )
}

fn keyspace(out: &mut String, store: &Store, _: &Options, _: &Tally) -> std::fmt::Result {
    match store.len() {
        0 => Ok(()),
        keys => write!(out, "db0:keys={keys},expires={},avg_ttl=0\r\n", store.expiring()),
    }
}

/// CONFIG GET: the settings that fit one of the patterns.
pub fn config(patterns: &[Bytes], store: &Store, options: &Options) -> Reply {
    let idle = options.idle.map_or(0, |idle| idle.as_secs());
    let settings = [
        ("appendfsync", fsync(options).to_owned()),
        ("appendonly", "yes".to_owned()),
        ("databases", "1".to_owned()),
        ("maxclients", options.clients_max.to_string()),
        ("maxmemory", store.engine().stats().memory_budget_bytes.to_string()),
        ("maxmemory-policy", "noeviction".to_owned()),
        ("proto-max-bulk-len", VALUE_BYTES_MAX.to_string()),
        ("save", String::new()),
        ("timeout", idle.to_string()),
    ];
    let fits = |name: &str| {
        patterns.iter().any(|p| glob::matches(&p.to_ascii_lowercase(), name.as_bytes()))
    };
    let found = settings.into_iter().filter(|(name, _)| fits(name));
    Reply::Map(found.map(|(name, value)| (Reply::text(name), value.into())).collect())
}
