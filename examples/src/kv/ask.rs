//! What a client asks for, as data.
//!
//! Guarantees nothing beyond its types: `command` and its rooms make it, `execute` and `connection`
//! do it.

use bytes::Bytes;

use crate::kv::op::Op;
use crate::kv::op::Procedure;
use crate::kv::reply::Reply;
use crate::kv::units::Millis;

/// The text of an error reply.
pub type Refusal = String;

/// A command that the server serves.
#[derive(Debug)]
pub enum Command {
    /// Only looks at keys.
    Read(Procedure),
    /// Changes keys.
    Write(Write),
    /// SCAN
    Scan(Scan),
    /// KEYRANGE
    Range(Range),
    /// DBSIZE
    DbSize,
    /// RANDOMKEY
    RandomKey,
    /// Known already: ECHO, TIME, COMMAND.
    Ready(Reply),
    /// INFO with these sections
    Info(Vec<Bytes>),
    /// CONFIG GET with these patterns
    ConfigGet(Vec<Bytes>),
    /// CLIENT
    Client(Client),
    /// HELLO
    Hello(Hello),
    /// AUTH
    Auth(Login),
    /// MULTI
    Multi,
    /// EXEC
    Exec,
    /// DISCARD
    Discard,
    /// WATCH
    Watch(Vec<Bytes>),
    /// UNWATCH
    Unwatch,
    /// RESET
    Reset,
    /// QUIT
    Quit,
}

/// Changes, and how to answer them.
#[derive(Debug)]
pub struct Write {
    /// In order. Atomic up to `ATOMIC_KEYS_MAX`, or in a transaction.
    pub ops: Vec<Op>,
    /// How to answer.
    pub shape: Shape,
}

/// How outcomes become a reply.
#[derive(Debug)]
pub enum Shape {
    /// `+OK`, or nil where a condition did not hold.
    Stored,
    /// 1, or 0 where a condition did not hold.
    Flag,
    /// How many keys were there.
    Count,
    /// What the first procedure says.
    Answer,
    /// What each part says; nil if the condition of the whole did not hold.
    Exec {
        /// The commands.
        parts: Vec<Part>,
        /// Whether a condition stands before them.
        watched: bool,
    },
    /// Known already.
    Ready(Reply),
}

/// One command of a transaction.
#[derive(Debug)]
pub struct Part {
    /// How many of the operations are its own.
    pub ops: usize,
    /// How they are answered.
    pub shape: Shape,
}

/// The arguments of SCAN.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scan {
    /// 0, or what an earlier step gave.
    pub cursor: u64,
    /// Which keys.
    pub pattern: Option<Bytes>,
    /// How many keys to look at.
    pub count: usize,
    /// `TYPE` names something that does not exist here: no key fits.
    pub none: bool,
    /// What ended before is not there.
    pub now: Millis,
}

/// The arguments of KEYRANGE.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Range {
    /// The least key that may come; inclusive.
    pub from: Bytes,
    /// Where it ends; none is the last key.
    pub to: Option<Bytes>,
    /// Whether `to` itself belongs to it.
    pub to_inclusive: bool,
    /// Keys at most.
    pub count: usize,
    /// Whether values come with the keys.
    pub values: bool,
    /// What ended before is not there.
    pub now: Millis,
}

/// CLIENT
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Client {
    /// CLIENT ID
    Id,
    /// CLIENT GETNAME
    GetName,
    /// CLIENT SETNAME
    SetName(Bytes),
    /// CLIENT INFO
    Info,
}

/// A user and a password. There is one user, called `default`.
#[derive(Clone, PartialEq, Eq)]
pub struct Login {
    /// The user.
    pub user: Bytes,
    /// The password.
    pub password: Bytes,
}

impl std::fmt::Debug for Login {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // A password must not reach a log.
        f.debug_struct("Login").field("user", &self.user).finish_non_exhaustive()
    }
}

/// The arguments of HELLO.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Hello {
    /// 2 or 3, if it is to change.
    pub protocol: Option<i64>,
    /// Who it is.
    pub login: Option<Login>,
    /// What it wants to be called.
    pub name: Option<Bytes>,
}
