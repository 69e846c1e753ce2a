//! Planning a batch: which groups of changes go into the next transaction.
//!
//! Guarantees that a plan holds only groups that were applied whole, in order, and that it fits one
//! transaction as far as can be told before. A group that fails spoils the draft, so the draft is
//! made anew without it; that is rare, and cheaper than an undo log. Large values are written into
//! unreachable pages and synced before the plan that refers to them is handed out.
//!
//! Does not commit. Called by `writer`.

use std::collections::VecDeque;

use foliant::Object;

use crate::kv::draft::Draft;
use crate::kv::error::Error;
use crate::kv::error::Result;
use crate::kv::limits::PAGE_BYTES;
use crate::kv::meta::Meta;
use crate::kv::meta::ROOT_FIRST;
use crate::kv::node::NodeMut;
use crate::kv::op::Group;
use crate::kv::op::Op;
use crate::kv::op::Outcome;
use crate::kv::page::Kind;
use crate::kv::page::RunRef;
use crate::kv::runs;
use crate::kv::tree;
use crate::kv::tree::NewValue;
use crate::kv::view::Views;

/// Log bytes that one change may take besides its key and value: its pages, and its share of splits.
const OP_COST: u64 = 700;
/// Log bytes that a group may take besides: a split of every level.
const GROUP_COST: u64 = 32 << 10;
/// Pages that a group may change besides its own.
const GROUP_PAGES: usize = 24;

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
    object: &'a Object,
    views: &mut Views,
    meta: Meta,
    jobs: &mut VecDeque<Job>,
    limits: Limits,
) -> Filled<'a> {
    let mut draft = Draft::new(object, meta);
    let mut done: Vec<(Job, Vec<Outcome>)> = Vec::new();
    while let Some(job) = jobs.pop_front() {
        if !done.is_empty() && !has_room(&draft, &job.group, limits, done.len()) {
            jobs.push_front(job);
            break;
        }
        let alone = is_alone(&job.group, limits);
        let clear = job.group == [Op::Clear];
        match apply(object, views, &mut draft, &job.group, limits).await {
            Ok(outcomes) => done.push((job, outcomes)),
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
    group.iter().any(|op| op.value_bytes() > limits.value_bytes || *op == Op::Clear)
}

fn has_room(draft: &Draft<'_>, group: &Group, limits: Limits, done: usize) -> bool {
    let bytes: u64 = group.iter().map(|op| OP_COST + op.bytes() as u64 * 5 / 4).sum();
    let pages: usize = group.iter().map(|op| 1 + op.bytes() / PAGE_BYTES).sum();
    done < limits.most
        && !is_alone(group, limits)
        && draft.log_bytes() + bytes + GROUP_COST <= limits.log_bytes
        && draft.dirty_pages() + pages + GROUP_PAGES <= limits.pages
}

async fn apply(
    object: &Object,
    views: &mut Views,
    draft: &mut Draft<'_>,
    group: &Group,
    limits: Limits,
) -> Result<Vec<Outcome>> {
    let placed = place_large(object, views, draft, group, limits).await?;
    let mut outcomes = Vec::with_capacity(group.len());
    for (op, placed) in group.iter().zip(placed) {
        outcomes.push(match op {
            Op::Put { key, value, when } => {
                let value = placed.map_or(NewValue::Bytes(value), NewValue::Placed);
                tree::put(draft, key, value, *when).await?
            }
            Op::Delete { key } => tree::delete(draft, key).await?,
            Op::Clear => clear(draft).await?,
        });
        if draft.log_bytes() > limits.log_bytes {
            let (bytes, bytes_max) = (draft.log_bytes(), limits.log_bytes);
            return Err(Error::TooLarge { bytes, bytes_max });
        }
    }
    Ok(outcomes)
}

/// Writes the large values of a group into pages that no state of the tree knows.
///
/// A power cut before the commit leaves the pages as free as they were. A page that an earlier,
/// not yet durable commit has freed is safe as well: the engine maps the new bytes in a transaction
/// behind that commit, so they are never there without it.
async fn place_large(
    object: &Object,
    views: &mut Views,
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
    views.only_current().await;
    for (index, value, runs) in &reserved {
        placed[*index] = Some(runs::write_below(object, runs, value).await?);
    }
    object.sync().await?;
    Ok(placed)
}

async fn clear(draft: &mut Draft<'_>) -> Result<Outcome> {
    assert!(draft.is_clean(), "a clear has a draft of its own");
    draft.load(ROOT_FIRST).await?;
    NodeMut::format(ROOT_FIRST, draft.edit(ROOT_FIRST, 64), Kind::Leaf, 0);
    draft.meta = Meta::empty();
    Ok(Outcome::Cleared)
}
