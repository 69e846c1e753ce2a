//! What a client asks to be changed, and what became of it.
//!
//! Most changes say what to store. A `Procedure` says how to make it out of what is there (INCR,
//! APPEND, RENAME): a function of the entries of its keys, which the writer runs in the place that
//! the change has among all others. So it needs neither a lock nor a second try.
//!
//! Guarantees that an operation in the writer's queue is within bounds: `check` runs before. Does
//! not know pages. Called by `store`, `writer` and the rooms of the commands.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;

use crate::kv::error::Error;
use crate::kv::error::Result;
use crate::kv::limits::KEY_BYTES_MAX;
use crate::kv::limits::LOGGED_VALUE_BYTES_MAX;
use crate::kv::limits::VALUE_BYTES_MAX;
use crate::kv::reply::Reply;
use crate::kv::units::Millis;
use crate::kv::value::New;
use crate::kv::value::Value;
use crate::kv::watch::Watch;

/// What a key stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its bytes.
    pub value: Value,
    /// From when on it is no longer there, if it ends by itself.
    pub expires: Option<Millis>,
}

impl Entry {
    /// Whether it is still there at `now`.
    pub fn is_live(&self, now: Millis) -> bool {
        is_live(self.expires, now)
    }
}

/// Whether an entry that ends at `expires` is still there at `now`.
pub fn is_live(expires: Option<Millis>, now: Millis) -> bool {
    expires.is_none_or(|end| now < end)
}

/// The condition of a put.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum When {
    /// None.
    Always,
    /// The key is not there.
    Missing,
    /// The key is there.
    Present,
}

/// When what a put stores ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expiry {
    /// Never.
    Never,
    /// When the entry ends that it replaces.
    Keep,
    /// Then.
    At(Millis),
}

/// One change.
#[derive(Debug, Clone)]
pub enum Op {
    /// Stores a value.
    Put {
        /// Its key.
        key: Bytes,
        /// Its bytes.
        value: New,
        /// Whether at all.
        when: When,
        /// Until when.
        expires: Expiry,
        /// What ended before counts as missing.
        now: Millis,
    },
    /// Takes a key away.
    Delete {
        /// The key.
        key: Bytes,
        /// What ended before counts as missing.
        now: Millis,
    },
    /// Takes a key away if it has ended.
    Sweep {
        /// The key.
        key: Bytes,
        /// The time.
        now: Millis,
    },
    /// Does what a procedure finds to be done.
    Call(Arc<Procedure>),
    /// Lets its group happen only if none of these keys was changed. First in its group.
    Unless {
        /// The keys, since they are watched.
        watch: Arc<Watch>,
        /// The time.
        now: Millis,
    },
    /// Takes all keys away. Alone in its group.
    Clear,
}

/// What became of one change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The value is stored.
    Stored,
    /// The condition did not hold. Of an `Unless`: nothing of the group was done.
    Refused,
    /// The key is gone; whether it was there.
    Deleted(bool),
    /// The procedure ran.
    Answered {
        /// What it says.
        reply: Reply,
        /// Whether it changed something.
        changed: bool,
    },
    /// The condition of the group holds.
    Passed,
    /// All keys are gone.
    Cleared,
}

impl Outcome {
    /// Whether there is something else now than before.
    pub fn is_change(&self) -> bool {
        match self {
            Self::Stored | Self::Cleared => true,
            Self::Refused | Self::Passed => false,
            Self::Deleted(was_there) => *was_there,
            Self::Answered { changed, .. } => *changed,
        }
    }
}

/// A function of what is there, for the writer to run; of a command that only reads, also for a
/// reader.
pub struct Procedure {
    keys: Vec<Bytes>,
    now: Millis,
    values: bool,
    bytes: usize,
    body: Box<dyn Fn(&mut [Option<Entry>]) -> Effect + Send + Sync>,
}

/// What a procedure wants to be done.
#[derive(Debug)]
pub struct Effect {
    /// In this order.
    pub changes: Vec<Change>,
    /// The answer, if they can be done.
    pub reply: Reply,
}

/// One step of a procedure.
#[derive(Debug)]
pub enum Change {
    /// Stores a value until then.
    Put(Bytes, New, Option<Millis>),
    /// Puts a part in a value, from a place on, which may lie behind its end; zeroes are between them.
    /// The end of the entry stays. For values that become large: others are put whole.
    Patch(Bytes, usize, New),
    /// Lets what stands at the first key stand at the second one.
    Rename(Bytes, Bytes),
    /// Lets an entry that is there end at another time.
    Expire(Bytes, Option<Millis>),
    /// Takes a key away.
    Remove(Bytes),
}

impl Effect {
    /// Nothing is to be done.
    pub fn reply(reply: impl Into<Reply>) -> Self {
        Self { changes: Vec::new(), reply: reply.into() }
    }

    /// One change.
    pub fn change(change: Change, reply: impl Into<Reply>) -> Self {
        Self { changes: vec![change], reply: reply.into() }
    }
}

impl Procedure {
    /// A procedure on the entries of `keys` as they are at `now`; `bytes` of arguments may become
    /// part of them. The body may run more than once for one call, and take what it wants of the entries.
    pub fn new(
        keys: Vec<Bytes>,
        now: Millis,
        bytes: usize,
        body: impl Fn(&mut [Option<Entry>]) -> Effect + Send + Sync + 'static,
    ) -> Self {
        Self { keys, now, values: true, bytes, body: Box::new(body) }
    }

    /// The body does not look at values: they are not read, and empty.
    pub fn without_values(mut self) -> Self {
        self.values = false;
        self
    }

    /// Whose entries it is about.
    pub fn keys(&self) -> &[Bytes] {
        &self.keys
    }

    /// The time of the call.
    pub fn now(&self) -> Millis {
        self.now
    }

    /// Whether the values have to be read.
    pub fn wants_values(&self) -> bool {
        self.values
    }

    /// What it does, if `found` is there, one entry for each key.
    pub fn run(&self, mut found: Vec<Option<Entry>>) -> Effect {
        assert_eq!(found.len(), self.keys.len(), "one entry for each key");
        for entry in &mut found {
            entry.take_if(|entry| !entry.is_live(self.now));
        }
        (self.body)(&mut found)
    }
}

impl fmt::Debug for Procedure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Procedure").field("keys", &self.keys).finish_non_exhaustive()
    }
}

/// What an answer stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Promise {
    /// The changes are durable.
    Durable,
    /// The changes are visible, and durable about a second later.
    EverySecond,
}

/// Changes that become visible and durable together.
pub type Group = Vec<Op>;

impl Op {
    /// A put without a condition and without an end.
    pub fn put(key: impl Into<Bytes>, value: impl Into<New>) -> Self {
        let (key, value) = (key.into(), value.into());
        Self::Put { key, value, when: When::Always, expires: Expiry::Never, now: 0 }
    }

    /// A delete.
    pub fn delete(key: impl Into<Bytes>) -> Self {
        Self::Delete { key: key.into(), now: 0 }
    }

    /// Errors: `KeyLength`, `ValueLength`.
    pub fn check(&self) -> Result<()> {
        if let Self::Put { value, .. } = self {
            check_value(value.len())?;
        }
        self.keys().iter().try_for_each(|key| check_key(key))
    }

    /// The keys that it looks at.
    pub fn keys(&self) -> &[Bytes] {
        match self {
            Self::Put { key, .. } | Self::Delete { key, .. } | Self::Sweep { key, .. } => {
                std::slice::from_ref(key)
            }
            Self::Call(procedure) => procedure.keys(),
            Self::Unless { .. } | Self::Clear => &[],
        }
    }

    /// Bytes of keys and values in memory.
    pub fn bytes(&self) -> usize {
        let keys: usize = self.keys().iter().map(Bytes::len).sum();
        match self {
            Self::Put { value, .. } => keys + value.held(),
            Self::Call(procedure) => keys + procedure.bytes,
            _ => keys,
        }
    }

    /// Whether it stores a large value.
    pub fn is_large(&self) -> bool {
        matches!(self, Self::Put { value, .. } if value.len() > LOGGED_VALUE_BYTES_MAX)
    }

    /// Whether it takes all keys away.
    pub fn is_clear(&self) -> bool {
        matches!(self, Self::Clear)
    }
}

/// Errors: `KeyLength`.
pub fn check_key(key: &[u8]) -> Result<()> {
    if key.is_empty() || key.len() > KEY_BYTES_MAX {
        return Err(Error::KeyLength { bytes: key.len() });
    }
    Ok(())
}

/// Errors: `ValueLength`.
pub fn check_value(bytes: usize) -> Result<()> {
    match bytes > VALUE_BYTES_MAX {
        true => Err(Error::ValueLength { bytes }),
        false => Ok(()),
    }
}
