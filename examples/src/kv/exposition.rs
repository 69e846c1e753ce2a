//! Figures for Prometheus.
//!
//! The engine and the device count by themselves, through the crate `metrics`; what they tell on request
//! and what the server counts is put beside it here, once in `FIGURES_PAUSE`. All names begin with
//! `foliant_` and `device_` (where they happen), `engine_` (`stats()` and `health()`) or `kv_` (the
//! server).
//!
//! Guarantees that what is not asked for costs nothing but a look at some counters. The listener is the
//! exporter's: it serves one page, to whoever can reach the address, and has no password. Called by
//! `serve` and `server`.

use std::net::SocketAddr;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::Context;
use foliant::Stats;
use metrics_exporter_prometheus::ExporterFuture;
use metrics_exporter_prometheus::Matcher;
use metrics_exporter_prometheus::PrometheusBuilder;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::kv::execute::Executor;

/// How old the figures are at most.
const FIGURES_PAUSE: Duration = Duration::from_secs(1);
/// Times from 10 us to 10 s: the buckets of all that ends in `_seconds`.
const BUCKETS: &[f64] = &[
    1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 0.1, 0.2, 0.5, 1.0,
    2.0, 5.0, 10.0,
];

/// Begins to count, and to listen; the future serves what was counted. Once in a process, before the
/// engine opens.
pub fn listen(address: SocketAddr) -> anyhow::Result<ExporterFuture> {
    let builder = PrometheusBuilder::new().with_http_listener(address);
    let builder = builder.set_buckets_for_metric(Matcher::Suffix("_seconds".into()), BUCKETS)?;
    let built = builder.build().with_context(|| format!("listening for metrics on {address}"));
    let (recorder, serving) = built?;
    metrics::set_global_recorder(recorder).context("counting for metrics")?;
    Ok(serving)
}

/// Tells the figures until `stop`.
pub async fn run(executor: Executor, stop: CancellationToken) {
    while stop.run_until_cancelled(sleep(FIGURES_PAUSE)).await.is_some() {
        tell(&executor);
    }
}

fn tell(executor: &Executor) {
    let (store, tally) = (executor.store(), executor.tally());
    let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    metrics::gauge!("kv_clients").set(read(&tally.clients) as f64);
    metrics::gauge!("kv_clients_max").set(executor.options().clients_max as f64);
    metrics::gauge!("kv_keys").set(store.len() as f64);
    metrics::gauge!("kv_expiring_keys").set(store.expiring() as f64);
    metrics::gauge!("kv_large_values").set(store.larges() as f64);
    metrics::counter!("kv_commands_total").absolute(read(&tally.commands));
    metrics::counter!("kv_connections_total").absolute(read(&tally.connections));
    metrics::counter!("kv_connections_rejected_total").absolute(read(&tally.rejected));
    metrics::counter!("kv_keyspace_hits_total").absolute(read(&tally.hits));
    metrics::counter!("kv_keyspace_misses_total").absolute(read(&tally.misses));
    let health = store.engine().health();
    metrics::gauge!("engine_writes_stopped").set(if health.stopped.is_some() { 1 } else { 0 });
    metrics::gauge!("engine_failed_objects").set(health.failed_objects.len() as f64);
    metrics::gauge!("engine_quarantined_bytes").set(health.quarantined_bytes as f64);
    tell_stats(&store.engine().stats());
}

fn tell_stats(stats: &Stats) {
    metrics::gauge!("engine_memory_budget_bytes").set(stats.memory_budget_bytes as f64);
    metrics::gauge!("engine_memory_used_bytes").set(stats.memory_used_bytes as f64);
    metrics::gauge!("engine_dirty_bytes").set(stats.dirty_bytes as f64);
    metrics::gauge!("engine_free_bytes").set(stats.free_bytes as f64);
    metrics::gauge!("engine_capacity_bytes").set(stats.capacity_bytes as f64);
    metrics::gauge!("engine_open_objects").set(stats.open_objects as f64);
    metrics::counter!("engine_cache_hits_total").absolute(stats.cache_hits);
    metrics::counter!("engine_cache_misses_total").absolute(stats.cache_misses);
    metrics::counter!("engine_reclaimed_bytes_total").absolute(stats.reclaimed_bytes);
    metrics::counter!("engine_written_back_bytes_total").absolute(stats.written_back_bytes);
    metrics::counter!("engine_commits_total").absolute(stats.commits);
    metrics::counter!("engine_commit_groups_total").absolute(stats.commit_groups);
    metrics::counter!("engine_checkpoints_total").absolute(stats.checkpoints);
    metrics::counter!("engine_moved_bytes_total").absolute(stats.moved_bytes);
    metrics::counter!("engine_discarded_bytes_total").absolute(stats.discarded_bytes);
}
