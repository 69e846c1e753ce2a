//! The commands on the connection and the server.
//!
//! Does not do them. Called by `command`.

use bytes::Bytes;

use crate::kv::arguments::Arguments;
use crate::kv::arguments::integer;
use crate::kv::arguments::printable;
use crate::kv::arguments::syntax;
use crate::kv::ask::Client;
use crate::kv::ask::Command;
use crate::kv::ask::Hello;
use crate::kv::ask::Login;
use crate::kv::ask::Refusal;
use crate::kv::reply::OK;
use crate::kv::reply::Reply;
use crate::kv::strings::Parsed;

/// PING [text]
pub fn ping(all: Arguments) -> Parsed {
    match all.rest.into_iter().next() {
        None => Ok(Command::Ready(Reply::Simple("PONG"))),
        Some(text) => Ok(Command::Ready(Reply::Bulk(text))),
    }
}

/// ECHO text
pub fn echo(all: Arguments) -> Parsed {
    Ok(Command::Ready(Reply::Bulk(all.at(0))))
}

/// TIME
pub fn time(all: Arguments) -> Parsed {
    let (seconds, micros) = (all.now / 1000, all.now % 1000 * 1000);
    let parts = [seconds, micros].map(|part| Reply::from(part.to_string()));
    Ok(Command::Ready(Reply::Array(parts.into())))
}

/// DBSIZE
pub fn dbsize(_: Arguments) -> Parsed {
    Ok(Command::DbSize)
}

/// RANDOMKEY
pub fn randomkey(_: Arguments) -> Parsed {
    Ok(Command::RandomKey)
}

/// SELECT 0
pub fn select(all: Arguments) -> Parsed {
    match integer(&all.rest[0]) {
        Some(0) => Ok(Command::Ready(OK)),
        Some(_) => Err("ERR DB index is out of range".into()),
        None => Err("ERR invalid DB index".into()),
    }
}

/// INFO [section...]
pub fn info(all: Arguments) -> Parsed {
    Ok(Command::Info(all.rest))
}

/// CONFIG GET pattern...; CONFIG RESETSTAT does nothing
pub fn config(all: Arguments) -> Parsed {
    match &all.rest[0].to_ascii_uppercase()[..] {
        b"GET" if all.rest.len() > 1 => Ok(Command::ConfigGet(all.rest[1..].to_vec())),
        b"RESETSTAT" if all.rest.len() == 1 => Ok(Command::Ready(OK)),
        b"SET" => Err("ERR options are given when the server is started".into()),
        _ => Err(unknown(&all)),
    }
}

/// COMMAND [COUNT | DOCS | INFO ...]; `served` is how many there are
pub fn command(all: Arguments, served: usize) -> Parsed {
    let what = all.rest.first().map(|what| what.to_ascii_uppercase());
    let reply = match what.as_deref() {
        None | Some(b"INFO" | b"LIST") => Reply::Array(Vec::new()),
        Some(b"COUNT") => Reply::Integer(served as i64),
        Some(b"DOCS") => Reply::Map(Vec::new()),
        Some(_) => return Err(unknown(&all)),
    };
    Ok(Command::Ready(reply))
}

/// CLIENT ID | GETNAME | SETNAME name | INFO | SETINFO ... | NO-EVICT ... | NO-TOUCH ...
pub fn client(all: Arguments) -> Parsed {
    let client = match (&all.rest[0].to_ascii_uppercase()[..], all.rest.len()) {
        (b"ID", 1) => Client::Id,
        (b"GETNAME", 1) => Client::GetName,
        (b"INFO", 1) => Client::Info,
        (b"SETNAME", 2) => Client::SetName(name(&all.rest[1])?),
        (b"SETINFO", 3) | (b"NO-EVICT" | b"NO-TOUCH", 2) => return Ok(Command::Ready(OK)),
        _ => return Err(unknown(&all)),
    };
    Ok(Command::Client(client))
}

fn name(text: &Bytes) -> Result<Bytes, Refusal> {
    let plain = text.len() <= 256 && text.iter().all(|byte| (b'!'..=b'~').contains(byte));
    plain.then(|| text.clone()).ok_or_else(|| {
        "ERR Client names cannot contain spaces, newlines or special characters.".into()
    })
}

fn unknown(all: &Arguments) -> Refusal {
    let (name, what) = (all.name.to_ascii_uppercase(), printable(&all.rest[0]));
    format!("ERR unknown subcommand or wrong number of arguments for '{what}'. Try {name} HELP.")
}

/// HELLO [2 | 3 [AUTH user password] [SETNAME name]]
pub fn hello(all: Arguments) -> Parsed {
    let mut hello = Hello::default();
    if let Some(version) = all.rest.first() {
        let version = integer(version);
        let version = version.ok_or("ERR Protocol version is not an integer or out of range")?;
        if !(2..=3).contains(&version) {
            return Err("NOPROTO unsupported protocol version".into());
        }
        hello.protocol = Some(version);
    }
    let mut options = all.options(all.rest.len().min(1)).cloned();
    while let Some(option) = options.next() {
        match &option.to_ascii_uppercase()[..] {
            b"AUTH" => {
                let (Some(user), Some(password)) = (options.next(), options.next()) else {
                    return Err(syntax());
                };
                hello.login = Some(Login { user, password });
            }
            b"SETNAME" => hello.name = Some(name(&options.next().ok_or_else(syntax)?)?),
            _ => return Err(syntax()),
        }
    }
    Ok(Command::Hello(hello))
}

/// AUTH [user] password
pub fn auth(all: Arguments) -> Parsed {
    let mut words = all.rest.into_iter();
    let login = match (words.next(), words.next()) {
        (Some(user), Some(password)) => Login { user, password },
        (Some(password), None) => Login { user: Bytes::from_static(b"default"), password },
        _ => return Err(syntax()),
    };
    Ok(Command::Auth(login))
}

/// MULTI
pub fn multi(_: Arguments) -> Parsed {
    Ok(Command::Multi)
}

/// EXEC
pub fn exec(_: Arguments) -> Parsed {
    Ok(Command::Exec)
}

/// DISCARD
pub fn discard(_: Arguments) -> Parsed {
    Ok(Command::Discard)
}

/// WATCH key...
pub fn watch(all: Arguments) -> Parsed {
    Ok(Command::Watch(all.rest))
}

/// UNWATCH
pub fn unwatch(_: Arguments) -> Parsed {
    Ok(Command::Unwatch)
}

/// RESET
pub fn reset(_: Arguments) -> Parsed {
    Ok(Command::Reset)
}

/// QUIT
pub fn quit(_: Arguments) -> Parsed {
    Ok(Command::Quit)
}
