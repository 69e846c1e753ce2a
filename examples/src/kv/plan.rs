//! Planning a batch: which groups of changes go into the next transaction.
//!
//! Guarantees that a plan holds only groups that were applied whole, in order, and that it fits one
//! transaction as far as can be told before. A group that fails spoils the draft, so the draft is
//! made anew without it; that is rare, and cheaper than an undo log. Large values come written and synced;
//! those that a procedure makes are written here, before the plan is handed out.
//!
//! Does not commit. Called by `writer`.

use std::collections::VecDeque;

use bytes::Bytes;

use crate::kv::draft::Draft;
use crate::kv::error::Error;
use crate::kv::error::Result;
use crate::kv::ground::Ground;
use crate::kv::larges;
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
use crate::kv::tree;
use crate::kv::tree::How;
use crate::kv::tree::NewValue;
use crate::kv::value::New;
use crate::kv::watch::Watches;

/// Log bytes that one change may take besides its key and value: its pages, and its share of splits.
const OP_COST: u64 = 700;
/// Log bytes that a large value may take besides: two changes of names, of itself and of what it replaces.
const LARGE_COST: u64 = 24 << 10;
/// Log bytes that a group may take besides: a split of every level.
const GROUP_COST: u64 = 32 << 10;
/// Pages that a group may change besides its own.
const GROUP_PAGES: usize = 24;

/// Where plans are made.
#[derive(Clone, Copy)]
pub(super) struct Place<'o> {
    /// Holds the tree.
    pub ground: &'o Ground,
    /// What is told of each change, and asked by conditions.
    pub watches: &'o Watches,
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
    place: Place<'a>,
    meta: Meta,
    jobs: &mut VecDeque<Job>,
    limits: Limits,
) -> Filled<'a> {
    let mut draft = Draft::new(place.ground, meta);
    let mut done: Vec<(Job, Vec<Outcome>)> = Vec::new();
    while let Some(job) = jobs.pop_front() {
        if !done.is_empty() && !has_room(&draft, &job.group, limits, done.len()) {
            jobs.push_front(job);
            break;
        }
        let alone = is_alone(&job.group);
        let clear = matches!(job.group[..], [Op::Clear]);
        match apply(&mut draft, &job.group, limits).await {
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

/// A clear wants a draft of its own.
fn is_alone(group: &Group) -> bool {
    group.iter().any(Op::is_clear)
}

fn has_room(draft: &Draft<'_>, group: &Group, limits: Limits, done: usize) -> bool {
    let name_bytes = |op: &Op| if op.is_large() { LARGE_COST } else { 0 };
    let cost = |op: &Op| OP_COST + op.bytes() as u64 * 5 / 4 + name_bytes(op);
    let bytes: u64 = group.iter().map(cost).sum();
    let pages: usize = group.iter().map(|op| 1 + op.bytes() / PAGE_BYTES).sum();
    done < limits.most
        && !is_alone(group)
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

async fn apply(draft: &mut Draft<'_>, group: &Group, limits: Limits) -> Result<Vec<Outcome>> {
    if let Some(Op::Unless { watch, now }) = group.first()
        && watch.is_touched(*now)
    {
        return Ok(vec![Outcome::Refused]);
    }
    let mut outcomes = Vec::with_capacity(group.len());
    let mut reply_bytes = 0;
    for op in group {
        outcomes.push(match op {
            Op::Put { key, value, when, expires, now } => {
                put(draft, key, value, How { when: *when, expires: *expires, now: *now }).await?
            }
            Op::Delete { key, now } => tree::delete(draft, key, *now).await?,
            Op::Sweep { key, now } => tree::sweep(draft, key, *now).await?,
            Op::Call(procedure) => call(draft, procedure).await?,
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

async fn call(draft: &mut Draft<'_>, procedure: &Procedure) -> Result<Outcome> {
    let mut found = Vec::with_capacity(procedure.keys().len());
    let mut bytes = 0;
    for key in procedure.keys() {
        let entry = tree::get(draft, key, procedure.wants_values()).await?;
        bytes += entry.as_ref().map_or(0, |entry| entry.value.held());
        if bytes > REPLY_BYTES_MAX {
            return Err(Error::ReplyTooLong);
        }
        found.push(entry);
    }
    let now = procedure.now();
    let Effect { changes, reply } = procedure.run(found);
    let changed = !changes.is_empty();
    for change in changes {
        match change {
            Change::Put(key, value, end) => {
                check_key(&key)?;
                check_value(value.len())?;
                let expires = end.map_or(Expiry::Never, Expiry::At);
                put(draft, &key, &value, How { when: When::Always, expires, now }).await?;
            }
            Change::Patch(key, at, part) => {
                check_key(&key)?;
                check_value(at + part.len())?;
                larges::patch(draft, &key, at, &part, now).await?;
            }
            Change::Rename(from, to) => {
                check_key(&to)?;
                tree::rename(draft, &from, &to).await?;
            }
            Change::Expire(key, end) => tree::expire(draft, &key, end).await?,
            Change::Remove(key) => drop(tree::delete(draft, &key, now).await?),
        }
    }
    Ok(Outcome::Answered { reply, changed })
}

/// Stores a value, large or not.
async fn put(draft: &mut Draft<'_>, key: &Bytes, value: &New, how: How) -> Result<Outcome> {
    let staged = match value {
        New::Bytes(bytes) if bytes.len() <= draft.shelf().logged_max() => {
            return tree::put(draft, key, NewValue::Bytes(bytes), how).await;
        }
        // One that a procedure has made: those that clients send come on the shelf.
        New::Bytes(bytes) => draft.shelf().stage(bytes).await?,
        New::Staged(staged) => staged.clone(),
    };
    let outcome = tree::put(draft, key, NewValue::Large(staged.refer()), how).await?;
    if outcome == Outcome::Stored {
        draft.keep(staged);
    }
    Ok(outcome)
}

async fn clear(draft: &mut Draft<'_>) -> Result<Outcome> {
    assert!(draft.is_clean(), "a clear has a draft of its own");
    draft.load(ROOT_FIRST).await?;
    NodeMut::format(ROOT_FIRST, draft.edit(ROOT_FIRST, 64), Kind::Leaf, 0);
    let Meta { large_next, epoch, .. } = draft.meta;
    draft.meta = Meta { large_next, epoch: epoch + 1, ..Meta::empty() };
    Ok(Outcome::Cleared)
}
