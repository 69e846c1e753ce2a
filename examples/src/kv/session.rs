//! What the server remembers of one client: who it is, and the transaction that it is queueing.
//!
//! MULTI to EXEC becomes one group of the writer: it happens whole or not at all, and is durable as
//! one. A command that cannot be queued spoils it (EXECABORT); one that fails when it runs (INCR of
//! a word) is an error in its place of the reply, and the others happen, as in Redis. Commands that
//! are not about keys by name (SCAN, KEYRANGE, DBSIZE, FLUSHALL, INFO...) cannot be queued.
//!
//! Guarantees at most `TRANSACTION_COMMANDS_MAX` commands of `TRANSACTION_BYTES_MAX` bytes queued and
//! `WATCHED_KEYS_MAX` keys watched. Does no I/O. Called by `connection`.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;

use crate::kv::ask::Client;
use crate::kv::ask::Command;
use crate::kv::ask::Hello;
use crate::kv::ask::Login;
use crate::kv::ask::Part;
use crate::kv::ask::Refusal;
use crate::kv::ask::Shape;
use crate::kv::ask::Write;
use crate::kv::limits::REDIS_VERSION;
use crate::kv::limits::TRANSACTION_BYTES_MAX;
use crate::kv::limits::TRANSACTION_COMMANDS_MAX;
use crate::kv::op::Op;
use crate::kv::options::Password;
use crate::kv::reply::OK;
use crate::kv::reply::Reply;
use crate::kv::resp::Protocol;
use crate::kv::units::Millis;
use crate::kv::watch::Watch;

const WRONG_PASSWORD: &str = "WRONGPASS invalid username-password pair or user is disabled.";

/// One client.
#[derive(Debug)]
pub struct Session {
    id: u64,
    peer: Option<SocketAddr>,
    since: Millis,
    name: Bytes,
    password: Option<Password>,
    is_known: bool,
    /// How it wants its replies.
    pub protocol: Protocol,
    /// The keys that it watches.
    pub watch: Option<Watch>,
    queue: Option<Queue>,
}

#[derive(Debug, Default)]
struct Queue {
    ops: Vec<Op>,
    parts: Vec<Part>,
    bytes: usize,
    spoiled: bool,
}

/// What to do with a command.
#[derive(Debug)]
pub enum Step {
    /// It is answered.
    Reply(Reply),
    /// It goes to the writer.
    Write(Write),
    /// It has to be done, behind the writes that came before.
    Do(Command),
}

impl Session {
    /// A new client.
    pub fn new(
        id: u64,
        peer: Option<SocketAddr>,
        since: Millis,
        password: Option<Password>,
    ) -> Self {
        let is_known = password.is_none();
        let (name, protocol) = (Bytes::new(), Protocol::default());
        Self { id, peer, since, name, password, is_known, protocol, watch: None, queue: None }
    }

    /// Whether it has said the password, or need not.
    pub fn is_known(&self) -> bool {
        self.is_known
    }

    /// Decides about a command that came at `now`.
    pub fn step(&mut self, command: Result<Command, Refusal>, now: Millis) -> Step {
        let free = matches!(
            command,
            Ok(Command::Auth(_) | Command::Hello(_) | Command::Quit | Command::Reset)
        );
        if !self.is_known && !free {
            return Step::Reply(Reply::Error("NOAUTH Authentication required.".into()));
        }
        let command = match command {
            Ok(command) => command,
            Err(refusal) => return self.refuse(refusal),
        };
        match self.queue.take() {
            None => self.step_alone(command),
            Some(queue) => self.step_queueing(queue, command, now),
        }
    }

    fn refuse(&mut self, refusal: Refusal) -> Step {
        if let Some(queue) = &mut self.queue {
            queue.spoiled = true;
        }
        Step::Reply(Reply::Error(refusal))
    }

    fn step_alone(&mut self, command: Command) -> Step {
        match command {
            Command::Multi => {
                self.queue = Some(Queue::default());
                Step::Reply(OK)
            }
            Command::Exec => Step::Reply(Reply::err("EXEC without MULTI")),
            Command::Discard => Step::Reply(Reply::err("DISCARD without MULTI")),
            Command::Unwatch => {
                self.watch = None;
                Step::Reply(OK)
            }
            Command::Ready(reply) => Step::Reply(reply),
            Command::Write(write) => Step::Write(write),
            other => Step::Do(other),
        }
    }

    fn step_queueing(&mut self, mut queue: Queue, command: Command, now: Millis) -> Step {
        let reply = match command {
            Command::Exec => return self.exec(queue, now),
            Command::Discard => {
                self.watch = None;
                return Step::Reply(OK);
            }
            Command::Reset | Command::Quit => return Step::Do(command),
            Command::Multi => Reply::err("MULTI calls can not be nested"),
            Command::Watch(_) => Reply::err("WATCH inside MULTI is not allowed"),
            other => queue.add(other),
        };
        self.queue = Some(queue);
        Step::Reply(reply)
    }

    fn exec(&mut self, queue: Queue, now: Millis) -> Step {
        let watch = self.watch.take();
        let Queue { mut ops, parts, spoiled, .. } = queue;
        if spoiled {
            let why = "EXECABORT Transaction discarded because of previous errors.";
            return Step::Reply(Reply::Error(why.into()));
        }
        let watched = watch.is_some();
        if let Some(watch) = watch {
            ops.insert(0, Op::Unless { watch: watch.into(), now });
        }
        Step::Write(Write { ops, shape: Shape::Exec { parts, watched } })
    }

    /// CLIENT
    pub fn client(&mut self, client: Client, now: Millis) -> Reply {
        match client {
            Client::Id => Reply::Integer(self.id as i64),
            Client::GetName if self.name.is_empty() => Reply::Null,
            Client::GetName => Reply::Bulk(self.name.clone()),
            Client::SetName(name) => {
                self.name = name;
                OK
            }
            Client::Info => {
                let (id, name) = (self.id, String::from_utf8_lossy(&self.name));
                let peer = self.peer.map_or(String::new(), |peer| peer.to_string());
                let age = now.saturating_sub(self.since) / 1000;
                let watched = self.watch.as_ref().map_or(0, Watch::len);
                let resp = self.version();
                Reply::Verbatim(format!(
                    "id={id} addr={peer} name={name} age={age} db=0 watch={watched} resp={resp}\n"
                ))
            }
        }
    }

    fn version(&self) -> i64 {
        match self.protocol {
            Protocol::Resp2 => 2,
            Protocol::Resp3 => 3,
        }
    }

    /// AUTH
    pub fn login(&mut self, login: &Login) -> Reply {
        let Some(password) = &self.password else {
            let why = "AUTH <password> called without any password configured for the default \
                       user. Are you sure your configuration is correct?";
            return Reply::err(why);
        };
        if login.user[..] != *b"default" || !password.is(&login.password) {
            return Reply::Error(WRONG_PASSWORD.into());
        }
        self.is_known = true;
        OK
    }

    /// HELLO
    pub fn hello(&mut self, hello: Hello) -> Reply {
        if let Some(login) = &hello.login
            && let reply @ Reply::Error(_) = self.login(login)
        {
            return reply;
        }
        if !self.is_known {
            let why = "NOAUTH HELLO must be called with the client already authenticated, \
                       otherwise the HELLO <proto> AUTH <user> <pass> option can be used to \
                       authenticate the client and select the RESP protocol version at the same \
                       time";
            return Reply::Error(why.into());
        }
        match hello.protocol {
            Some(3) => self.protocol = Protocol::Resp3,
            Some(_) => self.protocol = Protocol::Resp2,
            None => {}
        }
        if let Some(name) = hello.name {
            self.name = name;
        }
        let pair = |name, value| (Reply::text(name), value);
        Reply::Map(vec![
            pair("server", Reply::text("redis")),
            pair("version", Reply::text(REDIS_VERSION)),
            pair("proto", Reply::Integer(self.version())),
            pair("id", Reply::Integer(self.id as i64)),
            pair("mode", Reply::text("standalone")),
            pair("role", Reply::text("master")),
            pair("modules", Reply::Array(Vec::new())),
        ])
    }

    /// RESET: as if it had just connected.
    pub fn reset(&mut self) -> Reply {
        let password = self.password.take();
        *self = Self::new(self.id, self.peer, self.since, password);
        Reply::Simple("RESET")
    }
}

impl Queue {
    fn add(&mut self, command: Command) -> Reply {
        let (ops, shape) = match command {
            Command::Read(procedure) => (vec![Op::Call(Arc::new(procedure))], Shape::Answer),
            Command::Write(Write { ops, shape }) if !ops.iter().any(Op::is_clear) => (ops, shape),
            Command::Ready(reply) => (Vec::new(), Shape::Ready(reply)),
            Command::Unwatch => (Vec::new(), Shape::Ready(OK)),
            _ => return self.spoil("Command not allowed inside a transaction"),
        };
        self.bytes += ops.iter().map(Op::bytes).sum::<usize>();
        if self.parts.len() == TRANSACTION_COMMANDS_MAX || self.bytes > TRANSACTION_BYTES_MAX {
            (self.ops, self.parts) = (Vec::new(), Vec::new());
            return self.spoil("the transaction is too long");
        }
        if !self.spoiled {
            self.parts.push(Part { ops: ops.len(), shape });
            self.ops.extend(ops);
        }
        Reply::Simple("QUEUED")
    }

    fn spoil(&mut self, why: &'static str) -> Reply {
        self.spoiled = true;
        Reply::err(why)
    }
}
