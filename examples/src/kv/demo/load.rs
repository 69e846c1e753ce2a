//! What the demo does with an open store: load it, read it, walk through it.
//!
//! Guarantees bounded work in flight. Called by `demo`.

use std::time::Duration;
use std::time::Instant;

use anyhow::Context;
use futures_util::StreamExt;
use futures_util::TryStreamExt;
use futures_util::stream;
use hdrhistogram::Histogram;
use indicatif::ProgressBar;
use indicatif::ProgressStyle;
use tokio::task::JoinSet;

use crate::kv::demo::record;
use crate::kv::demo::report::Report;
use crate::kv::op::Op;
use crate::kv::store::Store;

/// Keys of one request while loading.
const LOAD_BATCH: u64 = 500;
/// Requests on their way while loading.
const LOADS_IN_FLIGHT: usize = 16;
/// Readers at once.
const READERS: u64 = 8;
/// How long the readers read.
const READ_FOR: Duration = Duration::from_secs(3);
/// Keys of one step of the scan.
const SCAN_STEP: usize = 2000;

/// What a walk through all keys found.
pub struct Found {
    /// By key number.
    pub versions: Vec<Option<u64>>,
    /// Values that do not pass their checksum or belong to another key.
    pub torn: u64,
    /// Keys that were loaded and are not there.
    pub missing: u64,
}

/// A prime far from any power of two: its multiples, modulo the number of keys, scatter.
const STRIDE: u64 = 0x9E37_79B1;

/// Loads the keys, in order or scattered.
pub async fn load(
    store: &Store,
    keys: u64,
    scattered: bool,
    report: &mut Report,
) -> anyhow::Result<()> {
    // Without a common divisor, the multiples meet every key once.
    let stride = if scattered && !keys.is_multiple_of(STRIDE) { STRIDE } else { 1 };
    let bar = progress(keys, "loading")?;
    let started = Instant::now();
    let batches = (0..keys).step_by(LOAD_BATCH as usize);
    let requests = batches
        .map(|from| load_batch(store, from..keys.min(from + LOAD_BATCH), stride, keys, &bar));
    stream::iter(requests).buffer_unordered(LOADS_IN_FLIGHT).try_collect::<()>().await?;
    bar.finish_and_clear();
    anyhow::ensure!(store.len() == keys, "{} keys instead of {keys}", store.len());
    let what = if scattered { "load, scattered keys" } else { "load, keys in order" };
    report.rate(what, keys, started.elapsed());
    Ok(())
}

async fn load_batch(
    store: &Store,
    numbers: std::ops::Range<u64>,
    stride: u64,
    keys: u64,
    bar: &ProgressBar,
) -> anyhow::Result<()> {
    let count = numbers.end - numbers.start;
    let ids =
        numbers.map(|number| (u128::from(number) * u128::from(stride) % u128::from(keys)) as u64);
    let put = |id: u64| vec![Op::put(record::key(id).to_vec(), record::value(id, 0))];
    for answer in store.write(ids.map(put).collect()).await? {
        answer.context("loading")?;
    }
    bar.inc(count);
    Ok(())
}

/// Random gets by several readers.
pub async fn gets(store: &Store, keys: u64, report: &mut Report) -> anyhow::Result<()> {
    let before = store.engine().stats();
    let started = Instant::now();
    let mut readers = JoinSet::new();
    for reader in 0..READERS {
        readers.spawn(read_for(store.clone(), keys, record::mix(reader)));
    }
    let mut all = Histogram::<u64>::new(3)?;
    while let Some(one) = readers.join_next().await {
        all.add(one??)?;
    }
    let after = store.engine().stats();
    report.latencies(&format!("get, random, {READERS} readers"), &all, started.elapsed());
    report.cache(&before, &after);
    Ok(())
}

async fn read_for(store: Store, keys: u64, mut seed: u64) -> anyhow::Result<Histogram<u64>> {
    let mut histogram = Histogram::new(3)?;
    let started = Instant::now();
    while started.elapsed() < READ_FOR {
        seed = record::mix(seed);
        let id = seed % keys;
        let one = Instant::now();
        let value = store.get(&record::key(id)).await?.context("a loaded key is missing")?;
        histogram.record(one.elapsed().as_nanos() as u64)?;
        anyhow::ensure!(record::read(&value) == Some((id, 0)), "a loaded value is torn");
        tokio::task::consume_budget().await;
    }
    Ok(histogram)
}

/// Walks through all keys and checks every value.
pub async fn scan(store: &Store, keys: u64, report: &mut Report) -> anyhow::Result<Found> {
    let bar = progress(keys, "verifying")?;
    let started = Instant::now();
    let mut versions = vec![None; usize::try_from(keys)?];
    let (mut torn, mut count) = (0, 0);
    let mut from = Vec::new();
    loop {
        let step = store.scan(&from, SCAN_STEP, usize::MAX).await?;
        for (key, value) in &step.entries {
            match record::read(value) {
                Some((id, version)) if id < keys && key[..] == record::key(id) => {
                    versions[id as usize] = Some(version);
                }
                _ => torn += 1,
            }
        }
        count += step.entries.len() as u64;
        bar.set_position(count);
        let Some((last, _)) = step.entries.last() else { break };
        if step.at_end {
            break;
        }
        from = [&last[..], &[0]].concat();
    }
    bar.finish_and_clear();
    report.rate("scan, every value checked", count, started.elapsed());
    let missing = versions.iter().filter(|version| version.is_none()).count() as u64;
    Ok(Found { versions, torn, missing })
}

/// A bar over `total` steps.
pub fn progress(total: u64, what: &'static str) -> anyhow::Result<ProgressBar> {
    let style = "{msg:>10} [{wide_bar}] {human_pos}/{human_len} {per_sec} {eta}";
    let bar = ProgressBar::new(total).with_style(ProgressStyle::with_template(style)?);
    bar.set_message(what);
    Ok(bar)
}
