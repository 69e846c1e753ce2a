//! Planning a batch: which groups of changes go into the next transaction.
//!
//! Guarantees that a plan holds only groups that were applied whole, in order, and that it fits one
//! transaction as far as can be told before. A group that fails spoils the draft, so the draft is
//! made anew without it; that is rare, and cheaper than an undo log. Large values are written into
//! unreachable pages and synced before the plan that refers to them is handed out.
//!
//! Does not commit. Called by `writer`.

use std::collections::VecDeque;

use bytes::Bytes;
use foliant::Object;

use crate::kv::draft::Draft;
use crate::kv::error::Error;
use crate::kv::error::Result;
use crate::kv::limits::PAGE_BYTES;
use crate::kv::limits::REPLY_BYTES_MAX;
use crate::kv::meta::Meta;
use crate::kv::meta::ROOT_FIRST;
use crate::kv::node::NodeMut;
use crate::kv::op::Change;
use crate::kv::op::Effect;
use crate::kv::op::Expiry;
use crate::kv::op::Group;
use crate::kv::op::Op;
use crate::kv::op::Outcome;
use crate::kv::op::Procedure;
use crate::kv::op::When;
use crate::kv::op::check_key;
use crate::kv::op::check_value;
use crate::kv::page::Kind;
use crate::kv::page::RunRef;
use crate::kv::runs;
use crate::kv::tree;
use crate::kv::tree::How;
use crate::kv::tree::NewValue;
use crate::kv::view::Views;
use crate::kv::watch::Watches;

/// Log bytes that one change may take besides its key and value: its pages, and its share of splits.
const OP_COST: u64 = 700;
/// Log bytes that a group may take besides: a split of every level.
const GROUP_COST: u64 = 32 << 10;
/// Pages that a group may change besides its own.
const GROUP_PAGES: usize = 24;

/// Where plans are made.
pub(super) struct Place<'o, 'v> {
    /// Holds the tree.
    pub object: &'o Object,
    pub views: &'v mut Views,
    /// What is told of each change, and asked by conditions.
    pub watches: &'v Watches,
}

/// A group that is not committed yet, and where its answer belongs.
#[derive(Debug)]
pub(super) struct Job {
    pub request: usize,
    pub index: usize,
    pub group: Group,
}

/// What one transaction may hold.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// Groups.
    pub most: usize,
    /// Bytes of log.
    pub log_bytes: u64,
    /// Pages.
    pub pages: usize,
    /// Longest value that goes through the log.
    pub value_bytes: usize,
}

/// A draft to commit, and what it answers.
pub(super) struct Plan<'a> {
    pub draft: Draft<'a>,
    pub done: Vec<(Job, Vec<Outcome>)>,
    /// It takes all keys away.
    pub clear: bool,
}

/// What came of the planning.
pub(super) struct Filled<'a> {
    pub plan: Option<Plan<'a>>,
    /// A group that failed by itself.
    pub refused: Option<(Job, Error)>,
    /// How many groups the next plan may hold.
    pub most_next: usize,
}

/// Takes jobs from the front as long as they fit one transaction.
pub(super) async fn fill<'a>(
    place: &mut Place<'a, '_>,
    meta: Meta,
    jobs: &mut VecDeque<Job>,
    limits: Limits,
) -> Filled<'a> {
    let mut draft = Draft::new(place.object, meta);
    let mut done: Vec<(Job, Vec<Outcome>)> = Vec::new();
    while let Some(job) = jobs.pop_front() {
        if !done.is_empty() && !has_room(&draft, &job.group, limits, done.len()) {
            jobs.push_front(job);
            break;
        }
        let alone = is_alone(&job.group, limits);
        let clear = matches!(job.group[..], [Op::Clear]);
        match apply(place, &mut draft, &job.group, limits).await {
            Ok(outcomes) => {
                touch(place.watches, &job.group, &outcomes);
                done.push((job, outcomes));
            }
            Err(cause) if done.is_empty() => {
                let refused = Some((job, cause));
                return Filled { plan: None, refused, most_next: usize::MAX };
            }
            Err(_) => {
                // Those before it once more, without it; then it alone.
                let most_next = done.len();
                jobs.push_front(job);
                done.into_iter().rev().for_each(|(job, _)| jobs.push_front(job));
                return Filled { plan: None, refused: None, most_next };
            }
        }
        if alone {
            let plan = Some(Plan { draft, done, clear });
            return Filled { plan, refused: None, most_next: usize::MAX };
        }
    }
    let plan = Some(Plan { draft, done, clear: false });
    // A limit was for the groups that are planned now; behind them is the one that failed.
    let most_next = if limits.most > 1 && limits.most < usize::MAX { 1 } else { usize::MAX };
    Filled { plan, refused: None, most_next }
}

/// Large values want a draft that has not freed pages yet, a clear a draft of its own.
fn is_alone(group: &Group, limits: Limits) -> bool {
    group.iter().any(|op| op.value_bytes() > limits.value_bytes || op.is_clear())
}

fn has_room(draft: &Draft<'_>, group: &Group, limits: Limits, done: usize) -> bool {
    let bytes: u64 = group.iter().map(|op| OP_COST + op.bytes() as u64 * 5 / 4).sum();
    let pages: usize = group.iter().map(|op| 1 + op.bytes() / PAGE_BYTES).sum();
    done < limits.most
        && !is_alone(group, limits)
        && draft.log_bytes() + bytes + GROUP_COST <= limits.log_bytes
        && draft.dirty_pages() + pages + GROUP_PAGES <= limits.pages
}

/// Tells the watchers of the keys that a group has changed. Not of those that it has swept: watchers
/// know the ends of what was there, and what had ended before was not there.
pub(super) fn touch(watches: &Watches, group: &Group, outcomes: &[Outcome]) {
    let own = match group.first() {
        Some(Op::Unless { watch, .. }) => Some(&**watch),
        _ => None,
    };
    for (op, _) in group.iter().zip(outcomes).filter(|(_, outcome)| outcome.is_change()) {
        match op {
            Op::Clear => watches.touch_all(),
            Op::Sweep { .. } => {}
            op => watches.touch(op.keys(), own),
        }
    }
}

async fn apply(
    place: &mut Place<'_, '_>,
    draft: &mut Draft<'_>,
    group: &Group,
    limits: Limits,
) -> Result<Vec<Outcome>> {
    if let Some(Op::Unless { watch, now }) = group.first()
        && watch.is_touched(*now)
    {
        return Ok(vec![Outcome::Refused]);
    }
    let placed = place_large(place, draft, group, limits).await?;
    let mut outcomes = Vec::with_capacity(group.len());
    let mut reply_bytes = 0;
    for (op, placed) in group.iter().zip(placed) {
        outcomes.push(match op {
            Op::Put { key, value, when, expires, now } => {
                let value = placed.map_or(NewValue::Bytes(value), NewValue::Placed);
                let how = How { when: *when, expires: *expires, now: *now };
                tree::put(draft, key, value, how).await?
            }
            Op::Delete { key, now } => tree::delete(draft, key, *now).await?,
            Op::Sweep { key, now } => tree::sweep(draft, key, *now).await?,
            Op::Call(procedure) => call(place, draft, procedure, limits).await?,
            Op::Unless { .. } => Outcome::Passed,
            Op::Clear => clear(draft).await?,
        });
        if draft.log_bytes() > limits.log_bytes {
            let (bytes, bytes_max) = (draft.log_bytes(), limits.log_bytes);
            return Err(Error::TooLarge { bytes, bytes_max });
        }
        if let Some(Outcome::Answered { reply, .. }) = outcomes.last() {
            reply_bytes += reply.bytes();
        }
        if reply_bytes > REPLY_BYTES_MAX {
            return Err(Error::ReplyTooLong);
        }
    }
    Ok(outcomes)
}

async fn call(
    place: &mut Place<'_, '_>,
    draft: &mut Draft<'_>,
    procedure: &Procedure,
    limits: Limits,
) -> Result<Outcome> {
    let mut found = Vec::with_capacity(procedure.keys().len());
    let mut bytes = 0;
    for key in procedure.keys() {
        let entry = tree::get(draft, key, procedure.wants_values()).await?;
        bytes += entry.as_ref().map_or(0, |entry| entry.value.len());
        if bytes > REPLY_BYTES_MAX {
            return Err(Error::ReplyTooLong);
        }
        found.push(entry);
    }
    let Effect { changes, reply } = procedure.run(found);
    let changed = !changes.is_empty();
    for change in changes {
        match change {
            Change::Put(key, entry) => {
                check_key(&key)?;
                check_value(&entry.value)?;
                let expires = entry.expires.map_or(Expiry::Never, Expiry::At);
                let how = How { when: When::Always, expires, now: procedure.now() };
                let value = &entry.value;
                let value = match value.len() > limits.value_bytes {
                    true => NewValue::Placed(place_made(place, draft, value).await?),
                    false => NewValue::Bytes(value),
                };
                tree::put(draft, &key, value, how).await?;
            }
            Change::Expire(key, end) => tree::expire(draft, &key, end).await?,
            Change::Remove(key) => drop(tree::delete(draft, &key, procedure.now()).await?),
        }
    }
    Ok(Outcome::Answered { reply, changed })
}

/// Writes a large value that a procedure has made. Only into the end of a draft that has changes
/// already: pages that it has freed are still those of a committed value.
async fn place_made(
    place: &mut Place<'_, '_>,
    draft: &mut Draft<'_>,
    value: &Bytes,
) -> Result<RunRef> {
    let runs = match draft.is_clean() {
        true => runs::reserve(draft, value).await?,
        false => runs::reserve_end(draft, value)?,
    };
    place.views.only_current().await;
    let run = runs::write_below(place.object, &runs, value).await?;
    place.object.sync().await?;
    Ok(run)
}

/// Writes the large values of a group into pages that no state of the tree knows.
///
/// A power cut before the commit leaves the pages as free as they were. A page that an earlier,
/// not yet durable commit has freed is safe as well: the engine maps the new bytes in a transaction
/// behind that commit, so they are never there without it.
async fn place_large(
    place: &mut Place<'_, '_>,
    draft: &mut Draft<'_>,
    group: &Group,
    limits: Limits,
) -> Result<Vec<Option<RunRef>>> {
    let mut placed = vec![None; group.len()];
    let mut reserved = Vec::new();
    for (index, op) in group.iter().enumerate() {
        let Op::Put { value, .. } = op else { continue };
        if value.len() <= limits.value_bytes {
            continue;
        }
        reserved.push((index, value, runs::reserve(draft, value).await?));
    }
    if reserved.is_empty() {
        return Ok(placed);
    }
    // A reader of an older state may still read what lay there.
    place.views.only_current().await;
    for (index, value, runs) in &reserved {
        placed[*index] = Some(runs::write_below(place.object, runs, value).await?);
    }
    place.object.sync().await?;
    Ok(placed)
}

async fn clear(draft: &mut Draft<'_>) -> Result<Outcome> {
    assert!(draft.is_clean(), "a clear has a draft of its own");
    draft.load(ROOT_FIRST).await?;
    NodeMut::format(ROOT_FIRST, draft.edit(ROOT_FIRST, 64), Kind::Leaf, 0);
    draft.meta = Meta::empty();
    Ok(Outcome::Cleared)
}
